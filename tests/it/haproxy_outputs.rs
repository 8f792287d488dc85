//! The outputs of HAProxy: read by programs that were written for HAProxy, and held beside HAProxy's own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::process::Process;
use pgvane_loadtest::{http, ports, programs, wait};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::fake::FakeCluster;
use crate::metrics;
use crate::operators::Operator;
use crate::wire::{SOON, Session, Wire};

/// One line of the CSV, by the names of its fields.
type Line = BTreeMap<String, String>;

/// Reads HAProxy's CSV by its documentation: names behind `# `, commas, quotation marks where a text needs them.
fn read_csv(text: &str) -> Vec<Line> {
    let mut lines = text.lines();
    let head = lines.next().and_then(|head| head.strip_prefix("# ")).unwrap_or_else(|| panic!("no CSV: {text}"));
    let names: Vec<String> = split(head);
    lines
        .map(|line| {
            let values = split(line);
            assert_eq!(values.len(), names.len(), "{line}");
            names.iter().cloned().zip(values).collect()
        })
        .collect()
}

fn split(line: &str) -> Vec<String> {
    let (mut fields, mut is_quoted) = (vec![String::new()], false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        let field = fields.last_mut().expect("there is one");
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => field.extend(letters.next()),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    assert_eq!(fields.pop().as_deref(), Some(""), "a line ends with a comma: {line}");
    fields
}

async fn csv(pgvane: &Pgvane) -> Vec<Line> {
    read_csv(&pgvane.admin_get("/stats;csv").await.expect("is served").body)
}

fn line<'l>(lines: &'l [Line], proxy: &str, server: &str) -> &'l Line {
    let found = lines.iter().find(|line| line["pxname"] == proxy && line["svname"] == server);
    found.unwrap_or_else(|| panic!("no {proxy}/{server} in {lines:?}"))
}

/// Waits until a field of a line has this value.
async fn wait_for_field(pgvane: &Pgvane, (proxy, server): (&str, &str), field: &str, wanted: &str) {
    let look = || async {
        let lines = csv(pgvane).await;
        let seen = &line(&lines, proxy, server)[field];
        if seen == wanted { Ok(()) } else { Err(format!("it is {seen:?}")) }
    };
    let what = format!("{field} of {proxy}/{server} to be {wanted}");
    wait::until(&what, SOON, look).await.unwrap_or_else(|error| panic!("{error}"));
}

// ---- beside HAProxy itself ------------------------------------------------------------------------------------------

/// HAProxy before nodes that do not exist, with its stats page and its exporter.
async fn haproxy(directory: &Path) -> (Process, SocketAddr) {
    let (stats, write) = (ports::free().expect("a port"), ports::free().expect("a port"));
    let text = format!(
        "global\n    maxconn 100\ndefaults\n    mode tcp\n    timeout client 30m\n    timeout connect 4s\n    \
         timeout server 30m\nlisten stats\n    mode http\n    bind {stats}\n    \
         http-request use-service prometheus-exporter if {{ path /metrics }}\n    stats enable\n    stats uri /stats\n    \
         stats show-legends\nlisten write\n    bind {write}\n    option httpchk OPTIONS /primary\n    \
         server node1 127.0.0.1:1 maxconn 100 check inter 100ms\n    server node2 127.0.0.1:2 check inter 100ms backup\n"
    );
    let file = directory.join("haproxy.cfg");
    std::fs::write(&file, text).expect("is writable");
    let mut command = Command::new(programs::on_path("haproxy").expect("HAProxy is installed"));
    command.arg("-db").arg("-f").arg(&file);
    let process = Process::start("haproxy", command, directory, &file.with_extension("log")).expect("starts");
    let has_checked = || async {
        let answer = http::get(stats, "/stats;csv", Duration::from_secs(5)).await.map_err(|error| error.to_string())?;
        let is_down =
            |server: &str| answer.body.lines().any(|line| line.starts_with(server) && line.contains(",DOWN,"));
        if is_down("write,node1,") && is_down("write,node2,") { Ok(()) } else { Err(answer.body) }
    };
    wait::until("HAProxy to have checked its servers", SOON, has_checked)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    (process, stats)
}

