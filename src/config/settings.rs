//! Every setting of a configuration as text: what it is called in the file, what its value is, and whether a reload can
//! change it.
//!
//! The structures are taken apart without `..`: a field that is added does not compile until it is said here how a reload
//! treats it.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::path::Path;
use std::time::Duration;

use super::{
    Access, Admin, AdminSocket, AdminUser, AuthQuerySettings, CarrySettings, Check, Cluster, Config, Discovery,
    Listener, Log, PatroniTls, ProxyProtocol, RelayMode, RequireAuth, Secret, Sql, size_text,
};
use crate::cluster::Member;
use crate::net::{Bind, UnixBind};
use crate::routing::{Cause, ParkSettings, Rebalance, Rule};
use crate::tls::{ClientTls, IdentityFiles, Negotiation, SslMode, Terminate, TlsSettings, VerifyClient};

/// When a changed setting takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// With the reload.
    Reload,
    /// With the next start of pgvane.
    Restart,
}

/// A setting's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// As it would be written in the file, without quotes; `None` if it is not set.
    Text(Option<String>),
    /// It is never shown; `None` if it is not set.
    Secret(Option<Secret>),
}

impl Value {
    /// The value for people to read.
    pub fn shown(&self) -> &str {
        match self {
            Value::Text(Some(text)) if text.is_empty() => "(empty)",
            Value::Text(Some(text)) => text,
            Value::Secret(Some(_)) => "(secret)",
            Value::Text(None) | Value::Secret(None) => "(not set)",
        }
    }
}

/// The settings of one table of the file: key and value. The key has the table's name in front: `listener.hold_max`.
pub type Settings = BTreeMap<&'static str, (Value, Effect)>;

/// A configuration as text: the settings of each table, by the table's name for people: `listener "read"`. The names of the
/// settings of the whole file begin with an empty one.
pub fn of(config: &Config) -> BTreeMap<String, Settings> {
    // warnings of the file are no settings
    let Config { admin, admin_sockets, log, drain_timeout, threads, clusters, listeners, file_warnings: _ } = config;
    let mut tables = BTreeMap::new();
    let mut root = Table::default();
    root.duration("drain_timeout", *drain_timeout);
    root.restart("threads", Some(threads.to_string()));
    let Log { level, is_json } = log;
    root.text("log.level", level);
    root.restart("log.format", Some(if *is_json { "json" } else { "text" }.to_owned()));
    root.text("admin.enabled", admin.is_some());
    tables.insert(String::new(), root.0);
    if let Some(admin) = admin {
        insert_admin(&mut tables, admin);
    }
    for socket in admin_sockets {
        insert_admin_socket(&mut tables, socket);
    }
    for cluster in clusters {
        insert_cluster(&mut tables, cluster);
    }
    for listener in listeners {
        let cluster = clusters.get(listener.cluster.0).map_or("", |cluster| cluster.name.as_str());
        tables.insert(format!("listener \"{}\"", listener.name), self::listener(listener, cluster));
    }
    tables
}

#[derive(Default)]
struct Table(Settings);

impl Table {
    fn optional(&mut self, key: &'static str, text: Option<String>) {
        self.0.insert(key, (Value::Text(text), Effect::Reload));
    }

    fn restart(&mut self, key: &'static str, text: Option<String>) {
        self.0.insert(key, (Value::Text(text), Effect::Restart));
    }

    #[expect(clippy::needless_pass_by_value, reason = "labels and references come as they are")]
    fn text(&mut self, key: &'static str, value: impl ToString) {
        self.optional(key, Some(value.to_string()));
    }

    fn duration(&mut self, key: &'static str, value: Duration) {
        self.text(key, format!("{value:?}"));
    }

    fn file(&mut self, key: &'static str, value: Option<&Path>) {
        self.optional(key, value.map(|path| path.display().to_string()));
    }

    fn list(&mut self, key: &'static str, items: impl IntoIterator<Item = impl ToString>) {
        let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
        self.optional(key, (!items.is_empty()).then(|| items.join(", ")));
    }

    fn map<T: Display>(&mut self, key: &'static str, items: &BTreeMap<T, T>) {
        self.list(key, items.iter().map(|(name, value)| format!("{name} = {value}")));
    }

    fn secret(&mut self, key: &'static str, secret: Option<&Secret>) {
        self.0.insert(key, (Value::Secret(secret.cloned()), Effect::Reload));
    }

    fn limit(&mut self, key: &'static str, value: usize, no_limit: usize) {
        self.optional(key, (value != no_limit).then(|| value.to_string()));
    }
}

