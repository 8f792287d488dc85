//! The threads that serve sessions: each with a runtime and an epoll of its own.
//!
//! A session's events wake its thread and no other, and nothing of it is shared between cores. Not more threads are used
//! than the load needs, as `plan` decides; each of them accepts too. A new session goes to the thread on which the fewest
//! sessions have something to do; later it changes its thread if that is crowded or not used any more. Checks and admin run
//! elsewhere: so the nodes' roles are known in time even if the sessions are busy.

mod counters;
mod plan;
mod threads;

use std::future::Future;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use prometheus::{Gauge, IntCounter};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::task::TaskTracker;

use self::counters::Counters;
use self::plan::{Plan, ThreadLoad};
pub use self::threads::Load;
use self::threads::{Thread, Threads};
use crate::net::{Incoming, Socket};
use crate::telemetry::MetricRegistry;

/// Shorter than the timeouts of sessions, and long enough to cause no measurable load.
const TICK: Duration = Duration::from_millis(500);

/// The loads of the threads are looked at this often if one is busy, or if many sessions have something to do; otherwise
/// each [`TICK`].
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The loads are looked at this often while sessions perhaps wait for each other on too few threads: if many have something
/// to do after a quiet time, and until it is decided whether a thread is crowded.
const HURRY: Duration = Duration::from_millis(10);

/// A thread that is busy for this share of its time is looked at often.
const BUSY: f64 = 0.25;

/// The threads. They end, and what runs on them, when this is dropped.
#[derive(Debug)]
pub struct Workers {
    threads: Arc<Threads>,
    /// Dropping them ends the threads.
    _end: Vec<oneshot::Sender<()>>,
}

impl Workers {
    /// Starts this number of threads. Errors: the kernel gives no more threads or descriptors.
    pub fn start(count: usize) -> io::Result<Workers> {
        let started: Vec<_> = (0..count).map(start).collect::<io::Result<_>>()?;
        let (all, end) = started.into_iter().unzip();
        let in_use = watch::Sender::new(Plan::new(count).in_use());
        Ok(Workers {
            threads: Arc::new(Threads {
                all,
                in_use,
                hurry: Notify::new(),
                changes: AtomicU64::new(0),
                sessions: TaskTracker::new(),
            }),
            _end: end,
        })
    }

    /// The runtime of a thread; after the last number they begin again.
    pub fn runtime(&self, thread: usize) -> &Handle {
        let all = &self.threads.all;
        &all[thread % all.len()].runtime
    }

    /// The number of threads in use, the first ones.
    pub fn in_use(&self) -> watch::Receiver<usize> {
        self.threads.in_use.subscribe()
    }

    /// Serves a connection that was accepted on this thread: there, or on another one if fewer sessions have something to
    /// do there. Errors: the socket cannot be moved to another thread.
    pub fn spawn<F>(&self, here: usize, socket: Socket, serve: impl FnOnce(Incoming, Load) -> F) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let acting = |thread| self.threads.counters(thread).acting();
        let least = self.threads.least_acting(here).filter(|least| acting(*least) + 1 < acting(here));
        let (thread, socket) = match least {
            Some(there) => (there, socket.unwatch()?),
            None => (here, Incoming::Watched(socket)),
        };
        self.threads.spawn_on(thread, serve(socket, Load::on(&self.threads, thread)));
        Ok(())
    }

    /// Serves what is not registered with any thread's runtime.
    pub fn spawn_anywhere<F>(&self, serve: impl FnOnce(Load) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let thread = self.threads.least_acting(usize::MAX).unwrap_or(0);
        self.threads.spawn_on(thread, serve(Load::on(&self.threads, thread)));
    }

    /// Waits until every thread has run something: until none of them hangs. Cancel safe.
    pub async fn all_react(&self) {
        for thread in &self.threads.all {
            let _ = thread.runtime.spawn(std::future::ready(())).await; // the thread ends
        }
    }

    /// All sessions, for waiting until they have ended.
    pub fn sessions(&self) -> &TaskTracker {
        &self.threads.sessions
    }

    /// Uses as many threads as the load needs, and tells it in the metrics. Never returns.
    pub fn spread_sessions(&self, metrics: &MetricRegistry) -> impl Future<Output = ()> + Send + use<> {
        let threads = Arc::clone(&self.threads);
        let figures = Figures::new(metrics);
        async move {
            let mut plan = Plan::new(threads.all.len());
            let mut before: Vec<Work> = threads.all.iter().map(Thread::work).collect();
            let mut since = Instant::now();
            let mut is_busy = false;
            figures.show(&threads);
            loop {
                sleep(if plan.is_undecided() { HURRY } else { LOOK_INTERVAL }).await;
                if !is_busy && timeout(TICK - LOOK_INTERVAL, threads.hurry.notified()).await.is_ok() {
                    // the quiet time before says nothing about the load now
                    before = threads.all.iter().map(Thread::work).collect();
                    since = Instant::now();
                    sleep(HURRY).await;
                }
                let interval = since.elapsed();
                since = Instant::now();
                let mut loads = Vec::with_capacity(threads.all.len());
                for (thread, before) in threads.all.iter().zip(&mut before) {
                    loads.push(thread.load(before, interval));
                }
                is_busy = loads.iter().any(|load| load.busy >= BUSY);
                let gives = plan.look(&loads, interval);
                for (thread, gives) in threads.all.iter().zip(gives) {
                    thread.counters.give(gives);
                }
                threads.in_use.send_if_modified(|in_use| mem::replace(in_use, plan.in_use()) != plan.in_use());
                figures.show(&threads);
            }
        }
    }
}

