//! The parts of the running program: clusters with their monitors, listeners, places to accept at, the admin port.

mod admin_port;
mod admin_sockets;
pub(super) mod inherited;
mod parked;
mod places;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::TaskTracker;
use tracing::info;

use self::admin_port::{AdminPort, OpenedAdmin};
use self::admin_sockets::{AdminSockets, OpenedSocket};
use self::inherited::Inherited;
use self::places::{OpenedPlace, Places};
use super::background::Background;
use super::error::StartError;
use super::load::{Loaded, LoadedCluster, Loader};
use crate::admin::reloads::Reloads;
use crate::admin::switchovers::Switchovers;
use crate::admin::upgrades::Upgrades;
use crate::admin::{self, AdminContext, OperatorLog, Trends};
use crate::config::{Cluster, ClusterIndex, Config, Listener, ListenerIndex};
use crate::net::Resolver;
use crate::probe::metrics::ProbeMetrics;
use crate::probe::{ClusterChange, ClusterHandle, Monitor};
use crate::proxy::context::ListenerContext;
use crate::proxy::intake::tls::{self, Encryption};
use crate::proxy::metrics::ProxyMetrics;
use crate::proxy::sessions::carry_log::log_carried;
use crate::proxy::sessions::carrying;
use crate::proxy::sessions::coverage_watch::CoverageWatch;
use crate::proxy::sessions::drain_watch::log_sessions_left;
use crate::proxy::sessions::parking;
use crate::proxy::sessions::rebalancer::Rebalancer;
use crate::proxy::sessions::registry::Registry;
use crate::proxy::sessions::slots::SLOTS_MAX;
use crate::proxy::worker::Workers;
use crate::telemetry::MetricRegistry;

/// How often it is looked whether the sessions of a removed listener or cluster have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Everything that runs.
pub(crate) struct Parts {
    /// `None` before the first configuration has been applied.
    config: Option<Arc<Config>>,
    /// In the order of the configuration.
    clusters: Vec<RunningCluster>,
    /// In the order of the configuration.
    listeners: Vec<RunningListener>,
    /// The numbers of all listeners that there have been, by name: one that comes back has its number again.
    numbers: HashMap<String, ListenerIndex>,
    /// What ends the sessions of removed listeners.
    retiring: HashMap<ListenerIndex, AbortHandle>,
    next_cluster: usize,
    places: Places,
    admin: Option<AdminPort>,
    admin_sockets: AdminSockets,
    encryptions: watch::Sender<Vec<Arc<Encryption>>>,
    pub(super) background: Background,
    pub(super) registry: Arc<Registry>,
    pub(super) workers: Arc<Workers>,
    /// What each listener's sessions share, in the order of the configuration.
    contexts: watch::Sender<Vec<Arc<ListenerContext>>>,
    /// What had been counted when that was last sent to a process that takes over: by name, and by the labels of what it is.
    pub(super) sent_figures: HashMap<(String, Vec<(String, String)>), f64>,
    admin_thread: Workers,
    names: Arc<Resolver>,
    pub(super) metrics: MetricRegistry,
    probe_metrics: Arc<ProbeMetrics>,
    proxy_metrics: Arc<ProxyMetrics>,
    pub(super) reloads: Arc<Reloads>,
    pub(super) upgrades: Arc<Upgrades>,
    switchovers: Arc<Switchovers>,
    trends: Arc<Trends>,
    pub(super) operators: Arc<OperatorLog>,
    started: Instant,
    is_stopping: watch::Receiver<bool>,
}

struct RunningCluster {
    index: ClusterIndex,
    handle: ClusterHandle,
    tasks: [AbortHandle; 6],
}

struct RunningListener {
    context: Arc<ListenerContext>,
    /// What depends on its cluster and rule.
    tasks: Vec<AbortHandle>,
}

/// A configuration that can be applied: its files are loaded and its ports are open.
pub(super) struct Opened {
    loaded: Loaded,
    /// The number of each listener, in the order of the listeners.
    numbers: Vec<ListenerIndex>,
    places: Vec<OpenedPlace>,
    admin: OpenedAdmin,
    admin_sockets: Vec<OpenedSocket>,
}

