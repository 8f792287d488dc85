//! The threads as their sessions know them, and a session's place on one of them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use super::counters::Counters;

/// What all sessions know of the threads.
#[derive(Debug)]
pub(super) struct Threads {
    pub(super) all: Vec<Thread>,
    /// So many are used: the first ones.
    pub(super) in_use: watch::Sender<usize>,
    /// The load of a thread should be looked at soon.
    pub(super) hurry: Notify,
    /// Sessions that have changed their thread since this was shown last.
    pub(super) changes: AtomicU64,
    pub(super) sessions: TaskTracker,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) runtime: Handle,
    pub(super) counters: Counters,
}

impl Threads {
    /// What the sessions of this thread tell.
    pub(super) fn counters(&self, thread: usize) -> &Counters {
        &self.all[thread].counters
    }

    /// The thread in use on which the fewest sessions have something to do, but for this one. `None` if there is no other.
    pub(super) fn least_acting(&self, but: usize) -> Option<usize> {
        let others = (0..*self.in_use.borrow()).filter(|thread| *thread != but);
        others.min_by_key(|thread| self.counters(*thread).acting())
    }

    /// Serves a session on this thread.
    pub(super) fn spawn_on(&self, thread: usize, session: impl Future<Output = ()> + Send + 'static) {
        drop(self.sessions.spawn_on(session, &self.all[thread].runtime));
    }
}

/// A session's place on a thread.
#[derive(Debug, Clone)]
pub struct Load {
    threads: Arc<Threads>,
    thread: u16,
    /// The last look for which the session counts as acting.
    counted: u8,
}

impl Load {
    /// A session that comes to this thread.
    pub(super) fn on(threads: &Arc<Threads>, thread: usize) -> Load {
        let (counted, is_worth_a_look) = threads.counters(thread).arrives();
        if is_worth_a_look {
            threads.hurry.notify_one();
        }
        let thread = u16::try_from(thread).expect("there are at most 1024 threads");
        Load { threads: Arc::clone(threads), thread, counted }
    }

    /// There is something to do for the session. Returns whether sessions of its thread go to other threads now.
    pub fn acts(&mut self) -> bool {
        let told = self.threads.counters(usize::from(self.thread)).acts(&mut self.counted);
        if told.is_worth_a_look {
            self.threads.hurry.notify_one();
        }
        told.gives
    }

    /// Leaves the thread for the one on which the fewest sessions have something to do. `None` if enough sessions have
    /// left.
    pub fn change_thread(&self) -> Option<Load> {
        let here = usize::from(self.thread);
        let there = self.threads.least_acting(here)?;
        self.threads.counters(here).gives_one().then(|| {
            self.threads.changes.fetch_add(1, Relaxed);
            Load::on(&self.threads, there)
        })
    }

    /// Serves a session that has changed its thread: there.
    pub fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        self.threads.spawn_on(usize::from(self.thread), session);
    }
}