/// The metrics of the threads.
struct Figures {
    in_use: Gauge,
    changes: IntCounter,
}

impl Figures {
    fn new(metrics: &MetricRegistry) -> Figures {
        let in_use = metrics.gauge(
            "pgvane_threads_in_use",
            "The number of threads that serve sessions now; no more than the load needs, and no more than `threads`.",
            &[],
        );
        let changes = metrics.counter(
            "pgvane_session_thread_changes_total",
            "Sessions that went on on another thread, because theirs was crowded or is not used any more.",
            &[],
        );
        let none: &[&str] = &[];
        Figures { in_use: in_use.with_label_values(none), changes: changes.with_label_values(none) }
    }

    fn show(&self, threads: &Threads) {
        self.in_use.set(*threads.in_use.borrow() as f64);
        self.changes.inc_by(threads.changes.swap(0, Relaxed));
    }
}

/// What a thread has done since its start.
#[derive(Debug, Clone, Copy)]
struct Work {
    busy: Duration,
    waits: u64,
}

impl Thread {
    fn work(&self) -> Work {
        let metrics = self.runtime.metrics();
        Work { busy: metrics.worker_total_busy_duration(0), waits: metrics.worker_park_count(0) }
    }

    /// Its load in the `interval` since it had done what is in `before`, which is now what it has done.
    fn load(&self, before: &mut Work, interval: Duration) -> ThreadLoad {
        let now = self.work();
        let busy = now.busy.saturating_sub(before.busy);
        let waits = u32::try_from(now.waits.saturating_sub(before.waits)).unwrap_or(u32::MAX);
        *before = now;
        ThreadLoad {
            busy: busy.div_duration_f64(interval),
            turn: busy / waits.max(1),
            acting: self.counters.next_look(),
        }
    }
}

