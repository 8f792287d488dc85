//! Reads `[[cluster]]`: its nodes, how they are checked, and how members are discovered.

use std::path::PathBuf;
use std::time::Duration;

use super::fault::Fault;
use super::read_secret::password;
use super::section::{Section, at_least_ms, distinct, set};
use super::{Check, Cluster, Discovery, PatroniLogin, PatroniTls, read_carry, read_sql, read_tls};
use crate::cluster::node::{NODES_MAX, ServerKind, WEIGHT_DEFAULT, WEIGHT_MAX};
use crate::cluster::{HostPort, Member};
use crate::net::networks::network;
use crate::routing::ParkSettings;

/// Clients do not wait for an answer for longer than some minutes.
const PARK_MAX: Duration = Duration::from_secs(3601);

/// The port of Patroni's REST API for nodes whose URL is not given.
const PATRONI_PORT: u16 = 8008;

pub(super) fn cluster(section: Section<'_>) -> Cluster {
    let mut cluster = Cluster::named(&section.string("name").unwrap_or_else(|| "main".to_owned()));
    let asks_patroni = section.choice("check", &[("patroni", true), ("sql", false)]).unwrap_or(true);
    let sql = section.section("sql").map(read_sql::sql);
    let nodes = section.sections("node").into_iter();
    cluster.nodes = nodes.filter_map(|table| node(table, asks_patroni, sql.is_some())).collect();
    cluster.scope = section.string("scope");
    set(&mut cluster.interval, section.duration("interval", at_least_ms(50)));
    set(&mut cluster.fast_interval, section.duration("fast_interval", at_least_ms(20)));
    set(&mut cluster.timeout, section.duration("timeout", at_least_ms(50)));
    set(&mut cluster.leader_grace, section.duration("leader_grace", at_least_ms(100)));
    cluster.park = park(&section);
    cluster.carry = read_carry::carry(&section);
    set(&mut cluster.rise, section.integer("rise", 1..1001).map(|n| n as u32));
    set(&mut cluster.fall, section.integer("fall", 1..1001).map(|n| n as u32));
    let versions = [("none", false), ("v2", true)];
    set(&mut cluster.sends_proxy_header, section.choice("send_proxy", &versions));
    cluster.patroni_tls = section.section("patroni_tls").map(patroni_tls).unwrap_or_default();
    cluster.patroni_login = section.section("patroni_login").and_then(patroni_login);
    cluster.discovery = discovery(&section, &cluster.nodes);
    if cluster.discovery.is_some() && !asks_patroni {
        section.fault_at(
            "discover",
            "cluster.discover needs check = \"patroni\": the list of members comes from Patroni",
            "remove discover, and add a [[cluster.node]] for each node",
        );
    }
    match sql {
        Some(sql) if !asks_patroni => cluster.check = Check::Sql(sql),
        None if !asks_patroni => section.fault(
            "check = \"sql\" needs [cluster.sql], which is missing",
            "add [cluster.sql] with user, and with password or password_file if the role needs a password",
        ),
        second_opinion => cluster.check = Check::Patroni { second_opinion },
    }

    if !section.has("node") {
        section.missing(
            "node",
            format!("cluster \"{}\" has no nodes", cluster.name),
            "add [[cluster.node]] with name and address for each node; with discover = true one node is enough",
        );
    }
    if cluster.nodes.len() > NODES_MAX {
        section.fault(format!("cluster \"{}\" has more than {NODES_MAX} nodes", cluster.name), "remove nodes");
    }
    if cluster.fast_interval > cluster.interval {
        section.fault_at("fast_interval", "fast_interval is longer than interval", "make it shorter, or remove it");
    }
    if cluster.leader_grace < cluster.interval + cluster.timeout {
        section.fault_at(
            "leader_grace",
            "leader_grace is shorter than interval + timeout: after one failed check writes would have no leader",
            "make it longer: Patroni's ttl minus its loop_wait is the right value",
        );
    }
    distinct(&section, "node", &cluster.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>());
    if asks_patroni {
        let urls: Vec<&str> = cluster.nodes.iter().map(|node| node.patroni_url.as_str()).collect();
        distinct(&section, "patroni", &urls);
    }
    let checked: Vec<&HostPort> = cluster.nodes.iter().filter_map(|node| node.check_address.as_ref()).collect();
    distinct(&section, "check_address", &checked);
    distinct(&section, "address", &cluster.nodes.iter().map(|node| &node.address).collect::<Vec<_>>());
    section.finish();
    cluster
}

