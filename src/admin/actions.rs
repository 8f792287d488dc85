//! What operators may change: the administrative states of nodes.

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

/// A body is one word.
pub(super) const BODY_LENGTH_MAX: usize = 64;

/// Says that the node that leads is meant all the same.
const LEADER_TOO: &str = "leader=yes";

/// What has been done.
#[derive(Debug, Serialize)]
struct Done<'a> {
    cluster: &'a str,
    node: &'a str,
    state: &'static str,
    was: &'static str,
}

/// Why nothing has been done.
#[derive(Debug)]
pub(super) enum Refusal {
    CrossSite,
    Denied(Denied),
    NoCluster(String),
    NoNode(String),
    NoState(String),
    /// The node leads, and it was not said that this is meant.
    Leads(String),
    Stopping,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, why) = match self {
            Refusal::CrossSite => (StatusCode::FORBIDDEN, "this request comes from another site's page".to_owned()),
            Refusal::Denied(Denied::Nobody) => {
                let why = "nobody may change anything: name users in [admin] of the configuration";
                (StatusCode::FORBIDDEN, why.to_owned())
            }
            Refusal::Denied(Denied::Unnamed) => (StatusCode::UNAUTHORIZED, "name and password are wanted".to_owned()),
            Refusal::Denied(Denied::Wrong(_)) => (StatusCode::UNAUTHORIZED, "name or password is wrong".to_owned()),
            Refusal::NoCluster(name) => (StatusCode::NOT_FOUND, format!("there is no cluster \"{name}\"")),
            Refusal::NoNode(name) => (StatusCode::NOT_FOUND, format!("there is no node \"{name}\" in this cluster")),
            Refusal::NoState(given) => {
                let states = AdminState::ALL.map(AdminState::label).join(", ");
                (StatusCode::BAD_REQUEST, format!("\"{given}\" is no state; there are: {states}"))
            }
            Refusal::Leads(name) => {
                let why = format!(
                    "{name} leads: its writers would be ended, and new ones wait until another node leads, for hold_max \
                     at the most; if that is meant, say {LEADER_TOO}"
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

/// `POST /api/nodes/{cluster}/{node}/state`, with the state as the whole body.
pub(super) async fn set_state(
    State(context): State<Arc<AdminContext>>,
    Extension(users): Extension<Arc<Users>>,
    Path((cluster, node)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let means_leader = query.is_some_and(|query| query.split('&').any(|pair| pair == LEADER_TOO));
    let wish = Wish { cluster: &cluster, node: &node, state: body.trim(), means_leader };
    let outcome = match who(&users, &headers) {
        Ok(user) => wish.fulfil(&context, user, peer).await,
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(done) => json(&done),
        Err(refusal) => refusal.into_response(),
    }
}

/// The user who asks, if one may.
pub(super) fn who<'u>(users: &'u Users, headers: &HeaderMap) -> Result<&'u str, Refusal> {
    match is_cross_site(headers) {
        true => Err(Refusal::CrossSite),
        false => users.authenticate(headers).map_err(Refusal::Denied),
    }
}

/// What is asked for.
struct Wish<'a> {
    cluster: &'a str,
    node: &'a str,
    state: &'a str,
    /// Though it leads.
    means_leader: bool,
}

impl<'a> Wish<'a> {
    async fn fulfil(&self, context: &AdminContext, user: &str, peer: SocketAddr) -> Result<Done<'a>, Refusal> {
        let Wish { cluster, node, .. } = *self;
        let view = context.clusters.iter().find(|view| view.name() == cluster);
        let view = view.ok_or_else(|| Refusal::NoCluster(cluster.to_owned()))?;
        let (id, was) = find(view, node).ok_or_else(|| Refusal::NoNode(node.to_owned()))?;
        let state = AdminState::from_label(self.state).ok_or_else(|| Refusal::NoState(self.state.to_owned()))?;
        if state != AdminState::Ready && view.topology().leader() == Some(id) && !self.means_leader {
            return Err(Refusal::Leads(node.to_owned()));
        }
        if !view.administer(id, state).await {
            return Err(Refusal::Stopping);
        }
        let (state, was) = (state.label(), was.label());
        info!(cluster, node, from = was, to = state, user, %peer, "administrative state set");
        Ok(Done { cluster, node, state, was })
    }
}

fn find(view: &ClusterHandle, name: &str) -> Option<(NodeId, AdminState)> {
    let topology = view.topology();
    let found = topology.members().find(|(_, node)| node.member.name == name);
    found.map(|(id, node)| (id, node.admin))
}

/// Whether a browser says that the request was made by a page of another site. It sends a user's password along with
/// those too; so they are refused. Whoever is no browser says neither.
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
    fn pages_of_other_sites_are_told_from_our_own_and_from_programs() {
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
