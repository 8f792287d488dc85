//! A point in time as the pure core sees it: handed in by whoever calls, never read from a clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Time since the process started, on the monotonic clock.
///
/// The core only ever compares and adds moments, so a simulation can drive it with a clock of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The start of the process.
    pub const START: Moment = Moment(Duration::ZERO);

    /// The moment that lies `elapsed` after the start.
    pub const fn after_start(elapsed: Duration) -> Moment {
        Moment(elapsed)
    }

    /// How long after the start this moment lies.
    pub const fn since_start(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, later: Duration) -> Moment {
        Moment(self.0.saturating_add(later))
    }
}

impl Sub for Moment {
    type Output = Duration;
    /// The time from `earlier` to `self`; zero if `earlier` is in fact later.
    fn sub(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
