//! The lines of HAProxy's statistics from a [`Status`]: for each listener a frontend, its servers, and a backend.

use super::fields::Field as F;
use super::row::{Kind, Row};
use crate::admin::servers::{Server, SessionTime};
use crate::admin::status::{Listener, Node, Status};

/// The number of the first proxy: HAProxy's own statistics have number 1 there.
pub(in crate::admin) const FIRST_PROXY: u32 = 2;

/// Ends of connections that a rule forbids before the client has said anything.
const DENIED_CONNECTIONS: [&str; 1] = ["address-not-allowed"];

/// Ends of connections that a limit forbids.
const DENIED_SESSIONS: [&str; 4] = ["sessions-full", "client-full", "client-too-fast", "pending-full"];

/// Ends of connections whose request is forbidden.
const DENIED_REQUESTS: [&str; 4] = ["user-not-allowed", "database-not-allowed", "names-hidden", "tls-required"];

/// Ends of connections that sent no usable request.
const REQUEST_ERRORS: [&str; 6] =
    ["client-left-early", "startup-timed-out", "not-postgres", "tls-failed", "channel-binding", "proxy-header"];

/// Ends of connections for which there was no node.
const NO_SERVER: [&str; 3] = ["no-node", "hold-full", "nodes-full"];

/// Other ends that are the server's fault.
const RESPONSE_ERRORS: [&str; 2] = ["login-broken", "wrong-node"];

/// Ends by a lack of descriptors, or by a defect of pgvane.
const INTERNAL_ERRORS: [&str; 2] = ["descriptors-full", "lost"];

/// Which servers are left out, as `;up` and `;no-maint` ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::admin) struct Filter {
    /// Those that get no new sessions.
    pub(in crate::admin) hides_down: bool,
    /// Those in maintenance.
    pub(in crate::admin) hides_maint: bool,
}

/// All lines, in the order of the listeners.
pub(super) fn of(status: &Status, filter: Filter) -> Vec<Row> {
    let mut rows = Vec::new();
    for (proxy, listener) in (FIRST_PROXY..).zip(&status.listeners) {
        rows.push(frontend(listener, proxy, status.is_stopping));
        let nodes = status.clusters.iter().find(|cluster| cluster.name == listener.cluster);
        let node_of = |server: &Server| nodes.and_then(|of| of.nodes.iter().find(|node| node.name == server.node));
        let shown = listener.servers.iter().filter(|server| filter.shows(server));
        rows.extend(shown.map(|one| server(listener, proxy, one, node_of(one))));
        rows.push(backend(listener, proxy, filter));
    }
    rows
}

/// How many connections of a listener have ended for one of these reasons.
fn ended(listener: &Listener, reasons: &[&str]) -> u64 {
    reasons.iter().filter_map(|reason| listener.ends.get(*reason)).sum()
}

impl Filter {
    fn shows(self, server: &Server) -> bool {
        !(self.hides_down && server.state == "down" || self.hides_maint && server.state == "maint")
    }
}

fn frontend(listener: &Listener, proxy: u32, is_stopping: bool) -> Row {
    let mut row = Row::new(Kind::Frontend, proxy, 0, &listener.name, "FRONTEND");
    row.text(F::Status, if is_stopping { "STOP" } else { "OPEN" });
    row.numbers([
        (F::Scur, listener.sessions as u64),
        (F::Smax, listener.sessions_highest as u64),
        (F::Rate, listener.connects_per_second.into()),
        (F::RateMax, listener.connects_per_second_highest.into()),
        (F::ConnRate, listener.connects_per_second.into()),
        (F::ConnRateMax, listener.connects_per_second_highest.into()),
        (F::Slim, listener.sessions_max as u64),
        (F::Stot, listener.sessions_total),
        (F::ConnTot, listener.sessions_total),
        (F::Bin, listener.bytes_to_server),
        (F::Bout, listener.bytes_to_client),
        (F::Dreq, ended(listener, &DENIED_REQUESTS)),
        (F::Ereq, ended(listener, &REQUEST_ERRORS)),
        (F::Dcon, ended(listener, &DENIED_CONNECTIONS)),
        (F::Dses, ended(listener, &DENIED_SESSIONS)),
        (F::Eint, ended(listener, &INTERNAL_ERRORS)),
    ]);
    row.zeros(&[F::Dresp, F::RateLim, F::ReqRate, F::ReqRateMax, F::ReqTot, F::Wrew]);
    row
}

