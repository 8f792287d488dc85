//! How many cancel requests a listener sends to servers. PostgreSQL starts a process for each one, and anybody can send
//! them, so each source has its share.
//!
//! A known key: one request at a time is under way, and one more waits for it, because it may be meant for the session's
//! next query. A third would do nothing that the second does not. An unknown key goes to several servers, so these
//! requests have a rate. A source that has used up its share takes no turn from the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::cluster::rate::{RateLimit, RateUse};
use crate::protocol::CancelKey;

/// Requests that are under way at a time on one listener.
const UNDER_WAY_MAX: usize = 256;
/// Requests of one source that are under way or wait.
const OF_A_SOURCE_MAX: usize = 128;
/// Requests for one key that are under way or wait.
const OF_A_KEY_MAX: usize = 2;

/// Requests for unknown keys that go to several servers: 50 in a second in the long run, and 100 at once.
const TO_SEVERAL: RateLimit = RateLimit { interval: Duration::from_millis(20), burst: 100 };
/// Half of that for each source.
const TO_SEVERAL_OF_A_SOURCE: RateLimit = RateLimit { interval: Duration::from_millis(40), burst: 50 };
/// Sources whose use is remembered. One that is forgotten starts with a full burst.
const SOURCES_MAX: usize = 1024;

/// The limits of one listener.
#[derive(Debug)]
pub struct CancelLimits {
    under_way: Semaphore,
    keys: Mutex<HashMap<CancelKey, KeyInUse>>,
    sources: Mutex<HashMap<Option<IpAddr>, Source>>,
    to_several: Mutex<RateUse<Instant>>,
}

/// A key for which a request is under way.
#[derive(Debug, Default)]
struct KeyInUse {
    requests: usize,
    turn: Arc<AsyncMutex<()>>,
}

/// What one source uses.
#[derive(Debug)]
struct Source {
    requests: usize,
    to_several: RateUse<Instant>,
    used_at: Instant,
}

/// How many servers a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Servers {
    /// The one that has the session with this key.
    One,
    /// All that may have it, because the key is unknown.
    Several,
}

/// The right to send one request. Dropping it lets the next one go.
#[derive(Debug)]
pub struct CancelPermit<'a> {
    _under_way: SemaphorePermit<'a>,
    _turn: OwnedMutexGuard<()>,
    _counted: Counted<'a>,
}

/// A request that counts for its key and its source.
#[derive(Debug)]
struct Counted<'a> {
    limits: &'a CancelLimits,
    key: CancelKey,
    turn: Arc<AsyncMutex<()>>,
    source: Option<IpAddr>,
}

impl Default for CancelLimits {
    fn default() -> CancelLimits {
        CancelLimits {
            under_way: Semaphore::new(UNDER_WAY_MAX),
            keys: Mutex::default(),
            sources: Mutex::default(),
            to_several: Mutex::default(),
        }
    }
}

impl CancelLimits {
    /// Waits until a request for this key may be sent to so many servers. `None` if there are too many requests, or if
    /// its turn is not before the deadline.
    ///
    /// Cancel safe: a caller that gives up uses nothing but a turn.
    pub async fn permit(
        &self,
        key: &CancelKey,
        source: Option<IpAddr>,
        to: Servers,
        deadline: Instant,
    ) -> Option<CancelPermit<'_>> {
        let counted = self.count(key, source)?;
        if to == Servers::Several {
            let turn_of_source = self.next_turn_of(source, deadline)?;
            sleep_until(turn_of_source).await;
            let turn_of_all = self.to_several.lock().next_turn(Instant::now(), TO_SEVERAL, deadline)?;
            sleep_until(turn_of_all).await;
        }
        let turn = timeout_at(deadline, Arc::clone(&counted.turn).lock_owned()).await.ok()?;
        let under_way = timeout_at(deadline, self.under_way.acquire()).await.ok()?.ok()?;
        Some(CancelPermit { _under_way: under_way, _turn: turn, _counted: counted })
    }

    fn next_turn_of(&self, source: Option<IpAddr>, deadline: Instant) -> Option<Instant> {
        let mut sources = self.sources.lock();
        sources.get_mut(&source)?.to_several.next_turn(Instant::now(), TO_SEVERAL_OF_A_SOURCE, deadline)
    }

    fn count(&self, key: &CancelKey, source: Option<IpAddr>) -> Option<Counted<'_>> {
        let mut sources = self.sources.lock();
        let now = Instant::now();
        if sources.len() >= SOURCES_MAX && !sources.contains_key(&source) {
            forget_one(&mut sources);
        }
        let of_the_source = sources.entry(source).or_insert_with(|| Source::new(now));
        let mut keys = self.keys.lock();
        let of_the_key = keys.get(key).map_or(0, |key| key.requests);
        if of_the_source.requests >= OF_A_SOURCE_MAX || of_the_key >= OF_A_KEY_MAX {
            return None;
        }
        of_the_source.requests += 1;
        of_the_source.used_at = now;
        let in_use = keys.entry(key.clone()).or_default();
        in_use.requests += 1;
        Some(Counted { limits: self, key: key.clone(), turn: Arc::clone(&in_use.turn), source })
    }
}

