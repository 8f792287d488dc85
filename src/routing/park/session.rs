//! Whether one session is parked.

use super::ParkOver;
use crate::cluster::NodeId;

/// Whether a session is parked. A session may also end in any of these states, for every reason that it could end
/// before: its client or its server closes, an operator closes it, its node loses the lead, pgvane stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPark {
    /// It has not been asked to park.
    ///
    /// Exits: to `Finishing` when it is asked.
    Free,
    /// It has been asked to park and has a transaction, a request or a login in progress: that goes on, and no other
    /// one begins.
    ///
    /// Exits: to `Parked` between two transactions; to `Late` when `park_grace` is over; to `Free` when the park is
    /// over.
    Finishing,
    /// It is between two transactions, and nothing is read from its client.
    ///
    /// Exits: to `Free` when the park is over and its node leads, or it is let go; to `NoLeader` or `NewLeader`
    /// when the park is over and it cannot go on; to `Carrying` when it has lost its server.
    Parked,
    /// Its transaction did not end within `park_grace`, so that it goes on as if it had not been asked.
    ///
    /// Exits: to `Finishing` when it is asked again; to `Free` when the park is over.
    Late,
    /// It ends, because no node led for `park_max`. No exit.
    NoLeader,
    /// It cannot stay, because another node leads.
    ///
    /// Exits: to `Carrying`; or it ends.
    NewLeader,
    /// It has no server any more, and is being carried to the leader.
    ///
    /// Exits: to `Free` when it is there; to `NoLeader` when the park is over and no node leads.
    Carrying,
}

/// What happens to a session's park.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionParkEvent {
    /// It is asked to park.
    Asked,
    /// It is between two transactions, and reads no more from its client.
    AtRest,
    /// `park_grace` is over.
    GraceOver,
    /// It has left its server, to be carried to the leader.
    LeftServer,
    /// It is at the leader.
    Arrived,
    /// The park is over.
    Over(ParkOver),
}

impl SessionPark {
    /// Every state. The place of a state is its number.
    const ALL: [SessionPark; 7] = [
        SessionPark::Free,
        SessionPark::Finishing,
        SessionPark::Parked,
        SessionPark::Late,
        SessionPark::NoLeader,
        SessionPark::NewLeader,
        SessionPark::Carrying,
    ];

    /// The state after an event; the session is on this node.
    #[must_use]
    pub fn after(self, event: SessionParkEvent, node: NodeId) -> SessionPark {
        use SessionParkEvent::{Arrived, Asked, AtRest, GraceOver, LeftServer, Over};
        match (self, event) {
            (SessionPark::NoLeader, _) => self,
            (_, LeftServer) => SessionPark::Carrying,
            (SessionPark::Carrying, Arrived) => SessionPark::Free,
            (SessionPark::Carrying, Over(ParkOver::NoLeader)) => SessionPark::NoLeader,
            (SessionPark::NewLeader | SessionPark::Carrying, _) => self,
            (SessionPark::Free | SessionPark::Late, Asked) => SessionPark::Finishing,
            (SessionPark::Finishing, AtRest) => SessionPark::Parked,
            (SessionPark::Finishing, GraceOver) => SessionPark::Late,
            (SessionPark::Parked, Over(ParkOver::NoLeader)) => SessionPark::NoLeader,
            (SessionPark::Parked, Over(ParkOver::Led(leader))) if leader != node => SessionPark::NewLeader,
            (_, Over(_)) => SessionPark::Free,
            (_, Asked | AtRest | GraceOver | Arrived) => self,
        }
    }

    /// Whether the session is to stop between two transactions.
    pub fn stops(self) -> bool {
        matches!(self, SessionPark::Finishing | SessionPark::Parked)
    }

    /// The state as one byte.
    pub fn to_byte(self) -> u8 {
        self as u8
    }

    /// The state of a byte that [`SessionPark::to_byte`] has made.
    pub fn from_byte(byte: u8) -> SessionPark {
        SessionPark::ALL.get(usize::from(byte)).copied().unwrap_or(SessionPark::Free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: NodeId = NodeId::new(0);
    const ELSEWHERE: NodeId = NodeId::new(1);

    fn after(events: &[SessionParkEvent]) -> SessionPark {
        events.iter().fold(SessionPark::Free, |park, event| park.after(*event, HERE))
    }

    #[test]
    fn a_parked_session_goes_on_where_it_is_unless_it_cannot() {
        use SessionParkEvent::{Asked, AtRest, Over};
        for (over, expected) in [
            (ParkOver::Unparked, SessionPark::Free),
            (ParkOver::StillLed, SessionPark::Free),
            (ParkOver::Led(HERE), SessionPark::Free),
            (ParkOver::Led(ELSEWHERE), SessionPark::NewLeader),
            (ParkOver::NoLeader, SessionPark::NoLeader),
        ] {
            assert_eq!(after(&[Asked, AtRest, Over(over)]), expected, "{over:?}");
            assert_eq!(after(&[Asked, Over(over)]), SessionPark::Free, "not parked yet, {over:?}");
        }
    }

    #[test]
    fn a_session_that_is_late_goes_on_and_may_be_asked_again() {
        use SessionParkEvent::{Asked, AtRest, GraceOver};
        assert_eq!(after(&[Asked, GraceOver, AtRest]), SessionPark::Late);
        assert_eq!(after(&[Asked, GraceOver, Asked, AtRest]), SessionPark::Parked);
        assert_eq!(after(&[Asked, AtRest, GraceOver, Asked]), SessionPark::Parked);
    }

    #[test]
    fn a_session_is_not_parked_without_being_asked() {
        assert_eq!(after(&[SessionParkEvent::AtRest]), SessionPark::Free);
        assert_eq!(after(&[SessionParkEvent::GraceOver]), SessionPark::Free);
    }

    #[test]
    fn a_session_that_has_left_its_server_is_carried_until_it_arrives_or_no_node_leads() {
        use SessionParkEvent::{Arrived, Asked, AtRest, LeftServer, Over};
        let left = [Asked, AtRest, LeftServer];
        for over in [ParkOver::Unparked, ParkOver::StillLed, ParkOver::Led(HERE), ParkOver::Led(ELSEWHERE)] {
            assert_eq!(after(&[&left[..], &[Over(over)]].concat()), SessionPark::Carrying, "{over:?}");
            assert_eq!(after(&[&left[..], &[Over(over), Asked, Arrived]].concat()), SessionPark::Free, "{over:?}");
        }
        assert_eq!(after(&[&left[..], &[Over(ParkOver::NoLeader), Arrived]].concat()), SessionPark::NoLeader);
        let another_leads = [Asked, AtRest, Over(ParkOver::Led(ELSEWHERE)), LeftServer];
        assert_eq!(after(&another_leads), SessionPark::Carrying);
    }

    #[test]
    fn states_convert_to_a_byte_and_back() {
        for park in SessionPark::ALL {
            assert_eq!(SessionPark::from_byte(park.to_byte()), park);
        }
    }
}
