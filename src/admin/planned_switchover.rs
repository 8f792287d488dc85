//! A switchover that an operator asks for: the write sessions are parked, Patroni is asked, and the sessions go on where
//! they are if Patroni refuses.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Redirect, Response};
use jiff::{Timestamp, Unit};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::answer::json;
use super::caller::Caller;
use super::context::AdminContext;
use super::operator_log::Operator;
use super::park_status::Park;
use super::parking::Concerned;
use super::query::Query;
use super::refusal::Refusal;
use super::switchover;
use super::switchovers::{Phase, Switchover};
use super::words::{seconds, sessions};
use crate::cluster::NodeId;
use crate::cluster::topology::Topology;
use crate::probe::history::{CarriedSessions, Record};
use crate::probe::patroni::RestApi;
use crate::probe::switchover::{NoSwitchover, SwitchoverRequest, switch_over};
use crate::proxy::sessions::cluster_parking::CarryLimits;
use crate::routing::ParkSettings;

/// How often the sessions and the leader are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The newest switchover of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwitchoverState {
    /// The cluster.
    pub cluster: String,
    /// The node that leads, if one does, by its name in Patroni.
    #[serde(default)]
    pub leader: Option<String>,
    /// The newest switchover that was asked for here, if there was one.
    pub switchover: Option<Switchover>,
}

impl SwitchoverState {
    fn of(context: &AdminContext, concerned: &Concerned<'_>) -> SwitchoverState {
        let (cluster, topology) = (concerned.view.name().to_owned(), concerned.view.topology_full());
        let leader = topology.leader().map(|leader| topology.node(leader).name_in_patroni().to_owned());
        SwitchoverState { leader, switchover: context.switchovers.newest(&cluster), cluster }
    }
}

/// `GET /api/switchover?cluster=NAME`.
pub(super) async fn show(State(context): State<Arc<AdminContext>>, RawQuery(query): RawQuery) -> Response {
    let query = Query::read(query.as_deref().unwrap_or_default());
    let concerned = Concerned::find(&context, query.get("cluster"));
    let state = concerned.map(|concerned| json(&SwitchoverState::of(&context, &concerned)));
    state.unwrap_or_else(IntoResponse::into_response)
}

/// `POST /api/switchover?cluster=NAME&to=NODE`, or the dry run with `dry_run=yes`.
pub(super) async fn begin(
    State(context): State<Arc<AdminContext>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let query = Query::read(query.as_deref().unwrap_or_default());
    if query.get("dry_run") == Some("yes") {
        return Ok(json(&switchover::examine(&context, caller.as_operator(), &query).await?));
    }
    let cluster = start(&context, caller.as_operator(), &query)?;
    Ok(json(&SwitchoverState::of(&context, &Concerned::find(&context, Some(&cluster))?)))
}

/// `POST /stats/switch`: what the form of the page says.
pub(super) async fn change(
    State(context): State<Arc<AdminContext>>,
    caller: Caller,
    body: String,
) -> Result<Redirect, Refusal> {
    let cluster = start(&context, caller.as_operator(), &Query::read(&body))?;
    Ok(Redirect::to(&Query::of([("cluster", cluster.as_str())]).link("/stats/park")))
}

/// A switchover that has begun.
struct Begun {
    cluster: String,
    leader: NodeId,
    request: SwitchoverRequest,
    /// The leader's first.
    apis: Vec<RestApi>,
    park: ParkSettings,
}

/// Checks what can be checked, begins, and returns the cluster's name.
fn start(context: &Arc<AdminContext>, by: Operator<'_>, query: &Query) -> Result<String, Refusal> {
    let concerned = Concerned::find(context, query.get("cluster"))?;
    let cluster = concerned.view.name().to_owned();
    let park = concerned.settings.ok_or_else(|| Refusal::ParkIsOff(cluster.clone()))?;
    let topology = concerned.view.topology_full();
    let leader = topology.leader().ok_or_else(|| Refusal::NoLeader(cluster.clone()))?;
    let to = query.get("to").filter(|to| !to.is_empty()).map(|to| named(&topology, to)).transpose()?;
    let name = |node| topology.node(node).name_in_patroni().to_owned();
    let from = name(leader);
    if to.is_some_and(|to| to == leader) {
        return Err(Refusal::LeadsAlready(from));
    }
    let request = SwitchoverRequest { leader: from, candidate: to.map(name) };
    let asked_at = Timestamp::now();
    let switchover = Switchover {
        by: by.user.to_owned(),
        asked_at: asked_at.round(Unit::Millisecond).unwrap_or(asked_at),
        from: request.leader.clone(),
        to: request.candidate.clone(),
        phase: Phase::Parking,
        text: "the write sessions are being parked".to_owned(),
    };
    let running = context.switchovers.begin(&cluster, switchover);
    running.map_err(|running| Refusal::SwitchoverRuns(cluster.clone(), running.text))?;
    let wanted = wanted(&request);
    info!(cluster, from = request.leader, to = request.candidate, user = by.user, peer = by.from, "switchover: begins");
    context.operators.record(by.user, by.from, format!("asked for a switchover of {cluster} {wanted}"));
    let reason = format!("by {}, for a switchover {wanted}", by.user);
    let carry = concerned.carry.map(|carry| CarryLimits::of(carry, park));
    context.registry.park(concerned.number, park, carry, &reason, (Some(leader), concerned.view.now()));
    let apis = apis(&topology, leader);
    let begun = Begun { cluster: cluster.clone(), leader, request, apis, park };
    tokio::spawn(run(Arc::clone(context), begun)); // whether or not somebody waits for it
    Ok(cluster)
}

