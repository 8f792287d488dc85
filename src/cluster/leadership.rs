//! Who leads: the one decision that everything else follows.
//!
//! Decided anew from the nodes' newest answers after every event; the rules are in [`decide`].

use std::time::Duration;

use super::health::Health;
use super::moment::Moment;
use super::node::{Claim, NodeId};

/// The state of the lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// Nobody may be written to.
    ///
    /// Exits: one node's claim stands → `Led`; several claims stand → `Contested`.
    Vacant {
        /// Since when there has been no leader; the start of the process if there never was one.
        since: Moment,
        /// Why nobody leads.
        why: Vacancy,
    },
    /// One node takes the writes.
    ///
    /// Exits: the leader's own word, or its silence beyond the grace → `Vacant`; another node proves to
    /// lead → `Led` by that one; another claims and neither proves it → `Contested`.
    Led {
        /// The leader.
        leader: NodeId,
        /// Its timeline, where it says it.
        timeline: Option<u32>,
        /// Since when it leads, as far as we saw.
        since: Moment,
    },
    /// Several nodes claim the lead and nothing proves one of them right: nobody may be written to.
    ///
    /// Exits: all but one withdraw, fall silent beyond the grace, or are outdone by a newer timeline → `Led`.
    Contested {
        /// Since when there has been no undisputed leader.
        since: Moment,
        /// Those who claim it.
        claimants: Vec<NodeId>,
    },
}

/// Why nobody leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vacancy {
    /// The first checks are still under way.
    Unchecked,
    /// This node holds Patroni's leader lock, but its PostgreSQL does not take writes (yet, or any more).
    NotReady(NodeId),
    /// This node runs as a primary, and does not hold the leader lock; nor does another.
    Unlocked(NodeId),
    /// This node led, and has been silent for longer than the grace.
    Silent(NodeId),
    /// Nodes answer, and all that do belong to another cluster, as far as is known.
    Foreign,
    /// Nodes answer, and none of them claims the lead.
    Unclaimed,
    /// No node answers.
    Unreachable,
}

impl Leadership {
    /// The leader, if there is exactly one.
    pub fn leader(&self) -> Option<NodeId> {
        match self {
            Leadership::Led { leader, .. } => Some(*leader),
            _ => None,
        }
    }

    /// Since when there has been no leader; `None` while there is one.
    pub fn leaderless_since(&self) -> Option<Moment> {
        match self {
            Leadership::Led { .. } => None,
            Leadership::Vacant { since, .. } | Leadership::Contested { since, .. } => Some(*since),
        }
    }
}

/// One node as the decision sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Which node.
    pub id: NodeId,
    /// What is known of it.
    pub health: &'a Health,
    /// It belongs to the cluster, as far as that is settled; otherwise its claims count for nothing.
    pub is_believed: bool,
    /// When the first answer of its present, uninterrupted claim to the lead came in.
    pub claims_since: Option<Moment>,
    /// When the first answer came in by which its Patroni has held the leader lock without interruption.
    pub lock_since: Option<Moment>,
}

/// A claim that has not lapsed.
#[derive(Clone, Copy)]
struct Standing {
    id: NodeId,
    timeline: Option<u32>,
    claims_since: Moment,
    newest_asked_at: Moment,
}

