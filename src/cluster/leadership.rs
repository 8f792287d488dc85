//! Who leads: the decision on which all others depend.
//!
//! It is made again from the nodes' newest answers after every event. The rules are in [`decide`].

use std::time::Duration;

use super::health::Health;
use super::moment::Moment;
use super::node::{Claim, NodeId};

/// The state of the lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// No node gets writes.
    ///
    /// Exits: one node's claim stands → `Led`; several claims stand → `Contested`.
    Leaderless {
        /// Since when there has been no leader; the start of the process if there never was one.
        since: Moment,
        /// Why there is no leader.
        why: LeaderlessReason,
    },
    /// One node takes the writes.
    ///
    /// Exits: the leader's own answer, or its silence for longer than the grace → `Leaderless`; another node is proved to
    /// lead → `Led` by that one; another node claims to lead and neither is proved → `Contested`.
    Led {
        /// The leader.
        leader: NodeId,
        /// Its timeline, if it reports it.
        timeline: Option<u32>,
        /// Since when it leads, as seen by pgvane.
        since: Moment,
    },
    /// Several nodes claim the lead and nothing proves which one is right: no node gets writes.
    ///
    /// Exits: all claims but one are withdrawn, expire after the grace, or lose to a newer timeline → `Led`.
    Contested {
        /// Since when there has been no undisputed leader.
        since: Moment,
        /// The nodes that claim it.
        claimants: Vec<NodeId>,
    },
}

/// Why there is no leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaderlessReason {
    /// The first checks have not finished yet.
    Unchecked,
    /// This node holds Patroni's leader lock, but its PostgreSQL does not take writes (yet, or any more).
    NotReady(NodeId),
    /// This node runs as a primary, and does not hold the leader lock; nor does another.
    Unlocked(NodeId),
    /// This node was the leader, and has been silent for longer than the grace.
    Silent(NodeId),
    /// Nodes answer, and all of them belong to another cluster, as far as known.
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
            Leadership::Leaderless { since, .. } | Leadership::Contested { since, .. } => Some(*since),
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
    /// It belongs to the cluster, and it is known which cluster this is. Otherwise its claims are ignored.
    pub belongs: bool,
    /// When the first answer of its present, uninterrupted claim to lead arrived.
    pub claims_since: Option<Moment>,
    /// When its Patroni said that it holds the leader lock, if it has not been known to have lost it since.
    pub lock: Option<LockSeen>,
}

/// When a node's Patroni said that it holds the leader lock. While its Patroni does not answer and its PostgreSQL is not
/// in recovery, nothing is known to have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockSeen {
    /// When the first of these answers arrived.
    pub since: Moment,
    /// When the newest of these answers was asked for.
    pub asked_at: Moment,
}

/// A claim of a member that has not expired.
#[derive(Clone, Copy)]
struct ValidClaim<'a> {
    id: NodeId,
    node: &'a Candidate<'a>,
    timeline: Option<u32>,
    claims_since: Moment,
    newest_asked_at: Moment,
    /// Its Patroni did not answer the newest check; when it last said that it holds the lock.
    unconfirmed_lock: Option<Moment>,
}

