//! A parked session on its way to the leader: when it tries to log in there, and when it is given up.
//!
//! Pure: `proxy/session/carry.rs` waits, connects, logs in, restores the session's state and compares it.

use std::time::Duration;

use crate::cluster::{Moment, NodeId};

/// First wait before a leader that could not be reached is tried again, if nothing changes meanwhile.
const RETRY_FIRST: Duration = Duration::from_millis(50);

/// Longest such wait.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Where a session is on its way. From each state it may also end for a reason of its own: its client leaves, an operator
/// closes it, pgvane stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has no server.
    ///
    /// Exits: to `Attempt` when no park holds it and a node leads, not sooner than the wait after a failure; to `Over` when
    /// the park has failed, or after `park_max` without a park.
    Waiting,
    /// It waits for its turn to log in to this node, logs in, is restored and compared.
    ///
    /// Exits: to `Waiting` when this node does not lead any more, or after a failure that may pass; to `Over` when its
    /// state there is the same, or can never be, or after `park_max` without a park.
    Attempt(NodeId),
    /// It goes on, or ends. No exit.
    Over,
}

/// What holds a session back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkView {
    /// There is a park: nobody is let go on.
    On,
    /// There is none.
    Off,
    /// The session's park has ended without a leader.
    Failed,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempted {
    /// The session's state on the new server is the same.
    Same,
    /// It failed, and another one may succeed.
    Again,
    /// It failed, and every other one would.
    Never,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarryStep {
    /// Wait until something changes, or until this time.
    Wait(Option<Moment>),
    /// Begin an attempt at this node, or go on with it, until something changes, or until this time.
    Attempt(NodeId, Option<Moment>),
    /// The client goes on with its new server.
    GoOn(NodeId),
    /// It ends.
    End(CarryEnd),
}

/// Why a session is not carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarryEnd {
    /// No node has become the leader within `park_max`.
    NoLeader,
    /// No attempt has succeeded within `park_max`.
    TooLate,
    /// An attempt has shown that none can succeed.
    Impossible,
}

/// A session on its way to the leader.
#[derive(Debug)]
pub struct Carry {
    state: State,
    /// How long it may take while there is no park.
    max: Duration,
    /// When it is given up; `None` during a park, which ends by itself.
    deadline: Option<Moment>,
    retry_wait: Duration,
    retry_at: Option<Moment>,
}

impl Carry {
    /// A session that has lost its server.
    pub fn new(max: Duration) -> Carry {
        Carry { state: State::Waiting, max, deadline: None, retry_wait: RETRY_FIRST, retry_at: None }
    }

