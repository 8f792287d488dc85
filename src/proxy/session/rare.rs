//! What few sessions have, and not for long: in an allocation of its own, so that the others are not larger for it.

use std::pin::Pin;
use std::sync::Arc;

use tokio::time::Sleep;

use crate::protocol::session_question::Question;
use crate::protocol::session_state::SessionState;
use crate::proxy::end::NotCarried;
use crate::proxy::sessions::cluster_parking::CarryLimits;

/// What few sessions have, and not for long.
#[derive(Default)]
pub(super) struct Rare {
    /// When a drain ends it.
    pub(super) deadline: Option<Pin<Box<Sleep>>>,
    /// The server has been asked for the session's state.
    pub(super) question: Option<Asked>,
    /// It is parked, and may be carried to another server.
    pub(super) prospect: Option<Box<Prospect>>,
}

/// A parked session of a cluster that carries its sessions.
#[derive(Debug)]
pub(super) struct Prospect {
    /// How its cluster carries sessions.
    pub(super) limits: Arc<CarryLimits>,
    /// Its state between two transactions. Nothing has been sent to its server since.
    pub(super) state: Result<SessionState, NotCarried>,
}

/// The server has been asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) question: Question,
    /// Because the session is being parked.
    pub(super) for_park: Option<Arc<CarryLimits>>,
}

/// Forgets a part of it, and all of it if nothing is left: a session at rest must not be larger for what it once had.
pub(super) fn forget(rare: &mut Option<Box<Rare>>, part: impl FnOnce(&mut Rare)) {
    rare.take_if(|rare| {
        part(rare);
        rare.deadline.is_none() && rare.question.is_none() && rare.prospect.is_none()
    });
}
