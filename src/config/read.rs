//! From a TOML document to a [`Config`]: every key, its bounds and its default.

use std::ops::Range;

use super::document::Document;
use super::fault::Faults;
use super::section::{Section, at_least_ms, distinct};
use super::{Cluster, Config, DEFAULT_DRAIN_TIMEOUT, Log, default_threads, read_admin, read_cluster, read_listener};
use crate::net::Bind;

pub(super) fn config(file: &str, text: &str) -> Result<Config, Faults> {
    let document = Document::parse(file, text);
    let config = read(&document);
    let file_warnings = document.finish()?;
    Ok(Config { file_warnings, ..config })
}

/// Reads every key. The result is valid only if the document has no faults.
pub(super) fn read(document: &Document<'_>) -> Config {
    let root = Section::root(document);
    let (admin, admin_sockets) = read_admin::admin(&root);
    let log = log(&root);
    let drain_timeout = root.duration("drain_timeout", at_least_ms(0)).unwrap_or(DEFAULT_DRAIN_TIMEOUT);
    let threads = root.integer("threads", 1..1025).map_or_else(default_threads, |threads| threads as usize);
    let clusters: Vec<Cluster> = root.sections("cluster").into_iter().map(read_cluster::cluster).collect();
    let names: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    let mut listeners = Vec::new();
    let mut places = Vec::new();
    for section in root.sections("listener") {
        let span = section.span_of("bind");
        let Some(listener) = read_listener::listener(section, &clusters) else { continue };
        let owner = format!("listener \"{}\"", listener.name);
        places.extend(listener.binds.iter().map(|bind| Place {
            bind: bind.clone(),
            owner: owner.clone(),
            span: span.clone(),
        }));
        listeners.push(listener);
    }
    let span = root.span_of("admin");
    places.extend(admin_sockets.iter().map(|socket| Place {
        bind: Bind::Unix(socket.file.clone()),
        owner: "[[admin.sockets]]".to_owned(),
        span: span.clone(),
    }));
    if let Some(admin) = &admin {
        places.insert(0, Place { bind: admin.bind.into(), owner: "[admin]".to_owned(), span });
    }
    if !root.has("cluster") {
        root.missing(
            "cluster",
            "no cluster is configured",
            "add [[cluster]] and, below it, one [[cluster.node]] for each node",
        );
    }
    if !root.has("listener") {
        root.missing(
            "listener",
            "no listener is configured",
            "add [[listener]] with, for example, bind = \"0.0.0.0:6432\" and target = \"leader\"",
        );
    }
    distinct(&root, "cluster", &names);
    distinct(&root, "listener", &listeners.iter().map(|l| l.name.as_str()).collect::<Vec<_>>());
    distinct_addresses(&root, &places);

    root.finish();
    Config { admin, admin_sockets, log, drain_timeout, threads, clusters, listeners, file_warnings: Vec::new() }
}

fn log(root: &Section<'_>) -> Log {
    let defaults = Log::default();
    let Some(section) = root.section("log") else { return defaults };
    let level = section.string("level").unwrap_or(defaults.level);
    if let Err(hint) = Log::filter(&level) {
        section.fault_at("level", format!("log.level: unknown value \"{level}\""), hint);
    }
    let is_json = section.choice("format", &[("text", false), ("json", true)]).unwrap_or(defaults.is_json);
    section.finish();
    Log { level, is_json }
}

/// A place where pgvane listens, with its owner and its line in the file.
struct Place {
    bind: Bind,
    owner: String,
    span: Range<usize>,
}

