//! Takes a [`Status`]: reads topologies, registry and configuration once, and says in words what they mean.

use std::sync::Arc;
use std::time::Duration;

use super::alarms;
use super::context::AdminContext;
use super::operator_log::NodeSetting;
use super::park_status::{CarryCounts, Park, ParkCounts, RoleKeys};
use super::servers::servers;
use super::status::{
    Cluster, Exclusion, LEFT_MAX, Lead, Listener, NameLookups, Node, NodePort, Session, Status, UnresolvedName,
};
use super::words::span;
use crate::cluster::health::Health;
use crate::cluster::leadership::Leadership;
use crate::cluster::node::{Report, SyncStanding};
use crate::cluster::topology::{NodeView, Topology};
use crate::cluster::{AdminState, Moment, NodeId};
use crate::config::{self, Check, ClusterIndex, size_text};
use crate::probe::ClusterHandle;
use crate::proxy::end::EndClass;
use crate::proxy::sessions::owner::Owner;
use crate::proxy::sessions::session_info::SessionInfo;
use crate::proxy::sessions::tally::ListenerCensus;
use crate::routing::{Coverage, Excluded, Rule};

impl Status {
    /// The state now.
    pub(super) fn of(context: &AdminContext) -> Status {
        let topologies: Vec<Arc<Topology>> = context.clusters.iter().map(ClusterHandle::topology_full).collect();
        let census = context.census();
        let listeners = context.config.listeners.iter().zip(census.listeners);
        let listeners: Vec<Listener> = listeners
            .zip(&census.servers)
            .map(|((settings, census), nodes)| {
                let topology = &topologies[settings.cluster.0];
                let servers = servers(settings, &context.config.clusters[settings.cluster.0], topology, nodes);
                Listener { servers, ..listener(context, settings, topology, census) }
            })
            .collect();
        let clusters = topologies.iter().enumerate();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: context.started.elapsed().as_secs(),
            is_stopping: *context.is_stopping.borrow(),
            process: context.process(),
            unresolved_names: context.names.unresolved().into_iter().map(UnresolvedName::from).collect(),
            name_lookups: name_lookups(context),
            reload: context.reloads.record(),
            predecessor: context.upgrades.predecessor(),
            clusters: clusters
                .map(|(index, topology)| {
                    cluster(context, ClusterIndex(index), topology, &listeners, &census.node_bytes[index])
                })
                .collect(),
            listeners,
            alarms: Vec::new(),
            operators: context.operators.newest(),
        };
        status.alarms = alarms::of(&status);
        status
    }
}

fn name_lookups(context: &AdminContext) -> NameLookups {
    let counts = context.names.counts();
    NameLookups { answered: counts.answered, not_found: counts.not_found, failed: counts.failed }
}

fn cluster(
    context: &AdminContext,
    index: ClusterIndex,
    topology: &Topology,
    listeners: &[Listener],
    bytes: &[[u64; 2]],
) -> Cluster {
    let view = &context.clusters[index.0];
    let now = view.now();
    let (lead, since) = lead(topology);
    let grace = context.config.clusters[index.0].leader_grace;
    let grace_left = topology.leader().filter(|_| lead == Lead::Silent).and_then(|leader| {
        let age = now - topology.node(leader).health.answer_asked_at()?;
        Some(grace.saturating_sub(age))
    });
    let is_asked_by_http = matches!(context.config.clusters[index.0].check, Check::Patroni { .. });
    let nodes = topology.members().map(|(id, node)| {
        let ports = std::iter::once(None).chain(context.config.own_ports(index).into_iter().map(Some));
        let ports = ports.map(|port| {
            let failure = node.ports.failure(port);
            NodePort {
                port: port.map(Into::into),
                failure: failure.map(|failure| failure.why.clone()),
                failing_seconds: failure.map(|failure| (now - failure.since).as_secs_f64()),
            }
        });
        let excluded = exclusions_of(&node.member.name, view.name(), listeners);
        Node {
            is_leader: topology.leader() == Some(id),
            excluded,
            left: left_on(context, (index, topology), id, node),
            state_set_by: context.operators.who_set(view.name(), &node.member.name, NodeSetting::State),
            weight_set_by: context.operators.who_set(view.name(), &node.member.name, NodeSetting::Weight),
            ports: ports.collect(),
            bytes_to_server: bytes[id.index()][0],
            bytes_to_client: bytes[id.index()][1],
            ..figures(self::node(node, now), view, (id, node), is_asked_by_http)
        }
    });
    Cluster {
        name: view.name().to_owned(),
        leader: topology.leader().map(|leader| name(topology, leader)),
        lead,
        lead_seconds: (now - since).as_secs_f64(),
        headline: headline(topology, lead, now - since, grace_left, now),
        grace_left_seconds: grace_left.map(|left| left.as_secs_f64()),
        writes_wait: why_writes_wait(topology),
        notes: notes(topology).into_iter().chain(context.config.clusters[index.0].warning()).collect(),
        park: Park::of_cluster(&context.registry, context.cluster_numbers[index.0], now),
        can_park: context.config.clusters[index.0].park.is_some(),
        park_counts: ParkCounts::of_cluster(&context.registry, context.cluster_numbers[index.0]),
        carry_counts: CarryCounts::of_cluster(&context.registry, context.cluster_numbers[index.0]),
        role_keys: RoleKeys::of_cluster(&context.registry, context.cluster_numbers[index.0]),
        nodes: nodes.collect(),
        changes: view.history().records(),
    }
}