impl Parts {
    /// Without a configuration: nothing runs but the threads for so many sessions. The clock of the sessions began `clock`
    /// ago.
    pub(super) fn none(
        threads: usize,
        reloads: Arc<Reloads>,
        upgrades: Arc<Upgrades>,
        clock: Duration,
    ) -> Result<Parts, StartError> {
        let metrics = MetricRegistry::with_build_info();
        let (probe_metrics, proxy_metrics) = (ProbeMetrics::new(&metrics), ProxyMetrics::new(&metrics));
        reloads.count_in(&metrics);
        Ok(Parts {
            config: None,
            clusters: Vec::new(),
            listeners: Vec::new(),
            numbers: HashMap::new(),
            retiring: HashMap::new(),
            next_cluster: 0,
            places: Places::new(threads),
            admin: None,
            admin_sockets: AdminSockets::default(),
            encryptions: watch::Sender::new(Vec::new()),
            background: Background::default(),
            registry: Arc::new(Registry::with_clock_since(clock)),
            contexts: watch::Sender::new(Vec::new()),
            sent_figures: HashMap::new(),
            workers: Arc::new(Workers::start(threads).map_err(StartError::Threads)?),
            admin_thread: Workers::start(1).map_err(StartError::Threads)?,
            names: Resolver::system(),
            metrics,
            probe_metrics: Arc::new(probe_metrics),
            proxy_metrics: Arc::new(proxy_metrics),
            reloads,
            upgrades,
            switchovers: Arc::default(),
            trends: Arc::default(),
            operators: Arc::default(),
            started: Instant::now(),
            is_stopping: watch::Sender::new(false).subscribe(),
        })
    }

    /// The admin port tells from now on that pgvane stops when `stop` does.
    pub(super) fn watch_stop(&mut self, stop: watch::Receiver<bool>) {
        self.is_stopping = stop;
    }

    /// The configuration in use. There is one once the program runs.
    pub(super) fn config(&self) -> &Arc<Config> {
        self.config.as_ref().expect("the first configuration has been applied")
    }

    /// Loads configurations beside the one in use.
    pub(super) fn loader(&self) -> Loader {
        Loader {
            current: self.config.clone(),
            contexts: self.listeners.iter().map(|listener| Arc::clone(&listener.context)).collect(),
            names: Arc::clone(&self.names),
            probe_metrics: Arc::clone(&self.probe_metrics),
            proxy_metrics: Arc::clone(&self.proxy_metrics),
        }
    }

    /// The encryption of each listener.
    pub(super) fn encryptions_in_use(&self) -> Vec<Arc<Encryption>> {
        self.encryptions.borrow().clone()
    }

    /// Opens the ports that are not open yet and were not `inherited` from another process. Errors: one of them cannot be
    /// opened; then none of them stays open.
    pub(super) fn open(&self, loaded: Loaded, inherited: &mut Inherited) -> Result<Opened, StartError> {
        let new_clusters = loaded.clusters.iter().filter(|cluster| matches!(cluster, LoadedCluster::New(..))).count();
        if self.next_cluster + new_clusters > SLOTS_MAX {
            return Err(StartError::TooMany("clusters"));
        }
        let numbers = self.numbers_of(&loaded.config.listeners)?;
        let places = self.places.open(&loaded.config.listeners, inherited)?;
        let admin = AdminPort::open(self.admin.as_ref(), loaded.config.admin.as_ref(), inherited)?;
        let admin_sockets = self.admin_sockets.open(&loaded.config.admin_sockets, inherited)?;
        Ok(Opened { loaded, numbers, places, admin, admin_sockets })
    }

    fn numbers_of(&self, listeners: &[Listener]) -> Result<Vec<ListenerIndex>, StartError> {
        let mut next = self.numbers.len();
        let numbers: Vec<ListenerIndex> = listeners
            .iter()
            .map(|listener| {
                self.numbers.get(&listener.name).copied().unwrap_or_else(|| {
                    next += 1;
                    ListenerIndex(next - 1)
                })
            })
            .collect();
        if next > SLOTS_MAX { Err(StartError::TooMany("listeners")) } else { Ok(numbers) }
    }

