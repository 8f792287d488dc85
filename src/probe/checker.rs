//! Checks one cluster's nodes: through Patroni, and through PostgreSQL if Patroni does not answer; or through
//! PostgreSQL alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::patroni::{Patroni, RestApi};
use super::rest_client::PatroniTlsError;
use super::sql::{Access, SqlNode};
use crate::cluster::node::{CheckError, Report, SecondOpinion};
use crate::cluster::{Member, Moment, NodeId};
use crate::config::{self, Check};
use crate::net::Resolver;
use crate::tls::TlsError;

/// Checks the nodes of one cluster.
#[derive(Debug)]
pub struct Checker {
    method: Method,
    timeout: Duration,
}

#[derive(Debug)]
enum Method {
    Patroni { patroni: Patroni, second_opinion: Option<SqlNodes> },
    Sql(SqlNodes),
}

/// The connections to the nodes' PostgreSQL, which stay open between checks.
#[derive(Debug)]
struct SqlNodes {
    access: Access,
    nodes: HashMap<NodeId, Arc<SqlNode>>,
}

/// Why a checker could not be made.
#[derive(Debug)]
pub enum CheckerError {
    /// Certificates for Patroni's REST API.
    Patroni(PatroniTlsError),
    /// Certificates for PostgreSQL.
    Sql(TlsError),
}

impl fmt::Display for CheckerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckerError::Patroni(error) => write!(f, "{error}"),
            CheckerError::Sql(error) => write!(f, "TLS for the SQL check: {error}"),
        }
    }
}

impl std::error::Error for CheckerError {}

impl Checker {
    /// A checker for a cluster.
    ///
    /// Errors: certificates that cannot be read.
    pub fn new(cluster: &config::Cluster, names: &Arc<Resolver>) -> Result<Checker, CheckerError> {
        let sql_nodes = |sql| {
            let access = Access::new(sql, cluster, Arc::clone(names)).map_err(CheckerError::Sql)?;
            Ok(SqlNodes { access, nodes: HashMap::new() })
        };
        let method = match &cluster.check {
            Check::Patroni { second_opinion } => Method::Patroni {
                patroni: Patroni::new(cluster, names).map_err(CheckerError::Patroni)?,
                second_opinion: second_opinion.as_ref().map(sql_nodes).transpose()?,
            },
            Check::Sql(sql) => Method::Sql(sql_nodes(sql)?),
        };
        Ok(Checker { method, timeout: cluster.timeout })
    }

    /// The client for Patroni's REST APIs; `None` if the nodes are checked by SQL.
    pub fn patroni(&self) -> Option<&Patroni> {
        match &self.method {
            Method::Patroni { patroni, .. } => Some(patroni),
            Method::Sql(_) => None,
        }
    }

    /// A check of one node, to be run in a task of its own.
    pub fn node_check(&mut self, node: NodeId, member: &Arc<Member>) -> NodeCheck {
        let method = match &mut self.method {
            Method::Patroni { patroni, second_opinion } => CheckMethod::Patroni {
                patroni: patroni.clone(),
                member: Arc::clone(member),
                postgres: second_opinion.as_mut().map(|nodes| nodes.of(node, member)),
            },
            Method::Sql(nodes) => CheckMethod::Sql(nodes.of(node, member)),
        };
        NodeCheck { method, timeout: self.timeout }
    }

    /// Closes the connections to nodes that are no longer members.
    pub fn keep_only(&mut self, is_member: impl Fn(NodeId) -> bool) {
        let nodes = match &mut self.method {
            Method::Patroni { second_opinion, .. } => second_opinion.as_mut(),
            Method::Sql(nodes) => Some(nodes),
        };
        if let Some(nodes) = nodes {
            nodes.nodes.retain(|node, _| is_member(*node));
        }
    }
}

impl SqlNodes {
    /// The node at the present address of its PostgreSQL: discovery may have found that it has another one now.
    fn of(&mut self, node: NodeId, member: &Arc<Member>) -> Arc<SqlNode> {
        let address = member.checked_address();
        if let Some(known) = self.nodes.get(&node).filter(|known| known.is_at(address)) {
            return Arc::clone(known);
        }
        let asked = Member { address: address.clone(), ..Member::clone(member) };
        let new = Arc::new(SqlNode::new(self.access.clone(), Arc::new(asked)));
        self.nodes.insert(node, Arc::clone(&new));
        new
    }
}

/// One check of one node.
#[derive(Debug)]
pub struct NodeCheck {
    method: CheckMethod,
    timeout: Duration,
}

#[derive(Debug)]
enum CheckMethod {
    Patroni { patroni: Patroni, member: Arc<Member>, postgres: Option<Arc<SqlNode>> },
    Sql(Arc<SqlNode>),
}

/// The result of a check.
#[derive(Debug)]
pub struct CheckResult {
    /// The node's report, or why there is none.
    pub outcome: Result<Arc<Report>, CheckError>,
    /// PostgreSQL's answer, if Patroni did not answer and PostgreSQL did.
    pub second_opinion: Option<SecondOpinion>,
}

impl NodeCheck {
    /// Runs the check. Ends within the cluster's check timeout; if PostgreSQL is asked as well, within one and a half
    /// times that. `now` returns the present moment.
    ///
    /// Should not be cancelled: see [`Patroni::check`].
    pub async fn run(self, now: impl Fn() -> Moment) -> CheckResult {
        let asked = Instant::now();
        let deadline = asked + self.timeout;
        match self.method {
            CheckMethod::Sql(postgres) => {
                CheckResult { outcome: postgres.ask(deadline).await.map(Arc::new), second_opinion: None }
            }
            CheckMethod::Patroni { patroni, member, postgres } => {
                let outcome = patroni.check(&RestApi::from(&*member)).await.map(Arc::new);
                let second_opinion = match postgres {
                    Some(postgres) if outcome.is_err() => {
                        let asked_at = now();
                        // A login over TLS takes some ten milliseconds. A Patroni that hangs has used up all of the
                        // time.
                        let deadline = deadline.max(Instant::now() + self.timeout / 2);
                        postgres
                            .ask(deadline)
                            .await
                            .ok()
                            .map(|report| SecondOpinion { asked_at, report: Arc::new(report) })
                    }
                    Some(postgres) => {
                        postgres.disconnect();
                        None
                    }
                    None => None,
                };
                CheckResult { outcome, second_opinion }
            }
        }
    }
}
