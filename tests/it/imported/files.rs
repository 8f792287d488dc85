//! The samples' files, made to run on any machine: addresses become some of loopback, ports free ones, waits short.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pgvane_loadtest::name_server::NameServer;
use pgvane_loadtest::ports;
use regex_lite::{Captures, Regex};
use serde_json::{Value, json};

use super::Proxy;
use super::world::Member;
use crate::certificates::Certificates;

/// Hosts of the samples that are clients, the name server, and where the proxies listen.
const CLIENT: u8 = 1;
const NAME_SERVER: u8 = 53;
const LISTENS: u8 = 100;

/// Between HAProxy's addresses, 100 and 101, and pgvane's.
const PGVANES: u8 = 2;

/// A network of loopback for one sample: 10.0.0.N of the file is 127.A.B.N.
pub struct Addresses {
    network: [u8; 2],
}

impl Addresses {
    /// Programs that run at the same time, and samples of one program, have different networks.
    pub fn numbered(sample: u8) -> Addresses {
        let program = u8::try_from(std::process::id() % 200).expect("is less than 200");
        Addresses { network: [program + 20, sample] }
    }

    pub fn client(&self) -> Ipv4Addr {
        self.host(CLIENT)
    }

    /// A client of another network.
    pub fn stranger(&self) -> Ipv4Addr {
        Addresses { network: [self.network[0], 200 + self.network[1]] }.client()
    }

    /// Where a proxy listens, as pgvane's file says it.
    pub fn of(&self, proxy: Proxy, bind: SocketAddr) -> SocketAddr {
        let SocketAddr::V4(bind) = bind else { panic!("the samples have IPv4 only: {bind}") };
        let [a, b, c, host] = bind.ip().octets();
        let host = if proxy == Proxy::Haproxy { host - PGVANES } else { host };
        SocketAddrV4::new([a, b, c, host].into(), bind.port()).into()
    }

    /// The address of a node that has a name: pg1 is host 11.
    pub fn named(&self, name: &str) -> Ipv4Addr {
        let number: u8 = name.strip_prefix("pg").and_then(|number| number.parse().ok()).expect("names such as pg1");
        self.host(10 + number)
    }

    /// One that knows the nodes.
    pub async fn name_server(&self, members: &[Member]) -> NameServer {
        let server = NameServer::start(self.host(NAME_SERVER)).await.unwrap_or_else(|error| panic!("{error}"));
        for member in members {
            server.set(&member.name, &[member.ip.into()]);
        }
        server
    }

    /// HAProxy's file: addresses and ports of our own, checks in quick succession that count at once.
    pub fn in_haproxys_file(&self, text: &str, directory: &Path) -> String {
        let [a, b] = self.network;
        let text = replaced(text, r"(bind\s+)\*?:", &format!("${{1}}10.0.0.{LISTENS}:"));
        let text = with_free_ports(&text);
        let text = replaced(&text, r"\b10\.0\.0\.(\d+)", &format!("127.{a}.{b}.${{1}}"));
        let text = replaced(&text, r"\b(inter|fastinter|downinter) \d+(ms|s)?", "${1} 200ms");
        let text = replaced(&text, r"\b(fall|rise) \d+", "${1} 1");
        let text = replaced(&text, r"\bslowstart \d+s", "slowstart 1s");
        // the directory /run/haproxy is made by the service
        text.replace("/run/haproxy/", &format!("{}/", directory.display()))
    }

    /// pgvane's file: it listens beside HAProxy, and says at once that nobody serves a client.
    pub fn in_pgvanes_file(&self, toml: &str) -> String {
        let [a, b] = self.network;
        let network = format!("\"127.{a}.{b}.");
        let toml = replaced(toml, "(?m)^hold_max = .*\n", "");
        let mut toml = toml.replace("[[listener]]\n", "[[listener]]\nhold_max = \"200ms\"\n");
        for host in [LISTENS, LISTENS + 1] {
            toml = toml.replace(&format!("{network}{host}:"), &format!("{network}{}:", host + PGVANES));
        }
        toml
    }

    fn host(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.network[0], self.network[1], host)
    }
}

fn replaced(text: &str, pattern: &str, by: &str) -> String {
    Regex::new(pattern).expect("a pattern").replace_all(text, by).into_owned()
}

/// A free port in place of each that the file names, the same one for the same; DNS' own port stays.
fn with_free_ports(text: &str) -> String {
    let mut free = std::collections::BTreeMap::new();
    let named = Regex::new(r"(:|\bport |PORT |PORT-)(\d{4})\b").expect("a pattern");
    let by = |found: &Captures<'_>| {
        let port = free.entry(found[2].to_owned()).or_insert_with(|| ports::free().expect("a port").port());
        format!("{}{port}", &found[1])
    };
    named.replace_all(text, by).into_owned()
}

/// What the samples call `tls/rest-ca.pem` and `tls/balancer.pem`, and the certificate of all nodes.
pub fn certificates(directory: &Path, addresses: &Addresses) {
    let certificates = Certificates::new();
    let nodes: Vec<String> = (1..=3).map(|node| addresses.host(10 + node).to_string()).collect();
    certificates.issue_for("node", &nodes);
    certificates.issue("balancer", "balancer");
    let text = |name: &str| fs::read_to_string(certificates.path(name)).expect("was written");
    let tls = directory.join("tls");
    fs::create_dir(&tls).expect("it is new");
    let identity = |name: &str| text(&format!("{name}.pem")) + &text(&format!("{name}.key"));
    for (file, pem) in [("rest-ca", text("ca.pem")), ("balancer", identity("balancer")), ("node", identity("node"))] {
        let file = tls.join(format!("{file}.pem"));
        fs::write(&file, pem).expect("is written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("is ours");
    }
}

/// Patroni's settings of TLS, as in its `restapi` section.
pub fn patronis_tls(directory: &Path, verifies_clients: bool) -> Value {
    let file = |name: &str| directory.join("tls").join(name).display().to_string();
    let verify_client = if verifies_clients { "required" } else { "none" };
    json!({"certfile": file("node.pem"), "cafile": file("rest-ca.pem"), "verify_client": verify_client})
}