    /// Makes a configuration the one in use. Running sessions stay.
    pub(super) async fn apply(&mut self, opened: Opened) {
        let Opened {
            loaded: Loaded { config, clusters, auth_queries, encryptions },
            numbers,
            places,
            admin,
            admin_sockets,
        } = opened;
        if self.config.is_none() {
            let registry = Arc::clone(&self.registry);
            self.background.spawn("spread of sessions", self.workers.spread_sessions(&self.metrics));
            self.background.spawn("search for dead peers", async move { registry.sweep().await });
            self.background.spawn("certificate reloading", tls::reload_changed(self.encryptions.subscribe()));
        }
        let config = Arc::new(config);
        self.apply_clusters(&config, clusters).await;
        for ((cluster, running), query) in config.clusters.iter().zip(&self.clusters).zip(auth_queries) {
            self.registry.carrying(running.index).set(cluster.carry.is_some(), query);
        }
        self.encryptions.send_replace(encryptions.clone());
        self.apply_listeners(&config, &numbers, encryptions);
        self.config = Some(Arc::clone(&config));
        let contexts: Vec<_> = self.listeners.iter().map(|listener| Arc::clone(&listener.context)).collect();
        self.places.apply(places, &contexts, &self.workers);
        self.contexts.send_replace(contexts);
        let mut served = admin::serving(self.admin_context(&config));
        served.set_accepting(self.places.is_accepting());
        // on a thread of its own: however long a page takes, the checks are on time
        let runtime = self.admin_thread.runtime(0);
        self.admin_sockets.apply(admin_sockets, &served, &mut self.background, runtime);
        AdminPort::apply(&mut self.admin, admin, served, &mut self.background, runtime);
    }

    async fn apply_clusters(&mut self, config: &Arc<Config>, loaded: Vec<LoadedCluster>) {
        let mut before = std::mem::take(&mut self.clusters);
        for (cluster, loaded) in config.clusters.iter().zip(loaded) {
            let at = before.iter().position(|known| known.handle.name() == cluster.name);
            let running = match (loaded, at) {
                (LoadedCluster::Known(change), Some(at)) => changed(before.swap_remove(at), cluster, change).await,
                (LoadedCluster::New(monitor, handle), _) => self.start_cluster(*monitor, handle),
                (LoadedCluster::Known(_), None) => continue, // loaded beside this configuration, so it runs
            };
            self.clusters.push(running);
        }
        before.into_iter().for_each(retire_cluster);
    }

    fn start_cluster(&mut self, monitor: Monitor, handle: ClusterHandle) -> RunningCluster {
        let index = ClusterIndex(self.next_cluster);
        self.next_cluster += 1;
        self.registry.add_cluster(index, Arc::clone(handle.sessions()));
        let orders = apply_every_topology(index, handle.clone(), Arc::clone(&self.registry));
        let drains = log_sessions_left(index, handle.clone(), Arc::clone(&self.registry));
        let parks = parking::keep_time(index, handle.clone(), Arc::clone(&self.registry));
        let keys = carrying::learn_keys(index, handle.clone(), Arc::clone(&self.registry));
        let carried = log_carried(index, handle.clone(), Arc::clone(&self.registry));
        let tasks = [
            self.background.spawn("log of carried sessions", carried),
            self.background.spawn("keys of roles", keys),
            self.background.spawn("session orders", orders),
            self.background.spawn("log of drains", drains),
            self.background.spawn("time of parks", parks),
            self.background.spawn("monitor", monitor.run()),
        ];
        RunningCluster { index, handle, tasks }
    }