/// How long a transaction may take to end when its session is to be parked, and how long sessions stay parked: twice the
/// time that Patroni needs for a switchover in which the old leader has much to write.
const PARK: ParkSettings = ParkSettings { grace: Duration::from_secs(5), max: Duration::from_secs(30) };

fn park(section: &Section<'_>) -> Option<ParkSettings> {
    let is_on = section.boolean("park").unwrap_or(false);
    let mut settings = PARK;
    set(&mut settings.grace, section.duration("park_grace", Duration::ZERO..PARK_MAX));
    set(&mut settings.max, section.duration("park_max", Duration::from_secs(1)..PARK_MAX));
    for key in ["park_grace", "park_max"].into_iter().filter(|key| section.has(key) && !section.has("park")) {
        section.fault_at(key, format!("{key} has no effect without park = true"), "add park = true, or remove it");
    }
    if settings.grace > settings.max {
        section.fault_at("park_grace", "park_grace is longer than park_max", "make it shorter");
    }
    is_on.then_some(settings)
}

fn discovery(section: &Section<'_>, nodes: &[Member]) -> Option<Discovery> {
    let is_on = section.boolean("discover").unwrap_or(false);
    let networks = section.strings("discover_allow").into_iter().filter_map(|text| {
        let found = network(&text);
        if found.is_none() {
            let hint = "write a network or an address, for example \"10.0.0.0/24\"";
            section.fault_at("discover_allow", format!("discover_allow: \"{text}\" is not a network"), hint);
        }
        found
    });
    let allow = networks.collect();
    let parse = |address: &str| {
        let parsed = address.parse::<HostPort>();
        if parsed.is_err() {
            let hint =
                "write addresses with ports, for example discover_map = { \"172.18.0.2:5432\" = \"10.0.0.1:15432\" }";
            section.fault_at("discover_map", format!("discover_map: \"{address}\" is not HOST:PORT"), hint);
        }
        parsed.ok()
    };
    let pairs = section.string_map("discover_map").into_iter().map(|(from, to)| (parse(&from), parse(&to)));
    let address_map = pairs.filter_map(|(from, to)| Some((from?, to?))).collect();
    for key in ["discover_allow", "discover_map"].into_iter().filter(|key| section.has(key) && !is_on) {
        section.fault_at(
            key,
            format!("{key} has no effect without discover = true"),
            "add discover = true, or remove it",
        );
    }
    let urls = nodes.iter().map(|node| node.patroni_url.clone()).collect();
    is_on.then_some(Discovery { urls, urls_say_which_cluster: nodes.is_empty(), allow, address_map })
}

fn patroni_tls(section: Section<'_>) -> PatroniTls {
    let file = |key| {
        let path: Option<PathBuf> = section.string(key).map(PathBuf::from);
        if let Some(missing) = path.as_ref().filter(|path| !path.is_file()) {
            let message = format!("cluster.patroni_tls.{key}: cannot read {}", missing.display());
            section.fault_at(key, message, "write the path of a PEM file that pgvane can read");
        }
        path
    };
    let verifies_nothing = section.choice("verify", &[("full", false), ("none", true)]).unwrap_or(false);
    let (ca_file, client_identity_file) = (file("ca_file"), file("client_identity_file"));
    if verifies_nothing && ca_file.is_some() {
        section.fault_at("verify", "verify = \"none\" contradicts ca_file", "remove one of the two keys");
    }
    read_tls::warn_of_expiry(&section);
    let tls = PatroniTls { ca_file, client_identity_file, verifies_nothing };
    section.finish();
    tls
}

fn patroni_login(section: Section<'_>) -> Option<PatroniLogin> {
    let user = section.required_string("user", "write the username of restapi.authentication in patroni.yml");
    let password = password(&section, "cluster.patroni_login");
    if !section.has("password") && !section.has("password_file") {
        section.fault(
            "cluster.patroni_login has no password",
            "add password_file, or password: that of restapi.authentication in patroni.yml",
        );
    }
    section.finish();
    Some(PatroniLogin { user: user?, password: password? })
}

