//! What operators and their tools see: the stats page, metrics, and whether all is well. All over HTTP.

mod stats;

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info};

use crate::cluster::topology::Topology;
use crate::config::Config;
use crate::probe::ClusterView;
use crate::proxy::registry::{Census, Registry};
use crate::telemetry::history::Record;
use crate::telemetry::metrics::{ClusterNow, Metrics};

/// Everything that the pages read. They change nothing.
#[derive(Debug)]
pub struct Office {
    /// What runs.
    pub config: Arc<Config>,
    /// The clusters, in the configuration's order.
    pub clusters: Vec<ClusterView>,
    /// All sessions.
    pub registry: Arc<Registry>,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// When the program began to serve.
    pub started: Instant,
    /// Comes true when the program stops.
    pub is_stopping: watch::Receiver<bool>,
}

/// Serves until it is dropped.
pub async fn serve(socket: TcpListener, office: Office) {
    if let Ok(address) = socket.local_addr() {
        info!(%address, "stats page and metrics");
    }
    let router = Router::new()
        .route("/", get(stats_page))
        .route("/stats", get(stats_page))
        .route("/metrics", get(metrics))
        .route("/api/events", get(events))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .with_state(Arc::new(office));
    if let Err(error) = axum::serve(socket, router).await {
        error!(%error, "the stats page is no longer served");
    }
}

impl Office {
    /// Each listener's name and numbers.
    fn census(&self) -> Vec<(String, Census)> {
        let listeners = self.config.listeners.iter();
        let named = |(settings, census): (&crate::config::Listener, Census)| {
            (settings.name.clone(), Census { sessions_max: settings.sessions_max, ..census })
        };
        listeners.zip(self.registry.census()).map(named).collect()
    }

    /// Why new connections are better sent elsewhere; `None` if they are welcome.
    fn why_not_ready(&self) -> Option<String> {
        if *self.is_stopping.borrow() {
            return Some("stopping".to_owned());
        }
        let blind = self
            .clusters
            .iter()
            .find(|cluster| !cluster.topology().members().any(|(_, node)| node.health.label() == "up"));
        blind.map(|cluster| format!("no node of cluster \"{}\" answers", cluster.name()))
    }
}

async fn stats_page(State(office): State<Arc<Office>>) -> Response {
    match stats::Page::of(&office).render() {
        Ok(html) => ([(header::CACHE_CONTROL, "no-store")], Html(html)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn metrics(State(office): State<Arc<Office>>) -> Response {
    let pictures: Vec<Arc<Topology>> = office.clusters.iter().map(ClusterView::topology_full).collect();
    let loads: Vec<Vec<u32>> = (0..pictures.len()).map(|cluster| office.registry.loads(cluster)).collect();
    let clusters: Vec<ClusterNow<'_>> = office
        .clusters
        .iter()
        .zip(pictures.iter().zip(&loads))
        .map(|(view, (topology, sessions))| ClusterNow { name: view.name(), topology, sessions })
        .collect();
    let text = office.metrics.render(&clusters, &office.census());
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

async fn events(State(office): State<Arc<Office>>) -> Response {
    let by_cluster: BTreeMap<&str, Vec<Record>> =
        office.clusters.iter().map(|cluster| (cluster.name(), cluster.history().records())).collect();
    match serde_json::to_string_pretty(&by_cluster) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readiness(State(office): State<Arc<Office>>) -> Response {
    match office.why_not_ready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}
