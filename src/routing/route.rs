//! The node for a new session, or why there is none.

use std::fmt;
use std::time::Duration;

use super::Choice;
use super::eligibility::{self, Eligibility};
use super::pools::Pools;
use super::rule::{Rule, Target};
use crate::cluster::topology::{NodeView, Topology};
use crate::cluster::{Moment, NodeId};

/// pgvane handles the nodes' checks at least this often (in fact several times as often), unless it was suspended.
const MONITORED_WITHIN: Duration = Duration::from_secs(2);

/// The minimum share of a node that has just come back, in hundredths of its weight.
const SLOW_START_LEAST: u64 = 5;

/// What a choice depends on besides the topology and the rule.
pub struct Situation<'a, Load: Fn(NodeId) -> u32> {
    /// Nodes that were tried for this session and failed.
    pub tried: &'a [NodeId],
    /// The number of the listener's choices so far.
    pub turn: u64,
    /// A node's present number of sessions, of all listeners.
    pub load: Load,
    /// Now.
    pub now: Moment,
    /// When the client came.
    pub arrived_at: Moment,
    /// When pgvane last handled the nodes' checks. If that is long ago, pgvane was suspended, and what it knows may be
    /// as old.
    pub monitored_at: Moment,
}

/// Why there is no node for a session, as text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    /// No node takes writes.
    NoLeader(String),
    /// The write sessions of the cluster are parked, for this reason.
    Parked(String),
    /// No node of the requested kind is eligible.
    NoneEligible(String),
    /// All eligible nodes have reached their `sessions_max`.
    AllFull,
    /// All eligible nodes were tried for this session, and failed.
    AllTried,
}

impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoRoute::NoLeader(why) => write!(f, "no leader: {why}"),
            NoRoute::Parked(why) => write!(f, "the write sessions of the cluster are parked ({why})"),
            NoRoute::NoneEligible(why) => write!(f, "no eligible server: {why}"),
            NoRoute::AllFull => f.write_str("every eligible server has reached its sessions_max"),
            NoRoute::AllTried => f.write_str("every eligible server was tried and failed"),
        }
    }
}

/// The node for a new session, or why there is none.
pub fn route<Load: Fn(NodeId) -> u32>(
    topology: &Topology,
    rule: &Rule,
    situation: &Situation<'_, Load>,
) -> Result<NodeId, NoRoute> {
    if rule.target == Target::Leader {
        let leader = certain_leader(topology, situation)?;
        return first_with_room([[leader].as_slice()], topology, rule, situation);
    }
    let pools = Pools::new(topology, rule);
    first_with_room(pools.in_order().map(Vec::as_slice), topology, rule, situation)
}

/// A node of the first pool that has one for the session.
fn first_with_room<'a, Load: Fn(NodeId) -> u32>(
    pools: impl IntoIterator<Item = &'a [NodeId]>,
    topology: &Topology,
    rule: &Rule,
    situation: &Situation<'_, Load>,
) -> Result<NodeId, NoRoute> {
    let (mut is_eligible, mut is_untried) = (false, false);
    for pool in pools {
        is_eligible |= !pool.is_empty();
        let untried = pool.iter().filter(|id| !situation.tried.contains(id));
        let mut choices = choices_of(untried, topology, rule, situation);
        is_untried |= !choices.is_empty();
        choices.retain(|choice| has_room(choice, topology));
        if let Some(node) = rule.balance.pick(&choices, situation.turn) {
            return Ok(node);
        }
    }
    Err(match (is_eligible, is_untried) {
        (false, _) => NoRoute::NoneEligible(why_none_eligible(topology, rule)),
        (true, false) => NoRoute::AllTried,
        (true, true) => NoRoute::AllFull,
    })
}

/// Nodes with their shares and loads.
pub(super) fn choices_of<'a, Load: Fn(NodeId) -> u32>(
    nodes: impl IntoIterator<Item = &'a NodeId>,
    topology: &Topology,
    rule: &Rule,
    situation: &Situation<'_, Load>,
) -> Vec<Choice> {
    nodes.into_iter().map(|id| choice(*id, topology.node(*id), rule.slow_start, situation)).collect()
}

/// Whether a node may have another session.
pub(super) fn has_room(choice: &Choice, topology: &Topology) -> bool {
    choice.load < topology.node(choice.node).member.sessions_max
}

