//! Writes the configuration as TOML, with comments.

use std::fmt::Write;

use super::access;
use super::plan::{Admin, Cluster, Listener, Node, Plan, Socket};

/// The text of a configuration file.
pub(super) fn toml(plan: &Plan, source: &str) -> String {
    let mut out = Out(String::new());
    out.comment(&format!("Written by `pgvane import {}`. `pgvane check` reports errors in it.", one_line(source)));
    out.comment("The report of the import says what was dropped and what means something else than in HAProxy.");
    admin(&plan.admin, &mut out);
    admin_sockets(&plan.admin, &mut out);
    for one in &plan.clusters {
        cluster(one, &mut out);
    }
    let has_several = plan.clusters.len() > 1;
    for one in &plan.listeners {
        let name = plan.clusters.get(one.cluster).map(|cluster| cluster.name.as_str()).filter(|_| has_several);
        listener(one, name, &mut out);
    }
    out.0
}

struct Out(String);

impl Out {
    fn comment(&mut self, text: &str) {
        let _ = writeln!(self.0, "# {}", one_line(text));
    }

    fn table(&mut self, name: &str) {
        let _ = writeln!(self.0, "\n{name}");
    }

    fn line(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.line(key, &quoted(value));
    }

    fn maybe<T: ToString>(&mut self, key: &str, value: Option<T>) {
        if let Some(value) = value {
            self.line(key, &value.to_string());
        }
    }

