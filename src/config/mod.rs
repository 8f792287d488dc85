//! The configuration: validated and complete. It can be created only through validation.
//!
//! [`Config::from_toml`] reads a file, [`Config::from_patroni_urls`] is for a start without a file. In neither result
//! does a `None` mean "default".

mod account;
pub mod diff;
mod document;
mod environment;
#[cfg(test)]
mod every_change;
#[cfg(test)]
mod every_key;
pub mod fault;
mod foreign_words;
mod index;
mod read;
mod read_access;
mod read_admin;
mod read_admin_sockets;
mod read_carry;
mod read_cluster;
mod read_listener;
mod read_secret;
mod read_sql;
mod read_tls;
mod secret;
mod section;
mod settings;
mod syntax;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use fault::{Fault, Faults};
pub use index::{ClusterIndex, ListenerIndex};
use ipnet::IpNet;
pub use secret::Secret;
use tracing_subscriber::EnvFilter;
pub use units::{duration, size_text};

use crate::cluster::node::ServerKind;
use crate::cluster::{HostPort, Member, Suspicion};
use crate::net::{Binds, Ipv6Prefix, Networks, Peer, UnixBind};
use crate::routing::{ParkSettings, Rule, Target};
use crate::tls::{ClientTls, SslMode, TlsSettings};

/// The default ports.
pub mod default_port {
    /// Connects to the leader.
    pub const WRITE: u16 = 6432;
    /// Connects to the replicas.
    pub const READ: u16 = 6433;
    /// Stats page and metrics.
    pub const ADMIN: u16 = 8404;
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The stats page, the metrics and the API; `None` if they are not served.
    pub admin: Option<Admin>,
    /// UNIX sockets that take the commands of HAProxy's runtime API.
    pub admin_sockets: Vec<AdminSocket>,
    /// What is logged, and in which format.
    pub log: Log,
    /// How long running sessions may continue after a signal to stop.
    pub drain_timeout: Duration,
    /// How many threads serve sessions.
    pub threads: usize,
    /// The clusters; at least one.
    pub clusters: Vec<Cluster>,
    /// The listeners; at least one.
    pub listeners: Vec<Listener>,
    /// What pgvane can start with, but what the operator must know of the file: texts with file and line. No settings.
    pub file_warnings: Vec<String>,
}

/// The stats page, the metrics and the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where they are served.
    pub bind: SocketAddr,
    /// The users that may change the state of nodes; nobody may if it is empty.
    pub users: Vec<AdminUser>,
    /// Whether the page and the API need a login. Health checks and metrics never need one.
    pub requires_login: bool,
    /// Names under which the page and the API are served, besides IP addresses, `localhost` and this machine's name.
    pub hosts: Vec<String>,
}

/// A UNIX socket that takes the commands of HAProxy's runtime API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSocket {
    /// Its path, its permissions and its owner.
    pub file: UnixBind,
    /// What may be done there.
    pub level: SocketLevel,
    /// How long a client may send nothing.
    pub idle_timeout: Duration,
}

/// What may be done at a socket; HAProxy has the same levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketLevel {
    /// Read what is not about clients.
    User,
    /// Read everything.
    Operator,
    /// Change everything that operators can change.
    Admin,
}

impl SocketLevel {
    /// All levels.
    pub const ALL: [SocketLevel; 3] = [SocketLevel::User, SocketLevel::Operator, SocketLevel::Admin];

    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            SocketLevel::User => "user",
            SocketLevel::Operator => "operator",
            SocketLevel::Admin => "admin",
        }
    }
}

