//! The one action of the admin API: it sets the administrative state of a node.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{ConnectInfo, Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::info;

use super::answer::json;
use super::context::AdminContext;
use super::users::{Denied, Users};
use crate::cluster::{AdminState, NodeId};
use crate::probe::ClusterHandle;

/// The longest body of a request, in bytes. The body is the name of a state.
pub(super) const BODY_LENGTH_MAX: usize = 64;

/// Query parameter that allows `drain` and `maint` on the leader.
const ALLOW_LEADER: &str = "leader=yes";

/// The answer to a request that succeeded.
#[derive(Debug, Serialize)]
struct StateChange<'a> {
    cluster: &'a str,
    node: &'a str,
    state: &'static str,
    was: &'static str,
}

/// Why a request was refused.
#[derive(Debug)]
pub(super) enum Refusal {
    CrossSite,
    Denied(Denied),
    UnknownCluster(String),
    UnknownNode(String),
    UnknownState(String),
    /// The node is the leader, and the request does not have [`ALLOW_LEADER`].
    IsLeader(String),
    Stopping,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, why) = match self {
            Refusal::CrossSite => {
                (StatusCode::FORBIDDEN, "the request was sent by a web page of another site".to_owned())
            }
            Refusal::Denied(Denied::NoUsers) => {
                let why = "changes are not allowed: the configuration has no users in [admin]";
                (StatusCode::FORBIDDEN, why.to_owned())
            }
            Refusal::Denied(Denied::NoCredentials) => {
                (StatusCode::UNAUTHORIZED, "user name and password are required".to_owned())
            }
            Refusal::Denied(Denied::WrongCredentials(_)) => {
                (StatusCode::UNAUTHORIZED, "wrong user name or password".to_owned())
            }
            Refusal::UnknownCluster(name) => (StatusCode::NOT_FOUND, format!("unknown cluster \"{name}\"")),
            Refusal::UnknownNode(name) => (StatusCode::NOT_FOUND, format!("this cluster has no node \"{name}\"")),
            Refusal::UnknownState(given) => {
                let [ready, drain, maint] = AdminState::ALL.map(AdminState::label);
                let why = format!("unknown state \"{given}\": expected {ready}, {drain} or {maint}");
                (StatusCode::BAD_REQUEST, why)
            }
            Refusal::IsLeader(name) => {
                let why = format!(
                    "{name} is the leader: its write sessions would be closed, and new ones would wait for another \
                     leader, at most for hold_max; to do it, add {ALLOW_LEADER} to the URL or --leader to the command"
                );
                (StatusCode::CONFLICT, why)
            }
            Refusal::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "pgvane is stopping".to_owned()),
        };
        let body = format!("{why}\n");
        match status {
            StatusCode::UNAUTHORIZED => {
                let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"pgvane\", charset=\"UTF-8\"")];
                (status, challenge, body).into_response()
            }
            _ => (status, body).into_response(),
        }
    }
}

/// `POST /api/nodes/{cluster}/{node}/state`, with the name of the state as the body.
pub(super) async fn set_state(
    State(context): State<Arc<AdminContext>>,
    Extension(users): Extension<Arc<Users>>,
    Path((cluster, node)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let allows_leader = query.is_some_and(|query| query.split('&').any(|pair| pair == ALLOW_LEADER));
    let request = SetState { cluster: &cluster, node: &node, state: body.trim(), allows_leader };
    let outcome = match authorize(&users, &headers) {
        Ok(user) => request.apply(&context, user, peer).await,
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(change) => json(&change),
        Err(refusal) => refusal.into_response(),
    }
}

/// The user who sent the request, if it may change something.
pub(super) fn authorize<'u>(users: &'u Users, headers: &HeaderMap) -> Result<&'u str, Refusal> {
    match is_cross_site(headers) {
        true => Err(Refusal::CrossSite),
        false => users.authenticate(headers).map_err(Refusal::Denied),
    }
}

/// A request to set the administrative state of a node.
struct SetState<'a> {
    cluster: &'a str,
    node: &'a str,
    state: &'a str,
    /// Sets the state also if the node is the leader.
    allows_leader: bool,
}

impl<'a> SetState<'a> {
    async fn apply(&self, context: &AdminContext, user: &str, peer: SocketAddr) -> Result<StateChange<'a>, Refusal> {
        let SetState { cluster, node, .. } = *self;
        let view = context.clusters.iter().find(|view| view.name() == cluster);
        let view = view.ok_or_else(|| Refusal::UnknownCluster(cluster.to_owned()))?;
        let (id, was) = find(view, node).ok_or_else(|| Refusal::UnknownNode(node.to_owned()))?;
        let state = AdminState::from_label(self.state).ok_or_else(|| Refusal::UnknownState(self.state.to_owned()))?;
        if state != AdminState::Ready && view.topology().leader() == Some(id) && !self.allows_leader {
            return Err(Refusal::IsLeader(node.to_owned()));
        }
        if !view.administer(id, state).await {
            return Err(Refusal::Stopping);
        }
        let (state, was) = (state.label(), was.label());
        info!(cluster, node, from = was, to = state, user, %peer, "administrative state set");
        Ok(StateChange { cluster, node, state, was })
    }
}

fn find(view: &ClusterHandle, name: &str) -> Option<(NodeId, AdminState)> {
    let topology = view.topology();
    let found = topology.members().find(|(_, node)| node.member.name == name);
    found.map(|(id, node)| (id, node.admin))
}

/// Whether a browser's headers say that a page of another site made the request. A browser sends a saved password with
/// such requests too, so they are refused. Clients that are not browsers send neither of the two headers.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => !["same-origin", "none"].contains(&site),
        (None, Some(origin)) => origin.split_once("://").map(|(_, host)| host) != text("host"),
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    #[test]
    fn only_requests_from_pages_of_other_sites_are_cross_site() {
        for own in [
            &[][..],
            &[("host", "pg:8404")],
            &[("host", "pg:8404"), ("origin", "http://pg:8404")],
            &[("host", "pg:8404"), ("origin", "https://pg:8404"), ("sec-fetch-site", "same-origin")],
            &[("host", "inner:80"), ("origin", "https://outer"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(!is_cross_site(&headers(own)), "{own:?}");
        }
        for other in [
            &[("host", "pg:8404"), ("origin", "http://evil")][..],
            &[("host", "pg:8404"), ("origin", "null")],
            &[("host", "pg:8404"), ("origin", "http://pg:8405")],
            &[("host", "pg:8404"), ("origin", "http://pg:8404"), ("sec-fetch-site", "cross-site")],
            &[("host", "pg:8404"), ("sec-fetch-site", "same-site")],
        ] {
            assert!(is_cross_site(&headers(other)), "{other:?}");
        }
    }
}