/// Adds what has been counted and recorded of a node.
fn figures(node: Node, view: &ClusterHandle, (id, seen): (NodeId, &NodeView), is_asked_by_http: bool) -> Node {
    let (counts, record, now) = (view.sessions().counts(id), view.records().of(id), view.now());
    let check_result = record.last_check.as_ref().map(|check| match (&check.error, seen.health.report()) {
        (None, Some(report)) if is_asked_by_http => if report.holds_lock { "200" } else { "503" }.to_owned(),
        (None, _) => "ok".to_owned(),
        (Some(_), _) => "failed".to_owned(),
    });
    Node {
        sessions: counts.sessions,
        sessions_highest: counts.sessions_highest,
        sessions_total: counts.established,
        sessions_per_second: counts.per_second,
        sessions_per_second_highest: counts.per_second_highest,
        connect_failures: counts.failed,
        sessions_lost: counts.lost,
        health_seconds: (now - record.health_since).as_secs_f64(),
        role_seconds: (now - record.role_since).as_secs_f64(),
        downtime_seconds: record.downtime(now).as_secs_f64(),
        downs: record.downs,
        check_seconds: record.last_check.as_ref().map(|check| check.took.as_secs_f64()),
        check_result,
        checks_failed: record.checks_failed,
        ..node
    }
}

/// The oldest sessions on a node that an operator has taken out of service.
fn left_on(
    context: &AdminContext,
    (cluster, topology): (ClusterIndex, &Topology),
    id: NodeId,
    node: &NodeView,
) -> Vec<Session> {
    let max = if node.admin == AdminState::Ready { 0 } else { LEFT_MAX };
    if max == 0 {
        return Vec::new();
    }
    let number = context.cluster_numbers[cluster.0];
    let (left, _) = context.registry.list(max, |session| session.origin.cluster == number && session.node == id);
    left.iter().map(|info| session(Some((&context.clusters[cluster.0], topology)), info)).collect()
}

/// A session of this cluster; `None` for a cluster that a reload has removed.
pub(super) fn session(cluster: Option<(&ClusterHandle, &Topology)>, info: &SessionInfo) -> Session {
    let client = info.owner.as_ref().map(|owner| owner.client().to_string()).unwrap_or_default();
    let [user, database, application_name] =
        info.owner.as_ref().map(Owner::names).unwrap_or_default().map(str::to_owned);
    let [bytes_to_server, bytes_to_client] = info.bytes;
    Session {
        id: info.id,
        listener: info.origin.listener_name.clone(),
        client,
        user,
        database,
        application_name,
        seconds: info.seconds,
        state: info.state().to_owned(),
        cluster: cluster.map(|(view, _)| view.name().to_owned()).unwrap_or_default(),
        node: cluster.map(|(_, topology)| name(topology, info.node)).unwrap_or_default(),
        bytes_to_server,
        bytes_to_client,
        cannot_log_in_again: None,
    }
}

/// Why a node gets no new sessions of these listeners.
fn exclusions_of(node: &str, cluster: &str, listeners: &[Listener]) -> Vec<String> {
    let of_cluster = listeners.iter().filter(|listener| listener.cluster == cluster);
    let all = of_cluster.flat_map(|listener| listener.excluded.iter().map(move |excluded| (listener, excluded)));
    let of_node = all.filter(|(_, excluded)| excluded.node == node);
    of_node.map(|(listener, excluded)| format!("no new sessions of {}: {}", listener.name, excluded.why)).collect()
}

fn name(topology: &Topology, id: NodeId) -> String {
    topology.node(id).member.name.clone()
}

