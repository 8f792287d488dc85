//! From a TOML document to a [`Config`]: every key, its bounds and its default.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::document::{Document, Section, is_host_and_port};
use super::fault::{Fault, Faults};
use super::{
    Check, Cluster, Config, DEFAULT_DRAIN_TIMEOUT, Discovery, Listener, Log, PatroniTls, default_threads, read_admin,
    read_listener, read_sql,
};
use crate::cluster::Member;
use crate::cluster::node::{NODES_MAX, WEIGHT_DEFAULT};
use crate::net::Bind;
use crate::net::networks::network;

/// Patroni's REST port, where a node's URL is not given.
const PATRONI_PORT: u16 = 8008;

const DAY: Duration = Duration::from_secs(86_400);

/// Durations from `ms` to a day.
pub(super) const fn at_least_ms(ms: u64) -> Range<Duration> {
    Duration::from_millis(ms)..DAY
}

pub(super) fn config(file: &str, text: &str) -> Result<Config, Faults> {
    let document = Document::parse(file, text);
    let root = document.root();

    let admin = read_admin::admin(&root);
    let log = log(&root);
    let drain_timeout = root.duration("drain_timeout", at_least_ms(0)).unwrap_or(DEFAULT_DRAIN_TIMEOUT);
    let threads = root.integer("threads", 1..1025).map_or_else(default_threads, |threads| threads as usize);
    let clusters: Vec<Cluster> = root.sections("cluster").into_iter().map(cluster).collect();
    let names: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    let listeners: Vec<Listener> =
        root.sections("listener").into_iter().filter_map(|section| read_listener::listener(section, &names)).collect();
    if !root.has("cluster") {
        root.fault("no cluster is configured", "add a [[cluster]] with its [[cluster.node]] entries");
    }
    if !root.has("listener") {
        root.fault(
            "no listener is configured",
            "add a [[listener]] with bind = \"0.0.0.0:6432\" and target = \"leader\"",
        );
    }
    distinct(&root, "cluster", &names);
    distinct(&root, "listener", &listeners.iter().map(|l| l.name.as_str()).collect::<Vec<_>>());
    distinct_addresses(&root, &listeners, admin.as_ref().map(|admin| admin.bind));

    root.finish();
    document.finish()?;
    Ok(Config { admin, log, drain_timeout, threads, clusters, listeners })
}

fn log(root: &Section<'_>) -> Log {
    let defaults = Log::default();
    let Some(section) = root.section("log") else { return defaults };
    let level = section.string("level").unwrap_or(defaults.level);
    if Log::filter(&level).is_err() {
        section.fault_at(
            "level",
            format!("log.level: \"{level}\" is not a level"),
            "write error, warn, info, debug or trace, or a filter such as \"info,pgvane::proxy=debug\"",
        );
    }
    let is_json = section.choice("format", &[("text", false), ("json", true)]).unwrap_or(defaults.is_json);
    section.finish();
    Log { level, is_json }
}

fn cluster(section: Section<'_>) -> Cluster {
    let mut cluster = Cluster::named(&section.string("name").unwrap_or_else(|| "main".to_owned()));
    let asks_patroni = section.choice("check", &[("patroni", true), ("sql", false)]).unwrap_or(true);
    let sql = section.section("sql").map(read_sql::sql);
    cluster.nodes = section.sections("node").into_iter().filter_map(node).collect();
    cluster.scope = section.string("scope");
    set(&mut cluster.interval, section.duration("interval", at_least_ms(50)));
    set(&mut cluster.fast_interval, section.duration("fast_interval", at_least_ms(20)));
    set(&mut cluster.timeout, section.duration("timeout", at_least_ms(50)));
    set(&mut cluster.leader_grace, section.duration("leader_grace", at_least_ms(100)));
    set(&mut cluster.rise, section.integer("rise", 1..1001).map(|n| n as u32));
    set(&mut cluster.fall, section.integer("fall", 1..1001).map(|n| n as u32));
    let versions = [("none", false), ("v2", true)];
    set(&mut cluster.sends_proxy_header, section.choice("send_proxy", &versions));
    cluster.patroni_tls = section.section("patroni_tls").map(patroni_tls).unwrap_or_default();
    cluster.discovery = discovery(&section, &cluster.nodes);
    if cluster.discovery.is_some() && !asks_patroni {
        section.fault_at(
            "discover",
            "cluster.discover needs check = \"patroni\": it is Patroni that tells the members",
            "remove discover and name every node",
        );
    }
    match sql {
        Some(sql) if !asks_patroni => cluster.check = Check::Sql(sql),
        None if !asks_patroni => section.fault(
            "check = \"sql\", and [cluster.sql] is missing",
            "add [cluster.sql] with user, and password or password_file if the role needs one",
        ),
        second_opinion => cluster.check = Check::Patroni { second_opinion },
    }

    if !section.has("node") {
        section.fault(
            format!("cluster \"{}\" has no nodes", cluster.name),
            "add [[cluster.node]] with name and address; with discover = true one of them is enough",
        );
    }
    if cluster.nodes.len() > NODES_MAX {
        section.fault(format!("more than {NODES_MAX} nodes in one cluster"), "split it");
    }
    if cluster.fast_interval > cluster.interval {
        section.fault_at("fast_interval", "fast_interval is longer than interval", "make it shorter, or leave it out");
    }
    if cluster.leader_grace < cluster.interval + cluster.timeout {
        section.fault_at(
            "leader_grace",
            "leader_grace is shorter than interval and timeout together: one lost answer would cost the lead",
            "make it longer; Patroni's ttl less its loop_wait is a good value",
        );
    }
    distinct(&section, "node", &cluster.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>());
    distinct(&section, "address", &cluster.nodes.iter().map(|node| node.address.as_str()).collect::<Vec<_>>());
    section.finish();
    cluster
}