    fn apply_listeners(&mut self, config: &Config, numbers: &[ListenerIndex], encryptions: Vec<Arc<Encryption>>) {
        let mut before = std::mem::take(&mut self.listeners);
        for ((settings, index), encryption) in config.listeners.iter().zip(numbers).zip(encryptions) {
            let at = before.iter().position(|known| known.context.index == *index);
            let known = at.map(|at| before.swap_remove(at));
            self.numbers.insert(settings.name.clone(), *index);
            if let Some(ending) = self.retiring.remove(index) {
                ending.abort(); // it is back, and its sessions may stay
            }
            let cluster = &self.clusters[settings.cluster.0];
            let settings = Listener { cluster: cluster.index, ..settings.clone() };
            self.registry.set_reactions(*index, settings.rule.reactions);
            let context = ListenerContext::new(
                *index,
                settings,
                config.drain_timeout,
                cluster.handle.clone(),
                Arc::clone(&self.registry),
                self.proxy_metrics.listener(&config.listeners[self.listeners.len()].name),
                encryption,
            );
            let context = Arc::new(match &known {
                Some(known) => context.after(&known.context),
                None => context,
            });
            if known.is_none() {
                info!(listener = %context.settings.name, address = %context.settings.binds, "listening");
            }
            let tasks = self.listener_tasks(known, &context);
            self.listeners.push(RunningListener { context, tasks });
        }
        for removed in before {
            self.retire_listener(removed);
        }
        // what happens to running sessions may have changed
        for cluster in &self.clusters {
            self.registry.apply(cluster.index, &cluster.handle.topology_full());
        }
    }

    /// The tasks of a listener: those that run if nothing has changed for them.
    fn listener_tasks(&mut self, known: Option<RunningListener>, now: &Arc<ListenerContext>) -> Vec<AbortHandle> {
        if let Some(RunningListener { context, tasks }) = known {
            if context.origin == now.origin {
                return tasks;
            }
            tasks.iter().for_each(AbortHandle::abort);
        }
        let (listener, rule, view) = (now.settings.name.clone(), now.settings.rule.clone(), now.cluster.clone());
        let rebalancer = rule.rebalance.map(|settings| Rebalancer {
            listener: (now.index, listener.clone()),
            cluster: now.settings.cluster,
            rule: rule.clone(),
            settings,
            view: view.clone(),
            registry: Arc::clone(&self.registry),
        });
        let coverage =
            CoverageWatch { listener: (now.index, listener), rule, view, registry: Arc::clone(&self.registry) };
        let mut tasks = vec![self.background.spawn("excluded replicas", coverage.run())];
        tasks.extend(rebalancer.map(|rebalancer| self.background.spawn("rebalancer", rebalancer.run())));
        tasks
    }

    /// The sessions of a removed listener have `drain_timeout` to end.
    fn retire_listener(&mut self, removed: RunningListener) {
        let RunningListener { context, tasks } = removed;
        tasks.iter().for_each(AbortHandle::abort);
        let (registry, index) = (Arc::clone(&self.registry), context.index);
        let sessions = registry.sessions_of(index);
        let seconds = context.drain_timeout.as_secs_f64();
        info!(listener = %context.settings.name, sessions, drain_timeout_seconds = seconds, "listener removed");
        let deadline = Instant::now() + context.drain_timeout;
        let ending = tokio::spawn(async move {
            sleep_until(deadline).await;
            while registry.sessions_of(index) > 0 {
                registry.end_listener(index);
                sleep(LOOK_INTERVAL).await; // for those that were on their way to a node
            }
        });
        self.retiring.insert(index, ending.abort_handle());
    }

    fn admin_context(&self, config: &Arc<Config>) -> AdminContext {
        AdminContext {
            config: Arc::clone(config),
            clusters: self.clusters.iter().map(|cluster| cluster.handle.clone()).collect(),
            cluster_numbers: self.clusters.iter().map(|cluster| cluster.index).collect(),
            listener_numbers: self.listeners.iter().map(|listener| listener.context.index).collect(),
            names: Arc::clone(&self.names),
            registry: Arc::clone(&self.registry),
            metrics: self.metrics.clone(),
            listener_metrics: Arc::clone(&self.proxy_metrics),
            started: self.started,
            is_stopping: self.is_stopping.clone(),
            reloads: Arc::clone(&self.reloads),
            upgrades: Arc::clone(&self.upgrades),
            switchovers: Arc::clone(&self.switchovers),
            trends: Arc::clone(&self.trends),
            operators: Arc::clone(&self.operators),
        }
    }

    /// Whether connections are accepted from now on, of clients and on the admin port. If not, they wait in the kernel.
    pub(super) fn set_accepting(&mut self, is_accepting: bool) {
        self.places.set_accepting(is_accepting);
        self.admin.iter().for_each(|admin| admin.set_accepting(is_accepting));
        self.admin_sockets.set_accepting(is_accepting);
    }

