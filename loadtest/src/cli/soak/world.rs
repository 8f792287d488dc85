//! What a run takes place in: the cluster, pgvane, and, in a soak, the network and the name server between the two.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use pgvane_loadtest::lab::{Lab, Node};
use pgvane_loadtest::name_server::NameServer;
use pgvane_loadtest::namespace::{self, Namespace};
use pgvane_loadtest::pgbouncer::Pgbouncer;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::tls::Endpoint;
use pgvane_loadtest::{Error, Result};
use tokio::process::Command;

use super::load::Ports;
use super::plan::Kind;
use super::variant::Variant;

/// Longer than any time without a leader, so that no client may be refused.
const HOLD_MAX: &str = "120s";
/// Longer than any silence of a leader that keeps the lead.
const LEADER_GRACE: &str = "15s";
/// pgvane's limit, soft and hard: enough for the largest crowd and its servers.
pub(super) const DESCRIPTORS_MAX: u32 = 4096;
/// Clients whose TLS ends at pgvane stay in the old process after an upgrade. They end by themselves before this.
const DRAIN_TIMEOUT: &str = "5min";
/// PostgreSQL's, in a soak: it has more clients, and no replica cancels a query because of what vacuum has removed.
const PARAMETERS: [(&str, &str); 3] =
    [("max_connections", "400"), ("hot_standby_feedback", "on"), ("max_standby_streaming_delay", "-1")];
const DOMAIN: &str = "soak.test";
const OPERATOR: &str = "ops";
const PASSWORD: &str = "a password of twenty letters";

#[derive(Debug)]
pub(super) struct World {
    // Dropped in this order: pgvane before what it uses.
    pub(super) pgvane: Pgvane,
    pub(super) network: Option<Network>,
    _poolers: Vec<Pgbouncer>,
    pub(super) lab: Lab,
    /// pgvane's program, for commands.
    program: PathBuf,
    /// pgvane's certificate and key, if clients' TLS ends there.
    pub(super) certificate: Option<[PathBuf; 2]>,
    clients_use_tls: bool,
}

/// The network of a soak: pgvane is on a host of its own.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) names: NameServer,
    /// An address of this host that no other client uses.
    pub(super) second_client: Ipv4Addr,
    pub(super) namespace: Namespace,
}

impl World {
    pub(super) async fn start(program: &Path, kind: Kind, variant: Variant) -> Result<World> {
        let lab = variant.lab().synchronous_mode(true);
        let lab = match kind {
            Kind::Chaos => lab,
            Kind::Soak => PARAMETERS
                .into_iter()
                .fold(lab.reachable_from(namespace::NETWORK), |lab, (name, value)| lab.parameter(name, value)),
        };
        let lab = lab.start().await?;
        let poolers = variant.poolers(&lab).await?;
        let network = match kind {
            Kind::Chaos => None,
            Kind::Soak => Some(Network::start(&lab).await?),
        };
        let pgvane = Pgvane::builder(program, &Variant::nodes(&lab, &poolers));
        let mut pgvane = pgvane.cluster(&format!("leader_grace = \"{LEADER_GRACE}\"")).hold_max(HOLD_MAX);
        pgvane = pgvane.descriptors_max(DESCRIPTORS_MAX).top(&format!("drain_timeout = \"{DRAIN_TIMEOUT}\""));
        if let Some(network) = &network {
            let password = password_file(&lab);
            std::fs::write(&password, format!("{PASSWORD}\n"))
                .map_err(|error| io_error("writing a password", error))?;
            let user = format!("users = [{{ name = \"{OPERATOR}\", password_file = \"{}\" }}]", password.display());
            pgvane = pgvane.in_namespace(&network.namespace).by_name(DOMAIN, &network.names.files(lab.directory())?);
            pgvane = pgvane.admin(&user).cluster("park = true");
        }
        let (pgvane, certificate) = variant.with_tls(pgvane, &lab)?;
        let pgvane = pgvane.start(lab.directory()).await?;
        let clients_use_tls = variant.clients_use_tls();
        Ok(World { pgvane, network, _poolers: poolers, lab, program: program.to_owned(), certificate, clients_use_tls })
    }

    pub(super) fn ports(&self) -> Ports {
        let [write, read] = [self.pgvane.write_addr, self.pgvane.read_addr]
            .map(|address| Endpoint { address, tls: self.clients_use_tls });
        Ports { write, read }
    }

    /// An address of this host for clients that must not use up what one client may have.
    pub(super) fn second_client(&self) -> Ipv4Addr {
        self.network.as_ref().map_or(Ipv4Addr::new(127, 0, 0, 99), |network| network.second_client)
    }

    /// The network, of a run that has one.
    pub(super) fn network(&self) -> Result<&Network> {
        let missing = || Error::Missing { program: "a network between pgvane and the nodes".to_owned() };
        self.network.as_ref().ok_or_else(missing)
    }

    /// Runs `pgvane COMMAND` as an operator. Returns whether it ended with success, and what it printed.
    pub(super) async fn operator(&self, command: &[&str]) -> Result<(bool, String)> {
        let admin = format!("http://{}", self.pgvane.admin_addr);
        let mut process = Command::new(&self.program);
        process.args(command).args(["--admin", &admin, "--user", OPERATOR, "--password-file"]);
        let output = process.arg(password_file(&self.lab)).kill_on_drop(true).output().await;
        let output = output.map_err(|error| io_error("starting pgvane as a command", error))?;
        let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Ok((output.status.success(), printed))
    }

    /// The same; an error if it does not end with success.
    pub(super) async fn ordered(&self, command: &[&str]) -> Result<String> {
        match self.operator(command).await? {
            (true, printed) => Ok(printed),
            (false, output) => Err(Error::Command { command: format!("pgvane {}", command.join(" ")), output }),
        }
    }
}

impl Network {
    async fn start(lab: &Lab) -> Result<Network> {
        if let Some(why) = namespace::unavailable_because() {
            return Err(Error::Missing { program: format!("a network for pgvane ({why})") });
        }
        let namespace = Namespace::new()?;
        let names = NameServer::start(namespace.outer()).await?;
        for Node { name, .. } in lab.nodes() {
            names.set(&format!("{name}.{DOMAIN}"), &[namespace.outer().into()]);
        }
        let second_client = namespace.second_client()?;
        Ok(Network { names, second_client, namespace })
    }
}

fn password_file(lab: &Lab) -> PathBuf {
    lab.directory().join("operators-password")
}

pub(super) fn io_error(doing: &str, source: std::io::Error) -> Error {
    Error::Io { doing: doing.to_owned(), source }
}
