//! Where a new session goes: a pure function of the topology, the listener's rule and the load.

mod balance;
mod coverage;
mod fitness;
mod pools;
mod rebalance;
mod rule;
mod server_state;

use std::fmt;
use std::time::Duration;

pub use balance::{Balance, Choice};
pub use coverage::{Coverage, Excluded};
use fitness::Fitness;
pub use fitness::why_misplaced;
use pools::Pools;
pub use rebalance::{NodeLoad, Phase, Rebalance};
pub use rule::{Cause, Reaction, Reactions, Rule, Target};
pub use server_state::{ServerState, server_state};

use crate::cluster::topology::{NodeView, Topology};
use crate::cluster::{Moment, NodeId};

/// pgvane handles the nodes' checks at least this often (in fact several times as often), unless it was suspended.
const ATTENDED_WITHIN: Duration = Duration::from_secs(2);

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
    pub came_at: Moment,
    /// When pgvane last handled the nodes' checks. If that is long ago, pgvane was suspended, and what it knows may be
    /// as old.
    pub attended_at: Moment,
}

/// Why there is no node for a session, as text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    /// No node takes writes.
    NoLeader(String),
    /// No node of the requested kind is eligible.
    NoneFit(String),
    /// All eligible nodes have reached their `sessions_max`.
    AllFull,
    /// All eligible nodes were tried for this session, and failed.
    AllTried,
}

impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoRoute::NoLeader(why) => write!(f, "no leader: {why}"),
            NoRoute::NoneFit(why) => write!(f, "no eligible server: {why}"),
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
    let pools: Vec<Vec<NodeId>> = match rule.target {
        Target::Leader => vec![vec![certain_leader(topology, situation)?]],
        _ => Pools::new(topology, rule).in_order().filter(|pool| !pool.is_empty()).cloned().collect(),
    };
    if pools.is_empty() {
        return Err(NoRoute::NoneFit(why_none_fit(topology, rule)));
    }
    let untried = |pool: &Vec<NodeId>| -> Vec<NodeId> {
        pool.iter().copied().filter(|id| !situation.tried.contains(id)).collect()
    };
    let pools: Vec<Vec<NodeId>> = pools.iter().map(untried).collect();
    if pools.iter().all(Vec::is_empty) {
        return Err(NoRoute::AllTried);
    }
    let choices = |pool: &Vec<NodeId>| -> Vec<Choice> {
        let mut all = choices_of(pool, topology, rule, situation);
        all.retain(|choice| has_room(choice, topology));
        all
    };
    pools.iter().find_map(|pool| rule.balance.pick(&choices(pool), situation.turn)).ok_or(NoRoute::AllFull)
}

fn choices_of<Load: Fn(NodeId) -> u32>(
    pool: &[NodeId],
    topology: &Topology,
    rule: &Rule,
    situation: &Situation<'_, Load>,
) -> Vec<Choice> {
    pool.iter().map(|id| choice(*id, topology.node(*id), rule.slow_start, situation)).collect()
}

