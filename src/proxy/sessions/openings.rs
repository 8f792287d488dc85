//! What pgvane needs to log sessions in again at another server, beside the keys of their roles: the startup packet that
//! their server got, and how the server authenticated them. Nothing is kept of sessions that are not carried.
//!
//! There may be thousands of sessions, and most of them have begun like others: those share one [`Opening`], and a session
//! costs two numbers in a tree, less than 32 bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::protocol::authentication::AuthenticatedBy;

/// How a session has begun.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Opening {
    /// The startup packet, as the server got it.
    pub packet: Box<[u8]>,
    /// How the server authenticated the client.
    pub authenticated_by: AuthenticatedBy,
}

/// The openings of all sessions that may be carried.
#[derive(Debug, Default)]
pub(super) struct Openings {
    kept: Mutex<Kept>,
    /// Whether one was ever kept: where no sessions are carried, the end of a session needs no lock here.
    is_used: AtomicBool,
}

#[derive(Debug, Default)]
struct Kept {
    /// The places of their openings, by the numbers of the sessions.
    of_sessions: BTreeMap<u64, u32>,
    different: Vec<Option<Shared>>,
    /// The places of all that are different.
    places: HashMap<Arc<Opening>, u32>,
    /// Places that are not in use.
    free: Vec<u32>,
}

#[derive(Debug)]
struct Shared {
    opening: Arc<Opening>,
    sessions: usize,
}

impl Openings {
    /// Keeps how a session has begun.
    pub(super) fn keep(&self, session: u64, opening: Opening) {
        self.is_used.store(true, Relaxed);
        let mut kept = self.kept.lock();
        kept.forget(session);
        let place = match kept.places.get(&opening) {
            Some(place) => *place,
            None => kept.add(Arc::new(opening)),
        };
        if let Some(Some(shared)) = kept.different.get_mut(place as usize) {
            shared.sessions += 1;
            kept.of_sessions.insert(session, place);
        }
    }

    /// How a session has begun.
    pub(super) fn of(&self, session: u64) -> Option<Arc<Opening>> {
        let kept = self.kept.lock();
        let place = *kept.of_sessions.get(&session)?;
        kept.different.get(place as usize)?.as_ref().map(|shared| Arc::clone(&shared.opening))
    }

    /// The session has ended.
    pub(super) fn forget(&self, session: u64) {
        // what the session has kept was kept before its end
        if self.is_used.load(Relaxed) {
            self.kept.lock().forget(session);
        }
    }
}

impl Kept {
    /// Adds an opening that no session has yet, and returns its place.
    fn add(&mut self, opening: Arc<Opening>) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.different.push(None);
            self.different.len() as u32 - 1 // there are not more than sessions, and these have two descriptors each
        });
        self.places.insert(Arc::clone(&opening), place);
        self.different[place as usize] = Some(Shared { opening, sessions: 0 });
        place
    }

    fn forget(&mut self, session: u64) {
        let Some(place) = self.of_sessions.remove(&session) else { return };
        let slot = &mut self.different[place as usize];
        let Some(shared) = slot else { return };
        shared.sessions -= 1;
        if shared.sessions == 0 {
            self.places.remove(&shared.opening);
            *slot = None;
            self.free.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(packet: &str) -> Opening {
        Opening { packet: packet.as_bytes().into(), authenticated_by: AuthenticatedBy::Nothing }
    }

    fn different(openings: &Openings) -> usize {
        openings.kept.lock().places.len()
    }

    #[test]
    fn sessions_that_have_begun_alike_share_one_opening_until_the_last_one_ends() {
        let openings = Openings::default();
        (0..1000).for_each(|session| openings.keep(session, opening(if session == 7 { "other" } else { "usual" })));
        assert_eq!(different(&openings), 2);
        let [first, last] = [0, 999].map(|session| openings.of(session).expect("is kept"));
        assert!(Arc::ptr_eq(&first, &last) && *first == opening("usual"));
        assert_eq!(openings.of(7).as_deref(), Some(&opening("other")));
        openings.forget(7);
        assert_eq!((different(&openings), openings.of(7)), (1, None));
        (0..1000).for_each(|session| openings.forget(session));
        assert_eq!(different(&openings), 0);
        openings.keep(1000, opening("third"));
        assert_eq!(openings.of(1000).as_deref(), Some(&opening("third")));
        assert_eq!(openings.kept.lock().different.len(), 2, "places are used again");
    }

    #[test]
    fn a_session_has_one_opening() {
        let openings = Openings::default();
        ["usual", "other", "other"].iter().for_each(|packet| openings.keep(0, opening(packet)));
        assert_eq!((different(&openings), openings.of(0).as_deref()), (1, Some(&opening("other"))));
        openings.forget(0);
        assert_eq!(different(&openings), 0);
    }
}
