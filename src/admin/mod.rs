//! The admin port, over HTTP: stats page, metrics, health of pgvane itself, and the actions of operators.

mod actions;
mod answer;
mod collect;
mod context;
pub mod host;
mod protection;
mod reload;
pub mod reloads;
mod scrape;
mod server;
mod stats;
pub mod status;
mod users;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use tokio::sync::watch;

use self::answer::json;
pub use self::context::AdminContext;
use self::protection::Protection;
use self::status::Status;
use self::users::Users;
use crate::probe::history::Record;

/// Serves the admin port until it is dropped; each request is answered by the newest of the `routers`. It needs a runtime of
/// its own: a slow page must not delay the checks.
pub async fn serve(socket: std::net::TcpListener, routers: watch::Receiver<Router>) {
    server::serve(socket, routers).await;
}

/// What answers requests by this configuration.
pub fn router(context: AdminContext) -> Router {
    let admin = context.config.admin.clone().unwrap_or_default();
    let users = Arc::new(Users::new(admin.users.clone()));
    let protection = Arc::new(Protection::new(Arc::clone(&users), &admin));
    Router::new()
        .route("/", get(stats_page))
        .route("/stats", get(stats_page))
        .route("/metrics", get(metrics))
        .route("/api/events", get(events))
        .route("/api/status", get(status))
        .route("/api/nodes/{cluster}/{node}/state", post(actions::set_state))
        .route("/api/reload", post(reload::reload))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .layer(DefaultBodyLimit::max(actions::BODY_LENGTH_MAX))
        .layer(Extension(users))
        .layer(axum::middleware::from_fn_with_state(protection, protection::protect))
        .with_state(Arc::new(context))
}

async fn stats_page(State(context): State<Arc<AdminContext>>) -> Response {
    let has_actions = context.config.admin.as_ref().is_some_and(|admin| !admin.users.is_empty());
    match stats::Page::of(Status::of(&context), has_actions).render() {
        Ok(html) => ([(header::CACHE_CONTROL, "no-store")], Html(html)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn metrics(State(context): State<Arc<AdminContext>>) -> Response {
    let text = scrape::render(&context.metrics, &Status::of(&context));
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

async fn events(State(context): State<Arc<AdminContext>>) -> Response {
    let by_cluster: BTreeMap<&str, Vec<Record>> =
        context.clusters.iter().map(|cluster| (cluster.name(), cluster.history().records())).collect();
    json(&by_cluster)
}

async fn status(State(context): State<Arc<AdminContext>>) -> Response {
    json(&Status::of(&context))
}

async fn readiness(State(context): State<Arc<AdminContext>>) -> Response {
    match context.why_not_ready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}
