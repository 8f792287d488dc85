//! The addresses of host names, remembered, so that nodes stay reachable while the resolver fails or does not answer.
//!
//! - A name is looked up again when its last answer is older than a second: a changed address is used within about that
//!   time. There is one lookup of a name at a time, however many callers there are, because each lookup occupies a
//!   thread until it ends.
//! - While the resolver fails, the addresses of its last answer are used, without a limit. A caller waits half a
//!   second for a new answer; once the resolver is known to be slow, 50 ms. A late answer is used from then on.
//! - If the resolver answers that the name does not exist, its last addresses are used for another 30 seconds, as with
//!   HAProxy's `hold nx`: a name may be missing for a moment while its record is replaced.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType, getaddrinfo};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// For this long an answer is used without a new lookup, and a failed lookup is not repeated.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// How long a lookup is waited for where the last addresses are known.
const PATIENCE: Duration = Duration::from_millis(500);

/// The same, if the lookup under way or the one before it has taken longer than [`PATIENCE`].
const PATIENCE_WITH_SLOW_RESOLVER: Duration = Duration::from_millis(50);

/// After this time without an answer a lookup counts as failed. It continues: its answer may still come.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// For this long the addresses of a name that does not exist any more are used. HAProxy's default for `hold nx`.
const NOT_FOUND_HOLD: Duration = Duration::from_secs(30);

/// The number of names that are remembered. Those used least recently are forgotten first: names come from the
/// configuration, and from members of clusters, which come and go.
const NAMES_MAX: usize = 512;

/// The number of addresses of a name that are used.
const ADDRESSES_MAX: usize = 16;

/// The number of ports for which a name's working address is remembered: PostgreSQL's and the REST API's, mostly.
const PORTS_MAX: usize = 8;

/// The answer to a lookup: addresses, or none, or that the name does not exist.
pub type Answer = Result<Vec<SocketAddr>, NameError>;

/// Looks up a name. The ports of the addresses do not count.
pub type Lookup = Box<dyn Fn(Arc<str>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// Why there is no address for a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The resolver's answer is that the name does not exist, or that it has no address.
    #[error("its name does not exist: {0}")]
    NotFound(String),
    /// The resolver failed, and no address is known from before.
    #[error("its name cannot be resolved: {0}")]
    Failed(String),
}

/// Looks up names and remembers their addresses. One for the whole program.
pub struct Resolver {
    lookup: Lookup,
    names: Mutex<HashMap<Box<str>, Arc<Name>>>,
    answered: AtomicU64,
    not_found: AtomicU64,
    failed: AtomicU64,
}

/// The number of lookups so far, by their outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LookupCounts {
    /// The answer has addresses.
    pub answered: u64,
    /// The answer is that the name does not exist.
    pub not_found: u64,
    /// There was no answer.
    pub failed: u64,
}

/// A name whose newest lookup has brought no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// The name.
    pub name: String,
    /// What is wrong.
    pub error: NameError,
    /// For how long that has been so.
    pub since: Duration,
    /// The addresses that are used until a lookup succeeds.
    pub addresses: Vec<IpAddr>,
}

struct Name {
    host: Arc<str>,
    state: Mutex<State>,
    /// The number of lookups that have ended.
    ended: watch::Sender<u64>,
}

struct State {
    used_at: Instant,
    /// The addresses of the last answer that had any; empty if there was none.
    addresses: Vec<SocketAddr>,
    /// What is wrong with the newest lookup, and since when.
    error: Option<(NameError, Instant)>,
    /// Since when the answer has been that the name does not exist. A failure does not end this.
    not_found_since: Option<Instant>,
    /// The number of lookups that have begun.
    begun: u64,
    /// When the lookup under way began.
    under_way_since: Option<Instant>,
    /// The last lookup that ended had taken longer than [`PATIENCE`].
    was_slow: bool,
    /// When the name may be looked up again; at once if `None`.
    next_lookup_at: Option<Instant>,
    /// The address that was last connected to, for each port.
    working: Vec<(u16, IpAddr)>,
}

impl Resolver {
    /// Asks the C library's resolver, as other programs do: `/etc/hosts`, `/etc/resolv.conf`, `/etc/nsswitch.conf`.
    pub fn system() -> Arc<Resolver> {
        Resolver::with_lookup(Box::new(|host| Box::pin(system_lookup(host))))
    }

    /// Asks `lookup`.
    pub fn with_lookup(lookup: Lookup) -> Arc<Resolver> {
        let names = Mutex::default();
        let [answered, not_found, failed] = [0; 3].map(AtomicU64::new);
        Arc::new(Resolver { lookup, names, answered, not_found, failed })
    }