/// A user that may change the state of nodes.
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
    /// A filter in the syntax of `tracing`: `info`, or `info,pgvane::proxy=debug`.
    pub level: String,
    /// One JSON object per line instead of text.
    pub is_json: bool,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Name in logs, metrics and on the stats page.
    pub name: String,
    /// The nodes that the file names.
    pub nodes: Vec<Member>,
    /// How pgvane learns the nodes' roles.
    pub check: Check,
    /// How members that the file does not name are found; `None` if they are not.
    pub discovery: Option<Discovery>,
    /// The scope that every node must have: Patroni's, which is also PostgreSQL's `cluster_name`.
    pub scope: Option<String>,
    /// Time between checks of a node in normal operation.
    pub interval: Duration,
    /// Time between checks while there is no leader, and shortly after a change.
    pub fast_interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// The number of consecutive answers until a silent replica gets sessions again.
    pub rise: u32,
    /// The number of consecutive checks without an answer until a node counts as silent.
    pub fall: u32,
    /// How long a silent leader still counts as the leader.
    pub leader_grace: Duration,
    /// How long its write sessions may be parked; they cannot be if `None`.
    pub park: Option<ParkSettings>,
    /// How parked sessions are carried to another leader; they are not if `None`.
    pub carry: Option<CarrySettings>,
    /// Certificates for REST APIs with HTTPS.
    pub patroni_tls: PatroniTls,
    /// How pgvane logs in to REST APIs to start a switchover; without a login if `None`.
    pub patroni_login: Option<PatroniLogin>,
    /// Whether connections to the nodes begin with a PROXY header that contains the client's address.
    pub sends_proxy_header: bool,
}

/// How parked sessions are carried to another leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarrySettings {
    /// The names of the custom settings (`SET app.tenant = …`) that sessions may have: PostgreSQL shows these to nobody who
    /// does not ask for them by name.
    pub custom_settings: Vec<String>,
    /// How fast sessions log in to the new leader.
    pub rate: ConnectionRate,
    /// How to ask for the verifiers of roles whose sessions have logged in by SCRAM; these are not carried if `None`.
    pub auth_query: Option<AuthQuerySettings>,
}

/// The query for the SCRAM verifier of a role. It is asked with the login of `[cluster.sql]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthQuerySettings {
    /// Its text, with `$1` for the role. It gives the role's name and its verifier, or the verifier alone.
    pub text: String,
    /// The database in which it is asked; that of `[cluster.sql]` if `None`.
    pub database: Option<String>,
}

/// How pgvane learns the nodes' roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// From each node's Patroni.
    Patroni {
        /// How to ask the PostgreSQL of a node whose Patroni does not answer; it is not asked if `None`.
        second_opinion: Option<Sql>,
    },
    /// From each node's PostgreSQL.
    Sql(Sql),
}

/// How to log in to PostgreSQL for checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sql {
    /// The role.
    pub user: String,
    /// Its password; `None` if pg_hba.conf asks for no password, or for a certificate.
    pub password: Option<Secret>,
    /// The weakest authentication method with which the password is used.
    pub require_auth: RequireAuth,
    /// The database to connect to.
    pub database: String,
    /// The name of the connection in `pg_stat_activity`.
    pub application_name: String,
    /// How often the connection is opened again: a postmaster that hangs still serves old connections.
    pub reconnect: Duration,
    /// Encryption.
    pub tls: TlsSettings,
}

/// The weakest authentication method with which a password is used (`require_auth` of libpq).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequireAuth {
    /// SCRAM, which does not send a server anything from which it could learn the password.
    ScramSha256,
    /// Also an MD5 hash, from which a server can compute the password.
    Md5,
    /// Also the password itself, to a server that TLS has verified.
    Password,
}

/// How members are found through Patroni's `/cluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// REST APIs to ask, besides those of discovered members.
    pub urls: Vec<String>,
    /// The operator has named no node: the REST APIs at these URLs decide which cluster is used.
    pub urls_say_which_cluster: bool,
    /// Networks in which members may be; any network if empty.
    pub allow: Vec<IpNet>,
    /// From `host:port` in the cluster to `host:port` at which pgvane reaches it, for PostgreSQL and Patroni.
    pub address_map: BTreeMap<HostPort, HostPort>,
}

/// TLS with REST APIs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PatroniTls {
    /// Only these authorities are trusted; the system's if `None`.
    pub ca_file: Option<PathBuf>,
    /// PEM file with pgvane's certificate and key, for APIs that ask for one.
    pub client_identity_file: Option<PathBuf>,
    /// Every certificate of an API is accepted.
    pub verifies_nothing: bool,
}

