//! Whether a session is parked, shared between its task and those that park it. One byte, because every session has it.

use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use crate::cluster::NodeId;
use crate::routing::{SessionPark, SessionParkEvent};

/// A [`SessionPark`] that several tasks change.
#[derive(Debug)]
pub(super) struct ParkState(AtomicU8);

impl Default for ParkState {
    fn default() -> ParkState {
        ParkState(AtomicU8::new(SessionPark::Free.to_byte()))
    }
}

impl ParkState {
    /// The state now.
    pub(super) fn now(&self) -> SessionPark {
        SessionPark::from_byte(self.0.load(SeqCst))
    }

    /// Takes notice of an event; the session is on `node`. Returns the state before and after.
    pub(super) fn note(&self, event: SessionParkEvent, node: NodeId) -> [SessionPark; 2] {
        let after = |byte| SessionPark::from_byte(byte).after(event, node);
        let before = self.0.fetch_update(SeqCst, SeqCst, |byte| Some(after(byte).to_byte()));
        let before = match before {
            Ok(before) | Err(before) => before,
        };
        [SessionPark::from_byte(before), after(before)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_changes_the_state_once() {
        let state = ParkState::default();
        let node = NodeId::new(0);
        let asked = state.note(SessionParkEvent::Asked, node);
        assert_eq!(asked, [SessionPark::Free, SessionPark::Finishing]);
        assert_eq!(state.note(SessionParkEvent::AtRest, node), [SessionPark::Finishing, SessionPark::Parked]);
        assert_eq!(state.note(SessionParkEvent::AtRest, node), [SessionPark::Parked; 2]);
        assert_eq!(state.now(), SessionPark::Parked);
    }
}