fn server(listener: &Listener, proxy: u32, server: &Server, node: Option<&Node>) -> Row {
    let mut row = Row::new(Kind::Server, proxy, server.number, &listener.name, &server.node);
    row.text(F::Status, &status_of(server));
    row.text(F::CheckStatus, &server.check);
    row.text(F::CheckDesc, description(&server.check));
    row.text(F::LastChk, &server.check_text);
    row.text(F::Addr, &server.address);
    row.numbers([
        (F::Scur, server.sessions.into()),
        (F::Smax, server.sessions_highest.into()),
        (F::Stot, server.chosen_total.saturating_sub(server.failed_total)),
        (F::Bin, server.bytes_to_server),
        (F::Bout, server.bytes_to_client),
        (F::Econ, server.failed_total),
        (F::Eresp, server.server_aborts_total),
        (F::Wredis, server.failed_total),
        (F::Weight, server.weight.into()),
        (F::Uweight, server.weight.into()),
        (F::Act, u64::from(!server.is_backup)),
        (F::Bck, u64::from(server.is_backup)),
        (F::Lbtot, server.chosen_total),
        (F::Connect, server.chosen_total),
        (F::CliAbrt, server.client_aborts_total),
        (F::SrvAbrt, server.server_aborts_total),
        (F::CheckRise, server.rise.into()),
        (F::CheckFall, server.fall.into()),
        (F::CheckHealth, server.check_health.into()),
        (F::UsedConnCur, server.sessions.into()),
        (F::NeedConnEst, server.sessions.into()),
    ]);
    row.numbers([(F::Rate, server.chosen_per_second.into()), (F::RateMax, server.chosen_per_second_highest.into())]);
    times(&mut row, [server.queue_time, server.connect_time, server.session_time]);
    row.numbers(server.sessions_max.map(|max| (F::Slim, max.into())));
    row.age(F::Lastsess, server.chosen_seconds_ago);
    if let Some(node) = node {
        checks(&mut row, node);
    }
    row.zeros(&[F::Qcur, F::Qmax, F::Dresp, F::Wretr, F::Wrew, F::Reuse, F::Eint]);
    row.zeros(&[F::SrvIcur, F::IdleConnCur, F::SafeConnCur]);
    row
}

/// Averages and longest times, in milliseconds. The response time is one of HTTP.
fn times(row: &mut Row, [queue, connect, total]: [SessionTime; 3]) {
    let ms = |seconds: f64| (seconds * 1000.0) as u64;
    for (average, longest, time) in
        [(F::Qtime, F::QtimeMax, queue), (F::Ctime, F::CtimeMax, connect), (F::Ttime, F::TtimeMax, total)]
    {
        row.numbers([(average, ms(time.average_seconds)), (longest, ms(time.longest_seconds))]);
    }
    row.zeros(&[F::Rtime, F::RtimeMax]);
}

/// What is known of the checks of a node; the same for every listener.
fn checks(row: &mut Row, node: &Node) {
    row.numbers([
        (F::Chkfail, node.checks_failed),
        (F::Chkdown, node.downs.into()),
        (F::Lastchg, node.health_seconds.min(node.role_seconds) as u64),
        (F::Downtime, node.downtime_seconds as u64),
    ]);
    row.numbers(node.check_seconds.map(|seconds| (F::CheckDuration, (seconds * 1000.0) as u64)));
    let code = node.check_result.as_ref().and_then(|result| result.parse().ok());
    row.numbers(code.map(|code| (F::CheckCode, code)));
}

/// HAProxy's word for the state. `UP 1/3`: up, and checks are not answered.
fn status_of(server: &Server) -> String {
    match server.state.as_str() {
        "up" if server.check_health + 1 < server.rise + server.fall => {
            let left = (server.check_health + 1).saturating_sub(server.rise).max(1);
            format!("UP {left}/{}", server.fall)
        }
        "up" => "UP".to_owned(),
        "silent" => format!("UP 1/{}", server.fall),
        "drain" => "DRAIN".to_owned(),
        "maint" => "MAINT".to_owned(),
        _ => "DOWN".to_owned(),
    }
}

