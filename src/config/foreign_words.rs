//! The words that HAProxy, PgBouncer, Patroni and libpq use in their configuration, and pgvane's words for the same.

/// What pgvane has in place of a word.
#[derive(Clone, Copy)]
enum Own {
    /// A key, with the name of its table in front: `listener.sessions_max`.
    Key(&'static str),
    /// A table: `cluster.node`.
    Table(&'static str),
    /// Nothing with that name; what to do instead.
    Advice(&'static str),
}
use Own::{Advice, Key, Table};

/// The tables that can be in a file several times, and are written with two brackets.
const REPEATED: [&str; 5] = ["listener", "cluster", "cluster.node", "admin.users", "admin.sockets"];

/// Stands for every table.
const ANYWHERE: &str = "*";

const NO_POOL: Own = Advice(
    "remove it: pgvane has no pool, each client has its own connection to a server; if you need a pool, run PgBouncer \
     on the nodes and write kind = \"pooler\"",
);
const NO_IDLE_TIMEOUT: Own =
    Advice("remove it: pgvane does not end idle sessions; tcp_keepalive and tcp_user_timeout find dead connections");
const ROLE_IS_CHECKED: Own = Advice("remove it: pgvane asks the node for its role");
const LISTENER_MODE: Own = Advice(
    "remove it: pgvane speaks PostgreSQL's protocol only; write target to choose the nodes, and tls for encryption",
);
const LOG_TO_STDERR: Own =
    Advice("remove it: pgvane logs to standard error; systemd or the container's runtime stores the log");

/// A table in which words stand, the words, and pgvane's own. Words are in small letters, with `_` between them.
type Row = (&'static str, &'static [&'static str], Own);

const KEYS: &[Row] = &[
    // the top of the file
    ("", &["frontend", "frontends", "listen", "proxy", "proxies", "server", "service"], Table("listener")),
    ("", &["backend", "backends", "upstream", "upstreams", "pool", "pools", "patroni"], Table("cluster")),
    ("", &["node", "nodes", "servers", "member", "members", "host", "hosts"], Table("cluster.node")),
    ("", &["stats", "restapi", "rest_api", "api", "metrics", "http"], Table("admin")),
    ("", &["logging", "syslog"], Table("log")),
    ("", &["bind", "listen_addr", "listen_address", "listen_addresses", "listen_port", "port"], Key("listener.bind")),
    ("", &["nbthread", "nbproc", "workers", "worker_threads"], Key("threads")),
    ("", &["hard_stop_after", "grace", "shutdown_timeout"], Key("drain_timeout")),
    ("", &["scope"], Key("cluster.scope")),
    (
        "",
        &["global", "defaults", "pgbouncer", "general"],
        Advice("remove this table: pgvane's settings are in [[cluster]], [[listener]], [admin] and [log]"),
    ),
    // listeners
    ("listener", &["listen", "listen_addr", "listen_address", "listen_addresses"], Key("listener.bind")),
    ("listener", &["listen_port", "address", "host", "hostname", "unix_socket_dir"], Key("listener.bind")),
    ("listener", &["backend", "backends", "default_backend", "use_backend"], Key("listener.cluster")),
    ("listener", &["upstream", "pool", "proxy", "scope"], Key("listener.cluster")),
    ("listener", &["mode"], LISTENER_MODE),
    ("listener", &["role", "roles", "target_session_attrs"], Key("listener.target")),
    ("listener", &["algorithm", "load_balance", "load_balancing", "load_balance_hosts"], Key("listener.balance")),
    ("listener", &["timeout"], Advice("write connect_timeout, login_timeout or startup_timeout")),
    ("listener", &["timeout_connect", "server_connect_timeout"], Key("listener.connect_timeout")),
    ("listener", &["server_login_timeout"], Key("listener.login_timeout")),
    ("listener", &["client_login_timeout", "timeout_client_hello"], Key("listener.startup_timeout")),
    ("listener", &["timeout_queue", "query_wait_timeout", "queue_timeout"], Key("listener.hold_max")),
    ("listener", &["maxqueue", "queue_max"], Key("listener.hold_sessions_max")),
    ("listener", &["timeout_check", "check_timeout"], Key("cluster.timeout")),
    ("listener", &["slowstart"], Key("listener.slow_start")),
    ("listener", &["accept_proxy", "proxy_v2"], Key("listener.proxy_protocol")),
    ("listener", &["send_proxy", "send_proxy_v2"], Key("cluster.send_proxy")),
    ("listener", &["acl", "hba", "auth_hba_file", "whitelist", "allowlist"], Key("listener.allow")),
    ("listener", &["ssl", "client_tls_sslmode"], Key("listener.tls.mode")),
    ("listener", &["crt", "cert_file", "ssl_cert_file", "client_tls_cert_file"], Key("listener.tls.cert_file")),
    ("listener", &["key_file", "ssl_key_file", "client_tls_key_file"], Key("listener.tls.key_file")),
    ("listener", &["client_tls_ca_file"], Key("listener.tls.client_ca_file")),
    ("listener", &["sslmode", "server_tls_sslmode"], Key("listener.server_tls.sslmode")),
    ("listener", &["server_tls_ca_file"], Key("listener.server_tls.ca_file")),
    (
        "listener",
        &["max_lag", "maximum_lag", "maximum_lag_on_failover", "maximum_lag_on_syncnode"],
        Key("listener.lag_max"),
    ),
    ("listener", &["node", "nodes", "hosts", "members"], Table("cluster.node")),
    ("listener", &["interval", "inter", "check_interval"], Key("cluster.interval")),
    ("listener", &["on_marked_down", "on_marked_up"], Key("listener.on")),
    // clusters
    ("cluster", &["server", "servers", "nodes", "backend", "backends"], Table("cluster.node")),
    ("cluster", &["member", "members", "host", "hosts", "hostname", "address"], Table("cluster.node")),
    ("cluster", &["patroni", "restapi", "rest_api"], Key("cluster.node.patroni")),
    ("cluster", &["inter", "check_interval", "loop_wait"], Key("cluster.interval")),
    ("cluster", &["fastinter", "downinter"], Key("cluster.fast_interval")),
    ("cluster", &["timeout_check", "check_timeout", "retry_timeout"], Key("cluster.timeout")),
    ("cluster", &["ttl"], Advice("write leader_grace: Patroni's ttl minus its loop_wait is the right value")),
    ("cluster", &["send_proxy_v2", "proxy_protocol"], Key("cluster.send_proxy")),
    ("cluster", &["option", "httpchk"], Key("cluster.check")),
    ("cluster", &["listen", "bind", "listen_addr", "listen_port"], Key("listener.bind")),
    ("cluster", &["target", "role"], Key("listener.target")),
    ("cluster", &["balance", "load_balance", "algorithm"], Key("listener.balance")),
    ("cluster", &["timeout_connect", "connect_timeout"], Key("listener.connect_timeout")),
    ("cluster", &["timeout_queue", "hold_max"], Key("listener.hold_max")),
    ("cluster", &["mode"], LISTENER_MODE),
    // nodes
    ("cluster.node", &["host", "hostname", "ip", "server", "addr", "connect_address"], Key("cluster.node.address")),
    ("cluster.node", &["port"], Advice("write it in address, for example address = \"10.0.0.1:5432\"")),
    ("cluster.node", &["url", "api_url", "patroni_url", "restapi", "rest_api", "api"], Key("cluster.node.patroni")),
    ("cluster.node", &["maxconn", "max_db_connections", "max_connections"], Key("cluster.node.sessions_max")),
    ("cluster.node", &["role", "leader", "primary", "master", "standby", "replica"], ROLE_IS_CHECKED),
    ("cluster.node", &["inter", "interval"], Key("cluster.interval")),
    ("cluster.node", &["rise"], Key("cluster.rise")),
    ("cluster.node", &["fall"], Key("cluster.fall")),
    ("cluster.node", &["timeout", "check_timeout"], Key("cluster.timeout")),
    ("cluster.node", &["check"], Key("cluster.check")),
    ("cluster.node", &["slowstart", "slow_start"], Key("listener.slow_start")),
    ("cluster.node", &["send_proxy", "send_proxy_v2"], Key("cluster.send_proxy")),
    ("cluster.node", &["tags"], Advice("remove it: pgvane reads the tags from Patroni, where patroni.yml has them")),
    // the rest
    ("admin", &["listen", "listen_addr", "address", "host", "port", "stats"], Key("admin.bind")),
    ("admin", &["auth", "user", "username", "admin_users", "stats_users"], Key("admin.users")),
    ("admin", &["socket", "stats_socket", "runtime_socket"], Table("admin.sockets")),
    ("admin.sockets", &["bind", "file", "socket", "address"], Key("admin.sockets.path")),
    ("admin.sockets", &["user", "uid"], Key("admin.sockets.owner")),
    ("admin.sockets", &["gid"], Key("admin.sockets.group")),
    ("admin.sockets", &["timeout", "stats_timeout"], Key("admin.sockets.idle_timeout")),
    ("admin.users", &["user", "username"], Key("admin.users.name")),
    ("log", &["file", "path", "dir", "logfile", "syslog"], LOG_TO_STDERR),
    ("cluster.sql", &["username", "role", "auth_user"], Key("cluster.sql.user")),
    ("cluster.sql", &["dbname", "auth_dbname"], Key("cluster.sql.database")),
    (ANYWHERE, &["maxconn", "max_client_conn", "max_clients", "max_connections"], Key("listener.sessions_max")),
    (ANYWHERE, &["server", "servers"], Table("cluster.node")),
    (ANYWHERE, &["logfile", "syslog_facility"], LOG_TO_STDERR),
    (ANYWHERE, &["pool_mode", "pool_size", "default_pool_size", "min_pool_size", "reserve_pool_size"], NO_POOL),
    (ANYWHERE, &["max_db_connections", "max_user_connections", "server_lifetime", "server_reset_query"], NO_POOL),
    (ANYWHERE, &["timeout_client", "timeout_server", "timeout_tunnel", "idle_timeout"], NO_IDLE_TIMEOUT),
    (ANYWHERE, &["client_idle_timeout", "server_idle_timeout", "idle_transaction_timeout"], NO_IDLE_TIMEOUT),
];

/// Keys, the words that stand as their values, and pgvane's own. Words are in small letters, with `-` between them.
const VALUES: &[(&[&str], &[&str], &str)] = &[
    (&["target"], &["primary", "master", "write", "writer", "writes", "rw", "read-write", "readwrite"], "leader"),
    (&["target"], &["replicas", "standby", "standbys", "hot-standby", "slave", "slaves", "secondary"], "replica"),
    (&["target"], &["ro", "read", "reader", "reads", "read-only", "readonly", "prefer-standby"], "replica"),
    (&["target"], &["synchronous", "sync-standby", "sync-replica"], "sync"),
    (&["target"], &["asynchronous", "async-standby", "async-replica"], "async"),
    (&["target"], &["all", "both", "node", "nodes", "health"], "any"),
    (&["balance"], &["leastconn", "least-conn", "leastconns", "least-connection"], "least-connections"),
    (&["balance"], &["roundrobin", "rr", "static-rr", "disable"], "round-robin"),
    (&["fallback"], &["primary", "master"], "leader"),
    (&["fallback"], &["no", "off", "false", "never"], "none"),
    (&["check"], &["http", "httpchk", "rest", "restapi", "rest-api", "api"], "patroni"),
    (&["check"], &["pgsql", "pgsql-check", "postgres", "postgresql", "psql"], "sql"),
    (&["kind", "server_kind"], &["postgres", "pgsql", "pg"], "postgresql"),
    (&["kind", "server_kind"], &["pgbouncer", "odyssey", "pgcat", "pool"], "pooler"),
    (&["send_proxy"], &["send-proxy", "send-proxy-v2", "v1", "1", "2", "on", "yes"], "v2"),
    (&["format"], &["plain", "logfmt", "console"], "text"),
    (&["tls", "mode"], &["off", "no", "none"], "disable"),
    (&["tls", "mode"], &["on", "yes", "offload"], "terminate"),
    (&["tls", "mode"], &["tcp", "pass", "pass-through"], "passthrough"),
    (&["sslmode", "server_tls"], &["off", "no", "none"], "disable"),
    (&["sslmode", "server_tls"], &["on", "yes", "required", "force"], "require"),
    (&["promotion", "lag", "silence", "departure", "standing", "lost_lead", "operator"], &["close", "kill"], "cut"),
    (&["promotion", "lag", "silence", "departure", "standing", "lost_lead", "operator"], &["none", "ignore"], "keep"),
];

/// What to write for an unknown key of a table, if it is another program's word. The first part is pgvane's key, with
/// its table's name in front, if there is one.
pub(super) fn key(table: &str, typed: &str) -> Option<(Option<&'static str>, String)> {
    let typed = plain(typed, '_');
    let in_scope = |scope: &str| KEYS.iter().find(|(table, words, _)| *table == scope && words.contains(&&*typed));
    let (_, _, own) = in_scope(table).or_else(|| in_scope(ANYWHERE))?;
    Some(match *own {
        Advice(advice) => (None, advice.to_owned()),
        Table(name) => (Some(name), format!("pgvane's table for this is {}", header(name))),
        Key(path) => {
            let (home, key) = path.rsplit_once('.').unwrap_or(("", path));
            let place = if home == table || home.is_empty() { String::new() } else { format!(" in {}", header(home)) };
            (Some(path), format!("pgvane's key for this is \"{key}\"{place}"))
        }
    })
}

/// What to write for an unknown value of a key: its own word in other letters, or for another program's word.
pub(super) fn value<'n>(key: &str, typed: &str, own: &[&'n str]) -> Option<&'n str> {
    let find = |word: &str| own.iter().copied().find(|own| *own == word);
    find(&plain(typed.trim_start_matches('/'), '-')).or_else(|| find(meant_value(key, typed)?))
}

/// pgvane's own value for another program's word.
pub(super) fn meant_value(key: &str, typed: &str) -> Option<&'static str> {
    let typed = plain(typed.trim_start_matches('/'), '-');
    let row = VALUES.iter().find(|(keys, words, _)| keys.contains(&key) && words.contains(&&*typed));
    row.map(|(_, _, own)| *own)
}

/// A table's name as it is written in a file.
pub(super) fn header(table: &str) -> String {
    if REPEATED.contains(&table) { format!("[[{table}]]") } else { format!("[{table}]") }
}

/// In small letters, and with one separator between words.
fn plain(typed: &str, separator: char) -> String {
    let separated = |c: char| if matches!(c, '-' | '_' | ' ' | '.') { separator } else { c.to_ascii_lowercase() };
    typed.trim().chars().map(separated).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::every_key::keys_asked_for;

    #[test]
    fn every_key_and_table_that_is_advised_exists() {
        let keys = keys_asked_for();
        for (table, words, own) in KEYS {
            if let Key(path) | Table(path) = own {
                assert!(keys.contains(*path), "{path} for {words:?}");
            }
            assert!(table.is_empty() || *table == ANYWHERE || keys.contains(*table), "{table}");
            for word in *words {
                assert_eq!(plain(word, '_'), *word);
                let own_key = if table.is_empty() { (*word).to_owned() } else { format!("{table}.{word}") };
                assert!(!keys.contains(&own_key), "{own_key} is pgvane's own");
            }
        }
    }

    /// The faults of a file with these lines at the top, in the cluster, in the node and in the listener.
    fn faults(top: &str, cluster: &str, node: &str, listener: &str) -> String {
        let text = format!(
            "{top}\n[[cluster]]\n{cluster}\n[[cluster.node]]\naddress = \"10.0.0.1:5432\"\n{node}\n[[listener]]\n\
             bind = \"*:6432\"\n{listener}\n"
        );
        Config::from_toml("test.toml", &text).map(|_| ()).expect_err(&text).to_string()
    }

    #[test]
    fn other_programs_keys_lead_to_pgvanes_own() {
        let replica = "target = \"replica\"\n";
        for (place, line, hint) in [
            ("top", "maxconn = 100", "pgvane's key for this is \"sessions_max\" in [[listener]]"),
            ("top", "listen_addr = \"*\"", "pgvane's key for this is \"bind\" in [[listener]]"),
            ("top", "listen_port = 6432", "pgvane's key for this is \"bind\" in [[listener]]"),
            ("top", "pool_mode = \"transaction\"", "pgvane has no pool"),
            ("top", "max_client_conn = 10", "pgvane's key for this is \"sessions_max\" in [[listener]]"),
            ("top", "listen = {}", "pgvane's table for this is [[listener]]"),
            ("top", "backend = {}", "pgvane's table for this is [[cluster]]"),
            ("top", "backends = {}", "pgvane's table for this is [[cluster]]"),
            ("top", "proxy = {}", "pgvane's table for this is [[listener]]"),
            ("cluster", "server = \"10.0.0.1\"", "pgvane's table for this is [[cluster.node]]"),
            ("cluster", "inter = \"1s\"", "pgvane's key for this is \"interval\""),
            ("cluster", "balance = \"leastconn\"", "pgvane's key for this is \"balance\" in [[listener]]"),
            ("node", "host = \"10.0.0.1\"", "pgvane's key for this is \"address\""),
            ("node", "port = 5432", "write it in address"),
            ("node", "role = \"primary\"", "pgvane asks the node for its role"),
            ("node", "maxconn = 10", "pgvane's key for this is \"sessions_max\"\n"),
            ("listener", "maxconn = 100", "pgvane's key for this is \"sessions_max\"\n"),
            ("listener", "MaxConn = 100", "pgvane's key for this is \"sessions_max\"\n"),
            ("listener", "\"timeout connect\" = \"3s\"", "pgvane's key for this is \"connect_timeout\"\n"),
            ("listener", "timeout-connect = \"3s\"", "pgvane's key for this is \"connect_timeout\"\n"),
            ("listener", "client_idle_timeout = 0", "pgvane does not end idle sessions"),
            ("listener", "mode = \"tcp\"", "pgvane speaks PostgreSQL's protocol only"),
            ("listener", "backend = \"main\"", "pgvane's key for this is \"cluster\"\n"),
            ("listener", "client_tls_cert_file = \"/x\"", "\"cert_file\" in [listener.tls]"),
        ] {
            let at = |wanted| if place == wanted { line } else { "" };
            let shown = faults(at("top"), at("cluster"), at("node"), &format!("{replica}{}", at("listener")));
            assert!(shown.contains(hint) && shown.contains("unknown key"), "{line} in {place}: {shown}");
            assert!(shown.contains("1 error found"), "{line} in {place}: {shown}");
            assert!(!shown.contains("did you mean"), "{line} in {place}: {shown}");
        }
    }

    #[test]
    fn other_programs_values_lead_to_pgvanes_own() {
        let target = |word: &str| faults("", "", "", &format!("target = \"{word}\""));
        for (own, words) in [
            ("leader", "primary master read-write rw Leader LEADER READ_WRITE /primary"),
            ("replica", "standby slave replicas ro read-only Replica standbys /replica"),
            ("standby-leader", "standby_leader Standby-Leader"),
            ("async", "asynchronous"),
            ("sync", "synchronous"),
        ] {
            for word in words.split(' ') {
                let shown = target(word);
                assert!(shown.contains(&format!("hint: write \"{own}\"")), "{word}: {shown}");
            }
        }
        for (word, own) in [("leastconn", "least-connections"), ("roundrobin", "round-robin")] {
            let shown = faults("", "", "", &format!("target = \"replica\"\nbalance = \"{word}\""));
            assert!(shown.contains(&format!("hint: write \"{own}\"")), "{word}: {shown}");
        }
        assert!(target("leder").contains("did you mean \"leader\"?"), "typing errors are found as before");
    }

    #[test]
    fn a_word_that_is_advised_is_one_of_the_keys_values() {
        let keys = |key: &str| match key {
            "target" => "leader replica sync async any",
            "balance" => "least-connections round-robin random",
            "fallback" => "leader none",
            "check" => "patroni sql",
            "kind" | "server_kind" => "postgresql pooler",
            "send_proxy" => "none v2",
            "format" => "text json",
            "tls" | "mode" => "disable passthrough terminate",
            "sslmode" | "server_tls" => "disable prefer require",
            _ => "keep drain cut",
        };
        for (names, words, own) in VALUES {
            for name in *names {
                let own_words: Vec<&str> = keys(name).split(' ').collect();
                for word in *words {
                    assert_eq!(value(name, word, &own_words), Some(*own), "{name} = {word}");
                }
            }
        }
    }
}
