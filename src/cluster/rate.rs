//! How often something may happen: a few times at once, and evenly in the long run.
//!
//! Pure: the caller passes the time in, on any clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A limit: `burst` times at once, and after that once in each `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// The time in which one use becomes free again.
    pub interval: Duration,
    /// How many may come at once. Not zero.
    pub burst: u32,
}

/// What has been used of a limit, on a clock of instants `T`.
#[derive(Debug, Clone, Copy)]
pub struct RateUse<T> {
    /// When the whole burst is free again; `None` if nothing has been used.
    free_at: Option<T>,
}

impl<T> Default for RateUse<T> {
    fn default() -> RateUse<T> {
        RateUse { free_at: None }
    }
}

impl<T: Copy + Ord + Add<Duration, Output = T> + Sub<Output = Duration>> RateUse<T> {
    /// Whether one more may come now; counts it if so.
    pub fn admits(&mut self, now: T, limit: RateLimit) -> bool {
        let is_admitted = self.wait(now, limit).is_zero();
        if is_admitted {
            self.free_at = Some(self.free_after_one_more(now, limit));
        }
        is_admitted
    }

    /// When one that comes now has its turn, and counts it; `None` if that is not before the deadline, and then it is
    /// not counted.
    pub fn next_turn(&mut self, now: T, limit: RateLimit, deadline: T) -> Option<T> {
        let turn = now + self.wait(now, limit);
        (turn < deadline).then(|| {
            self.free_at = Some(self.free_after_one_more(now, limit));
            turn
        })
    }

    /// Whether the whole burst is free, as if nothing had been used.
    pub fn is_free(&self, now: T) -> bool {
        self.free_at.is_none_or(|free_at| free_at <= now)
    }

    /// How long one that comes now has to wait; zero while the burst is not used up.
    fn wait(&self, now: T, limit: RateLimit) -> Duration {
        (self.free_after_one_more(now, limit) - now).saturating_sub(limit.interval * limit.burst)
    }

    fn free_after_one_more(&self, now: T, limit: RateLimit) -> T {
        self.free_at.map_or(now, |free_at| free_at.max(now)) + limit.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Moment;
    use crate::cluster::fixtures::at_ms;

    const LIMIT: RateLimit = RateLimit { interval: Duration::from_secs(1), burst: 3 };

    #[test]
    fn a_burst_goes_at_once_and_the_rest_waits_for_its_turn_or_is_refused() {
        let mut used = RateUse::default();
        let mut next = |now: Moment| used.next_turn(now, LIMIT, now + LIMIT.interval * 2);
        for _ in 0..3 {
            assert_eq!(next(at_ms(0)), Some(at_ms(0)));
        }
        assert_eq!(next(at_ms(0)), Some(at_ms(1000)));
        assert_eq!(next(at_ms(0)), None, "its turn would be at the deadline");
        assert_eq!(next(at_ms(0)), None, "and the refused one was not counted");
        assert_eq!(next(at_ms(1000)), Some(at_ms(2000)));
        for _ in 0..3 {
            assert_eq!(next(at_ms(60_000)), Some(at_ms(60_000)), "the burst comes back, and no more than that");
        }
        assert_eq!(next(at_ms(60_000)), Some(at_ms(61_000)));
    }

    #[test]
    fn one_that_cannot_wait_is_admitted_only_in_time() {
        let mut used = RateUse::default();
        let admitted = (0..10_000).step_by(5).filter(|ms| used.admits(at_ms(*ms), LIMIT)).count();
        assert_eq!(admitted, 3 + 9, "three at once, then one a second");
        assert!(!used.is_free(at_ms(11_999)) && used.is_free(at_ms(12_000)));
    }
}
