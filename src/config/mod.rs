//! What pgvane has been told to do: validated, complete, and only to be had by validation.
//!
//! A file is read by [`Config::from_toml`], a zero-file start by [`Config::from_patroni_urls`]. Neither leaves an
//! `Option` behind that means "default".

mod account;
mod document;
#[cfg(test)]
mod every_key;
pub mod fault;
mod index;
mod read;
mod read_access;
mod read_admin;
mod read_cluster;
mod read_listener;
mod read_secret;
mod read_sql;
mod read_tls;
mod secret;
mod units;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

pub use fault::{Fault, Faults};
pub use index::{ClusterIndex, ListenerIndex};
use ipnet::IpNet;
pub use secret::Secret;
use tracing_subscriber::EnvFilter;
pub use units::{duration, size_text};

use crate::cluster::Member;
use crate::net::{Bind, Networks};
use crate::routing::{Rule, Target};
use crate::tls::{ClientTls, SslMode, TlsSettings};

/// Ports that pgvane takes unless told otherwise.
pub mod default_port {
    /// Leads to the leader.
    pub const WRITE: u16 = 6432;
    /// Leads to the replicas.
    pub const READ: u16 = 6433;
    /// Stats page and metrics.
    pub const ADMIN: u16 = 8404;
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The stats page, the metrics and the API; `None` if they are not served.
    pub admin: Option<Admin>,
    /// How and how much is logged.
    pub log: Log,
    /// How long running sessions may go on after a signal to stop.
    pub drain_timeout: Duration,
    /// How many threads serve sessions.
    pub threads: usize,
    /// The clusters; at least one.
    pub clusters: Vec<Cluster>,
    /// The listeners; at least one.
    pub listeners: Vec<Listener>,
}

/// The stats page, the metrics and the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where they are served.
    pub bind: SocketAddr,
    /// Who may change things; nobody if empty.
    pub users: Vec<AdminUser>,
    /// Whether the page and the API are for users only. Health checks and metrics are for everybody.
    pub requires_login: bool,
}

/// Somebody who may change things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminUser {
    /// The name, without a colon.
    pub name: String,
    /// The password, which is not empty.
    pub password: Secret,
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A filter in tracing's notation: `info`, or `info,pgvane::proxy=debug`.
    pub level: String,
    /// One JSON object a line instead of text.
    pub is_json: bool,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Name in logs, metrics and on the stats page.
    pub name: String,
    /// The nodes that the file names.
    pub nodes: Vec<Member>,
    /// How the nodes' roles are learnt.
    pub check: Check,
    /// How members are found that the file does not name; `None` if they are not.
    pub discovery: Option<Discovery>,
    /// The scope that every node must state: Patroni's, which is PostgreSQL's `cluster_name` too.
    pub scope: Option<String>,
    /// Time between checks of a node while all is quiet.
    pub interval: Duration,
    /// Time between checks while there is no leader, or just after a change.
    pub fast_interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// Answers in a row until a silent replica serves again.
    pub rise: u32,
    /// Checks in a row without an answer until a node counts as silent.
    pub fall: u32,
    /// How long a silent leader's last word counts.
    pub leader_grace: Duration,
    /// Certificates for REST APIs that speak HTTPS.
    pub patroni_tls: PatroniTls,
    /// Whether the nodes are told by a PROXY header for whom they are connected to.
    pub sends_proxy_header: bool,
}

/// How the nodes' roles are learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// By each node's Patroni.
    Patroni {
        /// How to ask the PostgreSQL of a node whose Patroni is silent; not at all if `None`.
        second_opinion: Option<Sql>,
    },
    /// By each node's PostgreSQL.
    Sql(Sql),
}

/// How to ask PostgreSQL itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sql {
    /// The role.
    pub user: String,
    /// Its password; `None` where pg_hba.conf asks for none, or for a certificate.
    pub password: Option<Secret>,
    /// The weakest proof of the password that is given, in libpq's words.
    pub require_auth: RequireAuth,
    /// The database to connect to.
    pub database: String,
    /// How PostgreSQL's own views name our sessions.
    pub application_name: String,
    /// How often the kept connection is opened anew: a hung postmaster still serves old ones.
    pub reconnect: Duration,
    /// Encryption.
    pub tls: TlsSettings,
}