async fn ask(server: SocketAddr, path: &str) -> String {
    without_chunks(http::get(server, path, Duration::from_secs(5)).await.expect("answers").body)
}

/// HAProxy sends its statistics in chunks whatever the version of HTTP is; pgvane does not.
fn without_chunks(body: String) -> String {
    let (mut text, mut rest) = (String::new(), body.as_str());
    while let Some((length, behind)) = rest.split_once("\r\n") {
        let Some(length) = usize::from_str_radix(length, 16).ok().filter(|length| *length > 0) else { break };
        text.push_str(&behind[..length]);
        rest = behind[length..].trim_start_matches("\r\n");
    }
    if text.is_empty() { body } else { text }
}

/// The names before the column `-`, after which HAProxy promises no order.
fn documented_fields(csv: &str) -> Vec<String> {
    let head = csv.lines().next().and_then(|head| head.strip_prefix("# ")).expect("the first line has the names");
    head.split(',').map(str::to_owned).take_while(|name| name != "-").collect()
}

/// The fields in the table of the documentation, in its order.
fn documented(file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("is there");
    let table =
        text.split("<!-- fields -->").nth(1).and_then(|rest| rest.split("<!-- end -->").next()).expect("a table");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | `"));
    rows.enumerate()
        .map(|(place, (number, rest))| {
            assert_eq!(number, place.to_string(), "{rest}");
            rest.split('`').next().expect("a name").to_owned()
        })
        .collect()
}

/// For which of `F`, `B` and `S` the documentation says that a field has a value.
fn documented_kinds(field: &str) -> String {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/haproxy-outputs.md"));
    let text = text.expect("is there");
    let row = text.lines().find(|line| line.contains(&format!(" | `{field}` | "))).expect("there is a row");
    row.split('|').nth(3).unwrap_or_default().trim().to_owned()
}

#[tokio::test]
async fn the_documentation_says_which_fields_are_empty() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.node("node2", "sessions_max = 50")).await;
    let lines = csv(&pgvane).await;
    for field in documented("docs/haproxy-outputs.md") {
        let kinds = [("F", "FRONTEND"), ("B", "BACKEND"), ("S", "node2")];
        let filled = kinds.iter().filter(|(_, server)| !line(&lines, "read", server)[&field].is_empty());
        assert_eq!(filled.map(|(kind, _)| *kind).collect::<String>(), documented_kinds(&field), "{field}");
    }
}