/// A login to REST APIs: `restapi.authentication` in patroni.yml. Checks need none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatroniLogin {
    /// The user.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name in logs, metrics and on the stats page.
    pub name: String,
    /// Where it listens.
    pub binds: Binds,
    /// Index into [`Config::clusters`].
    pub cluster: ClusterIndex,
    /// Where its sessions go.
    pub rule: Rule,
    /// What its sessions reach on the nodes; `None`: see [`Listener::server_kind_on`].
    pub server_kind: Option<ServerKind>,
    /// How long a new connection waits for a node before it is refused.
    pub hold_max: Duration,
    /// How many connections may wait at the same time.
    pub hold_sessions_max: usize,
    /// The maximum number of sessions at the same time.
    pub sessions_max: usize,
    /// The maximum number of sessions from one client address.
    pub sessions_max_per_client: usize,
    /// How fast one client may connect; `None`: as fast as it likes.
    pub connection_rate_max_per_client: Option<ConnectionRate>,
    /// What is one client among IPv6 addresses.
    pub client_ipv6_prefix: Ipv6Prefix,
    /// The maximum number of connections that have not yet sent their startup packet.
    pub pending_connections_max: usize,
    /// Which clients may connect.
    pub access: Access,
    /// From which proxies PROXY headers are accepted; from none if `None`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whether the client's address is appended to its `application_name`.
    pub application_name_add_host: bool,
    /// How long a connection attempt to a node may take.
    pub connect_timeout: Duration,
    /// How long a node may take for its first answer to a login.
    pub login_timeout: Duration,
    /// How long a client may take to send its startup packet.
    pub startup_timeout: Duration,
    /// Idle time before TCP keepalive probes, for clients and nodes.
    pub tcp_keepalive: Duration,
    /// How long sent data may stay unacknowledged before the connection counts as broken, for clients and nodes.
    pub tcp_user_timeout: Duration,
    /// How the bytes of its sessions are moved.
    pub relay: RelayMode,
    /// What happens when clients ask for TLS.
    pub tls: ClientTls,
    /// TLS with the nodes, for sessions whose encryption is not passed through.
    pub server_tls: TlsSettings,
}

/// Which clients may connect to a listener. An empty list allows all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Their networks.
    pub allow: Networks,
    /// The users that they may connect as.
    pub users: Vec<String>,
    /// The databases that they may connect to. `replication` stands for clients that stream WAL.
    pub databases: Vec<String>,
}

/// The PROXY protocol on a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// The proxies whose headers are accepted.
    pub trusted: Networks,
    /// Whether their connections must begin with a header.
    pub is_required: bool,
}

/// A number of connections in a time. They may come all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionRate {
    /// The number.
    pub count: NonZeroU32,
    /// The time.
    pub within: Duration,
}

impl fmt::Display for ConnectionRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:?}", self.count, self.within)
    }
}

/// How bytes get from one socket to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayMode {
    /// Copied, and spliced while a session streams.
    Auto,
    /// Always copied.
    Copy,
    /// Spliced whenever there is enough data.
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
    /// Errors: every URL that is not valid.
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
            admin_sockets: Vec::new(),
            file_warnings: Vec::new(),
        })
    }
}

impl Config {
    /// What pgvane can start with, but what the operator must know.
    pub fn warnings(&self) -> Vec<String> {
        self.file_warnings.iter().cloned().chain(self.clusters.iter().filter_map(Cluster::warning)).collect()
    }

    /// The ports of a cluster's nodes that its listeners have as their own.
    pub fn own_ports(&self, cluster: ClusterIndex) -> BTreeSet<NonZeroU16> {
        let listeners = self.listeners.iter().filter(|listener| listener.cluster == cluster);
        listeners.filter_map(|listener| listener.rule.port).collect()
    }