fn node(section: Section<'_>, asks_patroni: bool, asks_sql: bool) -> Option<Member> {
    let address =
        section.required_string("address", "write where PostgreSQL listens, for example address = \"10.0.0.1:5432\"");
    let address = address.and_then(|text| host_port(&section, "address", &text));
    let given_url = section.string("patroni");
    if let Some(Err(fault)) = given_url.as_deref().map(patroni_url) {
        section.fault_at("patroni", fault.message, fault.hint.unwrap_or_default());
    }
    if let Some(address) = address.as_ref().filter(|_| asks_patroni) {
        check_ports(&section, address, given_url.as_deref());
    }
    let name = section.string("name");
    let weight = section.integer("weight", 1..u64::from(WEIGHT_MAX) + 1).map_or(WEIGHT_DEFAULT, |weight| weight as u32);
    let sessions_max = section.integer("sessions_max", 1..10_000_001).map_or(u32::MAX, |max| max as u32);
    let is_backup = section.boolean("backup").unwrap_or(false);
    let kind = section.choice("kind", &ServerKind::ALL).unwrap_or_default();
    let check_address = section.string("check_address").and_then(|text| host_port(&section, "check_address", &text));
    if asks_sql && kind == ServerKind::Pooler && !section.has("check_address") {
        section.fault_at(
            "kind",
            "cluster.node.check_address is missing: kind = \"pooler\", and the checks ask PostgreSQL itself",
            "write where PostgreSQL listens on this node, for example check_address = \"10.0.0.1:5432\"",
        );
    }
    section.finish();

    let address = address?;
    let default_url = || HostPort::new(address.host(), PATRONI_PORT).map(|rest_api| format!("http://{rest_api}"));
    let patroni_url = match given_url {
        Some(url) => base_of(&url),
        None => default_url().ok()?,
    };
    let name = name.unwrap_or_else(|| address.to_string());
    Some(Member { weight, sessions_max, is_backup, kind, check_address, ..Member::new(name, address, patroni_url) })
}

/// Reports that PostgreSQL and Patroni's REST API are given the same address and port.
fn check_ports(section: &Section<'_>, address: &HostPort, url: Option<&str>) {
    let rest_api = match url {
        None => HostPort::new(address.host(), PATRONI_PORT).map(|rest_api| rest_api.to_string()).unwrap_or_default(),
        Some(url) => {
            let Ok(url) = reqwest::Url::parse(url) else { return };
            format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
        }
    };
    if rest_api == address.to_string() {
        section.fault_at(
            if url.is_some() { "patroni" } else { "address" },
            format!("{rest_api} is given for PostgreSQL and for Patroni's REST API"),
            format!(
                "write the port of PostgreSQL in address, and that of Patroni in patroni ({PATRONI_PORT} by default)"
            ),
        );
    }
}

fn host_port(section: &Section<'_>, key: &str, text: &str) -> Option<HostPort> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        section.fault_at(
            key,
            format!("cluster.node.{key}: \"{text}\" is not HOST:PORT"),
            "write, for example, \"10.0.0.1:5432\", \"pg1.example.org:5432\" or \"[2001:db8::1]:5432\"",
        );
    }
    parsed
}

/// The base URL of a REST API. Patroni itself shows its `api_url` with the path of a health check, `/patroni`.
pub(super) fn base_of(url: &str) -> String {
    let url = url.trim_end_matches('/');
    url.strip_suffix("/patroni").unwrap_or(url).to_owned()
}

/// Checks the URL of a Patroni REST API.
pub(super) fn patroni_url(url: &str) -> Result<(), Fault> {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let parsed = reqwest::Url::parse(url).ok();
    let parses = parsed.as_ref().is_some_and(|url| url.has_host() && url.query().is_none());
    // Patroni answers 200 to every path below /patroni, for any role of the node
    if parses && parsed.is_some_and(|url| !matches!(url.path(), "/" | "/patroni" | "/patroni/")) {
        return Err(Fault {
            line: None,
            message: format!("\"{url}\" has a path"),
            hint: Some(format!("write only the address of the REST API, for example http://10.0.0.1:{PATRONI_PORT}")),
        });
    }
    match host {
        Some(host) if parses && !host.is_empty() => Ok(()),
        _ => Err(Fault {
            line: None,
            message: format!("\"{url}\" is not the URL of a Patroni REST API"),
            hint: Some(format!("write, for example, http://10.0.0.1:{PATRONI_PORT}")),
        }),
    }
}