#[tokio::test]
async fn csv_and_json_have_haproxys_fields_in_its_order_and_with_its_types() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.node("node1", "sessions_max = 50")).await;
    let (_haproxy, stats) = haproxy(cluster.directory()).await;
    let own = documented_fields(&ask(pgvane.admin_addr, "/stats;csv").await);
    assert_eq!(own, documented_fields(&ask(stats, "/stats;csv").await));
    assert!(own.len() > 100, "{own:?}");
    assert_eq!(own, documented("docs/haproxy-outputs.md"), "the documentation has every field at its place");

    // the lines of a proxy in TCP mode; HAProxy's own page is one in HTTP mode
    let objects = |text: &str| {
        let all: Vec<Vec<Value>> = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let is_write = |field: &Value| field["field"]["name"] == "pxname" && field["value"]["value"] == "write";
        let proxy = all.iter().flatten().find(|field| is_write(field)).expect("there is one")["proxyId"].clone();
        let mut fields: BTreeMap<(String, u64), Value> = BTreeMap::new();
        for field in all.into_iter().flatten().filter(|field| field["proxyId"] == proxy) {
            let kind = field["objType"].as_str().expect("is a text").to_owned();
            let place = field["field"]["pos"].as_u64().expect("is a number");
            let mut shape = field.clone();
            shape["value"]["value"] = Value::Null;
            shape["id"] = Value::Null;
            shape["proxyId"] = Value::Null;
            fields.insert((kind, place), shape);
        }
        fields
    };
    let own = objects(&ask(pgvane.admin_addr, "/stats;json").await);
    let theirs = objects(&ask(stats, "/stats;json").await);
    for ((kind, place), field) in &own {
        let name = field["field"]["name"].as_str().expect("is a text");
        let Some(expected) = theirs.get(&(kind.clone(), *place)) else {
            // fields that HAProxy fills only with legends or in another set-up
            assert!(["addr", "algo", "throttle", "check_code"].contains(&name), "{kind} has no {name} in HAProxy");
            continue;
        };
        let mut field = field.clone();
        // for these HAProxy's tags are not the same for servers and backends
        if ["rate", "rate_max", "act", "bck"].contains(&name) {
            field["tags"] = expected["tags"].clone();
        }
        assert_eq!(&field, expected, "{name} of {kind}");
    }
    for kind in ["Frontend", "Backend", "Server"] {
        assert!(own.keys().filter(|(of, _)| of == kind).count() > 20, "{own:?}");
    }
}

/// Every family of metrics with its type and the names of its labels.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().0 = kind.to_owned();
        } else if !line.starts_with('#') {
            let (name, labels) = line.split_once('{').unwrap_or_else(|| (line.split(' ').next().unwrap_or(line), ""));
            let labels = labels.split("=\"").filter_map(|part| part.rsplit(['{', ',', '"']).next());
            let labels = labels.filter(|label| !label.is_empty() && !label.starts_with('}'));
            families.entry(name.to_owned()).or_default().1.extend(labels.map(str::to_owned));
        }
    }
    families
}

#[tokio::test]
async fn every_metric_has_the_name_the_type_and_the_labels_of_haproxys_exporter() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let (_haproxy, stats) = haproxy(cluster.directory()).await;
    let own = families(&ask(pgvane.admin_addr, "/metrics/haproxy").await);
    let theirs = families(&ask(stats, "/metrics").await);
    assert!(own.len() > 90, "{}", own.len());
    for (name, (kind, labels)) in &own {
        if ["haproxy_server_active", "haproxy_server_backup"].contains(&name.as_str()) {
            continue; // newer versions than 2.6 have them
        }
        let (their_kind, their_labels) = theirs.get(name).unwrap_or_else(|| panic!("HAProxy has no {name}"));
        assert_eq!(kind, their_kind, "{name}");
        assert!(labels.is_empty() || their_labels.is_empty() || labels == their_labels, "{name}: {labels:?}");
    }
    let names = ["process", "frontend", "backend", "server"]
        .map(|scope| own.keys().filter(|name| name.starts_with(&format!("haproxy_{scope}_"))).count());
    assert!(names.iter().all(|count| *count > 10), "{names:?}");

    // a scope is asked for as in HAProxy
    let servers = ask(pgvane.admin_addr, "/metrics/haproxy?scope=server").await;
    assert!(servers.contains("haproxy_server_status{") && !servers.contains("haproxy_frontend_"), "{servers}");
    let wrong = http::get(pgvane.admin_addr, "/metrics/haproxy?scope=nothing", Duration::from_secs(5)).await;
    assert_eq!(wrong.expect("answers").status, 400);
}

// ---- what other programs make of it ---------------------------------------------------------------------------------