fn start(index: usize) -> io::Result<(Thread, oneshot::Sender<()>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (end, ended) = oneshot::channel::<()>();
    thread::Builder::new().name(format!("pgvane-{index}")).spawn(move || {
        runtime.block_on(tick_until(ended));
    })?;
    Ok((Thread { runtime: handle, counters: Counters::default() }, end))
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

    use super::*;

    /// Uses this number of threads of several.
    fn started(threads: usize, in_use: usize) -> Workers {
        let workers = Workers::start(threads).expect("threads");
        workers.threads.in_use.send_replace(in_use);
        workers
    }

    #[tokio::test]
    async fn new_sessions_are_spread_evenly_among_the_threads_in_use_and_watched_there() {
        let workers = Arc::new(started(3, 2));
        let (sender, receiver) = mpsc::channel();
        let spawning = {
            let workers = Arc::clone(&workers);
            async move {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
                let address = listener.local_addr().expect("bound");
                for _ in 0..6 {
                    let _client = std::net::TcpStream::connect(address).expect("connects");
                    let (stream, _) = listener.accept().await.expect("accepts");
                    let sender = sender.clone();
                    let serve = move |socket: Incoming, load: Load| async move {
                        let _load = load;
                        let socket = socket.watch().expect("descriptors are left");
                        let is_watched = poll_fn(|cx| socket.poll_read_ready(cx)).await.is_ok(); // the client has hung up
                        sender.send((is_watched, thread::current().name().map(str::to_owned))).expect("is heard");
                    };
                    workers.spawn(1, stream.into(), serve).expect("lets go of it");
                }
            }
        };
        workers.runtime(1).spawn(spawning).await.expect("no panic");
        let served: Vec<_> = tokio::task::spawn_blocking(move || receiver.iter().take(6).collect()).await.expect("six");
        assert!(served.iter().all(|(is_watched, _)| *is_watched));
        let on = |name| served.iter().filter(|(_, thread)| thread.as_deref() == Some(name)).count();
        assert!((2..=3).contains(&on("pgvane-0")) && on("pgvane-2") == 0, "{served:?}");
        workers.sessions().close();
        workers.sessions().wait().await;
    }

    #[tokio::test]
    async fn as_many_acting_sessions_leave_a_thread_as_it_gives() {
        let workers = started(3, 3);
        let threads = &workers.threads;
        let mut loads: Vec<Load> = (0..6).map(|_| Load::on(threads, 0)).collect();
        assert!(loads.iter_mut().all(|load| !load.acts() && load.change_thread().is_none()));
        assert_eq!(threads.counters(0).next_look(), 6);
        threads.counters(0).give(4);
        let left: Vec<Load> = loads.iter_mut().filter_map(|load| load.acts().then(|| load.change_thread())?).collect();
        assert_eq!(left.len(), 4);
        let acting: Vec<usize> = (0..3).map(|thread| threads.counters(thread).next_look()).collect();
        assert_eq!(acting[0], 2, "those that left do not count any more");
        assert_eq!((threads.counters(1).acting(), threads.counters(2).acting()), (0, 0), "they have not acted yet");
        let names = left.into_iter().map(|load| {
            let (sender, receiver) = mpsc::channel();
            load.spawn(async move { sender.send(thread::current().name().map(str::to_owned)).expect("is heard") });
            receiver.recv().expect("runs").expect("has a name")
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        assert_eq!(names, ["pgvane-1", "pgvane-1", "pgvane-2", "pgvane-2"]);
    }

    /// A burst of clients after a failover must not wait for the next look of a quiet time.
    #[tokio::test(start_paused = true)]
    async fn the_loads_are_looked_at_soon_if_many_sessions_arrive_or_act() {
        let workers = started(2, 1);
        let spread = tokio::spawn(workers.spread_sessions(&MetricRegistry::with_build_info()));
        let threads = Arc::clone(&workers.threads);
        let next_look = async || {
            let (begun, counters) = (Instant::now(), threads.counters(0));
            while counters.acting() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
            begun.elapsed()
        };
        sleep(TICK + LOOK_INTERVAL).await;
        let few: Vec<Load> = (0..8).map(|_| Load::on(&threads, 0)).collect();
        assert!(next_look().await > LOOK_INTERVAL * 2, "in its time");
        sleep(LOOK_INTERVAL * 2).await;
        let mut many: Vec<Load> = (0..100).map(|_| Load::on(&threads, 0)).collect();
        assert!(next_look().await <= LOOK_INTERVAL * 2, "soon");
        spread.abort();
        drop(few);
        let mut is_worth_a_look = async |acting: usize| {
            threads.counters(0).next_look();
            many[..acting].iter_mut().for_each(|load| _ = load.acts());
            timeout(Duration::ZERO, threads.hurry.notified()).await.is_ok()
        };
        assert!(!is_worth_a_look(8).await && is_worth_a_look(100).await);
    }

    #[tokio::test]
    async fn a_thread_that_works_without_a_wait_is_not_used_alone() {
        let workers = started(2, 1);
        let metrics = MetricRegistry::with_build_info();
        let spread = tokio::spawn(workers.spread_sessions(&metrics));
        let works = workers.runtime(0).spawn(async {
            loop {
                let until = Instant::now() + Duration::from_millis(1);
                while Instant::now() < until {}
                tokio::task::yield_now().await;
            }
        });
        let mut in_use = workers.in_use();
        let both = in_use.wait_for(|in_use| *in_use == 2);
        drop(timeout(Duration::from_secs(20), both).await.expect("both are used"));
        works.abort();
        spread.abort();
    }
}
