//! How long sessions of a listener wait for a node, connect to it, and last: the averages that HAProxy shows, and the
//! longest times. Counting takes no lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The average is about that of so many sessions, the newest ones; HAProxy has the same number.
const SAMPLES: u64 = 512;

/// The times of one node.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) queue: Average,
    pub(super) connect: Average,
    pub(super) total: Average,
}

/// The times of one node at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimesCensus {
    /// From the request for a session until the node was chosen for it.
    pub queue: AverageCensus,
    /// To connect to the node.
    pub connect: AverageCensus,
    /// From the connection of the client until its end.
    pub total: AverageCensus,
}

/// An average at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AverageCensus {
    /// How many sessions it is of, at most 512.
    pub sessions: u64,
    /// The average, in microseconds.
    pub average_us: u64,
    /// The longest time since the start, in microseconds.
    pub longest_us: u64,
}

impl Times {
    pub(super) fn census(&self) -> TimesCensus {
        TimesCensus { queue: self.queue.census(), connect: self.connect.census(), total: self.total.census() }
    }

    /// Forgets everything.
    pub(super) fn forget(&self) {
        for Average { sum, count, longest } in [&self.queue, &self.connect, &self.total] {
            [sum, count, longest].into_iter().for_each(|number| number.store(0, Relaxed));
        }
    }
}

/// An average of times in which new ones replace old ones bit by bit.
#[derive(Debug, Default)]
pub(super) struct Average {
    /// Of as many times as `count` says, in microseconds.
    sum: AtomicU64,
    count: AtomicU64,
    longest: AtomicU64,
}

impl Average {
    /// Adds a time. Two at the same moment may weigh a little more or less.
    pub(super) fn add(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX / SAMPLES).min(u64::MAX / SAMPLES);
        let is_full = self.count.load(Relaxed) >= SAMPLES;
        if !is_full {
            self.count.fetch_add(1, Relaxed);
        }
        let added = |sum: u64| Some(if is_full { sum - sum / SAMPLES } else { sum }.saturating_add(us));
        let _ = self.sum.fetch_update(Relaxed, Relaxed, added); // it always gives a number
        self.longest.fetch_max(us, Relaxed);
    }

    fn census(&self) -> AverageCensus {
        let sessions = self.count.load(Relaxed);
        let average_us = self.sum.load(Relaxed).checked_div(sessions).unwrap_or(0);
        AverageCensus { sessions, average_us, longest_us: self.longest.load(Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(average: &Average, ms: u64, times: u64) {
        (0..times).for_each(|_| average.add(Duration::from_millis(ms)));
    }

    #[test]
    fn new_times_replace_old_ones_and_the_longest_stays() {
        let average = Average::default();
        assert_eq!(average.census(), AverageCensus::default());
        add(&average, 10, 1);
        add(&average, 20, 1);
        assert_eq!(average.census(), AverageCensus { sessions: 2, average_us: 15_000, longest_us: 20_000 });
        add(&average, 100, SAMPLES * 12);
        let full = average.census();
        assert_eq!(full.sessions, SAMPLES);
        assert!((99_900..=100_000).contains(&full.average_us), "{full:?}");
        add(&average, 0, SAMPLES * 12);
        assert!(average.census().average_us < 10, "{:?}", average.census());
        assert_eq!(average.census().longest_us, 100_000);
    }
}
