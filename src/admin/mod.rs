//! The admin port, over HTTP: stats page, metrics, health of pgvane itself, and the actions of operators.

mod actions;
mod alarms;
mod answer;
mod caller;
mod collect;
mod context;
mod forms;
mod frame;
mod haproxy;
pub mod held;
pub mod host;
mod operator_log;
mod park_metrics;
pub mod park_status;
pub mod parking;
pub mod planned_switchover;
mod plot;
pub mod process;
mod protection;
mod query;
mod refusal;
mod reload;
pub mod reloads;
mod rows;
pub mod runtime;
mod scrape;
mod served;
mod server;
pub mod servers;
pub mod session_order;
mod session_page;
pub mod sessions;
mod stats;
pub mod status;
pub mod switchover;
pub mod switchovers;
mod trends;
mod upgrade;
pub mod upgrades;
mod users;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::task::TaskTracker;

use self::answer::{html, json};
pub use self::context::AdminContext;
pub use self::operator_log::{OperatorLog, WrittenLog};
use self::protection::Protection;
pub use self::served::Served;
use self::status::Status;
pub use self::trends::Trends;
use self::users::Users;
use crate::probe::history::Record;

/// When the first sample for the plots is taken.
const FIRST_SAMPLE_AFTER: Duration = Duration::from_secs(1);

/// Serves the admin port until it is dropped; each request is answered by the newest of `served`. `connections` has the
/// running ones. It needs a runtime of its own: a slow page must not delay the checks.
pub async fn serve(socket: std::net::TcpListener, served: watch::Receiver<Served>, connections: TaskTracker) {
    tokio::select! {
        () = server::serve(socket, served.clone(), connections) => {}
        () = take_samples(served) => {}
    }
}

/// Takes samples for the plots until it is dropped. The first one comes when the first checks have ended.
async fn take_samples(served: watch::Receiver<Served>) {
    let mut ticks = interval_at(Instant::now() + FIRST_SAMPLE_AFTER, trends::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        ticks.tick().await;
        let context = Arc::clone(&served.borrow().context);
        before = Some(context.trends.add(&Status::of(&context), before, Instant::now()));
    }
}

/// What answers requests by this configuration.
pub fn serving(context: AdminContext) -> Served {
    let context = Arc::new(context);
    let admin = context.config.admin.clone().unwrap_or_default();
    let users = Arc::new(Users::new(admin.users.clone()));
    let protection = Arc::new(Protection::new(Arc::clone(&users), &admin));
    let router = Router::new()
        .route("/", get(stats))
        .route("/stats", get(stats))
        .route("/sessions", get(session_page::as_page))
        .route("/stats/sessions", get(session_page::as_page))
        .route("/stats/node", form(get(forms::node_page).post(forms::change_node)))
        .route("/stats/close", form(get(forms::close_page).post(forms::close)))
        .route("/stats/park", form(get(parking::page).post(parking::change)))
        .route("/stats/switchover", form(post(switchover::page)))
        .route("/stats/switch", form(post(planned_switchover::change)))
        .route("/metrics", get(metrics))
        .route("/metrics/haproxy", get(haproxy_metrics))
        .route("/api/events", get(events))
        .route("/api/status", get(status))
        .route("/api/sessions", get(sessions::as_json))
        .route("/api/held", get(held::as_json))
        .route("/api/sessions/close", post(actions::close))
        .route("/api/nodes/{cluster}/{node}/state", post(actions::set_state))
        .route("/api/park", get(parking::show).post(parking::park))
        .route("/api/unpark", post(parking::unpark))
        .route("/api/switchover", get(planned_switchover::show).post(planned_switchover::begin))
        .route("/api/reload", post(reload::reload))
        .route("/api/upgrade", post(upgrade::upgrade))
        .route("/api/nodes/{cluster}/{node}/weight", post(actions::set_weight))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .fallback(stats)
        .layer(DefaultBodyLimit::max(actions::BODY_LENGTH_MAX))
        .layer(Extension(users))
        .layer(axum::middleware::from_fn_with_state(protection, protection::protect))
        .with_state(Arc::clone(&context));
    Served { router, context, is_accepting: true }
}

/// Routes whose requests have the body of a form.
fn form(routes: MethodRouter<Arc<AdminContext>>) -> MethodRouter<Arc<AdminContext>> {
    routes.layer(DefaultBodyLimit::max(forms::FORM_LENGTH_MAX))
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
    let plots = plot::plots(&context.trends.samples(), Instant::now());
    html(&stats::Page::of(status, plots, context.has_actions()))
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
