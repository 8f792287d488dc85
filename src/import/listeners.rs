//! From a route to a listener: limits, times, balance, access, and what they mean in pgvane.

use super::access::{self, Around};
use super::address::Bind;
use super::front::Route;
use super::ledger::Ledger;
use super::members::Members;
use super::plan::{ClientTls, Listener};
use super::proxy::{Listening, Proxy};
use super::role::Meaning;

/// `maxconn` of `global`, with its line.
pub(super) type GlobalMax = Option<(usize, u64)>;

/// The targets for which `fallback` exists.
const WITH_FALLBACK: [&str; 5] = ["replica", "sync", "sync-only", "quorum", "async"];

/// Makes the listener of a route.
pub(super) fn listener(
    route: &Route,
    meaning: &Meaning,
    nodes: &[usize],
    members: &Members,
    around: &Around<'_>,
    global: GlobalMax,
    ledger: &mut Ledger,
) -> Listener {
    let (front, back) = (&around.proxies[route.front], &around.proxies[route.back]);
    let mut listener = Listener {
        name: route.name.clone(),
        target: meaning.target.to_owned(),
        include_leader: meaning.include_leader,
        lag_bytes: meaning.lag_bytes,
        tags: meaning.tags.clone(),
        is_streaming: meaning.is_streaming,
        cluster: nodes.first().map_or(0, |node| members.all[*node].cluster),
        ..Listener::default()
    };
    binds(route, &mut listener, ledger);
    let is_fallback_key = WITH_FALLBACK.contains(&meaning.target) && !meaning.include_leader;
    if is_fallback_key {
        listener.fallback = Some(if route.falls_back_to_leader { "leader" } else { "none" });
    }
    let check_line = back.check.line.max(1);
    if listener.fallback == Some("none") {
        ledger.note(
            check_line,
            format!(
                "{}: fallback = \"none\", as HAProxy: no reads go to the leader. With \"leader\" (pgvane's default) it serves \
                 while no replica can",
                route.name
            ),
        );
    }
    sessions_max(front, global, &mut listener);
    if let Some(time) = back.timeout_connect.filter(|time| time.ms() > 0) {
        listener.connect_timeout = Some(time.text());
    }
    hold(back, &mut listener, ledger);
    balance(back, &mut listener, ledger);
    preferences(route, back, nodes, members, &mut listener, ledger);
    slow_start(back, &mut listener, ledger);
    let access = access::read(front, around, ledger);
    (listener.allow, listener.rate, listener.sessions_per_client) =
        (access.allow, access.rate, access.sessions_per_client);
    if let Some(table) = &front.stick_table {
        if listener.rate.is_some() || listener.sessions_per_client.is_some() {
            ledger.used(table.number);
        }
    }
    for table in [front, back].into_iter().filter_map(|proxy| proxy.stick_table.as_ref()) {
        ledger.dropped(table.number, "pgvane does not bind a client to a node: the role decides");
    }
    if back.line != front.line && !back.rules.is_empty() {
        let _ = access::read(back, around, ledger);
    }
    listener
}

fn binds(route: &Route, listener: &mut Listener, ledger: &mut Ledger) {
    let all: Vec<&Listening> = route.binds.iter().filter(|listening| !listening.binds.is_empty()).collect();
    for bind in all.iter().flat_map(|listening| &listening.binds) {
        let text = bind.text();
        if listener.binds.contains(&text) {
            ledger.note(all[0].line, format!("{text} is there twice"));
        } else {
            listener.binds.push(text);
        }
    }
    let with_tls: Vec<&&Listening> = all.iter().filter(|listening| listening.tls.is_some()).collect();
    let is_mixed = !with_tls.is_empty() && with_tls.len() != all.len();
    if is_mixed
        || all.iter().any(|listening| listening.tls != all[0].tls || listening.accepts_proxy != all[0].accepts_proxy)
    {
        ledger.refuse(
            all[0].line,
            "the bind lines of the section differ in TLS or in accept-proxy, and a listener of pgvane has one setting for all",
            "write a section for each of them",
        );
    }
    let Some(first) = all.first() else { return };
    listener.accepts_proxy = first.accepts_proxy;
    if first.accepts_proxy {
        ledger.note(
            first.line,
            "accept-proxy: the header is accepted from every address, as in HAProxy. Write the addresses of the proxies into \
             proxy_protocol.trusted: a client could say any address otherwise",
        );
    }
    if let Some(tls) = first.tls.as_ref().filter(|_| !is_mixed) {
        if tls.certificate.is_empty() {
            ledger.refuse(first.line, "bind … ssl without crt", "name the file with the certificate: crt FILE");
        }
        ledger.note(
            first.line,
            "bind … ssl: TLS ends at pgvane. Clients may begin it at once, as in HAProxy (sslnegotiation=direct), or ask first",
        );
        listener.tls = Some(ClientTls {
            file: tls.certificate.clone(),
            client_ca_file: tls
                .ca_file
                .clone()
                .filter(|_| tls.verify.as_deref().is_some_and(|verify| verify != "none")),
            is_optional: tls.verify.as_deref() == Some("optional"),
        });
    }
    if let Some(listening) =
        all.iter().find(|listening| listening.binds.iter().any(|bind| matches!(bind, Bind::Unix(_))))
    {
        listener.unix_mode = listening.unix.mode.as_ref().map(|mode| format!("{mode:0>4}"));
        listener.unix_owner.clone_from(&listening.unix.owner);
        listener.unix_group.clone_from(&listening.unix.group);
    }
}