    /// The same configuration, with the stats page at this address.
    pub fn with_admin_at(mut self, bind: SocketAddr) -> Config {
        self.admin = self.admin.map(|admin| Admin { bind, ..admin });
        self
    }
}

const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The number of CPU cores that the process may use.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

impl Log {
    /// Reads a level such as `info`, or a filter such as `info,pgvane::proxy=debug`. The error says how to write it.
    ///
    /// `tracing` takes an unknown level for the name of a module, and would log nothing. So it is refused.
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
        // the page would help an attacker: it is on the network only if the operator configures that
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, default_port::ADMIN));
        Admin { bind, users: Vec::new(), requires_login: false, hosts: Vec::new() }
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
            // Patroni's default ttl of 30 s minus one loop_wait of 10 s: no other node can get the lock sooner
            leader_grace: Duration::from_secs(20),
            park: None,
            carry: None,
            patroni_tls: PatroniTls::default(),
            patroni_login: None,
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
            // often enough to detect a hung postmaster within minutes, rare enough not to fill a log with connections
            reconnect: Duration::from_secs(300),
            // libpq's default
            tls: TlsSettings::of_mode(SslMode::Prefer),
        }
    }
}

impl Cluster {
    /// The networks in which discovered nodes may be; any network if empty.
    pub fn discover_allow(&self) -> Arc<[IpNet]> {
        self.discovery.as_ref().map_or_else(Arc::default, |discovery| discovery.allow.as_slice().into())
    }

    /// Why its settings are dangerous, if they are.
    pub fn warning(&self) -> Option<String> {
        let name = &self.name;
        self.patroni_tls.verifies_nothing.then(|| {
            format!(
                "cluster \"{name}\" has patroni_tls.verify = \"none\": certificates are not verified, so a host between \
                 pgvane and a REST API can say which node leads"
            )
        })
    }

    /// Whether a REST API may need HTTPS: a configured one, or one that discovery may find.
    pub fn may_speak_https(&self) -> bool {
        let found = self.discovery.iter().flat_map(|discovery| &discovery.urls);
        let mut urls = self.nodes.iter().map(|node| &node.patroni_url).chain(found);
        self.patroni_tls != PatroniTls::default() || urls.any(|url| url.starts_with("https:"))
    }
}

impl Listener {
    /// As which client a peer counts for limits; `None` for clients of a Unix socket, which have no address.
    pub fn client_of(&self, peer: Peer) -> Option<IpAddr> {
        peer.source(self.client_ipv6_prefix)
    }

    /// What its sessions reach on this node.
    pub fn server_kind_on(&self, member: &Member) -> ServerKind {
        self.server_kind.unwrap_or(if self.rule.port.is_some() { ServerKind::Postgresql } else { member.kind })
    }

    /// What becomes of a suspicion of this node: a connection that fails says little of PostgreSQL where sessions use
    /// another port than PostgreSQL's.
    pub fn suspicion(&self, suspicion: Suspicion, member: &Member) -> Suspicion {
        let is_other_port = || self.rule.port.is_some() || self.server_kind_on(member) == ServerKind::Pooler;
        match suspicion {
            Suspicion::ConnectFailed | Suspicion::ConnectionLost if is_other_port() => Suspicion::OtherPortFailed,
            other => other,
        }
    }

    /// A listener of the first cluster, with the default of every setting.
    fn new(name: &str, binds: Binds, target: Target) -> Listener {
        Listener {
            name: name.to_owned(),
            binds,
            cluster: ClusterIndex(0),
            rule: Rule::new(target),
            server_kind: None,
            // long enough for a crash with Patroni's default ttl of 30 s and for the promotion after it
            hold_max: Duration::from_secs(40),
            hold_sessions_max: 1000,
            sessions_max: 10_000,
            sessions_max_per_client: usize::MAX,
            connection_rate_max_per_client: None,
            client_ipv6_prefix: Ipv6Prefix::default(),
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
            // with any other mode libpq's clients would try channel binding, which does not work through a proxy
            server_tls: TlsSettings::of_mode(SslMode::Disable),
        }
    }
}