    /// What each listener's sessions share, in the order of the configuration.
    pub(super) fn contexts(&self) -> watch::Receiver<Vec<Arc<ListenerContext>>> {
        self.contexts.subscribe()
    }

    /// The clusters.
    pub(super) fn cluster_handles(&self) -> Vec<ClusterHandle> {
        self.clusters.iter().map(|cluster| cluster.handle.clone()).collect()
    }

    /// Becomes true when the program stops.
    pub(super) fn is_stopping(&self) -> watch::Receiver<bool> {
        self.is_stopping.clone()
    }

    /// Copies of all sockets at which clients are accepted. Errors: there are no descriptors left.
    pub(super) fn places_to_copy(&self) -> Result<Vec<CopiedPlace>, String> {
        let copied = self.places.all().iter().map(|place| {
            let sockets = place.copies().iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
            Ok(CopiedPlace { owner: place.listener(), bind: place.bind().to_string(), sockets })
        });
        copied.collect::<io::Result<_>>().map_err(|error| no_descriptors(&error))
    }

    /// A copy of the socket of the admin port, if there is one. Errors: there are no descriptors left.
    pub(super) fn admin_to_copy(&self) -> Result<Option<CopiedPlace>, String> {
        let Some((bind, socket)) = self.admin.as_ref().and_then(AdminPort::copy) else { return Ok(None) };
        let socket = socket.try_clone().map_err(|error| no_descriptors(&error))?;
        Ok(Some(CopiedPlace { owner: String::new(), bind: bind.to_string(), sockets: vec![socket] }))
    }

    /// Copies of the admin sockets, with their paths. Errors: there are no descriptors left.
    pub(super) fn admin_sockets_to_copy(&self) -> Result<Vec<CopiedPlace>, String> {
        let copied = self.admin_sockets.copies().map(|(path, socket)| {
            Ok(CopiedPlace {
                owner: String::new(),
                bind: path.display().to_string(),
                sockets: vec![socket.try_clone()?],
            })
        });
        copied.collect::<io::Result<_>>().map_err(|error| no_descriptors(&error))
    }

    /// The connections to the admin port.
    pub(super) fn admin_connections(&self) -> Option<&TaskTracker> {
        self.admin.as_ref().map(AdminPort::connections)
    }

    /// Waits until the places are closed that were removed before.
    pub(super) async fn places_are_closed(&mut self) {
        self.places.are_closed().await;
    }

    /// Closes all places: no connection is accepted any more.
    pub(super) async fn close_all(&mut self) {
        self.places.close_all().await;
    }
}

/// Copies of the sockets of a place, for another process.
pub(crate) struct CopiedPlace {
    /// The name of the listener.
    pub(super) owner: String,
    /// The place, as the configuration has it.
    pub(super) bind: String,
    pub(super) sockets: Vec<OwnedFd>,
}

fn no_descriptors(error: &io::Error) -> String {
    format!("cannot copy the listening sockets: {error}")
}

/// A running cluster after a change of its configuration, if there is one.
async fn changed(running: RunningCluster, cluster: &Cluster, change: Option<Box<ClusterChange>>) -> RunningCluster {
    match change {
        None => running,
        Some(change) => {
            running.handle.reconfigure(*change).await;
            RunningCluster { handle: running.handle.with(cluster), ..running }
        }
    }
}

/// A removed cluster is checked as long as it has sessions.
fn retire_cluster(removed: RunningCluster) {
    let RunningCluster { handle, tasks, .. } = removed;
    info!(cluster = handle.name(), sessions = handle.sessions().all().iter().sum::<u32>(), "cluster removed");
    drop(tokio::spawn(async move {
        loop {
            sleep(LOOK_INTERVAL).await; // first, for sessions that are on their way to a node
            if handle.sessions().all().iter().all(|sessions| *sessions == 0) {
                return tasks.iter().for_each(AbortHandle::abort);
            }
        }
    }));
}

/// After each new topology, sends orders to the sessions that are on the wrong node.
async fn apply_every_topology(index: ClusterIndex, view: ClusterHandle, registry: Arc<Registry>) {
    loop {
        let topology = view.topology_full();
        registry.apply(index, &topology);
        view.newer_than(topology.generation).await;
    }
}
