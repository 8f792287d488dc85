//! From the nodes that were found to the clusters of the configuration: nodes with their limits, times of the checks, TLS
//! with the REST APIs.

use std::collections::BTreeSet;

use super::address::{Target, Time};
use super::front::Route;
use super::ledger::Ledger;
use super::members::{Members, is_pooler_port};
use super::plan::{Cluster, Listener, Node, RestTls, Sql};
use super::proxy::Proxy;
use super::role::{Meaning, Source};
use super::server::{Proxying, Server, Settings};

/// What `global` says about files and TLS.
#[derive(Debug, Clone, Default)]
pub(super) struct Bases {
    pub ca_base: Option<String>,
    pub crt_base: Option<String>,
    /// `ssl-server-verify none`.
    pub verifies_nothing: bool,
}

/// A route with its meaning and its nodes.
pub(super) struct Lane<'a> {
    pub route: &'a Route,
    pub meaning: &'a Meaning,
    pub back: &'a Proxy,
    /// A place in the members for each server.
    pub nodes: &'a [usize],
}

impl Lane<'_> {
    fn servers(&self) -> impl Iterator<Item = (usize, &Server)> {
        self.nodes.iter().copied().zip(&self.back.servers)
    }

    fn settings_of(&self, node: usize) -> Option<&Settings> {
        self.servers().find(|(place, _)| *place == node).map(|(_, server)| &server.settings)
    }
}

