//! `POST /api/reload`: has pgvane read its configuration again.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::answer::json;
use super::caller::Caller;
use super::context::AdminContext;
use super::refusal::Refusal;
use super::reloads::{Refused, RequestedBy};

/// `POST /api/reload`.
pub(super) async fn reload(State(context): State<Arc<AdminContext>>, caller: Caller) -> Response {
    match context.reloads.reload(RequestedBy::User { name: caller.user, peer: caller.peer }).await {
        Some(Ok(reload)) => json(&reload),
        Some(Err(why @ Refused::Faulty(_))) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")).into_response(),
        Some(Err(why @ Refused::Unusable(_))) => (StatusCode::CONFLICT, format!("{why}\n")).into_response(),
        None => Refusal::Stopping.into_response(),
    }
}
