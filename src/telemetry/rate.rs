//! Counts events per second: how many there were in the last full second, and in the busiest one.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Events per second. Counting takes no lock.
#[derive(Debug)]
pub struct RateMeter {
    started: Instant,
    /// The newest second with an event, and its events: see [`Second`].
    newest: AtomicU64,
    /// The second with events before that one.
    before: AtomicU64,
    highest: AtomicU32,
}

impl Default for RateMeter {
    /// A meter without events.
    fn default() -> RateMeter {
        RateMeter {
            started: Instant::now(),
            newest: AtomicU64::new(0),
            before: AtomicU64::new(0),
            highest: AtomicU32::new(0),
        }
    }
}

impl RateMeter {
    /// Counts an event.
    pub fn count(&self) {
        self.count_in(self.second());
    }

    /// The events in the last full second.
    pub fn per_second(&self) -> u32 {
        self.before_second(self.second())
    }

    /// The events in the busiest second so far.
    pub fn highest(&self) -> u32 {
        self.highest.load(Relaxed)
    }

    /// There was a second with so many events before this process began.
    pub fn was(&self, highest: u32) {
        self.highest.fetch_max(highest, Relaxed);
    }

    /// Forgets the busiest second, and the events so far.
    pub fn forget(&self) {
        [&self.newest, &self.before].into_iter().for_each(|second| second.store(0, Relaxed));
        self.highest.store(0, Relaxed);
    }

    /// The second that runs now. The first one is 1, so that zero is none.
    fn second(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs() + 1).unwrap_or(u32::MAX)
    }

    fn count_in(&self, number: u32) {
        let mut seen = self.newest.load(Relaxed);
        loop {
            let newest = Second::from(seen);
            // another thread may be in the next second already: the event counts there then
            let is_new = number > newest.number;
            let next = match is_new {
                true => Second { number, events: 1 },
                false => Second { events: newest.events.saturating_add(1), ..newest },
            };
            match self.newest.compare_exchange_weak(seen, next.into(), Relaxed, Relaxed) {
                Ok(_) => {
                    if is_new {
                        self.before.store(seen, Relaxed);
                    }
                    if next.events > self.highest.load(Relaxed) {
                        self.highest.fetch_max(next.events, Relaxed);
                    }
                    return;
                }
                Err(now) => seen = now,
            }
        }
    }

    fn before_second(&self, number: u32) -> u32 {
        let full = number.saturating_sub(1);
        let seconds = [&self.newest, &self.before].map(|second| Second::from(second.load(Relaxed)));
        seconds.iter().find(|second| second.number == full).map_or(0, |second| second.events)
    }
}

/// A second and its events, which are stored together in one number.
#[derive(Debug, Clone, Copy)]
struct Second {
    number: u32,
    events: u32,
}

impl From<u64> for Second {
    fn from(both: u64) -> Second {
        Second { number: (both >> 32) as u32, events: both as u32 }
    }
}

impl From<Second> for u64 {
    fn from(Second { number, events }: Second) -> u64 {
        u64::from(number) << 32 | u64::from(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_full_second_and_the_highest_one_stays() {
        let meter = RateMeter::default();
        assert_eq!((meter.before_second(1), meter.highest()), (0, 0));
        for second in [5, 5, 5, 6] {
            meter.count_in(second);
        }
        assert_eq!(meter.before_second(5), 0, "second 5 still runs");
        assert_eq!((meter.before_second(6), meter.before_second(7), meter.before_second(8)), (3, 1, 0));
        assert_eq!(meter.highest(), 3);
    }

    #[test]
    fn no_event_is_lost_between_threads() {
        let meter = RateMeter::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| meter.count_in(3)));
            }
        });
        assert_eq!((meter.before_second(4), meter.highest()), (4000, 4000));
    }
}