/// Reports places of which the kernel would give only one.
fn distinct_addresses(root: &Section<'_>, places: &[Place]) {
    for (at, place) in places.iter().enumerate() {
        let Some(other) = places[..at].iter().find(|other| place.bind.overlaps(&other.bind)) else { continue };
        let message = match (place.owner == other.owner, place.bind == other.bind) {
            (true, true) => format!("{} listens on {} twice", place.owner, place.bind),
            (false, true) => format!("{} and {} both listen on {}", other.owner, place.owner, place.bind),
            (_, false) => format!(
                "{} listens on {}, and {} on {}: the one includes the other",
                other.owner, other.bind, place.owner, place.bind
            ),
        };
        root.fault_in(place.span.clone(), message, "each needs a different address or port");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::HostPort;
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
        assert_eq!(config.admin, Some(Admin::default()));
        assert_eq!(config.clusters[0].nodes[0].patroni_url, "http://10.0.0.1:8008");
        assert_eq!(config.clusters[0].nodes[0].name, "10.0.0.1:5432");
        assert_eq!(config.listeners[0].name, "leader");
        assert!(!config.listeners[0].rule.falls_back_to_leader);
    }

    #[test]
    fn strings_anywhere_in_the_file_may_contain_environment_variables() {
        // cargo sets CARGO_PKG_NAME for every test
        let text = SMALLEST.replace("10.0.0.1:5432", "${CARGO_PKG_NAME}:${PGVANE_TEST_NO_SUCH_PORT:-5433}").replace(
            "target = \"leader\"",
            "target = \"leader\"\n allow = [\"10.0.0.0/8\", \"${PGVANE_TEST_NO_SUCH_NETWORK:-192.0.2.0/24}\"]",
        );
        let config = config("test.toml", &text).expect("is valid");
        assert_eq!(config.clusters[0].nodes[0].address.to_string(), "pgvane:5433");
        assert_eq!(
            faults(&SMALLEST.replace("10.0.0.1:5432", "${PGVANE_TEST_NO_SUCH_HOST}:5432"))[0],
            (Some(4), "the environment variable PGVANE_TEST_NO_SUCH_HOST is not set".to_owned())
        );
    }

    #[test]
    fn every_setting_is_read() {
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
        let host_port = |text: &str| text.parse::<HostPort>().expect("is one");
        assert_eq!(discovery.address_map[&host_port("172.18.0.2:5432")], host_port("10.0.0.1:15432"));
        assert_eq!((cluster.nodes[0].weight, cluster.nodes[0].sessions_max), (50, 90));
        assert_eq!((cluster.rise, cluster.fall), (1, 5));
        assert_eq!(listener.binds.to_string(), "[::]:6433");
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
    fn rebalancing_is_off_by_default_and_refused_where_it_would_never_end() {
        assert_eq!(config("f", SMALLEST).expect("is valid").listeners[0].rule.rebalance, None);
        let reading = SMALLEST.replace("leader", "replica");
        let with = |lines: &str| reading.replace("target =", &format!("{lines}\ntarget ="));
        let read = |lines: &str| config("f", &with(lines)).expect("is valid").listeners[0].rule.rebalance;
        assert_eq!(read("rebalance = {}"), Some(Rebalance::default()));
        let all = Rebalance { every: Duration::from_millis(10), tolerance_percent: 0, after: Duration::ZERO };
        assert_eq!(read("rebalance = { every = \"10ms\", tolerance = 0, after = \"0s\" }"), Some(all));
        for (lines, fault) in [
            ("rebalance = { every = \"1ms\" }", "out of range"),
            ("rebalance = { tolerance = 1001 }", "out of range"),
            ("rebalance = { rate = 1 }", "unknown key \"rate\""),
            ("rebalance = true", "must be a table"),
            ("rebalance = {}\nbalance = \"random\"", "needs balance = \"least-connections\""),
        ] {
            let found = faults(&with(lines));
            assert!(found.len() == 1 && found[0].1.contains(fault), "{lines}: {found:?}");
        }
        let writing = SMALLEST.replace("target =", "rebalance = {}\ntarget =");
        assert!(faults(&writing)[0].1.contains("rebalance has no effect"));
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
    fn unknown_keys_and_values_are_reported_with_the_closest_known_one() {
        let Err(faults) = config("f", &SMALLEST.replace("target = \"leader\"", "target = \"leder\"\nholdmax = \"1s\""))
        else {
            panic!("has faults")
        };
        let shown = faults.to_string();
        let expected = "expected leader, replica, sync, sync-only, quorum, async, any or standby-leader\n  hint: did you mean \"leader\"?";
        assert!(shown.contains(expected), "{shown}");
        assert!(shown.contains("did you mean \"hold_max\"?"), "{shown}");
        assert!(shown.ends_with("2 errors found: pgvane cannot start until they are corrected"), "{shown}");
    }

    #[test]
    fn nodes_may_come_first_and_last_and_the_leader_may_share() {
        let text = SMALLEST
            .replace("[[listener]]", "name = \"a\"\nbackup = true\n[[listener]]")
            .replace("\"leader\"", "\"sync-only\"");
        let listener = |lines: &str| config("test.toml", &format!("{text}\n{lines}"));
        let read =
            listener("include_leader = true\nprefer = { dc = \"east\" }\nprefer_nodes = [\"a\"]").expect("is valid");
        assert!(read.clusters[0].nodes[0].is_backup);
        let rule = &read.listeners[0].rule;
        assert!(rule.includes_leader && !rule.falls_back_to_leader);
        assert_eq!((rule.prefer_tags["dc"].as_str(), rule.prefer_nodes.as_slice()), ("east", &["a".to_owned()][..]));
        for (lines, word) in [
            ("include_leader = true\nfallback = \"leader\"", "fallback has no effect with include_leader"),
            ("prefer_nodes = [\"b\"]", "has no node \"b\""),
            ("prefer_node = [\"a\"]", "unknown key \"prefer_node\""),
            ("prefer = { dc = [] }", "a table of strings"),
        ] {
            let told = listener(lines).expect_err("has a fault").to_string();
            assert!(told.contains(word) && told.contains("1 error"), "{lines}: {told}");
        }
        for line in ["include_leader = true", "prefer = { dc = \"east\" }", "prefer_nodes = []"] {
            let told = config("test.toml", &format!("{SMALLEST}\n{line}")).expect_err("has a fault").to_string();
            assert!(told.contains("has no effect with target = \"leader\""), "{told}");
        }
        let found = text.replace("[[cluster]]", "[[cluster]]\ndiscover = true");
        assert!(config("test.toml", &format!("{found}\nprefer_nodes = [\"b\"]")).is_ok(), "it may be found");
    }

    #[test]
    fn contradictions_are_refused() {
        let twice = format!("{SMALLEST}\n[[listener]]\nname = \"x\"\nbind = \"0.0.0.0:6432\"\ntarget = \"replica\"");
        assert!(faults(&twice)[0].1.contains("both listen on 0.0.0.0:6432"));
        let included = twice.replace("name = \"x\"\nbind = \"0.0.0.0", "name = \"x\"\nbind = \"10.0.0.1");
        assert_eq!(faults(&included), [(
            Some(11),
            "listener \"leader\" listens on 0.0.0.0:6432, and listener \"x\" on 10.0.0.1:6432: the one includes the other"
                .to_owned()
        )]);
        let admin = format!("[admin]\nbind = \"127.0.0.1:6432\"\n{SMALLEST}");
        assert!(
            faults(&admin)[0].1.starts_with("[admin] listens on 127.0.0.1:6432, and listener \"leader\" on 0.0.0.0")
        );
        let useless = SMALLEST.replace("target = \"leader\"", "target = \"leader\"\nfallback = \"leader\"");
        assert!(faults(&useless)[0].1.contains("fallback has no effect"));
        let hasty = SMALLEST.replace("[[cluster]]", "[[cluster]]\nleader_grace = \"1s\"");
        assert!(faults(&hasty)[0].1.contains("leader_grace is shorter"));
        let brittle = SMALLEST.replace("target = \"leader\"", "target = \"leader\"\ntcp_user_timeout = \"10s\"");
        assert!(faults(&brittle)[0].1.contains("one lost packet"));
        assert_eq!(faults("").len(), 2);
    }

    #[test]
    fn a_key_that_is_written_wrong_is_not_reported_as_missing_too() {
        for (own, typed, hint) in [
            ("[[listener]]", "[[listner]]", "did you mean \"listener\"?"),
            ("[[listener]]", "[[frontend]]", "pgvane's table for this is [[listener]]"),
            ("[[cluster.node]]", "[[cluster.server]]", "pgvane's table for this is [[cluster.node]]"),
            ("bind =", "listen =", "pgvane's key for this is \"bind\""),
            ("target =", "targt =", "did you mean \"target\"?"),
            ("address =", "host =", "pgvane's key for this is \"address\""),
        ] {
            let told = config("test.toml", &SMALLEST.replace(own, typed)).expect_err(typed).to_string();
            assert!(told.contains(hint) && told.contains("1 error found"), "{typed}: {told}");
        }
    }

    #[test]
    fn postgresql_and_patroni_do_not_share_a_port() {
        for (node, line) in [
            ("address = \"10.0.0.1:5432\"\npatroni = \"http://10.0.0.1:5432\"", 5),
            ("address = \"10.0.0.1:8008\"", 4),
            ("address = \"[fd00::1]:5432\"\npatroni = \"https://[fd00::1]:5432\"", 5),
        ] {
            let found = faults(&SMALLEST.replace("address = \"10.0.0.1:5432\"", node));
            assert!(found.len() == 1 && found[0].1.contains("for PostgreSQL and for Patroni"), "{node}: {found:?}");
            assert_eq!(found[0].0, Some(line), "{node}");
        }
    }

    #[test]
    fn a_rest_api_has_an_address_of_its_own_and_no_path() {
        let node = |patroni: &str| format!("[[cluster.node]]\naddress = \"10.0.0.9:5432\"\npatroni = \"{patroni}\"\n");
        let with = |patroni: &str| SMALLEST.replace("[[listener]]", &(node(patroni) + "[[listener]]"));
        let config =
            Config::from_toml("test.toml", &with("http://10.0.0.9:8008/patroni")).expect("as Patroni prints it");
        assert_eq!(config.clusters[0].nodes[1].patroni_url, "http://10.0.0.9:8008");
        for wrong in ["http://10.0.0.9:8008/primary", "http://10.0.0.1:8008", "http://10.0.0.1:8008/"] {
            assert!(Config::from_toml("test.toml", &with(wrong)).is_err(), "{wrong}");
        }
    }
}