/// Makes the clusters, and completes the listeners: their port on the nodes, and their cluster.
pub(super) fn clusters(
    lanes: &[Lane<'_>],
    members: &Members,
    bases: &Bases,
    listeners: &mut [Listener],
    ledger: &mut Ledger,
) -> Vec<Cluster> {
    let mut clusters = Vec::new();
    let mut names = BTreeSet::new();
    for number in 0..members.clusters {
        let places = members.of_cluster(number);
        let of_cluster = |lane: &&Lane<'_>| lane.nodes.iter().any(|node| places.contains(node));
        let lanes_here: Vec<&Lane<'_>> = lanes.iter().filter(of_cluster).collect();
        let mut cluster =
            Cluster { name: name(&lanes_here, members.clusters, number, &mut names), ..Cluster::default() };
        sources(&lanes_here, &mut cluster, ledger);
        times(&lanes_here, &mut cluster, ledger);
        tls(&lanes_here, bases, &mut cluster, ledger);
        proxying(&lanes_here, &mut cluster, ledger);
        for place in &places {
            cluster.nodes.push(node(*place, &lanes_here, members, &cluster, ledger));
        }
        remove_disabled(&places, &lanes_here, &mut cluster, ledger);
        ports(lanes, &places, members, &mut cluster, listeners, ledger);
        clusters.push(cluster);
    }
    clusters
}

/// `main`, or what the names of the cluster's listeners have in common.
fn name(lanes: &[&Lane<'_>], count: usize, number: usize, taken: &mut BTreeSet<String>) -> String {
    if count == 1 {
        return "main".to_owned();
    }
    let mut names = lanes.iter().map(|lane| lane.route.name.as_str());
    let first = names.next().unwrap_or_default();
    let common = names.fold(first.to_owned(), |common, name| {
        let length = common.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
        common.chars().take(length).collect()
    });
    let common = common.trim_end_matches(|c: char| !c.is_alphabetic());
    let name = if common.chars().count() > 1 { common.to_owned() } else { format!("cluster{}", number + 1) };
    let name = if taken.contains(&name) { format!("{name}{}", number + 1) } else { name };
    taken.insert(name.clone());
    name
}

/// Patroni or SQL; both in one cluster are refused.
fn sources(lanes: &[&Lane<'_>], cluster: &mut Cluster, ledger: &mut Ledger) {
    let mut found: Option<(usize, Option<Sql>)> = None;
    for lane in lanes {
        let sql = match &lane.meaning.source {
            Source::Patroni(_) => None,
            Source::Sql { user, database, .. } => Some(Sql { user: user.clone(), database: database.clone() }),
        };
        match &found {
            None => found = Some((lane.back.check.line, sql)),
            Some((line, other)) if *other != sql => ledger.refuse(
                lane.back.check.line,
                format!("this check asks somebody else than the one at line {line}: a cluster of pgvane has one kind of check"),
                "write the same kind of check (Patroni's, or the same PostgreSQL user and database) at both places",
            ),
            Some(_) => {}
        }
    }
    cluster.sql = found.and_then(|(_, sql)| sql);
}

/// `inter`, `fall`, `rise` and `timeout check`, from the section with the shortest `inter`.
fn times(lanes: &[&Lane<'_>], cluster: &mut Cluster, ledger: &mut Ledger) {
    /// Shorter ones are no sensible values for pgvane either; `fast_interval` must not be longer than `interval`.
    const SHORTEST_MS: u64 = 100;
    /// `leader_grace` must not be shorter than both together.
    const TOGETHER_MAX_MS: u64 = 20_000;
    let all = lanes.iter().flat_map(|lane| lane.back.servers.iter().map(move |server| (lane, &server.settings)));
    let Some((lane, settings)) = all.min_by_key(|(_, settings)| settings.inter.map_or(u64::MAX, Time::ms)) else {
        return;
    };
    for other in lanes {
        let differs = other.back.servers.iter().any(|server| {
            let theirs = &server.settings;
            (theirs.inter, theirs.fall, theirs.rise) != (settings.inter, settings.fall, settings.rise)
        });
        if differs {
            ledger.note(
                other.back.line,
                format!(
                    "its checks have another rhythm: a node is checked once for all listeners, with inter, fall and rise of {}, \
                     where inter is shortest",
                    lane.back.name
                ),
            );
        }
    }
    let timeout = lane.back.timeout_check;
    let sum = settings.inter.map_or(1_000, Time::ms) + timeout.map_or(2_000, Time::ms);
    let is_short = |time: Option<Time>| time.is_some_and(|time| time.ms() < SHORTEST_MS);
    if sum > TOGETHER_MAX_MS || is_short(settings.inter) || is_short(timeout) {
        ledger.note(
            lane.back.line,
            "its inter and timeout check are not imported: pgvane's own (1s and 2s) fit to its leader_grace of 20s",
        );
    } else {
        cluster.interval = settings.inter.map(Time::text);
        cluster.timeout = timeout.map(Time::text);
    }
    let sane = |count: &u32| (1..=1000).contains(count);
    cluster.fall = settings.fall.filter(sane);
    cluster.rise = settings.rise.filter(sane);
}

fn tls(lanes: &[&Lane<'_>], bases: &Bases, cluster: &mut Cluster, ledger: &mut Ledger) {
    let mut found: Option<(usize, RestTls)> = None;
    for lane in lanes {
        let connect = lane.meaning.source.connect();
        for (_, server) in lane.servers() {
            let settings = &server.settings;
            if let Some(line) = settings.ssl {
                ledger.refuse(
                    line,
                    format!("server {}: \"ssl\" makes HAProxy speak TLS to the node itself", server.name),
                    "remove ssl (clients' own TLS passes through), or write server_tls by hand; check-ssl is for the REST API",
                );
            }
            let is_tls = connect.ssl || (connect.as_server && settings.check_ssl);
            if !is_tls || !matches!(lane.meaning.source, Source::Patroni(_)) {
                continue;
            }
            let here = rest_tls(server, bases, ledger);
            match &found {
                None => found = Some((server.line, here)),
                Some((line, other)) if *other != here => ledger.refuse(
                    server.line,
                    format!("TLS with the REST API is another one than at line {line}: a cluster of pgvane has one"),
                    "write the same verify, ca-file and crt at both places",
                ),
                Some(_) => {}
            }
        }
    }
    cluster.tls = found.map(|(_, tls)| tls);
}

fn rest_tls(server: &Server, bases: &Bases, ledger: &mut Ledger) -> RestTls {
    let settings = &server.settings;
    let based = |base: &Option<String>, file: &String| match base {
        Some(base) if !file.starts_with(['/', '@']) => format!("{}/{file}", base.trim_end_matches('/')),
        _ => file.clone(),
    };
    let verify = settings.verify.as_ref().map(|(_, value)| value.as_str());
    let verifies_nothing = verify == Some("none") || (verify.is_none() && bases.verifies_nothing);
    let line = settings.verify.as_ref().map_or(server.line, |(line, _)| *line);
    let ca_file =
        settings.ca_file.as_ref().map(|file| based(&bases.ca_base, file)).filter(|file| !file.starts_with('@'));
    if verifies_nothing {
        ledger.note(
            line,
            "WARNING: verify none: anybody who answers at the REST API's address is believed, and can say which node takes the \
             writes. The result says verify = \"none\" too. Better, in [cluster.patroni_tls]: ca_file = \
             \"/etc/pgvane/patroni-ca.pem\" and verify = \"full\"",
        );
    } else {
        if settings.ca_file.is_none() {
            ledger.refuse(
                server.line,
                format!(
                    "server {}: the certificate is verified, but there is no ca-file: HAProxy refuses the file",
                    server.name
                ),
                "add ca-file FILE or verify none; haproxy -c must accept the file",
            );
        }
        if settings.verify_host.is_none() {
            ledger.note(
                line,
                "pgvane wants the host of the REST API's URL in its certificate; HAProxy without verifyhost does not look",
            );
        }
    }
    if settings.ca_file.is_some() || settings.certificate.is_some() {
        ledger.note(
            line,
            "files of certificates: paths that do not begin with / count from the directory in which pgvane is started",
        );
    }
    RestTls {
        ca_file: ca_file.filter(|_| !verifies_nothing),
        client_identity_file: settings.certificate.as_ref().map(|file| based(&bases.crt_base, file)),
        verifies_nothing,
    }
}

fn proxying(lanes: &[&Lane<'_>], cluster: &mut Cluster, ledger: &mut Ledger) {
    let all: Vec<&Server> = lanes.iter().flat_map(|lane| &lane.back.servers).collect();
    let with = all.iter().filter(|server| server.settings.send_proxy != Proxying::None).count();
    if let Some(server) = all.iter().find(|server| server.settings.send_proxy == Proxying::V1) {
        ledger.refuse(
            server.line,
            "send-proxy: pgvane sends version 2 of the PROXY header only",
            "write send-proxy-v2 where the nodes accept it",
        );
    } else if with > 0 && with < all.len() {
        let server = all.iter().find(|server| server.settings.send_proxy != Proxying::None).unwrap_or(&all[0]);
        ledger.refuse(
            server.line,
            "some servers of the cluster get a PROXY header and others do not: in pgvane all nodes of a cluster do (send_proxy)",
            "write send-proxy-v2 for all of them, or for none",
        );
    }
    cluster.sends_proxy = with > 0;
}

fn node(place: usize, lanes: &[&Lane<'_>], members: &Members, cluster: &Cluster, ledger: &mut Ledger) -> Node {
    let member = &members.all[place];
    let mut ports: Vec<u16> = member.addresses.iter().map(|address| address.port).collect();
    ports.sort_unstable();
    // PostgreSQL's own port is where no pooler listens; all sessions of a file with poolers only go to them
    let own = ports.iter().find(|port| !is_pooler_port(**port)).or(ports.first()).copied().unwrap_or_default();
    let asked = lanes.iter().find_map(|lane| lane.meaning.source.connect().port).filter(|port| *port != own);
    let check_address =
        asked.filter(|_| cluster.sql.is_some()).map(|port| Target { host: member.addresses[0].host.clone(), port });
    let is_pooler = (is_pooler_port(own) && cluster.sql.is_none()) || check_address.is_some();
    if is_pooler {
        ledger.note(
            member.line,
            format!(
                "{}: port {own} is a pooler's. kind = \"pooler\": what it says about recovery at login is not PostgreSQL's word, \
                 and counts for nothing",
                member.name
            ),
        );
    }
    let sessions_max = sessions_max(place, lanes, ledger);
    Node {
        name: member.name.clone(),
        address: Target { host: member.addresses[0].host.clone(), port: own },
        ports,
        patroni: if cluster.sql.is_some() { None } else { member.rest.as_ref().map(|(url, _)| url.clone()) },
        is_pooler,
        weight: weight(place, lanes, ledger),
        sessions_max,
        check_address,
    }
}

/// From the ports for reads, where it matters.
fn weight(place: usize, lanes: &[&Lane<'_>], ledger: &mut Ledger) -> Option<u32> {
    let is_for_reads = |lane: &&&Lane<'_>| !matches!(lane.meaning.target, "leader" | "standby-leader");
    let mut ordered: Vec<&Lane<'_>> = lanes.iter().filter(is_for_reads).copied().collect();
    ordered.extend(lanes.iter().filter(|lane| !is_for_reads(lane)).copied());
    let mut found = None;
    for lane in ordered {
        let has_weights = lane.back.servers.iter().any(|server| server.settings.weight.is_some());
        let Some((_, server)) = lane.servers().find(|(node, _)| *node == place && has_weights) else { continue };
        let weight = server.settings.weight.unwrap_or(1); // HAProxy's default
        if weight == 0 {
            ledger.refuse(
                server.line,
                format!("server {}: weight 0 means no new sessions, and a weight of pgvane is at least 1", server.name),
                "remove the weight, and take the node out of service with `pgvane drain`; or remove the server",
            );
        }
        match found {
            None => found = Some(weight),
            Some(other) if other != weight => ledger.note(
                server.line,
                format!("weight {weight}: a node has one weight for all listeners, which is {other} here"),
            ),
            Some(_) => {}
        }
    }
    found
}

/// `maxconn` of the servers. In HAProxy each section counts for itself; in pgvane the node counts all listeners together.
fn sessions_max(place: usize, lanes: &[&Lane<'_>], ledger: &mut Ledger) -> Option<u64> {
    // the ways in which a node can serve at one time: as the leader, as a sync, quorum or async replica
    const STANDINGS: [&[&str]; 4] = [
        &["leader", "standby-leader", "any"],
        &["replica", "sync", "sync-only", "any"],
        &["replica", "sync", "quorum", "any"],
        &["replica", "async", "any"],
    ];
    let maxima = lanes.iter().filter_map(|lane| {
        let (line, max) = lane.settings_of(place)?.maxconn?;
        Some((line, max, lane.meaning))
    });
    let maxima: Vec<_> = maxima.collect();
    let sum = |(standing, targets): (usize, &&[&str])| -> u64 {
        let counts = |meaning: &Meaning| targets.contains(&meaning.target) || (standing == 0 && meaning.include_leader);
        maxima.iter().filter(|(_, _, meaning)| counts(meaning)).map(|(_, max, _)| *max).sum()
    };
    let most = STANDINGS.iter().enumerate().map(sum).max().filter(|most| *most > 0)?;
    for (line, max, _) in &maxima {
        ledger.note(
            *line,
            format!(
                "maxconn {max} of a server: HAProxy counts each section for itself, pgvane all listeners of the node together \
                 (sessions_max = {most})"
            ),
        );
    }
    Some(most)
}

/// Servers that are disabled everywhere are no nodes.
fn remove_disabled(places: &[usize], lanes: &[&Lane<'_>], cluster: &mut Cluster, ledger: &mut Ledger) {
    let mut removed = Vec::new();
    for (number, place) in places.iter().enumerate() {
        let servers: Vec<&Server> = lanes
            .iter()
            .flat_map(|lane| lane.servers())
            .filter(|(node, _)| node == place)
            .map(|(_, server)| server)
            .collect();
        let disabled = servers.iter().filter(|server| server.settings.is_disabled).count();
        if disabled == 0 {
            continue;
        }
        if disabled < servers.len() {
            let server = servers.iter().find(|server| server.settings.is_disabled).unwrap_or(&servers[0]);
            ledger.refuse(
                server.line,
                format!(
                    "server {} is disabled here and not in other sections: in pgvane a node is out of service for all",
                    server.name
                ),
                "remove \"disabled\", or write it in all sections",
            );
            continue;
        }
        for server in servers {
            ledger.note(server.line, format!("server {} is disabled: the node is not in the result", server.name));
        }
        removed.push(number);
    }
    if removed.len() == cluster.nodes.len() && !removed.is_empty() {
        ledger.refuse(lanes[0].back.line, "all its servers are disabled", "remove \"disabled\"");
        return;
    }
    for number in removed.into_iter().rev() {
        cluster.nodes.remove(number);
    }
}

/// The port of each listener on the nodes, where it is not that of their addresses.
fn ports(
    lanes: &[Lane<'_>],
    places: &[usize],
    members: &Members,
    cluster: &mut Cluster,
    listeners: &mut [Listener],
    ledger: &mut Ledger,
) {
    let own_port = |place: usize| {
        let member = &members.all[place];
        let host = &member.addresses[0].host;
        cluster
            .nodes
            .iter()
            .find(|node| {
                node.address.host == *host
                    && node.ports.iter().any(|port| member.addresses.iter().any(|address| address.port == *port))
            })
            .map(|node| node.address.port)
    };
    for (lane, listener) in lanes.iter().zip(listeners) {
        if !lane.nodes.iter().any(|node| places.contains(node)) {
            continue;
        }
        let differs =
            lane.servers().any(|(place, server)| own_port(place).is_some_and(|own| own != server.address.port));
        if !differs {
            continue;
        }
        let ports: BTreeSet<u16> = lane.back.servers.iter().map(|server| server.address.port).collect();
        if ports.len() > 1 {
            ledger.refuse(
                lane.back.line,
                format!(
                    "{}: its servers have different ports, and other sections reach the same nodes at others",
                    lane.back.name
                ),
                "write a section with one port, and another one for the rest",
            );
            continue;
        }
        listener.port = ports.first().copied();
        ledger.note(
            lane.back.line,
            format!(
                "{}: port {} of the same nodes: the REST API is the same, so it is a pooler in front of PostgreSQL \
                 (server_kind = \"pooler\"). What a pooler says about recovery at login is not PostgreSQL's word, and counts for \
                 nothing",
                lane.back.name,
                ports.first().copied().unwrap_or_default()
            ),
        );
    }
}