impl Source {
    fn new(now: Instant) -> Source {
        Source { requests: 0, to_several: RateUse::default(), used_at: now }
    }
}

/// Forgets the source that has been quiet for longest, if one has nothing under way.
fn forget_one(sources: &mut HashMap<Option<IpAddr>, Source>) {
    let quiet = sources.iter().filter(|(_, source)| source.requests == 0);
    let quietest = quiet.min_by_key(|(_, source)| source.used_at).map(|(source, _)| *source);
    if let Some(source) = quietest {
        sources.remove(&source);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(source) = self.limits.sources.lock().get_mut(&self.source) {
            source.requests -= 1;
        }
        let mut keys = self.limits.keys.lock();
        if let Some(key) = keys.get_mut(&self.key) {
            key.requests -= 1;
            if key.requests == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use pgwire::messages::startup::SecretKey;

    use super::*;

    fn key(pid: i32) -> CancelKey {
        CancelKey::new(pid, &SecretKey::I32(9))
    }

    fn peer(last: u8) -> Option<IpAddr> {
        Some([192, 0, 2, last].into())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn is_ready<T>(future: impl Future<Output = T>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_for_a_key_is_under_way_one_waits_and_more_are_dropped() {
        let limits = CancelLimits::default();
        let first = limits.permit(&key(1), peer(1), Servers::One, soon()).await.expect("the first");
        let same = key(1);
        let mut second = pin!(limits.permit(&same, peer(2), Servers::One, soon()));
        assert!(!is_ready(second.as_mut()), "it waits for the first");
        assert!(limits.permit(&key(1), peer(3), Servers::One, soon()).await.is_none(), "a third would do nothing more");
        let other = limits.permit(&key(2), peer(1), Servers::One, soon()).await;
        assert!(other.is_some(), "another key does not wait");
        drop(first);
        assert!(second.await.is_some());
        drop(other);
        assert!(limits.keys.lock().is_empty(), "nothing is kept of those that are done");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_invents_keys_leaves_turns_for_the_others() {
        let limits = CancelLimits::default();
        let invented: Vec<_> = (0..1000).map(key).collect();
        let mut of_the_flood = Vec::new();
        for key in &invented {
            let mut request = Box::pin(limits.permit(key, peer(1), Servers::Several, soon()));
            if !is_ready(request.as_mut()) {
                of_the_flood.push(request);
            }
        }
        assert!(of_the_flood.len() <= OF_A_SOURCE_MAX);
        let started = Instant::now();
        for pid in 2000..2012 {
            assert!(limits.permit(&key(pid), peer(2), Servers::Several, soon()).await.is_some());
        }
        assert!(started.elapsed() < Duration::from_millis(500), "twelve within {:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_sources_that_are_remembered_have_a_bound() {
        let limits = CancelLimits::default();
        for number in 0..5000_u32 {
            let from: Option<IpAddr> = Some(std::net::Ipv4Addr::from_bits(number).into());
            assert!(limits.permit(&key(1), from, Servers::One, soon()).await.is_some());
        }
        assert!(limits.sources.lock().len() <= SOURCES_MAX);
    }
}
