//! What the sessions of a thread tell about its load, and what they are told.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

use super::plan::MANY;

/// What a session is told about its thread.
pub(super) struct Told {
    /// Its load should be looked at soon.
    pub(super) is_worth_a_look: bool,
    /// Sessions go to other threads now.
    pub(super) gives: bool,
}

/// Estimates: one is not in step with another.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Changes with each look at the loads.
    look: AtomicU8,
    /// Sessions for which there was something to do since the last look.
    acting: AtomicUsize,
    /// The same at the last look, and those that have come to the thread since then.
    acting_before: AtomicUsize,
    /// So many of its acting sessions go to other threads.
    gives: AtomicUsize,
}

impl Counters {
    /// The number of sessions for which there was something to do. A new count begins.
    pub(super) fn next_look(&self) -> usize {
        self.look.store(self.look.load(Relaxed).wrapping_add(1), Relaxed);
        let acting = self.acting.swap(0, Relaxed);
        self.acting_before.store(acting, Relaxed);
        acting
    }

    /// So many of its acting sessions go to other threads, until this is said again.
    pub(super) fn give(&self, sessions: usize) {
        self.gives.store(sessions, Relaxed);
    }

    /// About how many sessions have something to do here.
    pub(super) fn acting(&self) -> usize {
        self.acting.load(Relaxed).max(self.acting_before.load(Relaxed))
    }

    /// A session with something to do has come to the thread. Returns the look for which it counts already, none of the
    /// last ones, and whether the load is worth a look.
    pub(super) fn arrives(&self) -> (u8, bool) {
        let arrived = self.acting_before.fetch_add(1, Relaxed) + 1;
        (self.look.load(Relaxed).wrapping_sub(1), arrived == MANY)
    }

    /// There is something to do for a session that counts as acting for the look `counted`.
    pub(super) fn acts(&self, counted: &mut u8) -> Told {
        let look = self.look.load(Relaxed);
        let is_counted = *counted == look;
        *counted = look;
        let is_worth_a_look = !is_counted && self.acting.fetch_add(1, Relaxed) + 1 == MANY;
        Told { is_worth_a_look, gives: self.gives.load(Relaxed) > 0 }
    }

    /// An acting session goes to another thread. `false` if enough have.
    pub(super) fn gives_one(&self) -> bool {
        let gives = count_down(&self.gives);
        if gives {
            count_down(&self.acting);
        }
        gives
    }
}

fn count_down(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1)).is_ok()
}
