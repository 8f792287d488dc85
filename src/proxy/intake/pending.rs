//! Pending connections: those whose startup packet is not complete. Limits their number.
//!
//! They do not count as sessions, so that a client that opens connections and sends nothing does not keep others from
//! the database. When the limit is reached and one more connection comes, the oldest one is closed, if it has been
//! pending for [`EVICTABLE_AFTER`]. Else the new one is refused: when many honest clients connect at the same moment,
//! each needs only a short time, and closing the oldest would keep all of them from completing.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

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
    next: u64,
}

#[derive(Debug)]
struct Entry {
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
    /// Adds a connection; evicts the oldest one if needed. `None` if there are `max` and none can be evicted.
    pub fn enter(&self, max: usize) -> Option<PendingConnection<'_>> {
        let now = Instant::now();
        let mut queue = self.queue.lock();
        if queue.open.len() >= max {
            let oldest = queue.open.first_entry().filter(|entry| now - entry.get().since >= EVICTABLE_AFTER)?;
            oldest.remove().waker.iter().for_each(Waker::wake_by_ref);
        }
        let number = queue.next;
        queue.next += 1;
        queue.open.insert(number, Entry { since: now, waker: None });
        Some(PendingConnection { pending: self, number })
    }

    /// The number of pending connections.
    pub fn count(&self) -> usize {
        self.queue.lock().open.len()
    }
}

impl PendingConnection<'_> {
    /// Waits until the connection is evicted. Only one task may wait for that.
    pub fn poll_evicted(&self, cx: &Context<'_>) -> Poll<()> {
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
        self.pending.queue.lock().open.remove(&self.number); // already removed if it was evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (first, _second) = (pending.enter(2).expect("room"), pending.enter(2).expect("room"));
        assert!(pending.enter(2).is_none(), "none can be evicted yet");
        drop(first);
        assert!(pending.enter(2).is_some());
        assert_eq!(pending.count(), 1);
    }

    #[test]
    fn the_oldest_connection_is_evicted() {
        let pending = PendingConnections::default();
        let first = pending.enter(2).expect("room");
        time_passes(&pending, EVICTABLE_AFTER / 2);
        let second = pending.enter(2).expect("room");
        time_passes(&pending, EVICTABLE_AFTER / 2);

        let third = pending.enter(2).expect("the first is evicted");
        assert!(is_evicted(&first) && !is_evicted(&second) && !is_evicted(&third));
        assert!(pending.enter(2).is_none(), "the second cannot be evicted yet");
        drop(first);
        assert_eq!(pending.count(), 2, "the drop of an evicted connection removes nothing");
    }
}