/// The node of this name, by which the configuration or Patroni calls it.
fn named(topology: &Topology, name: &str) -> Result<NodeId, Refusal> {
    let found = topology.members().find(|(_, node)| node.is_called(name));
    found.map(|(id, _)| id).ok_or_else(|| Refusal::UnknownNode(name.to_owned()))
}

/// The REST APIs of the cluster, that of this node first.
fn apis(topology: &Topology, leader: NodeId) -> Vec<RestApi> {
    let mut members: Vec<_> = topology.members().collect();
    members.sort_by_key(|(id, _)| *id != leader);
    members.iter().map(|(_, node)| RestApi::from(&*node.member)).collect()
}

/// From which node to which, in words.
fn wanted(request: &SwitchoverRequest) -> String {
    match &request.candidate {
        Some(candidate) => format!("from {} to {candidate}", request.leader),
        None => format!("from {} to a node of Patroni's choice", request.leader),
    }
}

async fn run(context: Arc<AdminContext>, begun: Begun) {
    let cluster = begun.cluster.as_str();
    let (phase, text) = match asked(&context, &begun).await {
        Ok(text) => (Phase::Done, text),
        Err(NoSwitchover::Refused(why)) => {
            let goes_on = unpark(&context, cluster);
            (Phase::Refused, format!("there is no switchover: {why}{goes_on}"))
        }
        Err(NoSwitchover::Unknown(why)) => {
            let stays = "the sessions stay parked until a node leads, at most for park_max";
            (Phase::Unknown, format!("it is not known whether there is a switchover: {why}; {stays}"))
        }
    };
    match phase {
        Phase::Done => info!(cluster, "switchover: {text}"),
        _ => warn!(cluster, "switchover: {text}"),
    }
    context.switchovers.advance(cluster, phase, text);
}

/// Waits until the sessions are parked, asks Patroni, and waits until its answer has come true here.
async fn asked(context: &AdminContext, begun: &Begun) -> Result<String, NoSwitchover> {
    let Begun { cluster, request, .. } = begun;
    let parked = until_parked(context, begun).await?;
    let text = format!("{parked}; Patroni has been asked to switch over {}", wanted(request));
    info!(cluster, "switchover: {text}");
    context.switchovers.advance(cluster, Phase::Asked, text);
    let config = context.config.clusters.iter().find(|config| config.name == *cluster);
    let config = config.ok_or_else(|| NoSwitchover::Refused("the cluster is not configured any more".to_owned()))?;
    let answer = switch_over(config, &context.names, &begun.apis, request).await?;
    info!(cluster, "switchover: Patroni answers: {answer}");
    until_over(context, begun).await
}

/// Waits until no session is about to be parked: at most for `park_grace`. Returns in words what is parked.
async fn until_parked(context: &AdminContext, begun: &Begun) -> Result<String, NoSwitchover> {
    let mut looks = looks();
    loop {
        looks.tick().await;
        let concerned = concerned(context, &begun.cluster)?;
        let park = Park::of_cluster(&context.registry, concerned.number, concerned.view.now());
        let park = park.ok_or_else(|| NoSwitchover::Refused("the park ended before Patroni was asked".to_owned()))?;
        // the task that keeps the time ends the grace; this must not depend on it
        if park.finishing == 0 || park.seconds > begun.park.grace.as_secs_f64() {
            return Ok(park.sessions());
        }
    }
}

/// Waits until another node leads and the park is over; or the park is over without one. Returns in words who leads.
async fn until_over(context: &AdminContext, begun: &Begun) -> Result<String, NoSwitchover> {
    let mut looks = looks();
    loop {
        looks.tick().await;
        let concerned = concerned(context, &begun.cluster)?;
        // both end by themselves: when another node leads, or after park_max
        let is_parked = context.registry.park_info(concerned.number).is_some();
        if is_parked || context.registry.sessions_without_server(concerned.number) > 0 {
            continue;
        }
        let topology = concerned.view.topology_full();
        return match topology.leader() {
            Some(leader) if leader != begun.leader => {
                let newest = concerned.view.history().records().into_iter().next();
                let of_newest = newest.map(|change| told(&change)).unwrap_or_default();
                Ok(format!("{} leads{of_newest}", topology.node(leader).name_in_patroni()))
            }
            _ => Err(NoSwitchover::Unknown("pgvane has not seen another leader within park_max".to_owned())),
        };
    }
}

/// What a change of leader did, in words, behind the name of the new leader.
fn told(change: &Record) -> String {
    let span = |ms: Option<u64>| seconds(ms.unwrap_or_default() as f64 / 1000.0);
    let mut text = format!(", after {} without a leader", span(change.leaderless_ms));
    let CarriedSessions { carried, carried_longest_ms, not_carried } = &change.sessions;
    if *carried > 0 {
        text += &format!("; {} carried, each in {} at most", sessions(*carried), span(*carried_longest_ms));
    }
    if !not_carried.is_empty() {
        text += &format!("; not carried: {}", super::stats::not_carried(not_carried));
    }
    text
}

fn looks() -> tokio::time::Interval {
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

fn concerned<'a>(context: &'a AdminContext, cluster: &str) -> Result<Concerned<'a>, NoSwitchover> {
    Concerned::find(context, Some(cluster)).map_err(|refusal| NoSwitchover::Refused(refusal.why()))
}

/// Lets the sessions go on. Returns in words, behind a semicolon, that they do; nothing if they were not parked any more.
fn unpark(context: &AdminContext, cluster: &str) -> &'static str {
    let Ok(concerned) = concerned(context, cluster) else { return "" };
    let now = (concerned.view.topology().leader(), concerned.view.now());
    if context.registry.unpark(concerned.number, now) { "; the sessions go on" } else { "" }
}
