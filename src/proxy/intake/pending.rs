//! Pending connections: those whose startup packet is not complete. Limits their number.
//!
//! They do not count as sessions, so that a client that opens connections and sends nothing does not keep others from
//! the database. When the limit is reached and one more connection comes, the client with the most pending connections
//! loses its oldest one, if it has at least two more than the new client. Otherwise the oldest of all is closed, if it
//! has been pending for `EVICTABLE_AFTER`. Else the new one is refused: when many honest clients connect at the same
//! moment, each needs only a short time, and closing the oldest would keep all of them from completing.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::counts::Counts;

/// Enough time for a startup packet, including a TLS handshake over a slow network.
const EVICTABLE_AFTER: Duration = Duration::from_secs(1);

/// The pending connections of one listener.
#[derive(Debug, Default)]
pub struct PendingConnections {
    queue: Mutex<Queue>,
}

/// In the order in which they came.
#[derive(Debug, Default)]
struct Queue {
    open: BTreeMap<u64, Entry>,
    /// How many of them each client has; `None` are the clients of a Unix socket.
    of_client: Counts<Option<IpAddr>>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    client: Option<IpAddr>,
    since: Instant,
    /// Wakes the connection's task when it is evicted.
    waker: Option<Waker>,
}

/// A counted pending connection; the drop removes it from the count.
#[derive(Debug)]
pub struct PendingConnection<'a> {
    pending: &'a PendingConnections,
    number: u64,
}

impl PendingConnections {
    /// Adds a connection of this client, which is `None` on a Unix socket; evicts another one if needed. `None` if there
    /// are `max` and none can be evicted.
    pub fn enter(&self, client: Option<IpAddr>, max: usize) -> Option<PendingConnection<'_>> {
        let now = Instant::now();
        let mut queue = self.queue.lock();
        if queue.open.len() >= max {
            let evicted = queue.oldest_of_the_largest_client(client).or_else(|| queue.oldest_evictable(now))?;
            let waker = queue.remove(evicted).and_then(|entry| entry.waker);
            waker.iter().for_each(Waker::wake_by_ref);
        }
        let number = queue.next;
        queue.next += 1;
        queue.open.insert(number, Entry { client, since: now, waker: None });
        queue.of_client.add(client);
        Some(PendingConnection { pending: self, number })
    }

    /// The number of pending connections.
    pub fn count(&self) -> usize {
        self.queue.lock().open.len()
    }
}

impl Queue {
    /// The connection that the client with the most of them loses to `newcomer`.
    fn oldest_of_the_largest_client(&self, newcomer: Option<IpAddr>) -> Option<u64> {
        let own = self.of_client.of(&newcomer);
        let (largest, count) = self.of_client.largest()?;
        let mut connections = self.open.iter().filter(|(_, entry)| entry.client == *largest);
        (count >= own + 2).then(|| connections.next().map(|(number, _)| *number)).flatten()
    }

    fn oldest_evictable(&self, now: Instant) -> Option<u64> {
        let oldest = self.open.iter().next().filter(|(_, entry)| now - entry.since >= EVICTABLE_AFTER);
        oldest.map(|(number, _)| *number)
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.open.remove(&number)?;
        self.of_client.remove(&entry.client);
        Some(entry)
    }
}

impl PendingConnection<'_> {
    /// Waits until the connection is evicted. Only one task may wait for that. Cancel safe.
    pub async fn evicted(&self) {
        poll_fn(|cx| self.poll_evicted(cx)).await;
    }

    fn poll_evicted(&self, cx: &Context<'_>) -> Poll<()> {
        match self.pending.queue.lock().open.get_mut(&self.number) {
            Some(entry) => {
                entry.waker.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }
}

impl Drop for PendingConnection<'_> {
    fn drop(&mut self) {
        self.pending.queue.lock().remove(self.number); // already removed if it was evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Option<IpAddr> = None;

    fn is_evicted(connection: &PendingConnection<'_>) -> bool {
        connection.poll_evicted(&Context::from_waker(Waker::noop())).is_ready()
    }

    /// Makes all connections older by `time`.
    fn time_passes(pending: &PendingConnections, time: Duration) {
        for entry in pending.queue.lock().open.values_mut() {
            entry.since -= time;
        }
    }

    #[test]
    fn a_dropped_connection_makes_room() {
        let pending = PendingConnections::default();
        let (first, _second) = (pending.enter(CLIENT, 2).expect("room"), pending.enter(CLIENT, 2).expect("room"));
        assert!(pending.enter(CLIENT, 2).is_none(), "none can be evicted yet");
        drop(first);
        assert!(pending.enter(CLIENT, 2).is_some());
        assert_eq!(pending.count(), 1);
    }

    #[test]
    fn the_oldest_connection_is_evicted() {
        let pending = PendingConnections::default();
        let first = pending.enter(CLIENT, 2).expect("room");
        time_passes(&pending, EVICTABLE_AFTER / 2);
        let second = pending.enter(CLIENT, 2).expect("room");
        time_passes(&pending, EVICTABLE_AFTER / 2);

        let third = pending.enter(CLIENT, 2).expect("the first is evicted");
        assert!(is_evicted(&first) && !is_evicted(&second) && !is_evicted(&third));
        assert!(pending.enter(CLIENT, 2).is_none(), "the second cannot be evicted yet");
        drop(first);
        assert_eq!(pending.count(), 2, "the drop of an evicted connection removes nothing");
    }

    #[test]
    fn a_client_with_many_loses_one_to_a_client_with_few() {
        let pending = PendingConnections::default();
        let client = |last| Some(IpAddr::from([192, 0, 2, last]));
        let flood: Vec<_> = (0..8).map(|_| pending.enter(client(1), 8).expect("room")).collect();
        assert!(pending.enter(client(1), 8).is_none(), "not to itself");
        let honest: Vec<_> = (0..4).map(|_| pending.enter(client(2), 8).expect("the flood gives way")).collect();
        assert!(pending.enter(client(2), 8).is_none(), "both have four now");
        assert_eq!(flood.iter().filter(|connection| is_evicted(connection)).count(), 4);
        drop((flood, honest));
        assert!(pending.queue.lock().of_client.is_empty(), "nothing is kept of those that are gone");
    }
}
