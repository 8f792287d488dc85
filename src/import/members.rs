//! Which servers are the same node, and which nodes are one cluster. Servers are recognised by their REST API and their
//! address, never by their names.

use super::address::Target;
use super::front::Route;
use super::ledger::Ledger;
use super::proxy::Proxy;
use super::role::{self, Source};
use super::server::Server;

/// One node of one cluster, with all the servers that mean it.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub name: String,
    /// The REST API: URL, and host and port.
    pub rest: Option<(String, Target)>,
    /// Every address at which sessions reach it.
    pub addresses: Vec<Target>,
    pub cluster: usize,
    /// The line of the first server that means it.
    pub line: usize,
}

/// Which nodes the servers of the routes are.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub all: Vec<Member>,
    /// For each route, for each of its servers: a place in `all`.
    pub of_routes: Vec<Vec<usize>>,
    pub clusters: usize,
}

impl Members {
    /// The places of the nodes of a cluster.
    pub fn of_cluster(&self, cluster: usize) -> Vec<usize> {
        (0..self.all.len()).filter(|place| self.all[*place].cluster == cluster).collect()
    }
}

/// Ports at which poolers listen.
pub(super) fn is_pooler_port(port: u16) -> bool {
    matches!(port, 6432..=6439 | 6543 | 16432 | 26432)
}

/// Finds the nodes and the clusters.
pub(super) fn find(routes: &[Route], proxies: &[Proxy], ledger: &mut Ledger) -> Members {
    let mut members = Members::default();
    for route in routes {
        let places = proxies[route.back].servers.iter().map(|server| {
            let rest = rest_of(route, server, ledger);
            place_of(&mut members.all, server, rest, ledger)
        });
        let places: Vec<usize> = places.collect();
        members.of_routes.push(places);
    }
    unite(&mut members);
    for member in &members.all {
        if member.addresses.iter().any(|address| address.host != member.addresses[0].host) {
            let addresses: Vec<String> = member.addresses.iter().map(Target::text).collect();
            ledger.refuse(
                member.line,
                format!("{} have one REST API: pgvane cannot tell which machine is the node", addresses.join(" and ")),
                "give each node its own REST API (check port or addr)",
            );
        }
    }
    refuse_unclear_pairs(&members, ledger);
    refuse_same_names(&mut members, ledger);
    members
}

fn rest_of(route: &Route, server: &Server, ledger: &mut Ledger) -> Option<(String, Target)> {
    let Some(Source::Patroni(connect)) = route.meaning.as_ref().map(|meaning| &meaning.source) else { return None };
    let settings = &server.settings;
    let asked = role::checked_address(connect, settings.check_address.as_ref(), settings.port, &server.address);
    if asked == server.address {
        ledger.refuse(
            server.line,
            format!(
                "server {}: the check asks {} for HTTP, and this is where sessions go, not Patroni's REST API",
                server.name,
                asked.text()
            ),
            "add \"check port 8008\", or the port of the REST API",
        );
    }
    if let (Some(said), Some(port)) = (connect.port, settings.port.filter(|port| connect.port != Some(*port))) {
        ledger.note(
            server.line,
            format!("port {port} is not asked: the connect rule at line {} says {said}", connect.line),
        );
    }
    let is_tls = connect.ssl || (connect.as_server && settings.check_ssl);
    let scheme = if is_tls { "https" } else { "http" };
    Some((format!("{scheme}://{}", asked.text()), asked))
}

fn place_of(all: &mut Vec<Member>, server: &Server, rest: Option<(String, Target)>, ledger: &mut Ledger) -> usize {
    let by_rest = rest.as_ref().and_then(|(_, asked)| {
        all.iter().position(|member| member.rest.as_ref().is_some_and(|(_, other)| other == asked))
    });
    let by_address = all.iter().position(|member| member.addresses.contains(&server.address));
    let found = by_rest.or(by_address);
    let Some(place) = found else {
        all.push(Member {
            name: server.name.clone(),
            rest,
            addresses: vec![server.address.clone()],
            cluster: 0,
            line: server.line,
        });
        return all.len() - 1;
    };
    let member = &mut all[place];
    if let (Some((url, _)), Some((other, _))) = (&rest, &member.rest) {
        if url != other {
            ledger.refuse(
                server.line,
                format!("server {}: its REST API is {url} here and {other} at line {}", server.name, member.line),
                "write the same one at both places",
            );
        }
    }
    if member.rest.is_none() {
        member.rest = rest;
    }
    if !member.addresses.contains(&server.address) {
        member.addresses.push(server.address.clone());
    }
    place
}

/// Nodes of one route are of one cluster.
fn unite(members: &mut Members) {
    let mut root: Vec<usize> = (0..members.all.len()).collect();
    fn top(root: &[usize], mut place: usize) -> usize {
        while root[place] != place {
            place = root[place];
        }
        place
    }
    for places in &members.of_routes {
        for pair in places.windows(2) {
            let (a, b) = (top(&root, pair[0]), top(&root, pair[1]));
            root[a.max(b)] = a.min(b);
        }
    }
    let mut clusters: Vec<usize> = Vec::new();
    for place in 0..members.all.len() {
        let top = top(&root, place);
        let cluster = clusters.iter().position(|known| *known == top).unwrap_or_else(|| {
            clusters.push(top);
            clusters.len() - 1
        });
        members.all[place].cluster = cluster;
    }
    members.clusters = clusters.len();
}

/// The same machine in two clusters, once at a pooler's port: a pooler of its own REST API, or another cluster?
fn refuse_unclear_pairs(members: &Members, ledger: &mut Ledger) {
    for (place, member) in members.all.iter().enumerate() {
        for other in &members.all[..place] {
            let (ours, theirs) = (&member.addresses[0], &other.addresses[0]);
            let is_pair = ours.host == theirs.host && member.cluster != other.cluster;
            if is_pair && is_pooler_port(ours.port) != is_pooler_port(theirs.port) {
                ledger.refuse(
                    member.line,
                    format!(
                        "{} here and {} at line {} are the same machine with different REST APIs or without one in common: one \
                         node with a pooler, or two nodes of two clusters?",
                        ours.text(),
                        theirs.text(),
                        other.line
                    ),
                    "for one node write the same check port at both places; for two clusters import them from two files",
                );
            }
        }
    }
}

/// Two nodes of one cluster that are called the same: one of them gets its address as its name.
fn refuse_same_names(members: &mut Members, ledger: &mut Ledger) {
    for place in 0..members.all.len() {
        let (name, cluster) = (members.all[place].name.clone(), members.all[place].cluster);
        let is_taken = |other: &Member| other.name == name && other.cluster == cluster;
        if members.all[..place].iter().any(is_taken) {
            let address = members.all[place].addresses[0].text();
            ledger.note(
                members.all[place].line,
                format!("another node of the cluster is called {name} too: this one is called {address} in the result"),
            );
            members.all[place].name = address;
        }
    }
}
