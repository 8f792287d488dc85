//! How fast the carried sessions of a cluster log in to the new leader, and in which order: a server starts a process for
//! each, and has just become the leader.
//!
//! Sessions whose clients wait for an answer come first. The others notice nothing yet.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use crate::config::ConnectionRate;

/// The number of sessions that log in at the same time.
pub const AT_ONCE: usize = 20;

/// The turns of one cluster.
#[derive(Debug)]
pub struct Pace {
    places: Semaphore,
    /// When the next one may begin.
    next: Mutex<Option<Instant>>,
    /// Those that wait and whose clients wait for an answer.
    urgent: AtomicUsize,
    /// There are none of these any more.
    no_urgent: Notify,
    /// One of the others waits for a place at a time, so that they cannot fill the line.
    idle: tokio::sync::Mutex<()>,
}

/// A session's turn: its place is free when this is dropped.
#[derive(Debug)]
pub struct Turn<'p> {
    _place: Option<SemaphorePermit<'p>>,
}

/// One that waits and whose client waits for an answer.
struct Urgent<'p>(&'p Pace);

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        if self.0.urgent.fetch_sub(1, SeqCst) == 1 {
            self.0.no_urgent.notify_waiters();
        }
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            places: Semaphore::new(AT_ONCE),
            next: Mutex::default(),
            urgent: AtomicUsize::new(0),
            no_urgent: Notify::new(),
            idle: tokio::sync::Mutex::default(),
        }
    }
}

impl Pace {
    /// Waits for the turn of a session whose client waits for an answer. Cancel safe.
    pub async fn urgent_turn(&self, rate: ConnectionRate) -> Turn<'_> {
        self.urgent.fetch_add(1, SeqCst);
        let _urgent = Urgent(self);
        let turn = Turn { _place: self.places.acquire().await.ok() };
        sleep_until(self.next_start(rate)).await;
        turn
    }

    /// Waits for the turn of another session. Cancel safe.
    pub async fn idle_turn(&self, rate: ConnectionRate) -> Turn<'_> {
        let _first = self.idle.lock().await;
        loop {
            let none = self.no_urgent.notified();
            if self.urgent.load(SeqCst) > 0 {
                none.await;
                continue;
            }
            let turn = Turn { _place: self.places.acquire().await.ok() };
            if self.urgent.load(SeqCst) == 0 {
                sleep_until(self.next_start(rate)).await;
                return turn;
            }
        }
    }

    /// When the next session may begin; the one after it may begin later.
    fn next_start(&self, rate: ConnectionRate) -> Instant {
        let mut next = self.next.lock();
        let start = next.map_or_else(Instant::now, |next| next.max(Instant::now()));
        *next = Some(start + between(rate));
        start
    }
}

/// The time between two beginnings.
fn between(rate: ConnectionRate) -> Duration {
    rate.within / rate.count.get()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use super::*;

    fn rate(count: u32) -> ConnectionRate {
        ConnectionRate { count: NonZeroU32::new(count).expect("is not zero"), within: Duration::from_secs(1) }
    }

    #[tokio::test(start_paused = true)]
    async fn logins_begin_one_after_the_other_at_the_rate() {
        let (pace, begun) = (Pace::default(), Instant::now());
        for turn in 0..5 {
            drop(pace.urgent_turn(rate(10)).await);
            assert_eq!(begun.elapsed().as_millis() / 100, turn, "the first at once, and then ten in a second");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn not_more_than_the_maximum_log_in_at_the_same_time() {
        let pace = Pace::default();
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE {
            turns.push(pace.urgent_turn(rate(1_000_000)).await);
        }
        let next = pace.urgent_turn(rate(1_000_000));
        tokio::pin!(next);
        let waited = tokio::time::timeout(Duration::from_secs(60), &mut next).await;
        assert!(waited.is_err(), "there is no place");
        turns.pop();
        next.await;
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_whose_clients_wait_come_first() {
        let pace = Arc::new(Pace::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        let held = pace.urgent_turn(rate(10)).await;
        for number in 0..10 {
            let (pace, order, is_urgent) = (Arc::clone(&pace), Arc::clone(&order), number >= 5);
            tasks.spawn(async move {
                let turn = if is_urgent { pace.urgent_turn(rate(10)).await } else { pace.idle_turn(rate(10)).await };
                order.lock().push(is_urgent);
                drop(turn);
            });
            tokio::task::yield_now().await; // those without a client that waits are there first
        }
        drop(held);
        tasks.join_all().await;
        let order = order.lock().clone();
        // one of the others may have had its turn already
        let late = order.iter().skip(1).take_while(|is_urgent| **is_urgent).count();
        assert!(late >= 4, "{order:?}");
        assert_eq!(order.len(), 10);
    }
}
