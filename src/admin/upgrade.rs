//! `POST /api/upgrade`: has pgvane start its program again, and lets the new process take over.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::answer::json;
use super::caller::Caller;
use super::context::AdminContext;
use super::refusal::Refusal;

/// `POST /api/upgrade`.
pub(super) async fn upgrade(State(context): State<Arc<AdminContext>>, caller: Caller) -> Response {
    // now, because the new process shows it
    context.operators.record(&caller.user, &caller.peer.ip().to_string(), "asked for an upgrade of pgvane".to_owned());
    let by = format!("user {} from {}", caller.user, caller.peer.ip());
    match context.upgrades.upgrade(by).await {
        Some(Ok(upgrade)) => json(&upgrade),
        Some(Err(why)) => (StatusCode::CONFLICT, format!("{why}\n")).into_response(),
        None => Refusal::Stopping.into_response(),
    }
}
