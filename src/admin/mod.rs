//! What operators and their tools see, and the little that they may change: the stats page, metrics, whether all is well,
//! and the administrative states of nodes. All over HTTP.

mod actions;
mod answer;
mod context;
mod protection;
mod scrape;
mod server;
mod stats;
pub mod status;
mod users;

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};

use self::answer::json;
pub use self::context::AdminContext;
use self::protection::Protection;
use self::scrape::ClusterNow;
use self::status::Status;
use self::users::Users;
use crate::cluster::topology::Topology;
use crate::config::ClusterIndex;
use crate::probe::ClusterHandle;
use crate::probe::history::Record;

/// Serves until it is dropped. Needs a runtime around it that may be busy without harm to the checks.
pub async fn serve(socket: std::net::TcpListener, context: AdminContext) {
    let admin = context.config.admin.clone().unwrap_or_default();
    let users = Arc::new(Users::new(admin.users));
    let protection = Arc::new(Protection::new(Arc::clone(&users), admin.requires_login));
    let router = Router::new()
        .route("/", get(stats_page))
        .route("/stats", get(stats_page))
        .route("/metrics", get(metrics))
        .route("/api/events", get(events))
        .route("/api/status", get(status))
        .route("/api/nodes/{cluster}/{node}/state", post(actions::set_state))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .layer(DefaultBodyLimit::max(actions::BODY_LENGTH_MAX))
        .layer(Extension(users))
        .layer(axum::middleware::from_fn_with_state(protection, protection::protect))
        .with_state(Arc::new(context));
    server::serve(socket, router).await;
}

async fn stats_page(State(context): State<Arc<AdminContext>>) -> Response {
    match stats::Page::of(&context).render() {
        Ok(html) => ([(header::CACHE_CONTROL, "no-store")], Html(html)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn metrics(State(context): State<Arc<AdminContext>>) -> Response {
    let pictures: Vec<Arc<Topology>> = context.clusters.iter().map(ClusterHandle::topology_full).collect();
    let loads: Vec<Vec<u32>> = (0..pictures.len()).map(|at| context.registry.loads(ClusterIndex(at))).collect();
    let clusters: Vec<ClusterNow<'_>> = context
        .clusters
        .iter()
        .zip(pictures.iter().zip(&loads))
        .enumerate()
        .map(|(at, (view, (topology, sessions)))| ClusterNow {
            name: view.name(),
            topology,
            sessions,
            own_ports: context.config.own_ports(ClusterIndex(at)),
        })
        .collect();
    let text = scrape::render(&context.metrics, &clusters, &context.census(), &context.names);
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