    /// The addresses of a name, with this port, at least one. The one that was last connected to comes first; the
    /// others alternate between IPv6 and IPv4.
    ///
    /// If an address is known from before, waits for the lookup half a second or half of the time until `deadline`,
    /// whichever is less; else until `deadline`. Cancel safe: the lookup continues.
    pub async fn addresses(self: &Arc<Resolver>, host: &str, port: u16, deadline: Instant) -> Answer {
        let name = self.name(host);
        let mut ended = name.ended.subscribe();
        let (lookup, patience) = {
            let (state, now) = (&mut *name.state.lock(), Instant::now());
            if state.under_way_since.is_none() && state.next_lookup_at.is_none_or(|at| at <= now) {
                state.begun += 1;
                state.under_way_since = Some(now);
                self.begin(Arc::clone(&name), now);
            }
            match state.under_way_since {
                None => return state.answer(port, now),
                Some(since) => (state.begun, state.patience(since, now, deadline)),
            }
        };
        // the outcome is in the state, whether it has come in time or not
        let _ = timeout(patience, ended.wait_for(|ended| *ended >= lookup)).await;
        name.state.lock().answer(port, Instant::now())
    }

    /// Notes that a connection to this address was made, so that it is tried first the next time.
    pub fn connected(&self, host: &str, port: u16, ip: IpAddr) {
        let Some(name) = self.names.lock().get(host).cloned() else { return };
        let working = &mut name.state.lock().working;
        match working.iter().position(|(known, _)| *known == port) {
            Some(at) => working[at] = (port, ip),
            None if working.len() < PORTS_MAX => working.push((port, ip)),
            None => {}
        }
    }

    /// Notes that none of a name's addresses could be connected to: they may have changed, so that the name is looked
    /// up again at the next use.
    pub fn not_connected(&self, host: &str) {
        if let Some(name) = self.names.lock().get(host) {
            name.state.lock().next_lookup_at = None;
        }
    }

    /// The names whose newest lookup has brought no address, in alphabetical order.
    pub fn unresolved(&self) -> Vec<Unresolved> {
        let (names, now) = (self.names.lock(), Instant::now());
        let unresolved = names.values().filter_map(|name| {
            let state = name.state.lock();
            let (error, since) = state.error.clone()?;
            let addresses = state.usable(now).iter().map(SocketAddr::ip).collect();
            Some(Unresolved { name: name.host.to_string(), error, since: now - since, addresses })
        });
        let mut unresolved: Vec<Unresolved> = unresolved.collect();
        unresolved.sort_by(|a, b| a.name.cmp(&b.name));
        unresolved
    }

    /// The addresses of a name that are used at present, without a lookup.
    pub fn known(&self, host: &str) -> Vec<IpAddr> {
        let Some(name) = self.names.lock().get(host).cloned() else { return Vec::new() };
        let state = name.state.lock();
        state.usable(Instant::now()).iter().map(SocketAddr::ip).collect()
    }

    /// The number of lookups so far.
    pub fn counts(&self) -> LookupCounts {
        LookupCounts {
            answered: self.answered.load(Relaxed),
            not_found: self.not_found.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }

    /// The entry of a name, which is made if there is none.
    fn name(&self, host: &str) -> Arc<Name> {
        let (mut names, now) = (self.names.lock(), Instant::now());
        if let Some(name) = names.get(host) {
            name.state.lock().used_at = now;
            return Arc::clone(name);
        }
        if names.len() >= NAMES_MAX {
            let oldest = names.iter().min_by_key(|(_, name)| name.state.lock().used_at);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                names.remove(&oldest);
            }
        }
        let name =
            Arc::new(Name { host: host.into(), state: Mutex::new(State::new(now)), ended: watch::Sender::new(0) });
        names.insert(host.into(), Arc::clone(&name));
        name
    }

    /// Looks up a name in a task of its own.
    fn begin(self: &Arc<Resolver>, name: Arc<Name>, began: Instant) {
        let resolver = Arc::clone(self);
        tokio::spawn(async move {
            let mut lookup = (resolver.lookup)(Arc::clone(&name.host));
            let answer = match timeout(SILENT_AFTER, &mut lookup).await {
                Ok(answer) => answer,
                Err(_) => {
                    let why = format!("the resolver does not answer within {} s", SILENT_AFTER.as_secs());
                    name.note_error(NameError::Failed(why));
                    lookup.await
                }
            };
            resolver.end(&name, answer, began);
        });
    }

