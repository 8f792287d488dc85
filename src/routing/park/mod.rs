//! Whether the write sessions of a cluster are parked: held at the end of their transactions until there is a leader
//! again, or until an operator lets them go on. PgBouncer calls this PAUSE and RESUME.
//!
//! [`session`] is the same for one session; [`carry`] is its way to another leader, and [`successor`] guesses which one that
//! will be. Pure: `proxy/sessions/parking.rs` does what the actions say.

pub mod carry;
pub mod session;
pub mod successor;

use std::time::Duration;

use crate::cluster::{Moment, NodeId};

/// The limits of a park.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkSettings {
    /// How long a session may take to end its transaction; after that it goes on as if it had not been asked to park.
    pub grace: Duration,
    /// How long sessions stay parked while the same node leads, and again how long while no node leads.
    pub max: Duration,
}

/// Whether the write sessions of a cluster are parked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Park {
    /// They are not.
    ///
    /// Exits: to `On` when it is asked for.
    #[default]
    Off,
    /// They are, or are about to be.
    ///
    /// Exits, all to `Off`: see [`ParkOver`].
    On(Parking),
}

/// A park that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parking {
    settings: ParkSettings,
    /// When it was asked for first.
    since: Moment,
    /// When the transactions have to be ended; `None` once this time is over.
    grace_until: Option<Moment>,
    /// The node that led when it was last looked.
    leader: Option<NodeId>,
    /// Since when no node leads; since the beginning of the park if it began without a leader.
    leaderless_since: Moment,
}

/// What happens to a park.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkEvent {
    /// An operator, or Patroni's `before_stop`, asks for it. During a park: those that are not parked are asked again.
    Asked(ParkSettings),
    /// An operator ends it.
    Unparked,
    /// Time has passed, or another node leads.
    Looked,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkAction {
    /// Ask the sessions to park, and hold new clients.
    Ask,
    /// Those that are not parked yet go on.
    EndGrace,
    /// No session is parked any more.
    End(ParkOver),
}

/// Why a park is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkOver {
    /// An operator has ended it: the sessions go on.
    Unparked,
    /// This node leads, after none did or another one. Sessions on it go on, sessions on others end.
    Led(NodeId),
    /// The same node has led for `max`: the sessions go on.
    StillLed,
    /// No node has led for `max`: the sessions end.
    NoLeader,
}

impl ParkOver {
    /// Every name, for metrics.
    pub const LABELS: [&str; 4] = ["unparked", "led", "park-max", "no-leader"];

    /// Its name in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            ParkOver::Unparked => "unparked",
            ParkOver::Led(_) => "led",
            ParkOver::StillLed => "park-max",
            ParkOver::NoLeader => "no-leader",
        }
    }
}

impl Park {
    /// Takes notice of an event; `leader` is the node that leads now.
    pub fn handle(&mut self, event: ParkEvent, leader: Option<NodeId>, now: Moment) -> Option<ParkAction> {
        match (&mut *self, event) {
            (Park::Off, ParkEvent::Asked(settings)) => {
                let grace_until = Some(now + settings.grace);
                *self = Park::On(Parking { settings, since: now, grace_until, leader, leaderless_since: now });
                Some(ParkAction::Ask)
            }
            (Park::Off, ParkEvent::Unparked | ParkEvent::Looked) => None,
            (Park::On(parking), ParkEvent::Asked(_)) => match parking.over(leader, now) {
                None => {
                    parking.grace_until = Some(now + parking.settings.grace);
                    Some(ParkAction::Ask)
                }
                Some(over) => self.end(over),
            },
            (Park::On(_), ParkEvent::Unparked) => self.end(ParkOver::Unparked),
            (Park::On(parking), ParkEvent::Looked) => match parking.over(leader, now) {
                None => parking.end_grace(now),
                Some(over) => self.end(over),
            },
        }
    }

    fn end(&mut self, over: ParkOver) -> Option<ParkAction> {
        *self = Park::Off;
        Some(ParkAction::End(over))
    }

    /// The park, if there is one.
    pub fn parking(&self) -> Option<&Parking> {
        match self {
            Park::Off => None,
            Park::On(parking) => Some(parking),
        }
    }
}

impl Parking {
    /// When it was asked for.
    pub fn since(&self) -> Moment {
        self.since
    }

    /// When it ends if nothing changes: sessions go on if a node leads then, and end if none does.
    pub fn ends_at(&self) -> Moment {
        let counted_from = if self.leader.is_some() { self.since } else { self.leaderless_since };
        counted_from + self.settings.max
    }

    /// When it has to be looked at again, if no other node leads before.
    pub fn due(&self) -> Moment {
        self.grace_until.map_or(self.ends_at(), |grace_until| grace_until.min(self.ends_at()))
    }

    fn over(&mut self, leader: Option<NodeId>, now: Moment) -> Option<ParkOver> {
        match (self.leader, leader) {
            (before, Some(leader)) if before != Some(leader) => return Some(ParkOver::Led(leader)),
            (Some(_), None) => (self.leader, self.leaderless_since) = (None, now),
            _ => {}
        }
        let over = if self.leader.is_some() { ParkOver::StillLed } else { ParkOver::NoLeader };
        (now >= self.ends_at()).then_some(over)
    }