/// `RoundRobin` as `round-robin`: the values of the file are written so.
fn kebab(value: impl Debug) -> String {
    let mut text = String::new();
    for letter in format!("{value:?}").chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

fn insert_admin(tables: &mut BTreeMap<String, Settings>, admin: &Admin) {
    let Admin { bind, users, requires_login, hosts } = admin;
    let mut table = Table::default();
    table.text("admin.bind", bind);
    table.text("admin.require_login", requires_login);
    table.list("admin.hosts", hosts);
    tables.insert("[admin]".to_owned(), table.0);
    for AdminUser { name, password } in users {
        let mut table = Table::default();
        table.text("admin.users.name", name);
        table.secret("admin.users.password", Some(password));
        tables.insert(format!("admin user \"{name}\""), table.0);
    }
}

fn insert_admin_socket(tables: &mut BTreeMap<String, Settings>, socket: &AdminSocket) {
    let AdminSocket { file: UnixBind { path, mode, owner, group }, level, idle_timeout } = socket;
    let mut table = Table::default();
    table.file("admin.sockets.path", Some(path));
    table.text("admin.sockets.mode", format!("{mode:04o}"));
    table.optional("admin.sockets.owner", owner.map(|owner| owner.to_string()));
    table.optional("admin.sockets.group", group.map(|group| group.to_string()));
    table.text("admin.sockets.level", level.label());
    table.duration("admin.sockets.idle_timeout", *idle_timeout);
    tables.insert(format!("admin socket {}", path.display()), table.0);
}

fn insert_cluster(tables: &mut BTreeMap<String, Settings>, cluster: &Cluster) {
    let Cluster {
        name,
        nodes,
        check,
        discovery,
        scope,
        interval,
        fast_interval,
        timeout,
        rise,
        fall,
        leader_grace,
        park,
        carry,
        patroni_tls,
        patroni_login,
        sends_proxy_header,
    } = cluster;
    let mut table = Table::default();
    table.text("cluster.name", name);
    table.text("cluster.check", if matches!(check, Check::Patroni { .. }) { "patroni" } else { "sql" });
    table.optional("cluster.scope", scope.clone());
    table.duration("cluster.interval", *interval);
    table.duration("cluster.fast_interval", *fast_interval);
    table.duration("cluster.timeout", *timeout);
    table.text("cluster.rise", rise);
    table.text("cluster.fall", fall);
    table.duration("cluster.leader_grace", *leader_grace);
    let park = park.map(|ParkSettings { grace, max }| (grace, max));
    table.text("cluster.park", park.is_some());
    table.optional("cluster.park_grace", park.map(|(grace, _)| format!("{grace:?}")));
    table.optional("cluster.park_max", park.map(|(_, max)| format!("{max:?}")));
    table.text("cluster.carry", carry.is_some());
    insert_carry(&mut table, carry.as_ref());
    table.text("cluster.send_proxy", if *sends_proxy_header { "v2" } else { "none" });
    let PatroniTls { ca_file, client_identity_file, verifies_nothing } = patroni_tls;
    table.file("cluster.patroni_tls.ca_file", ca_file.as_deref());
    table.file("cluster.patroni_tls.client_identity_file", client_identity_file.as_deref());
    table.text("cluster.patroni_tls.verify", if *verifies_nothing { "none" } else { "full" });
    let (user, password) = patroni_login.as_ref().map(|login| (login.user.clone(), &login.password)).unzip();
    table.optional("cluster.patroni_login.user", user);
    table.secret("cluster.patroni_login.password", password);
    table.text("cluster.discover", discovery.is_some());
    if let Some(Discovery { urls, urls_say_which_cluster, allow, address_map }) = discovery {
        // these two follow from the nodes, or from the command line
        table.list("cluster.discover (REST APIs)", urls);
        table.text("cluster.discover (decides which cluster)", urls_say_which_cluster);
        table.list("cluster.discover_allow", allow);
        table.map("cluster.discover_map", address_map);
    }
    if let Check::Sql(sql) | Check::Patroni { second_opinion: Some(sql) } = check {
        insert_sql(&mut table, sql);
    }
    tables.insert(format!("cluster \"{name}\""), table.0);
    for node in nodes {
        let mut table = Table::default();
        let Member {
            name: node,
            address,
            patroni_url,
            weight,
            sessions_max,
            is_discovered: _, // none of these is
            is_backup,
            kind,
            check_address,
        } = node;
        table.text("cluster.node.name", node);
        table.text("cluster.node.address", address);
        table.text("cluster.node.patroni", patroni_url);
        table.text("cluster.node.weight", weight);
        table.limit("cluster.node.sessions_max", *sessions_max as usize, u32::MAX as usize);
        table.text("cluster.node.backup", is_backup);
        table.text("cluster.node.kind", kebab(kind));
        table.optional("cluster.node.check_address", check_address.as_ref().map(ToString::to_string));
        tables.insert(format!("cluster \"{name}\" node \"{node}\""), table.0);
    }
}

fn insert_carry(table: &mut Table, carry: Option<&CarrySettings>) {
    let unzip = |CarrySettings { custom_settings, rate, auth_query }| ((custom_settings, rate), auth_query);
    let (rest, auth_query) = carry.cloned().map(unzip).unzip();
    let (custom_settings, rate) = rest.unzip();
    table.list("cluster.carry_settings", custom_settings.into_iter().flatten());
    table.optional("cluster.carry_rate", rate.map(|rate| rate.to_string()));
    let query = auth_query.flatten().map(|AuthQuerySettings { text, database }| (text, database));
    let (text, database) = query.unzip();
    table.optional("cluster.carry_auth_query", text);
    table.optional("cluster.carry_auth_database", database.flatten());
}

fn insert_sql(table: &mut Table, sql: &Sql) {
    let Sql { user, password, require_auth, database, application_name, reconnect, tls } = sql;
    table.text("cluster.sql.user", user);
    table.secret("cluster.sql.password", password.as_ref());
    let require_auth = match require_auth {
        RequireAuth::ScramSha256 => "scram-sha-256",
        RequireAuth::Md5 => "md5",
        RequireAuth::Password => "password",
    };
    table.text("cluster.sql.require_auth", require_auth);
    table.text("cluster.sql.database", database);
    table.text("cluster.sql.application_name", application_name);
    table.duration("cluster.sql.reconnect", *reconnect);
    insert_tls(
        table,
        tls,
        [
            "cluster.sql.sslmode",
            "cluster.sql.sslnegotiation",
            "cluster.sql.ca_file",
            "cluster.sql.client_cert_file",
            "cluster.sql.client_key_file",
        ],
    );
}

fn insert_tls(table: &mut Table, tls: &TlsSettings, [sslmode, sslnegotiation, ca, cert, key]: [&'static str; 5]) {
    let TlsSettings { mode, negotiation, ca_file, identity } = tls;
    let mode: &SslMode = mode;
    let negotiation: &Negotiation = negotiation;
    table.text(sslmode, kebab(mode));
    table.text(sslnegotiation, kebab(negotiation));
    table.file(ca, ca_file.as_deref());
    insert_identity(table, identity.as_ref(), [cert, key]);
}

fn insert_identity(table: &mut Table, identity: Option<&IdentityFiles>, [cert, key]: [&'static str; 2]) {
    let files = identity.map(|IdentityFiles { cert_file, key_file }| (cert_file.as_path(), key_file.as_path()));
    table.file(cert, files.map(|(cert_file, _)| cert_file));
    table.file(key, files.map(|(_, key_file)| key_file));
}

fn listener(listener: &Listener, cluster: &str) -> Settings {
    let Listener {
        name,
        binds,
        cluster: _, // named in the text below, because its number depends on the order of the file
        rule,
        hold_max,
        hold_sessions_max,
        sessions_max,
        sessions_max_per_client,
        pending_connections_max,
        server_kind,
        connection_rate_max_per_client,
        client_ipv6_prefix,
        access,
        proxy_protocol,
        application_name_add_host,
        connect_timeout,
        login_timeout,
        startup_timeout,
        tcp_keepalive,
        tcp_user_timeout,
        relay,
        tls,
        server_tls,
    } = listener;
    let relay: &RelayMode = relay;
    let mut table = Table::default();
    table.text("listener.name", name);
    table.text("listener.bind", binds);
    let unix: Vec<&UnixBind> = binds.iter().filter_map(Bind::unix).collect();
    insert_unix(&mut table, &unix);
    table.text("listener.cluster", cluster);
    insert_rule(&mut table, rule);
    table.duration("listener.hold_max", *hold_max);
    table.text("listener.hold_sessions_max", hold_sessions_max);
    table.text("listener.sessions_max", sessions_max);
    table.limit("listener.sessions_max_per_client", *sessions_max_per_client, usize::MAX);
    table.text("listener.pending_connections_max", pending_connections_max);
    table.optional("listener.server_kind", server_kind.map(kebab));
    let rate = connection_rate_max_per_client.map(|rate| rate.to_string());
    table.optional("listener.connection_rate_max_per_client", rate);
    table.text("listener.client_ipv6_prefix", client_ipv6_prefix);
    let Access { allow, users, databases } = access;
    table.optional("listener.allow", (!allow.is_empty()).then(|| allow.to_string()));
    table.list("listener.users", users);
    table.list("listener.databases", databases);
    let proxies = proxy_protocol.as_ref().map(|ProxyProtocol { trusted, is_required }| (trusted, is_required));
    table.optional("listener.proxy_protocol.trusted", proxies.map(|(trusted, _)| trusted.to_string()));
    table.optional("listener.proxy_protocol.required", proxies.map(|(_, is_required)| is_required.to_string()));
    table.text("listener.application_name_add_host", application_name_add_host);
    table.duration("listener.connect_timeout", *connect_timeout);
    table.duration("listener.login_timeout", *login_timeout);
    table.duration("listener.startup_timeout", *startup_timeout);
    table.duration("listener.tcp_keepalive", *tcp_keepalive);
    table.duration("listener.tcp_user_timeout", *tcp_user_timeout);
    table.text("listener.relay", kebab(relay));
    insert_client_tls(&mut table, tls);
    insert_tls(
        &mut table,
        server_tls,
        [
            "listener.server_tls.sslmode",
            "listener.server_tls.sslnegotiation",
            "listener.server_tls.ca_file",
            "listener.server_tls.client_cert_file",
            "listener.server_tls.client_key_file",
        ],
    );
    table.0
}

fn insert_unix(table: &mut Table, unix: &[&UnixBind]) {
    // every Unix socket of a listener has the same ones
    let first = unix.first().map(|UnixBind { path: _, mode, owner, group }| (mode, owner, group));
    table.optional("listener.unix_socket_mode", first.map(|(mode, ..)| format!("{mode:04o}")));
    table.optional("listener.unix_socket_owner", first.and_then(|(_, owner, _)| Some(owner.as_ref()?.to_string())));
    table.optional("listener.unix_socket_group", first.and_then(|(.., group)| Some(group.as_ref()?.to_string())));
}

fn insert_rule(table: &mut Table, rule: &Rule) {
    let Rule {
        target,
        port,
        balance,
        falls_back_to_leader,
        lag_bytes_max,
        lag_time_max,
        requires_streaming,
        tags,
        slow_start,
        reactions,
        rebalance,
        includes_leader,
        prefer_tags,
        prefer_nodes,
    } = rule;
    table.text("listener.target", target.label());
    table.optional("listener.port", port.map(|port| port.to_string()));
    table.text("listener.balance", kebab(balance));
    table.text("listener.fallback", if *falls_back_to_leader { "leader" } else { "none" });
    table.optional("listener.lag_max", lag_bytes_max.map(size_text));
    table.optional("listener.lag_max_time", lag_time_max.map(|time| format!("{time:?}")));
    table.text("listener.replication", if *requires_streaming { "streaming" } else { "any" });
    table.map("listener.tags", tags);
    table.text("listener.include_leader", includes_leader);
    table.map("listener.prefer", prefer_tags);
    table.list("listener.prefer_nodes", prefer_nodes);
    table.duration("listener.slow_start", *slow_start);
    for cause in Cause::ALL {
        let key = match cause {
            Cause::LostLead => "listener.on.lost_lead",
            Cause::Promotion => "listener.on.promotion",
            Cause::Lag => "listener.on.lag",
            Cause::Standing => "listener.on.standing",
            Cause::Silence => "listener.on.silence",
            Cause::Departure => "listener.on.departure",
            Cause::Operator => "listener.on.operator",
        };
        table.text(key, kebab(reactions.to(cause)));
    }
    let moves = rebalance.map(|Rebalance { every, tolerance_percent, after }| (every, tolerance_percent, after));
    table.optional("listener.rebalance.every", moves.map(|(every, ..)| format!("{every:?}")));
    table.optional("listener.rebalance.tolerance", moves.map(|(_, percent, _)| percent.to_string()));
    table.optional("listener.rebalance.after", moves.map(|(.., after)| format!("{after:?}")));
}

fn insert_client_tls(table: &mut Table, tls: &ClientTls) {
    let terminate = match tls {
        ClientTls::Terminate(terminate) => Some(terminate),
        ClientTls::Passthrough | ClientTls::Disable => None,
    };
    let mode = match tls {
        ClientTls::Passthrough => "passthrough",
        ClientTls::Disable => "disable",
        ClientTls::Terminate(_) => "terminate",
    };
    table.text("listener.tls.mode", mode);
    let Some(Terminate { identity, is_required, verify_client, min_version }) = terminate else { return };
    insert_identity(table, Some(identity), ["listener.tls.cert_file", "listener.tls.key_file"]);
    table.text("listener.tls.sslmode", if *is_required { "require" } else { "prefer" });
    let (verify, ca_file) = match verify_client {
        VerifyClient::None => ("none", None),
        VerifyClient::Optional(file) => ("optional", Some(file.as_path())),
        VerifyClient::Required(file) => ("required", Some(file.as_path())),
    };
    table.text("listener.tls.verify_client", verify);
    table.file("listener.tls.client_ca_file", ca_file);
    table.text("listener.tls.min_protocol_version", min_version.label());
}
