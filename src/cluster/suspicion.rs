//! Suspicions: events in sessions that make a node's role doubtful, and how often each kind may cause a check.
//!
//! A suspicion changes no role. It makes pgvane check all nodes, and new writes wait for the answer. So a client that
//! can cause suspicions at will could slow down all clients. Each kind therefore has its own rate for each node: a few
//! at once, and then one for each interval of the regular checks. A suspicion beyond its rate is ignored: the regular
//! check comes as soon.

use std::time::Duration;

use super::moment::Moment;
use super::rate::{RateLimit, RateUse};

/// Suspicions of one kind that may come together.
const BURST: u32 = 3;

/// What happened in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suspicion {
    /// The node refused a connection, reset it, or did not answer it in time.
    ConnectFailed,
    /// The node closed a connection, or let it fail, in a session whose client it had authenticated.
    ConnectionLost,
    /// The node ended a session, or refused one, with a FATAL error that says that it shuts down, crashed or is
    /// starting: 57P01, 57P02, 57P03.
    ShuttingDown,
    /// The node refused to write (25006). Any client with a read-only transaction can cause this.
    ReadOnly,
    /// The node reported at login (`in_hot_standby`) another role than the checks did. A pooler in front of it may
    /// report an old value.
    HotStandby,
    /// A connection failed at a port of the node that is not PostgreSQL's own, for example a pooler's: that program may be
    /// down, or the whole host. All nodes are checked at once. New writes do not wait for the answer: they may use
    /// PostgreSQL's own port, which has not failed.
    OtherPortFailed,
}

impl Suspicion {
    const COUNT: usize = 6;

    /// Whether it makes the leader doubtful if it happens there: new writes wait for a check.
    pub(super) fn makes_leader_doubtful(self) -> bool {
        self != Suspicion::OtherPortFailed
    }
}

/// How often each kind of suspicion has come up of one node.
#[derive(Debug, Clone, Default)]
pub(super) struct SuspicionRates([RateUse<Moment>; Suspicion::COUNT]);

impl SuspicionRates {
    /// Whether a suspicion of this kind may cause a check now; counts it if so.
    pub(super) fn admits(&mut self, suspicion: Suspicion, now: Moment, interval: Duration) -> bool {
        self.0[suspicion as usize].admits(now, RateLimit { interval, burst: BURST })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::at_ms;

    const INTERVAL: Duration = Duration::from_secs(1);

    #[test]
    fn a_flood_of_one_kind_causes_one_check_an_interval_and_hides_no_other_kind() {
        let mut rates = SuspicionRates::default();
        let admitted = (0..10_000).step_by(5).filter(|ms| rates.admits(Suspicion::ReadOnly, at_ms(*ms), INTERVAL));
        assert_eq!(admitted.count(), 3 + 9, "three at once, then one a second");
        assert!(rates.admits(Suspicion::ConnectFailed, at_ms(10_000), INTERVAL));
        assert!(rates.admits(Suspicion::ReadOnly, at_ms(20_000), INTERVAL), "quiet for a while");
    }
}
