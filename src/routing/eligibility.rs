//! Whether a node is eligible for a listener's new sessions, and whether running sessions may stay there.

use super::rule::{Cause, Rule, Target};
use crate::cluster::NodeId;
use crate::cluster::health::Health;
use crate::cluster::node::{Claim, SyncStanding};
use crate::cluster::topology::{NodeView, Topology, WriterVerdict};

/// Whether a node is eligible for new sessions of a listener that reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Eligibility {
    /// It answers, and meets every condition.
    Eligible,
    /// It does not answer. When it last did, it met every condition.
    Silent,
    /// It does not meet a condition.
    NotEligible {
        /// Which condition, as text that follows "is".
        why: String,
        /// The cause for running sessions to end, if any.
        cause: Option<Cause>,
    },
}

/// Whether a node is eligible for a listener with standbys, any node or a standby leader as target.
pub(super) fn for_reads(topology: &Topology, id: NodeId, rule: &Rule) -> Eligibility {
    let by_operator = topology.node(id).admin.why_not_eligible().and_then(|why| not_eligible(why, Cause::Operator));
    by_operator.unwrap_or_else(|| by_state(topology, id, rule))
}

/// The same without the administrative state.
pub(super) fn by_state(topology: &Topology, id: NodeId, rule: &Rule) -> Eligibility {
    let node = topology.node(id);
    if let Some(not_eligible) = role_not_eligible(topology, id, rule).or_else(|| condition_not_met(node, rule)) {
        return not_eligible;
    }
    match &node.health {
        Health::Unchecked { .. } => Eligibility::NotEligible { why: node.health.label().to_owned(), cause: None },
        Health::Answering { .. } => Eligibility::Eligible,
        Health::Silent { .. } => Eligibility::Silent,
    }
}

fn not_eligible(why: impl Into<String>, cause: impl Into<Option<Cause>>) -> Option<Eligibility> {
    Some(Eligibility::NotEligible { why: why.into(), cause: cause.into() })
}

fn role_not_eligible(topology: &Topology, id: NodeId, rule: &Rule) -> Option<Eligibility> {
    let node = topology.node(id);
    let is_leader = topology.leader() == Some(id);
    let cause_of_role = (is_leader || node.claim() == Some(Claim::StandbyLeader)).then_some(Cause::Promotion);
    match (rule.target, node.claim()) {
        (_, Some(Claim::Leader)) if is_leader && rule.shares_with_leader() => None,
        // it serves reads, as Patroni's /read-only says
        (_, Some(Claim::StandbyLeader)) if rule.shares_with_leader() => None,
        (Target::Leader, _) | (_, None) => not_eligible(node.role_label(), None),
        (Target::StandbyLeader, Some(Claim::StandbyLeader)) => None,
        (Target::StandbyLeader, Some(Claim::Replica)) => not_eligible(node.role_label(), Cause::Promotion),
        (_, Some(Claim::Replica)) => None,
        _ => not_eligible(node.role_label(), cause_of_role),
    }
}

fn condition_not_met(node: &NodeView, rule: &Rule) -> Option<Eligibility> {
    let report = node.health.report()?;
    let is_standby = report.claim == Claim::Replica;
    let lag = node.recent_lag.unwrap_or_default();
    if is_standby && report.noloadbalance {
        return not_eligible("tagged noloadbalance", Cause::Standing);
    }
    if let Some((name, value)) = rule.tags.iter().find(|(name, value)| report.tags.get(*name) != Some(*value)) {
        return not_eligible(format!("not tagged {name} = {value}"), Cause::Standing);
    }
    match (rule.target, report.sync) {
        _ if !is_standby => {}
        (Target::Sync, SyncStanding::Async) | (Target::SyncOnly, SyncStanding::Async | SyncStanding::Quorum) => {
            return not_eligible("not synchronous", Cause::Standing);
        }
        (Target::Quorum, SyncStanding::Async | SyncStanding::Sync) => {
            return not_eligible("not in the quorum", Cause::Standing);
        }
        (Target::Async, SyncStanding::Sync | SyncStanding::Quorum) => {
            return not_eligible("synchronous", Cause::Standing);
        }
        _ => {}
    }
    if is_standby && rule.requires_streaming && report.replication_state.as_deref() != Some("streaming") {
        return not_eligible("not streaming", Cause::Standing);
    }
    if rule.lag_bytes_max.is_some_and(|max| lag.bytes > max) || rule.lag_time_max.is_some_and(|max| lag.time > max) {
        return not_eligible("too far behind the leader", Cause::Lag);
    }
    None
}

/// Why a running session of this listener is on the wrong node `id`; `None` if the node is right. This is the table
/// "What happens to sessions" of docs/sessions.md, without the listener's reactions. Of two causes it is the one with
/// the stronger reaction.
pub fn why_on_wrong_node(rule: &Rule, topology: &Topology, id: NodeId) -> Option<Cause> {
    let by_operator = topology.node(id).admin.why_not_eligible().map(|_| Cause::Operator);
    let causes = [by_operator, why_on_wrong_node_by_state(rule, topology, id)];
    causes.into_iter().flatten().max_by_key(|cause| (rule.reactions.to(*cause), cause.rank()))
}

