//! The Grafana dashboard and the alert rules in `config/`, held against a real Prometheus that reads a real pgvane.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgvane_loadtest::process::Process;
use pgvane_loadtest::{http, ports, programs, wait};
use serde_json::Value;

use crate::fake::FakeCluster;
use crate::metrics;
use crate::wire::{SOON, Session};

fn config(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(file)
}

/// The dashboard's queries, with values in place of its variables.
fn queries() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(config("grafana-dashboard.json")).expect("is there");
    let dashboard: Value = serde_json::from_str(&text).expect("is JSON");
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("has panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().expect("is a query");
            let variables = [("$instance", ".*"), ("$cluster", ".*"), ("$listener", ".*"), ("$__rate_interval", "1m")];
            let query = variables.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value));
            assert!(!query.contains('$'), "a variable that the dashboard has not: {query}");
            queries.push((panel["title"].as_str().unwrap_or_default().to_owned(), query));
        }
    }
    queries
}

/// The names of pgvane's metrics in a query.
fn names_in(query: &str) -> BTreeSet<String> {
    let words = query.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("pgvane_")).map(str::to_owned).collect()
}

/// A Prometheus that reads this address twice a second.
fn prometheus(directory: &Path, target: SocketAddr) -> (Process, SocketAddr) {
    let web = ports::free().expect("a port");
    let text = format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\nrule_files: [{}]\nscrape_configs:\n  \
         - {{job_name: pgvane, static_configs: [{{targets: [\"{target}\"]}}]}}\n  \
         - {{job_name: haproxy, metrics_path: /metrics/haproxy, static_configs: [{{targets: [\"{target}\"]}}]}}\n",
        config("prometheus-alerts.yml").display()
    );
    let file = directory.join("prometheus.yml");
    std::fs::write(&file, text).expect("is writable");
    let mut command = Command::new(programs::on_path("prometheus").expect("Prometheus is installed"));
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", directory.join("prometheus").display()));
    command.arg(format!("--web.listen-address={web}"));
    (Process::start("prometheus", command, directory, &file.with_extension("log")).expect("starts"), web)
}

/// The result of a query now.
async fn ask(web: SocketAddr, query: &str) -> Result<Vec<Value>, String> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = format!("/api/v1/query?query={encoded}");
    let answer = http::get(web, &path, Duration::from_secs(5)).await.map_err(|error| error.to_string())?.json();
    match answer["data"]["result"].as_array() {
        Some(result) => Ok(result.clone()),
        None => Err(answer.to_string()),
    }
}

#[tokio::test]
async fn every_query_of_the_dashboard_finds_something_in_a_real_prometheus() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let _session = Session::through(pgvane.write_addr).await;
    let (_prometheus, web) = prometheus(cluster.directory(), pgvane.admin_addr);
    // a rate needs two scrapes
    let has_scraped = || async {
        let counted = ask(web, "count_over_time(up{job=\"pgvane\"}[1m]) >= 3").await?;
        if counted.is_empty() { Err("not scraped three times".to_owned()) } else { Ok(()) }
    };
    wait::until("Prometheus to have read pgvane", SOON, has_scraped).await.unwrap_or_else(|error| panic!("{error}"));
    for (title, query) in queries() {
        let found = ask(web, &query).await.unwrap_or_else(|error| panic!("{title}: {query}: {error}"));
        // these are empty as long as nothing is wrong
        let is_quiet = ["Ends by reason"].contains(&title.as_str());
        assert!(!found.is_empty() || is_quiet, "{title}: {query} finds nothing");
    }
    // and what a dashboard for HAProxy asks
    for query in [
        "sum by (proxy) (haproxy_frontend_current_sessions)",
        "sum by (proxy) (rate(haproxy_frontend_bytes_in_total[1m]))",
        "count by (proxy) (haproxy_server_status{state=\"UP\"} == 1)",
        "haproxy_backend_active_servers",
        "rate(haproxy_backend_connection_errors_total[1m]) + rate(haproxy_backend_redispatch_warnings_total[1m])",
        "haproxy_server_check_status{state=\"L7OK\"} == 1",
        "haproxy_process_uptime_seconds",
    ] {
        let found = ask(web, query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        assert!(!found.is_empty(), "{query} finds nothing");
    }
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_name_only_metrics_that_exist() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let all = metrics::all(&pgvane).await;
    let mut known: BTreeSet<String> =
        all.keys().map(|name| name.split('{').next().unwrap_or(name).to_owned()).collect();
    // these exist only where a certificate is sent, a port is named, or a certificate could not be loaded
    let conditional = [
        "pgvane_tls_certificate_expiry_timestamp_seconds",
        "pgvane_tls_reload_failures_total",
        "pgvane_node_port_reachable",
    ];
    known.extend(conditional.map(str::to_owned));
    let alerts = std::fs::read_to_string(config("prometheus-alerts.yml")).expect("is there");
    let alerts: String =
        alerts.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    let named: BTreeSet<String> =
        queries().iter().flat_map(|(_, query)| names_in(query)).chain(names_in(&alerts)).collect();
    assert!(named.len() > 30, "{named:?}");
    let unknown: Vec<&String> = named.iter().filter(|name| !known.contains(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not among {known:?}");
}

#[test]
fn promtool_accepts_the_alert_rules() {
    let mut command = Command::new(programs::on_path("promtool").expect("promtool is installed"));
    let output = command.args(["check", "rules"]).arg(config("prometheus-alerts.yml")).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
}