/// Decides who leads at `now`.
///
/// - A claim is valid for `grace`, counted from when the newest check was sent whose answer made it. Silence alone does
///   not end it sooner.
/// - A claim is not valid if another node's Patroni was first seen to hold the lock after this node's Patroni last said
///   that it does: only one node holds the lock, and a frozen Patroni cannot demote its primary. An answer of PostgreSQL
///   says nothing about the lock: it neither extends nor interrupts what Patroni said.
/// - A claim that PostgreSQL alone makes, because its Patroni does not answer, does not lead if another node's Patroni
///   has said later, or again, that it holds the lock.
/// - One valid claim: that node leads.
/// - Several: the one on a strictly newer timeline leads, provided that each other claim was last made *before*
///   the newer one appeared. A promotion begins a new timeline, so the stale claim of an old leader is ignored. If the
///   old leader keeps claiming, that is a split brain, and then no node leads.
/// - A claim that the lock of a third node has ended still opposes others: two nodes that claimed the lead at the same
///   time contradict each other, whatever a third one says. It opposes no node that took the lock itself after that claim,
///   and none whose newer timeline began after it.
#[must_use]
pub fn decide(previous: &Leadership, candidates: &[Candidate<'_>], now: Moment, grace: Duration) -> Leadership {
    let (lost, valid): (Vec<_>, Vec<_>) = candidates
        .iter()
        .filter_map(|node| valid_claim(node, now, grace))
        .partition(|claim| is_without_lock(claim.node, candidates));
    let leaderless_since = || previous.leaderless_since().unwrap_or(now);

    let best = best_claim(&valid);
    let opponents: Vec<NodeId> = best.iter().flat_map(|best| opponents(best, &valid, &lost)).collect();
    match best.filter(|best| opponents.is_empty() && !is_lock_elsewhere(best, candidates)) {
        Some(winner) => {
            let since = match previous {
                Leadership::Led { leader, since, .. } if *leader == winner.id => *since,
                _ => now,
            };
            Leadership::Led { leader: winner.id, timeline: winner.timeline, since }
        }
        None if opponents.is_empty() => {
            Leadership::Leaderless { since: leaderless_since(), why: leaderless_reason(previous, candidates) }
        }
        None => {
            let mut claimants: Vec<NodeId> = valid.iter().map(|claim| claim.id).chain(opponents).collect();
            claimants.sort_unstable();
            claimants.dedup();
            Leadership::Contested { since: leaderless_since(), claimants }
        }
    }
}

fn valid_claim<'a>(node: &'a Candidate<'a>, now: Moment, grace: Duration) -> Option<ValidClaim<'a>> {
    let report = node.health.report().filter(|_| node.belongs)?;
    let newest_asked_at = node.health.answer_asked_at()?;
    let is_valid = report.claim == Claim::Leader && now - newest_asked_at <= grace;
    is_valid.then(|| ValidClaim {
        id: node.id,
        node,
        timeline: report.timeline,
        claims_since: node.claims_since.unwrap_or(newest_asked_at),
        newest_asked_at,
        unconfirmed_lock: node.lock.filter(|_| report.patroni_error.is_some()).map(|lock| lock.asked_at),
    })
}

/// Whether PostgreSQL alone makes this claim, and another node's Patroni has said since that it holds the lock.
fn is_lock_elsewhere(claim: &ValidClaim<'_>, candidates: &[Candidate<'_>]) -> bool {
    let Some(last_confirmed) = claim.unconfirmed_lock else { return false };
    let says_so =
        |node: &Candidate<'_>| says_lock(node.health) && node.lock.is_some_and(|lock| lock.asked_at >= last_confirmed);
    candidates.iter().filter(|node| node.id != claim.id).any(says_so)
}

/// Whether another node was seen to hold the leader lock after this node was last known to hold it.
fn is_without_lock(node: &Candidate<'_>, candidates: &[Candidate<'_>]) -> bool {
    candidates
        .iter()
        .filter(|other| other.id != node.id)
        .any(|other| has_taken_lock(other.health, other.lock, node.lock))
}

/// Whether a node was first seen to hold the leader lock after another node's Patroni last said that it holds it.
pub(super) fn has_taken_lock(holder: &Health, lock: Option<LockSeen>, others: Option<LockSeen>) -> bool {
    says_lock(holder) && lock.is_some_and(|lock| others.is_none_or(|others| others.asked_at < lock.since))
}

/// Whether the newest answer is Patroni's, and says that it holds the lock.
fn says_lock(health: &Health) -> bool {
    matches!(health, Health::Answering { report, .. } if report.holds_lock)
}

/// The claim on the newest timeline.
fn best_claim<'a>(valid: &[ValidClaim<'a>]) -> Option<ValidClaim<'a>> {
    valid.iter().max_by_key(|claim| claim.timeline).copied()
}

