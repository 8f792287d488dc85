//! How a cluster's nodes are asked: through their Patroni, with PostgreSQL's own word where that is silent, or through
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

/// Asks the nodes of one cluster.
#[derive(Debug)]
pub struct Checker {
    way: Way,
    timeout: Duration,
}

#[derive(Debug)]
enum Way {
    Patroni { patroni: Patroni, second_opinion: Option<SqlNodes> },
    Sql(SqlNodes),
}

/// The kept connections.
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
        let way = match &cluster.check {
            Check::Patroni { second_opinion } => Way::Patroni {
                patroni: Patroni::new(cluster, names).map_err(CheckerError::Patroni)?,
                second_opinion: second_opinion.as_ref().map(sql_nodes).transpose()?,
            },
            Check::Sql(sql) => Way::Sql(sql_nodes(sql)?),
        };
        Ok(Checker { way, timeout: cluster.timeout })
    }

    /// The client for Patroni's REST APIs, where that is the way.
    pub fn patroni(&self) -> Option<&Patroni> {
        match &self.way {
            Way::Patroni { patroni, .. } => Some(patroni),
            Way::Sql(_) => None,
        }
    }

    /// A check of one node, to be carried out in a task of its own.
    pub fn inquiry(&mut self, node: NodeId, member: &Arc<Member>) -> Inquiry {
        let way = match &mut self.way {
            Way::Patroni { patroni, second_opinion } => InquiryWay::Patroni {
                patroni: patroni.clone(),
                member: Arc::clone(member),
                postgres: second_opinion.as_mut().map(|nodes| nodes.of(node, member)),
            },
            Way::Sql(nodes) => InquiryWay::Sql(nodes.of(node, member)),
        };
        Inquiry { way, timeout: self.timeout }
    }

    /// Closes the connections to nodes that are no longer members.
    pub fn keep_only(&mut self, is_member: impl Fn(NodeId) -> bool) {
        let nodes = match &mut self.way {
            Way::Patroni { second_opinion, .. } => second_opinion.as_mut(),
            Way::Sql(nodes) => Some(nodes),
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
pub struct Inquiry {
    way: InquiryWay,
    timeout: Duration,
}

#[derive(Debug)]
enum InquiryWay {
    Patroni { patroni: Patroni, member: Arc<Member>, postgres: Option<Arc<SqlNode>> },
    Sql(Arc<SqlNode>),
}

/// What a check brought.
#[derive(Debug)]
pub struct CheckResult {
    /// The node's report, or why there is none.
    pub outcome: Result<Arc<Report>, CheckError>,
    /// PostgreSQL's own word, if Patroni was silent and PostgreSQL was not.
    pub second_opinion: Option<SecondOpinion>,
}

impl Inquiry {
    /// Asks. Ends within the cluster's check timeout, and half as much again where PostgreSQL is asked for a silent
    /// Patroni. `now` tells the moment at which that happens.
    ///
    /// Not cancel safe in spirit: see [`Patroni::check`].
    pub async fn carry_out(self, now: impl Fn() -> Moment) -> CheckResult {
        let asked = Instant::now();
        let deadline = asked + self.timeout;
        match self.way {
            InquiryWay::Sql(postgres) => {
                CheckResult { outcome: postgres.ask(deadline).await.map(Arc::new), second_opinion: None }
            }
            InquiryWay::Patroni { patroni, member, postgres } => {
                let outcome = patroni.check(&RestApi::from(&*member)).await.map(Arc::new);
                let second_opinion = match postgres {
                    Some(postgres) if outcome.is_err() => {
                        let asked_at = now();
                        // a login over TLS takes some ten milliseconds; a Patroni that hangs leaves nothing of the time
                        let deadline = deadline.max(Instant::now() + self.timeout / 2);
                        postgres
                            .ask(deadline)
                            .await
                            .ok()
                            .map(|report| SecondOpinion { asked_at, report: Arc::new(report) })
                    }
                    Some(postgres) => {
                        postgres.rest();
                        None
                    }
                    None => None,
                };
                CheckResult { outcome, second_opinion }
            }
        }
    }
}
