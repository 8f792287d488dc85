//! Whether one node is eligible for a listener's sessions, new and running.

use super::rule::{Cause, Rule, Target};
use crate::cluster::NodeId;
use crate::cluster::health::Health;
use crate::cluster::node::{Claim, SyncStanding};
use crate::cluster::topology::{NodeView, Topology, WriterVerdict};

/// Whether a node is eligible for new sessions of a listener that reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fitness {
    /// Answers, and meets every condition.
    Fresh,
    /// Met every condition when it last answered.
    Silent,
    /// Does not meet a condition.
    Unfit {
        /// Which condition, as text that follows "is".
        why: String,
        /// The cause for running sessions to end, if any.
        cause: Option<Cause>,
    },
}

/// Whether a node is eligible for a listener with standbys, any node or a standby leader as target.
pub(super) fn for_reads(topology: &Topology, id: NodeId, rule: &Rule) -> Fitness {
    let by_operator = topology.node(id).admin.why_unfit().and_then(|why| unfit(why, Cause::Operator));
    by_operator.unwrap_or_else(|| by_state(topology, id, rule))
}

/// The same without the administrative state.
pub(super) fn by_state(topology: &Topology, id: NodeId, rule: &Rule) -> Fitness {
    let node = topology.node(id);
    if let Some(unfit) = role_unfit(topology, id, rule).or_else(|| condition_unfit(node, rule)) {
        return unfit;
    }
    match &node.health {
        Health::Unchecked { .. } => Fitness::Unfit { why: node.health.label().to_owned(), cause: None },
        Health::Answering { .. } => Fitness::Fresh,
        Health::Silent { .. } => Fitness::Silent,
    }
}

fn unfit(why: impl Into<String>, cause: impl Into<Option<Cause>>) -> Option<Fitness> {
    Some(Fitness::Unfit { why: why.into(), cause: cause.into() })
}

fn role_unfit(topology: &Topology, id: NodeId, rule: &Rule) -> Option<Fitness> {
    let node = topology.node(id);
    let is_leader = topology.leader() == Some(id);
    let cause_of_role = (is_leader || node.claim() == Some(Claim::StandbyLeader)).then_some(Cause::Promotion);
    match (rule.target, node.claim()) {
        (_, Some(Claim::Leader)) if is_leader && rule.shares_with_leader() => None,
        // it serves reads, as Patroni's /read-only says
        (_, Some(Claim::StandbyLeader)) if rule.shares_with_leader() => None,
        (Target::Leader, _) | (_, None) => unfit(node.role_label(), None),
        (Target::StandbyLeader, Some(Claim::StandbyLeader)) => None,
        (Target::StandbyLeader, Some(Claim::Replica)) => unfit(node.role_label(), Cause::Promotion),
        (_, Some(Claim::Replica)) => None,
        _ => unfit(node.role_label(), cause_of_role),
    }
}

fn condition_unfit(node: &NodeView, rule: &Rule) -> Option<Fitness> {
    let report = node.health.report()?;
    let is_standby = report.claim == Claim::Replica;
    let lag = node.recent_lag.unwrap_or_default();
    if is_standby && report.noloadbalance {
        return unfit("tagged noloadbalance", Cause::Standing);
    }
    if let Some((name, value)) = rule.tags.iter().find(|(name, value)| report.tags.get(*name) != Some(*value)) {
        return unfit(format!("not tagged {name} = {value}"), Cause::Standing);
    }
    match (rule.target, report.sync) {
        _ if !is_standby => {}
        (Target::Sync, SyncStanding::Async) | (Target::SyncOnly, SyncStanding::Async | SyncStanding::Quorum) => {
            return unfit("not synchronous", Cause::Standing);
        }
        (Target::Quorum, SyncStanding::Async | SyncStanding::Sync) => {
            return unfit("not in the quorum", Cause::Standing);
        }
        (Target::Async, SyncStanding::Sync | SyncStanding::Quorum) => return unfit("synchronous", Cause::Standing),
        _ => {}
    }
    if is_standby && rule.requires_streaming && report.replication_state.as_deref() != Some("streaming") {
        return unfit("not streaming", Cause::Standing);
    }
    if rule.lag_bytes_max.is_some_and(|max| lag.bytes > max) || rule.lag_time_max.is_some_and(|max| lag.time > max) {
        return unfit("too far behind the leader", Cause::Lag);
    }
    None
}

/// Why a running session of this listener is on the wrong node `id`; `None` if the node is right. This is the table
/// "What happens to sessions" of docs/sessions.md, without the listener's reactions. Of two causes it is the one with
/// the stronger reaction.
pub fn why_misplaced(rule: &Rule, topology: &Topology, id: NodeId) -> Option<Cause> {
    let by_operator = topology.node(id).admin.why_unfit().map(|_| Cause::Operator);
    let causes = [by_operator, why_misplaced_by_state(rule, topology, id)];
    causes.into_iter().flatten().max_by_key(|cause| (rule.reactions.to(*cause), cause.rank()))
}

fn why_misplaced_by_state(rule: &Rule, topology: &Topology, id: NodeId) -> Option<Cause> {
    let node = topology.node(id);
    let by_role = match rule.target {
        Target::Leader => match topology.verdict_on_writers(id) {
            WriterVerdict::Keep => None,
            WriterVerdict::LostLead | WriterVerdict::Superseded(_) => Some(Cause::LostLead),
        },
        _ if node.departed => None,
        _ if topology.leader() == Some(id) && rule.accepts_leader() => None,
        _ if node.claim() == Some(Claim::StandbyLeader) && rule.accepts_leader() => None,
        _ => match by_state(topology, id, rule) {
            Fitness::Unfit { cause, .. } => cause,
            Fitness::Fresh | Fitness::Silent => None,
        },
    };
    let by_departure = || node.departed.then_some(Cause::Departure);
    by_role.or_else(by_departure).or_else(|| node.health.silent_since().map(|_| Cause::Silence))
}
