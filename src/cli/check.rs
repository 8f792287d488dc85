//! `pgvane check`: what is wrong in a configuration file and, with `--connect`, at the nodes that it names.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::exit;
use crate::cluster::{Member, Moment, NodeId, Topology};
use crate::config::{Config, Listener};
use crate::net::Resolver;
use crate::net::dial::{TcpOptions, connect};
use crate::probe::metrics::ProbeMetrics;
use crate::probe::{ClusterHandle, Monitor};
use crate::protocol::proxy_header;
use crate::routing::{NoRoute, Situation, Target, route};
use crate::telemetry::MetricRegistry;
use crate::tls::ServerTls;

/// How long the discovered members have for their first check, besides the cluster's own timeouts.
const DISCOVERY_MAX: Duration = Duration::from_secs(3);

/// Prints the warnings on standard error, and what the file has on standard output. `file` is its name for messages.
pub(super) fn report(file: &str, config: &Config) {
    for warning in config.warnings() {
        eprintln!("warning: {warning}");
    }
    let (clusters, listeners) = (config.clusters.len(), config.listeners.len());
    println!("{file}: valid ({clusters} cluster(s), {listeners} listener(s))");
}

/// Asks the nodes as a running pgvane would, connects to their PostgreSQL as its listeners would, and prints what it
/// finds and where each listener would send its sessions now. Opens no port, logs in nowhere but for the SQL check, and
/// takes a few seconds.
///
/// The exit code is a failure if a node does not answer, if its PostgreSQL cannot be reached, or if a listener has no
/// node.
pub(super) async fn connect_to_all(config: &Config) -> ExitCode {
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
        let topology = handle.topology_full();
        let (text, all_answer) = nodes(handle.name(), &topology);
        print!("{text}");
        is_well &= all_answer;
    }
    for listener in &config.listeners {
        let (handle, _) = &clusters[listener.cluster.0];
        let (text, is_served) = listener_report(listener, handle).await;
        print!("{text}");
        is_well &= is_served;
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

/// The nodes of a cluster, and whether all of them answer.
fn nodes(name: &str, topology: &Topology) -> (String, bool) {
    let mut text = format!("cluster {name}:\n");
    let mut all_answer = true;
    for (_, node) in topology.members() {
        let found = if node.member.is_discovered { " (found by discovery)" } else { "" };
        let _ = writeln!(text, "  {} at {}{found}: {}", node.member.name, node.member.address, node.standing());
        all_answer &= node.health.report().is_some() && node.foreign.is_none();
    }
    if topology.members().next().is_none() {
        text.push_str("  no members were found\n");
        all_answer = false;
    }
    (text, all_answer)
}

/// Where a listener's sessions would go, and which nodes' PostgreSQL it cannot reach; and whether all is well.
async fn listener_report(listener: &Listener, handle: &ClusterHandle) -> (String, bool) {
    let topology = handle.topology_full();
    let mut text = format!("listener {} on {}: ", listener.name, listener.binds);
    let (chosen, reason) = destinations(listener, &topology, handle);
    let name = |id: &NodeId| topology.node(*id).member.name.clone();
    match chosen.as_slice() {
        [] => {
            let hold_max = listener.hold_max;
            let _ = writeln!(text, "sessions wait, at most for hold_max ({hold_max:?}): {reason}");
        }
        [one] if topology.leader() == Some(*one) && listener.rule.target != Target::Leader => {
            let _ = writeln!(text, "sessions go to {}, the leader", name(one));
        }
        all => {
            let names: Vec<String> = all.iter().map(name).collect();
            let kind = if listener.rule.target == Target::Leader { ", the leader" } else { "" };
            let _ = writeln!(text, "sessions go to {}{kind}", names.join(", "));
        }
    }
    let mut is_well = !chosen.is_empty();
    for (_, node) in topology.members() {
        if let Err(why) = reach(listener, handle, &node.member).await {
            let _ = writeln!(text, "  PostgreSQL of {}: {why}", node.member.name);
            is_well = false;
        }
    }
    (text, is_well)
}

/// The nodes that sessions would go to one after the other; why there is none, if so.
fn destinations(listener: &Listener, topology: &Topology, handle: &ClusterHandle) -> (Vec<NodeId>, String) {
    let mut chosen = Vec::new();
    let mut reason = String::new();
    let now: Moment = handle.now();
    // the leader of `fallback` serves only while no other node does, so it is not among those that are tried next
    for turn in 0..topology.nodes.len() as u64 * 4 {
        let situation =
            Situation { tried: &[], turn, load: |_| 0, now, came_at: now, attended_at: handle.attended_at() };
        match route(topology, &listener.rule, &situation) {
            Ok(node) if chosen.contains(&node) => {}
            Ok(node) => chosen.push(node),
            Err(NoRoute::NoLeader(why) | NoRoute::NoneFit(why)) => reason = why,
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
