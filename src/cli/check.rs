//! `pgvane check`: what is wrong in a configuration file and, with `--connect`, at the nodes that it names.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::check_found::{ClusterFound, FileFound, RouteFound, Unreachable};
use super::exit;
use crate::cluster::{Member, Moment, NodeId, Topology};
use crate::config::{Config, Faults, Listener};
use crate::net::Resolver;
use crate::net::dial::{TcpOptions, connect};
use crate::probe::metrics::ProbeMetrics;
use crate::probe::{ClusterHandle, Monitor};
use crate::protocol::proxy_header;
use crate::routing::{NoRoute, Situation, route};
use crate::telemetry::MetricRegistry;
use crate::tls::ServerTls;

/// How long the discovered members have for their first check, besides the cluster's own timeouts.
const DISCOVERY_MAX: Duration = Duration::from_secs(3);

/// The file, and what else to look at.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Configuration file
    file: PathBuf,
    /// Also ask the nodes and connect to their PostgreSQL, and say where each listener would send its sessions
    #[arg(long)]
    connect: bool,
    /// Say what each listener does, in one sentence each
    #[arg(long)]
    explain: bool,
    /// Print JSON on standard output, also for a faulty file
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    /// The configuration file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Whether everything is to be printed as JSON, faults too.
    pub(super) fn as_json(&self) -> bool {
        self.json
    }
}

/// Prints the faults of a file as JSON.
pub(super) fn print_faults(faults: &Faults) -> ExitCode {
    print_json(&FileFound::faulty(faults));
    ExitCode::from(exit::CONFIG)
}

/// Prints what is found in a valid file and, with `--connect`, at its nodes: warnings on standard error, all else on
/// standard output; with `--json` everything on standard output.
pub(super) async fn run(args: &CheckArgs, config: &Config) -> ExitCode {
    let found = FileFound::valid(&args.file.display().to_string(), config, args.explain);
    if !args.json {
        found.print();
    }
    match (args.connect, args.json) {
        (true, as_json) => return connect_to_all(config, found, as_json).await,
        (false, true) => print_json(&found),
        (false, false) => {}
    }
    ExitCode::SUCCESS
}

fn print_json(found: &FileFound) {
    let text = serde_json::to_string_pretty(found).unwrap_or_default() + "\n";
    let _ = io::stdout().write_all(text.as_bytes()); // the reader may close the pipe early, as `head` does
}

/// Asks the nodes as a running pgvane would, connects to their PostgreSQL as its listeners would, and prints what it
/// finds and where each listener would send its sessions now. Opens no port, logs in nowhere but for the SQL check, and
/// takes a few seconds.
///
/// The exit code is a failure if a node does not answer, if its PostgreSQL cannot be reached, or if a listener has no
/// node.
async fn connect_to_all(config: &Config, mut found: FileFound, as_json: bool) -> ExitCode {
    let metrics = ProbeMetrics::new(&MetricRegistry::with_build_info());
    let names = Resolver::system();
    let mut clusters = Vec::new();
    let mut monitors = JoinSet::new(); // its tasks end with it
    for cluster in &config.clusters {
        match Monitor::new(cluster, metrics.cluster(&cluster.name), &names) {
            Ok((monitor, handle)) => {
                monitors.spawn(monitor.run());
                clusters.push((handle, cluster));
            }
            Err(error) => return exit::failed(exit::CONFIG, error),
        }
    }
    let mut is_well = true;
    for (handle, settings) in &clusters {
        let patience = settings.timeout * 2 + settings.interval;
        first_checks(handle, patience, settings.discovery.is_some()).await;
        let cluster = ClusterFound::of(handle.name(), &handle.topology_full());
        is_well &= cluster.all_answer();
        if !as_json {
            print!("{cluster}");
        }
        found.clusters.push(cluster);
    }
    for listener in &config.listeners {
        let (handle, _) = &clusters[listener.cluster.0];
        let found_of = found_by(listener, handle).await;
        is_well &= found_of.is_well();
        if !as_json {
            print!("{found_of}");
        }
        found.routes.push(found_of);
    }
    if as_json {
        print_json(&found);
    }
    if is_well { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILURE) }
}

