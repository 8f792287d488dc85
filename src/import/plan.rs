//! The configuration of pgvane that an import gives, before it is written.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::address::Target;

/// The whole configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub admin: Admin,
    pub clusters: Vec<Cluster>,
    pub listeners: Vec<Listener>,
}

/// `[admin]`.
#[derive(Debug, Clone, Default)]
pub(super) struct Admin {
    pub bind: Option<String>,
    /// There was no page, and its default port is taken.
    pub is_off: bool,
    /// HAProxy's page asked for a password.
    pub had_password: bool,
    /// HAProxy's `stats socket`s.
    pub sockets: Vec<Socket>,
}

/// A `stats socket`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Socket {
    pub path: String,
    pub mode: Option<String>,
    pub owner: Option<String>,
    pub group: Option<String>,
    pub level: String,
    pub idle_timeout: Option<String>,
}

/// One cluster.
#[derive(Debug, Clone, Default)]
pub(super) struct Cluster {
    pub name: String,
    pub sql: Option<Sql>,
    pub interval: Option<String>,
    pub fast_interval: Option<String>,
    pub timeout: Option<String>,
    pub fall: Option<u32>,
    pub rise: Option<u32>,
    pub tls: Option<RestTls>,
    pub sends_proxy: bool,
    pub discovers: bool,
    pub nodes: Vec<Node>,
}

/// `check = "sql"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sql {
    pub user: String,
    pub database: String,
}

/// TLS with REST APIs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RestTls {
    pub ca_file: Option<String>,
    pub client_identity_file: Option<String>,
    pub verifies_nothing: bool,
}

/// One node.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub name: String,
    pub address: Target,
    /// All ports at which sessions reach it, this of `address` among them.
    pub ports: Vec<u16>,
    /// The URL of its REST API.
    pub patroni: Option<String>,
    pub is_pooler: bool,
    pub weight: Option<u32>,
    pub sessions_max: Option<u64>,
    /// Where the SQL check asks, if not at the address.
    pub check_address: Option<Target>,
}

/// One listener.
#[derive(Debug, Clone, Default)]
pub(super) struct Listener {
    pub name: String,
    pub binds: Vec<String>,
    pub cluster: usize,
    pub target: String,
    pub include_leader: bool,
    /// `"none"` or `"leader"`, where the target has a fallback.
    pub fallback: Option<&'static str>,
    pub balance: Option<&'static str>,
    pub port: Option<u16>,
    pub prefer_nodes: Vec<String>,
    pub sessions_max: Option<u64>,
    pub sessions_per_client: Option<u64>,
    pub rate: Option<String>,
    pub hold_max: Option<String>,
    pub allow: Vec<IpNet>,
    pub lag_bytes: Option<u64>,
    pub tags: BTreeMap<String, String>,
    pub is_streaming: bool,
    pub slow_start: Option<String>,
    pub connect_timeout: Option<String>,
    pub accepts_proxy: bool,
    pub tls: Option<ClientTls>,
    pub unix_mode: Option<String>,
    pub unix_owner: Option<String>,
    pub unix_group: Option<String>,
}

/// TLS that ends at pgvane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientTls {
    pub file: String,
    pub client_ca_file: Option<String>,
    pub is_optional: bool,
}

impl Listener {
    /// Whether it has several nodes to choose from.
    pub fn is_for_reads(&self) -> bool {
        !matches!(self.target.as_str(), "leader" | "standby-leader")
    }
}
