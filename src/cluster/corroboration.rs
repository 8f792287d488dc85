//! When a node's Patroni is silent and its PostgreSQL is not: what PostgreSQL's word is worth.
//!
//! PostgreSQL knows whether it is in recovery, and nothing of the leader lock. So it can take the lead away, and it can
//! keep it for who has it by Patroni's word; it can give it to nobody. That a lead which is kept in this way yields to
//! any other holder of the lock is decided in [`super::leadership`].

use super::node::{CheckError, Claim, Report};

/// Settles what a check amounts to that Patroni left unanswered with `silence` and PostgreSQL answered with `word`.
///
/// `known` is the node's newest report, and `leads` whether the node leads at present. Errors: the silence, where
/// PostgreSQL's word changes nothing.
pub fn settle(silence: CheckError, known: Option<&Report>, leads: bool, word: &Report) -> Result<Report, CheckError> {
    let claimed = known.map(|report| report.claim);
    let claim = match (word.claim, claimed) {
        // A standby cluster's leader is in recovery by design.
        (Claim::Replica, Some(Claim::StandbyLeader)) => return Err(silence),
        (Claim::Replica, _) => Claim::Replica,
        // Still alive, still a primary. Who has not led by Patroni's word does not lead by PostgreSQL's.
        (Claim::Leader, Some(Claim::Leader)) if leads => Claim::Leader,
        (Claim::Leader, _) => return Err(silence),
        // As far as is known it has the lock; it takes no new sessions now, and its old ones are PostgreSQL's to end.
        (_, Some(Claim::Leader | Claim::LockHolder)) => Claim::LockHolder,
        _ => Claim::OutOfService,
    };
    let word = word.clone();
    let known = known.cloned().unwrap_or_else(|| Report::bare(claim, ""));
    Ok(Report {
        claim,
        // what only Patroni can tell is still as it was last told
        tags: known.tags,
        noloadbalance: known.noloadbalance,
        sync: known.sync,
        name: known.name,
        scope: known.scope.or(word.scope),
        patroni_version: known.patroni_version,
        paused: known.paused,
        failsafe: known.failsafe,
        pending_restart: known.pending_restart,
        // and of what PostgreSQL did not say, being in no state to say it, what is known stays
        system_identifier: word.system_identifier.or(known.system_identifier),
        postmaster_start: known.postmaster_start,
        server_version: word.server_version.or(known.server_version),
        timeline: word.timeline.or(known.timeline),
        patroni_error: Some(silence),
        ..word
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::report;

    const SILENCE: CheckError = CheckError::TimedOut;

    fn word(claim: Claim) -> Report {
        Report { timeline: Some(7), patroni_version: None, ..report(claim, 7) }
    }

    fn settled(known: Option<Claim>, leads: bool, said: Claim) -> Option<Claim> {
        let known = known.map(|claim| report(claim, 7));
        settle(SILENCE, known.as_ref(), leads, &word(said)).ok().map(|report| report.claim)
    }

    #[test]
    fn recovery_is_authoritative() {
        for known in [None, Some(Claim::Leader), Some(Claim::LockHolder), Some(Claim::Replica)] {
            for leads in [true, false] {
                assert_eq!(settled(known, leads, Claim::Replica), Some(Claim::Replica), "{known:?}, {leads}");
            }
        }
        assert_eq!(settled(Some(Claim::StandbyLeader), false, Claim::Replica), None, "in recovery by design");
    }

    #[test]
    fn a_primary_keeps_the_lead_and_gains_none() {
        assert_eq!(settled(Some(Claim::Leader), true, Claim::Leader), Some(Claim::Leader));
        assert_eq!(settled(Some(Claim::Leader), false, Claim::Leader), None, "has lost it since");
        for known in [None, Some(Claim::Replica), Some(Claim::LockHolder), Some(Claim::OutOfService)] {
            for leads in [true, false] {
                assert_eq!(settled(known, leads, Claim::Leader), None, "{known:?}, {leads}");
            }
        }
    }

    #[test]
    fn a_server_that_starts_or_stops_serves_nothing_new() {
        assert_eq!(settled(Some(Claim::Leader), true, Claim::OutOfService), Some(Claim::LockHolder));
        assert_eq!(settled(Some(Claim::Replica), false, Claim::OutOfService), Some(Claim::OutOfService));
        assert_eq!(settled(None, false, Claim::OutOfService), Some(Claim::OutOfService));
    }

    #[test]
    fn what_only_patroni_tells_stays() {
        let mut known = report(Claim::Replica, 6);
        known.noloadbalance = true;
        known.paused = true;
        let settled = settle(SILENCE, Some(&known), false, &word(Claim::Replica)).expect("is authoritative");
        assert!(settled.noloadbalance && settled.paused);
        assert_eq!(settled.timeline, Some(7), "PostgreSQL's own word is newer");
        assert_eq!(settled.patroni_version, known.patroni_version);
        assert_eq!(settled.patroni_error, Some(SILENCE));
    }
}
