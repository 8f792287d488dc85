//! A real cluster on loopback: one etcd, and nodes with Patroni and PostgreSQL.
//!
//! ```no_run
//! # async fn story() -> pgvane_loadtest::Result<()> {
//! use pgvane_loadtest::lab::Lab;
//!
//! let lab = Lab::builder().nodes(3).start().await?;
//! let new_leader = lab.switchover().await?;
//! lab.kill_node(new_leader)?;
//! # Ok(()) }
//! ```

mod before_stop;
mod builder;
pub mod certificate;
mod cluster;
mod faults;
mod files;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tokio_postgres::Client;

use crate::Result;
use crate::login::Login;
use crate::process::{Account, Process, read_log};
use crate::scratch::Scratch;

pub use before_stop::BeforeStop;
pub use builder::LabBuilder;
pub use cluster::Switchover;
pub use faults::Frozen;

/// A direct connection to a node that runs is there within this time, or something is wrong.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);

/// A running cluster. Dropping it ends every process and removes every file.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: first what restarts others, last the directory with all that is left in it.
    patronis: Vec<Mutex<Option<Process>>>,
    etcd: Mutex<Option<Process>>,
    nodes: Vec<Node>,
    setting: Setting,
    scratch: Scratch,
}

/// A member of the cluster.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name in Patroni: `node1`, `node2`, …
    pub name: String,
    /// Where its PostgreSQL listens.
    pub pg: SocketAddr,
    /// Where its Patroni answers.
    pub rest: SocketAddr,
    directory: PathBuf,
}

impl Node {
    /// A member that no lab has started: a fake server of the test, or no server at all. It has no files.
    pub fn elsewhere(name: &str, pg: SocketAddr, rest: SocketAddr) -> Self {
        Self { name: name.to_owned(), pg, rest, directory: PathBuf::new() }
    }

    /// Patroni's configuration file; any node's will do for `patronictl -c`.
    pub fn patroni_config(&self) -> PathBuf {
        self.directory.join("patroni.yml")
    }

    /// Patroni's log file.
    fn patroni_log(&self) -> PathBuf {
        self.directory.join("patroni.log")
    }

    /// PostgreSQL's log file.
    fn postgres_log(&self) -> PathBuf {
        self.directory.join("postgres.log")
    }

    /// Its certificate and the certificate's key, if the lab has TLS.
    pub(crate) fn certificate_files(&self) -> [PathBuf; 2] {
        certificate::FILES.map(|(_, file)| self.directory.join(file))
    }

    /// PostgreSQL's data directory: the working directory of its postmaster and of every backend.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }
}

/// What does not change while a lab runs: programs, accounts and addresses.
#[derive(Debug)]
struct Setting {
    account: Account,
    etcd_program: PathBuf,
    patroni: PathBuf,
    patronictl: PathBuf,
    postgresql_bin: PathBuf,
    etcd_client: SocketAddr,
    etcd_peer: SocketAddr,
}

impl Lab {
    /// A lab of three nodes on free ports, unless told otherwise.
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// The members, in the order that every method's `node: usize` counts them.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The lab's directory; a process that is started in it ends with the lab.
    pub fn directory(&self) -> &Path {
        self.scratch.directory()
    }

    /// Makes a certificate that nobody else has signed, and its key, and returns their files in this order.
    pub fn make_certificate(&self, name: &str) -> Result<[PathBuf; 2]> {
        let directory = self.directory().join(format!("{name}-tls"));
        self.setting.account.make_directory(&directory)?;
        certificate::make(self.setting.account, certificate::Key::Ecdsa, name, &directory)
    }

    /// The `patronictl` that fits this cluster's Patroni.
    pub fn patronictl_program(&self) -> &Path {
        &self.setting.patronictl
    }

    /// What Patroni on `node` has logged so far.
    pub fn log_text(&self, node: usize) -> String {
        read_log(&self.nodes[node].patroni_log())
    }

    /// What PostgreSQL on `node` has logged so far.
    pub fn postgres_log_text(&self, node: usize) -> String {
        read_log(&self.nodes[node].postgres_log())
    }

    /// Where the logs of Patroni and PostgreSQL on `node` are.
    pub fn log_paths(&self, node: usize) -> [PathBuf; 2] {
        [self.nodes[node].patroni_log(), self.nodes[node].postgres_log()]
    }

    /// Connects to PostgreSQL on `node` as superuser, past any proxy.
    pub async fn connect_direct(&self, node: usize) -> Result<Client> {
        Login::Superuser.connect(self.nodes[node].pg, CONNECT_WITHIN).await
    }
}