fn certain_leader<Load: Fn(NodeId) -> u32>(
    topology: &Topology,
    situation: &Situation<'_, Load>,
) -> Result<NodeId, NoRoute> {
    let Some(leader) = topology.leader() else {
        return Err(NoRoute::NoLeader(topology.why_no_leader().unwrap_or_default()));
    };
    let name = &topology.node(leader).member.name;
    if situation.now - situation.monitored_at > MONITORED_WITHIN {
        return Err(NoRoute::NoLeader(format!("pgvane was suspended, so the role of {name} is being checked again")));
    }
    if topology.is_doubted_for(situation.arrived_at) {
        return Err(NoRoute::NoLeader(format!("the role of {name} is being checked again")));
    }
    match topology.node(leader).admin.why_not_eligible() {
        None => Ok(leader),
        Some(why) => Err(NoRoute::NoneEligible(format!("{name} is the leader and is {why}"))),
    }
}

fn choice<Load: Fn(NodeId) -> u32>(
    id: NodeId,
    node: &NodeView,
    slow_start: Duration,
    situation: &Situation<'_, Load>,
) -> Choice {
    let served_for = node.serving_since.map_or(Duration::ZERO, |since| situation.now - since);
    let hundredths = if served_for >= slow_start {
        100
    } else {
        (served_for.as_millis() * 100 / slow_start.as_millis().max(1)) as u64
    };
    let weight = u64::from(node.weight()) * hundredths.max(SLOW_START_LEAST);
    Choice { node: id, weight, load: (situation.load)(id) }
}