    /// Takes the answer to a lookup.
    fn end(&self, name: &Name, answer: Answer, began: Instant) {
        match answer {
            Ok(addresses) if !addresses.is_empty() => {
                self.answered.fetch_add(1, Relaxed);
                name.note_addresses(in_order(addresses));
            }
            Ok(_) => {
                self.not_found.fetch_add(1, Relaxed);
                name.note_error(NameError::NotFound("it has no address".to_owned()));
            }
            Err(error) => {
                let count = match error {
                    NameError::NotFound(_) => &self.not_found,
                    NameError::Failed(_) => &self.failed,
                };
                count.fetch_add(1, Relaxed);
                name.note_error(error);
            }
        }
        let (mut state, now) = (name.state.lock(), Instant::now());
        state.under_way_since = None;
        state.was_slow = now - began > PATIENCE;
        state.next_lookup_at = Some(now + FRESH_FOR);
        drop(state);
        name.ended.send_modify(|ended| *ended += 1);
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Name {
    fn note_addresses(&self, addresses: Vec<SocketAddr>) {
        let failed = {
            let mut state = self.state.lock();
            state.addresses = addresses;
            state.not_found_since = None;
            state.error.take()
        };
        if let Some((_, since)) = failed {
            info!(name = %self.host, failed_seconds = since.elapsed().as_secs_f64(), "the name can be resolved again");
        }
    }

    /// Notes an error, and logs it if it is of another kind than before.
    fn note_error(&self, error: NameError) {
        let now = Instant::now();
        let (is_known, addresses) = {
            let mut state = self.state.lock();
            if matches!(error, NameError::NotFound(_)) {
                state.not_found_since.get_or_insert(now);
            }
            let since = state.error.as_ref().filter(|(known, _)| is_same_kind(known, &error)).map(|(_, since)| *since);
            state.error = Some((error.clone(), since.unwrap_or(now)));
            (since.is_some(), state.usable(now).iter().map(SocketAddr::ip).collect::<Vec<_>>())
        };
        match error {
            _ if is_known => {}
            _ if addresses.is_empty() => warn!(name = %self.host, reason = %error, "the name cannot be resolved"),
            NameError::NotFound(_) => {
                let seconds = NOT_FOUND_HOLD.as_secs();
                let what = "the name does not exist: its last addresses are used for some time";
                warn!(name = %self.host, ?addresses, seconds, "{what}");
            }
            NameError::Failed(reason) => {
                warn!(name = %self.host, ?addresses, reason, "the name cannot be resolved: its last addresses are used");
            }
        }
    }
}

fn is_same_kind(a: &NameError, b: &NameError) -> bool {
    matches!(a, NameError::NotFound(_)) == matches!(b, NameError::NotFound(_))
}

impl State {
    fn new(now: Instant) -> State {
        State {
            used_at: now,
            addresses: Vec::new(),
            error: None,
            not_found_since: None,
            begun: 0,
            under_way_since: None,
            was_slow: false,
            next_lookup_at: None,
            working: Vec::new(),
        }
    }

    /// How long the lookup is waited for that has been under way since then.
    fn patience(&self, since: Instant, now: Instant, deadline: Instant) -> Duration {
        let left = deadline - now;
        if self.usable(now).is_empty() {
            return left;
        }
        let of_lookup = if self.was_slow { Duration::ZERO } else { PATIENCE.saturating_sub(now - since) };
        of_lookup.max(PATIENCE_WITH_SLOW_RESOLVER).min(left / 2)
    }

    /// The last known addresses, unless the name has not existed for too long.
    fn usable(&self, now: Instant) -> &[SocketAddr] {
        match self.not_found_since {
            Some(since) if now - since >= NOT_FOUND_HOLD => &[],
            _ => &self.addresses,
        }
    }

    fn answer(&self, port: u16, now: Instant) -> Answer {
        let mut addresses = self.usable(now).to_vec();
        if addresses.is_empty() {
            let error = self.error.as_ref().map(|(error, _)| error.clone());
            return Err(error.unwrap_or_else(|| NameError::Failed("the resolver has not answered yet".to_owned())));
        }
        addresses.iter_mut().for_each(|address| address.set_port(port));
        let working = self.working.iter().find(|(known, _)| *known == port).map(|(_, ip)| *ip);
        if let Some(first) = addresses.iter().position(|address| Some(address.ip()) == working) {
            addresses[..=first].rotate_right(1);
        }
        Ok(addresses)
    }
}

/// Without duplicates, not more than [`ADDRESSES_MAX`], and alternating between the two families from the first one on
/// (RFC 8305, section 4).
fn in_order(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut distinct: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    let starts_with_ipv6 = distinct.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = distinct.into_iter().partition(|one| one.is_ipv6() == starts_with_ipv6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::new();
    while ordered.len() < ADDRESSES_MAX {
        let before = ordered.len();
        ordered.extend(first.next());
        ordered.extend(second.next());
        if ordered.len() == before {
            break;
        }
    }
    ordered.truncate(ADDRESSES_MAX);
    ordered
}

/// `getaddrinfo(3)`, on a thread for blocking calls.
async fn system_lookup(host: Arc<str>) -> Answer {
    let lookup = tokio::task::spawn_blocking(move || {
        let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
        match getaddrinfo(Some(&host), None, Some(hints)) {
            Ok(found) => Ok(found.filter_map(|info| Some(info.ok()?.sockaddr)).collect()),
            Err(error) => {
                let is_answer = matches!(error.kind(), LookupErrorKind::NoName | LookupErrorKind::NoData);
                let text = std::io::Error::from(error).to_string();
                let why = text.trim_start_matches("failed to lookup address information: ").to_owned();
                Err(if is_answer { NameError::NotFound(why) } else { NameError::Failed(why) })
            }
        }
    });
    lookup.await.unwrap_or_else(|error| Err(NameError::Failed(format!("the lookup ended unexpectedly: {error}"))))
}

#[cfg(test)]
mod tests;