#[tokio::test]
async fn a_reader_written_for_haproxy_reads_the_csv() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let _session = Session::through(pgvane.write_addr).await;
    let script = "import json, sys, haproxystats\n\
                  server = haproxystats.HAProxyServer(sys.argv[1])\n\
                  assert not server.failed\n\
                  print(json.dumps([[b.name, b.status, b.scur, [[s.name, s.status, s.scur, s.check_status, s.act] \
                  for s in b.listeners]] for b in server.backends] + [[f.name, f.status, f.slim] \
                  for f in server.frontends]))";
    let python = programs::in_venv("python").expect("the lab has a Python");
    let mut command = tokio::process::Command::new(python);
    command.args(["-W", "ignore", "-c", script, &pgvane.admin_addr.to_string()]).kill_on_drop(true);
    let output = tokio::time::timeout(SOON, command.output()).await.expect("ends").expect("starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
    let expected = serde_json::json!([
        ["write", "UP", 1, [["node1", "UP", 1, "L7OK", 1], ["node2", "DOWN", 0, "L7STS", 1]]],
        ["read", "UP", 0, [["node1", "UP", 0, "L7OK", 0], ["node2", "UP", 0, "L7OK", 1]]],
        ["write", "OPEN", 10_000],
        ["read", "OPEN", 10_000],
    ]);
    assert_eq!(read, expected);
}

/// Prometheus' own checker of metrics; it prints what it does not like.
fn promtool_check(metrics: &str) {
    let mut command = Command::new(programs::on_path("promtool").expect("promtool is installed"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = command.spawn().expect("starts");
    promtool.stdin.take().expect("is piped").write_all(metrics.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("ends");
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && told.is_empty(), "{}", String::from_utf8_lossy(&told));
}

#[tokio::test]
async fn promtool_finds_nothing_to_complain_about() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    for path in ["/metrics", "/metrics/haproxy"] {
        let text = ask(pgvane.admin_addr, path).await;
        assert!(text.starts_with("# HELP "), "{text}");
        promtool_check(&text);
    }
}

// ---- the figures ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn csv_metrics_and_api_show_the_same_figures() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.node("node2", "sessions_max = 7\nweight = 30")).await;
    let mut sessions = vec![Session::through(pgvane.write_addr).await];
    for _ in 0..3 {
        sessions.push(Session::through(pgvane.read_addr).await);
    }
    for session in &mut sessions {
        session.value("who").await;
    }
    drop(sessions.pop());
    metrics::wait_for_ends(&pgvane, "read", "client-failed", 0).await;
    wait_for_field(&pgvane, ("read", "FRONTEND"), "scur", "2").await;
    wait_for_field(&pgvane, ("read", "node2"), "scur", "2").await;

    let lines = csv(&pgvane).await;
    let prometheus = metrics::parse(&ask(pgvane.admin_addr, "/metrics/haproxy").await);
    let own = metrics::all(&pgvane).await;
    let status: Value = serde_json::from_str(&ask(pgvane.admin_addr, "/api/status").await).expect("is JSON");
    for (listener, name) in status["listeners"].as_array().expect("is an array").iter().zip(["write", "read"]) {
        let (front, back) = (line(&lines, name, "FRONTEND"), line(&lines, name, "BACKEND"));
        let of = |row: &Line, field: &str| row[field].parse::<f64>().unwrap_or_else(|_| panic!("{field}: {row:?}"));
        let own_value = |series: &str| own[&format!("{series}{{listener=\"{name}\"}}")];
        for (field, metric, key, series) in [
            ("scur", "current_sessions", "sessions", "pgvane_sessions"),
            ("slim", "limit_sessions", "sessions_max", "pgvane_sessions_max"),
        ] {
            let expected = listener[key].as_f64().expect("is a number");
            assert_eq!(of(front, field), expected, "{name} {field}");
            assert_eq!(of(back, field), expected, "{name} {field}");
            assert_eq!(prometheus[&format!("haproxy_frontend_{metric}{{proxy=\"{name}\"}}")], expected);
            assert_eq!(own_value(series), expected);
        }
        assert_eq!(of(front, "stot"), own_value("pgvane_sessions_total"));
        assert_eq!(listener["sessions_total"].as_f64(), Some(own_value("pgvane_sessions_total")));
        for (field, key) in [("bin", "bytes_to_server"), ("bout", "bytes_to_client")] {
            let expected = listener[key].as_f64().expect("is a number");
            assert!(expected > 0.0);
            assert_eq!(of(front, field), expected);
            let nodes: f64 = ["node1", "node2"].iter().map(|node| of(line(&lines, name, node), field)).sum();
            assert_eq!(nodes, expected, "what the servers have adds up: {field} of {name}");
        }
        for server in listener["servers"].as_array().expect("is an array") {
            let node = server["node"].as_str().expect("is a text");
            let row = line(&lines, name, node);
            for (field, key) in
                [("scur", "sessions"), ("smax", "sessions_highest"), ("lbtot", "chosen_total"), ("weight", "weight")]
            {
                assert_eq!(Some(of(row, field)), server[key].as_f64(), "{field} of {name}/{node}");
            }
            let series = format!("haproxy_server_current_sessions{{proxy=\"{name}\",server=\"{node}\"}}");
            assert_eq!(Some(prometheus[&series]), server["sessions"].as_f64());
        }
    }
    let replica = line(&lines, "read", "node2");
    assert_eq!((replica["scur"].as_str(), replica["smax"].as_str(), replica["lbtot"].as_str()), ("2", "3", "3"));
    assert_eq!((replica["slim"].as_str(), replica["weight"].as_str(), replica["bck"].as_str()), ("7", "30", "0"));
    assert_eq!(replica["addr"], cluster[1].postgres.address().to_string());
    assert_eq!(line(&lines, "read", "node1")["bck"], "1", "the leader stands in for the replicas");
    assert_eq!(line(&lines, "write", "node2")["lastsess"], "-1", "it was never chosen");
}

