//! Whether an event in the cluster explains a failure that a client saw.

use pgvane_loadtest::failure::{Failure, FailureClass};
use pgvane_loadtest::lab::Lab;

use super::plan::Fault;

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

/// The event that explains `failure`. `None`, if nothing explains it, is a violation.
pub(super) fn cause(
    fault: Fault,
    port: Port,
    failure: &Failure,
    before: &Facts,
    after: &Facts,
) -> Option<&'static str> {
    if matches!(failure.class, FailureClass::ReadOnly | FailureClass::Unanswered) {
        return None;
    }
    if failure.message.contains("within hold_max") {
        return None;
    }
    // A login only: sessions that exist need no further descriptors.
    let is_refused_login = failure.class == FailureClass::ConnectFailed && failure.sqlstate.as_deref() == Some("53300");
    if fault == Fault::NoDescriptors && is_refused_login {
        return Some("nothing; pgvane had no descriptors left");
    }
    let restarted = |node: usize| before.starts.get(node) != after.starts.get(node);
    if (before.leader, before.timeline) != (after.leader, after.timeline) {
        Some("the lead changed")
    } else if restarted(before.leader) {
        Some("the leader's PostgreSQL restarted")
    } else if port == Port::Read && (0..before.starts.len()).any(restarted) {
        Some("a replica's PostgreSQL restarted")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_cut_needs_a_reason_in_the_cluster_and_a_read_only_error_has_none() {
        let facts = |leader, start: &str| Facts { leader, timeline: 1, starts: vec!["1".to_owned(), start.to_owned()] };
        let failure =
            |class, message: &str| Failure { at: Instant::now(), class, sqlstate: None, message: message.to_owned() };
        let cut = failure(FailureClass::SessionBroken, "pgvane: the server is no longer the leader");
        let is_violation = |port, failure: &Failure, after: &Facts| {
            cause(Fault::Switchover, port, failure, &facts(0, "2"), after).is_none()
        };
        assert!(is_violation(Port::Write, &cut, &facts(0, "2")), "nothing happened");
        assert!(is_violation(Port::Write, &cut, &facts(0, "3")), "only a replica restarted");
        assert!(!is_violation(Port::Read, &cut, &facts(0, "3")));
        assert!(!is_violation(Port::Write, &cut, &facts(1, "2")), "the lead changed");
        let read_only = failure(FailureClass::ReadOnly, "cannot execute INSERT in a read-only transaction");
        assert!(is_violation(Port::Write, &read_only, &facts(1, "3")));
        let held = failure(FailureClass::ConnectFailed, "no server for listener \"write\" within hold_max");
        assert!(is_violation(Port::Write, &held, &facts(1, "3")));
        let (mut full, quiet) = (failure(FailureClass::ConnectFailed, "too many"), facts(0, "2"));
        full.sqlstate = Some("53300".to_owned());
        assert!(is_violation(Port::Write, &full, &quiet));
        assert!(cause(Fault::NoDescriptors, Port::Write, &full, &quiet, &quiet).is_some());
        assert!(cause(Fault::NoDescriptors, Port::Write, &cut, &quiet, &quiet).is_none());
    }
}
