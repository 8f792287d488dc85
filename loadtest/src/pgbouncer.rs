//! PgBouncer between a proxy and one node of a lab, as it is often installed beside each PostgreSQL.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::error::Doing;
use crate::lab::{Lab, Node};
use crate::login::Login;
use crate::process::{Account, Process};
use crate::{Result, ports, programs, wait};

/// It opens its port at once.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Fewer than the node's `max_connections`.
const SERVER_CONNECTIONS_MAX: u32 = 150;

/// When a client gives its server connection back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// When it disconnects.
    Session,
    /// After each transaction.
    Transaction,
}

impl PoolMode {
    /// PgBouncer's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
        }
    }
}

/// A running PgBouncer; ends when it is dropped.
#[derive(Debug)]
pub struct Pgbouncer {
    node: Node,
    _process: Process,
}

impl Pgbouncer {
    /// Starts it in front of `node` of `lab`, with TLS for clients if `tls` says so (the lab needs it too), and waits
    /// until it accepts connections.
    pub async fn start(lab: &Lab, node: usize, mode: PoolMode, tls: bool) -> Result<Self> {
        let address = ports::free()?;
        let node = &lab.nodes()[node];
        let base = lab.directory().join(format!("pgbouncer-{}", node.name));
        let (configuration, users, rules) =
            (base.with_extension("ini"), base.with_extension("users"), base.with_extension("hba"));
        let logins = [Login::App, Login::Trusting];
        let user = |login: &Login| format!("\"{}\" \"{}\"\n", login.user(), login.password().unwrap_or_default());
        let trusting = Login::Trusting.user();
        let text =
            configuration_text(node, address, mode, tls, [&users, &rules].map(|file| file.display().to_string()));
        for (file, text) in [
            (&configuration, text),
            (&users, logins.iter().map(user).collect()),
            (&rules, format!("host all {trusting} 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")),
        ] {
            fs::write(file, text).doing(|| format!("writing {}", file.display()))?;
        }
        // It refuses to run as root.
        let mut command = Account::for_servers()?.command(&programs::on_path("pgbouncer")?);
        command.arg(&configuration);
        let process = Process::start("pgbouncer", command, lab.directory(), &base.with_extension("log"))?;
        wait::until("PgBouncer's port", READY_WITHIN, || async {
            TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
        })
        .await
        .map_err(|error| error.with_log(&process.log_text()))?;
        let mut node = node.clone();
        node.pg = address;
        Ok(Self { node, _process: process })
    }

    /// Its node, with its own address in place of PostgreSQL's.
    pub fn node(&self) -> &Node {
        &self.node
    }
}

/// Errors of the node are passed on soon: a second after it is back, PgBouncer connects again.
fn configuration_text(node: &Node, bind: SocketAddr, mode: PoolMode, tls: bool, files: [String; 2]) -> String {
    let [users, rules] = files;
    let client_tls = match tls {
        true => {
            let [certificate, key] = node.certificate_files().map(|file| file.display().to_string());
            format!("client_tls_sslmode = allow\nclient_tls_cert_file = {certificate}\nclient_tls_key_file = {key}\n")
        }
        false => String::new(),
    };
    format!(
        "\
[databases]
{database} = host={} port={}

[pgbouncer]
listen_addr = {}
listen_port = {}
unix_socket_dir =
auth_type = hba
auth_hba_file = {rules}
auth_file = {users}
pool_mode = {}
max_client_conn = 500
default_pool_size = {SERVER_CONNECTIONS_MAX}
server_login_retry = 1
server_tls_sslmode = disable
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
{client_tls}",
        node.pg.ip(),
        node.pg.port(),
        bind.ip(),
        bind.port(),
        mode.name(),
        database = Login::App.database(),
    )
}
