//! What a switchover would do to the write sessions of a cluster, without doing it: which could be carried to another
//! server, which not, and why.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::answer::html;
use super::caller::Caller;
use super::collect::session;
use super::context::AdminContext;
use super::frame::Frame;
use super::operator_log::Operator;
use super::parking::Concerned;
use super::query::Query;
use super::refusal::Refusal;
use super::status::Session;
use super::words::sessions;
use crate::cluster::node::ServerKind;
use crate::proxy::sessions::examination::Examined;

/// How many sessions that cannot be carried are listed.
const LISTED_MAX: usize = 1000;

/// What a switchover would do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DryRun {
    /// The cluster.
    pub cluster: String,
    /// Its write sessions.
    pub sessions: usize,
    /// Those that could be carried to another server, as far as the server tells.
    pub carried: usize,
    /// What would have to be restored for these.
    pub restore: Restore,
    /// The oldest of those that cannot be carried.
    pub not_carried: Vec<NotCarried>,
}

/// What would have to be restored, of all sessions together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restore {
    /// Settings of sessions (`SET`, `set_config`).
    pub settings: usize,
    /// Prepared statements of the protocol.
    pub prepared_statements: usize,
    /// Prepared statements of `PREPARE`.
    pub prepared_by_sql: usize,
    /// Channels on which sessions listen.
    pub channels: usize,
    /// Sessions whose role is not the one that they have logged in with.
    pub roles: usize,
}

/// A session that cannot be carried.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NotCarried {
    /// The session.
    pub session: Session,
    /// PostgreSQL's process, as `pg_stat_activity` shows it, if it is known.
    pub process_id: Option<i32>,
    /// Why.
    pub reasons: Vec<String>,
}

impl DryRun {
    /// The numbers in one sentence.
    pub fn summary(&self) -> String {
        let DryRun { cluster, carried, .. } = self;
        let not = self.sessions - carried;
        format!(
            "{cluster}: {} for writes, {carried} could be carried to another server, {not} could not",
            sessions(self.sessions)
        )
    }

    fn of(context: &AdminContext, concerned: &Concerned<'_>, examined: Vec<Examined>) -> DryRun {
        let topology = concerned.view.topology_full();
        let mut run =
            DryRun { cluster: concerned.view.name().to_owned(), sessions: examined.len(), ..DryRun::default() };
        for Examined { session: info, state, not_again } in examined {
            let is_pooled = context.config.listeners.iter().any(|listener| {
                let member = &topology.node(info.node).member;
                listener.name == info.origin.listener_name && listener.server_kind_on(member) == ServerKind::Pooler
            });
            let mut reasons = Vec::new();
            if is_pooled {
                reasons.push("its server is a connection pooler".to_owned());
            }
            reasons.extend(not_again.iter().map(ToString::to_string));
            match &state {
                Ok(state) => reasons.extend(state.obstacles().iter().map(ToString::to_string)),
                Err(why) => reasons.push(why.to_string()),
            }
            match (&state, reasons.is_empty()) {
                (Ok(state), true) => {
                    run.carried += 1;
                    let restorable = state.restorable();
                    run.restore.settings += restorable.settings;
                    run.restore.prepared_statements += restorable.prepared;
                    run.restore.prepared_by_sql += restorable.prepared_by_sql;
                    run.restore.channels += restorable.channels;
                    run.restore.roles += usize::from(restorable.role);
                }
                _ if run.not_carried.len() < LISTED_MAX => run.not_carried.push(NotCarried {
                    session: session(Some((concerned.view, &topology)), &info),
                    process_id: state.ok().and_then(|state| state.process_id()),
                    reasons,
                }),
                _ => {}
            }
        }
        run
    }
}

/// Asks the servers: `POST /api/switchover?cluster=NAME&dry_run=yes`.
pub(super) async fn examine(context: &AdminContext, by: Operator<'_>, query: &Query) -> Result<DryRun, Refusal> {
    let concerned = Concerned::find(context, query.get("cluster"))?;
    let cluster = concerned.view.name();
    if concerned.settings.is_none() {
        return Err(Refusal::ParkIsOff(cluster.to_owned()));
    }
    let custom_settings = concerned.carry.map(|carry| carry.custom_settings.as_slice().into()).unwrap_or_default();
    let examined = context.registry.examine(concerned.number, custom_settings).await;
    let run = DryRun::of(context, &concerned, examined);
    let (all, carried) = (run.sessions, run.carried);
    info!(cluster, sessions = all, carried, user = by.user, peer = by.from, "sessions were asked for their state");
    Ok(run)
}

#[derive(Template)]
#[template(path = "switchover.html")]
struct SwitchoverPage {
    frame: Frame,
    cluster: String,
    summary: String,
    restore: Restore,
    not_carried: Vec<NotCarried>,
}

/// `POST /stats/switchover`: the same as a page.
pub(super) async fn page(
    State(context): State<Arc<AdminContext>>,
    caller: Caller,
    body: String,
) -> Result<Response, Refusal> {
    let run = examine(&context, caller.as_operator(), &Query::read(&body)).await?;
    Ok(html(&SwitchoverPage {
        frame: Frame::of("park"),
        summary: run.summary(),
        cluster: run.cluster,
        restore: run.restore,
        not_carried: run.not_carried,
    }))
}
