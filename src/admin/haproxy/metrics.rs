//! The statistics as Prometheus metrics, with the names, types and labels of HAProxy's own exporter.
//!
//! Metrics of HTTP, compression, caches and TLS between proxies are not there: HAProxy has none of them either for a
//! proxy in TCP mode, or they would be zero for ever.

use super::fields::Field as F;
use super::process;
use super::row::{Kind, Row, Value};
use super::rows::{self, Filter};
use crate::admin::status::Status;
use crate::telemetry::{MetricRegistry, registry};

/// A metric that is the value of one field.
struct Metric {
    field: F,
    /// Its name after `haproxy_frontend_`, `haproxy_backend_` or `haproxy_server_`.
    name: &'static str,
    help: &'static str,
    /// HAProxy has it for these.
    kinds: &'static [Kind],
}

const ALL: &[Kind] = &[Kind::Frontend, Kind::Backend, Kind::Server];
const NODES: &[Kind] = &[Kind::Backend, Kind::Server];
const FRONT: &[Kind] = &[Kind::Frontend];
const BACK: &[Kind] = &[Kind::Backend];
const SERVER: &[Kind] = &[Kind::Server];

const fn metric(field: F, name: &'static str, kinds: &'static [Kind], help: &'static str) -> Metric {
    Metric { field, name, help, kinds }
}

/// Names that end with `_total` are counters, all others gauges.
#[rustfmt::skip]
const METRICS: &[Metric] = &[
    metric(F::Scur, "current_sessions", ALL, "Sessions now."),
    metric(F::Smax, "max_sessions", ALL, "The most sessions at the same time since the start."),
    metric(F::Slim, "limit_sessions", ALL, "The limit of sessions at the same time (sessions_max)."),
    metric(F::Stot, "sessions_total", ALL, "Sessions since the start."),
    metric(F::Bin, "bytes_in_total", ALL, "Bytes from clients to servers since the start."),
    metric(F::Bout, "bytes_out_total", ALL, "Bytes from servers to clients since the start."),
    metric(F::Dreq, "requests_denied_total", &[Kind::Frontend, Kind::Backend], "Connections refused because of user, database or encryption."),
    metric(F::Dresp, "responses_denied_total", ALL, "Always 0."),
    metric(F::Ereq, "request_errors_total", FRONT, "Connections that sent no usable startup packet."),
    metric(F::RateLim, "limit_session_rate", FRONT, "Always 0: there is no limit of new sessions per second."),
    metric(F::RateMax, "max_session_rate", ALL, "The most new sessions in one second since the start."),
    metric(F::ConnRateMax, "connections_rate_max", FRONT, "The most new connections in one second since the start."),
    metric(F::ConnTot, "connections_total", FRONT, "Connections accepted since the start."),
    metric(F::Dcon, "denied_connections_total", FRONT, "Connections refused because of the client's address."),
    metric(F::Dses, "denied_sessions_total", FRONT, "Connections refused because of a limit."),
    metric(F::Eint, "internal_errors_total", ALL, "Connections refused for lack of file descriptors, or ended by a defect."),
    metric(F::Wrew, "failed_header_rewriting_total", ALL, "Always 0."),
    metric(F::Qcur, "current_queue", NODES, "Connections that wait for a server now."),
    metric(F::Qmax, "max_queue", NODES, "The most connections that waited for a server at the same time."),
    metric(F::Econ, "connection_errors_total", NODES, "Sessions that a server did not take, or for which there was no server."),
    metric(F::Eresp, "response_errors_total", NODES, "Sessions that broke because of the server."),
    metric(F::Wretr, "retry_warnings_total", NODES, "Always 0: another attempt counts as a redispatch."),
    metric(F::Wredis, "redispatch_warnings_total", NODES, "Failed attempts that were repeated on another server or later."),
    metric(F::Weight, "weight", NODES, "The share of new sessions; of a backend the sum over its servers that are up."),
    metric(F::Uweight, "uweight", NODES, "The same as weight."),
    metric(F::Act, "active_servers", BACK, "Servers that are up, without backups."),
    metric(F::Bck, "backup_servers", BACK, "Backup servers that are up."),
    metric(F::Act, "active", SERVER, "1 if the server is no backup, else 0."),
    metric(F::Bck, "backup", SERVER, "1 if the server gets sessions only while no other can serve them, else 0."),
    metric(F::Chkfail, "check_failures_total", SERVER, "Checks that were not answered."),
    metric(F::Chkdown, "check_up_down_total", NODES, "Changes from up to down."),
    metric(F::Lastchg, "check_last_change_seconds", NODES, "Time since the last change between up and down."),
    metric(F::Downtime, "downtime_seconds_total", NODES, "Time down since the start."),
    metric(F::Lbtot, "loadbalanced_total", NODES, "How often a server was chosen for a session."),
    metric(F::CheckCode, "check_code", SERVER, "The status code of the newest check."),
    metric(F::CheckDuration, "check_duration_seconds", SERVER, "How long the newest check took."),
    metric(F::Qtime, "queue_time_average_seconds", NODES, "Average time that sessions waited for a server, of about 512."),
    metric(F::Ctime, "connect_time_average_seconds", NODES, "Average time to connect to a server, of about 512 sessions."),
    metric(F::Rtime, "response_time_average_seconds", NODES, "Always 0."),
    metric(F::Ttime, "total_time_average_seconds", NODES, "Average time that sessions lasted, of about 512."),
    metric(F::QtimeMax, "max_queue_time_seconds", NODES, "The longest time that a session waited for a server."),
    metric(F::CtimeMax, "max_connect_time_seconds", NODES, "The longest time to connect to a server."),
    metric(F::RtimeMax, "max_response_time_seconds", NODES, "Always 0."),
    metric(F::TtimeMax, "max_total_time_seconds", NODES, "The longest time that a session lasted."),
    metric(F::CliAbrt, "client_aborts_total", NODES, "Sessions that ended because the client was lost."),
    metric(F::SrvAbrt, "server_aborts_total", NODES, "Sessions that the server ended, or lost."),
    metric(F::Lastsess, "last_session_seconds", NODES, "Time since a server was last chosen; -1 if none ever was."),
    metric(F::Connect, "connection_attempts_total", NODES, "Connection attempts to servers."),
    metric(F::Reuse, "connection_reuses_total", NODES, "Always 0: each session has a connection of its own."),
    metric(F::SrvIcur, "idle_connections_current", SERVER, "Always 0."),
    metric(F::IdleConnCur, "unsafe_idle_connections_current", SERVER, "Always 0."),
    metric(F::SafeConnCur, "safe_idle_connections_current", SERVER, "Always 0."),
    metric(F::UsedConnCur, "used_connections_current", SERVER, "Connections to the server now."),
    metric(F::NeedConnEst, "need_connections_current", SERVER, "The same as used_connections_current."),
];