/// The weakest proof of a password that is given to a server (`require_auth` of libpq).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequireAuth {
    /// SCRAM, which shows a server nothing that it could use.
    ScramSha256,
    /// An MD5 hash as well, from which the password can be found out.
    Md5,
    /// The password itself as well, to a server that TLS has verified.
    Password,
}

/// Finding members by Patroni's `/cluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// REST APIs to ask, besides those of members that have been found.
    pub urls: Vec<String>,
    /// The operator has named no node: the REST APIs at these URLs say which cluster is meant.
    pub urls_say_which_cluster: bool,
    /// Networks in which members may be; anywhere if empty.
    pub allow: Vec<IpNet>,
    /// From `host:port` as the cluster knows it to `host:port` as we reach it, for PostgreSQL and Patroni alike.
    pub address_map: BTreeMap<String, String>,
}

/// How to meet REST APIs that speak HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PatroniTls {
    /// Trust these authorities only; the system's if `None`.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate and key, for APIs that want one.
    pub client_identity_file: Option<PathBuf>,
    /// Whatever certificate an API shows is believed.
    pub verifies_nothing: bool,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name in logs, metrics and on the stats page.
    pub name: String,
    /// Where it listens.
    pub bind: Bind,
    /// Index into [`Config::clusters`].
    pub cluster: ClusterIndex,
    /// Where its sessions go.
    pub rule: Rule,
    /// How long a new connection waits for a node before it is refused.
    pub hold_max: Duration,
    /// How many may wait at once.
    pub hold_sessions_max: usize,
    /// How many sessions it carries at once.
    pub sessions_max: usize,
    /// How many of them one client address may have.
    pub sessions_max_per_client: usize,
    /// How many connections may be open that have not yet said what they want.
    pub pending_connections_max: usize,
    /// Who is let in.
    pub access: Access,
    /// From whom PROXY headers are taken; from nobody if `None`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whether the client's address is put behind its `application_name`.
    pub application_name_add_host: bool,
    /// How long connecting to a node may take.
    pub connect_timeout: Duration,
    /// How long a node may take for its first answer.
    pub login_timeout: Duration,
    /// How long a client may take for its first packet.
    pub startup_timeout: Duration,
    /// Idle time after which the kernel asks whether the other side is still there, on both sides.
    pub tcp_keepalive: Duration,
    /// How long sent data may stay unacknowledged before the connection counts as broken, on both sides.
    pub tcp_user_timeout: Duration,
    /// How its sessions' bytes are moved.
    pub relay: RelayMode,
    /// What becomes of TLS that clients ask for.
    pub tls: ClientTls,
    /// TLS towards the nodes, for sessions that are not passed through encrypted.
    pub server_tls: TlsSettings,
}

/// Who is let in by a listener. Where a list is empty, everybody is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// From where.
    pub allow: Networks,
    /// As which users.
    pub users: Vec<String>,
    /// Into which databases; for a client that streams WAL the word `replication` stands.
    pub databases: Vec<String>,
}

/// The PROXY protocol on a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// The proxies whose headers are believed.
    pub trusted: Networks,
    /// Whether their connections must begin with one.
    pub is_required: bool,
}

/// How bytes get from one socket to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayMode {
    /// Copied while a session converses, spliced while it streams.
    Auto,
    /// Always copied.
    Copy,
    /// Spliced whenever there is enough to.
    Splice,
}

impl Config {
    /// Reads a file's text. `file` is its name for messages.
    ///
    /// Errors: every fault in the file, each with its line.
    pub fn from_toml(file: &str, text: &str) -> Result<Config, Faults> {
        read::config(file, text)
    }

    /// The configuration of a start without a file: discovery through these REST APIs, and the default ports.
    ///
    /// Errors: URLs that are none.
    pub fn from_patroni_urls(urls: &[String]) -> Result<Config, Faults> {
        let faults: Vec<Fault> = urls.iter().filter_map(|url| read_cluster::patroni_url(url).err()).collect();
        if !faults.is_empty() {
            return Err(Faults { file: "--patroni".to_owned(), list: faults });
        }
        let mut cluster = Cluster::named("main");
        cluster.discovery = Some(Discovery {
            urls: urls.iter().map(|url| read_cluster::base_of(url)).collect(),
            urls_say_which_cluster: true,
            allow: Vec::new(),
            address_map: BTreeMap::new(),
        });
        let any = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        Ok(Config {
            admin: Some(Admin::default()),
            log: Log::default(),
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            threads: default_threads(),
            clusters: vec![cluster],
            listeners: vec![
                Listener::new("write", any(default_port::WRITE).into(), Target::Leader),
                Listener::new("read", any(default_port::READ).into(), Target::Replica),
            ],
        })
    }
}

