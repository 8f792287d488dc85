//! The park of one cluster, shared between those that ask for it, the clients that wait and the task that keeps the time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::control::SessionControl;
use crate::routing::{Park, ParkOver, Rule, SessionParkEvent, Target};

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
}

impl ClusterParking {
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
