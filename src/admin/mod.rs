//! The admin port, over HTTP: stats page, metrics, health of pgvane itself, and the actions of operators.

mod actions;
mod answer;
mod collect;
mod context;
mod haproxy;
pub mod host;
pub mod process;
mod protection;
mod reload;
pub mod reloads;
mod scrape;
mod server;
pub mod servers;
mod stats;
pub mod status;
mod users;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{Method, StatusCode, Uri, header};
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
        .route("/", get(stats))
        .route("/stats", get(stats))
        .route("/metrics", get(metrics))
        .route("/metrics/haproxy", get(haproxy_metrics))
        .route("/api/events", get(events))
        .route("/api/status", get(status))
        .route("/api/nodes/{cluster}/{node}/state", post(actions::set_state))
        .route("/api/reload", post(reload::reload))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .fallback(stats)
        .layer(DefaultBodyLimit::max(actions::BODY_LENGTH_MAX))
        .layer(Extension(users))
        .layer(axum::middleware::from_fn_with_state(protection, protection::protect))
        .with_state(Arc::new(context))
}

/// The stats page, or the same as HAProxy's CSV or JSON.
async fn stats(State(context): State<Arc<AdminContext>>, method: Method, uri: Uri) -> Response {
    match haproxy::uri::wanted(&uri, None) {
        Some(wanted) if method == Method::GET || method == Method::HEAD => {
            let status = Status::of(&context);
            haproxy::answer(wanted, &status).unwrap_or_else(|| stats_page(&context, status))
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn stats_page(context: &AdminContext, status: Status) -> Response {
    let has_actions = context.config.admin.as_ref().is_some_and(|admin| !admin.users.is_empty());
    match stats::Page::of(status, has_actions).render() {
        Ok(html) => ([(header::CACHE_CONTROL, "no-store")], Html(html)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn metrics(State(context): State<Arc<AdminContext>>) -> Response {
    let text = scrape::render(&context.metrics, &Status::of(&context));
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

async fn haproxy_metrics(State(context): State<Arc<AdminContext>>, RawQuery(query): RawQuery) -> Response {
    match haproxy::metrics::Scopes::read(&query.unwrap_or_default()) {
        Ok(scopes) => {
            let text = haproxy::metrics::render(&Status::of(&context), scopes);
            ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
        }
        Err(why) => (StatusCode::BAD_REQUEST, why + "\n").into_response(),
    }
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