/// The state of the lead, and since when there has been this leader, or none.
fn lead(topology: &Topology) -> (Lead, Moment) {
    match &topology.leadership {
        Leadership::Led { leader, since, .. } => {
            let node = topology.node(*leader);
            let lead = match node.health {
                _ if node.admin != AdminState::Ready => Lead::OutOfService,
                Health::Silent { .. } => Lead::Silent,
                _ if topology.doubted_at.is_some() => Lead::Doubted,
                _ => Lead::Led,
            };
            (lead, *since)
        }
        Leadership::Leaderless { since, .. } => (Lead::Vacant, *since),
        Leadership::Contested { since, .. } => (Lead::Contested, *since),
    }
}

fn headline(topology: &Topology, lead: Lead, lasts: Duration, grace_left: Option<Duration>, now: Moment) -> String {
    let leader = topology.leader().map(|leader| name(topology, leader)).unwrap_or_default();
    let (lasts, why) = (span(lasts), topology.why_no_leader().unwrap_or_default());
    match lead {
        Lead::Led => format!("{leader} has been the leader for {lasts}"),
        Lead::Doubted => format!("{leader} has been the leader for {lasts}; it is being checked again"),
        Lead::Silent => {
            let health = topology.leader().map(|leader| &topology.node(leader).health);
            let age = health.and_then(Health::answer_asked_at).map_or(Duration::ZERO, |asked_at| now - asked_at);
            let error = health.and_then(Health::last_error).map(ToString::to_string).unwrap_or_default();
            format!(
                "{leader} is the leader and has been silent for {} ({error}); unless it answers or another node leads, \
                 there is no leader in {} (leader_grace)",
                span(age),
                span(grace_left.unwrap_or_default())
            )
        }
        Lead::OutOfService => {
            let why = why_writes_wait(topology).unwrap_or_default();
            format!("{why}: new writes wait for another leader")
        }
        Lead::Vacant => format!("no leader for {lasts}: {why}"),
        Lead::Contested => format!("split brain for {lasts}: {why}; writes are held"),
    }
}

fn notes(topology: &Topology) -> Vec<String> {
    let any_report = |matches: fn(&Report) -> bool| {
        topology.members().any(|(_, node)| node.health.report().is_some_and(|report| matches(report)))
    };
    let mut notes: Vec<String> = topology.scheduled_switchover.iter().cloned().collect();
    if any_report(|report| report.paused) {
        notes.push("Patroni is paused: no automatic failover".to_owned());
    }
    if any_report(|report| report.failsafe) {
        notes.push("Patroni is in failsafe mode: its DCS is not reachable".to_owned());
    }
    notes
}

/// What is known of a node by itself.
fn node(view: &NodeView, now: Moment) -> Node {
    let report = view.health.report().map(AsRef::as_ref);
    let answer_age = view.health.answer_asked_at().map(|asked_at| (now - asked_at).as_secs_f64());
    Node {
        name: view.member.name.clone(),
        address: view.member.address.to_string(),
        role: view.role_label().to_owned(),
        health: view.health.label().to_owned(),
        silent_seconds: answer_age.filter(|_| view.health.silent_since().is_some()),
        answer_age_seconds: answer_age,
        check_error: view.health.last_error().map(ToString::to_string),
        state: view.admin.label().to_owned(),
        postgresql: report.map(|report| report.state.clone()),
        postgresql_version: report.and_then(|report| report.server_version).map(version),
        patroni_version: report.and_then(|report| report.patroni_version.clone()),
        timeline: report.and_then(|report| report.timeline),
        lag_bytes: view.lag.map(|lag| lag.bytes),
        lag_seconds: view.lag.map(|lag| lag.time.as_secs_f64()),
        replication: report.and_then(|report| report.replication_state.clone()),
        sync: report.and_then(|report| match report.sync {
            SyncStanding::Async => None,
            SyncStanding::Sync => Some("sync".to_owned()),
            SyncStanding::Quorum => Some("quorum".to_owned()),
        }),
        tags: report.map(|report| report.tags.clone()).unwrap_or_default(),
        sessions_max: (view.member.sessions_max < u32::MAX).then_some(view.member.sessions_max),
        weight: view.weight(),
        weight_configured: view.member.weight,
        is_backup: view.member.is_backup,
        pending_restart: report.is_some_and(|report| report.pending_restart),
        patroni_error: report.and_then(|report| report.patroni_error.as_ref()).map(ToString::to_string),
        foreign: view.foreign.clone(),
        ..Node::default()
    }
}

/// PostgreSQL's version as it is usually written: 15.8 for 150008, 9.6.24 for 90624.
fn version(number: u32) -> String {
    match number {
        100_000.. => format!("{}.{}", number / 10_000, number % 10_000),
        _ => format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100),
    }
}

