//! The running program: starts from a configuration, runs until it is stopped, and drains.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin::{self, AdminContext};
use crate::config::{ClusterIndex, Config, ListenerIndex};
use crate::net::{Bind, Resolver};
use crate::probe::checker::CheckerError;
use crate::probe::metrics::ProbeMetrics;
use crate::probe::{ClusterHandle, Monitor};
use crate::proxy::context::ListenerContext;
use crate::proxy::intake::tls::{self, Encryption};
use crate::proxy::listener::{BindError, Listener};
use crate::proxy::metrics::ProxyMetrics;
use crate::proxy::sessions::coverage_watch::CoverageWatch;
use crate::proxy::sessions::drain_watch::{describe, log_sessions_left};
use crate::proxy::sessions::rebalancer::Rebalancer;
use crate::proxy::sessions::registry::Registry;
use crate::proxy::worker::Workers;
use crate::routing::Rule;
use crate::telemetry::MetricRegistry;
use crate::tls::TlsError;

/// How long sessions have to send their clients the final error message after the order to stop.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Why the program could not start.
#[derive(Debug)]
pub enum StartError {
    /// pgvane cannot listen on an address or a socket file.
    Bind {
        /// The listener, or `[admin]`.
        owner: String,
        /// The address.
        address: Bind,
        /// The cause.
        error: io::Error,
    },
    /// A cluster's certificates could not be loaded.
    Check(CheckerError),
    /// A listener's certificates could not be loaded.
    Tls {
        /// The listener's name.
        listener: String,
        /// The cause.
        error: TlsError,
    },
    /// The session threads could not be started.
    Threads(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Bind { owner, address, error } => write!(f, "{owner} cannot listen on {address}: {error}"),
            StartError::Check(error) => write!(f, "{error}"),
            StartError::Tls { listener, error } => write!(f, "listener \"{listener}\": {error}"),
            StartError::Threads(error) => write!(f, "cannot start the session threads: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// The program with its ports open; it accepts no connections yet.
pub struct App {
    config: Arc<Config>,
    monitors: Vec<Monitor>,
    clusters: Vec<ClusterHandle>,
    names: Arc<Resolver>,
    listeners: Vec<Listener>,
    encryptions: Vec<Arc<Encryption>>,
    admin: Option<TcpListener>,
    admin_thread: Workers,
    workers: Arc<Workers>,
    registry: Arc<Registry>,
    metrics: MetricRegistry,
    proxy_metrics: ProxyMetrics,
}

impl App {
    /// Opens all ports. Must be called in a tokio runtime.
    pub async fn build(config: Config) -> Result<App, StartError> {
        let metrics = MetricRegistry::with_build_info();
        let (probe_metrics, proxy_metrics) = (ProbeMetrics::new(&metrics), ProxyMetrics::new(&metrics));
        let names = Resolver::system();
        let mut monitors = Vec::new();
        let mut clusters = Vec::new();
        for cluster in &config.clusters {
            let (monitor, view) =
                Monitor::new(cluster, probe_metrics.cluster(&cluster.name), &names).map_err(StartError::Check)?;
            monitors.push(monitor);
            clusters.push(view);
        }
        let nodes = clusters.iter().map(|view| Arc::clone(view.sessions())).collect();
        let registry = Arc::new(Registry::new(config.listeners.len(), nodes));
        let (mut listeners, mut encryptions) = (Vec::new(), Vec::new());
        for (index, settings) in config.listeners.iter().enumerate() {
            let view = clusters[settings.cluster.0].clone();
            let counters = proxy_metrics.listener(&settings.name);
            let encryption = Encryption::new(settings, &proxy_metrics)
                .map_err(|error| StartError::Tls { listener: settings.name.clone(), error })?;
            let encryption = Arc::new(encryption);
            encryptions.push(Arc::clone(&encryption));
            let registry = Arc::clone(&registry);
            let context = ListenerContext::new(
                ListenerIndex(index),
                settings.clone(),
                config.drain_timeout,
                view,
                registry,
                counters,
                encryption,
            );
            listeners.push(Listener::bind(context, config.threads).map_err(|BindError { address, error }| {
                StartError::Bind { owner: format!("listener \"{}\"", settings.name), address, error }
            })?);
        }
        let admin = match config.admin.as_ref().map(|admin| admin.bind) {
            Some(address) => Some(listen(address).map_err(|error| StartError::Bind {
                owner: "[admin]".to_owned(),
                address: address.into(),
                error,
            })?),
            None => None,
        };
        let admin_thread = Workers::start(1).map_err(StartError::Threads)?;
        let workers = Arc::new(Workers::start(config.threads).map_err(StartError::Threads)?);
        Ok(App {
            config: Arc::new(config),
            monitors,
            clusters,
            names,
            listeners,
            encryptions,
            admin,
            admin_thread,
            workers,
            registry,
            metrics,
            proxy_metrics,
        })
    }

    /// Runs until `stop` becomes true, then drains: accepts no new sessions, and waits up to `drain_timeout` for the
    /// running ones to end. A second change of `stop` ends the wait. Certificates are loaded again when `reread` changes.
    ///
    /// Errors: a background task ended; in normal operation none does. Without it pgvane would not check its nodes or not
    /// serve its stats page, so it ends its sessions and stops, and the service manager starts it again.
    pub async fn run(self, mut stop: watch::Receiver<bool>, reread: watch::Receiver<()>) -> Result<(), TaskEnded> {
        let mut background = Background::default();
        let rules: Arc<[Rule]> = self.config.listeners.iter().map(|listener| listener.rule.clone()).collect();
        for (index, settings) in self.config.listeners.iter().enumerate() {
            if let Some(rebalance) = settings.rule.rebalance {
                let rebalancer = Rebalancer {
                    listener: (ListenerIndex(index), settings.name.clone()),
                    cluster: settings.cluster,
                    rule: settings.rule.clone(),
                    settings: rebalance,
                    view: self.clusters[settings.cluster.0].clone(),
                    registry: Arc::clone(&self.registry),
                };
                background.spawn("rebalancer", rebalancer.run());
            }
        }
        for settings in &self.config.listeners {
            let (listener, rule) = (settings.name.clone(), settings.rule.clone());
            let watch = CoverageWatch { listener, rule, view: self.clusters[settings.cluster.0].clone() };
            background.spawn("excluded replicas", watch.run());
        }
        for (index, view) in self.clusters.iter().cloned().enumerate() {
            let (registry, rules) = (Arc::clone(&self.registry), Arc::clone(&rules));
            let watch = log_sessions_left(ClusterIndex(index), view.clone(), Arc::clone(&registry));
            background.spawn("log of drains", watch);
            background.spawn("session orders", apply_every_topology(ClusterIndex(index), view, registry, rules));
        }
        let registry = Arc::clone(&self.registry);
        background.spawn("search for dead peers", async move { registry.sweep().await });
        background.spawn("certificate reloading", tls::reload_changed(self.encryptions, reread));
        for monitor in self.monitors {
            background.spawn("monitor", monitor.run());
        }
        if let Some(socket) = self.admin {
            let context = AdminContext {
                config: Arc::clone(&self.config),
                clusters: self.clusters,
                names: self.names,
                registry: Arc::clone(&self.registry),
                metrics: self.metrics,
                listener_metrics: self.proxy_metrics,
                started: Instant::now(),
                is_stopping: stop.clone(),
            };
            // on a thread of its own: however long a page takes, the checks are on time
            let runtime = Workers::runtime(&self.admin_thread, 0).clone();
            background.spawn_on("stats page", admin::serve(socket, context), &runtime);
        }
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(listener.run(Arc::clone(&self.workers), stop.clone()));
        }
        let accepted = async { while accepting.join_next().await.is_some() {} };
        let ended = tokio::select! {
            () = accepted => None,
            ended = background.any_ends() => Some(ended),
        };
        let drain_timeout = if ended.is_some() { Duration::ZERO } else { self.config.drain_timeout };
        drain(self.workers.sessions(), &self.registry, drain_timeout, &mut stop).await;
        background.tasks.shutdown().await;
        ended.map_or(Ok(()), Err)
    }
}

/// Listens, for a runtime to watch.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A background task ended, by a panic or by returning: a defect of pgvane.
#[derive(Debug, Error)]
#[error("the background task \"{task}\" ended; this is a defect of pgvane")]
pub struct TaskEnded {
    task: &'static str,
}

/// The tasks that run as long as the program, with their names.
#[derive(Default)]
struct Background {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Background {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    fn spawn_on(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static, runtime: &Handle) {
        let handle = self.tasks.spawn_on(task, runtime);
        self.names.insert(handle.id(), name);
    }

    /// Waits until one of them ends. Cancel safe.
    async fn any_ends(&mut self) -> TaskEnded {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        TaskEnded { task: self.names.get(&id).copied().unwrap_or("unknown") }
    }
}

/// After each new topology, sends orders to the sessions that are on the wrong node.
async fn apply_every_topology(index: ClusterIndex, view: ClusterHandle, registry: Arc<Registry>, rules: Arc<[Rule]>) {
    loop {
        let topology = view.topology_full();
        registry.apply(index, &topology, &rules);
        view.newer_than(topology.generation).await;
    }
}

async fn drain(sessions: &TaskTracker, registry: &Registry, drain_timeout: Duration, stop: &mut watch::Receiver<bool>) {
    sessions.close();
    let running = registry.sessions();
    if running > 0 {
        info!(sessions = running, timeout_seconds = drain_timeout.as_secs_f64(), "draining");
    }
    stop.mark_unchanged();
    tokio::select! {
        _ = timeout_at(Instant::now() + drain_timeout, sessions.wait()) => {}
        _ = stop.changed() => info!("received a second stop signal: ending the drain now"),
    }
    let left = registry.sessions();
    if left > 0 {
        let (clients, _) = describe(registry, |_| true);
        warn!(sessions = left, clients, "ending the remaining sessions");
        registry.stop();
        let _ = timeout_at(Instant::now() + STOP_GRACE, sessions.wait()).await;
    }
    info!("stopped");
}
