//! How far a replica is behind now, and how far it was behind in the last few seconds.
//!
//! A limit is compared with the worst lag of the last few seconds. So a replica that lags leaves the pool at once, and
//! comes back only after it has kept up for a while: it does not flap around the limit.

use std::collections::VecDeque;
use std::time::Duration;

use super::moment::Moment;

/// A replica that has lagged has to keep up for this long before it gets new sessions again.
const MEMORY: Duration = Duration::from_secs(5);

/// A replica's distance from the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Lag {
    /// WAL that the leader has written and the replica has not replayed, in bytes.
    pub bytes: u64,
    /// The age of the last transaction that was replayed. Zero for a replica that has replayed everything, because
    /// PostgreSQL's own value keeps growing on an idle cluster.
    pub time: Duration,
}

impl Lag {
    fn worst(self, other: Lag) -> Lag {
        Lag { bytes: self.bytes.max(other.bytes), time: self.time.max(other.time) }
    }
}

/// The measurements of the last few seconds.
#[derive(Debug, Clone, Default)]
pub struct LagMeter {
    /// In order of time. Each is worse in bytes or in time than all that follow; the others are dropped.
    recent: VecDeque<(Moment, Lag)>,
}

impl LagMeter {
    /// Adds a measurement and returns the worst lag of the last few seconds.
    pub fn measure(&mut self, lag: Lag, now: Moment) -> Lag {
        while self.recent.front().is_some_and(|(at, _)| now - *at > MEMORY) {
            self.recent.pop_front();
        }
        while self.recent.back().is_some_and(|(_, old)| old.bytes <= lag.bytes && old.time <= lag.time) {
            self.recent.pop_back();
        }
        self.recent.push_back((now, lag));
        self.recent.iter().fold(lag, |worst, (_, lag)| worst.worst(*lag))
    }

    /// Forgets everything: the node is no longer a replica.
    pub fn forget(&mut self) {
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::at_ms;

    fn lag(bytes: u64, seconds: u64) -> Lag {
        Lag { bytes, time: Duration::from_secs(seconds) }
    }

    #[test]
    fn the_worst_lag_counts_at_once_and_for_a_while() {
        let mut meter = LagMeter::default();
        assert_eq!(meter.measure(lag(10, 0), at_ms(0)), lag(10, 0));
        assert_eq!(meter.measure(lag(900, 0), at_ms(1000)), lag(900, 0));
        assert_eq!(meter.measure(lag(0, 3), at_ms(2000)), lag(900, 3));
        assert_eq!(meter.measure(lag(0, 0), at_ms(6001)), lag(0, 3), "the bytes are past, the time is not");
        assert_eq!(meter.measure(lag(0, 0), at_ms(7001)), lag(0, 0));
    }

    #[test]
    fn equal_measurements_use_no_memory() {
        let mut meter = LagMeter::default();
        for ms in 0..10_000 {
            meter.measure(lag(5, 0), at_ms(ms));
        }
        assert_eq!(meter.recent.len(), 1);
    }
}
