//! What became of the sessions of a cluster that lost their server while they were parked, since the start.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use strum::VariantArray;

use crate::proxy::end::NotCarriedReason;

/// Upper limits of the classes of waiting times, in seconds: from the time at which a session lost its server to the time at
/// which its client could go on. There is one more class for longer ones.
pub const WAIT_SECONDS: [f64; 9] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Counts of sessions.
#[derive(Debug)]
pub struct CarryTotals {
    /// By class of [`WAIT_SECONDS`].
    waits: [AtomicU64; WAIT_SECONDS.len() + 1],
    waited_ms: AtomicU64,
    longest_ms: AtomicU64,
    /// By reason.
    not_carried: [AtomicU64; NotCarriedReason::VARIANTS.len()],
}

impl Default for CarryTotals {
    fn default() -> CarryTotals {
        let zeros = || AtomicU64::new(0);
        CarryTotals {
            waits: std::array::from_fn(|_| zeros()),
            waited_ms: zeros(),
            longest_ms: zeros(),
            not_carried: std::array::from_fn(|_| zeros()),
        }
    }
}

/// The counts at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct CarryCensus {
    /// Sessions that were carried.
    pub carried: u64,
    /// The same by waiting time: how many waited at most as long as each of [`WAIT_SECONDS`].
    pub waited_at_most: Vec<(f64, u64)>,
    /// How long they have waited altogether, in seconds.
    pub waited_seconds: f64,
    /// The longest that one has waited, in seconds.
    pub longest_seconds: f64,
    /// Sessions that were not carried, by reason.
    pub not_carried: Vec<(&'static str, u64)>,
}

impl CarryTotals {
    /// Counts a session that was carried, after this time without a server.
    pub fn carried(&self, waited: Duration) {
        let class = WAIT_SECONDS.iter().position(|limit| waited.as_secs_f64() <= *limit);
        self.waits[class.unwrap_or(WAIT_SECONDS.len())].fetch_add(1, Relaxed);
        let ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        self.waited_ms.fetch_add(ms, Relaxed);
        self.longest_ms.fetch_max(ms, Relaxed);
    }

    /// Counts a session that was not.
    pub fn not_carried(&self, reason: NotCarriedReason) {
        self.not_carried[reason as usize].fetch_add(1, Relaxed);
    }

    /// The counts now.
    pub fn read(&self) -> CarryCensus {
        let seconds = |ms: &AtomicU64| ms.load(Relaxed) as f64 / 1000.0;
        let waits: Vec<u64> = self.waits.iter().map(|count| count.load(Relaxed)).collect();
        let at_most = |class: usize| waits[..=class].iter().sum();
        let reasons = NotCarriedReason::VARIANTS.iter();
        CarryCensus {
            carried: waits.iter().sum(),
            waited_at_most: WAIT_SECONDS.iter().enumerate().map(|(class, limit)| (*limit, at_most(class))).collect(),
            waited_seconds: seconds(&self.waited_ms),
            longest_seconds: seconds(&self.longest_ms),
            not_carried: reasons
                .map(|reason| (reason.label(), self.not_carried[*reason as usize].load(Relaxed)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_by_outcome_and_by_how_long_they_waited() {
        let totals = CarryTotals::default();
        [20, 100, 101, 90_000].iter().for_each(|ms| totals.carried(Duration::from_millis(*ms)));
        totals.not_carried(NotCarriedReason::Restore);
        let census = totals.read();
        assert_eq!((census.carried, census.longest_seconds), (4, 90.0));
        assert_eq!(census.waited_at_most[..2], [(0.1, 2), (0.25, 3)]);
        assert_eq!(census.waited_at_most.last(), Some(&(60.0, 3)));
        assert!(census.waited_seconds > 90.2);
        let not_carried: Vec<_> = census.not_carried.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(not_carried, [&("restore", 1)]);
    }
}