#[tokio::test]
async fn states_have_haproxys_names() {
    let cluster = FakeCluster::of(3).await;
    let users = Operator::line(cluster.directory());
    let configured = |pgvane: pgvane_loadtest::pgvane::PgvaneBuilder| {
        pgvane.admin(&users).cluster("leader_grace = \"1h\"").read_listener("fallback = \"none\"")
    };
    let pgvane = cluster.pgvane(configured).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let lines = csv(&pgvane).await;
    let word = |lines: &[Line], proxy: &str, server: &str| line(lines, proxy, server)["status"].clone();
    assert_eq!(word(&lines, "write", "node1"), "UP");
    assert_eq!((word(&lines, "write", "node2"), word(&lines, "write", "BACKEND")), ("DOWN".into(), "UP".into()));
    assert_eq!(line(&lines, "write", "node2")["last_chk"], "the node is replica");
    assert_eq!((word(&lines, "read", "node1"), word(&lines, "read", "node2")), ("DOWN".into(), "UP".into()));

    operator.says(&["drain", "node2"]).await.ended_with(0);
    operator.says(&["maint", "node3"]).await.ended_with(0);
    wait_for_field(&pgvane, ("read", "node2"), "status", "DRAIN").await;
    wait_for_field(&pgvane, ("read", "node3"), "status", "MAINT").await;
    wait_for_field(&pgvane, ("read", "BACKEND"), "status", "DOWN").await;
    let state = |node: &str, state: &str| {
        format!("haproxy_server_status{{proxy=\"read\",server=\"{node}\",state=\"{state}\"}}")
    };
    let prometheus = metrics::parse(&ask(pgvane.admin_addr, "/metrics/haproxy").await);
    assert_eq!((prometheus[&state("node2", "DRAIN")], prometheus[&state("node2", "UP")]), (1.0, 0.0));
    assert_eq!((prometheus[&state("node3", "MAINT")], prometheus[&state("node3", "DOWN")]), (1.0, 0.0));
    // the filters of HAProxy's page
    let up = read_csv(&ask(pgvane.admin_addr, "/stats;csv;up;no-maint").await);
    let shown: Vec<&str> = up.iter().filter(|row| row["pxname"] == "read").map(|row| row["svname"].as_str()).collect();
    assert_eq!(shown, ["FRONTEND", "node2", "BACKEND"]);
    assert_eq!(word(&up, "read", "BACKEND"), "DOWN (0/3)");

    cluster[0].patroni.closes().await;
    wait_for_field(&pgvane, ("write", "node1"), "status", "UP 1/3").await;
    wait_for_field(&pgvane, ("write", "node1"), "check_status", "L4CON").await;
    let lines = csv(&pgvane).await;
    assert_eq!(line(&lines, "write", "node1")["last_chk"], "connection refused");
    let prometheus = metrics::parse(&ask(pgvane.admin_addr, "/metrics/haproxy").await);
    assert_eq!(prometheus["haproxy_server_check_status{proxy=\"write\",server=\"node1\",state=\"L4CON\"}"], 1.0);
    assert_eq!(prometheus["haproxy_backend_agg_server_status{proxy=\"write\",state=\"UP\"}"], 1.0);
}

