//! Reads a listener: its target, its timeouts, and what it does with sessions on a node that is no longer eligible.
//! [`read_access`] reads which clients it accepts, [`read_tls`] reads its encryption.

use std::net::SocketAddr;
use std::num::NonZeroU16;

use super::section::{Section, at_least_ms, set};
use super::{Cluster, ClusterIndex, Listener, RelayMode, read_access, read_tls};
use crate::cluster::node::ServerKind;
use crate::net::dial::KEEPALIVE_PATIENCE;
use crate::routing::{Balance, Cause, Reaction, Reactions, Rebalance, Rule, Target};

pub(super) fn listener(section: Section<'_>, clusters: &[Cluster]) -> Option<Listener> {
    let target = section.choice("target", &Target::ALL.map(|target| (target.label(), target)));
    if !section.has("target") {
        section.missing("target", "listener.target is missing", "write target = \"leader\" or target = \"replica\"");
    }
    let binds = read_access::binds(&section);
    if !section.has("bind") {
        section.missing(
            "bind",
            "listener.bind is missing",
            "write the address to listen on, for example bind = \"0.0.0.0:6432\"",
        );
    }
    let name = section.string("name");
    let required = target.zip(binds);
    // all settings are read even if the listener cannot be built, so that all their faults are reported at once
    let is_complete = required.is_some();
    let (shown_target, shown_binds) = required.unwrap_or((Target::Leader, SocketAddr::from(([0, 0, 0, 0], 0)).into()));
    let mut listener =
        Listener::new(&name.unwrap_or_else(|| shown_target.label().to_owned()), shown_binds, shown_target);

    listener.cluster = ClusterIndex(cluster_of(&section, clusters));
    routing(&section, target, &mut listener.rule);
    check_preferred_nodes(&section, &listener.rule, clusters.get(listener.cluster.0));
    listener.server_kind = section.choice("server_kind", &ServerKind::ALL);
    set(&mut listener.hold_max, section.duration("hold_max", at_least_ms(0)));
    set(&mut listener.hold_sessions_max, section.integer("hold_sessions_max", 0..1_000_001).map(|n| n as usize));
    set(&mut listener.sessions_max, section.integer("sessions_max", 1..10_000_001).map(|n| n as usize));
    read_access::listener(&section, &mut listener);
    set(&mut listener.connect_timeout, section.duration("connect_timeout", at_least_ms(1)));
    set(&mut listener.login_timeout, section.duration("login_timeout", at_least_ms(1)));
    set(&mut listener.startup_timeout, section.duration("startup_timeout", at_least_ms(1)));
    set(&mut listener.tcp_keepalive, section.duration("tcp_keepalive", at_least_ms(1000)));
    set(&mut listener.tcp_user_timeout, section.duration("tcp_user_timeout", at_least_ms(1)));
    if listener.tcp_user_timeout < listener.tcp_keepalive + KEEPALIVE_PATIENCE {
        section.fault_at(
            "tcp_user_timeout",
            format!(
                "tcp_user_timeout is shorter than tcp_keepalive + {KEEPALIVE_PATIENCE:?}: one lost packet would end an \
                 idle session"
            ),
            "make it longer, or make tcp_keepalive shorter",
        );
    }
    let modes = [("auto", RelayMode::Auto), ("copy", RelayMode::Copy), ("splice", RelayMode::Splice)];
    set(&mut listener.relay, section.choice("relay", &modes));
    (listener.tls, listener.server_tls) = read_tls::listener(&section, &listener);
    section.finish();
    is_complete.then_some(listener)
}

fn routing(section: &Section<'_>, target: Option<Target>, rule: &mut Rule) {
    let balances = [
        ("least-connections", Balance::LeastConnections),
        ("round-robin", Balance::RoundRobin),
        ("random", Balance::Random),
    ];
    rule.port = section.integer("port", 1..65_536).and_then(|port| NonZeroU16::new(port as u16));
    set(&mut rule.balance, section.choice("balance", &balances));
    with_leader(section, target, rule);
    preference(section, target, rule);
    rule.lag_bytes_max = section.size_bytes("lag_max");
    rule.lag_time_max = section.duration("lag_max_time", at_least_ms(1));
    let replications = [("streaming", true), ("any", false)];
    set(&mut rule.requires_streaming, section.choice("replication", &replications));
    rule.tags = section.string_map("tags");
    set(&mut rule.slow_start, section.duration("slow_start", at_least_ms(0)));
    if let Some(on) = section.section("on") {
        reactions(on, &mut rule.reactions);
    }
    rule.rebalance = section.section("rebalance").map(rebalance);
    if rule.rebalance.is_some() {
        if let Some(target) = target.filter(|target| matches!(target, Target::Leader | Target::StandbyLeader)) {
            let message = format!("rebalance has no effect with target = \"{}\"", target.label());
            section.fault_at("rebalance", message, "remove it: only one node can have this role");
        }
        if rule.balance != Balance::LeastConnections {
            section.fault_at(
                "rebalance",
                "rebalance needs balance = \"least-connections\": otherwise a moved session may return to its node",
                "remove rebalance, or remove balance",
            );
        }
    }
}

