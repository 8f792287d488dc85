//! The metrics of the process, with the names of HAProxy's exporter.

use crate::admin::status::Status;
use crate::telemetry::MetricRegistry;

/// Adds them.
pub(super) fn add(metrics: &MetricRegistry, status: &Status) {
    let process = &status.process;
    let sum = |of: fn(&crate::admin::status::Listener) -> u64| status.listeners.iter().map(of).sum::<u64>();
    let sessions = sum(|listener| listener.sessions as u64);
    let pending = sum(|listener| listener.pending as u64);
    for (name, value, help) in [
        ("nbthread", process.threads as u64, "Threads that serve sessions."),
        ("nbproc", 1, "Always 1."),
        ("relative_process_id", 1, "Always 1."),
        ("uptime_seconds", status.uptime_seconds, "Time since it began to accept connections."),
        ("start_time_seconds", process.started_at, "When it began to accept connections, in Unix time."),
        ("max_fds", process.descriptors_max as u64, "File descriptors that the process may have."),
        ("max_sockets", process.descriptors_max as u64, "The same as max_fds."),
        ("max_connections", sum(|listener| listener.sessions_max as u64), "The sum of the listeners' sessions_max."),
        (
            "current_connection_rate",
            sum(|listener| listener.connects_per_second.into()),
            "New connections in the last full second.",
        ),
        ("current_connections", sessions + pending, "Connections now, including those that are not logged in."),
        ("jobs", sessions + pending + status.listeners.len() as u64, "Connections and listeners."),
        ("listeners", status.listeners.len() as u64, "Listeners."),
        ("stopping", u64::from(status.is_stopping), "1 while the process stops, else 0."),
    ] {
        let gauge = metrics.gauge(&format!("haproxy_process_{name}"), help, &[]);
        gauge.with_label_values::<&str>(&[]).set(value as f64);
    }
    for (name, value, help) in [
        ("connections_total", sum(|listener| listener.sessions_total), "Connections accepted since the start."),
        ("bytes_out_total", sum(|listener| listener.bytes_to_client), "Bytes relayed to clients since the start."),
        ("dropped_logs_total", process.log_lines_lost, "Log lines that could not be written."),
    ] {
        let counter = metrics.counter(&format!("haproxy_process_{name}"), help, &[]);
        counter.with_label_values::<&str>(&[]).inc_by(value);
    }
    let build = metrics.gauge("haproxy_process_build_info", "Which pgvane this is.", &["version"]);
    build.with_label_values(&[&format!("pgvane {}", status.version)]).set(1.0);
}