/// Waits until every node has been checked; with discovery also until the members that it finds have been.
async fn first_checks(handle: &ClusterHandle, patience: Duration, discovers: bool) {
    let deadline = Instant::now() + patience + if discovers { DISCOVERY_MAX } else { Duration::ZERO };
    let settled_at = Instant::now() + if discovers { DISCOVERY_MAX } else { Duration::ZERO };
    loop {
        let topology = handle.topology_full();
        let all_checked = topology.members().all(|(_, node)| node.checked_at.is_some());
        if all_checked && topology.members().next().is_some() && Instant::now() >= settled_at {
            return;
        }
        if Instant::now() >= deadline {
            return;
        }
        let next = deadline.min(Instant::now() + Duration::from_millis(200));
        let _ = timeout_at(next, handle.newer_than(topology.generation)).await; // or it is time to look again
    }
}

/// Where a listener's sessions would go, and which nodes' PostgreSQL it cannot reach.
async fn found_by(listener: &Listener, handle: &ClusterHandle) -> RouteFound {
    let topology = handle.topology_full();
    let (chosen, reason) = destinations(listener, &topology, handle);
    let mut unreachable = Vec::new();
    for (_, node) in topology.members() {
        if let Err(why) = reach(listener, handle, &node.member).await {
            unreachable.push(Unreachable { node: node.member.name.clone(), why });
        }
    }
    let name = |id: &NodeId| topology.node(*id).member.name.clone();
    RouteFound {
        listener: listener.name.clone(),
        bind: listener.binds.to_string(),
        goes_to: chosen.iter().map(name).collect(),
        is_leader: chosen.len() == 1 && topology.leader() == chosen.first().copied(),
        waits_because: chosen.is_empty().then_some(reason),
        hold_max_seconds: listener.hold_max.as_secs_f64(),
        unreachable,
    }
}

/// The nodes that sessions would go to one after the other; why there is none, if so.
fn destinations(listener: &Listener, topology: &Topology, handle: &ClusterHandle) -> (Vec<NodeId>, String) {
    let mut chosen = Vec::new();
    let mut reason = String::new();
    let now: Moment = handle.now();
    // the leader of `fallback` serves only while no other node does, so it is not among those that are tried next
    for turn in 0..topology.nodes.len() as u64 * 4 {
        let situation =
            Situation { tried: &[], turn, load: |_| 0, now, arrived_at: now, monitored_at: handle.monitored_at() };
        match route(topology, &listener.rule, &situation) {
            Ok(node) if chosen.contains(&node) => {}
            Ok(node) => chosen.push(node),
            Err(NoRoute::NoLeader(why) | NoRoute::NoneEligible(why)) => reason = why,
            Err(other) => reason = other.to_string(),
        }
    }
    let order: BTreeSet<NodeId> = chosen.into_iter().collect();
    (order.into_iter().collect(), reason)
}

/// Connects to a node's PostgreSQL as the listener's sessions do, up to the startup packet. The error says why not.
async fn reach(listener: &Listener, handle: &ClusterHandle, member: &Member) -> Result<(), String> {
    let preamble = if handle.sends_proxy_header() { proxy_header::encode(None) } else { Vec::new() };
    let options = TcpOptions {
        keepalive: listener.tcp_keepalive,
        unacknowledged_max: listener.tcp_user_timeout,
        ends_with_shut_window: true,
    };
    let to = handle.dialer().destination(member, listener.rule.port, options, &preamble);
    let socket = connect(&to, Instant::now() + listener.connect_timeout).await.map_err(|error| error.to_string())?;
    let tls = ServerTls::new(&listener.server_tls).map_err(|error| error.to_string())?;
    match timeout(listener.login_timeout, tls.negotiate(socket.into(), to.address.host())).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it accepts connections and does not answer within {:?}", listener.login_timeout)),
    }
}
