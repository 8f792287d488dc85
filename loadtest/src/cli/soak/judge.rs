//! Whether an event in the cluster explains a failure that a client saw: the table of causes.

use pgvane_loadtest::failure::{Failure, FailureClass};
use pgvane_loadtest::lab::Lab;

use super::plan::{Fault, On};

/// PostgreSQL's code for a statement that was cancelled.
const QUERY_CANCELED: &str = "57014";
/// What pgvane says when it has no place for a session.
const TOO_MANY_CONNECTIONS: &str = "53300";

/// The state of the cluster between two faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) leader: usize,
    pub(super) timeline: u64,
    /// Identifies the running start of PostgreSQL on each node.
    pub(super) starts: Vec<String>,
}

impl Facts {
    pub(super) async fn of(lab: &Lab, leader: usize) -> Self {
        let starts = (0..lab.nodes().len()).map(|node| lab.postgres_start(node)).collect();
        Self { leader, timeline: lab.timeline(leader).await, starts }
    }
}

/// The port of pgvane that a client used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Port {
    Write,
    Read,
}

impl Port {
    pub(super) fn name(self) -> &'static str {
        match self {
            Port::Write => "write",
            Port::Read => "read",
        }
    }
}

/// A failure that a client saw, and where.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    pub(super) port: Port,
    /// The node of the session, if the client knew it: not if it failed to get a session.
    pub(super) node: Option<usize>,
    pub(super) failure: Failure,
}

/// What has happened in one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Events<'a> {
    pub(super) fault: Fault,
    /// The node of the fault, if it is one node's.
    pub(super) node: Option<usize>,
    pub(super) before: &'a Facts,
    pub(super) after: &'a Facts,
}