fn discovery(section: &Section<'_>, nodes: &[Member]) -> Option<Discovery> {
    let is_on = section.boolean("discover").unwrap_or(false);
    let networks = section.strings("discover_allow").into_iter().filter_map(|text| {
        let found = network(&text);
        if found.is_none() {
            let hint = "write a network, for example \"10.0.0.0/24\", or an address";
            section.fault_at("discover_allow", format!("\"{text}\" is not a network"), hint);
        }
        found
    });
    let allow = networks.collect();
    let address_map = section.string_map("discover_map");
    for address in address_map.iter().flat_map(|(from, to)| [from, to]).filter(|address| !is_host_and_port(address)) {
        section.fault_at(
            "discover_map",
            format!("\"{address}\" is not HOST:PORT"),
            "for example discover_map = { \"172.18.0.2:5432\" = \"10.0.0.1:15432\" }",
        );
    }
    for key in ["discover_allow", "discover_map"].into_iter().filter(|key| section.has(key) && !is_on) {
        section.fault_at(key, format!("{key} means nothing without discovery"), "add discover = true, or remove it");
    }
    let urls = nodes.iter().map(|node| node.patroni_url.clone()).collect();
    is_on.then_some(Discovery { urls, allow, address_map })
}

fn patroni_tls(section: Section<'_>) -> PatroniTls {
    let file = |key| {
        let path: Option<PathBuf> = section.string(key).map(PathBuf::from);
        if let Some(missing) = path.as_ref().filter(|path| !path.is_file()) {
            let message = format!("cluster.patroni_tls.{key}: cannot read {}", missing.display());
            section.fault_at(key, message, "give the path of a readable PEM file");
        }
        path
    };
    let tls = PatroniTls { ca_file: file("ca_file"), client_identity_file: file("client_identity_file") };
    section.finish();
    tls
}

fn node(section: Section<'_>) -> Option<Member> {
    let address =
        section.required_string("address", "where PostgreSQL listens, for example address = \"10.0.0.1:5432\"");
    if let Some(address) = address.as_ref().filter(|address| !is_host_and_port(address)) {
        section.fault_at(
            "address",
            format!("cluster.node.address: \"{address}\" is not HOST:PORT"),
            "for example \"10.0.0.1:5432\", \"pg1.example.org:5432\" or \"[2001:db8::1]:5432\"",
        );
    }
    let given_url = section.string("patroni");
    if let Some(Err(fault)) = given_url.as_deref().map(patroni_url) {
        section.fault_at("patroni", fault.message, fault.hint.unwrap_or_default());
    }
    let name = section.string("name");
    let weight = section.integer("weight", 1..10_001).map_or(WEIGHT_DEFAULT, |weight| weight as u32);
    let sessions_max = section.integer("sessions_max", 1..10_000_001).map_or(u32::MAX, |most| most as u32);
    section.finish();

    let address = address?;
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
    let patroni_url =
        given_url.map_or_else(|| format!("http://{host}:{PATRONI_PORT}"), |url| url.trim_end_matches('/').to_owned());
    Some(Member { name: name.unwrap_or_else(|| address.clone()), patroni_url, address, weight, sessions_max })
}

/// Checks the URL of a REST API.
pub(super) fn patroni_url(url: &str) -> Result<(), Fault> {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let parses = reqwest::Url::parse(url).is_ok_and(|url| url.has_host() && url.query().is_none());
    match host {
        Some(host) if parses && !host.is_empty() => Ok(()),
        _ => Err(Fault {
            line: None,
            message: format!("\"{url}\" is not the URL of a Patroni REST API"),
            hint: Some(format!("for example http://10.0.0.1:{PATRONI_PORT}")),
        }),
    }
}

