//! The clients that wait for a node, as JSON: who, since when, and why.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::answer::json;
use super::context::AdminContext;
use super::query::Query;
use super::sessions::listed;
use crate::proxy::sessions::waiting::WaitingClient;

/// Clients that wait, and how many there are.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct HeldClients {
    /// The number of all.
    pub total: usize,
    /// Those that have waited longest.
    pub held: Vec<HeldClient>,
}

/// A client that waits for a node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldClient {
    /// The listener.
    pub listener: String,
    /// Its address.
    pub client: String,
    /// The user; empty if encryption hides it.
    pub user: String,
    /// The database; empty if encryption hides it.
    pub database: String,
    /// The application's name; empty if the client gave none, or encryption hides it.
    pub application_name: String,
    /// For how long it has waited.
    pub seconds: f64,
    /// Why there is no node for it.
    pub reason: String,
}

impl HeldClients {
    /// Those that have waited longest, at most `max`.
    pub(super) fn of(context: &AdminContext, max: usize) -> HeldClients {
        let (waiting, total) = context.registry.waiting(max);
        HeldClients { total, held: waiting.into_iter().map(HeldClient::from).collect() }
    }
}

impl From<WaitingClient> for HeldClient {
    fn from(waiting: WaitingClient) -> HeldClient {
        let [user, database, application_name] = waiting.owner.names().map(str::to_owned);
        HeldClient {
            listener: waiting.origin.listener_name.clone(),
            client: waiting.owner.client().to_string(),
            user,
            database,
            application_name,
            seconds: waiting.since.elapsed().as_secs_f64(),
            reason: waiting.reason,
        }
    }
}

/// `GET /api/held`.
pub(super) async fn as_json(State(context): State<Arc<AdminContext>>, RawQuery(query): RawQuery) -> Response {
    let query = Query::read(query.as_deref().unwrap_or_default());
    json(&HeldClients::of(&context, listed(&query)))
}