fn has_room(choice: &Choice, topology: &Topology) -> bool {
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
    if situation.now - situation.attended_at > ATTENDED_WITHIN {
        return Err(NoRoute::NoLeader(format!("pgvane was suspended, so the role of {name} is being checked again")));
    }
    if topology.is_doubted_for(situation.came_at) {
        return Err(NoRoute::NoLeader(format!("the role of {name} is being checked again")));
    }
    match topology.node(leader).admin.why_unfit() {
        None => Ok(leader),
        Some(why) => Err(NoRoute::NoneFit(format!("{name} is the leader and is {why}"))),
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

fn why_none_fit(topology: &Topology, rule: &Rule) -> String {
    let reasons: Vec<String> = topology
        .members()
        .filter_map(|(id, node)| match fitness::for_reads(topology, id, rule) {
            Fitness::Unfit { why, .. } => Some(format!("{} is {why}", node.member.name)),
            Fitness::Fresh | Fitness::Silent => None,
        })
        .collect();
    if reasons.is_empty() { "no server is known".to_owned() } else { reasons.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::AdminState;
    use crate::cluster::fixtures::{at_ms, leader, member, replica, report};
    use crate::cluster::health::Health;
    use crate::cluster::lag::Lag;
    use crate::cluster::leadership::Leadership;
    use crate::cluster::node::{CheckError, Claim, Member, Report, SyncStanding};

    fn read() -> Rule {
        Rule { balance: Balance::RoundRobin, lag_bytes_max: Some(64), ..Rule::new(Target::Replica) }
    }

    fn strict(rule: Rule) -> Rule {
        Rule { falls_back_to_leader: false, ..rule }
    }

    fn node(name: &str, report: Option<Arc<Report>>) -> NodeView {
        let health = match report {
            Some(report) => Health::Answering { report, asked_at: at_ms(1), since: at_ms(1), missed: 0 },
            None => Health::UNKNOWN,
        };
        NodeView { health, ..NodeView::unchecked(Arc::new(member(name))) }
    }

    /// A leader and two replicas, in this order.
    fn three() -> Topology {
        let nodes = vec![node("a", Some(leader(1))), node("b", Some(replica(1))), node("c", Some(replica(1)))];
        let leadership = Leadership::Led { leader: NodeId::new(0), timeline: Some(1), since: at_ms(1) };
        Topology { leadership, ..Topology::unchecked(nodes) }
    }

    fn replica_with(change: impl FnOnce(&mut Report)) -> NodeView {
        let mut changed = report(Claim::Replica, 1);
        change(&mut changed);
        node("c", Some(Arc::new(changed)))
    }

    fn routed(topology: &Topology, rule: &Rule, tried: &[NodeId]) -> Result<NodeId, NoRoute> {
        route(
            topology,
            rule,
            &Situation { tried, turn: 0, load: |_| 0, now: at_ms(1), came_at: at_ms(1), attended_at: at_ms(1) },
        )
    }

    fn readers(topology: &Topology, rule: &Rule, tried: &[NodeId]) -> Vec<usize> {
        let at_turn = |turn| {
            route(
                topology,
                rule,
                &Situation { tried, turn, load: |_| 0, now: at_ms(1), came_at: at_ms(1), attended_at: at_ms(1) },
            )
        };
        (0..4).filter_map(|turn| at_turn(turn).ok()).map(|id| id.index()).collect()
    }

    fn fall_silent(topology: &mut Topology, id: usize) {
        let report = Arc::clone(topology.nodes[id].health.report().expect("has answered"));
        let error = CheckError::TimedOut;
        topology.nodes[id].health = Health::Silent { report, asked_at: at_ms(1), since: at_ms(2), error, risen: 0 };
    }

    #[test]
    fn writes_go_to_the_leader_unless_it_is_doubted() {
        let mut topology = three();
        assert_eq!(routed(&topology, &Rule::new(Target::Leader), &[]), Ok(NodeId::new(0)));
        topology.doubted_at = Some(at_ms(1));
        assert!(matches!(routed(&topology, &Rule::new(Target::Leader), &[]), Err(NoRoute::NoLeader(_))));
    }

    #[test]
    fn reads_spread_over_replicas_and_leave_the_leader_alone() {
        assert_eq!(readers(&three(), &read(), &[]), [1, 2, 1, 2]);
    }

    #[test]
    fn a_replica_that_lags_or_is_tagged_noloadbalance_gets_nothing_new() {
        let mut topology = three();
        topology.nodes[1].recent_lag = Some(Lag { bytes: 65, time: Duration::ZERO });
        topology.nodes[2] = replica_with(|report| {
            report.noloadbalance = true;
        });
        assert_eq!(readers(&topology, &read(), &[]), [0; 4], "the leader stands in");
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
    fn silent_replicas_serve_only_when_no_other_node_can() {
        let mut topology = three();
        fall_silent(&mut topology, 1);
        assert_eq!(readers(&topology, &read(), &[]), [2; 4]);
        fall_silent(&mut topology, 2);
        assert_eq!(readers(&topology, &read(), &[]), [0; 4]);
        assert_eq!(readers(&topology, &strict(read()), &[]), [1, 2, 1, 2]);
    }

    #[test]
    fn nodes_that_have_just_failed_others_are_tried_last() {
        let mut topology = three();
        topology.nodes[1].ports.fails_client(None, "connection refused", at_ms(1));
        assert_eq!(readers(&topology, &read(), &[]), [2; 4]);
        assert_eq!(readers(&topology, &strict(read()), &[NodeId::new(2)]), [1; 4]);
        assert_eq!(why_misplaced(&read(), &topology, NodeId::new(1)), None, "running sessions are not affected");
        topology.nodes[2].ports.fails_client(None, "connection refused", at_ms(1));
        assert_eq!(readers(&topology, &read(), &[]), [0; 4], "the leader stands in");
        topology.nodes[0].ports.fails_client(None, "connection refused", at_ms(1));
        assert_eq!(readers(&topology, &read(), &[]), [1, 2, 1, 2]);
        fall_silent(&mut topology, 2);
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
                &Situation { tried: &[], turn: 0, load, now: at_ms(1), came_at: at_ms(1), attended_at: at_ms(1) },
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
                    &Situation { tried: &[], turn, load: |_| 0, now, came_at: now, attended_at: now },
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
            fall_silent(&mut silent, 2);
            assert_eq!(readers(&silent, &rule, &[]), [1; 4]);
            assert_eq!(why_misplaced(&rule, &topology, NodeId::new(1)), None, "it is a soft choice");
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
                came_at: at_ms(1),
                attended_at: at_ms(1),
            };
            route(&topology, &rule, &situation)
        };
        assert_eq!([4, 5].map(with_load), [Ok(NodeId::new(2)), Ok(NodeId::new(1))]);
    }

    #[test]
    fn quorum_members_and_synchronous_standbys_can_be_told_apart() {
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
        let by_role = |target| why_misplaced(&strict(Rule::new(target)), &topology, NodeId::new(1));
        assert_eq!([Target::SyncOnly, Target::Quorum].map(by_role), [Some(Cause::Standing); 2]);
    }

    /// As Patroni's /read-only-sync and /read-only-quorum.
    #[test]
    fn the_leader_may_have_its_share_beside_synchronous_replicas() {
        let mut topology = three();
        topology.nodes[2] = replica_with(|report| report.sync = SyncStanding::Sync);
        let rule = Rule { balance: Balance::RoundRobin, includes_leader: true, ..strict(Rule::new(Target::SyncOnly)) };
        assert_eq!(readers(&topology, &rule, &[]), [0, 2, 0, 2]);
        assert_eq!(why_misplaced(&rule, &topology, NodeId::new(0)), None);
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
    fn nothing_is_open_before_the_first_check() {
        let topology = Topology::unchecked(vec![node("a", None), node("b", None)]);
        for target in Target::ALL {
            assert!(routed(&topology, &Rule::new(target), &[]).is_err(), "{}", target.label());
        }
    }

    #[test]
    fn a_node_that_an_operator_takes_out_of_service_gets_nothing_new_whatever_it_is() {
        for state in [AdminState::Drain, AdminState::Maint] {
            let mut topology = three();
            topology.nodes[1].admin = state;
            assert_eq!(readers(&topology, &read(), &[]), [2; 4]);
            topology.nodes[2].admin = state;
            assert_eq!(readers(&topology, &read(), &[]), [0; 4], "the leader stands in");
            topology.nodes[0].admin = state;
            for rule in [read(), strict(read()), Rule::new(Target::Any), Rule::new(Target::Leader)] {
                let Err(NoRoute::NoneFit(why)) = routed(&topology, &rule, &[]) else { panic!("{state:?}: {rule:?}") };
                let expected = format!("is {}", state.why_unfit().expect("it is out of service"));
                assert!(why.contains(&expected), "{expected:?} is not in {why:?}");
            }
        }
    }

    #[test]
    fn the_stronger_reaction_tells_which_of_two_causes_counts() {
        let mut topology = three();
        topology.nodes[1].admin = AdminState::Drain;
        topology.nodes[1].recent_lag = Some(Lag { bytes: 65, time: Duration::ZERO });
        let misplaced = |topology: &Topology, rule: &Rule| why_misplaced(rule, topology, NodeId::new(1));
        assert_eq!(misplaced(&topology, &read()), Some(Cause::Operator), "lag keeps, and this drains");
        topology.nodes[1].departed = true;
        assert_eq!(misplaced(&topology, &read()), Some(Cause::Operator));
        topology.nodes[1].departed = false;
        assert_eq!(misplaced(&topology, &Rule::new(Target::Leader)), Some(Cause::LostLead), "this cuts");
        let mut keeps = read();
        keeps.reactions.set(Cause::Operator, Reaction::Keep);
        keeps.reactions.set(Cause::Lag, Reaction::Drain);
        assert_eq!(misplaced(&topology, &keeps), Some(Cause::Lag));
    }

    #[test]
    fn sessions_are_misplaced_for_the_causes_of_the_table_only() {
        let mut topology = three();
        let misplaced = |topology: &Topology, rule: &Rule, id| why_misplaced(rule, topology, NodeId::new(id));
        assert_eq!(misplaced(&topology, &Rule::new(Target::Leader), 0), None);
        assert_eq!(misplaced(&topology, &Rule::new(Target::Leader), 1), Some(Cause::LostLead));
        assert_eq!(misplaced(&topology, &strict(read()), 0), Some(Cause::Promotion));
        assert_eq!(misplaced(&topology, &read(), 0), None, "the leader may stand in");
        assert_eq!(misplaced(&topology, &read(), 1), None);
        topology.nodes[1].recent_lag = Some(Lag { bytes: 65, time: Duration::ZERO });
        assert_eq!(misplaced(&topology, &read(), 1), Some(Cause::Lag));
        assert_eq!(misplaced(&topology, &Rule::new(Target::Sync), 2), Some(Cause::Standing));
        fall_silent(&mut topology, 2);
        assert_eq!(misplaced(&topology, &read(), 2), Some(Cause::Silence));
        topology.nodes[2].departed = true;
        assert_eq!(misplaced(&topology, &read(), 2), Some(Cause::Departure));
    }
}
