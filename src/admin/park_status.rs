//! What operators see of a park: on the stats page, in `/api/status`, in `pgvane status` and in the metrics.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::words::{seconds, sessions};
use crate::cluster::Moment;
use crate::config::ClusterIndex;
use crate::proxy::sessions::parking::{ParkCensus, ParkInfo};
use crate::proxy::sessions::registry::Registry;
use crate::proxy::sessions::role_keys::RoleKeyCensus;
use crate::routing::ParkOver;

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

/// What became of parked sessions that lost their server, since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CarryCounts {
    /// They have no server now, and are being carried to the leader.
    pub under_way: usize,
    /// They were carried.
    pub carried: u64,
    /// They were not carried and have ended, by reason: `state`, `unknown`, `login`, `restore`, `different`,
    /// `unreachable`.
    pub not_carried: BTreeMap<String, u64>,
}

impl CarryCounts {
    /// Those of a cluster.
    pub(super) fn of_cluster(registry: &Registry, cluster: ClusterIndex) -> CarryCounts {
        let census = registry.parking(cluster).carried().read();
        CarryCounts {
            under_way: registry.sessions_without_server(cluster),
            carried: census.carried,
            not_carried: census.not_carried.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
        }
    }
}

/// The roles whose sessions have logged in by SCRAM, where sessions are carried to another server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleKeys {
    /// Their sessions can log in again at another server.
    pub known: usize,
    /// `carry_auth_query` gives nothing for them.
    pub not_given: usize,
    /// `carry_auth_query` has not been asked for them yet, or is not set.
    pub not_yet: usize,
    /// `carry_auth_query` has failed for them, or has given no verifier with which their clients have logged in.
    pub failed: usize,
}

impl RoleKeys {
    /// Of a cluster; `None` if its sessions are not carried.
    pub(super) fn of_cluster(registry: &Registry, cluster: ClusterIndex) -> Option<RoleKeys> {
        let RoleKeyCensus { known, not_given, not_yet, failed } = registry.carrying(cluster).role_keys()?;
        Some(RoleKeys { known, not_given, not_yet, failed })
    }

    /// The numbers, by their names in metrics.
    pub(super) fn by_state(self) -> [(&'static str, usize); 4] {
        let RoleKeys { known, not_given, not_yet, failed } = self;
        [("known", known), ("not-given", not_given), ("not-yet", not_yet), ("failed", failed)]
    }
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