#[tokio::test]
async fn refused_connections_are_counted_where_haproxy_counts_them() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("users = [\"nobody\"]\nstartup_timeout = \"1s\"")).await;
    drop(TcpStream::connect(pgvane.write_addr).await.expect("accepts")); // as a port scanner does
    wait_for_field(&pgvane, ("write", "FRONTEND"), "ereq", "1").await;
    let mut refused = Wire::to(pgvane.write_addr).await;
    refused.send(&crate::wire::plain_startup()).await;
    refused.fatal().await;
    wait_for_field(&pgvane, ("write", "FRONTEND"), "dreq", "1").await;
    wait_for_field(&pgvane, ("write", "FRONTEND"), "stot", "2").await;
    assert_eq!(line(&csv(&pgvane).await, "write", "node1")["stot"], "0");
}

// ---- who may ask, and how -------------------------------------------------------------------------------------------

async fn raw(pgvane: &Pgvane, version: &str, method: &str, path: &str, headers: &str) -> String {
    let mut client = Wire::to(pgvane.admin_addr).await;
    let request = format!("{method} {path} HTTP/{version}\r\n{headers}Connection: close\r\n\r\n");
    client.send(request.as_bytes()).await;
    String::from_utf8_lossy(&client.rest().await).into_owned()
}

#[tokio::test]
async fn health_checks_and_old_programs_get_answers_in_the_form_that_they_know() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    for path in ["/stats;csv", "/;csv", "/stats;csv;norefresh", "/stats/;csv", "/stats;csv/", "/metrics/haproxy/"] {
        for method in ["GET", "OPTIONS"] {
            let answer = raw(&pgvane, "1.0", method, path, "").await;
            assert!(answer.starts_with("HTTP/1.0 200"), "{method} {path}: {answer}");
            assert!(answer.contains("pxname,svname") || answer.contains("haproxy_server_status"), "{answer}");
            assert!(!answer.contains("transfer-encoding"), "HTTP/1.0 has no chunks: {answer}");
        }
        let head = raw(&pgvane, "1.1", "HEAD", path, "Host: localhost\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(head.contains("content-length: ") && !head.contains("content-length: 0"), "{head}");
    }
    let csv = raw(&pgvane, "1.1", "GET", "/;csv", "Host: localhost\r\n").await;
    assert!(csv.contains("content-type: text/plain") && csv.contains("cache-control: no-cache"), "{csv}");
    let json = raw(&pgvane, "1.1", "GET", "/stats;json", "Host: localhost\r\n").await;
    assert!(json.contains("content-type: application/json"), "{json}");
    assert!(raw(&pgvane, "1.0", "GET", "/stats;norefresh", "").await.contains("<html"), "the page with an option");
    for path in ["/other;csv", "/nothing"] {
        assert!(raw(&pgvane, "1.0", "GET", path, "").await.starts_with("HTTP/1.0 404"), "{path}");
    }
}

