//! Parks the write sessions of a cluster and lets them go on: over HTTP for programs, and a page for people.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Redirect, Response};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::answer::{html, json};
use super::caller::Caller;
use super::context::AdminContext;
use super::frame::Frame;
use super::operator_log::Operator;
use super::park_status::Park;
use super::query::Query;
use super::refusal::Refusal;
use super::words::span;
use crate::cluster::topology::Topology;
use crate::cluster::{Moment, NodeId};
use crate::config::{CarrySettings, ClusterIndex};
use crate::probe::ClusterHandle;
use crate::proxy::sessions::cluster_parking::CarryLimits;
use crate::routing::ParkSettings;

/// The state of a cluster's park.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ParkState {
    /// The cluster.
    pub cluster: String,
    /// The park, if there is one.
    pub park: Option<Park>,
    /// Why there is none, where one was asked for.
    pub why_not: Option<String>,
}

/// A cluster that a request names, and what parking it takes.
pub(super) struct Concerned<'a> {
    pub(super) view: &'a ClusterHandle,
    pub(super) number: ClusterIndex,
    pub(super) settings: Option<ParkSettings>,
    pub(super) carry: Option<&'a CarrySettings>,
}

impl<'a> Concerned<'a> {
    /// The cluster of this name; without a name the only one.
    pub(super) fn find(context: &'a AdminContext, name: Option<&str>) -> Result<Concerned<'a>, Refusal> {
        let place = match (name, context.clusters.as_slice()) {
            (None, [_]) => 0,
            (None, all) => return Err(Refusal::WhichCluster(all.iter().map(|one| one.name().to_owned()).collect())),
            (Some(name), all) => all
                .iter()
                .position(|view| view.name() == name)
                .ok_or_else(|| Refusal::UnknownCluster(name.to_owned()))?,
        };
        Ok(Concerned {
            view: &context.clusters[place],
            number: context.cluster_numbers[place],
            settings: context.config.clusters[place].park,
            carry: context.config.clusters[place].carry.as_ref(),
        })
    }

    /// Who leads, and when.
    fn now(&self) -> (Option<NodeId>, Moment) {
        (self.view.topology().leader(), self.view.now())
    }

    fn state(&self, context: &AdminContext) -> ParkState {
        let park = Park::of_cluster(&context.registry, self.number, self.view.now());
        ParkState { cluster: self.view.name().to_owned(), park, why_not: None }
    }
}

/// Whether write sessions are, or may be, on the node of this name, by which the configuration or Patroni calls it.
/// Patroni's hook runs on every node that stops.
fn has_writers(topology: &Topology, name: &str) -> Result<bool, Refusal> {
    let found = topology.members().find(|(_, node)| node.is_called(name));
    let (id, node) = found.ok_or_else(|| Refusal::UnknownNode(name.to_owned()))?;
    Ok(match topology.leader() {
        Some(leader) => leader == id,
        None => node.claim().is_some_and(|claim| claim.keeps_writers()),
    })
}

/// `GET /api/park?cluster=NAME`.
pub(super) async fn show(State(context): State<Arc<AdminContext>>, RawQuery(query): RawQuery) -> Response {
    let query = Query::read(query.as_deref().unwrap_or_default());
    let state = Concerned::find(&context, query.get("cluster")).map(|concerned| concerned.state(&context));
    state.map_or_else(IntoResponse::into_response, |state| json(&state))
}

/// `POST /api/park?cluster=NAME&node=NAME`.
pub(super) async fn park(
    State(context): State<Arc<AdminContext>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let query = Query::read(query.as_deref().unwrap_or_default());
    Ok(json(&begin(&context, caller.as_operator(), &query)?))
}

/// `POST /api/unpark?cluster=NAME`.
pub(super) async fn unpark(
    State(context): State<Arc<AdminContext>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let query = Query::read(query.as_deref().unwrap_or_default());
    Ok(json(&end(&context, caller.as_operator(), &query)?))
}

fn begin(context: &AdminContext, by: Operator<'_>, query: &Query) -> Result<ParkState, Refusal> {
    let concerned = Concerned::find(context, query.get("cluster"))?;
    let cluster = concerned.view.name();
    let Some(settings) = concerned.settings else {
        return Err(Refusal::ParkIsOff(cluster.to_owned()));
    };
    let node = query.get("node");
    if let Some(node) = node
        && !has_writers(&concerned.view.topology(), node)?
    {
        info!(cluster, node, user = by.user, peer = by.from, "nothing is parked: the node does not lead");
        let why_not = Some(format!("{node} does not lead: it has no write sessions"));
        return Ok(ParkState { why_not, ..concerned.state(context) });
    }
    let reason = match node {
        Some(node) => format!("by {}, because {node} stops", by.user),
        None => format!("by {}", by.user),
    };
    let carry = concerned.carry.map(|carry| CarryLimits::of(carry, settings));
    context.registry.park(concerned.number, settings, carry, &reason, concerned.now());
    let state = concerned.state(context);
    let (grace, max) = (settings.grace.as_secs_f64(), settings.max.as_secs_f64());
    let sessions = state.park.as_ref().map(Park::sessions).unwrap_or_default();
    info!(
        cluster,
        node,
        sessions,
        grace_seconds = grace,
        max_seconds = max,
        user = by.user,
        peer = by.from,
        "write sessions are parked"
    );
    context.operators.record(by.user, by.from, format!("parked the write sessions of {cluster}"));
    Ok(state)
}

fn end(context: &AdminContext, by: Operator<'_>, query: &Query) -> Result<ParkState, Refusal> {
    let concerned = Concerned::find(context, query.get("cluster"))?;
    let cluster = concerned.view.name();
    let sessions = concerned.state(context).park.as_ref().map(Park::sessions).unwrap_or_default();
    if !context.registry.unpark(concerned.number, concerned.now()) {
        let why_not = Some("the write sessions are not parked".to_owned());
        return Ok(ParkState { why_not, ..concerned.state(context) });
    }
    info!(cluster, sessions, user = by.user, peer = by.from, "parked sessions go on");
    context.operators.record(by.user, by.from, format!("let the write sessions of {cluster} go on"));
    Ok(concerned.state(context))
}

#[derive(Template)]
#[template(path = "park.html")]
struct ParkPage {
    frame: Frame,
    cluster: String,
    /// The park in words, if there is one.
    park: Option<String>,
    /// What parking does, or why it is off.
    settings: Option<(String, String)>,
    has_actions: bool,
    /// The newest switchover that was asked for here, in words.
    switchover: Option<String>,
    /// A switchover is in progress.
    is_switching: bool,
    /// The nodes that could lead.
    candidates: Vec<String>,
}

/// `GET /stats/park?cluster=NAME`.
pub(super) async fn page(State(context): State<Arc<AdminContext>>, RawQuery(query): RawQuery) -> Response {
    let query = Query::read(query.as_deref().unwrap_or_default());
    let concerned = match Concerned::find(&context, query.get("cluster")) {
        Ok(concerned) => concerned,
        Err(refusal) => return refusal.into_response(),
    };
    let switchover = context.switchovers.newest(concerned.view.name());
    html(&ParkPage {
        frame: Frame::of("park"),
        cluster: concerned.view.name().to_owned(),
        park: concerned.state(&context).park.map(|park| park.to_string()),
        settings: concerned.settings.map(|ParkSettings { grace, max }| (span(grace), span(max))),
        has_actions: context.has_actions(),
        switchover: switchover.as_ref().map(ToString::to_string),
        is_switching: switchover.is_some_and(|switchover| !switchover.phase.is_over()),
        candidates: candidates(&concerned.view.topology()),
    })
}

/// The nodes that do not lead, by their names in Patroni.
fn candidates(topology: &Topology) -> Vec<String> {
    let others = topology.members().filter(|(id, _)| topology.leader() != Some(*id));
    others.map(|(_, node)| node.name_in_patroni().to_owned()).collect()
}

/// `POST /stats/park`: what the form of the page says.
pub(super) async fn change(
    State(context): State<Arc<AdminContext>>,
    caller: Caller,
    body: String,
) -> Result<Redirect, Refusal> {
    let (form, by) = (Query::read(&body), caller.as_operator());
    let state = match form.get("action") {
        Some("unpark") => end(&context, by, &form)?,
        _ => begin(&context, by, &form)?,
    };
    Ok(Redirect::to(&Query::of([("cluster", state.cluster.as_str())]).link("/stats/park")))
}
