//! A test that a change of each key that exists is found, so that a reload can say it.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::Config;
use super::diff::{Difference, between};
use super::every_key::keys_asked_for;
use crate::tls::world::World;

/// With a pooler on the node, PostgreSQL itself is checked elsewhere.
const CHECKED: &str = "kind = \"pooler\"\ncheck_address = \"10.0.0.1:5433\"";

/// A key, and the lines of its table before and after the change. In nested tables the key is written inline.
type Case = (&'static str, String, String);

/// Keys with their values.
type Keys = &'static [(&'static str, &'static str)];

/// A file whose tables have these lines, and in place of those that are missing what every file needs.
fn file(table: &str, lines: &str) -> String {
    let required: [(&str, &str, Keys); 6] = [
        ("", "", &[]),
        ("admin", "[admin]", &[]),
        ("log", "[log]", &[]),
        ("cluster", "[[cluster]]", &[("name", "\"main\"")]),
        ("cluster.node", "[[cluster.node]]", &[("name", "\"a\""), ("address", "\"10.0.0.1:5432\"")]),
        ("listener", "[[listener]]", &[("name", "\"l\""), ("bind", "\"0.0.0.0:6432\""), ("target", "\"replica\"")]),
    ];
    let mut text = String::new();
    for (name, header, keys) in required {
        let own = if name == table { lines } else { "" };
        writeln!(text, "{header}\n{own}").expect("a string");
        for (key, value) in keys {
            if !own.lines().any(|line| line.starts_with(&format!("{key} = "))) {
                writeln!(text, "{key} = {value}").expect("a string");
            }
        }
    }
    text
}

/// The table in which a key's lines stand.
fn table_of(key: &str) -> &str {
    let tables = ["cluster.node", "cluster", "listener", "admin", "log"];
    tables.into_iter().find(|table| key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))).unwrap_or("")
}

fn set(key: &'static str, value: &str) -> Case {
    let name = key.rsplit('.').next().unwrap_or(key);
    (key, String::new(), format!("{name} = {value}"))
}

fn changed(key: &'static str, before: &str, after: &str) -> Case {
    (key, before.to_owned(), after.to_owned())
}

fn plain_cases() -> Vec<Case> {
    let simple = [
        ("drain_timeout", "\"7s\""),
        ("threads", "7"),
        ("admin.enabled", "false"),
        ("admin.bind", "\"127.0.0.1:7\""),
        ("admin.hosts", "[\"a.example.com\"]"),
        ("log.level", "\"debug\""),
        ("log.format", "\"json\""),
        ("cluster.name", "\"other\""),
        ("cluster.scope", "\"demo\""),
        ("cluster.interval", "\"1500ms\""),
        ("cluster.fast_interval", "\"70ms\""),
        ("cluster.timeout", "\"1s\""),
        ("cluster.rise", "7"),
        ("cluster.fall", "7"),
        ("cluster.leader_grace", "\"17s\""),
        ("cluster.park", "true"),
        ("cluster.discover", "true"),
        ("cluster.send_proxy", "\"v2\""),
        ("cluster.node.name", "\"b\""),
        ("cluster.node.address", "\"10.0.0.7:5432\""),
        ("cluster.node.patroni", "\"http://10.0.0.7:8008\""),
        ("cluster.node.weight", "7"),
        ("cluster.node.backup", "true"),
        ("cluster.node.sessions_max", "7"),
        ("cluster.node.kind", "\"pooler\""),
        ("listener.name", "\"other\""),
        ("listener.bind", "[\"0.0.0.0:6432\", \"0.0.0.0:7\"]"),
        ("listener.target", "\"sync\""),
        ("listener.port", "7"),
        ("listener.server_kind", "\"pooler\""),
        ("listener.balance", "\"random\""),
        ("listener.fallback", "\"none\""),
        ("listener.include_leader", "true"),
        ("listener.prefer", "{ dc = \"east\" }"),
        ("listener.prefer_nodes", "[\"a\"]"),
        ("listener.lag_max", "\"7MB\""),
        ("listener.lag_max_time", "\"7s\""),
        ("listener.replication", "\"streaming\""),
        ("listener.tags", "{ dc = \"east\" }"),
        ("listener.slow_start", "\"7s\""),
        ("listener.hold_max", "\"7s\""),
        ("listener.hold_sessions_max", "7"),
        ("listener.sessions_max", "7"),
        ("listener.sessions_max_per_client", "7"),
        ("listener.connection_rate_max_per_client", "\"7/s\""),
        ("listener.client_ipv6_prefix", "56"),
        ("listener.pending_connections_max", "7"),
        ("listener.allow", "[\"10.0.0.0/8\"]"),
        ("listener.users", "[\"app\"]"),
        ("listener.databases", "[\"shop\"]"),
        ("listener.application_name_add_host", "true"),
        ("listener.connect_timeout", "\"7s\""),
        ("listener.login_timeout", "\"7s\""),
        ("listener.startup_timeout", "\"7s\""),
        ("listener.tcp_keepalive", "\"7s\""),
        ("listener.tcp_user_timeout", "\"77s\""),
        ("listener.relay", "\"copy\""),
    ];
    simple.into_iter().map(|(key, value)| set(key, value)).collect()
}

