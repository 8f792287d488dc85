//! The proxies that are compared, each configured as usual for one server that is always the leader.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::Doing;
use crate::lab::Node;
use crate::pgvane::Pgvane;
use crate::process::{Account, Process};
use crate::{Error, Result, ports, programs, wait};

use super::configuration;
use super::load::{Server, Session};

/// Each opens its port at once.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// A proxy that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// pgvane, from a binary. Several can be measured, under different names.
    Pgvane {
        /// The title of its column.
        name: String,
        /// The program.
        binary: PathBuf,
        /// More lines of TOML for its write listener.
        listener: String,
    },
    /// HAProxy in TCP mode, two threads.
    Haproxy {
        /// Whether `option splice-auto` is set.
        splices: bool,
    },
    /// PgBouncer with `pool_mode = session`.
    PgBouncer,
    /// stunnel, for clients with TLS only.
    Stunnel,
}

/// A certificate for TLS with clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// In PEM.
    pub file: PathBuf,
    /// Its key's file.
    pub key: PathBuf,
}

/// What a proxy is started for.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// Where its files go.
    pub directory: &'a Path,
    /// The null backend, or a real server.
    pub backend: SocketAddr,
    /// A REST API that reports the backend as the leader.
    pub rest: SocketAddr,
    /// The session limit of HAProxy and PgBouncer; both check that they have enough descriptors for it.
    pub sessions_max: usize,
    /// Number of its ports. PgBouncer can have one only.
    pub ports: usize,
    /// If there is one, TLS ends at the proxy. HAProxy cannot do that, because clients ask for TLS in PostgreSQL's way.
    pub certificate: Option<&'a Certificate>,
}

/// A running proxy in front of the null backend; ends when it is dropped.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub server: Server,
    /// Its process id.
    pub pid: u32,
    _process: Held,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held so that it is dropped, and the process ends, with its owner")]
enum Held {
    Pgvane(Box<Pgvane>),
    Other(Process),
}

impl Proxy {
    /// The title of its column.
    pub fn name(&self) -> &str {
        match self {
            Self::Pgvane { name, .. } => name,
            Self::Haproxy { splices: false } => "HAProxy",
            Self::Haproxy { splices: true } => "HAProxy with splice",
            Self::PgBouncer => "PgBouncer",
            Self::Stunnel => "stunnel",
        }
    }

    /// Starts it and waits until a session can be opened through each of its ports.
    pub async fn start(&self, setup: &Setup<'_>) -> Result<Running> {
        let running = match self {
            Self::Pgvane { binary, listener, .. } => start_pgvane(binary, listener, setup).await?,
            Self::Haproxy { splices } => start_haproxy(*splices, setup)?,
            Self::PgBouncer => start_pgbouncer(setup)?,
            Self::Stunnel => start_stunnel(setup)?,
        };
        for number in 0..setup.ports {
            let server = running.server.clone();
            wait::until(&format!("a session through {}", self.name()), READY_WITHIN, || async {
                let server = server.clone();
                let opened = tokio::task::spawn_blocking(move || Session::open(&server, number)?.close()).await;
                opened.expect("opening a session does not panic").map_err(|error| error.to_string())
            })
            .await?;
        }
        Ok(running)
    }
}

async fn start_pgvane(binary: &Path, lines: &str, setup: &Setup<'_>) -> Result<Running> {
    let tls = setup.certificate.map_or(String::new(), configuration::terminating);
    let lines = format!("{lines}\n{tls}");
    let further: Vec<SocketAddr> = (1..setup.ports).map(|_| ports::free()).collect::<Result<_>>()?;
    let node = Node::elsewhere("null", setup.backend, setup.rest);
    let pgvane = Pgvane::builder(binary, &[node])
        .write_listener(&lines)
        .more(&configuration::further_listeners(&further, &lines))
        .start(setup.directory)
        .await?;
    let addresses = [pgvane.write_addr].into_iter().chain(further).collect();
    let pid = pgvane.process_id();
    let server = Server { addresses, tls: setup.certificate.is_some() };
    Ok(Running { server, pid, _process: Held::Pgvane(Box::new(pgvane)) })
}

fn start_haproxy(splices: bool, setup: &Setup<'_>) -> Result<Running> {
    let addresses: Vec<SocketAddr> = (0..setup.ports.max(1)).map(|_| ports::free()).collect::<Result<_>>()?;
    let text = configuration::haproxy(&addresses, setup.backend, setup.sessions_max, splices);
    let file = write(setup.directory, &format!("haproxy-bench-{}.cfg", addresses[0].port()), &text)?;
    let mut command = Command::new(programs::on_path("haproxy")?);
    command.arg("-db").arg("-f").arg(&file);
    let process = Process::start("haproxy", command, setup.directory, &file.with_extension("log"))?;
    Ok(Running { server: Server { addresses, tls: false }, pid: process.id(), _process: Held::Other(process) })
}

fn start_pgbouncer(setup: &Setup<'_>) -> Result<Running> {
    let address = ports::free()?;
    let text = configuration::pgbouncer(address, setup.backend, setup.sessions_max, setup.certificate);
    let file = write(setup.directory, &format!("pgbouncer-{}.ini", address.port()), &text)?;
    // it refuses to run as root
    let mut command = Account::for_servers()?.command(&programs::on_path("pgbouncer")?);
    command.arg(&file);
    let process = Process::start("pgbouncer", command, setup.directory, &file.with_extension("log"))?;
    let server = Server { addresses: vec![address], tls: setup.certificate.is_some() };
    Ok(Running { server, pid: process.id(), _process: Held::Other(process) })
}

fn start_stunnel(setup: &Setup<'_>) -> Result<Running> {
    let missing = || Error::Missing { program: "a certificate for stunnel".to_owned() };
    let address = ports::free()?;
    let text = configuration::stunnel(address, setup.backend, setup.certificate.ok_or_else(missing)?);
    let file = write(setup.directory, &format!("stunnel-{}.conf", address.port()), &text)?;
    let mut command = Command::new(programs::on_path("stunnel")?);
    command.arg(&file);
    let process = Process::start("stunnel", command, setup.directory, &file.with_extension("log"))?;
    let server = Server { addresses: vec![address], tls: true };
    Ok(Running { server, pid: process.id(), _process: Held::Other(process) })
}

fn write(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = directory.join(name);
    fs::write(&file, text).doing(|| format!("writing {}", file.display()))?;
    Ok(file)
}