pub(super) fn set<T>(place: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *place = given;
    }
}

pub(super) fn distinct(section: &Section<'_>, what: &str, names: &[&str]) {
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            section.fault_at(what, format!("two {what} entries are called \"{name}\""), "each needs its own");
        }
    }
}

fn distinct_addresses(root: &Section<'_>, listeners: &[Listener], admin: Option<SocketAddr>) {
    let mut owners: HashMap<String, String> = HashMap::new();
    let named = listeners.iter().map(|l| (l.bind.clone(), format!("listener \"{}\"", l.name)));
    let named = named.chain(admin.map(|bind| (bind.into(), "[admin]".to_owned())));
    // of port 0 each gets its own
    for (bind, owner) in named.filter(|(bind, _)| !matches!(bind, Bind::Tcp(address) if address.port() == 0)) {
        if let Some(other) = owners.insert(bind.to_string(), owner.clone()) {
            root.fault_at("listener", format!("{other} and {owner} both listen on {bind}"), "give each its own");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Admin;
    use crate::config::RelayMode;
    use crate::routing::{Cause, Reaction, Rebalance};

    const SMALLEST: &str = r#"
        [[cluster]]
        [[cluster.node]]
        address = "10.0.0.1:5432"
        [[listener]]
        bind = "0.0.0.0:6432"
        target = "leader"
    "#;

    fn faults(text: &str) -> Vec<(Option<usize>, String)> {
        let Err(faults) = config("test.toml", text) else { panic!("has faults:\n{text}") };
        faults.list.into_iter().map(|fault| (fault.line, fault.message)).collect()
    }

    #[test]
    fn the_smallest_file_has_every_default() {
        let config = config("test.toml", SMALLEST).expect("is valid");
        assert_eq!(config.admin, Some(Admin { bind: SocketAddr::from(([0, 0, 0, 0], 8404)), users: Vec::new() }));
        assert_eq!(config.clusters[0].nodes[0].patroni_url, "http://10.0.0.1:8008");
        assert_eq!(config.clusters[0].nodes[0].name, "10.0.0.1:5432");
        assert_eq!(config.listeners[0].name, "leader");
        assert!(!config.listeners[0].rule.falls_back_to_leader);
    }

    #[test]
    fn every_setting_of_the_design_is_read() {
        let config = config(
            "test.toml",
            r#"
            drain_timeout = "5s"
            threads = 3
            [admin]
            bind = "127.0.0.1:0"
            [log]
            level = "info,pgvane::proxy=debug"
            format = "json"
            [[cluster]]
            name = "main"
            check = "patroni"
            scope = "demo"
            interval = "2s"
            fast_interval = "50ms"
            timeout = "1s"
            rise = 1
            fall = 5
            leader_grace = "15s"
            discover = true
            discover_allow = ["10.0.0.0/8", "192.0.2.1"]
            discover_map = { "172.18.0.2:5432" = "10.0.0.1:15432" }
            [[cluster.node]]
            name = "node1"
            address = "pg1:5432"
            weight = 50
            sessions_max = 90
            patroni = "https://pg1:8009/"
            [[listener]]
            name = "read"
            bind = "*:6433"
            cluster = "main"
            target = "replica"
            balance = "round-robin"
            fallback = "none"
            lag_max = "64MB"
            lag_max_time = "10s"
            replication = "streaming"
            tags = { dc = "east", ssd = true }
            slow_start = "1min"
            on = { promotion = "cut", lag = "drain", operator = "keep" }
            hold_max = "30s"
            hold_sessions_max = 5
            sessions_max = 77
            relay = "copy"
            "#,
        )
        .expect("is valid");
        let (cluster, listener) = (&config.clusters[0], &config.listeners[0]);
        let discovery = cluster.discovery.as_ref().expect("is on");
        assert_eq!(discovery.urls, ["https://pg1:8009"]);
        assert_eq!(discovery.allow, ["10.0.0.0/8".parse().expect("a network"), "192.0.2.1/32".parse().expect("one")]);
        assert_eq!(discovery.address_map["172.18.0.2:5432"], "10.0.0.1:15432");
        assert_eq!((cluster.nodes[0].weight, cluster.nodes[0].sessions_max), (50, 90));
        assert_eq!((cluster.rise, cluster.fall), (1, 5));
        assert_eq!(listener.bind.to_string(), "[::]:6433");
        assert_eq!(listener.rule.lag_bytes_max, Some(64 << 20));
        assert!(!listener.rule.falls_back_to_leader && listener.rule.requires_streaming);
        assert_eq!(listener.rule.lag_time_max, Some(Duration::from_secs(10)));
        assert_eq!((listener.rule.tags["dc"].as_str(), listener.rule.tags["ssd"].as_str()), ("east", "true"));
        assert_eq!(listener.rule.reactions.to(Cause::Promotion), Reaction::Cut);
        assert_eq!(listener.rule.reactions.to(Cause::Lag), Reaction::Drain);
        assert_eq!(listener.rule.reactions.to(Cause::Operator), Reaction::Keep);
        assert_eq!(listener.rule.reactions.to(Cause::LostLead), Reaction::Cut, "the default");
        assert_eq!((listener.hold_sessions_max, listener.sessions_max), (5, 77));
        assert_eq!(config.threads, 3);
        assert_eq!(listener.relay, RelayMode::Copy);
        assert!(config.log.is_json);
    }

    #[test]
    fn rebalancing_is_off_unless_asked_for_and_only_where_it_comes_to_an_end() {
        assert_eq!(config("f", SMALLEST).expect("is valid").listeners[0].rule.rebalance, None);
        let reading = SMALLEST.replace("leader", "replica");
        let with = |lines: &str| reading.replace("target =", &format!("{lines}\ntarget ="));
        let read = |lines: &str| config("f", &with(lines)).expect("is valid").listeners[0].rule.rebalance;
        assert_eq!(read("rebalance = {}"), Some(Rebalance::default()));
        let all = Rebalance { every: Duration::from_millis(10), tolerance_percent: 0, after: Duration::ZERO };
        assert_eq!(read("rebalance = { every = \"10ms\", tolerance = 0, after = \"0s\" }"), Some(all));
        for (lines, fault) in [
            ("rebalance = { every = \"1ms\" }", "out of bounds"),
            ("rebalance = { tolerance = 1001 }", "out of bounds"),
            ("rebalance = { rate = 1 }", "unknown key \"rate\""),
            ("rebalance = true", "must be a table"),
            ("rebalance = {}\nbalance = \"random\"", "needs balance = \"least-connections\""),
        ] {
            let found = faults(&with(lines));
            assert!(found.len() == 1 && found[0].1.contains(fault), "{lines}: {found:?}");
        }
        let writing = SMALLEST.replace("target =", "rebalance = {}\ntarget =");
        assert!(faults(&writing)[0].1.contains("means nothing"));
    }

    #[test]
    fn all_faults_are_reported_at_once_with_their_lines() {
        let found = faults(
            "[[cluster]]\n\
             intervall = \"1s\"\n\
             timeout = 2\n\
             fall = 0\n\
             [[cluster.node]]\n\
             name = \"a\"\n\
             [[listener]]\n\
             bind = \"6432\"\n\
             target = \"leder\"\n\
             hold_max = \"10 parsecs\"\n",
        );
        let lines: Vec<usize> = found.iter().filter_map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 8, 9, 10], "{found:#?}");
    }

    #[test]
    fn unknown_keys_and_words_come_with_a_guess() {
        let Err(faults) = config("f", &SMALLEST.replace("target = \"leader\"", "target = \"leder\"\nholdmax = \"1s\""))
        else {
            panic!("has faults")
        };
        let shown = faults.to_string();
        assert!(shown.contains("did you mean \"leader\"?"), "{shown}");
        assert!(shown.contains("did you mean \"hold_max\"?"), "{shown}");
        assert!(shown.ends_with("2 faults found, nothing was started"), "{shown}");
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let twice = format!("{SMALLEST}\n[[listener]]\nname = \"x\"\nbind = \"0.0.0.0:6432\"\ntarget = \"replica\"");
        assert!(faults(&twice)[0].1.contains("both listen on 0.0.0.0:6432"));
        let useless = SMALLEST.replace("target = \"leader\"", "target = \"leader\"\nfallback = \"leader\"");
        assert!(faults(&useless)[0].1.contains("fallback means nothing"));
        let hasty = SMALLEST.replace("[[cluster]]", "[[cluster]]\nleader_grace = \"1s\"");
        assert!(faults(&hasty)[0].1.contains("leader_grace is shorter"));
        let brittle = SMALLEST.replace("target = \"leader\"", "target = \"leader\"\ntcp_user_timeout = \"10s\"");
        assert!(faults(&brittle)[0].1.contains("one lost packet"));
        assert_eq!(faults("").len(), 2);
    }

    #[test]
    fn broken_toml_is_shown_beside_other_faults() {
        let found = faults(&SMALLEST.replace("target = \"leader\"", "target = \"leader\"\nhold_max = = 3"));
        assert!(!found.is_empty());
    }

    #[test]
    fn node_addresses_may_be_names_and_ipv6() {
        for good in ["pg1:5432", "10.0.0.1:5432", "[::1]:5432"] {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in ["pg1", "pg1:", ":5432", "::1:5432", "http://pg1:5432", "pg1:0", "pg1:99999"] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }
}