/// What is asked for: HAProxy's exporter takes `scope` and `no-maint` as query parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) struct Scopes {
    process: bool,
    frontends: bool,
    backends: bool,
    servers: bool,
    hides_maint: bool,
}

impl Scopes {
    /// Reads the query. Without `scope`, or with `scope=*`, everything is asked for.
    ///
    /// Errors: a scope that HAProxy does not have.
    pub(in crate::admin) fn read(query: &str) -> Result<Scopes, String> {
        let mut scopes =
            Scopes { process: false, frontends: false, backends: false, servers: false, hides_maint: false };
        let mut is_limited = false;
        for parameter in query.split('&') {
            let Some(scope) = parameter.strip_prefix("scope=") else {
                scopes.hides_maint |= parameter.split('=').next() == Some("no-maint");
                continue;
            };
            is_limited = scope != "*";
            match scope {
                "*" | "" | "listener" | "sticktable" | "resolver" => {}
                "global" => scopes.process = true,
                "frontend" => scopes.frontends = true,
                "backend" => scopes.backends = true,
                "server" => scopes.servers = true,
                other => return Err(format!("unknown scope {other:?}: expected global, frontend, backend or server")),
            }
        }
        match is_limited {
            true => Ok(scopes),
            false => Ok(Scopes { process: true, frontends: true, backends: true, servers: true, ..scopes }),
        }
    }

    fn has(self, kind: Kind) -> bool {
        match kind {
            Kind::Frontend => self.frontends,
            Kind::Backend => self.backends,
            Kind::Server => self.servers,
        }
    }
}

/// All metrics in Prometheus' text format.
pub(in crate::admin) fn render(status: &Status, scopes: Scopes) -> String {
    let metrics = MetricRegistry::default();
    if scopes.process {
        process::add(&metrics, status);
    }
    let rows = rows::of(status, Filter { hides_maint: scopes.hides_maint, hides_down: false });
    for kind in [Kind::Frontend, Kind::Backend, Kind::Server].into_iter().filter(|kind| scopes.has(*kind)) {
        let of_kind: Vec<&Row> = rows.iter().filter(|row| row.kind == kind).collect();
        for metric in METRICS.iter().filter(|metric| metric.kinds.contains(&kind)) {
            add(&metrics, kind, metric, &of_kind);
        }
        add_states(&metrics, kind, &of_kind);
    }
    if scopes.backends {
        add_servers_by_state(&metrics, &rows);
    }
    registry::render(&metrics.gather())
}