/// Why a new write session would wait; `None` if it would not.
fn why_writes_wait(topology: &Topology) -> Option<String> {
    let leader = topology.leader().map(|leader| topology.node(leader));
    let by_operator = leader
        .and_then(|node| Some(format!("{} is the leader and is {}", node.member.name, node.admin.why_not_eligible()?)));
    topology.why_no_leader().or(by_operator)
}

fn listener(
    context: &AdminContext,
    settings: &config::Listener,
    topology: &Topology,
    census: ListenerCensus,
) -> Listener {
    let coverage = Coverage::of(topology, &settings.rule);
    let cluster = context.config.clusters[settings.cluster.0].name.clone();
    let metrics = context.listener_metrics.listener(&settings.name);
    let ended = |class| metrics.end_counts().filter(|(kind, _)| kind.class() == class).map(|(_, count)| count).sum();
    let per_client = settings.sessions_max_per_client;
    Listener {
        name: settings.name.clone(),
        bind: settings.binds.to_string(),
        target: settings.rule.target.label().to_owned(),
        routes_to: routes_to(settings, &cluster),
        cluster,
        fallback: coverage.fallback.map(|leader| name(topology, leader)),
        excluded: coverage.excluded.into_iter().map(|one| exclusion(one, &settings.rule, topology)).collect(),
        sessions: census.sessions,
        sessions_highest: census.sessions_highest,
        sessions_total: metrics.sessions.get(),
        sessions_max: settings.sessions_max,
        sessions_max_per_client: (per_client < usize::MAX).then_some(per_client),
        connection_rate_max_per_client: settings.connection_rate_max_per_client.map(|rate| rate.to_string()),
        connects_per_second: census.per_second,
        connects_per_second_highest: census.per_second_highest,
        pending: census.pending,
        pending_max: settings.pending_connections_max,
        held: census.held,
        held_highest: census.held_highest,
        held_max: settings.hold_sessions_max,
        retries: metrics.retries.get(),
        denied: ended(EndClass::Denied),
        failed: ended(EndClass::Failed),
        ends: metrics.end_counts().filter(|(_, n)| *n > 0).map(|(kind, n)| (kind.label().to_owned(), n)).collect(),
        bytes_to_server: census.bytes_to_server,
        bytes_to_client: census.bytes_to_client,
        served_seconds: census.availability.lasts.map(|lasts| lasts.as_secs_f64()),
        downs: census.availability.downs,
        downtime_seconds: census.availability.down.as_secs_f64(),
        balance: settings.rule.balance.label().to_owned(),
        servers: Vec::new(), // see `Status::of`
    }
}

fn exclusion(excluded: Excluded, rule: &Rule, topology: &Topology) -> Exclusion {
    let node = topology.node(excluded.node);
    let lag = node.recent_lag.unwrap_or_default();
    let bytes = rule.lag_bytes_max.filter(|max| lag.bytes > *max);
    let bytes = bytes.map(|max| format!("{} (lag_max {})", size_text(lag.bytes), size_text(max)));
    let time = rule.lag_time_max.filter(|max| lag.time > *max);
    let time = time.map(|max| format!("{} (lag_max_time {})", span(lag.time), span(max)));
    let figures: Vec<String> = bytes.into_iter().chain(time).filter(|_| excluded.is_lag).collect();
    let (reason, why) = match figures.is_empty() {
        true => ("condition", excluded.why),
        false => ("lag", format!("{} within the last seconds: {}", excluded.why, figures.join(", "))),
    };
    Exclusion { node: node.member.name.clone(), reason: reason.to_owned(), why }
}

/// The listener's target with its conditions.
fn routes_to(settings: &config::Listener, cluster: &str) -> String {
    let rule = &settings.rule;
    let mut parts: Vec<String> = rule.port.iter().map(|port| format!("port {port}")).collect();
    parts.push(format!("{} of {cluster}", rule.target.label()));
    parts.extend(rule.tags.iter().map(|(name, value)| format!("{name} = {value}")));
    let lag_limits = [rule.lag_bytes_max.map(size_text), rule.lag_time_max.map(span)];
    parts.extend(lag_limits.into_iter().flatten().map(|limit| format!("lag ≤ {limit}")));
    if rule.includes_leader {
        parts.push("and leader".to_owned());
    }
    let tags = rule.prefer_tags.iter().map(|(name, value)| format!("{name} = {value}"));
    let preferred: Vec<String> = tags.chain(rule.prefer_nodes.iter().cloned()).collect();
    if !preferred.is_empty() {
        parts.push(format!("first {}", preferred.join(", ")));
    }
    if rule.target.is_standbys() && rule.falls_back_to_leader {
        parts.push("else leader".to_owned());
    }
    parts.join(", ")
}
