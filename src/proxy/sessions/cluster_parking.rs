//! The park of one cluster, shared between those that ask for it, the clients that wait and the task that keeps the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::carry_totals::CarryTotals;
use super::control::SessionControl;
use super::pace::Pace;
use crate::config::{CarrySettings, ConnectionRate};
use crate::routing::{Park, ParkOver, ParkSettings, Rule, SessionParkEvent, Target};

/// What became of the sessions that were asked to park, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ParkTotals {
    /// They were parked and went on.
    pub let_go: u64,
    /// They were parked and ended, because no node led or another one did.
    pub ended: u64,
    /// Their transaction did not end within `park_grace`.
    pub late: u64,
    /// Client and server encrypt end to end.
    pub encrypted: u64,
    /// Parks that are over, by reason, in the order of [`ParkOver::LABELS`].
    pub parks: [u64; ParkOver::LABELS.len()],
}

/// How the sessions of a cluster are carried to another leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarryLimits {
    /// The names of the custom settings that sessions may have.
    pub custom_settings: Arc<[String]>,
    /// How fast they log in.
    pub rate: ConnectionRate,
    /// How long it may take after the park.
    pub max: Duration,
}

impl CarryLimits {
    /// Of a cluster with these settings.
    pub fn of(carry: &CarrySettings, park: ParkSettings) -> CarryLimits {
        let custom_settings = carry.custom_settings.as_slice().into();
        CarryLimits { custom_settings, rate: carry.rate, max: park.max }
    }
}

/// The park of one cluster.
#[derive(Debug, Default)]
pub struct ClusterParking {
    pub(super) park: Mutex<Park>,
    pub(super) reason: Mutex<String>,
    pub(super) is_parked: watch::Sender<bool>,
    /// Something has changed that the task which keeps the time has to look at.
    pub(super) changed: Notify,
    pub(super) let_go: AtomicU64,
    pub(super) ended: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) encrypted: AtomicU64,
    pub(super) parks: [AtomicU64; ParkOver::LABELS.len()],
    /// How parked sessions are carried; of the newest park, because they are still carried after it.
    pub(super) carry: Mutex<Option<Arc<CarryLimits>>>,
    carried: CarryTotals,
    /// The turns of the sessions that are carried.
    pub pace: Pace,
}

impl ClusterParking {
    /// How parked sessions are carried to another leader; `None` if they are not.
    pub fn carry(&self) -> Option<Arc<CarryLimits>> {
        self.carry.lock().clone()
    }

    /// What became of the sessions that lost their server while they were parked.
    pub fn carried(&self) -> &CarryTotals {
        &self.carried
    }

    /// Counts a session that was parked and has ended.
    pub fn count_ended(&self) {
        self.ended.fetch_add(1, Relaxed);
    }

    /// Whether there is a park.
    pub fn is_on(&self) -> bool {
        *self.is_parked.borrow()
    }

    /// Waits until there is a park and was none, or the other way round. Cancel safe.
    pub async fn changes_from(&self, is_on: bool) {
        let _ = self.is_parked.subscribe().wait_for(|is_parked| *is_parked != is_on).await;
    }

    /// Why new clients wait; `None` if there is no park.
    pub fn why_parked(&self) -> Option<String> {
        self.is_parked.borrow().then(|| self.reason.lock().clone())
    }

    /// Waits until there is no park. Cancel safe.
    pub async fn over(&self) {
        let _ = self.is_parked.subscribe().wait_for(|is_parked| !is_parked).await;
    }

    /// Asks a session that is about to be registered to park, if there is a park. The list of sessions is locked.
    pub(super) fn ask_new(&self, control: &SessionControl) {
        if is_parkable(&control.origin.rule) && *self.park.lock() != Park::Off {
            control.note_park(SessionParkEvent::Asked);
        }
    }

    /// What became of the sessions.
    pub(super) fn totals(&self) -> ParkTotals {
        ParkTotals {
            let_go: self.let_go.load(Relaxed),
            ended: self.ended.load(Relaxed),
            late: self.late.load(Relaxed),
            encrypted: self.encrypted.load(Relaxed),
            parks: std::array::from_fn(|reason| self.parks[reason].load(Relaxed)),
        }
    }
}

/// Whether a park concerns the sessions of this rule: those that write.
pub fn is_parkable(rule: &Rule) -> bool {
    rule.target == Target::Leader
}