fn sessions_max(front: &Proxy, global: GlobalMax, listener: &mut Listener) {
    listener.sessions_max = match (front.maxconn, global) {
        (Some(own), Some((_, all))) => Some(own.min(all)),
        (own, all) => own.or(all.map(|(_, max)| max)),
    };
}

/// `timeout queue`.
fn hold(back: &Proxy, listener: &mut Listener, ledger: &mut Ledger) {
    let Some((line, time)) = back.timeout_queue else { return };
    let has_limits = back.servers.iter().any(|server| server.settings.maxconn.is_some());
    if has_limits {
        listener.hold_max = Some(time.text());
        ledger.note(
            line,
            format!(
                "timeout queue becomes hold_max = \"{}\". HAProxy waits while all servers are full, and not at all while no server \
                 is up; hold_max is for both. A failover takes longer than a few seconds: without hold_max it is 40s",
                time.text()
            ),
        );
    } else {
        ledger.note(
            line,
            "timeout queue has no effect in HAProxy: no server has a maxconn. It is not imported (see hold_max)",
        );
    }
}

fn balance(back: &Proxy, listener: &mut Listener, ledger: &mut Ledger) {
    if !listener.is_for_reads() {
        if let Some(balance) = &back.balance {
            ledger.dropped(balance.line, "on the leader's port the role decides: there is one node at a time");
            if balance.is_own {
                ledger.note(
                    balance.line,
                    format!("balance {}: the leader is the only node; nothing is balanced", balance.name),
                );
            }
        }
        return;
    }
    let Some(balance) = back.balance.as_ref().filter(|balance| !balance.name.is_empty()) else {
        listener.balance = Some("round-robin"); // HAProxy's default
        return;
    };
    ledger.used(balance.line);
    let name = balance.name.split('(').next().unwrap_or_default();
    let other = |ledger: &mut Ledger, what: &str| {
        ledger.note(balance.line, format!("balance {}: {what}", balance.name));
    };
    listener.balance = Some(match name {
        "roundrobin" | "static-rr" => "round-robin",
        "leastconn" => "least-connections",
        "random" => "random",
        "first" => {
            listener.prefer_nodes = back.servers.first().map(|server| server.name.clone()).into_iter().collect();
            other(ledger, "the first server is preferred (prefer_nodes), the others serve while it cannot or is full");
            "least-connections"
        }
        _ => {
            other(ledger, "pgvane does not bind a client to a node; new sessions go to the node with the fewest");
            "least-connections"
        }
    });
}

/// Backups, and listeners that have a part of the cluster's nodes.
fn preferences(
    route: &Route,
    back: &Proxy,
    nodes: &[usize],
    members: &Members,
    listener: &mut Listener,
    ledger: &mut Ledger,
) {
    let name_of = |place: usize| members.all[nodes[place]].name.clone();
    let backups: Vec<usize> = (0..nodes.len()).filter(|place| back.servers[*place].settings.is_backup).collect();
    for place in &backups {
        let line = back.servers[*place].line;
        if listener.is_for_reads() {
            ledger.note(
                line,
                "backup: it serves while no other node fits (prefer_nodes names the others). HAProxy uses one backup at a time, \
                 pgvane all of them",
            );
        } else {
            ledger.note(line, "backup: not imported; the role decides which node is the leader");
        }
    }
    if listener.is_for_reads() && !backups.is_empty() && backups.len() < nodes.len() {
        listener.prefer_nodes = (0..nodes.len()).filter(|place| !backups.contains(place)).map(name_of).collect();
    }
    let all = members.of_cluster(listener.cluster);
    let missing: Vec<&str> =
        all.iter().filter(|place| !nodes.contains(place)).map(|place| members.all[*place].name.as_str()).collect();
    if missing.is_empty() || nodes.is_empty() {
        return;
    }
    let missing = missing.join(", ");
    if listener.is_for_reads() {
        if listener.prefer_nodes.is_empty() {
            listener.prefer_nodes = (0..nodes.len()).map(name_of).collect();
        }
        ledger.note(
            back.line,
            format!(
                "{}: {missing} is not among its servers. pgvane prefers the nodes that are (prefer_nodes), and uses {missing} while \
                 none of them can serve. For a strict choice give the nodes a tag in Patroni, and write tags",
                route.name
            ),
        );
    } else {
        ledger.note(
            back.line,
            format!(
                "{}: {missing} is not among its servers; in pgvane writes go there too when it is the leader",
                route.name
            ),
        );
    }
}

fn slow_start(back: &Proxy, listener: &mut Listener, ledger: &mut Ledger) {
    let Some((line, time)) = back.servers.iter().find_map(|server| server.settings.slow_start) else { return };
    if listener.is_for_reads() {
        listener.slow_start = Some(time.text());
    } else {
        ledger.note(
            line,
            format!("slowstart {} on {}: not imported; there is one leader at a time", time.text(), listener.name),
        );
    }
}
