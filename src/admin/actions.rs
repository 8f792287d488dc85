//! What operators can change: the administrative state and the weight of a node, and running sessions, which they can
//! close. Over HTTP for programs here; the pages with forms for people are in `forms`.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use serde::Serialize;
use tracing::info;

use super::answer::json;
use super::caller::Caller;
use super::context::AdminContext;
use super::operator_log::{NodeSetting, Operator};
use super::query::Query;
use super::refusal::{ALLOW_LEADER, CONFIGURED, Refusal};
use super::sessions::Wanted;
use super::words::sessions;
use crate::cluster::node::WEIGHT_MAX;
use crate::cluster::topology::NodeView;
use crate::cluster::{AdminState, NodeId};
use crate::probe::ClusterHandle;

/// The longest body of a request, in bytes. The body is the name of a state, or a weight.
pub(super) const BODY_LENGTH_MAX: usize = 64;

/// The answer to a request that has set a node's state.
#[derive(Debug, Serialize)]
pub(super) struct StateChange<'a> {
    cluster: &'a str,
    node: &'a str,
    state: &'static str,
    was: &'static str,
}

/// The answer to a request that has set a node's weight.
#[derive(Debug, Serialize)]
pub(super) struct WeightChange<'a> {
    cluster: &'a str,
    node: &'a str,
    weight: u32,
    was: u32,
    configured: u32,
}

/// The answer to a request that has closed sessions.
#[derive(Debug, Serialize)]
pub(super) struct Closed {
    closed: usize,
}

/// `POST /api/nodes/{cluster}/{node}/state`, with the name of the state as the body.
pub(super) async fn set_state(
    State(context): State<Arc<AdminContext>>,
    caller: Caller,
    Path((cluster, node)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    body: String,
) -> Result<Response, Refusal> {
    let query = Query::read(query.as_deref().unwrap_or_default());
    let allows_leader = query.get(ALLOW_LEADER.0) == Some(ALLOW_LEADER.1);
    let target = Target { cluster: &cluster, node: &node };
    let change = target.set_state(&context, caller.as_operator(), body.trim(), allows_leader).await?;
    Ok(json(&change))
}

/// `POST /api/nodes/{cluster}/{node}/weight`, with the weight as the body, or `configured`.
pub(super) async fn set_weight(
    State(context): State<Arc<AdminContext>>,
    caller: Caller,
    Path((cluster, node)): Path<(String, String)>,
    body: String,
) -> Result<Response, Refusal> {
    let target = Target { cluster: &cluster, node: &node };
    Ok(json(&target.set_weight(&context, caller.as_operator(), body.trim()).await?))
}

/// `POST /api/sessions/close`, with the sessions in the query string.
pub(super) async fn close(
    State(context): State<Arc<AdminContext>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let wanted = Wanted::of(&Query::read(query.as_deref().unwrap_or_default()));
    Ok(json(&close_sessions(&context, caller.as_operator(), &wanted)?))
}

/// The node that a request names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) cluster: &'a str,
    pub(super) node: &'a str,
}

impl<'a> Target<'a> {
    /// Sets the administrative state; `allows_leader` does it also if the node is the leader.
    pub(super) async fn set_state(
        self,
        context: &AdminContext,
        by: Operator<'_>,
        state: &str,
        allows_leader: bool,
    ) -> Result<StateChange<'a>, Refusal> {
        let Target { cluster, node } = self;
        let (view, id, was) = self.find(context, |view| view.admin)?;
        let state = AdminState::from_label(state).ok_or_else(|| Refusal::UnknownState(state.to_owned()))?;
        if state != AdminState::Ready && view.topology().leader() == Some(id) && !allows_leader {
            return Err(Refusal::IsLeader(node.to_owned()));
        }
        if !view.administer(id, state).await {
            return Err(Refusal::Stopping);
        }
        let (state, was) = (state.label(), was.label());
        info!(cluster, node, from = was, to = state, user = by.user, peer = %by.from, "administrative state set");
        self.record(context, by, NodeSetting::State, format!("{node} of {cluster}: {state} (was {was})"));
        Ok(StateChange { cluster, node, state, was })
    }

    /// Sets the weight: a number, or `configured`.
    pub(super) async fn set_weight(
        self,
        context: &AdminContext,
        by: Operator<'_>,
        weight: &str,
    ) -> Result<WeightChange<'a>, Refusal> {
        let Target { cluster, node } = self;
        let (view, id, (was, configured)) = self.find(context, |view| (view.weight(), view.member.weight))?;
        let given = match weight {
            CONFIGURED => None,
            number => {
                let parsed = number.parse::<u32>().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
                Some(parsed.ok_or_else(|| Refusal::InvalidWeight(number.chars().take(20).collect()))?)
            }
        };
        if !view.set_weight(id, given).await {
            return Err(Refusal::Stopping);
        }
        let weight = given.unwrap_or(configured);
        info!(cluster, node, from = was, to = weight, configured, user = by.user, peer = %by.from, "weight set");
        let what = format!("{node} of {cluster}: weight {weight} (was {was}, configured {configured})");
        self.record(context, by, NodeSetting::Weight, what);
        Ok(WeightChange { cluster, node, weight, was, configured })
    }

    fn record(self, context: &AdminContext, by: Operator<'_>, setting: NodeSetting, what: String) {
        context.operators.set(self.cluster, self.node, setting, by.user);
        context.operators.record(by.user, by.from, what);
    }

    /// The node, and what is wanted of it.
    fn find<T>(
        self,
        context: &AdminContext,
        wanted: impl Fn(&NodeView) -> T,
    ) -> Result<(&ClusterHandle, NodeId, T), Refusal> {
        let view = context.clusters.iter().find(|view| view.name() == self.cluster);
        let view = view.ok_or_else(|| Refusal::UnknownCluster(self.cluster.to_owned()))?;
        let topology = view.topology_full();
        let found = topology.members().find(|(_, node)| node.member.name == self.node);
        let (id, node) = found.ok_or_else(|| Refusal::UnknownNode(self.node.to_owned()))?;
        Ok((view, id, wanted(node)))
    }
}

/// Closes the sessions that are wanted.
pub(super) fn close_sessions(context: &AdminContext, by: Operator<'_>, wanted: &Wanted) -> Result<Closed, Refusal> {
    wanted.check_for_close(context)?;
    let finder = wanted.finder(context);
    let closed = context.registry.close(|session| finder.matches(session));
    let which = wanted.to_string();
    info!(sessions = closed, which, user = by.user, peer = %by.from, "sessions closed by an operator");
    context.operators.record(by.user, by.from, format!("closed {}: {which}", sessions(closed)));
    Ok(Closed { closed })
}