/// The nodes whose claims contradict the best one.
fn opponents(best: &ValidClaim<'_>, valid: &[ValidClaim<'_>], lost: &[ValidClaim<'_>]) -> Vec<NodeId> {
    let is_outdated = |other: &ValidClaim<'_>| {
        let newer_timeline = matches!((best.timeline, other.timeline), (Some(a), Some(b)) if a > b);
        newer_timeline && other.newest_asked_at < best.claims_since
    };
    let has_lost_to_best = |other: &ValidClaim<'_>| has_taken_lock(best.node.health, best.node.lock, other.node.lock);
    let valid = valid.iter().filter(|other| other.id != best.id && !is_outdated(other));
    let lost = lost.iter().filter(|other| !is_outdated(other) && !has_lost_to_best(other));
    valid.chain(lost).map(|claim| claim.id).collect()
}

fn leaderless_reason(previous: &Leadership, candidates: &[Candidate<'_>]) -> LeaderlessReason {
    let claim_of = |node: &Candidate<'_>| node.health.report().filter(|_| node.belongs).map(|report| report.claim);
    let is_silent = |node: &&Candidate<'_>| node.health.last_error().is_some();

    if let Some(holder) = candidates.iter().find(|node| claim_of(node) == Some(Claim::LockHolder)) {
        return LeaderlessReason::NotReady(holder.id);
    }
    if let Some(primary) = candidates.iter().find(|node| claim_of(node) == Some(Claim::UnlockedPrimary)) {
        return LeaderlessReason::Unlocked(primary.id);
    }
    let lapsed = candidates.iter().find(|node| claim_of(node) == Some(Claim::Leader));
    match (lapsed, previous) {
        (Some(node), _) => LeaderlessReason::Silent(node.id),
        (None, Leadership::Leaderless { why: LeaderlessReason::Unchecked, .. })
            if candidates.is_empty() || candidates.iter().any(|node| *node.health == Health::UNKNOWN) =>
        {
            LeaderlessReason::Unchecked
        }
        _ if candidates.iter().all(|node| is_silent(&node)) => LeaderlessReason::Unreachable,
        _ if !candidates.iter().any(|node| node.belongs && !is_silent(&node)) => LeaderlessReason::Foreign,
        _ => LeaderlessReason::Unclaimed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::fixtures::{at_ms, leader, replica};
    use crate::cluster::node::{CheckError, Report};

    const GRACE: Duration = Duration::from_secs(20);
    const NO_LEADER: Leadership = Leadership::Leaderless { since: Moment::START, why: LeaderlessReason::Unchecked };

    /// A node that was last asked at `asked_ms` and has made the same claim since `since_ms`.
    fn answering(report: Arc<Report>, since_ms: u64, asked_ms: u64) -> (Health, Option<Moment>) {
        let claims = (report.claim == Claim::Leader).then(|| at_ms(since_ms));
        (Health::Answering { report, asked_at: at_ms(asked_ms), since: at_ms(0), missed: 0 }, claims)
    }

    /// PostgreSQL says that it is a primary, and its Patroni does not answer.
    fn by_postgresql_alone(timeline: u32) -> Arc<Report> {
        let patroni_error = Some(CheckError::TimedOut);
        Arc::new(Report { holds_lock: false, patroni_error, ..(*leader(timeline)).clone() })
    }

    fn silent(report: Arc<Report>, asked_ms: u64) -> (Health, Option<Moment>) {
        let claims = (report.claim == Claim::Leader).then(|| at_ms(asked_ms));
        let error = CheckError::TimedOut;
        (Health::Silent { report, asked_at: at_ms(asked_ms), since: at_ms(asked_ms + 3000), error, risen: 0 }, claims)
    }

    fn decided(previous: &Leadership, nodes: &[(Health, Option<Moment>)], now_ms: u64) -> Leadership {
        let candidates: Vec<Candidate<'_>> = nodes
            .iter()
            .enumerate()
            .map(|(id, (health, claims_since))| Candidate {
                id: NodeId::new(id),
                health,
                belongs: true,
                claims_since: *claims_since,
                lock: lock_seen(health, *claims_since),
            })
            .collect();
        decide(previous, &candidates, at_ms(now_ms), GRACE)
    }

    /// The lock as its Patroni has reported it; by its first answer only, if PostgreSQL has answered since.
    fn lock_seen(health: &Health, claims_since: Option<Moment>) -> Option<LockSeen> {
        let (report, asked_at) = (health.report()?, health.answer_asked_at()?);
        let since = claims_since.unwrap_or(asked_at);
        match (report.holds_lock, &report.patroni_error) {
            (_, Some(_)) => Some(LockSeen { since, asked_at: since }),
            (true, None) => Some(LockSeen { since, asked_at }),
            (false, None) => None,
        }
    }

    #[test]
    fn no_node_leads_before_the_first_answer() {
        let unchecked = (Health::UNKNOWN, None);
        assert_eq!(decided(&NO_LEADER, &[unchecked.clone(), unchecked], 5), NO_LEADER);
    }

    #[test]
    fn the_only_claimant_leads() {
        let nodes = [answering(replica(1), 0, 10), answering(leader(1), 10, 10)];
        assert_eq!(decided(&NO_LEADER, &nodes, 11).leader(), Some(NodeId::new(1)));
    }

    #[test]
    fn a_silent_leader_keeps_the_lead_for_the_grace_and_no_longer() {
        let led = decided(&NO_LEADER, &[answering(leader(1), 0, 0)], 1);
        let nodes = [silent(leader(1), 0), answering(replica(1), 0, 19_000)];
        assert_eq!(decided(&led, &nodes, 20_000).leader(), Some(NodeId::new(0)));
        let lapsed = decided(&led, &nodes, 20_001);
        assert_eq!(
            lapsed,
            Leadership::Leaderless { since: at_ms(20_001), why: LeaderlessReason::Silent(NodeId::new(0)) }
        );
    }

    #[test]
    fn a_silent_leader_loses_the_lead_at_once_to_a_newer_timeline() {
        let nodes = [silent(leader(1), 0), answering(leader(2), 4000, 4000)];
        assert_eq!(decided(&NO_LEADER, &nodes, 4001).leader(), Some(NodeId::new(1)));
    }

    #[test]
    fn a_stale_claim_loses_to_a_newer_timeline_and_a_repeated_one_is_a_split_brain() {
        let stale = [answering(leader(1), 0, 1000), answering(leader(2), 1500, 1500)];
        assert_eq!(decided(&NO_LEADER, &stale, 1501).leader(), Some(NodeId::new(1)));
        let repeated = [answering(leader(1), 0, 2000), answering(leader(2), 1500, 2100)];
        let contested = decided(&NO_LEADER, &repeated, 2101);
        assert!(matches!(contested, Leadership::Contested { ref claimants, .. } if claimants.len() == 2));
    }

    #[test]
    fn a_claim_by_postgresql_alone_loses_to_the_lock() {
        let alone = answering(by_postgresql_alone(1), 0, 5000);
        assert_eq!(
            decided(&NO_LEADER, &[alone.clone(), answering(replica(1), 0, 4000)], 5001).leader(),
            Some(NodeId::new(0))
        );
        let newer = answering(leader(2), 4000, 4500);
        assert_eq!(
            decided(&NO_LEADER, &[alone.clone(), newer], 5001).leader(),
            Some(NodeId::new(1)),
            "although it still claims to lead"
        );
        let mut promoted = (*replica(2)).clone();
        (promoted.claim, promoted.holds_lock) = (Claim::LockHolder, true);
        let leaderless = decided(&NO_LEADER, &[alone.clone(), answering(Arc::new(promoted), 0, 4500)], 5001);
        assert!(
            matches!(leaderless, Leadership::Leaderless { why: LeaderlessReason::NotReady(id), .. } if id == NodeId::new(1)),
            "{leaderless:?}"
        );
        let gone = silent(leader(1), 4500);
        assert_eq!(decided(&NO_LEADER, &[alone, gone], 5001).leader(), None, "the other node's answer may be newer");
    }

    #[test]
    fn a_new_leader_whose_patroni_does_not_answer_does_not_lose_to_an_older_answer_of_the_leader_before() {
        let new = answering(by_postgresql_alone(4), 5000, 5500);
        let before = |asked_ms| answering(leader(3), 0, asked_ms);
        assert_eq!(decided(&NO_LEADER, &[before(4900), new.clone()], 5501).leader(), Some(NodeId::new(1)));
        let contested = decided(&NO_LEADER, &[before(5400), new], 5501);
        assert!(
            matches!(contested, Leadership::Contested { ref claimants, .. } if claimants.len() == 2),
            "the node before claims to lead again, and both are primaries: {contested:?}"
        );
    }

    #[test]
    fn equal_or_unknown_timelines_decide_nothing() {
        let primary = Arc::new(Report { holds_lock: false, ..(*leader(3)).clone() });
        let equal = [silent(Arc::clone(&primary), 0), answering(primary, 4000, 4000)];
        assert_eq!(decided(&NO_LEADER, &equal, 4001).leader(), None, "by PostgreSQL's answers alone");
        let with_lock = [silent(leader(3), 0), answering(leader(3), 4000, 4000)];
        assert_eq!(decided(&NO_LEADER, &with_lock, 4001).leader(), Some(NodeId::new(1)), "only one holds the lock");
    }

    #[test]
    fn a_lock_that_is_seen_elsewhere_ends_an_older_claim() {
        let mut report = (*replica(1)).clone();
        (report.claim, report.holds_lock) = (Claim::LockHolder, true);
        let being_promoted = answering(Arc::new(report), 0, 5000);
        let older = [answering(leader(1), 0, 4000), being_promoted.clone()];
        let leaderless = decided(&NO_LEADER, &older, 5001);
        assert!(
            matches!(leaderless, Leadership::Leaderless { why: LeaderlessReason::NotReady(id), .. } if id == NodeId::new(1))
        );
        let newer = [answering(leader(1), 0, 6000), being_promoted];
        assert_eq!(
            decided(&NO_LEADER, &newer, 6001).leader(),
            Some(NodeId::new(0)),
            "its claim is newer than the lock"
        );
    }

    #[test]
    fn nodes_that_contradict_each_other_stay_contested_when_a_third_one_holds_the_lock() {
        let mut report = (*replica(1)).clone();
        (report.claim, report.holds_lock) = (Claim::LockHolder, true);
        let third = answering(Arc::new(report), 5000, 5000);
        let claimed_before = answering(leader(3), 0, 4000);
        let claims_still = answering(leader(3), 0, 6000);
        let contested = decided(&NO_LEADER, &[claimed_before.clone(), claims_still, third.clone()], 6001);
        let all = [NodeId::new(0), NodeId::new(1)];
        assert!(matches!(contested, Leadership::Contested { ref claimants, .. } if *claimants == all), "{contested:?}");
        let took_it_since = answering(leader(3), 6000, 6000);
        let led = decided(&NO_LEADER, &[claimed_before.clone(), took_it_since, third.clone()], 6001);
        assert_eq!(led.leader(), Some(NodeId::new(1)), "the lock came to it after the other claim");
        let promoted_since = answering(leader(4), 4500, 6000);
        let led = decided(&NO_LEADER, &[claimed_before, promoted_since, third], 6001);
        assert_eq!(led.leader(), Some(NodeId::new(1)), "its timeline began after the other claim");
    }

    #[test]
    fn a_primary_without_the_lock_is_no_leader() {
        let mut report = (*leader(1)).clone();
        (report.claim, report.holds_lock) = (Claim::UnlockedPrimary, false);
        let led = decided(&NO_LEADER, &[answering(leader(1), 0, 0)], 1);
        let leaderless = decided(&led, &[answering(Arc::new(report), 0, 1000)], 1001);
        assert_eq!(
            leaderless,
            Leadership::Leaderless { since: at_ms(1001), why: LeaderlessReason::Unlocked(NodeId::new(0)) }
        );
    }

    #[test]
    fn while_there_is_no_leader_the_reason_names_the_lock_holder() {
        let mut report = (*replica(2)).clone();
        report.claim = Claim::LockHolder;
        let nodes = [answering(replica(1), 0, 10), answering(Arc::new(report), 0, 10)];
        let leaderless = decided(&NO_LEADER, &nodes, 11);
        assert_eq!(
            leaderless,
            Leadership::Leaderless { since: Moment::START, why: LeaderlessReason::NotReady(NodeId::new(1)) }
        );
    }
}