fn why_none_eligible(topology: &Topology, rule: &Rule) -> String {
    let reasons: Vec<String> = topology
        .members()
        .filter_map(|(id, node)| match eligibility::for_reads(topology, id, rule) {
            Eligibility::NotEligible { why, .. } => Some(format!("{} is {why}", node.member.name)),
            Eligibility::Eligible | Eligibility::Silent => None,
        })
        .collect();
    if reasons.is_empty() { "no server is known".to_owned() } else { reasons.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::fixtures::{at_ms, member, replica};
    use crate::cluster::node::Member;
    use crate::routing::fixtures::{node, read, readers, replica_with, routed, stop_answering, strict, three};
    use crate::routing::{Balance, why_on_wrong_node};

    #[test]
    fn writes_go_to_the_leader_unless_it_is_doubted() {
        let mut topology = three();
        assert_eq!(routed(&topology, &Rule::new(Target::Leader), &[]), Ok(NodeId::new(0)));
        topology.doubted_at = Some(at_ms(1));
        assert!(matches!(routed(&topology, &Rule::new(Target::Leader), &[]), Err(NoRoute::NoLeader(_))));
    }

    #[test]
    fn reads_are_spread_over_replicas_and_do_not_go_to_the_leader() {
        assert_eq!(readers(&three(), &read(), &[]), [1, 2, 1, 2]);
    }

    #[test]
    fn silent_replicas_serve_only_when_no_other_node_can() {
        let mut topology = three();
        stop_answering(&mut topology, 1);
        assert_eq!(readers(&topology, &read(), &[]), [2; 4]);
        stop_answering(&mut topology, 2);
        assert_eq!(readers(&topology, &read(), &[]), [0; 4]);
        assert_eq!(readers(&topology, &strict(read()), &[]), [1, 2, 1, 2]);
    }

    #[test]
    fn nodes_that_have_just_failed_others_are_tried_last() {
        let mut topology = three();
        topology.nodes[1].ports.fails_client(None, "connection refused", at_ms(1));
        assert_eq!(readers(&topology, &read(), &[]), [2; 4]);
        assert_eq!(readers(&topology, &strict(read()), &[NodeId::new(2)]), [1; 4]);
        assert_eq!(why_on_wrong_node(&read(), &topology, NodeId::new(1)), None, "running sessions are not affected");
        topology.nodes[2].ports.fails_client(None, "connection refused", at_ms(1));
        assert_eq!(readers(&topology, &read(), &[]), [0; 4], "the leader serves as the fallback");
        topology.nodes[0].ports.fails_client(None, "connection refused", at_ms(1));
        assert_eq!(readers(&topology, &read(), &[]), [1, 2, 1, 2]);
        stop_answering(&mut topology, 2);
        assert_eq!(readers(&topology, &read(), &[]), [1; 4]);
        assert_eq!(routed(&topology, &Rule::new(Target::Leader), &[]), Ok(NodeId::new(0)), "there is no other");
    }

    #[test]
    fn nodes_that_failed_this_session_are_passed_over() {
        assert_eq!(readers(&three(), &read(), &[NodeId::new(1)]), [2; 4]);
        let all = [NodeId::new(0), NodeId::new(1), NodeId::new(2)];
        assert_eq!(routed(&three(), &read(), &all), Err(NoRoute::AllTried));
    }

    #[test]
    fn a_full_node_is_passed_over_and_all_full_is_an_error() {
        let mut topology = three();
        let small = |name: &str| Arc::new(Member { sessions_max: 5, ..member(name) });
        (topology.nodes[1].member, topology.nodes[2].member) = (small("b"), small("c"));
        let with_load = |load: fn(NodeId) -> u32| {
            route(
                &topology,
                &strict(read()),
                &Situation { tried: &[], turn: 0, load, now: at_ms(1), arrived_at: at_ms(1), monitored_at: at_ms(1) },
            )
        };
        assert_eq!(with_load(|id| if id == NodeId::new(1) { 5 } else { 4 }), Ok(NodeId::new(2)));
        assert_eq!(with_load(|_| 5), Err(NoRoute::AllFull));
    }

    #[test]
    fn a_replica_that_has_come_back_starts_slowly() {
        let mut topology = three();
        topology.nodes[1].serving_since = Some(at_ms(0));
        topology.nodes[2].serving_since = Some(at_ms(90_000));
        let rule = Rule { balance: Balance::Random, slow_start: Duration::from_secs(60), ..strict(read()) };
        let share_at = |now| {
            let at = |turn| {
                route(
                    &topology,
                    &rule,
                    &Situation { tried: &[], turn, load: |_| 0, now, arrived_at: now, monitored_at: now },
                )
            };
            (0..1000).filter(|turn| at(*turn) == Ok(NodeId::new(2))).count()
        };
        let (early, half, full) = (share_at(at_ms(91_000)), share_at(at_ms(120_000)), share_at(at_ms(150_000)));
        assert!(early < 80 && (280..390).contains(&half) && (450..550).contains(&full), "{early} {half} {full}");
    }

    #[test]
    fn preferred_replicas_serve_while_one_of_them_can_and_backups_only_when_no_other_replica_can() {
        let mut topology = three();
        topology.nodes.push(node("d", Some(replica(1))));
        topology.nodes[3].member = Arc::new(Member { is_backup: true, ..member("d") });
        topology.nodes[2] = replica_with(|report| _ = report.tags.insert("dc".into(), "east".into()));
        let by_tag = Rule { prefer_tags: [("dc".to_owned(), "east".to_owned())].into(), ..read() };
        let by_name = Rule { prefer_nodes: vec!["c".to_owned(), "d".to_owned()], ..read() };
        assert_eq!(readers(&topology, &read(), &[]), [1, 2, 1, 2], "the backup gets nothing");
        for rule in [by_tag, by_name] {
            assert_eq!(readers(&topology, &rule, &[]), [2; 4]);
            assert_eq!(readers(&topology, &rule, &[NodeId::new(2)]), [1; 4], "it has failed this session");
            assert_eq!(readers(&topology, &rule, &[NodeId::new(1), NodeId::new(2)]), [3; 4], "before the leader");
            let all_replicas = [1, 2, 3].map(NodeId::new);
            assert_eq!(readers(&topology, &rule, &all_replicas), [0; 4]);
            let mut silent = topology.clone();
            stop_answering(&mut silent, 2);
            assert_eq!(readers(&silent, &rule, &[]), [1; 4]);
            assert_eq!(why_on_wrong_node(&rule, &topology, NodeId::new(1)), None, "it is a soft choice");
        }
    }

    #[test]
    fn a_full_preferred_node_leaves_the_rest_to_the_others() {
        let mut topology = three();
        topology.nodes[2].member = Arc::new(Member { sessions_max: 5, ..member("c") });
        let rule = Rule { prefer_nodes: vec!["c".to_owned()], ..read() };
        let with_load = |load: u32| {
            let situation = Situation {
                tried: &[],
                turn: 0,
                load: |_| load,
                now: at_ms(1),
                arrived_at: at_ms(1),
                monitored_at: at_ms(1),
            };
            route(&topology, &rule, &situation)
        };
        assert_eq!([4, 5].map(with_load), [Ok(NodeId::new(2)), Ok(NodeId::new(1))]);
    }

    #[test]
    fn nothing_is_open_before_the_first_check() {
        let topology = Topology::unchecked(vec![node("a", None), node("b", None)]);
        for target in Target::ALL {
            assert!(routed(&topology, &Rule::new(target), &[]).is_err(), "{}", target.label());
        }
    }
}