/// Whether the leader serves in place of the target, or beside it.
fn with_leader(section: &Section<'_>, target: Option<Target>, rule: &mut Rule) {
    let fallback = section.choice("fallback", &[("leader", true), ("none", false)]);
    let includes_leader = section.boolean("include_leader");
    for key in ["fallback", "include_leader"].into_iter().filter(|key| section.has(key)) {
        if let Some(target) = target.filter(|target| !target.is_standbys()) {
            section.fault_at(key, format!("{key} has no effect with target = \"{}\"", target.label()), "remove it");
        }
    }
    set(&mut rule.falls_back_to_leader, fallback);
    if includes_leader == Some(true) {
        if section.has("fallback") {
            let message = "fallback has no effect with include_leader = true: the leader serves in any case";
            section.fault_at("fallback", message, "remove one of the two keys");
        }
        (rule.includes_leader, rule.falls_back_to_leader) = (true, false);
    }
}

/// Which of the eligible nodes come first.
fn preference(section: &Section<'_>, target: Option<Target>, rule: &mut Rule) {
    rule.prefer_tags = section.string_map("prefer");
    rule.prefer_nodes = section.strings("prefer_nodes");
    for key in ["prefer", "prefer_nodes"].into_iter().filter(|key| section.has(key)) {
        if let Some(target) = target.filter(|target| matches!(target, Target::Leader | Target::StandbyLeader)) {
            let message = format!("{key} has no effect with target = \"{}\"", target.label());
            section.fault_at(key, message, "remove it: only one node can have this role");
        }
    }
}

/// Reports preferred nodes that do not exist. With `discover` any name may come up.
fn check_preferred_nodes(section: &Section<'_>, rule: &Rule, cluster: Option<&Cluster>) {
    let Some(cluster) = cluster.filter(|cluster| cluster.discovery.is_none()) else { return };
    let is_known = |name: &&String| cluster.nodes.iter().any(|node| node.name == **name);
    for name in rule.prefer_nodes.iter().filter(|name| !is_known(name)) {
        let names: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
        section.fault_at(
            "prefer_nodes",
            format!("listener.prefer_nodes: cluster \"{}\" has no node \"{name}\"", cluster.name),
            format!("its nodes: {}", names.join(", ")),
        );
    }
}

fn rebalance(section: Section<'_>) -> Rebalance {
    let mut rebalance = Rebalance::default();
    set(&mut rebalance.every, section.duration("every", at_least_ms(10)));
    set(&mut rebalance.tolerance_percent, section.integer("tolerance", 0..1001).map(|percent| percent as u32));
    set(&mut rebalance.after, section.duration("after", at_least_ms(0)));
    section.finish();
    rebalance
}

fn reactions(section: Section<'_>, reactions: &mut Reactions) {
    let choices = [("keep", Reaction::Keep), ("drain", Reaction::Drain), ("cut", Reaction::Cut)];
    for cause in Cause::ALL {
        if let Some(reaction) = section.choice(cause.label(), &choices) {
            reactions.set(cause, reaction);
        }
    }
    section.finish();
}

fn cluster_of(section: &Section<'_>, clusters: &[Cluster]) -> usize {
    if clusters.is_empty() {
        section.mark_known("cluster");
        return 0; // that is a fault of the file, which is reported once
    }
    let names = || clusters.iter().map(|cluster| cluster.name.as_str()).collect::<Vec<_>>().join(", ");
    match section.string("cluster") {
        Some(name) => clusters.iter().position(|cluster| cluster.name == name).unwrap_or_else(|| {
            section.fault_at(
                "cluster",
                format!("listener.cluster: unknown cluster \"{name}\""),
                format!("configured clusters: {}", names()),
            );
            0
        }),
        None => {
            if clusters.len() > 1 {
                section.fault(
                    "listener.cluster is missing: the file has several clusters",
                    format!("write cluster = \"NAME\" with one of these names: {}", names()),
                );
            }
            0
        }
    }
}
