//! The threads that serve sessions: each with a runtime and an epoll of its own.
//!
//! A session stays on the thread that it was given to, so that its events wake that thread and no other, and nothing
//! of it is shared between cores. A new session goes to the thread that has the fewest. Checks, admin and accepting
//! run elsewhere: however busy the sessions are, the knowledge of the cluster is fresh.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// The threads. They end, and what runs on them, when this is dropped.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    sessions: TaskTracker,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    load: Arc<AtomicUsize>,
    /// Dropping it ends the thread.
    _ends: oneshot::Sender<()>,
}

/// Counts a session of a worker out when it ends, however it does.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Workers {
    /// Starts so many threads. Errors: the kernel gives no more threads or descriptors.
    pub fn start(count: usize) -> io::Result<Workers> {
        let workers = (0..count).map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Workers { workers, sessions: TaskTracker::new() })
    }

    /// Runs a session on the thread that has the fewest. `begin` is called there, inside its runtime.
    pub fn spawn<F>(&self, begin: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let least = self.workers.iter().min_by_key(|worker| worker.load.load(Relaxed));
        let worker = least.expect("there is at least one");
        worker.load.fetch_add(1, Relaxed);
        let load = Load(Arc::clone(&worker.load));
        let session = async move {
            let _counted = load;
            begin().await;
        };
        drop(self.sessions.spawn_on(session, &worker.runtime));
    }

    /// All sessions, for waiting until they have ended.
    pub fn sessions(&self) -> &TaskTracker {
        &self.sessions
    }
}

impl Worker {
    fn start(index: usize) -> io::Result<Worker> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (ends, ended) = oneshot::channel::<()>();
        thread::Builder::new().name(format!("pgvane-{index}")).spawn(move || {
            let _ = runtime.block_on(ended);
        })?;
        Ok(Worker { runtime: handle, load: Arc::default(), _ends: ends })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn sessions_are_spread_evenly_and_counted_out() {
        let workers = Workers::start(2).expect("threads");
        let (sender, receiver) = mpsc::channel();
        let goes_on = Arc::new(tokio::sync::Semaphore::new(0));
        for _ in 0..6 {
            let (sender, goes_on) = (sender.clone(), Arc::clone(&goes_on));
            workers.spawn(move || async move {
                let name = thread::current().name().map(str::to_owned);
                sender.send(name).expect("somebody listens");
                let _permit = goes_on.acquire().await;
            });
        }
        let names: Vec<_> = receiver.iter().take(6).collect();
        assert_eq!(names.iter().filter(|name| name.as_deref() == Some("pgvane-0")).count(), 3, "{names:?}");
        goes_on.add_permits(6);
        workers.sessions().close();
        workers.sessions().wait().await;
        assert!(workers.workers.iter().all(|worker| worker.load.load(Relaxed) == 0));
    }
}