fn nested_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let user = |name: &str, password: &str| format!("users = [{{ name = \"{name}\", password = \"{password}\" }}]");
    cases.push(changed("admin.users.name", &user("ops", "one"), &user("bot", "one")));
    cases.push(changed("admin.users.password", &user("ops", "one"), &user("ops", "two")));
    let login = format!("{}\nrequire_login = ", user("ops", "one"));
    cases.push(changed("admin.require_login", &format!("{login}false"), &format!("{login}true")));
    let sql = |more: &str| format!("check = \"sql\"\nsql = {{ user = \"pgvane\", password = \"one\"{more} }}");
    cases.push(("cluster.check", String::new(), sql("")));
    cases.push(("cluster.sql.user", sql(""), sql("").replace("pgvane", "other")));
    cases.push(("cluster.sql.password", sql(""), sql("").replace("one", "two")));
    let login =
        |user: &str, password: &str| format!("patroni_login = {{ user = \"{user}\", password = \"{password}\" }}");
    cases.push(("cluster.patroni_login.user", login("one", "one"), login("two", "one")));
    cases.push(("cluster.patroni_login.password", login("one", "one"), login("one", "two")));
    for (key, value) in [
        ("cluster.sql.require_auth", "require_auth = \"md5\""),
        ("cluster.sql.database", "database = \"shop\""),
        ("cluster.sql.application_name", "application_name = \"other\""),
        ("cluster.sql.reconnect", "reconnect = \"7min\""),
        ("cluster.sql.sslmode", "sslmode = \"require\""),
    ] {
        cases.push((key, sql(""), sql(&format!(", {value}"))));
    }
    let direct = sql(", sslmode = \"require\", sslnegotiation = \"direct\"");
    cases.push(("cluster.sql.sslnegotiation", sql(", sslmode = \"require\""), direct));
    let discover = "discover = true\n";
    cases.push(changed("cluster.discover_allow", discover, "discover = true\ndiscover_allow = [\"10.0.0.0/8\"]"));
    let map = "discover = true\ndiscover_map = { \"a:1\" = \"b:2\" }";
    cases.push(changed("cluster.discover_map", discover, map));
    let park = "park = true";
    cases.push(changed("cluster.park_grace", park, "park = true\npark_grace = \"7s\""));
    cases.push(changed("cluster.park_max", park, "park = true\npark_max = \"7s\""));
    let carry = "park = true\ncarry = true\ncarry_settings = []";
    cases.push(changed("cluster.carry", "park = true\ncarry = false", carry));
    cases.push(changed("cluster.carry_settings", carry, &carry.replace("[]", "[\"app.tenant\"]")));
    let asked = format!("{carry}\ncarry_auth_query = \"select $1\"\nsql = {{ user = \"pgvane\" }}");
    cases.push(changed("cluster.carry_auth_query", &asked, &asked.replace("select $1", "select 1, $1")));
    cases.push(changed("cluster.carry_auth_database", &asked, &format!("carry_auth_database = \"shop\"\n{asked}")));
    cases.push(changed("cluster.carry_rate", carry, &format!("{carry}\ncarry_rate = \"7/s\"")));
    for (key, line) in [
        ("listener.on.lost_lead", "lost_lead = \"drain\""),
        ("listener.on.promotion", "promotion = \"cut\""),
        ("listener.on.lag", "lag = \"cut\""),
        ("listener.on.standing", "standing = \"cut\""),
        ("listener.on.silence", "silence = \"cut\""),
        ("listener.on.departure", "departure = \"cut\""),
        ("listener.on.operator", "operator = \"cut\""),
    ] {
        cases.push((key, String::new(), format!("on = {{ {line} }}")));
    }
    let rebalance = |lines: &str| format!("rebalance = {{ {lines} }}");
    for (key, line) in [
        ("listener.rebalance.every", "every = \"7s\""),
        ("listener.rebalance.tolerance", "tolerance = 7"),
        ("listener.rebalance.after", "after = \"7s\""),
    ] {
        cases.push((key, rebalance(""), rebalance(line)));
    }
    let proxy = |more: &str| format!("proxy_protocol = {{ trusted = [\"10.0.0.5\"]{more} }}");
    cases.push(("listener.proxy_protocol.trusted", proxy(""), proxy("").replace("0.5", "0.6")));
    cases.push(("listener.proxy_protocol.required", proxy(""), proxy(", required = false")));
    let unix = |more: &str| format!("bind = \"unix:/run/pgvane/s\"\n{more}");
    let socket = |more: &str| format!("sockets = [{{ path = \"/run/pgvane/s\"{more} }}]");
    for (key, more) in [
        ("admin.sockets.mode", ", mode = \"0660\""),
        ("admin.sockets.owner", ", owner = \"7\""),
        ("admin.sockets.group", ", group = \"7\""),
        ("admin.sockets.level", ", level = \"admin\""),
        ("admin.sockets.idle_timeout", ", idle_timeout = \"7s\""),
    ] {
        cases.push((key, socket(""), socket(more)));
    }
    cases.push(("admin.sockets.path", socket(""), socket("").replace("pgvane/s", "pgvane/t")));
    cases.push(("listener.unix_socket_mode", unix(""), unix("unix_socket_mode = \"0700\"")));
    cases.push(("listener.unix_socket_owner", unix(""), unix("unix_socket_owner = \"7\"")));
    cases.push(("listener.unix_socket_group", unix(""), unix("unix_socket_group = \"7\"")));
    cases
}