fn why_on_wrong_node_by_state(rule: &Rule, topology: &Topology, id: NodeId) -> Option<Cause> {
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
            Eligibility::NotEligible { cause, .. } => cause,
            Eligibility::Eligible | Eligibility::Silent => None,
        },
    };
    let by_departure = || node.departed.then_some(Cause::Departure);
    by_role.or_else(by_departure).or_else(|| node.health.silent_since().map(|_| Cause::Silence))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::cluster::AdminState;
    use crate::cluster::fixtures::report;
    use crate::cluster::lag::Lag;
    use crate::routing::fixtures::{node, read, readers, replica_with, routed, stop_answering, strict, three};
    use crate::routing::{Balance, NoRoute, Reaction};

    #[test]
    fn a_replica_that_lags_or_is_tagged_noloadbalance_gets_nothing_new() {
        let mut topology = three();
        topology.nodes[1].recent_lag = Some(Lag { bytes: 65, time: Duration::ZERO });
        topology.nodes[2] = replica_with(|report| {
            report.noloadbalance = true;
        });
        assert_eq!(readers(&topology, &read(), &[]), [0; 4], "the leader serves as the fallback");
        let Err(refusal) = routed(&topology, &strict(read()), &[]) else { panic!("no node is eligible") };
        assert_eq!(
            refusal.to_string(),
            "no eligible server: a is leader, b is too far behind the leader, c is tagged noloadbalance"
        );
    }

    #[test]
    fn lag_in_time_counts_too() {
        let mut topology = three();
        topology.nodes[1].recent_lag = Some(Lag { bytes: 1, time: Duration::from_secs(11) });
        let rule = Rule { lag_time_max: Some(Duration::from_secs(10)), ..read() };
        assert_eq!(readers(&topology, &rule, &[]), [2; 4]);
    }

    #[test]
    fn tags_sync_standing_and_streaming_narrow_the_choice() {
        let mut topology = three();
        topology.nodes[2] = replica_with(|report| {
            report.tags.insert("dc".into(), "east".into());
            report.sync = SyncStanding::Quorum;
            report.replication_state = Some("in archive recovery".into());
        });
        let tagged = Rule { tags: [("dc".to_owned(), "east".to_owned())].into(), ..read() };
        assert_eq!(readers(&topology, &tagged, &[]), [2; 4]);
        assert_eq!(readers(&topology, &Rule::new(Target::Sync), &[]), [2; 4]);
        assert_eq!(readers(&topology, &Rule::new(Target::Async), &[]), [1; 4]);
        assert_eq!(readers(&topology, &Rule { requires_streaming: true, ..read() }, &[]), [1; 4]);
    }

    #[test]
    fn quorum_members_and_synchronous_standbys_are_distinguished() {
        let mut topology = three();
        topology.nodes[1] = replica_with(|report| report.sync = SyncStanding::Sync);
        topology.nodes[2] = replica_with(|report| report.sync = SyncStanding::Quorum);
        for (target, expected) in [(Target::Sync, [1, 2, 1, 2]), (Target::SyncOnly, [1; 4]), (Target::Quorum, [2; 4])] {
            assert_eq!(
                readers(&topology, &Rule::new(target), &[]),
                readers(&topology, &strict(Rule::new(target)), &[])
            );
            let rule = Rule { balance: Balance::RoundRobin, ..strict(Rule::new(target)) };
            assert_eq!(readers(&topology, &rule, &[]), expected, "{}", target.label());
        }
        assert!(readers(&topology, &strict(Rule::new(Target::Async)), &[]).is_empty());
        topology.nodes[1] = replica_with(|_| {});
        let by_role = |target| why_on_wrong_node(&strict(Rule::new(target)), &topology, NodeId::new(1));
        assert_eq!([Target::SyncOnly, Target::Quorum].map(by_role), [Some(Cause::Standing); 2]);
    }

    /// As Patroni's /read-only-sync and /read-only-quorum.
    #[test]
    fn the_leader_may_have_its_share_beside_synchronous_replicas() {
        let mut topology = three();
        topology.nodes[2] = replica_with(|report| report.sync = SyncStanding::Sync);
        let rule = Rule { balance: Balance::RoundRobin, includes_leader: true, ..strict(Rule::new(Target::SyncOnly)) };
        assert_eq!(readers(&topology, &rule, &[]), [0, 2, 0, 2]);
        assert_eq!(why_on_wrong_node(&rule, &topology, NodeId::new(0)), None);
        assert_eq!(rule.why_wrong(false), None);
        let tagged = Rule { tags: [("dc".to_owned(), "east".to_owned())].into(), ..rule.clone() };
        assert!(readers(&topology, &tagged, &[]).is_empty(), "tags count for the leader too, as in Patroni");
        topology.nodes[0].admin = AdminState::Drain;
        assert_eq!(readers(&topology, &rule, &[]), [2; 4]);
    }

    #[test]
    fn the_leader_replaces_synchronous_replicas_of_each_kind() {
        let topology = three();
        for target in [Target::Sync, Target::SyncOnly, Target::Quorum] {
            assert_eq!(readers(&topology, &Rule::new(target), &[]), [0; 4], "{}", target.label());
            assert!(readers(&topology, &strict(Rule::new(target)), &[]).is_empty(), "{}", target.label());
        }
        let mut synchronous = three();
        for id in [1, 2] {
            synchronous.nodes[id] = replica_with(|report| report.sync = SyncStanding::Quorum);
        }
        assert_eq!(readers(&synchronous, &Rule::new(Target::Async), &[]), [0; 4]);
    }

    #[test]
    fn any_takes_leader_and_replicas_alike() {
        assert_eq!(
            readers(&three(), &Rule { balance: Balance::RoundRobin, ..Rule::new(Target::Any) }, &[])[..3],
            [0, 1, 2]
        );
    }

    #[test]
    fn a_standby_cluster_has_a_leader_of_its_own_kind() {
        let mut topology = three();
        topology.nodes[0] = node("a", Some(Arc::new(report(Claim::StandbyLeader, 1))));
        topology.leadership = Topology::unchecked(Vec::new()).leadership;
        assert_eq!(routed(&topology, &Rule::new(Target::StandbyLeader), &[]), Ok(NodeId::new(0)));
        assert_eq!(readers(&topology, &read(), &[]), [1, 2, 1, 2]);
        assert!(routed(&topology, &Rule::new(Target::Leader), &[]).is_err());
    }

    #[test]
    fn a_node_that_an_operator_takes_out_of_service_gets_nothing_new_whatever_it_is() {
        for state in [AdminState::Drain, AdminState::Maint] {
            let mut topology = three();
            topology.nodes[1].admin = state;
            assert_eq!(readers(&topology, &read(), &[]), [2; 4]);
            topology.nodes[2].admin = state;
            assert_eq!(readers(&topology, &read(), &[]), [0; 4], "the leader serves as the fallback");
            topology.nodes[0].admin = state;
            for rule in [read(), strict(read()), Rule::new(Target::Any), Rule::new(Target::Leader)] {
                let Err(NoRoute::NoneEligible(why)) = routed(&topology, &rule, &[]) else {
                    panic!("{state:?}: {rule:?}")
                };
                let expected = format!("is {}", state.why_not_eligible().expect("it is out of service"));
                assert!(why.contains(&expected), "{expected:?} is not in {why:?}");
            }
        }
    }

    #[test]
    fn of_two_causes_the_one_with_the_stronger_reaction_counts() {
        let mut topology = three();
        topology.nodes[1].admin = AdminState::Drain;
        topology.nodes[1].recent_lag = Some(Lag { bytes: 65, time: Duration::ZERO });
        let why = |topology: &Topology, rule: &Rule| why_on_wrong_node(rule, topology, NodeId::new(1));
        assert_eq!(why(&topology, &read()), Some(Cause::Operator), "lag keeps, and this drains");
        topology.nodes[1].departed = true;
        assert_eq!(why(&topology, &read()), Some(Cause::Operator));
        topology.nodes[1].departed = false;
        assert_eq!(why(&topology, &Rule::new(Target::Leader)), Some(Cause::LostLead), "this cuts");
        let mut keeps = read();
        keeps.reactions.set(Cause::Operator, Reaction::Keep);
        keeps.reactions.set(Cause::Lag, Reaction::Drain);
        assert_eq!(why(&topology, &keeps), Some(Cause::Lag));
    }

    #[test]
    fn a_session_is_on_the_wrong_node_only_for_the_causes_of_the_table() {
        let mut topology = three();
        let why = |topology: &Topology, rule: &Rule, id| why_on_wrong_node(rule, topology, NodeId::new(id));
        assert_eq!(why(&topology, &Rule::new(Target::Leader), 0), None);
        assert_eq!(why(&topology, &Rule::new(Target::Leader), 1), Some(Cause::LostLead));
        assert_eq!(why(&topology, &strict(read()), 0), Some(Cause::Promotion));
        assert_eq!(why(&topology, &read(), 0), None, "the leader may serve as the fallback");
        assert_eq!(why(&topology, &read(), 1), None);
        topology.nodes[1].recent_lag = Some(Lag { bytes: 65, time: Duration::ZERO });
        assert_eq!(why(&topology, &read(), 1), Some(Cause::Lag));
        assert_eq!(why(&topology, &Rule::new(Target::Sync), 2), Some(Cause::Standing));
        stop_answering(&mut topology, 2);
        assert_eq!(why(&topology, &read(), 2), Some(Cause::Silence));
        topology.nodes[2].departed = true;
        assert_eq!(why(&topology, &read(), 2), Some(Cause::Departure));
    }
}
