//! What became of the sessions of a cluster that lost their server while they were parked, since the start.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use strum::VariantArray;

use crate::proxy::end::NotCarriedReason;

/// Counts of sessions. How long they waited is in a histogram of the cluster's metrics.
#[derive(Debug)]
pub struct CarryTotals {
    carried: AtomicU64,
    /// By reason.
    not_carried: [AtomicU64; NotCarriedReason::VARIANTS.len()],
}

impl Default for CarryTotals {
    fn default() -> CarryTotals {
        let zeros = || AtomicU64::new(0);
        CarryTotals { carried: zeros(), not_carried: std::array::from_fn(|_| zeros()) }
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

impl CarryTotals {
    /// Counts a session that was carried.
    pub fn carried(&self) {
        self.carried.fetch_add(1, Relaxed);
    }

    /// Counts a session that was not.
    pub fn not_carried(&self, reason: NotCarriedReason) {
        self.not_carried[reason as usize].fetch_add(1, Relaxed);
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
        totals.carried();
        totals.not_carried(NotCarriedReason::Restore);
        let census = totals.read();
        assert_eq!(census.carried, 1);
        let not_carried: Vec<_> = census.not_carried.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(not_carried, [&("restore", 1)]);
    }
}
