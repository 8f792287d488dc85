//! The page with the running sessions, and with the clients that wait for a node.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};

use super::answer::html;
use super::context::AdminContext;
use super::frame::Frame;
use super::held::{HeldClient, HeldClients};
use super::query::Query;
use super::session_order::SessionOrder;
use super::sessions::{Field, LISTED_MAX, Sessions, Wanted, listed, order};
use super::status::Session;
use super::words::{seconds, sessions as count_of};
use crate::config::size_text;

/// How many clients that wait are shown.
const HELD_SHOWN: usize = 100;

/// The page.
#[derive(Template)]
#[template(path = "sessions.html")]
struct Page {
    frame: Frame,
    fields: Vec<Field>,
    max: usize,
    listed_max: usize,
    /// The orders in which they can be shown, and whether they are.
    orders: Vec<(&'static str, bool)>,
    /// The order in which they are shown.
    order: &'static str,
    /// The number of sessions in words.
    count: String,
    /// Whether one of them could not log in again at another server.
    tells_logins: bool,
    others: usize,
    sessions: Vec<Row>,
    /// Where these sessions can be closed.
    close_link: Option<String>,
    /// The clients that wait for a node, whatever the filters are.
    held: Vec<Held>,
    /// How many more wait.
    held_others: usize,
}

/// A client that waits for a node.
struct Held {
    client: String,
    user: String,
    database: String,
    listener: String,
    time: String,
    reason: String,
}

struct Row {
    id: u64,
    /// Where this session alone can be closed.
    close_link: Option<String>,
    client: String,
    user: String,
    database: String,
    application: String,
    node: String,
    cluster: String,
    listener: String,
    age: String,
    state: String,
    /// The CSS class of the state.
    severity: &'static str,
    to_server: String,
    to_client: String,
    /// Why it could not log in again at another server.
    cannot_log_in_again: String,
}

/// `GET /stats/sessions`.
pub(super) async fn as_page(State(context): State<Arc<AdminContext>>, RawQuery(query): RawQuery) -> Response {
    let query = Query::read(query.as_deref().unwrap_or_default());
    let (wanted, max) = (Wanted::of(&query), listed(&query));
    let order = match order(&query) {
        Ok(order) => order,
        Err(refusal) => return refusal.into_response(),
    };
    let Sessions { total, sessions } = wanted.finder(&context).list(order, max);
    let HeldClients { total: held_total, held } = HeldClients::of(&context, HELD_SHOWN);
    let can_close = context.has_actions() && wanted.can_be_closed() && total > 0;
    html(&Page {
        frame: Frame::of("sessions"),
        fields: wanted.fields(),
        max,
        listed_max: LISTED_MAX,
        orders: SessionOrder::labels().map(|name| (name, name == order.label())).collect(),
        order: order.label(),
        count: count_of(total),
        tells_logins: sessions.iter().any(|session| session.cannot_log_in_again.is_some()),
        others: total - sessions.len(),
        sessions: sessions.into_iter().map(|session| row(session, context.has_actions())).collect(),
        close_link: can_close.then(|| wanted.link("/stats/close")),
        held_others: held_total - held.len(),
        held: held.into_iter().map(held_row).collect(),
    })
}

fn or_unknown(name: String) -> String {
    if name.is_empty() { "?".to_owned() } else { name }
}

fn held_row(held: HeldClient) -> Held {
    Held {
        client: held.client,
        user: or_unknown(held.user),
        database: or_unknown(held.database),
        listener: held.listener,
        time: seconds(held.seconds),
        reason: held.reason,
    }
}

fn row(session: Session, can_close: bool) -> Row {
    let id = session.id.to_string();
    Row {
        id: session.id,
        close_link: can_close.then(|| Query::of([("session", id.as_str())]).link("/stats/close")),
        client: or_unknown(session.client),
        user: or_unknown(session.user),
        database: or_unknown(session.database),
        application: or_unknown(session.application_name),
        node: session.node,
        cluster: session.cluster,
        listener: session.listener,
        age: seconds(session.seconds.into()),
        severity: if session.state == "draining" { "warn" } else { "soft" },
        state: session.state,
        to_server: size_text(session.bytes_to_server),
        to_client: size_text(session.bytes_to_client),
        cannot_log_in_again: session.cannot_log_in_again.unwrap_or_default(),
    }
}
