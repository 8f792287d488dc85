//! Why a request of an operator is refused, and the HTTP answer that says so.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::session_order::SessionOrder;
use super::users::Denied;
use crate::cluster::AdminState;
use crate::cluster::node::WEIGHT_MAX;

/// Query parameter and form field that allow `drain` and `maint` on the leader.
pub(super) const ALLOW_LEADER: (&str, &str) = ("leader", "yes");

/// The weight that stands for the configured one.
pub(super) const CONFIGURED: &str = "configured";

/// Why a request was refused.
#[derive(Debug)]
pub(super) enum Refusal {
    CrossSite,
    Denied(Denied),
    UnknownCluster(String),
    /// There are several clusters, and the request names none. Holds their names.
    WhichCluster(Vec<String>),
    /// A switchover was asked for, and this cluster has no leader.
    NoLeader(String),
    /// A switchover to this node was asked for, and it leads.
    LeadsAlready(String),
    /// A switchover of this cluster is in progress. Holds what it does.
    SwitchoverRuns(String, String),
    /// The write sessions of this cluster cannot be parked.
    ParkIsOff(String),
    UnknownNode(String),
    UnknownListener(String),
    /// No session has this number: it has ended, or there was none.
    UnknownSession(String),
    UnknownState(String),
    /// There is no such order of sessions.
    UnknownOrder(String),
    InvalidWeight(String),
    /// The request does not say which sessions it means.
    AllSessions,
    /// The node is the leader, and the request does not have [`ALLOW_LEADER`].
    IsLeader(String),
    Stopping,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Refusal::CrossSite | Refusal::Denied(Denied::NoUsers) => StatusCode::FORBIDDEN,
            Refusal::Denied(Denied::NoCredentials | Denied::WrongCredentials(_)) => StatusCode::UNAUTHORIZED,
            Refusal::UnknownCluster(_)
            | Refusal::UnknownNode(_)
            | Refusal::UnknownListener(_)
            | Refusal::UnknownSession(_) => StatusCode::NOT_FOUND,
            Refusal::UnknownState(_) | Refusal::UnknownOrder(_) | Refusal::InvalidWeight(_) | Refusal::AllSessions => {
                StatusCode::BAD_REQUEST
            }
            Refusal::WhichCluster(_) => StatusCode::BAD_REQUEST,
            Refusal::IsLeader(_)
            | Refusal::ParkIsOff(_)
            | Refusal::NoLeader(_)
            | Refusal::LeadsAlready(_)
            | Refusal::SwitchoverRuns(..) => StatusCode::CONFLICT,
            Refusal::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The reason, as a sentence without a full stop.
    pub(super) fn why(&self) -> String {
        match self {
            Refusal::CrossSite => "the request was sent by a web page of another site".to_owned(),
            Refusal::Denied(Denied::NoUsers) => {
                "changes are not allowed: the configuration has no users in [admin]".to_owned()
            }
            Refusal::Denied(Denied::NoCredentials) => "user name and password are required".to_owned(),
            Refusal::Denied(Denied::WrongCredentials(_)) => "wrong user name or password".to_owned(),
            Refusal::UnknownCluster(name) => format!("unknown cluster \"{name}\""),
            Refusal::NoLeader(name) => format!("cluster \"{name}\" has no leader now: there is nothing to switch over"),
            Refusal::LeadsAlready(name) => format!("{name} leads already"),
            Refusal::SwitchoverRuns(name, text) => {
                format!("a switchover of cluster \"{name}\" is in progress: {text}")
            }
            Refusal::WhichCluster(known) => format!("say which cluster: {}", known.join(", ")),
            Refusal::ParkIsOff(name) => {
                format!("sessions cannot be parked: the configuration has no park = true for cluster \"{name}\"")
            }
            Refusal::UnknownNode(name) => format!("this cluster has no node \"{name}\""),
            Refusal::UnknownListener(name) => format!("unknown listener \"{name}\""),
            Refusal::UnknownSession(id) => format!("no session has the number {id}: it may have ended"),
            Refusal::UnknownState(given) => {
                let [ready, drain, maint] = AdminState::ALL.map(AdminState::label);
                format!("unknown state \"{given}\": expected {ready}, {drain} or {maint}")
            }
            Refusal::UnknownOrder(given) => {
                let known: Vec<&str> = SessionOrder::labels().collect();
                format!("unknown order \"{given}\": expected one of {}", known.join(", "))
            }
            Refusal::InvalidWeight(given) => format!(
                "\"{given}\" is not a weight: expected 1 to {WEIGHT_MAX}, or {CONFIGURED}; to send a node no sessions, \
                 drain it"
            ),
            Refusal::AllSessions => {
                "say which sessions: session, node, user, database, application, client or listener; a cluster or a \
                 state alone is not enough"
                    .to_owned()
            }
            Refusal::IsLeader(name) => {
                let (field, value) = ALLOW_LEADER;
                format!(
                    "{name} is the leader: its write sessions would be closed, and new ones would wait for another \
                     leader, at most for hold_max; to do it, add {field}={value} to the URL or --leader to the command"
                )
            }
            Refusal::Stopping => "pgvane is stopping".to_owned(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, body) = (self.status(), format!("{}\n", self.why()));
        match status {
            StatusCode::UNAUTHORIZED => {
                let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"pgvane\", charset=\"UTF-8\"")];
                (status, challenge, body).into_response()
            }
            _ => (status, body).into_response(),
        }
    }
}
