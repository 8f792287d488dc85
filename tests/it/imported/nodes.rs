//! The nodes that both proxies stand before: Patroni's REST APIs in a process of Python, PostgreSQLs in this one.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Stdio;

use pgvane_loadtest::fake::{Behaviour, FakePostgres, STARTING_UP};
use pgvane_loadtest::programs;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use toml::Table;

use super::files::{self, Addresses};
use super::world::{Member, Standing, World};
use crate::wire::in_time;

/// The nodes of one configuration; they end with this.
pub struct Nodes {
    members: Vec<Member>,
    /// For each member: its PostgreSQL, and the poolers beside it.
    servers: Vec<Vec<Server>>,
    tls: Value,
    rest: Rest,
}

struct Server {
    postgres: FakePostgres,
    is_up: bool,
}

/// The process that is all REST APIs.
struct Rest {
    _process: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Nodes {
    /// Those that a configuration names, with the ports that its listeners use.
    pub async fn of(table: &Table, addresses: &Addresses, directory: &Path) -> Nodes {
        let members = members(table, addresses);
        let own_ports = table["listener"].as_array().into_iter().flatten();
        let own_ports: Vec<u16> =
            own_ports.filter_map(|listener| u16::try_from(listener.get("port")?.as_integer()?).ok()).collect();
        let mut servers = Vec::new();
        for member in &members {
            let mut ports = own_ports.clone();
            ports.push(member.port);
            ports.sort_unstable();
            ports.dedup();
            let mut of_member = Vec::new();
            for port in ports {
                let postgres = FakePostgres::start_at(&member.answer(Some(port)), member.ip, port).await;
                of_member.push(Server { postgres, is_up: true });
            }
            servers.push(of_member);
        }
        let tls = match table.get("cluster").and_then(|clusters| clusters[0].get("patroni_tls")) {
            Some(tls) => files::patronis_tls(directory, tls.get("client_identity_file").is_some()),
            None => json!(null),
        };
        Nodes { members, servers, tls, rest: Rest::start() }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns when all of them are what the scenario says.
    pub async fn become_as(&mut self, world: &World) {
        for (standing, servers) in
            world.nodes.iter().map(|standing| (standing, self.place(standing))).collect::<Vec<_>>()
        {
            for server in &mut self.servers[servers] {
                server.becomes(standing).await;
            }
        }
        let rest: Vec<Value> = world.nodes.iter().filter_map(|standing| standing.as_json(&self.tls)).collect();
        self.rest.become_as(&Value::Array(rest)).await;
    }

    fn place(&self, standing: &Standing) -> usize {
        let is_it = |member: &Member| (member.ip, member.port) == (standing.member.ip, standing.member.port);
        self.members.iter().position(is_it).expect("worlds are made of our members")
    }
}

impl Server {
    async fn becomes(&mut self, standing: &Standing) {
        self.postgres.is_in_recovery(standing.in_recovery);
        self.postgres.usually(if standing.starts_up { STARTING_UP } else { Behaviour::Serves });
        match (self.is_up, standing.is_up) {
            (true, false) => self.postgres.crashes().await,
            (false, true) => self.postgres.opens().await,
            _ => {}
        }
        self.is_up = standing.is_up;
    }
}

impl Rest {
    fn start() -> Rest {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/imported/nodes.py");
        let mut process = Command::new(programs::in_venv("python").expect("Patroni is installed"))
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Python starts");
        let to = process.stdin.take().expect("is a pipe");
        let from = BufReader::new(process.stdout.take().expect("is a pipe")).lines();
        Rest { _process: process, to, from }
    }

    async fn become_as(&mut self, nodes: &Value) {
        self.to.write_all(format!("{nodes}\n").as_bytes()).await.expect("nodes.py reads");
        let answer = in_time("the REST APIs", self.from.next_line()).await.expect("nodes.py answers");
        assert_eq!(answer.as_deref(), Some("done"));
    }
}

fn members(table: &Table, addresses: &Addresses) -> Vec<Member> {
    let mut members = Vec::new();
    for cluster in table["cluster"].as_array().expect("there are some") {
        let has_rest = cluster.get("check").and_then(toml::Value::as_str) != Some("sql");
        for node in cluster["node"].as_array().expect("there are some") {
            let text = |key: &str| node.get(key).and_then(toml::Value::as_str);
            let (host, port) = text("address").and_then(|address| address.split_once(':')).expect("host and port");
            let ip = ip_of(host, addresses);
            let rest_port = text("patroni").and_then(|url| url.rsplit_once(':')).map(|(_, port)| port);
            let rest_port = rest_port.map(|port| port.parse::<u16>().expect("a port"));
            assert_eq!(rest_port.is_some(), has_rest, "{node:?}");
            members.push(Member {
                cluster: cluster["name"].as_str().expect("is text").to_owned(),
                name: text("name").expect("has one").to_owned(),
                ip,
                port: port.parse().expect("a port"),
                rest: rest_port.map(|port| (IpAddr::from(ip), port).into()),
            });
        }
    }
    members
}

/// An address, or a name that DNS knows.
fn ip_of(host: &str, addresses: &Addresses) -> Ipv4Addr {
    host.parse().unwrap_or_else(|_| addresses.named(host))
}
