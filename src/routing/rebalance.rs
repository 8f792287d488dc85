//! When sessions are moved so that nodes have their shares again, and which node gives one up.
//!
//! Rebalancing begins when a node has had too many sessions for a while, and ends when another move improves nothing. A
//! session that is moved is routed again, to the node with the fewest sessions for its weight. So only a session whose
//! move improves the balance is moved, and rebalancing always ends.

use std::time::Duration;

use super::pools::{Pools, fallback_leader};
use super::route::{Situation, choices_of, has_room};
use super::{Choice, Rule};
use crate::cluster::topology::Topology;
use crate::cluster::{Moment, NodeId};

/// A listener's settings for rebalancing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebalance {
    /// At most one session is moved in this time.
    pub every: Duration,
    /// How much more than its share a node may have, in percent of the share.
    pub tolerance_percent: u32,
    /// How long a node must have had more than that.
    pub after: Duration,
}

impl Default for Rebalance {
    fn default() -> Rebalance {
        // ten seconds are longer than the wave of new connections after a restart; a fifth is more than the normal
        // variation
        Rebalance { every: Duration::from_secs(1), tolerance_percent: 20, after: Duration::from_secs(10) }
    }
}

/// The load of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeLoad {
    /// Sessions of all listeners.
    pub sessions: u32,
    /// Sessions of this listener that can be moved.
    pub movable: u32,
    /// Sessions that were ordered to move and are still there.
    pub leaving: u32,
}

impl NodeLoad {
    /// Its sessions without those that leave.
    fn lasting(self) -> u32 {
        self.sessions.saturating_sub(self.leaving)
    }
}

/// The phase of rebalancing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// All nodes have about their shares. Exits: to `Uneven` when a node has too many sessions.
    #[default]
    Even,
    /// A node has too many sessions since this moment. Exits: to `Moving` after `after`, to `Even` when no node has.
    Uneven(Moment),
    /// Sessions are being moved. Exits: to `Even` when another move improves nothing.
    Moving,
}

impl Phase {
    /// Enters the next phase, and returns the node from which a session has to be moved now.
    pub fn step(
        &mut self,
        settings: &Rebalance,
        topology: &Topology,
        rule: &Rule,
        node_load: impl Fn(NodeId) -> NodeLoad,
        now: Moment,
    ) -> Option<NodeId> {
        let imbalance = Imbalance::new(topology, rule, &node_load, now);
        if *self != Phase::Moving {
            *self = match (*self, imbalance.is_uneven(settings.tolerance_percent)) {
                (_, false) => Phase::Even,
                (Phase::Uneven(since), true) if now - since >= settings.after => Phase::Moving,
                (Phase::Uneven(since), true) => Phase::Uneven(since),
                (_, true) => Phase::Uneven(now),
            };
        }
        let donor = imbalance.donor().filter(|_| *self == Phase::Moving);
        if donor.is_none() && *self == Phase::Moving {
            *self = Phase::Even;
        }
        donor
    }
}

/// The nodes that share the sessions, and those that have to give up all of theirs.
struct Imbalance<'a, F: Fn(NodeId) -> NodeLoad> {
    /// These nodes, with their sessions without those that leave.
    sharing: Vec<Choice>,
    /// Nodes that replaced these and are no longer needed for that: nodes that are not preferred, backups, the leader.
    substitutes: Vec<NodeId>,
    node_load: &'a F,
    /// The sharing nodes that have room for another session.
    takers: Vec<Choice>,
}

