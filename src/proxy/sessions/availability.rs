//! Whether a listener has a node for new sessions, since when, how often it had none, and for how long: what HAProxy counts of
//! a backend.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The availability of one listener.
#[derive(Debug, Default)]
pub(super) struct Availability(Mutex<Option<State>>);

#[derive(Debug, Clone, Copy)]
struct State {
    is_up: bool,
    since: Instant,
    downs: u32,
    /// Of the times that are over.
    down: Duration,
}

/// The availability of one listener at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AvailabilityCensus {
    /// How long it has been so; `None` before the nodes have been checked.
    pub lasts: Option<Duration>,
    /// How often it lost its last node.
    pub downs: u32,
    /// For how long it had no node, altogether.
    pub down: Duration,
}

impl Availability {
    /// Notes whether there is a node.
    pub(super) fn set(&self, is_up: bool, now: Instant) {
        let mut state = self.0.lock();
        match &mut *state {
            None => *state = Some(State { is_up, since: now, downs: 0, down: Duration::ZERO }),
            Some(before) if before.is_up == is_up => {}
            Some(before) => {
                let lasted = now.saturating_duration_since(before.since);
                *before = match before.is_up {
                    true => State { is_up, since: now, downs: before.downs.saturating_add(1), ..*before },
                    false => State { is_up, since: now, down: before.down + lasted, ..*before },
                };
            }
        }
    }

    pub(super) fn census(&self, now: Instant) -> AvailabilityCensus {
        let Some(State { is_up, since, downs, down }) = *self.0.lock() else { return AvailabilityCensus::default() };
        let lasts = now.saturating_duration_since(since);
        AvailabilityCensus { lasts: Some(lasts), downs, down: if is_up { down } else { down + lasts } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_without_a_node_is_counted_while_it_lasts_and_afterwards() {
        let (availability, start) = (Availability::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let census = |seconds| availability.census(at(seconds));
        assert_eq!(census(1), AvailabilityCensus::default());
        let seen = |lasts, downs, down| AvailabilityCensus {
            lasts: Some(Duration::from_secs(lasts)),
            downs,
            down: Duration::from_secs(down),
        };
        availability.set(true, at(2));
        availability.set(true, at(5));
        assert_eq!(census(10), seen(8, 0, 0));
        availability.set(false, at(10));
        assert_eq!(census(13), seen(3, 1, 3));
        availability.set(true, at(14));
        assert_eq!(census(20), seen(6, 1, 4));
    }
}
