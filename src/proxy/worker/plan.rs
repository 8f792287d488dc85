//! Decides how many threads the sessions use, and how many sessions each thread gives to others.
//!
//! Few threads serve a light load at less cost than many: one wake-up serves several sessions, and other programs have the
//! cores. So sessions use one thread as long as none of them waits long for the others on it. A thread is crowded if it
//! is busy for most of the time, and works long between two waits for events: that is how long a session waits whose turn
//! comes last. It is also crowded if it hardly waits at all, or if it waits little and many sessions have something to do.
//! Then more threads are used, and the crowded one gives sessions
//! away. When the load has been light for some time, only as many threads are used as it has needed meanwhile.

use std::time::Duration;

/// A thread that works longer than this between two waits, on average, makes its sessions wait for each other.
const CROWDED_TURN: Duration = Duration::from_micros(200);

/// A thread that is busy for a smaller share of its time is not crowded: long turns are rare then.
const CROWDED_BUSY: f64 = 0.5;

/// A thread that is busy for this share of its time can hardly do more, however short its turns are.
const FULL_BUSY: f64 = 0.95;

/// A thread that is busy for this share of its time makes many sessions wait for each other, although its turns are short
/// on average: those that wait longest come in the few long turns.
const CROWDED_BY_MANY_BUSY: f64 = 0.7;

/// So many sessions with something to do are many.
pub(super) const MANY: usize = 16;

/// A thread must have been crowded in so many looks in a row: in one, another program may have had its core.
const CROWDED_LOOKS: u32 = 3;

/// With turns of this length, one look is enough.
const SWAMPED_TURN: Duration = Duration::from_millis(1);

/// Threads with a light load are busy for this share of their time at most.
const LIGHT_BUSY: f64 = 0.35;

/// Their turns are no longer than this, on average.
const LIGHT_TURN: Duration = Duration::from_micros(100);

/// How long fewer threads must have been enough before fewer are used.
const LIGHT_FOR: Duration = Duration::from_secs(10);

/// What a thread has done since the last look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ThreadLoad {
    /// The share of the time in which it did not wait for events, from 0 to 1.
    pub(super) busy: f64,
    /// How long it has worked between two waits, on average.
    pub(super) turn: Duration,
    /// Its sessions for which there was something to do.
    pub(super) acting: usize,
}

impl ThreadLoad {
    /// Nothing has happened on it.
    #[cfg(test)]
    const NONE: ThreadLoad = ThreadLoad { busy: 0.0, turn: Duration::ZERO, acting: 0 };

    fn is_crowded(&self) -> bool {
        let has_long_turns = self.busy >= CROWDED_BUSY && self.turn >= CROWDED_TURN;
        let has_many = self.busy >= CROWDED_BY_MANY_BUSY && self.acting >= MANY;
        self.busy >= FULL_BUSY || has_long_turns || has_many
    }

    fn is_swamped(&self) -> bool {
        self.is_crowded() && self.turn >= SWAMPED_TURN
    }
}

/// How many threads are used.
#[derive(Debug)]
pub(super) struct Plan {
    max: usize,
    in_use: usize,
    /// In so many looks in a row, threads were crowded.
    crowded_looks: u32,
    /// For so long, fewer threads would have been enough.
    light_for: Duration,
    /// So many of them.
    enough: usize,
}

impl Plan {
    /// One thread of `max` is used.
    pub(super) fn new(max: usize) -> Plan {
        Plan { max, in_use: max.min(1), crowded_looks: 0, light_for: Duration::ZERO, enough: 0 }
    }

    /// The number of threads that are used: the first ones.
    pub(super) fn in_use(&self) -> usize {
        self.in_use
    }

    /// Whether the next looks decide if more threads are used.
    pub(super) fn is_undecided(&self) -> bool {
        self.crowded_looks > 0 && self.in_use < self.max
    }

    /// Decides from the loads of all threads since the last look, `interval` ago. Returns how many of its acting sessions
    /// each thread gives away; a thread that is not used any more gives all.
    pub(super) fn look(&mut self, loads: &[ThreadLoad], interval: Duration) -> Vec<usize> {
        let used = &loads[..self.in_use.min(loads.len())];
        let crowded = used.iter().filter(|load| load.is_crowded()).count();
        self.crowded_looks = match crowded {
            0 => 0,
            _ if used.iter().any(ThreadLoad::is_swamped) => CROWDED_LOOKS,
            _ => self.crowded_looks + 1,
        };
        let is_crowded = self.crowded_looks >= CROWDED_LOOKS;
        let enough = enough(loads);
        (self.light_for, self.enough) = match enough < self.in_use {
            true => (self.light_for + interval, self.enough.max(enough)),
            false => (Duration::ZERO, 0),
        };
        if is_crowded {
            self.in_use = (self.in_use + crowded).min(self.max);
            self.crowded_looks = 0;
        } else if self.light_for >= LIGHT_FOR {
            (self.in_use, self.light_for) = (self.enough, Duration::ZERO);
        }
        let acting: usize = loads.iter().map(|load| load.acting).sum();
        let share = acting.div_ceil(self.in_use.max(1));
        let gives = |(thread, load): (usize, &ThreadLoad)| match load {
            _ if thread >= self.in_use => usize::MAX,
            load if is_crowded && load.is_crowded() => load.acting.saturating_sub(share),
            _ => 0,
        };
        loads.iter().enumerate().map(gives).collect()
    }
}

