//! Connections that have not yet said what they want: how many there may be, and who gives way when they are too many.
//!
//! They take no place of a session, so that whoever opens connections and says nothing keeps nobody from the database.
//! When there are as many as may be and one more comes, the one that has taken longest gives way, if it has had time
//! enough: in a rush of honest clients, each of which is done in a moment, the newest is turned away instead, lest
//! nobody ever come to an end.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Time enough for an opening, a handshake of TLS over a long way included.
const TIME_ENOUGH: Duration = Duration::from_secs(1);

/// The connections of one listener that have not yet said what they want.
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
    /// Whom to tell that it has to give way.
    waker: Option<Waker>,
}

/// A connection's place among them; dropping it gives it back.
#[derive(Debug)]
pub struct PendingConnection<'a> {
    pending: &'a PendingConnections,
    number: u64,
}

impl PendingConnections {
    /// Takes a place, from whoever has taken longest if need be. `None` if `most` are taken and none is to be had.
    pub fn enter(&self, most: usize) -> Option<PendingConnection<'_>> {
        let now = Instant::now();
        let mut queue = self.queue.lock();
        if queue.open.len() >= most {
            let longest = queue.open.first_entry().filter(|entry| now - entry.get().since >= TIME_ENOUGH)?;
            longest.remove().waker.iter().for_each(Waker::wake_by_ref);
        }
        let number = queue.next;
        queue.next += 1;
        queue.open.insert(number, Entry { since: now, waker: None });
        Some(PendingConnection { pending: self, number })
    }

    /// How many there are now.
    pub fn count(&self) -> usize {
        self.queue.lock().open.len()
    }
}

impl PendingConnection<'_> {
    /// Waits until it has to give way. One task only may wait for that.
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
        self.pending.queue.lock().open.remove(&self.number); // not there any more if it gave way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn must_go(connection: &PendingConnection<'_>) -> bool {
        connection.poll_evicted(&Context::from_waker(Waker::noop())).is_ready()
    }

    /// As if all had come that much earlier.
    fn time_passes(pending: &PendingConnections, time: Duration) {
        for entry in pending.queue.lock().open.values_mut() {
            entry.since -= time;
        }
    }

    #[test]
    fn places_come_back() {
        let pending = PendingConnections::default();
        let (first, _second) = (pending.enter(2).expect("room"), pending.enter(2).expect("room"));
        assert!(pending.enter(2).is_none(), "nobody has had time enough");
        drop(first);
        assert!(pending.enter(2).is_some());
        assert_eq!(pending.count(), 1);
    }

    #[test]
    fn who_has_taken_longest_gives_way() {
        let pending = PendingConnections::default();
        let first = pending.enter(2).expect("room");
        time_passes(&pending, TIME_ENOUGH / 2);
        let second = pending.enter(2).expect("room");
        time_passes(&pending, TIME_ENOUGH / 2);

        let third = pending.enter(2).expect("the first gives way");
        assert!(must_go(&first) && !must_go(&second) && !must_go(&third));
        assert!(pending.enter(2).is_none(), "the second has not had time enough");
        drop(first);
        assert_eq!(pending.count(), 2, "a entry that was taken away does not come back");
    }
}
