//! The pages with forms: a node with what can be done to it, and the question before sessions are closed. They work
//! without JavaScript.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Redirect, Response};

use super::actions::{Target, close_sessions};
use super::answer::html;
use super::caller::Caller;
use super::context::AdminContext;
use super::frame::Frame;
use super::query::Query;
use super::refusal::{ALLOW_LEADER, Refusal};
use super::rows::badge;
use super::session_order::SessionOrder;
use super::sessions::{Field, Sessions, Wanted};
use super::status::{Node, SetBy, Status};
use super::words::sessions as count_of;
use crate::cluster::AdminState;
use crate::cluster::node::WEIGHT_MAX;

/// The longest body of a form, in bytes: some names of at most 63 bytes, percent-encoded.
pub(super) const FORM_LENGTH_MAX: usize = 4096;

/// How many sessions are shown before they are closed.
const SHOWN: usize = 10;

/// Where the browser goes after a change: to the list of changes.
const AFTER: &str = "/stats#operators";

#[derive(Template)]
#[template(path = "node.html")]
struct NodePage {
    frame: Frame,
    name: String,
    cluster: String,
    title_severity: &'static str,
    severity: &'static str,
    badge: String,
    admin: String,
    state_by: Option<String>,
    sessions: String,
    sessions_link: String,
    close_link: String,
    has_actions: bool,
    states: Vec<StateForm>,
    weight: u32,
    weight_configured: u32,
    weight_by: Option<String>,
    weight_max: u32,
}

/// A form that sets a state.
struct StateForm {
    name: &'static str,
    effect: String,
    button: String,
    is_danger: bool,
    /// The node is the leader, so the form asks once more.
    needs_leader: bool,
}

#[derive(Template)]
#[template(path = "close.html")]
struct ClosePage {
    frame: Frame,
    which: String,
    /// The number of sessions in words.
    count: String,
    others: usize,
    is_empty: bool,
    sessions: Vec<String>,
    fields: Vec<Field>,
    sessions_link: String,
    has_actions: bool,
}

/// `GET /stats/node`.
pub(super) async fn node_page(State(context): State<Arc<AdminContext>>, RawQuery(query): RawQuery) -> Response {
    let query = Query::read(query.as_deref().unwrap_or_default());
    let [cluster, name] = ["cluster", "node"].map(|field| query.get(field).unwrap_or_default());
    let status = Status::of(&context);
    let Some(found) = status.clusters.iter().find(|known| known.name == cluster) else {
        return Refusal::UnknownCluster(cluster.to_owned()).into_response();
    };
    match found.nodes.iter().find(|node| node.name == name) {
        Some(node) => html(&NodePage::of(node, cluster, context.has_actions())),
        None => Refusal::UnknownNode(name.to_owned()).into_response(),
    }
}

impl NodePage {
    fn of(node: &Node, cluster: &str, has_actions: bool) -> NodePage {
        let (severity, badge) = badge(node);
        let link = Query::of([("cluster", cluster), ("node", node.name.as_str())]);
        let others = AdminState::ALL.into_iter().filter(|state| state.label() != node.state);
        NodePage {
            frame: Frame::of("node"),
            title_severity: match severity {
                "serves" | "good" => "led",
                "bad" => "contested",
                _ => "vacant",
            },
            severity,
            badge,
            states: others.map(|state| state_form(node, state)).collect(),
            name: node.name.clone(),
            cluster: cluster.to_owned(),
            admin: node.state.clone(),
            state_by: node.state_set_by.as_ref().map(SetBy::to_string),
            sessions: count_of(node.sessions as usize),
            sessions_link: link.link("/stats/sessions"),
            close_link: link.link("/stats/close"),
            has_actions,
            weight: node.weight,
            weight_configured: node.weight_configured,
            weight_by: node.weight_set_by.as_ref().map(SetBy::to_string),
            weight_max: WEIGHT_MAX,
        }
    }
}

fn state_form(node: &Node, state: AdminState) -> StateForm {
    let Node { name, sessions, .. } = node;
    let of_sessions = match sessions {
        0 => "It has no sessions now.".to_owned(),
        1 => "Its session is closed between two transactions, at the latest after drain_timeout.".to_owned(),
        _ => format!(
            "Each of its {sessions} sessions is closed between two transactions, at the latest after drain_timeout."
        ),
    };
    let drained = format!("{name} gets no new sessions. {of_sessions}");
    let (effect, button) = match state {
        AdminState::Ready => (format!("{name} gets new sessions again."), format!("set {name} to ready")),
        AdminState::Drain => (drained, format!("drain {name}")),
        AdminState::Maint => (
            format!("{drained} It can then be shut down: no alarm is raised if it does not answer."),
            format!("set {name} to maint"),
        ),
    };
    let is_danger = state != AdminState::Ready;
    StateForm { name: state.label(), effect, button, is_danger, needs_leader: is_danger && node.is_leader }
}

/// `POST /stats/node`: sets the state or the weight that the form has.
pub(super) async fn change_node(
    State(context): State<Arc<AdminContext>>,
    caller: Caller,
    body: String,
) -> Result<Redirect, Refusal> {
    let (form, by) = (Query::read(&body), caller.as_operator());
    let [cluster, node, state, weight] =
        ["cluster", "node", "state", "weight"].map(|field| form.get(field).unwrap_or_default());
    let target = Target { cluster, node };
    if weight.is_empty() {
        let allows_leader = form.get(ALLOW_LEADER.0) == Some(ALLOW_LEADER.1);
        target.set_state(&context, by, state, allows_leader).await?;
    } else {
        target.set_weight(&context, by, weight).await?;
    }
    Ok(Redirect::to(AFTER))
}

/// `GET /stats/close`: the question before sessions are closed.
pub(super) async fn close_page(State(context): State<Arc<AdminContext>>, RawQuery(query): RawQuery) -> Response {
    let wanted = Wanted::of(&Query::read(query.as_deref().unwrap_or_default()));
    if let Err(refusal) = wanted.check_for_close(&context) {
        return refusal.into_response();
    }
    let Sessions { total, sessions } = wanted.finder(&context).list(SessionOrder::default(), SHOWN);
    html(&ClosePage {
        frame: Frame::of("close"),
        which: wanted.to_string(),
        count: count_of(total),
        others: total - sessions.len(),
        is_empty: total == 0,
        sessions: sessions.iter().map(ToString::to_string).collect(),
        fields: wanted.fields().into_iter().filter(|field| !field.value.is_empty()).collect(),
        sessions_link: wanted.link("/stats/sessions"),
        has_actions: context.has_actions(),
    })
}

/// `POST /stats/close`: closes the sessions that the form names.
pub(super) async fn close(
    State(context): State<Arc<AdminContext>>,
    caller: Caller,
    body: String,
) -> Result<Redirect, Refusal> {
    close_sessions(&context, caller.as_operator(), &Wanted::of(&Query::read(&body)))?;
    Ok(Redirect::to(AFTER))
}