    fn end_grace(&mut self, now: Moment) -> Option<ParkAction> {
        self.grace_until.take_if(|until| now >= *until).map(|_| ParkAction::EndGrace)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::fixtures::at_ms;

    const SETTINGS: ParkSettings = ParkSettings { grace: Duration::from_secs(5), max: Duration::from_secs(30) };
    const A: Option<NodeId> = Some(NodeId::new(0));
    const B: Option<NodeId> = Some(NodeId::new(1));

    /// A park that was asked for at one second.
    fn parked(leader: Option<NodeId>) -> Park {
        let mut park = Park::default();
        assert_eq!(park.handle(ParkEvent::Asked(SETTINGS), leader, at_ms(1000)), Some(ParkAction::Ask));
        park
    }

    fn looked(park: &mut Park, leader: Option<NodeId>, ms: u64) -> Option<ParkAction> {
        park.handle(ParkEvent::Looked, leader, at_ms(ms))
    }

    #[test]
    fn transactions_have_the_grace_to_end_and_the_park_goes_on() {
        let mut park = parked(A);
        assert_eq!(park.parking().map(Parking::due), Some(at_ms(6000)));
        assert_eq!(looked(&mut park, A, 5999), None);
        assert_eq!(looked(&mut park, A, 6000), Some(ParkAction::EndGrace));
        assert_eq!(looked(&mut park, A, 6001), None, "once");
        assert_eq!(park.parking().map(Parking::due), Some(at_ms(31_000)));
    }

    #[test]
    fn the_same_leader_for_park_max_lets_the_sessions_go_on() {
        let mut park = parked(A);
        assert_eq!(looked(&mut park, A, 30_999), Some(ParkAction::EndGrace));
        assert_eq!(looked(&mut park, A, 31_000), Some(ParkAction::End(ParkOver::StillLed)));
        assert_eq!(park, Park::Off);
    }

    #[test]
    fn park_max_without_a_leader_counts_from_its_loss() {
        let mut park = parked(A);
        looked(&mut park, A, 6000);
        assert_eq!(looked(&mut park, None, 11_000), None);
        assert_eq!(park.parking().map(Parking::due), Some(at_ms(41_000)));
        assert_eq!(looked(&mut park, None, 40_999), None);
        assert_eq!(looked(&mut park, None, 41_000), Some(ParkAction::End(ParkOver::NoLeader)));
    }

    #[test]
    fn a_leader_that_comes_back_or_another_one_ends_the_park() {
        for leader in [A, B] {
            let mut park = parked(A);
            looked(&mut park, None, 2000);
            assert_eq!(looked(&mut park, leader, 3000), leader.map(|id| ParkAction::End(ParkOver::Led(id))));
        }
        let mut park = parked(A);
        assert_eq!(looked(&mut park, B, 3000), B.map(|id| ParkAction::End(ParkOver::Led(id))), "without a gap");
    }

    /// Patroni runs its hook when PostgreSQL is "stopping" already, and pgvane may have seen that.
    #[test]
    fn a_park_may_begin_without_a_leader() {
        let mut park = parked(None);
        assert_eq!(looked(&mut park, None, 6000), Some(ParkAction::EndGrace));
        assert_eq!(looked(&mut park, A, 7000), A.map(|id| ParkAction::End(ParkOver::Led(id))));
        let mut park = parked(None);
        assert_eq!(looked(&mut park, None, 31_000), Some(ParkAction::End(ParkOver::NoLeader)));
    }

    #[test]
    fn asking_again_gives_a_new_grace_and_no_longer_park() {
        let mut park = parked(A);
        looked(&mut park, A, 6000);
        assert_eq!(park.handle(ParkEvent::Asked(SETTINGS), A, at_ms(28_000)), Some(ParkAction::Ask));
        assert_eq!(looked(&mut park, A, 31_000), Some(ParkAction::End(ParkOver::StillLed)));
    }

    #[test]
    fn an_operator_ends_a_park_whoever_leads() {
        for leader in [A, None] {
            let mut park = parked(leader);
            let ended = park.handle(ParkEvent::Unparked, leader, at_ms(2000));
            assert_eq!(ended, Some(ParkAction::End(ParkOver::Unparked)));
            assert_eq!(park.handle(ParkEvent::Unparked, leader, at_ms(2001)), None);
        }
    }

    proptest! {
        /// Whatever happens, and however rarely it is looked, a park ends: at its due times at the latest, and after
        /// twice `max` altogether.
        #[test]
        fn every_park_ends(steps in proptest::collection::vec((0u64..20_000, 0usize..3, 0u8..4), 1..40)) {
            let mut park = parked(A);
            let mut now = 1000;
            for (later, leader, what) in steps {
                now += later;
                let leader = [None, A, B][leader];
                let event = if what == 0 { ParkEvent::Asked(SETTINGS) } else { ParkEvent::Looked };
                let ends_before = park.parking().map(Parking::ends_at);
                let action = park.handle(event, leader, at_ms(now));
                match park.parking() {
                    None => prop_assert!(matches!(action, None | Some(ParkAction::End(_)))),
                    Some(parking) => {
                        prop_assert!(parking.ends_at() > at_ms(now), "it is over and has not ended");
                        prop_assert!(parking.ends_at() - parking.since() <= SETTINGS.max * 2 + Duration::from_secs(20));
                        prop_assert!(!matches!(action, Some(ParkAction::End(_))));
                    }
                }
                if let Some(ends) = ends_before && at_ms(now) >= ends && leader.is_none() {
                    // the loss of the leader may have been seen only now: then it has `max` from now on
                    prop_assert!(park.parking().is_none_or(|parking| parking.ends_at() - at_ms(now) <= SETTINGS.max));
                }
            }
        }
    }
}
