//! `POST /api/reload`: has pgvane read its configuration again.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::actions::authorize;
use super::answer::json;
use super::context::AdminContext;
use super::refusal::Refusal;
use super::reloads::Refused;
use super::users::Users;

/// `POST /api/reload`.
pub(super) async fn reload(
    State(context): State<Arc<AdminContext>>,
    Extension(users): Extension<Arc<Users>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    let by = match authorize(&users, &headers) {
        Ok(user) => format!("user {user} from {}", peer.ip()),
        Err(refusal) => return refusal.into_response(),
    };
    match context.reloads.reload(by).await {
        Some(Ok(reload)) => json(&reload),
        Some(Err(why @ Refused::Faulty(_))) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")).into_response(),
        Some(Err(why @ Refused::Unusable(_))) => (StatusCode::CONFLICT, format!("{why}\n")).into_response(),
        None => Refusal::Stopping.into_response(),
    }
}
