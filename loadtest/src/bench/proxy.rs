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
use crate::{Result, ports, programs, wait};

use super::load::Session;

/// Each opens its port at once.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// The session limit of HAProxy and PgBouncer; both check that they have enough descriptors for it.
const SESSIONS_MAX: usize = 9000;

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
}

/// A running proxy in front of the null backend; ends when it is dropped.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub address: SocketAddr,
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
        }
    }

    /// Starts it in front of `backend` with its files in `directory`, and waits until a session can be opened through
    /// it. `rest` is a REST API that reports the backend as the leader.
    pub async fn start(&self, directory: &Path, backend: SocketAddr, rest: SocketAddr) -> Result<Running> {
        let running = match self {
            Self::Pgvane { binary, listener, .. } => {
                let node = Node::elsewhere("null", backend, rest);
                let pgvane = Pgvane::builder(binary, &[node]).write_listener(listener).start(directory).await?;
                let (address, pid) = (pgvane.write_addr, pgvane.process_id());
                Running { address, pid, _process: Held::Pgvane(Box::new(pgvane)) }
            }
            Self::Haproxy { splices } => {
                let address = ports::free()?;
                let text = haproxy_configuration(address, backend, *splices);
                let file = write(directory, &format!("haproxy-bench-{}.cfg", address.port()), &text)?;
                let mut command = Command::new(programs::on_path("haproxy")?);
                command.arg("-db").arg("-f").arg(&file);
                let process = Process::start("haproxy", command, directory, &file.with_extension("log"))?;
                Running { address, pid: process.id(), _process: Held::Other(process) }
            }
            Self::PgBouncer => {
                let address = ports::free()?;
                let text = pgbouncer_configuration(address, backend);
                let file = write(directory, &format!("pgbouncer-{}.ini", address.port()), &text)?;
                // it refuses to run as root
                let mut command = Account::for_servers()?.command(&programs::on_path("pgbouncer")?);
                command.arg(&file);
                let process = Process::start("pgbouncer", command, directory, &file.with_extension("log"))?;
                Running { address, pid: process.id(), _process: Held::Other(process) }
            }
        };
        let address = running.address;
        wait::until(&format!("a session through {}", self.name()), READY_WITHIN, || async {
            let opened = tokio::task::spawn_blocking(move || Session::open(address)?.close()).await;
            opened.expect("opening a session does not panic").map_err(|error| error.to_string())
        })
        .await?;
        Ok(running)
    }
}

fn write(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = directory.join(name);
    fs::write(&file, text).doing(|| format!("writing {}", file.display()))?;
    Ok(file)
}

fn haproxy_configuration(bind: SocketAddr, backend: SocketAddr, splices: bool) -> String {
    let splice = if splices { "option splice-auto" } else { "no option splice-auto" };
    // pipes are two descriptors each, and by default HAProxy reserves one for every fourth session
    format!(
        "\
global
    nbthread 2
    maxconn {SESSIONS_MAX}
    maxpipes 256

defaults
    mode tcp
    {splice}
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m

listen primary
    bind {bind}
    server null {backend}
"
    )
}

fn pgbouncer_configuration(bind: SocketAddr, backend: SocketAddr) -> String {
    format!(
        "\
[databases]
bench = host={} port={} user=bench

[pgbouncer]
listen_addr = {}
listen_port = {}
unix_socket_dir =
auth_type = any
pool_mode = session
max_client_conn = {SESSIONS_MAX}
default_pool_size = {SESSIONS_MAX}
server_reset_query =
server_idle_timeout = 5
log_connections = 0
log_disconnections = 0
",
        backend.ip(),
        backend.port(),
        bind.ip(),
        bind.port(),
    )
}