/// The event that explains the failure. `None`, if nothing explains it, is a violation.
pub(super) fn cause(loss: &Loss, events: Events<'_>) -> Option<&'static str> {
    let Loss { port, node, failure } = loss;
    // Nothing explains these: a hung session, a write that reached a replica, a cancel request for another session.
    if matches!(failure.class, FailureClass::ReadOnly | FailureClass::Unanswered) {
        return None;
    }
    if failure.sqlstate.as_deref() == Some(QUERY_CANCELED) || failure.message.contains("within hold_max") {
        return None;
    }
    let is_login = failure.class == FailureClass::ConnectFailed;
    // A login only: sessions that exist need no further descriptors.
    if events.fault.takes_descriptors() && is_login && failure.sqlstate.as_deref() == Some(TOO_MANY_CONNECTIONS) {
        return Some("nothing; pgvane had no descriptors left");
    }
    events.of_cluster(*port, *node).or_else(|| events.of_network(*port, *node, is_login))
}

impl Events<'_> {
    fn restarted(&self, node: usize) -> bool {
        self.before.starts.get(node) != self.after.starts.get(node)
    }

    /// What happened to the node of the session, or, if that is not known, to a node that the port may have chosen.
    fn of_cluster(&self, port: Port, node: Option<usize>) -> Option<&'static str> {
        let Events { before, after, .. } = self;
        let lead_changed = (before.leader, before.timeline) != (after.leader, after.timeline);
        let had_part = |node: usize| node == before.leader || node == after.leader;
        if lead_changed && node.is_none_or(had_part) {
            return Some("the lead changed");
        }
        let candidates = match (node, port) {
            (Some(node), _) => vec![node],
            (None, Port::Write) => vec![before.leader],
            (None, Port::Read) => (0..before.starts.len()).collect(),
        };
        let restarted = candidates.into_iter().find(|node| self.restarted(*node))?;
        Some(if restarted == before.leader {
            "the leader's PostgreSQL restarted"
        } else {
            "a replica's PostgreSQL restarted"
        })
    }

    /// Whether the session or the login may have used the node to which connections were reset.
    ///
    /// Packets that are lost for some seconds end no session. A login has a deadline of its own.
    fn of_network(&self, port: Port, node: Option<usize>, is_login: bool) -> Option<&'static str> {
        let may_be_on = |cut_off: usize| match node {
            Some(node) => node == cut_off,
            None => port == Port::Read || cut_off == self.before.leader,
        };
        let is_concerned = match self.node {
            Some(cut_off) => may_be_on(cut_off),
            None => true,
        };
        if !is_concerned || !self.fault.is_partition() {
            return None;
        }
        match self.fault.resets() {
            Some(On::Leader) => Some("connections to the leader were reset"),
            Some(On::Replica) => Some("connections to a replica were reset"),
            None if is_login => Some("a node was cut off during a login"),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn facts(leader: usize, starts: [&str; 3]) -> Facts {
        Facts { leader, timeline: 1, starts: starts.map(str::to_owned).into() }
    }

    fn failure(class: FailureClass, sqlstate: Option<&str>, message: &str) -> Failure {
        Failure { at: Instant::now(), class, sqlstate: sqlstate.map(str::to_owned), message: message.to_owned() }
    }

    fn cut() -> Failure {
        failure(FailureClass::SessionBroken, Some("57P01"), "pgvane: the server is no longer the leader")
    }

    fn of(port: Port, node: Option<usize>, failure: &Failure, fault: Fault, after: &Facts) -> Option<&'static str> {
        let before = facts(0, ["a", "b", "c"]);
        let loss = Loss { port, node, failure: failure.clone() };
        let target = match fault {
            Fault::CutOffLeader | Fault::ResetLeader => Some(0),
            Fault::CutOffReplica | Fault::ResetReplica => Some(1),
            _ => None,
        };
        cause(&loss, Events { fault, node: target, before: &before, after })
    }

    #[test]
    fn a_session_that_ends_while_nothing_happens_to_its_node_is_a_violation() {
        let quiet = facts(0, ["a", "b", "c"]);
        let replica_restarted = facts(0, ["a", "B", "c"]);
        let lead_changed = facts(1, ["a", "b", "c"]);
        let of = |port, node, after| of(port, node, &cut(), Fault::Switchover, after);
        assert_eq!(of(Port::Write, None, &quiet), None);
        assert_eq!(of(Port::Write, None, &replica_restarted), None, "only a replica restarted");
        assert!(of(Port::Read, None, &replica_restarted).is_some());
        assert!(of(Port::Read, Some(1), &replica_restarted).is_some());
        assert_eq!(of(Port::Read, Some(2), &replica_restarted), None, "another replica restarted");
        assert!(of(Port::Write, Some(0), &lead_changed).is_some());
        assert!(of(Port::Read, Some(1), &lead_changed).is_some(), "it was promoted");
        assert_eq!(of(Port::Read, Some(2), &lead_changed), None, "it stayed a replica");
    }

    #[test]
    fn nothing_explains_a_read_only_error_a_hung_session_a_long_hold_or_a_foreign_cancel() {
        let everything = facts(1, ["A", "B", "C"]);
        let read_only = failure(FailureClass::ReadOnly, Some("25006"), "cannot execute INSERT");
        let hung = failure(FailureClass::Unanswered, None, "no answer before the deadline");
        let held = failure(FailureClass::ConnectFailed, Some("57P03"), "no server within hold_max");
        let cancelled = failure(FailureClass::Other, Some("57014"), "canceling statement due to user request");
        for failure in [&read_only, &hung, &held, &cancelled] {
            assert_eq!(of(Port::Write, Some(0), failure, Fault::KillLeader, &everything), None, "{failure:?}");
        }
    }

    #[test]
    fn an_upgrade_a_reload_the_resolver_and_descriptors_explain_no_cut() {
        let quiet = facts(0, ["a", "b", "c"]);
        let faults =
            [Fault::Upgrade, Fault::UpgradeBySignal, Fault::ReloadNodes, Fault::Reload, Fault::SilentNameServer];
        for fault in faults.into_iter().chain([Fault::NoDescriptors, Fault::CrowdToTheLimit, Fault::SlowReaders]) {
            for port in [Port::Write, Port::Read] {
                assert_eq!(of(port, Some(0), &cut(), fault, &quiet), None, "{fault:?}");
                assert_eq!(of(port, None, &cut(), fault, &quiet), None, "{fault:?}");
            }
        }
        let full = failure(FailureClass::ConnectFailed, Some("53300"), "too many");
        assert!(of(Port::Write, None, &full, Fault::NoDescriptors, &quiet).is_some());
        assert!(of(Port::Write, None, &full, Fault::CrowdToTheLimit, &quiet).is_some());
        assert_eq!(of(Port::Write, None, &full, Fault::Switchover, &quiet), None);
    }

    #[test]
    fn lost_packets_end_no_session_and_resets_end_those_of_their_node() {
        let quiet = facts(0, ["a", "b", "c"]);
        let login = failure(FailureClass::ConnectFailed, Some("57P01"), "the login was broken off");
        assert_eq!(of(Port::Write, Some(0), &cut(), Fault::CutOffLeader, &quiet), None);
        assert!(of(Port::Write, None, &login, Fault::CutOffLeader, &quiet).is_some());
        assert_eq!(of(Port::Write, None, &login, Fault::CutOffReplica, &quiet), None);
        assert!(of(Port::Write, Some(0), &cut(), Fault::ResetLeader, &quiet).is_some());
        assert_eq!(of(Port::Write, Some(0), &cut(), Fault::ResetReplica, &quiet), None);
        assert!(of(Port::Read, Some(1), &cut(), Fault::ResetReplica, &quiet).is_some());
        assert_eq!(of(Port::Read, Some(2), &cut(), Fault::ResetReplica, &quiet), None);
    }
}