/// The beginning of a metric's name, and its labels.
fn prefix(kind: Kind) -> (&'static str, &'static [&'static str]) {
    match kind {
        Kind::Frontend => ("haproxy_frontend_", &["proxy"]),
        Kind::Backend => ("haproxy_backend_", &["proxy"]),
        Kind::Server => ("haproxy_server_", &["proxy", "server"]),
    }
}

/// The values of a line's labels.
fn labels(row: &Row) -> Vec<&str> {
    let all = [row.text_of(F::Pxname), row.text_of(F::Svname)];
    all[..prefix(row.kind).1.len()].to_vec()
}

fn add(metrics: &MetricRegistry, kind: Kind, metric: &Metric, rows: &[&Row]) {
    let (prefix, names) = prefix(kind);
    let (name, is_counter) = (format!("{prefix}{}", metric.name), metric.name.ends_with("_total"));
    let values = rows.iter().filter_map(|row| Some((labels(row), row.get(metric.field)?)));
    if is_counter {
        let counter = metrics.counter(&name, metric.help, names);
        for (labels, value) in values {
            counter.with_label_values(&labels).inc_by(if let Value::Number(number) = value { *number } else { 0 });
        }
    } else {
        let gauge = metrics.gauge(&name, metric.help, names);
        let unit = if is_in_ms(metric.field) { 1000.0 } else { 1.0 };
        for (labels, value) in values {
            let number = if let Value::Number(number) = value { *number as f64 / unit } else { -1.0 };
            gauge.with_label_values(&labels).set(number);
        }
    }
}

/// Whether the field is a time in milliseconds; the metric is in seconds.
fn is_in_ms(field: F) -> bool {
    #[rustfmt::skip]
    const TIMES: [F; 9] = [
        F::CheckDuration, F::Qtime, F::Ctime, F::Rtime, F::Ttime, F::QtimeMax, F::CtimeMax, F::RtimeMax, F::TtimeMax,
    ];
    TIMES.contains(&field)
}

/// The states of each kind; a series for each, which is 1 for the present state.
fn add_states(metrics: &MetricRegistry, kind: Kind, rows: &[&Row]) {
    let (prefix, names) = prefix(kind);
    let with_state = [names, &["state"]].concat();
    let states: &[&str] =
        if kind == Kind::Server { &["DOWN", "UP", "MAINT", "DRAIN", "NOLB"] } else { &["DOWN", "UP"] };
    let help = "1 for the present state, else 0.";
    let gauge = metrics.gauge(&format!("{prefix}status"), help, &with_state);
    for row in rows {
        for state in states {
            let is_this = f64::from(u8::from(state_of(row) == *state));
            gauge.with_label_values(&[&labels(row)[..], &[state]].concat()).set(is_this);
        }
    }
    if kind == Kind::Server {
        let help = "1 for the result of the newest check, else 0.";
        let gauge = metrics.gauge(&format!("{prefix}check_status"), help, &with_state);
        for row in rows {
            for check in CHECKS {
                let is_this = f64::from(u8::from(row.text_of(F::CheckStatus) == check));
                gauge.with_label_values(&[&labels(row)[..], &[check]].concat()).set(is_this);
            }
        }
    }
}

/// The results of checks that HAProxy's exporter has.
#[rustfmt::skip]
const CHECKS: [&str; 16] = [
    "HANA", "SOCKERR", "L4OK", "L4TOUT", "L4CON", "L6OK", "L6TOUT", "L6RSP", "L7TOUT", "L7RSP", "L7OK", "L7OKC", "L7STS",
    "PROCERR", "PROCTOUT", "PROCOK",
];

/// The state of a line in the words of the metrics, without the count of checks: `UP 1/3` is `UP`.
fn state_of(row: &Row) -> &str {
    match row.text_of(F::Status).split(' ').next().unwrap_or_default() {
        "OPEN" => "UP",
        "STOP" => "DOWN",
        state => state,
    }
}

/// For each backend, the number of its servers by state, and by the result of their checks.
fn add_servers_by_state(metrics: &MetricRegistry, rows: &[Row]) {
    let names = ["proxy", "state"];
    let gauge = |name: &str, help: &str| metrics.gauge(&format!("haproxy_backend_{name}"), help, &names);
    let by_state = gauge("agg_server_status", "The number of the backend's servers in each state.");
    let by_check =
        gauge("agg_check_status", "The number of the backend's servers with each result of the newest check.");
    for backend in rows.iter().filter(|row| row.kind == Kind::Backend) {
        let servers = || rows.iter().filter(|row| row.kind == Kind::Server && row.proxy == backend.proxy);
        let name = backend.text_of(F::Pxname);
        for state in ["DOWN", "UP", "MAINT", "DRAIN", "NOLB"] {
            let count = servers().filter(|row| state_of(row) == state).count();
            by_state.with_label_values(&[name, state]).set(count as f64);
        }
        for check in CHECKS {
            let count = servers().filter(|row| row.text_of(F::CheckStatus) == check).count();
            by_check.with_label_values(&[name, check]).set(count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_may_ask_for_some_scopes() {
        let all = Scopes { process: true, frontends: true, backends: true, servers: true, hides_maint: false };
        for query in ["", "scope=*", "scope=global&scope=*"] {
            assert_eq!(Scopes::read(query), Ok(all), "{query}");
        }
        let servers = Scopes { process: false, frontends: false, backends: false, hides_maint: true, ..all };
        assert_eq!(Scopes::read("scope=server&no-maint"), Ok(servers));
        assert!(Scopes::read("scope=servers").is_err());
    }
}