/// Decides who leads at `now`.
///
/// - A claim stands for `grace` after the newest answer that made it was asked for; silence alone ends it no sooner.
/// - A claim does not stand against another node whose Patroni answers that it holds the lock, if PostgreSQL alone keeps
///   the claim up, its Patroni being silent, or if the claim was last made before that lock was seen: only one node holds
///   the lock, and a frozen Patroni cannot demote its primary.
/// - One standing claim: that node leads.
/// - Several: the one on a strictly newer timeline leads, provided that each other claim was last made *before*
///   the newer one appeared. A promotion begins a new timeline, so an old leader's claim that is merely stale is
///   outdone; an old leader that goes on claiming is a split brain, and then nobody leads.
#[must_use]
pub fn decide(previous: &Leadership, candidates: &[Candidate<'_>], now: Moment, grace: Duration) -> Leadership {
    let standing: Vec<Standing> = candidates
        .iter()
        .filter(|node| !is_without_lock(node, candidates))
        .filter_map(|node| standing_claim(node, now, grace))
        .collect();
    let leaderless_since = || previous.leaderless_since().unwrap_or(now);

    match winner(&standing) {
        Some(winner) => {
            let since = match previous {
                Leadership::Led { leader, since, .. } if *leader == winner.id => *since,
                _ => now,
            };
            Leadership::Led { leader: winner.id, timeline: winner.timeline, since }
        }
        None if standing.is_empty() => {
            Leadership::Vacant { since: leaderless_since(), why: vacancy(previous, candidates) }
        }
        None => Leadership::Contested {
            since: leaderless_since(),
            claimants: standing.iter().map(|claim| claim.id).collect(),
        },
    }
}

fn standing_claim(node: &Candidate<'_>, now: Moment, grace: Duration) -> Option<Standing> {
    let report = node.health.report().filter(|_| node.is_believed)?;
    let newest_asked_at = node.health.answer_asked_at()?;
    let stands = report.claim == Claim::Leader && now - newest_asked_at <= grace;
    stands.then(|| Standing {
        id: node.id,
        timeline: report.timeline,
        claims_since: node.claims_since.unwrap_or(newest_asked_at),
        newest_asked_at,
    })
}

/// Whether another node has been seen to hold the leader lock since this node was last known to.
fn is_without_lock(node: &Candidate<'_>, candidates: &[Candidate<'_>]) -> bool {
    candidates
        .iter()
        .filter(|other| other.id != node.id)
        .any(|other| has_taken_lock_from(other.health, other.lock_since, node.health))
}

/// Whether a node has been seen to hold the leader lock since another last said that it led.
pub(super) fn has_taken_lock_from(holder: &Health, lock_since: Option<Moment>, other: &Health) -> bool {
    let (Health::Answering { .. }, Some(lock_since)) = (holder, lock_since) else { return false };
    let Some(report) = other.report() else { return false };
    let is_by_patroni = report.holds_lock && report.patroni_error.is_none();
    !is_by_patroni || other.answer_asked_at().is_some_and(|asked_at| asked_at < lock_since)
}

fn winner(standing: &[Standing]) -> Option<Standing> {
    let best = *standing.iter().max_by_key(|claim| claim.timeline)?;
    let outdoes = |other: &Standing| {
        let newer_timeline = matches!((best.timeline, other.timeline), (Some(a), Some(b)) if a > b);
        newer_timeline && other.newest_asked_at < best.claims_since
    };
    standing.iter().filter(|claim| claim.id != best.id).all(outdoes).then_some(best)
}

