//! What became of the sessions of a cluster that lost their server while they were parked: since the start, and since
//! somebody asked last.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use strum::VariantArray;
use tokio::sync::Notify;

use crate::proxy::end::NotCarriedReason;

/// Counts of sessions. How long they waited is in a histogram of the cluster's metrics.
#[derive(Debug)]
pub struct CarryTotals {
    carried: AtomicU64,
    /// By reason.
    not_carried: [AtomicU64; NotCarriedReason::VARIANTS.len()],
    newest: Mutex<NewestCarried>,
    /// There is something in `newest`.
    news: Notify,
}

impl Default for CarryTotals {
    fn default() -> CarryTotals {
        let zeros = || AtomicU64::new(0);
        CarryTotals {
            carried: zeros(),
            not_carried: std::array::from_fn(|_| zeros()),
            newest: Mutex::default(),
            news: Notify::new(),
        }
    }
}

/// The counts at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarryCensus {
    /// Sessions that were carried.
    pub carried: u64,
    /// Sessions that were not, by reason.
    pub not_carried: Vec<(&'static str, u64)>,
}

/// The counts since somebody asked last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NewestCarried {
    /// Sessions that were carried.
    pub(super) carried: usize,
    /// Those of them that had logged in before the node led.
    pub(super) in_advance: usize,
    /// The longest time that one of these had no server.
    pub(super) longest: Duration,
    /// Sessions that were not, by reason.
    pub(super) not_carried: BTreeMap<&'static str, usize>,
}

impl CarryTotals {
    /// Counts a session that was carried, and that had no server for so long; `in_advance`: it had logged in before the node
    /// led.
    pub fn carried(&self, waited: Duration, in_advance: bool) {
        self.carried.fetch_add(1, Relaxed);
        let mut newest = self.newest.lock();
        newest.carried += 1;
        newest.in_advance += usize::from(in_advance);
        newest.longest = newest.longest.max(waited);
        self.news.notify_one();
    }

    /// Counts a session that was not.
    pub fn not_carried(&self, reason: NotCarriedReason) {
        self.not_carried[reason as usize].fetch_add(1, Relaxed);
        *self.newest.lock().not_carried.entry(reason.label()).or_default() += 1;
        self.news.notify_one();
    }

    /// Waits until one more session is counted. Cancel safe. For one task only.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// The counts since the last call.
    pub(super) fn take_newest(&self) -> NewestCarried {
        std::mem::take(&mut *self.newest.lock())
    }

    /// The counts now.
    pub fn read(&self) -> CarryCensus {
        let count = |reason: &NotCarriedReason| (reason.label(), self.not_carried[*reason as usize].load(Relaxed));
        CarryCensus {
            carried: self.carried.load(Relaxed),
            not_carried: NotCarriedReason::VARIANTS.iter().map(count).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_by_outcome() {
        let totals = CarryTotals::default();
        totals.carried(Duration::from_secs(1), false);
        totals.not_carried(NotCarriedReason::Restore);
        let census = totals.read();
        assert_eq!(census.carried, 1);
        let not_carried: Vec<_> = census.not_carried.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(not_carried, [&("restore", 1)]);
    }

    #[test]
    fn the_newest_counts_are_those_since_the_last_time() {
        let totals = CarryTotals::default();
        for (seconds, why) in [(2, NotCarriedReason::State), (3, NotCarriedReason::Login), (1, NotCarriedReason::State)]
        {
            totals.carried(Duration::from_secs(seconds), seconds > 1);
            totals.not_carried(why);
        }
        let newest = totals.take_newest();
        assert_eq!((newest.carried, newest.in_advance, newest.longest), (3, 2, Duration::from_secs(3)));
        assert_eq!(newest.not_carried, BTreeMap::from([("login", 1), ("state", 2)]));
        assert_eq!(totals.take_newest(), NewestCarried::default());
        assert_eq!(totals.read().carried, 3, "the totals stay");
    }
}
