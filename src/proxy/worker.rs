//! The threads that serve sessions: each with a runtime and an epoll of its own.
//!
//! A session stays on the thread that it was given to, so that its events wake that thread and no other, and nothing
//! of it is shared between cores. Every thread accepts too: a new session stays where it was accepted, or goes to the
//! thread that has the fewest if that has fewer by more than one. Checks and admin run elsewhere: so the nodes'
//! roles are known in time even if the sessions are busy.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::interval;
use tokio_util::task::TaskTracker;

use crate::net::{Incoming, Socket};

/// Shorter than the timeouts of sessions, and long enough to cause no measurable load.
const TICK: Duration = Duration::from_millis(500);

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

/// A session's part in the load of its thread; dropping it counts it out.
#[derive(Debug, Default)]
pub struct Load(Arc<AtomicUsize>);

impl Load {
    fn count(worker: &Worker) -> Load {
        worker.load.fetch_add(1, Relaxed);
        Load(Arc::clone(&worker.load))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Workers {
    /// Starts this number of threads. Errors: the kernel gives no more threads or descriptors.
    pub fn start(count: usize) -> io::Result<Workers> {
        let workers = (0..count).map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Workers { workers, sessions: TaskTracker::new() })
    }

    /// The runtime of a thread; after the last number they begin again.
    pub fn runtime(&self, thread: usize) -> &Handle {
        &self.workers[thread % self.workers.len()].runtime
    }

    /// Serves a connection that was accepted on this thread, there or on the one that has the fewest sessions.
    /// Errors: the socket cannot be moved to another thread.
    pub fn spawn<F>(&self, thread: usize, socket: Socket, serve: impl FnOnce(Incoming, Load) -> F) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let here = &self.workers[thread % self.workers.len()];
        let least = self.workers.iter().min_by_key(|worker| worker.load());
        let there = least.filter(|least| least.load() + 1 < here.load());
        let (worker, socket) = match there {
            Some(there) => (there, socket.unwatch()?),
            None => (here, Incoming::Watched(socket)),
        };
        drop(self.sessions.spawn_on(serve(socket, Load::count(worker)), &worker.runtime));
        Ok(())
    }

    /// Serves what is not registered with any thread's runtime, on the thread that has the fewest sessions.
    pub fn spawn_anywhere<F>(&self, serve: impl FnOnce(Load) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load()) {
            drop(self.sessions.spawn_on(serve(Load::count(worker)), &worker.runtime));
        }
    }

    /// Waits until every thread has run something: until none of them hangs. Cancel safe.
    pub async fn all_react(&self) {
        for worker in &self.workers {
            let _ = worker.runtime.spawn(std::future::ready(())).await; // the thread ends
        }
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
            runtime.block_on(tick_until(ended));
        })?;
        Ok(Worker { runtime: handle, load: Arc::default(), _ends: ends })
    }
}

impl Worker {
    fn load(&self) -> usize {
        self.load.load(Relaxed)
    }
}

/// Waits, with a timer that is due earlier than any session's. In tokio, a timer that becomes the next one of its runtime
/// costs a system call that wakes the runtime; so the timers of sessions never cause one.
async fn tick_until(mut ended: oneshot::Receiver<()>) {
    let mut ticks = interval(TICK);
    loop {
        tokio::select! {
            _ = &mut ended => return,
            _ = ticks.tick() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;
    use std::sync::mpsc;

    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn sessions_are_spread_evenly_and_counted_out() {
        let workers = Arc::new(Workers::start(2).expect("threads"));
        let (sender, receiver) = mpsc::channel();
        let goes_on = Arc::new(Semaphore::new(0));
        let spawning = {
            let (workers, goes_on) = (Arc::clone(&workers), Arc::clone(&goes_on));
            async move {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
                let address = listener.local_addr().expect("bound");
                for _ in 0..6 {
                    let _client = std::net::TcpStream::connect(address).expect("connects");
                    let (stream, _) = listener.accept().await.expect("accepts");
                    let (sender, goes_on) = (sender.clone(), Arc::clone(&goes_on));
                    let serve = move |socket: Incoming, load: Load| async move {
                        let _load = load;
                        let socket = socket.watch().expect("descriptors are left");
                        let is_watched = poll_fn(|cx| socket.poll_read_ready(cx)).await.is_ok(); // the client has hung up
                        sender.send((is_watched, thread::current().name().map(str::to_owned))).expect("is heard");
                        let _permit = goes_on.acquire().await;
                    };
                    workers.spawn(1, stream.into(), serve).expect("lets go of it");
                }
            }
        };
        workers.runtime(1).spawn(spawning).await.expect("no panic");
        let served: Vec<_> = tokio::task::spawn_blocking(move || receiver.iter().take(6).collect()).await.expect("six");
        assert!(served.iter().all(|(is_watched, _)| *is_watched));
        let on_first = served.iter().filter(|(_, name)| name.as_deref() == Some("pgvane-0")).count();
        assert!((2..=3).contains(&on_first), "{served:?}");
        goes_on.add_permits(6);
        workers.sessions().close();
        workers.sessions().wait().await;
        assert!(workers.workers.iter().all(|worker| worker.load() == 0));
    }
}
