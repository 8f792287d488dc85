//! A bound on how often something may happen: evenly in the long run, with a burst at first.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Spreads requests evenly over time once a burst of them is used up.
#[derive(Debug)]
pub struct RateLimiter {
    interval: Duration,
    burst: u32,
    /// When the last turn that was given would have come had there been no burst.
    newest: Mutex<Option<Instant>>,
}

impl RateLimiter {
    /// One each `interval` in the long run, and so many at once.
    pub fn new(interval: Duration, burst: u32) -> RateLimiter {
        RateLimiter { interval, burst, newest: Mutex::new(None) }
    }

    /// When a request that comes now may go on; `None` if that is not before the deadline: then no turn is used.
    pub fn next_turn(&self, now: Instant, deadline: Instant) -> Option<Instant> {
        let mut newest = self.newest.lock();
        let even = newest.map_or(now, |newest| now.max(newest + self.interval));
        let turn = even.checked_sub(self.interval * (self.burst - 1)).map_or(now, |turn| now.max(turn));
        (turn < deadline).then(|| {
            *newest = Some(even);
            turn
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_waits_its_turn_or_is_turned_away() {
        let second = Duration::from_secs(1);
        let limiter = RateLimiter::new(second, 3);
        let start = Instant::now() + second * 100; // an instant has no room below it for the burst otherwise
        let next = |now: Instant| limiter.next_turn(now, now + second * 2);
        for _ in 0..3 {
            assert_eq!(next(start), Some(start));
        }
        assert_eq!(next(start), Some(start + second));
        assert_eq!(next(start), None, "its turn would be at the deadline");
        assert_eq!(next(start), None, "which has cost nobody else's");
        assert_eq!(next(start + second), Some(start + second * 2));
        let later = start + second * 60;
        for _ in 0..3 {
            assert_eq!(next(later), Some(later), "the burst comes back, and no more than that");
        }
        assert_eq!(next(later), Some(later + second));
    }
}
