//! What clients' logins show of the ports of one node: whether clients get sessions there, and whether what is said there
//! about recovery is out of date. A node may have several ports: PostgreSQL's and a pooler's. Each is judged alone.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use super::moment::Moment;

/// How long the login hints of a port are ignored after one of them was refuted: a pooler repeats the same value until
/// it reconnects to its server.
const LOGIN_HINTS_IGNORED_FOR: Duration = Duration::from_secs(60);

/// The port of a node that sessions use: a listener's own, or that of the node's address if `None`.
pub type SessionPort = Option<NonZeroU16>;

/// The ports of a node that are not in order. Usually there are none.
#[derive(Debug, Clone, Default)]
pub struct Ports(Vec<PortState>);

#[derive(Debug, Clone)]
struct PortState {
    port: SessionPort,
    failure: Option<Arc<PortFailure>>,
    /// When a client last failed there. `None` once other clients may try it like every other node.
    failed_at: Option<Moment>,
    /// When a login hint of this port was refuted: a check that was sent after the login said the opposite about
    /// recovery. The hints then come from a pooler that remembers another server.
    hint_refuted_at: Option<Moment>,
}

/// Why clients get no session on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFailure {
    /// The newest reason. It is shown after the node's name.
    pub why: String,
    /// When the first client failed.
    pub since: Moment,
}

impl Ports {
    /// Whether a client has just failed to get a session there. Other clients try the node last.
    pub fn fails_clients(&self, port: SessionPort) -> bool {
        self.state(port).is_some_and(|state| state.failed_at.is_some())
    }

    /// Why clients get no session there. Set from the first failure until a client succeeds.
    pub fn failure(&self, port: SessionPort) -> Option<&PortFailure> {
        self.state(port)?.failure.as_deref()
    }

    /// Whether the login hints of this port are known to come from a pooler that remembers another server.
    pub fn login_hints_are_stale(&self, port: SessionPort, now: Moment) -> bool {
        let refuted_at = self.state(port).and_then(|state| state.hint_refuted_at);
        refuted_at.is_some_and(|refuted_at| now - refuted_at < LOGIN_HINTS_IGNORED_FOR)
    }

    /// Whether a login hint of any port was refuted, and none was confirmed there since.
    pub fn has_refuted_hints(&self) -> bool {
        self.0.iter().any(|state| state.hint_refuted_at.is_some())
    }

    /// Notes that a client got no session. True if the failure or its reason is new.
    pub(crate) fn fails_client(&mut self, port: SessionPort, why: &str, now: Moment) -> bool {
        let state = self.state_mut(port);
        let is_known = state.failure.as_ref().is_some_and(|failure| failure.why == why);
        if !is_known {
            let since = state.failure.as_ref().map_or(now, |failure| failure.since);
            state.failure = Some(Arc::new(PortFailure { why: why.to_owned(), since }));
        }
        state.failed_at.replace(now).is_none() | !is_known
    }

    /// Notes that a client got a session. Returns since when clients had got none there.
    pub(super) fn serves_client(&mut self, port: SessionPort) -> Option<Moment> {
        let state = self.0.iter_mut().find(|state| state.port == port)?;
        state.failed_at = None;
        let since = state.failure.take().map(|failure| failure.since);
        self.drop_sound();
        since
    }

    /// Lets clients try the ports again whose last failure was so long before `asked_at`, the time of a good check. The
    /// answer may come from Patroni while PostgreSQL fails, and each failure costs a client time.
    pub(super) fn forget_failures(&mut self, asked_at: Moment, penalty: Duration) {
        for state in &mut self.0 {
            state.failed_at = state.failed_at.filter(|failed_at| asked_at < *failed_at + penalty);
        }
    }

    /// Notes whether a check that was sent after a login has refuted the login's hint.
    pub(super) fn check_login_hint(&mut self, port: SessionPort, is_refuted: bool, now: Moment) {
        self.state_mut(port).hint_refuted_at = is_refuted.then_some(now);
        self.drop_sound();
    }

    fn state(&self, port: SessionPort) -> Option<&PortState> {
        self.0.iter().find(|state| state.port == port)
    }

    fn state_mut(&mut self, port: SessionPort) -> &mut PortState {
        let place = self.0.iter().position(|state| state.port == port).unwrap_or_else(|| {
            self.0.push(PortState { port, failure: None, failed_at: None, hint_refuted_at: None });
            self.0.len() - 1
        });
        &mut self.0[place]
    }

    fn drop_sound(&mut self) {
        self.0.retain(|state| state.failure.is_some() || state.hint_refuted_at.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::at_ms;

    const POOLER: SessionPort = NonZeroU16::new(6432);

    #[test]
    fn a_port_that_fails_says_nothing_of_another_port_of_the_node() {
        let mut ports = Ports::default();
        assert!(ports.fails_client(POOLER, "connection refused", at_ms(1)));
        assert!(ports.fails_clients(POOLER) && !ports.fails_clients(None));
        assert!(ports.failure(POOLER).is_some() && ports.failure(None).is_none());
        assert_eq!(ports.serves_client(None), None, "a session on the other port mends nothing");
        assert!(ports.fails_clients(POOLER));
        ports.check_login_hint(POOLER, true, at_ms(2));
        assert!(ports.login_hints_are_stale(POOLER, at_ms(3)) && !ports.login_hints_are_stale(None, at_ms(3)));
    }

    #[test]
    fn a_failure_is_reported_once_for_each_reason_and_ends_with_a_session() {
        let mut ports = Ports::default();
        assert!(ports.fails_client(None, "connection refused", at_ms(1)));
        assert!(!ports.fails_client(None, "connection refused", at_ms(2)));
        assert!(ports.fails_client(None, "does not answer", at_ms(3)));
        ports.forget_failures(at_ms(10), Duration::from_millis(8));
        assert!(ports.fails_clients(None), "the check was asked too soon after it");
        ports.forget_failures(at_ms(11), Duration::from_millis(8));
        assert!(!ports.fails_clients(None) && ports.failure(None).is_some(), "nobody has got a session yet");
        assert!(ports.fails_client(None, "does not answer", at_ms(12)), "it is news again");
        assert_eq!(ports.serves_client(None), Some(at_ms(1)));
        assert!(ports.0.is_empty(), "nothing is kept of a port that is in order");
    }
}