/// Those that need certificates.
fn tls_cases(world: &World) -> Vec<Case> {
    let one = world.identity("one", "localhost");
    let (ca, key) = (world.ca_file(), |path: &std::path::Path| path.display().to_string());
    let ca = key(&ca);
    let text = std::fs::read_to_string(&one.cert_file).expect("is there")
        + &std::fs::read_to_string(&one.key_file).expect("is there");
    let both = key(&world.file("both.pem", &text));
    let (cert_file, key_file) = (key(&one.cert_file), key(&one.key_file));
    let copy =
        |name: &str, from: &std::path::Path| key(&world.file(name, &std::fs::read_to_string(from).expect("is there")));
    let copied_cert = copy("copy.pem", &one.cert_file);
    let copied_key = copy("copy.key", &one.key_file);
    let identity = |cert: &str, key: &str| format!("client_cert_file = \"{cert}\", client_key_file = \"{key}\"");
    let mut cases = Vec::new();

    let rest = |lines: &str| format!("patroni_tls = {{ {lines} }}");
    cases.push(("cluster.patroni_tls.ca_file", rest(""), rest(&format!("ca_file = \"{ca}\""))));
    cases.push((
        "cluster.patroni_tls.client_identity_file",
        rest(""),
        rest(&format!("client_identity_file = \"{both}\"")),
    ));
    cases.push(("cluster.patroni_tls.verify", rest(""), rest("verify = \"none\"")));

    let sql = |more: &str| format!("check = \"sql\"\nsql = {{ user = \"pgvane\", sslmode = \"require\"{more} }}");
    cases.push(("cluster.sql.ca_file", sql(""), sql(&format!(", ca_file = \"{ca}\""))));
    let with = |cert: &str, key: &str| sql(&format!(", {}", identity(cert, key)));
    cases.push(("cluster.sql.client_cert_file", with(&cert_file, &key_file), with(&copied_cert, &key_file)));
    cases.push(("cluster.sql.client_key_file", with(&cert_file, &key_file), with(&cert_file, &copied_key)));

    let clients = |cert: &str, key: &str, more: &str| {
        format!("tls = {{ mode = \"terminate\", cert_file = \"{cert}\", key_file = \"{key}\"{more} }}")
    };
    let terminate = |more: &str| clients(&cert_file, &key_file, more);
    cases.push(("listener.tls.mode", String::new(), "tls = \"disable\"".to_owned()));
    cases.push(("listener.tls.cert_file", terminate(""), clients(&copied_cert, &key_file, "")));
    cases.push(("listener.tls.key_file", terminate(""), clients(&cert_file, &copied_key, "")));
    cases.push(("listener.tls.sslmode", terminate(""), terminate(", sslmode = \"require\"")));
    let verify = |ca: &str| terminate(&format!(", verify_client = \"optional\", client_ca_file = \"{ca}\""));
    cases.push(("listener.tls.verify_client", terminate(""), verify(&ca)));
    cases.push(("listener.tls.client_ca_file", verify(&ca), verify(&copied_ca(world, &ca))));
    cases.push(("listener.tls.min_protocol_version", terminate(""), terminate(", min_protocol_version = \"TLSv1.3\"")));

    let servers = |more: &str| format!("tls = \"disable\"\nserver_tls = {{ sslmode = \"require\"{more} }}");
    cases.push(("listener.server_tls.sslmode", "tls = \"disable\"".to_owned(), servers("")));
    cases.push(("listener.server_tls.sslnegotiation", servers(""), servers(", sslnegotiation = \"direct\"")));
    cases.push(("listener.server_tls.ca_file", servers(""), servers(&format!(", ca_file = \"{ca}\""))));
    let with = |cert: &str, key: &str| servers(&format!(", {}", identity(cert, key)));
    cases.push(("listener.server_tls.client_cert_file", with(&cert_file, &key_file), with(&copied_cert, &key_file)));
    cases.push(("listener.server_tls.client_key_file", with(&cert_file, &key_file), with(&cert_file, &copied_key)));
    cases
}