impl Config {
    /// The same, with the stats page at this address.
    pub fn with_admin_at(mut self, bind: SocketAddr) -> Config {
        self.admin = self.admin.map(|admin| Admin { bind, ..admin });
        self
    }
}

const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// As many as the process may run at once.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

impl Log {
    /// Reads a level such as `info`, or a filter such as `info,pgvane::proxy=debug`. The error is a hint.
    ///
    /// A word that is not a level would be taken for the name of a module, and nothing be logged at all: it is refused.
    pub fn filter(text: &str) -> Result<EnvFilter, String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let hint = "write error, warn, info, debug or trace, or a filter such as \"info,pgvane::proxy=debug\"";
        let is_known = |directive: &str| {
            let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
            LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level.trim()))
        };
        if !text.split(',').all(is_known) {
            return Err(hint.to_owned());
        }
        EnvFilter::builder().parse(text).map_err(|_| hint.to_owned())
    }
}

impl Default for Admin {
    fn default() -> Admin {
        // what it shows is of use to a stranger: who wants it on the network says so
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, default_port::ADMIN));
        Admin { bind, users: Vec::new(), requires_login: false }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { level: "info".to_owned(), is_json: false }
    }
}

impl Cluster {
    /// A cluster without nodes, with the default of every setting.
    fn named(name: &str) -> Cluster {
        Cluster {
            name: name.to_owned(),
            nodes: Vec::new(),
            check: Check::Patroni { second_opinion: None },
            discovery: None,
            scope: None,
            interval: Duration::from_secs(1),
            fast_interval: Duration::from_millis(100),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            // Patroni's default ttl of 30 s less one loop_wait of 10 s: no other node can have got the lock sooner
            leader_grace: Duration::from_secs(20),
            patroni_tls: PatroniTls::default(),
            sends_proxy_header: false,
        }
    }
}

impl Sql {
    /// A user without password, with the default of every setting.
    fn of_user(user: &str) -> Sql {
        Sql {
            user: user.to_owned(),
            password: None,
            require_auth: RequireAuth::ScramSha256,
            database: "postgres".to_owned(),
            application_name: "pgvane check".to_owned(),
            // often enough to notice a hung postmaster within minutes, rare enough not to fill a log with connections
            reconnect: Duration::from_secs(300),
            // libpq's default
            tls: TlsSettings::of_mode(SslMode::Prefer),
        }
    }
}

impl Cluster {
    /// Whether a REST API may have to be asked by HTTPS: one that is named so, or one that is still to be found.
    pub fn may_speak_https(&self) -> bool {
        let found = self.discovery.iter().flat_map(|discovery| &discovery.urls);
        let mut urls = self.nodes.iter().map(|node| &node.patroni_url).chain(found);
        self.patroni_tls != PatroniTls::default() || urls.any(|url| url.starts_with("https:"))
    }
}

impl Listener {
    /// A listener of the first cluster, with the default of every setting.
    fn new(name: &str, bind: Bind, target: Target) -> Listener {
        Listener {
            name: name.to_owned(),
            bind,
            cluster: ClusterIndex(0),
            rule: Rule::new(target),
            // a crash with Patroni's default ttl of 30 s, and the promotion after it
            hold_max: Duration::from_secs(40),
            hold_sessions_max: 1000,
            sessions_max: 10_000,
            sessions_max_per_client: usize::MAX,
            pending_connections_max: 1000,
            access: Access::default(),
            proxy_protocol: None,
            application_name_add_host: false,
            connect_timeout: Duration::from_secs(3),
            login_timeout: Duration::from_secs(10),
            startup_timeout: Duration::from_secs(10),
            tcp_keepalive: Duration::from_secs(30),
            tcp_user_timeout: Duration::from_secs(60),
            relay: RelayMode::Auto,
            tls: ClientTls::Passthrough,
            // anything else, and libpq's clients would be asked for a channel binding that cannot reach through us
            server_tls: TlsSettings::of_mode(SslMode::Disable),
        }
    }
}