fn vacancy(previous: &Leadership, candidates: &[Candidate<'_>]) -> Vacancy {
    let claim_of = |node: &Candidate<'_>| node.health.report().filter(|_| node.is_believed).map(|report| report.claim);
    let is_silent = |node: &&Candidate<'_>| node.health.silence().is_some();

    if let Some(holder) = candidates.iter().find(|node| claim_of(node) == Some(Claim::LockHolder)) {
        return Vacancy::NotReady(holder.id);
    }
    if let Some(primary) = candidates.iter().find(|node| claim_of(node) == Some(Claim::UnlockedPrimary)) {
        return Vacancy::Unlocked(primary.id);
    }
    let lapsed = candidates.iter().find(|node| claim_of(node) == Some(Claim::Leader));
    match (lapsed, previous) {
        (Some(node), _) => Vacancy::Silent(node.id),
        (None, Leadership::Vacant { why: Vacancy::Unchecked, .. })
            if candidates.is_empty() || candidates.iter().any(|node| *node.health == Health::UNKNOWN) =>
        {
            Vacancy::Unchecked
        }
        _ if candidates.iter().all(|node| is_silent(&node)) => Vacancy::Unreachable,
        _ if !candidates.iter().any(|node| node.is_believed && !is_silent(&node)) => Vacancy::Foreign,
        _ => Vacancy::Unclaimed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::fixtures::{at_ms, leader, replica};
    use crate::cluster::node::{CheckError, Report};

    const GRACE: Duration = Duration::from_secs(20);
    const NOBODY: Leadership = Leadership::Vacant { since: Moment::START, why: Vacancy::Unchecked };

    /// A node that was last asked at `asked_ms` and has made the same claim since `since_ms`.
    fn answering(report: Arc<Report>, since_ms: u64, asked_ms: u64) -> (Health, Option<Moment>) {
        let claims = (report.claim == Claim::Leader).then(|| at_ms(since_ms));
        (Health::Answering { report, asked_at: at_ms(asked_ms), since: at_ms(0), missed: 0 }, claims)
    }

    fn silent(report: Arc<Report>, asked_ms: u64) -> (Health, Option<Moment>) {
        let claims = (report.claim == Claim::Leader).then(|| at_ms(asked_ms));
        let silence = CheckError::TimedOut;
        (Health::Silent { report, asked_at: at_ms(asked_ms), since: at_ms(asked_ms + 3000), silence, risen: 0 }, claims)
    }

    fn decided(previous: &Leadership, nodes: &[(Health, Option<Moment>)], now_ms: u64) -> Leadership {
        let candidates: Vec<Candidate<'_>> = nodes
            .iter()
            .enumerate()
            .map(|(id, (health, claims_since))| Candidate {
                id: NodeId::new(id),
                health,
                is_believed: true,
                claims_since: *claims_since,
                lock_since: claims_since.or_else(|| lock_seen(health)).filter(|_| has_lock(health)),
            })
            .collect();
        decide(previous, &candidates, at_ms(now_ms), GRACE)
    }

    fn has_lock(health: &Health) -> bool {
        health.report().is_some_and(|report| report.holds_lock && report.patroni_error.is_none())
    }

    fn lock_seen(health: &Health) -> Option<Moment> {
        health.answer_asked_at().filter(|_| has_lock(health))
    }

    #[test]
    fn nobody_leads_before_the_first_answer() {
        let unchecked = (Health::UNKNOWN, None);
        assert_eq!(decided(&NOBODY, &[unchecked.clone(), unchecked], 5), NOBODY);
    }

    #[test]
    fn the_only_claimant_leads() {
        let nodes = [answering(replica(1), 0, 10), answering(leader(1), 10, 10)];
        assert_eq!(decided(&NOBODY, &nodes, 11).leader(), Some(NodeId::new(1)));
    }

    #[test]
    fn a_silent_leader_keeps_the_lead_for_the_grace_and_no_longer() {
        let led = decided(&NOBODY, &[answering(leader(1), 0, 0)], 1);
        let nodes = [silent(leader(1), 0), answering(replica(1), 0, 19_000)];
        assert_eq!(decided(&led, &nodes, 20_000).leader(), Some(NodeId::new(0)));
        let lapsed = decided(&led, &nodes, 20_001);
        assert_eq!(lapsed, Leadership::Vacant { since: at_ms(20_001), why: Vacancy::Silent(NodeId::new(0)) });
    }

    #[test]
    fn a_silent_leader_loses_the_lead_at_once_to_a_newer_timeline() {
        let nodes = [silent(leader(1), 0), answering(leader(2), 4000, 4000)];
        assert_eq!(decided(&NOBODY, &nodes, 4001).leader(), Some(NodeId::new(1)));
    }

    #[test]
    fn a_stale_claim_is_outdone_and_a_repeated_one_is_a_split_brain() {
        let stale = [answering(leader(1), 0, 1000), answering(leader(2), 1500, 1500)];
        assert_eq!(decided(&NOBODY, &stale, 1501).leader(), Some(NodeId::new(1)));
        let repeated = [answering(leader(1), 0, 2000), answering(leader(2), 1500, 2100)];
        let contested = decided(&NOBODY, &repeated, 2101);
        assert!(matches!(contested, Leadership::Contested { ref claimants, .. } if claimants.len() == 2));
    }

    #[test]
    fn a_claim_by_postgresqls_word_alone_yields_to_the_lock() {
        let mut alone = (*leader(1)).clone();
        alone.patroni_error = Some(CheckError::TimedOut);
        let alone = answering(Arc::new(alone), 0, 5000);
        assert_eq!(
            decided(&NOBODY, &[alone.clone(), answering(replica(1), 0, 4000)], 5001).leader(),
            Some(NodeId::new(0))
        );
        let newer = answering(leader(2), 4000, 4500);
        assert_eq!(decided(&NOBODY, &[alone.clone(), newer], 5001).leader(), Some(NodeId::new(1)), "though it goes on");
        let mut promoted = (*replica(2)).clone();
        (promoted.claim, promoted.holds_lock) = (Claim::LockHolder, true);
        let vacant = decided(&NOBODY, &[alone.clone(), answering(Arc::new(promoted), 0, 4500)], 5001);
        assert!(
            matches!(vacant, Leadership::Vacant { why: Vacancy::NotReady(id), .. } if id == NodeId::new(1)),
            "{vacant:?}"
        );
        let gone = silent(leader(1), 4500);
        assert_eq!(decided(&NOBODY, &[alone, gone], 5001).leader(), None, "the other's word may be the newer one");
    }

    #[test]
    fn equal_or_unknown_timelines_settle_nothing() {
        let primary = Arc::new(Report { holds_lock: false, ..(*leader(3)).clone() });
        let equal = [silent(Arc::clone(&primary), 0), answering(primary, 4000, 4000)];
        assert_eq!(decided(&NOBODY, &equal, 4001).leader(), None, "by PostgreSQL's answers alone");
        let with_lock = [silent(leader(3), 0), answering(leader(3), 4000, 4000)];
        assert_eq!(decided(&NOBODY, &with_lock, 4001).leader(), Some(NodeId::new(1)), "only one holds the lock");
    }

    #[test]
    fn a_lock_that_is_seen_elsewhere_ends_an_older_claim() {
        let mut report = (*replica(1)).clone();
        (report.claim, report.holds_lock) = (Claim::LockHolder, true);
        let being_promoted = answering(Arc::new(report), 0, 5000);
        let older = [answering(leader(1), 0, 4000), being_promoted.clone()];
        let vacant = decided(&NOBODY, &older, 5001);
        assert!(matches!(vacant, Leadership::Vacant { why: Vacancy::NotReady(id), .. } if id == NodeId::new(1)));
        let newer = [answering(leader(1), 0, 6000), being_promoted];
        assert_eq!(decided(&NOBODY, &newer, 6001).leader(), Some(NodeId::new(0)), "it has said so since");
    }

    #[test]
    fn a_primary_without_the_lock_is_no_leader() {
        let mut report = (*leader(1)).clone();
        (report.claim, report.holds_lock) = (Claim::UnlockedPrimary, false);
        let led = decided(&NOBODY, &[answering(leader(1), 0, 0)], 1);
        let vacant = decided(&led, &[answering(Arc::new(report), 0, 1000)], 1001);
        assert_eq!(vacant, Leadership::Vacant { since: at_ms(1001), why: Vacancy::Unlocked(NodeId::new(0)) });
    }

    #[test]
    fn the_vacancy_names_the_lock_holder() {
        let mut report = (*replica(2)).clone();
        report.claim = Claim::LockHolder;
        let nodes = [answering(replica(1), 0, 10), answering(Arc::new(report), 0, 10)];
        let vacant = decided(&NOBODY, &nodes, 11);
        assert_eq!(vacant, Leadership::Vacant { since: Moment::START, why: Vacancy::NotReady(NodeId::new(1)) });
    }
}