    /// Looks at what has changed: the park, the leader, the time.
    pub fn look(&mut self, park: ParkView, leader: Option<NodeId>, now: Moment) -> CarryStep {
        if self.state == State::Over {
            return CarryStep::Wait(None); // it has been said what happens
        }
        self.deadline = match park {
            ParkView::Failed => return self.end(CarryEnd::NoLeader),
            ParkView::On => None,
            ParkView::Off => Some(self.deadline.unwrap_or(now + self.max)),
        };
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return self.end(if leader.is_none() { CarryEnd::NoLeader } else { CarryEnd::TooLate });
        }
        if let State::Attempt(node) = self.state
            && leader != Some(node)
        {
            (self.state, self.retry_at, self.retry_wait) = (State::Waiting, None, RETRY_FIRST);
        }
        match (self.state, leader) {
            (State::Attempt(node), _) => CarryStep::Attempt(node, self.deadline),
            (State::Waiting, Some(leader)) if park == ParkView::Off => match self.retry_at.filter(|at| now < *at) {
                Some(at) => CarryStep::Wait(self.deadline.map(|deadline| deadline.min(at))),
                None => {
                    self.state = State::Attempt(leader);
                    CarryStep::Attempt(leader, self.deadline)
                }
            },
            (State::Waiting | State::Over, _) => CarryStep::Wait(self.deadline),
        }
    }

    /// Takes notice of the end of the attempt. `None`: look again.
    pub fn attempted(&mut self, outcome: Attempted, now: Moment) -> Option<CarryStep> {
        let State::Attempt(node) = self.state else { return None };
        match outcome {
            Attempted::Same => {
                self.state = State::Over;
                Some(CarryStep::GoOn(node))
            }
            Attempted::Never => Some(self.end(CarryEnd::Impossible)),
            Attempted::Again => {
                (self.state, self.retry_at) = (State::Waiting, Some(now + self.retry_wait));
                self.retry_wait = (self.retry_wait * 2).min(RETRY_MAX);
                None
            }
        }
    }

    fn end(&mut self, end: CarryEnd) -> CarryStep {
        self.state = State::Over;
        CarryStep::End(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::at_ms;

    const MAX: Duration = Duration::from_secs(30);
    const A: NodeId = NodeId::new(0);
    const B: NodeId = NodeId::new(1);

    #[test]
    fn it_waits_for_the_end_of_the_park_and_goes_to_the_leader() {
        let mut carry = Carry::new(MAX);
        assert_eq!(carry.look(ParkView::On, None, at_ms(0)), CarryStep::Wait(None));
        assert_eq!(carry.look(ParkView::On, Some(A), at_ms(60_000)), CarryStep::Wait(None), "a second park");
        assert_eq!(carry.look(ParkView::Off, Some(B), at_ms(61_000)), CarryStep::Attempt(B, Some(at_ms(91_000))));
        assert_eq!(carry.attempted(Attempted::Same, at_ms(61_100)), Some(CarryStep::GoOn(B)));
    }

    #[test]
    fn a_leader_that_cannot_be_reached_yet_is_tried_again() {
        let mut carry = Carry::new(MAX);
        assert!(matches!(carry.look(ParkView::Off, Some(A), at_ms(0)), CarryStep::Attempt(A, _)));
        assert_eq!(carry.attempted(Attempted::Again, at_ms(10)), None);
        assert_eq!(carry.look(ParkView::Off, Some(A), at_ms(10)), CarryStep::Wait(Some(at_ms(60))));
        assert!(matches!(carry.look(ParkView::Off, Some(A), at_ms(60)), CarryStep::Attempt(A, _)));
        assert_eq!(
            carry.look(ParkView::Off, None, at_ms(70)),
            CarryStep::Wait(Some(at_ms(30_000))),
            "it leads no more"
        );
        assert!(matches!(carry.look(ParkView::Off, Some(B), at_ms(80)), CarryStep::Attempt(B, _)), "at once");
    }

    #[test]
    fn it_ends_with_the_reason_that_is_true() {
        let end = |park, leader, ms| {
            let mut carry = Carry::new(MAX);
            carry.look(ParkView::Off, leader, at_ms(0));
            carry.look(park, leader, at_ms(ms))
        };
        assert_eq!(end(ParkView::Failed, None, 1), CarryStep::End(CarryEnd::NoLeader));
        assert_eq!(end(ParkView::Off, None, 30_000), CarryStep::End(CarryEnd::NoLeader));
        assert_eq!(end(ParkView::Off, Some(A), 30_000), CarryStep::End(CarryEnd::TooLate));
        let mut carry = Carry::new(MAX);
        carry.look(ParkView::Off, Some(A), at_ms(0));
        assert_eq!(carry.attempted(Attempted::Never, at_ms(1)), Some(CarryStep::End(CarryEnd::Impossible)));
    }

    /// Whatever happens, in whatever order: a client goes on only after an attempt at the node that led when it was last
    /// looked, whose state was the same; attempts begin only while no park holds the session and that node leads; and
    /// without a park it is over after `park_max`.
    #[test]
    fn faults_at_every_step() {
        for seed in 0..20_000 {
            let mut chance = fastrand::Rng::with_seed(seed);
            let (mut carry, mut now, mut off_since) = (Carry::new(MAX), 0, None);
            let mut running: Option<NodeId> = None;
            let ended = loop {
                now += chance.u64(0..3_000);
                let park = [ParkView::On, ParkView::Off, ParkView::Off, ParkView::Off][chance.usize(..4)];
                let park = if chance.u32(..200) == 0 { ParkView::Failed } else { park };
                let leader = [None, Some(A), Some(B), Some(B)][chance.usize(..4)];
                off_since = if park == ParkView::Off { off_since.or(Some(now)) } else { None };
                let step = carry.look(park, leader, at_ms(now));
                match step {
                    CarryStep::Attempt(node, deadline) => {
                        assert_eq!(leader, Some(node), "seed {seed}");
                        assert!(running == Some(node) || park == ParkView::Off, "seed {seed}: it began during a park");
                        assert_eq!(deadline.is_none(), park == ParkView::On, "seed {seed}");
                        running = Some(node);
                    }
                    CarryStep::Wait(_) => running = None,
                    CarryStep::GoOn(_) => panic!("seed {seed}: without an attempt"),
                    CarryStep::End(_) => break step,
                }
                let late = off_since.is_some_and(|since| at_ms(now) - at_ms(since) >= MAX);
                assert!(!late, "seed {seed}: it is not over after park_max");
                if let Some(node) = running.filter(|_| chance.bool()) {
                    let outcome =
                        [Attempted::Same, Attempted::Never, Attempted::Again, Attempted::Again][chance.usize(..4)];
                    running = None;
                    match carry.attempted(outcome, at_ms(now)) {
                        None => assert_eq!(outcome, Attempted::Again, "seed {seed}"),
                        Some(step) => {
                            let expected = match outcome {
                                Attempted::Same => CarryStep::GoOn(node),
                                _ => CarryStep::End(CarryEnd::Impossible),
                            };
                            assert_eq!(step, expected, "seed {seed}");
                            break step;
                        }
                    }
                }
            };
            assert_eq!(carry.look(ParkView::Off, Some(A), at_ms(now)), CarryStep::Wait(None), "seed {seed}: {ended:?}");
            assert_eq!(carry.attempted(Attempted::Same, at_ms(now)), None, "seed {seed}: it is over");
        }
    }
}
