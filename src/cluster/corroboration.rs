//! What follows from PostgreSQL's answer when the Patroni of the node does not answer.
//!
//! PostgreSQL knows whether it is in recovery, and nothing about the leader lock. So its answer can end a node's lead,
//! and it can confirm the lead of a node that became leader according to Patroni; it can never make a node the leader.
//! A lead that is confirmed in this way ends when another node holds the lock; [`super::leadership`] decides that.

use super::node::{CheckError, Claim, Report};

/// The result of a check in which Patroni failed with `error` and PostgreSQL answered with `answer`.
///
/// `known` is the node's newest report; `leads` is whether the node is the leader at present. Returns `error` where
/// PostgreSQL's answer changes nothing.
pub fn settle(error: CheckError, known: Option<&Report>, leads: bool, answer: &Report) -> Result<Report, CheckError> {
    let claimed = known.map(|report| report.claim);
    let claim = match (answer.claim, claimed) {
        // A standby cluster's leader is in recovery by design.
        (Claim::Replica, Some(Claim::StandbyLeader)) => return Err(error),
        (Claim::Replica, _) => Claim::Replica,
        // Still alive, still a primary. A node that was not the leader before does not become it by PostgreSQL's
        // answer.
        (Claim::Leader, Some(Claim::Leader)) if leads => Claim::Leader,
        (Claim::Leader, _) => return Err(error),
        // As far as known it holds the lock. It takes no new sessions now; PostgreSQL itself ends the old ones.
        (_, Some(Claim::Leader | Claim::LockHolder)) => Claim::LockHolder,
        (_, Some(Claim::UnlockedPrimary)) => Claim::UnlockedPrimary,
        _ => Claim::OutOfService,
    };
    let answer = answer.clone();
    let known = known.cloned().unwrap_or_else(|| Report::bare(claim, ""));
    Ok(Report {
        claim,
        // only Patroni can report these: the last known values stay
        tags: known.tags,
        noloadbalance: known.noloadbalance,
        sync: known.sync,
        name: known.name,
        scope: known.scope.or(answer.scope),
        patroni_version: known.patroni_version,
        paused: known.paused,
        failsafe: known.failsafe,
        pending_restart: known.pending_restart,
        // where PostgreSQL could not report a value, the last known value stays
        system_identifier: answer.system_identifier.or(known.system_identifier),
        postmaster_start: known.postmaster_start,
        server_version: answer.server_version.or(known.server_version),
        timeline: answer.timeline.or(known.timeline),
        patroni_error: Some(error),
        ..answer
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::report;

    const ERROR: CheckError = CheckError::TimedOut;

    fn answer(claim: Claim) -> Report {
        Report { timeline: Some(7), patroni_version: None, ..report(claim, 7) }
    }

    fn settled(known: Option<Claim>, leads: bool, answered: Claim) -> Option<Claim> {
        let known = known.map(|claim| report(claim, 7));
        settle(ERROR, known.as_ref(), leads, &answer(answered)).ok().map(|report| report.claim)
    }

    #[test]
    fn an_answer_that_the_node_is_in_recovery_counts_at_once() {
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
    fn no_answer_of_a_primary_that_starts_or_stops_takes_its_sessions_away() {
        let primaries = [Claim::Leader, Claim::LockHolder, Claim::UnlockedPrimary];
        for (known, leads) in primaries.into_iter().flat_map(|known| [(known, true), (known, false)]) {
            let claim = settled(Some(known), leads, Claim::OutOfService);
            assert!(claim.is_some_and(Claim::keeps_writers), "{known:?} became {claim:?}");
        }
    }

    #[test]
    fn what_only_patroni_reports_stays() {
        let mut known = report(Claim::Replica, 6);
        known.noloadbalance = true;
        known.paused = true;
        let settled = settle(ERROR, Some(&known), false, &answer(Claim::Replica)).expect("is authoritative");
        assert!(settled.noloadbalance && settled.paused);
        assert_eq!(settled.timeline, Some(7), "PostgreSQL's own answer is newer");
        assert_eq!(settled.patroni_version, known.patroni_version);
        assert_eq!(settled.patroni_error, Some(ERROR));
    }
}