fn copied_ca(world: &World, ca: &str) -> String {
    world.file("copied-ca.pem", &std::fs::read_to_string(ca).expect("is there")).display().to_string()
}

fn file_cases(world: &World) -> Vec<Case> {
    let [one, two] = ["one", "two"].map(|text| world.file(&format!("password-{text}"), text).display().to_string());
    let user = |file: &str| format!("users = [{{ name = \"ops\", password_file = \"{file}\" }}]");
    let sql = |file: &str| format!("check = \"sql\"\nsql = {{ user = \"pgvane\", password_file = \"{file}\" }}");
    let login = |file: &str| format!("patroni_login = {{ user = \"patroni\", password_file = \"{file}\" }}");
    vec![
        ("admin.users.password_file", user(&one), user(&two)),
        ("cluster.sql.password_file", sql(&one), sql(&two)),
        ("cluster.patroni_login.password_file", login(&one), login(&two)),
    ]
}

/// What the differences say of a key.
fn is_told(key: &str, differences: &[Difference]) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    // the password is compared, and not the name of its file; a table with another name is another table
    let name = if name == "password_file" { "password" } else { name };
    let is_it = |difference: &Difference| match difference {
        Difference::Changed { key: told, .. } => told.ends_with(name) || told.contains("address"),
        Difference::Added(_) | Difference::Removed(_) => {
            name == "name" || key == "admin.enabled" || key == "admin.sockets.path"
        }
    };
    differences.iter().any(is_it)
}

#[test]
fn a_change_of_each_key_that_exists_is_found() {
    let world = World::new();
    let mut cases = [plain_cases(), nested_cases(), tls_cases(&world), file_cases(&world)].concat();
    let node = |host: &str| format!("[[cluster.node]]\naddress = \"{host}:5432\"\n");
    cases.push(changed("listener.cluster", "cluster = \"main\"", "cluster = \"other\""));
    cases.push(changed("cluster.node.check_address", CHECKED, &CHECKED.replace("5433", "5434")));
    let mut wrong = Vec::new();
    let mut without_case: BTreeSet<String> = keys_asked_for();
    let all = without_case.clone();
    without_case.retain(|key| {
        !all.iter().any(|other| other.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('.')))
    });
    for (key, before, after) in &cases {
        without_case.remove(*key);
        // the cluster asks PostgreSQL too, so that check_address has an effect
        let read = |lines: &str| {
            let text = file(table_of(key), lines);
            let text = match *key {
                "cluster.node.check_address" => {
                    text.replace("[[cluster]]\n", "[[cluster]]\nsql = { user = \"pgvane\" }\n")
                }
                "listener.cluster" => format!("{text}[[cluster]]\nname = \"other\"\n{}", node("10.0.0.2")),
                "listener.on.lost_lead" => text.replace("\"replica\"", "\"leader\""),
                _ => text,
            };
            Config::from_toml("pgvane.toml", &text).map_err(|faults| format!("{key}: {faults}"))
        };
        match read(before).and_then(|before| Ok(between(&before, &read(after)?))) {
            Ok(differences) if is_told(key, &differences) => {}
            Ok(differences) => wrong.push(format!("a change of {key} is told as {differences:?}")),
            Err(faults) => wrong.push(faults),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(without_case.is_empty(), "give these keys another value in this file: {without_case:?}");
}
