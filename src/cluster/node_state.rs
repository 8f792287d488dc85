//! The state of one member in the [`machine`](super::machine): what the topology shows of it, and what only the machine
//! needs.

use std::sync::Arc;

use super::health::Health;
use super::identity::Vote;
use super::lag::{Lag, LagMeter};
use super::leadership::LockSeen;
use super::moment::Moment;
use super::node::{Claim, Lsn, Member};
use super::ports::SessionPort;
use super::schedule::CheckSchedule;
use super::suspicion::SuspicionRates;
use super::topology::NodeView;

/// The state of one member.
pub(super) struct NodeState {
    pub(super) view: NodeView,
    pub(super) schedule: CheckSchedule,
    pub(super) lag_meter: LagMeter,
    /// Named by the operator: stays even if discovery does not list it.
    pub(super) is_static: bool,
    /// When the first answer of its present, uninterrupted claim to lead arrived.
    pub(super) claims_since: Option<Moment>,
    /// When the newest check was sent in which it led.
    pub(super) last_led_at: Option<Moment>,
    /// Its claim at the last review.
    served_as: Option<Claim>,
    /// It has belonged to the cluster on which the nodes have agreed.
    pub(super) has_belonged: bool,
    /// When it left, if it has.
    pub(super) departed_at: Option<Moment>,
    /// How often suspicions may cause a check of it.
    pub(super) suspicions: SuspicionRates,
    /// The last login hint that contradicted its checks.
    pub(super) login_hint: Option<LoginHint>,
}

/// What a node said at a login about recovery.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoginHint {
    pub(super) arrived_at: Moment,
    /// The port at which it was said.
    pub(super) port: SessionPort,
    pub(super) in_recovery: bool,
}

impl NodeState {
    /// A member of which nothing is known.
    pub(super) fn new(member: Member, is_static: bool, now: Moment, seed: u64) -> NodeState {
        NodeState {
            view: NodeView::unchecked(Arc::new(member)),
            schedule: CheckSchedule::starting(now, seed),
            lag_meter: LagMeter::default(),
            is_static,
            claims_since: None,
            last_led_at: None,
            served_as: None,
            has_belonged: false,
            departed_at: None,
            suspicions: SuspicionRates::default(),
            login_hint: None,
        }
    }

    /// Compares the login hint with the answer to a check that was sent after it.
    pub(super) fn check_login_hint(&mut self, asked_at: Moment, now: Moment) {
        let Some(hint) = self.login_hint.filter(|hint| asked_at >= hint.arrived_at) else { return };
        self.login_hint = None;
        let is_refuted = self.view.known_in_recovery() == Some(!hint.in_recovery);
        self.view.ports.check_login_hint(hint.port, is_refuted, now);
    }

    /// It is no longer a member.
    pub(super) fn leaves(&mut self, now: Moment) {
        self.view.departed = true;
        self.claims_since = None;
        self.view.lock = None;
        self.departed_at = Some(now);
    }

    /// Updates what follows from the node's claim alone.
    pub(super) fn review(&mut self, now: Moment) {
        let claim = self.view.claim();
        self.claims_since = (claim == Some(Claim::Leader)).then(|| self.claims_since.unwrap_or(now));
        if self.claims_since.is_some() {
            self.last_led_at = self.view.health.answer_asked_at();
        }
        self.view.lock = self.lock_seen(now).filter(|_| self.view.foreign.is_none());
        let serves_as = claim.filter(|_| matches!(self.view.health, Health::Answering { .. }));
        if serves_as != self.served_as {
            self.served_as = serves_as;
            self.view.serving_since = serves_as.map(|_| now);
        }
    }

    /// What is known of the leader lock after the newest answer. PostgreSQL's answer says nothing about it, unless the
    /// server is not a primary any more.
    fn lock_seen(&self, now: Moment) -> Option<LockSeen> {
        let (report, asked_at) = (self.view.health.report()?, self.view.health.answer_asked_at()?);
        let known = self.view.lock;
        if report.holds_lock {
            return Some(LockSeen { since: known.map_or(now, |known| known.since), asked_at });
        }
        let is_unchanged = report.patroni_error.is_some() && matches!(report.claim, Claim::Leader | Claim::LockHolder);
        known.filter(|_| is_unchanged)
    }

    /// Its vote on which cluster this is. A silent node has none: its last answer may be outdated.
    pub(super) fn vote(&self) -> Vote {
        let answers = matches!(self.view.health, Health::Answering { .. });
        Vote {
            is_checked: self.view.checked_at.is_some(),
            report: self.view.health.report().filter(|_| answers).cloned(),
            has_belonged: self.has_belonged,
        }
    }

    /// How far a standby is behind. Bytes and time are read together: the time since the last replayed commit grows on an
    /// idle cluster, so it counts only while there is WAL left to replay.
    pub(super) fn lag_behind(&self, wal_end: Option<Lsn>) -> Option<Lag> {
        let report = self.view.health.report()?;
        let Some(Claim::Replica | Claim::StandbyLeader) = self.view.claim() else { return None };
        let (Lsn(end), Lsn(at)) = (wal_end?, report.position?);
        let bytes = end.saturating_sub(at);
        let time = report.replay_delay.filter(|_| bytes > 0).unwrap_or_default();
        Some(Lag { bytes, time })
    }
}