#[tokio::test]
async fn the_csv_is_as_protected_as_the_page_and_the_metrics_are_open() {
    let cluster = FakeCluster::of(1).await;
    let users = Operator::line(cluster.directory());
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(&users).admin("require_login = true")).await;
    for path in ["/stats;csv", "/;csv", "/stats;json", "/stats;norefresh"] {
        assert!(raw(&pgvane, "1.0", "GET", path, "").await.starts_with("HTTP/1.0 401"), "{path}");
        let foreign = raw(&pgvane, "1.1", "GET", path, "Host: evil.example\r\n").await;
        assert!(foreign.starts_with("HTTP/1.1 421"), "{path}: {foreign}");
    }
    let login = "Authorization: Basic b3BzOmEgcGFzc3dvcmQgb2YgdHdlbnR5IGxldHRlcnM=\r\n";
    assert!(raw(&pgvane, "1.0", "GET", "/stats;csv", login).await.starts_with("HTTP/1.0 200"));
    for path in ["/metrics", "/metrics/haproxy"] {
        let answer = raw(&pgvane, "1.1", "GET", path, "Host: prometheus-target\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
}

// ---- times, and the state of a backend ------------------------------------------------------------------------------

#[tokio::test]
async fn a_backend_without_a_server_has_downtime_and_sessions_have_times() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("60s")).await;
    let before = csv(&pgvane).await;
    let backend = line(&before, "write", "BACKEND");
    assert_eq!((backend["chkdown"].as_str(), backend["downtime"].as_str()), ("0", "0"));
    assert!(!backend["lastchg"].is_empty(), "{backend:?}");
    let first = Session::through(pgvane.write_addr).await;
    wait_for_field(&pgvane, ("write", "node1"), "rate_max", "1").await;

    cluster[0].follows();
    wait_for_field(&pgvane, ("write", "BACKEND"), "chkdown", "1").await;
    let server = pgvane.write_addr;
    let waiting = tokio::spawn(async move { Session::through(server).await });
    let look = || async {
        let lines = csv(&pgvane).await;
        let backend = line(&lines, "write", "BACKEND");
        let is_long = backend["downtime"].parse::<u64>().expect("is a number") >= 1 && backend["qcur"] == "1";
        if is_long { Ok(()) } else { Err(format!("{backend:?}")) }
    };
    wait::until("a second of downtime while a client waits", SOON, look)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    cluster[1].leads(2);
    let _second = waiting.await.expect("is served");
    drop(first);

    let lines = csv(&pgvane).await;
    let number = |server: &str, field: &str| -> u64 {
        line(&lines, "write", server)[field].parse().unwrap_or_else(|error| panic!("{field} of {server}: {error}"))
    };
    assert!(number("node2", "qtime") > 0 && number("node2", "qtime_max") >= number("node2", "qtime"), "{lines:?}");
    assert_eq!(number("BACKEND", "qtime_max"), number("node2", "qtime_max"));
    assert!(number("BACKEND", "qtime") < number("node2", "qtime"), "the other session did not wait");
    let prometheus = metrics::parse(&ask(pgvane.admin_addr, "/metrics/haproxy").await);
    let seconds = prometheus["haproxy_server_max_queue_time_seconds{proxy=\"write\",server=\"node2\"}"];
    assert!((seconds - number("node2", "qtime_max") as f64 / 1000.0).abs() < 0.001, "{seconds}");
    let ended = || async {
        let lines = csv(&pgvane).await;
        let longest = line(&lines, "write", "node1")["ttime_max"].parse::<u64>().expect("is a number");
        if longest >= 1 { Ok(()) } else { Err(format!("{longest}")) }
    };
    wait::until("the time of the session that has ended", SOON, ended).await.unwrap_or_else(|error| panic!("{error}"));
}