/// How many threads would have a light load if it were theirs. No number is enough if turns are long.
fn enough(loads: &[ThreadLoad]) -> usize {
    let busy: f64 = loads.iter().map(|load| load.busy).sum();
    match loads.iter().all(|load| load.turn <= LIGHT_TURN) {
        true => (busy / LIGHT_BUSY).ceil().max(1.0) as usize,
        false => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(50);

    fn load(busy: f64, turn_us: u64, acting: usize) -> ThreadLoad {
        ThreadLoad { busy, turn: Duration::from_micros(turn_us), acting }
    }

    #[test]
    fn a_busy_thread_whose_sessions_do_not_wait_for_each_other_is_enough() {
        let mut plan = Plan::new(4);
        assert_eq!(plan.look(&[load(0.9, 40, 8), ThreadLoad::NONE, ThreadLoad::NONE, ThreadLoad::NONE], LOOK)[0], 0);
        assert_eq!(plan.look(&[load(0.1, 900, 8), ThreadLoad::NONE, ThreadLoad::NONE, ThreadLoad::NONE], LOOK)[0], 0);
        assert_eq!(plan.in_use(), 1);
    }

    #[test]
    fn a_crowded_thread_gives_half_of_its_acting_sessions_to_one_more() {
        let mut plan = Plan::new(4);
        let none = ThreadLoad::NONE;
        assert_eq!(plan.look(&[load(0.9, 1300, 9), none, none, none], LOOK), [4, 0, usize::MAX, usize::MAX]);
        assert_eq!(plan.in_use(), 2);
        // both are crowded: twice as many
        assert_eq!(plan.look(&[load(0.9, 1300, 5), load(0.9, 1300, 3), none, none], LOOK), [3, 1, 0, 0]);
        assert_eq!(plan.in_use(), 4);
        assert_eq!(plan.look(&[load(1.0, 500, 2); 4], LOOK), [0; 4]);
        assert_eq!(plan.in_use(), 4);
    }

    #[test]
    fn a_thread_that_hardly_waits_is_crowded() {
        let mut plan = Plan::new(2);
        let gives: Vec<usize> = (0..4).map(|_| plan.look(&[load(0.96, 40, 8), ThreadLoad::NONE], LOOK)[0]).collect();
        assert_eq!(gives, [0, 0, 4, 0], "not because of one look or two");
        let mut plan = Plan::new(2);
        for busy in [0.96, 0.96, 0.9, 0.96, 0.96] {
            assert_eq!(plan.look(&[load(busy, 40, 8), ThreadLoad::NONE], LOOK)[0], 0);
        }
        assert_eq!(plan.in_use(), 1);
    }

    #[test]
    fn a_busy_thread_on_which_many_sessions_act_is_crowded() {
        let mut plan = Plan::new(2);
        let many = [load(0.75, 40, 64), ThreadLoad::NONE];
        let gives: Vec<(usize, bool)> = (0..4).map(|_| (plan.look(&many, LOOK)[0], plan.is_undecided())).collect();
        assert_eq!(gives[..3], [(0, true), (0, true), (32, false)]);
        assert_eq!(plan.in_use(), 2);
        let mut plan = Plan::new(2);
        for load in [load(0.6, 40, 64), load(0.9, 40, 15)] {
            (0..10).for_each(|_| assert_eq!(plan.look(&[load, ThreadLoad::NONE], LOOK)[0], 0));
        }
    }

    #[test]
    fn a_thread_with_more_than_its_share_gives_the_rest_only_if_it_is_crowded() {
        let mut plan = Plan::new(2);
        plan.look(&[load(0.9, 1300, 2), ThreadLoad::NONE], LOOK);
        assert_eq!(plan.look(&[load(0.4, 300, 8), load(0.4, 20, 0)], LOOK), [0, 0]);
        assert_eq!(plan.look(&[load(0.9, 1300, 8), load(0.4, 20, 0)], LOOK), [4, 0]);
    }

    #[test]
    fn after_some_time_of_light_load_fewer_threads_are_used_and_the_others_give_all_their_sessions() {
        let mut plan = Plan::new(2);
        plan.look(&[load(0.9, 1300, 2), ThreadLoad::NONE], LOOK);
        let light = [load(0.2, 10, 2), load(0.1, 10, 2)];
        for _ in 0..LIGHT_FOR.as_millis() / LOOK.as_millis() - 1 {
            assert_eq!(plan.look(&light, LOOK), [0, 0]);
        }
        assert_eq!(plan.look(&light, LOOK), [0, usize::MAX]);
        assert_eq!(plan.in_use(), 1);
        // as many as were needed at any time meanwhile
        let mut plan = Plan::new(4);
        plan.look(&[load(1.0, 1300, 8); 1], LOOK);
        plan.look(&[load(1.0, 1300, 4); 2], LOOK);
        assert_eq!(plan.in_use(), 4);
        plan.look(&[load(0.01, 10, 1); 4], LIGHT_FOR / 2);
        plan.look(&[load(0.15, 10, 1); 4], LIGHT_FOR / 2);
        assert_eq!(plan.in_use(), 2);
        // a load that is not light in between begins the time again
        let mut plan = Plan::new(2);
        plan.look(&[load(0.9, 1300, 2), ThreadLoad::NONE], LOOK);
        plan.look(&light, LIGHT_FOR - LOOK);
        plan.look(&[load(0.4, 20, 2), load(0.4, 20, 2)], LOOK);
        plan.look(&light, LIGHT_FOR - LOOK);
        assert_eq!(plan.in_use(), 2);
    }

    #[test]
    fn one_thread_is_always_used() {
        let mut plan = Plan::new(1);
        for load in [ThreadLoad::NONE, load(1.0, 5000, 100)] {
            assert_eq!(plan.look(&[load], Duration::from_secs(60)), [0]);
            assert_eq!(plan.in_use(), 1);
        }
    }
}