impl<'a, F: Fn(NodeId) -> NodeLoad> Imbalance<'a, F> {
    fn new(topology: &Topology, rule: &Rule, node_load: &'a F, now: Moment) -> Imbalance<'a, F> {
        let load = |id| node_load(id).lasting();
        let situation = Situation { tried: &[], turn: 0, load, now, arrived_at: now, monitored_at: now };
        let pools = Pools::new(topology, rule);
        let mut ranks = pools.eligible.iter().skip_while(|pool| pool.is_empty());
        let sharing = choices_of(ranks.next().into_iter().flatten(), topology, rule, &situation);
        let takers: Vec<Choice> = sharing.iter().copied().filter(|choice| has_room(choice, topology)).collect();
        let leader = fallback_leader(topology, rule).filter(|id| sharing.iter().all(|choice| choice.node != *id));
        let substitutes = leader.into_iter().chain(ranks.flatten().copied()).collect();
        Imbalance { sharing, substitutes, node_load, takers }
    }

    fn is_uneven(&self, tolerance_percent: u32) -> bool {
        let (load, weight) = self.sharing.iter().fold((0, 0), |(load, weight), choice| {
            (load + u128::from(choice.load), weight + u128::from(choice.weight))
        });
        let carries_too_much = |choice: &Choice| {
            let (carried, allowed) = (u128::from(choice.load) * weight * 100, load * u128::from(choice.weight));
            carried > allowed * u128::from(100 + tolerance_percent)
        };
        self.substitute_to_leave().is_some()
            || self.sharing.iter().any(|choice| carries_too_much(choice) && self.can_give_one(choice))
    }

    /// The node that has to give up a session, if that improves the balance.
    fn donor(&self) -> Option<NodeId> {
        let by_load = |a: &&Choice, b: &&Choice| {
            (u128::from(a.load) * u128::from(b.weight)).cmp(&(u128::from(b.load) * u128::from(a.weight)))
        };
        let heaviest = || self.sharing.iter().filter(|choice| self.can_give_one(choice)).max_by(by_load);
        self.substitute_to_leave().or_else(|| heaviest().map(|choice| choice.node))
    }

    fn substitute_to_leave(&self) -> Option<NodeId> {
        let mut of_those = self.substitutes.iter().copied().filter(|id| (self.node_load)(*id).movable > 0);
        of_those.next().filter(|_| !self.takers.is_empty())
    }

    /// Whether it has a session that can be moved to a node which, with that session, has less load than this one. The only
    /// session of all nodes is not moved: without it all nodes are equals, and it could come back.
    fn can_give_one(&self, donor: &Choice) -> bool {
        let is_the_only_session = donor.load == 1 && self.sharing.iter().map(|choice| choice.load).sum::<u32>() == 1;
        let is_lighter = |taker: &Choice| {
            let then = (u128::from(taker.load) + 1) * u128::from(donor.weight);
            then < u128::from(donor.load) * u128::from(taker.weight)
        };
        !is_the_only_session && (self.node_load)(donor.node).movable > 0 && self.takers.iter().any(is_lighter)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::cluster::AdminState;
    use crate::cluster::fixtures::{at_ms, leader, member, replica};
    use crate::cluster::health::Health;
    use crate::cluster::leadership::Leadership;
    use crate::cluster::node::{Member, Report};
    use crate::cluster::topology::NodeView;
    use crate::routing::{Target, route};

    const EVERY: Duration = Duration::from_secs(1);

    /// A leader, some replicas of these weights, and what each carries.
    struct Bench {
        topology: Topology,
        rule: Rule,
        settings: Rebalance,
        sessions: RefCell<Vec<u32>>,
        phase: Phase,
        now: Moment,
    }

    impl Bench {
        fn new(weights: &[u32], sessions: &[u32]) -> Bench {
            let node = |name: String, weight, report: Arc<Report>| NodeView {
                health: Health::Answering { report, asked_at: at_ms(1), since: at_ms(1), missed: 0 },
                ..NodeView::unchecked(Arc::new(Member { weight, ..member(&name) }))
            };
            let replicas = weights.iter().enumerate().map(|(at, weight)| node(format!("r{at}"), *weight, replica(1)));
            let nodes = std::iter::once(node("leader".to_owned(), 100, leader(1))).chain(replicas).collect();
            let leadership = Leadership::Led { leader: NodeId::new(0), timeline: Some(1), since: at_ms(1) };
            Bench {
                topology: Topology { leadership, ..Topology::unchecked(nodes) },
                rule: Rule::new(Target::Replica),
                settings: Rebalance { every: EVERY, ..Rebalance::default() },
                sessions: RefCell::new(std::iter::once(0).chain(sessions.iter().copied()).collect()),
                phase: Phase::Even,
                now: at_ms(0),
            }
        }

        /// Lets a step's time pass and takes it.
        fn step(&mut self) -> Option<NodeId> {
            self.now = self.now + EVERY;
            let Bench { topology, rule, settings, sessions, now, .. } = self;
            let node_load = |id: NodeId| {
                let sessions = sessions.borrow()[id.index()];
                NodeLoad { sessions, movable: sessions, leaving: 0 }
            };
            self.phase.step(settings, topology, rule, node_load, *now)
        }

        /// A session ends on one node, and its client connects again.
        fn moves(&mut self, from: NodeId) -> NodeId {
            self.sessions.borrow_mut()[from.index()] -= 1;
            let load = |id: NodeId| self.sessions.borrow()[id.index()];
            let to = route(
                &self.topology,
                &self.rule,
                &Situation { tried: &[], turn: 0, load, now: self.now, arrived_at: self.now, monitored_at: self.now },
            );
            let to = to.expect("there are replicas");
            self.sessions.borrow_mut()[to.index()] += 1;
            to
        }

        /// Steps until nothing is moved any more, and counts the moves.
        fn settles(&mut self) -> usize {
            let mut moved = 0;
            let most = self.sessions.borrow().iter().sum::<u32>() as usize;
            for _ in 0..most + 30 {
                if let Some(from) = self.step() {
                    moved += 1;
                    assert_ne!(self.moves(from), from, "the move improved nothing");
                }
            }
            assert_eq!(self.step(), None, "{:?}", self.sessions.borrow());
            moved
        }

        fn carried(&self) -> Vec<u32> {
            self.sessions.borrow().clone()
        }
    }

    #[test]
    fn a_replica_that_came_back_gets_its_share_after_a_while_and_one_by_one() {
        let mut bench = Bench::new(&[100, 100], &[12, 0]);
        for _ in 0..10 {
            assert_eq!(bench.step(), None, "the imbalance is still too new");
        }
        for _ in 0..6 {
            assert_eq!(bench.step(), Some(NodeId::new(1)));
            assert_eq!(bench.moves(NodeId::new(1)), NodeId::new(2));
        }
        assert_eq!(bench.step(), None);
        assert_eq!((bench.carried(), bench.phase), (vec![0, 6, 6], Phase::Even));
    }

    #[test]
    fn nothing_moves_within_the_tolerance_and_a_rebalance_that_began_is_finished() {
        let mut within = Bench::new(&[100, 100], &[11, 9]);
        assert_eq!(within.settles(), 0);
        let mut beyond = Bench::new(&[100, 100], &[13, 7]);
        assert_eq!((beyond.settles(), beyond.carried()), (3, vec![0, 10, 10]));
    }

    #[test]
    fn the_only_session_stays_where_it_is() {
        let mut bench = Bench::new(&[60, 120], &[1, 0]);
        assert_eq!((bench.settles(), bench.carried()), (0, vec![0, 1, 0]));
        bench.sessions.replace(vec![0, 2, 0]);
        assert_eq!((bench.settles(), bench.carried()), (1, vec![0, 1, 1]));
    }

    #[test]
    fn an_imbalance_that_passes_moves_no_session() {
        let mut bench = Bench::new(&[100, 100], &[12, 0]);
        for _ in 0..5 {
            for _ in 0..9 {
                assert_eq!(bench.step(), None);
            }
            let uneven = bench.sessions.replace(vec![0, 6, 6]);
            assert_eq!(bench.step(), None);
            bench.sessions.replace(uneven);
        }
    }

    #[test]
    fn readers_on_the_leader_go_back_to_the_replicas() {
        let mut bench = Bench::new(&[100, 100], &[0, 0]);
        bench.sessions.borrow_mut()[0] = 8;
        for replica in [1, 2] {
            bench.topology.nodes[replica].admin = AdminState::Drain;
        }
        assert_eq!(bench.settles(), 0, "no other node is eligible");
        bench.topology.nodes[1].admin = AdminState::Ready;
        assert_eq!((bench.settles(), bench.carried()), (8, vec![0, 8, 0]));
        bench.rule.target = Target::Any;
        bench.sessions.replace(vec![8, 0, 0]);
        assert_eq!(
            (bench.settles(), bench.carried()),
            (4, vec![4, 4, 0]),
            "where it is one of them, it keeps its share"
        );
    }

    #[test]
    fn sessions_leave_backups_and_other_than_preferred_nodes_again() {
        let mut bench = Bench::new(&[100, 100, 100], &[0, 0, 0]);
        bench.topology.nodes[3].member = Arc::new(Member { is_backup: true, ..member("r2") });
        bench.rule.prefer_nodes = vec!["r0".to_owned()];
        bench.sessions.replace(vec![2, 0, 3, 4]);
        bench.topology.nodes[1].admin = AdminState::Drain;
        assert_eq!(
            (bench.settles(), bench.carried()),
            (6, vec![0, 0, 9, 0]),
            "to the others while no preferred one is there"
        );
        bench.topology.nodes[1].admin = AdminState::Ready;
        assert_eq!((bench.settles(), bench.carried()), (9, vec![0, 9, 0, 0]));
        bench.topology.nodes[1].member = Arc::new(Member { sessions_max: 9, ..member("r0") });
        bench.sessions.replace(vec![0, 9, 1, 0]);
        assert_eq!(bench.settles(), 0, "the preferred one is full");
    }

    #[test]
    fn full_nodes_take_no_session_and_leaving_sessions_count_as_gone() {
        let mut bench = Bench::new(&[100, 100], &[6, 1]);
        bench.topology.nodes[2].member = Arc::new(Member { sessions_max: 2, ..member("r1") });
        assert_eq!((bench.settles(), bench.carried()), (1, vec![0, 5, 2]));

        let bench = Bench::new(&[100, 100], &[6, 2]);
        let step = |leaving, movable| {
            let node_load = |id: NodeId| match id.index() {
                1 => NodeLoad { sessions: 6, movable, leaving },
                2 => NodeLoad { sessions: 2, movable: 2, leaving: 0 },
                _ => NodeLoad::default(),
            };
            { Phase::Moving }.step(&bench.settings, &bench.topology, &bench.rule, node_load, at_ms(0))
        };
        assert_eq!(step(2, 4), Some(NodeId::new(1)));
        assert_eq!(step(3, 3), None, "three against two, soon");
        assert_eq!(step(0, 0), None, "no session there can be moved");
    }

    proptest! {
        /// For all weights and loads: it ends, no session is moved without need, and then a node has too many sessions
        /// only if one session less would be too few.
        #[test]
        fn rebalancing_ends_in_balance(
            nodes in proptest::collection::vec((1u32..200, 0u32..40), 1..6),
        ) {
            let (weights, sessions): (Vec<u32>, Vec<u32>) = nodes.into_iter().unzip();
            let total: u32 = sessions.iter().sum();
            let mut bench = Bench::new(&weights, &sessions);
            bench.settings.tolerance_percent = 0;
            let moved = bench.settles();
            prop_assert!(moved <= total as usize);
            let carried = bench.carried();
            let all_weights: u32 = weights.iter().sum();
            for (weight, carried) in weights.iter().zip(&carried[1..]) {
                let share = f64::from(total) * f64::from(*weight) / f64::from(all_weights);
                prop_assert!(f64::from(*carried) < share + weights.len() as f64, "{:?} of {:?}", carried, share);
            }
        }
    }
}
