//! What operators see of a park: on the stats page, in `/api/status`, in `pgvane status` and in the metrics.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::status::Cluster;
use super::words::{seconds, sessions};
use crate::cluster::Moment;
use crate::config::ClusterIndex;
use crate::proxy::sessions::parking::{ParkCensus, ParkInfo};
use crate::proxy::sessions::registry::Registry;
use crate::routing::ParkOver;
use crate::telemetry::MetricRegistry;

/// A park that is not over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Park {
    /// Who has asked for it, and for which node.
    pub reason: String,
    /// How long ago.
    pub seconds: f64,
    /// When it ends at the latest if nothing changes.
    pub ends_in_seconds: f64,
    /// Sessions that are held between two transactions.
    pub parked: usize,
    /// Sessions that are to be parked, and have a transaction, a request or a login in progress.
    pub finishing: usize,
    /// Sessions whose transaction did not end within `park_grace`: they go on.
    pub late: usize,
    /// Sessions that cannot be parked, because client and server encrypt end to end.
    pub encrypted: usize,
}

/// What became of the sessions that were asked to park, since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ParkCounts {
    /// Sessions by outcome: `let-go`, `ended`, `late`, `encrypted`.
    pub sessions: BTreeMap<String, u64>,
    /// Parks that are over, by reason: `unparked`, `led`, `park-max`, `no-leader`.
    pub parks: BTreeMap<String, u64>,
}

impl Park {
    fn of(info: &ParkInfo, now: Moment) -> Park {
        let ParkCensus { parked, finishing, late, encrypted } = info.census;
        Park {
            reason: info.reason.clone(),
            seconds: (now - info.since).as_secs_f64(),
            ends_in_seconds: (info.ends_at - now).as_secs_f64(),
            parked,
            finishing,
            late,
            encrypted,
        }
    }

    /// The park of a cluster, if there is one.
    pub(super) fn of_cluster(registry: &Registry, cluster: ClusterIndex, now: Moment) -> Option<Park> {
        registry.park_info(cluster).map(|info| Park::of(&info, now))
    }

    /// The sessions in words: `12 sessions parked, 1 not (in a transaction)`.
    pub fn sessions(&self) -> String {
        let mut text = format!("{} parked", sessions(self.parked));
        for (number, why) in [
            (self.finishing, "finishing their transaction"),
            (self.late, "not parked: their transaction did not end within park_grace"),
            (self.encrypted, "cannot be parked: client and server encrypt end to end"),
        ] {
            if number > 0 {
                text += &format!(", {number} {why}");
            }
        }
        text
    }
}

impl fmt::Display for Park {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Park { reason, .. } = self;
        let (since, ends) = (seconds(self.seconds), seconds(self.ends_in_seconds));
        let sessions = self.sessions();
        write!(f, "write sessions have been parked for {since} ({reason}), at most {ends} more: {sessions}")
    }
}

impl ParkCounts {
    /// Those of a cluster.
    pub(super) fn of_cluster(registry: &Registry, cluster: ClusterIndex) -> ParkCounts {
        let totals = registry.park_totals(cluster);
        let by_name = |counts: &[(&str, u64)]| counts.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        let parks: Vec<(&str, u64)> = ParkOver::LABELS.into_iter().zip(totals.parks).collect();
        ParkCounts {
            sessions: by_name(&[
                ("let-go", totals.let_go),
                ("ended", totals.ended),
                ("late", totals.late),
                ("encrypted", totals.encrypted),
            ]),
            parks: by_name(&parks),
        }
    }
}

/// The metrics of the clusters whose sessions can be parked.
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
    for cluster in clusters.iter().filter(|cluster| cluster.can_park) {
        let name = cluster.name.as_str();
        parked.with_label_values(&[name]).set(f64::from(u8::from(cluster.park.is_some())));
        sessions.with_label_values(&[name]).set(cluster.park.as_ref().map_or(0.0, |park| park.parked as f64));
        for (outcome, count) in &cluster.park_counts.sessions {
            outcomes.with_label_values(&[name, outcome]).inc_by(*count);
        }
        for (reason, count) in &cluster.park_counts.parks {
            parks.with_label_values(&[name, reason]).inc_by(*count);
        }
    }
    registry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_park_says_who_is_not_parked_and_why() {
        let park = Park {
            reason: "by ops".to_owned(),
            seconds: 3.0,
            ends_in_seconds: 27.0,
            parked: 1,
            late: 2,
            encrypted: 3,
            ..Park::default()
        };
        assert_eq!(
            park.to_string(),
            "write sessions have been parked for 3.0 s (by ops), at most 27 s more: 1 session parked, 2 not parked: \
             their transaction did not end within park_grace, 3 cannot be parked: client and server encrypt end to end"
        );
    }
}
