//! The clock of moments: it also counts the time in which the machine was suspended, which tokio's clock does not.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::cluster::Moment;

/// Counts the time since it was started.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Duration,
}

impl Clock {
    /// A clock whose present moment is the start.
    pub fn start() -> Clock {
        Clock { started: since_boot() }
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        Moment::after_start(since_boot().saturating_sub(self.started))
    }

    /// The time for a timer that ends at this moment; now, if the moment is in the past.
    pub fn instant(&self, moment: Moment) -> Instant {
        Instant::now() + (moment - self.now())
    }
}

/// `CLOCK_BOOTTIME` of `clock_gettime(2)`: read without a system call, as `CLOCK_MONOTONIC` is.
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}
