//! When a node is checked: regularly, fast or at once, but never too often.

use std::time::Duration;

use super::moment::Moment;

/// The minimum time between two checks of one node, even if they are urgent. Patroni answers from a pool of five
/// threads, which pgvane must not fill.
const SPACING_MIN: Duration = Duration::from_millis(20);

/// The maximum number of checks of one node in flight: one that may hang, and a second one.
const IN_FLIGHT_MAX: usize = 2;

/// One node's schedule.
#[derive(Debug, Clone)]
pub struct CheckSchedule {
    due: Moment,
    last_asked: Option<Moment>,
    in_flight: Vec<Moment>,
    /// An answer to a check from before this moment is not fresh enough.
    requested_at: Option<Moment>,
    random: u64,
}

impl CheckSchedule {
    /// A node that is to be checked at once. `seed` spreads the checks of many nodes and proxies over time.
    pub fn starting(now: Moment, seed: u64) -> CheckSchedule {
        CheckSchedule { due: now, last_asked: None, in_flight: Vec::new(), requested_at: None, random: seed | 1 }
    }

    /// Requests a check that is sent after `now`, as soon as possible. Many such requests cause one check.
    pub fn request(&mut self, now: Moment) {
        self.requested_at = Some(now);
    }

    /// When to send the next check; `None` while enough are in flight.
    pub fn next_due(&self) -> Option<Moment> {
        let spaced = self.last_asked.map_or(Moment::START, |asked| asked + SPACING_MIN);
        match self.requested_at {
            Some(requested) if self.in_flight.len() < IN_FLIGHT_MAX => Some(requested.max(spaced)),
            _ if self.in_flight.is_empty() => Some(self.due.max(spaced)),
            _ => None,
        }
    }

    /// Notes that a check was sent.
    pub fn sent(&mut self, now: Moment) {
        self.last_asked = Some(now);
        self.in_flight.push(now);
        self.requested_at = None;
    }

    /// Notes that the check sent at `asked_at` has ended, and plans the next one `interval` after it was sent, plus or
    /// minus a tenth.
    pub fn ended(&mut self, asked_at: Moment, interval: Duration) {
        self.in_flight.retain(|sent| *sent != asked_at);
        self.due = asked_at + self.jittered(interval);
    }

    /// Moves the next regular check to an earlier time, if `interval` requires that.
    pub fn bring_forward(&mut self, interval: Duration) {
        let base = self.last_asked.unwrap_or(Moment::START);
        self.due = self.due.min(base + interval);
    }

    fn jittered(&mut self, interval: Duration) -> Duration {
        // xorshift64: good enough so that proxies do not check at the same time
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        interval * 9 / 10 + interval / 1000 * (self.random % 200) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::at_ms;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn regular_checks_wait_for_the_one_under_way() {
        let mut table = CheckSchedule::starting(at_ms(0), 7);
        assert_eq!(table.next_due(), Some(at_ms(0)));
        table.sent(at_ms(0));
        assert_eq!(table.next_due(), None);
        table.ended(at_ms(0), SECOND);
        let due = table.next_due().expect("planned");
        assert!(due >= at_ms(900) && due <= at_ms(1100), "{due:?}");
    }

    #[test]
    fn a_hundred_requests_make_one_more_check() {
        let mut table = CheckSchedule::starting(at_ms(0), 7);
        table.sent(at_ms(0));
        for ms in 5..105 {
            table.request(at_ms(ms));
        }
        assert_eq!(table.next_due(), Some(at_ms(104)));
        table.sent(at_ms(104));
        assert_eq!(table.next_due(), None, "the second is under way");
        table.request(at_ms(105));
        assert_eq!(table.next_due(), None, "never three at once");
        table.ended(at_ms(0), SECOND);
        assert_eq!(table.next_due(), Some(at_ms(124)), "spaced even when urgent");
    }

    #[test]
    fn bringing_a_check_forward_never_delays_it() {
        let mut table = CheckSchedule::starting(at_ms(0), 7);
        table.sent(at_ms(0));
        table.ended(at_ms(0), SECOND);
        table.bring_forward(Duration::from_millis(100));
        assert_eq!(table.next_due(), Some(at_ms(100)));
        table.bring_forward(SECOND);
        assert_eq!(table.next_due(), Some(at_ms(100)));
    }
}