    fn maybe_text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn list(&mut self, key: &str, values: &[String]) {
        let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
        self.line(key, &format!("[{}]", values.join(", ")));
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A string of TOML. `${` would be an environment variable of pgvane's.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.replace("${", "$${").chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A key of TOML.
fn key(text: &str) -> String {
    let is_bare = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if is_bare { text.to_owned() } else { quoted(text) }
}

fn admin(admin: &Admin, out: &mut Out) {
    if admin.is_off {
        out.table("[admin]");
        out.line("enabled", "false");
        return;
    }
    let Some(bind) = &admin.bind else { return };
    out.table("[admin]");
    if admin.had_password {
        out.comment(
            "HAProxy's page had a password. Looking at this page needs none, unless these two lines are completed:",
        );
        out.comment("require_login = true");
        out.comment("users = [{ name = \"ops\", password_file = \"/etc/pgvane/admin-password\" }]");
    }
    out.text("bind", bind);
}

/// The sockets as comments, so that they can be used by taking the `#` from the lines.
fn admin_sockets(admin: &Admin, out: &mut Out) {
    for Socket { path, mode, owner, group, level, idle_timeout } in &admin.sockets {
        out.table("# HAProxy's stats socket. If scripts use it, take the # from these lines; pgvane must be able to create it.");
        out.comment("[[admin.sockets]]");
        let lines = [
            ("path", Some(path)),
            ("mode", mode.as_ref()),
            ("owner", owner.as_ref()),
            ("group", group.as_ref()),
            ("level", Some(level)),
            ("idle_timeout", idle_timeout.as_ref()),
        ];
        for (key, value) in lines {
            if let Some(value) = value {
                out.comment(&format!("{key} = {}", quoted(value)));
            }
        }
    }
}

fn cluster(cluster: &Cluster, out: &mut Out) {
    out.table("[[cluster]]");
    out.text("name", &cluster.name);
    if cluster.sql.is_some() {
        out.text("check", "sql");
    }
    if cluster.discovers {
        out.comment("Patroni is asked for the other nodes.");
        out.line("discover", "true");
    }
    out.maybe_text("interval", cluster.interval.as_deref());
    out.maybe_text("fast_interval", cluster.fast_interval.as_deref());
    out.maybe_text("timeout", cluster.timeout.as_deref());
    out.maybe("rise", cluster.rise);
    out.maybe("fall", cluster.fall);
    if cluster.sends_proxy {
        out.text("send_proxy", "v2");
    }
    if let Some(tls) = &cluster.tls {
        out.table("[cluster.patroni_tls]");
        if tls.verifies_nothing {
            out.comment(
                "WARNING: anybody who answers at the address of a REST API is believed, and can say which node takes the",
            );
            out.comment("writes. With these two lines in place of the one below, certificates are verified:");
            out.comment("ca_file = \"/etc/pgvane/patroni-ca.pem\"");
            out.comment("verify = \"full\"");
            out.text("verify", "none");
        }
        out.maybe_text("ca_file", tls.ca_file.as_deref());
        out.maybe_text("client_identity_file", tls.client_identity_file.as_deref());
    }
    if let Some(sql) = &cluster.sql {
        out.table("[cluster.sql]");
        out.text("user", &sql.user);
        out.text("database", &sql.database);
        out.comment("With a password for the role, pg_hba.conf needs no \"trust\" line for it:");
        out.comment("password_file = \"/run/secrets/pgvane\"");
    }
    for one in &cluster.nodes {
        node(one, cluster, out);
    }
}

fn node(node: &Node, cluster: &Cluster, out: &mut Out) {
    out.table("[[cluster.node]]");
    if cluster.discovers {
        out.comment("Fill in the address of one node: its own, not a name that stands for several.");
    }
    out.text("name", &node.name);
    out.text("address", &node.address.text());
    out.maybe_text("patroni", node.patroni.as_deref());
    if node.is_pooler {
        out.text("kind", "pooler");
    }
    out.maybe_text("check_address", node.check_address.as_ref().map(|address| address.text()).as_deref());
    out.maybe("weight", node.weight);
    out.maybe("sessions_max", node.sessions_max);
}

fn listener(listener: &Listener, cluster: Option<&str>, out: &mut Out) {
    out.table("[[listener]]");
    out.text("name", &listener.name);
    out.maybe_text("cluster", cluster);
    match &listener.binds[..] {
        [one] => out.text("bind", one),
        several => out.list("bind", several),
    }
    out.text("target", &listener.target);
    if listener.include_leader {
        out.line("include_leader", "true");
    }
    out.maybe_text("fallback", listener.fallback);
    if let Some(port) = listener.port {
        out.comment("A pooler in front of PostgreSQL on the same nodes.");
        out.line("port", &port.to_string());
        out.text("server_kind", "pooler");
    }
    out.maybe_text("balance", listener.balance);
    if !listener.prefer_nodes.is_empty() {
        out.list("prefer_nodes", &listener.prefer_nodes);
    }
    if let Some(bytes) = listener.lag_bytes {
        out.text("lag_max", &size(bytes));
    }
    if !listener.tags.is_empty() {
        let tags: Vec<String> =
            listener.tags.iter().map(|(name, value)| format!("{} = {}", key(name), quoted(value))).collect();
        out.line("tags", &format!("{{ {} }}", tags.join(", ")));
    }
    if listener.is_streaming {
        out.text("replication", "streaming");
    }
    out.maybe_text("slow_start", listener.slow_start.as_deref());
    out.maybe("sessions_max", listener.sessions_max);
    out.maybe("sessions_max_per_client", listener.sessions_per_client);
    out.maybe_text("connection_rate_max_per_client", listener.rate.as_deref());
    out.maybe_text("hold_max", listener.hold_max.as_deref());
    out.maybe_text("connect_timeout", listener.connect_timeout.as_deref());
    if !listener.allow.is_empty() {
        let networks: Vec<String> = listener.allow.iter().map(access::text).collect();
        out.list("allow", &networks);
    }
    if listener.accepts_proxy {
        out.comment("As HAProxy's accept-proxy: from every address. Better: only the addresses of the proxies.");
        out.line("proxy_protocol", "{ trusted = [\"0.0.0.0/0\", \"::/0\"] }");
    }
    out.maybe_text("unix_socket_mode", listener.unix_mode.as_deref());
    out.maybe_text("unix_socket_owner", listener.unix_owner.as_deref());
    out.maybe_text("unix_socket_group", listener.unix_group.as_deref());
    if let Some(tls) = &listener.tls {
        out.table("[listener.tls]");
        out.text("mode", "terminate");
        out.text("cert_file", &tls.file);
        out.text("key_file", &tls.file);
        out.text("sslmode", "require");
        if let Some(file) = &tls.client_ca_file {
            out.text("verify_client", if tls.is_optional { "optional" } else { "required" });
            out.text("client_ca_file", file);
        }
    }
}

/// A number of bytes, in the largest unit that needs no fraction.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, factor)| bytes >= *factor && bytes % factor == 0);
    unit.map_or_else(|| format!("{bytes}B"), |(name, factor)| format!("{}{name}", bytes / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_strings_keep_their_value() {
        assert_eq!(size(64 << 20), "64MB");
        assert_eq!(size(33_554_432), "32MB");
        assert_eq!(size(1000), "1000B");
        assert_eq!(size(0), "0B");
        assert_eq!(quoted("a\"b\\c${D}\r"), "\"a\\\"b\\\\c$${D}\\u000D\"");
        assert_eq!(key("a.b"), "\"a.b\"");
    }
}
