//! The metrics of parks, and of the sessions that are carried.

use super::status::Cluster;
use crate::telemetry::MetricRegistry;

/// The metrics of every cluster, so that alerts find them before the first park.
pub(super) fn metrics(clusters: &[Cluster]) -> MetricRegistry {
    let registry = MetricRegistry::default();
    let gauge = |name: &str, help: &str| registry.gauge(name, help, &["cluster"]);
    let parked = gauge("pgvane_cluster_parked", "1 while the write sessions of the cluster are parked, else 0.");
    let sessions = gauge("pgvane_sessions_parked", "Sessions that are held between two transactions.");
    let outcomes = registry.counter(
        "pgvane_parked_sessions_total",
        "What became of sessions that were to be parked: let-go (parked, then went on), ended (parked, then ended \
         because no node led in time or another one did), late (the transaction did not end within park_grace), \
         encrypted (client and server encrypt end to end).",
        &["cluster", "outcome"],
    );
    let parks = registry.counter(
        "pgvane_parks_total",
        "Parks that are over, by reason: unparked (by an operator), led (there is a leader again), park-max (the same \
         node still led), no-leader (no node led within park_max).",
        &["cluster", "reason"],
    );
    let under_way = gauge(
        "pgvane_sessions_being_carried",
        "Sessions that have lost their server while they were parked, and are being carried to the leader.",
    );
    let carried = registry.counter(
        "pgvane_carried_sessions_total",
        "Parked sessions that have lost their server and were carried to the leader.",
        &["cluster"],
    );
    let not_carried = registry.counter(
        "pgvane_not_carried_sessions_total",
        "Parked sessions that have lost their server and were not carried, by reason: state (tied to its server), \
         unknown (the server did not tell its state), login (pgvane cannot log in for it), restore (an error when the \
         state was restored), different (the state would not be the same), unreachable (no leader in time).",
        &["cluster", "reason"],
    );
    let roles = registry.gauge(
        "pgvane_role_keys",
        "Roles whose sessions have logged in by SCRAM, if carry = true: known (pgvane can log their sessions in again at \
         another server), not-given (carry_auth_query gives no password for them), not-yet (it has not been asked), \
         failed (it has failed, or has given something that is of no use).",
        &["cluster", "state"],
    );
    for cluster in clusters {
        let name = cluster.name.as_str();
        parked.with_label_values(&[name]).set(f64::from(u8::from(cluster.park.is_some())));
        sessions.with_label_values(&[name]).set(cluster.park.as_ref().map_or(0.0, |park| park.parked as f64));
        for (outcome, count) in &cluster.park_counts.sessions {
            outcomes.with_label_values(&[name, outcome]).inc_by(*count);
        }
        under_way.with_label_values(&[name]).set(cluster.carry_counts.under_way as f64);
        carried.with_label_values(&[name]).inc_by(cluster.carry_counts.carried);
        for (reason, count) in &cluster.carry_counts.not_carried {
            not_carried.with_label_values(&[name, reason]).inc_by(*count);
        }
        for (state, count) in cluster.role_keys.unwrap_or_default().by_state() {
            roles.with_label_values(&[name, state]).set(count as f64);
        }
        for (reason, count) in &cluster.park_counts.parks {
            parks.with_label_values(&[name, reason]).inc_by(*count);
        }
    }
    registry
}