/// What a check's result means.
fn description(check: &str) -> &'static str {
    match check {
        "L7OK" => "The node answers and can serve",
        "L7STS" => "The node answers and its answer excludes it",
        "L7TOUT" => "No complete answer in time",
        "L7RSP" => "The answer is not understood or the login was refused",
        "L4CON" => "The connection failed",
        _ => "No check has ended yet",
    }
}

/// Whether a server gets new sessions.
fn is_up(server: &Server) -> bool {
    matches!(server.state.as_str(), "up" | "silent")
}

fn backend(listener: &Listener, proxy: u32, filter: Filter) -> Row {
    let mut row = Row::new(Kind::Backend, proxy, 0, &listener.name, "BACKEND");
    let servers = &listener.servers;
    let sum = |of: fn(&Server) -> u64| servers.iter().map(of).sum::<u64>();
    let up = |is_backup: bool| servers.iter().filter(move |server| is_up(server) && server.is_backup == is_backup);
    let (active, backups) = (up(false).count(), up(true).count());
    // as long as a node that is no backup serves, backups have no share
    let weight: u64 = up(active == 0).map(|server| u64::from(server.weight)).sum();
    let word = if active + backups > 0 { "UP" } else { "DOWN" };
    match filter == Filter::default() {
        true => row.text(F::Status, word),
        false => row.text(F::Status, &format!("{word} ({}/{})", active + backups, servers.len())),
    }
    row.text(F::Algo, &algorithm(&listener.balance));
    row.numbers([
        (F::Qcur, listener.held as u64),
        (F::Qmax, listener.held_highest as u64),
        (F::Scur, listener.sessions as u64),
        (F::Smax, listener.sessions_highest as u64),
        (F::Rate, listener.connects_per_second.into()),
        (F::RateMax, listener.connects_per_second_highest.into()),
        (F::Slim, listener.sessions_max as u64),
        (F::Stot, sum(|server| server.chosen_total.saturating_sub(server.failed_total))),
        (F::Bin, listener.bytes_to_server),
        (F::Bout, listener.bytes_to_client),
        (F::Econ, sum(|server| server.failed_total) + ended(listener, &NO_SERVER)),
        (F::Eresp, sum(|server| server.server_aborts_total) + ended(listener, &RESPONSE_ERRORS)),
        (F::Wredis, listener.retries),
        (F::Weight, weight),
        (F::Uweight, weight),
        (F::Act, active as u64),
        (F::Bck, backups as u64),
        (F::Lbtot, sum(|server| server.chosen_total)),
        (F::Connect, sum(|server| server.chosen_total)),
        (F::CliAbrt, sum(|server| server.client_aborts_total) + ended(listener, &["client-left-held"])),
        (F::SrvAbrt, sum(|server| server.server_aborts_total)),
    ]);
    row.numbers([(F::Chkdown, listener.downs.into()), (F::Downtime, listener.downtime_seconds as u64)]);
    row.numbers(listener.served_seconds.map(|seconds| (F::Lastchg, seconds as u64)));
    let over = |of: fn(&Server) -> SessionTime| SessionTime::over(servers.iter().map(of));
    times(&mut row, [over(|one| one.queue_time), over(|one| one.connect_time), over(|one| one.session_time)]);
    row.age(F::Lastsess, servers.iter().filter_map(|server| server.chosen_seconds_ago).min());
    row.zeros(&[F::Dreq, F::Dresp, F::Wretr, F::Wrew, F::Reuse, F::Eint]);
    row.zeros(&[F::AggServerStatus, F::AggServerCheckStatus, F::AggCheckStatus]);
    row
}

/// HAProxy's word for how nodes are chosen.
fn algorithm(balance: &str) -> String {
    match balance {
        "least-connections" => "leastconn".to_owned(),
        "round-robin" => "roundrobin".to_owned(),
        other => other.to_owned(),
    }
}
