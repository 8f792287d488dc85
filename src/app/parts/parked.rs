//! What an upgrade has to know of the clusters: whether sessions are parked or have no server, so that they cannot move to
//! another process, and the keys of their roles.

use std::sync::Arc;

use super::{Parts, RunningCluster};
use crate::protocol::scram::RoleKey;

impl Parts {
    /// The keys by which sessions can log in again at another server, with their clusters and roles.
    pub(crate) fn role_keys(&self) -> Vec<(String, String, Arc<RoleKey>)> {
        let all = self.clusters.iter().map(|RunningCluster { index, handle, .. }| {
            let keys = self.registry.carrying(*index).known_keys().into_iter();
            keys.map(|(role, key)| (handle.name().to_owned(), role, key))
        });
        all.flatten().collect()
    }

    /// Why no other process can take over now, if none can: it would know nothing of a park, and could not let the sessions
    /// go on.
    pub(crate) fn why_no_upgrade(&self) -> Option<String> {
        self.clusters.iter().find_map(|RunningCluster { index, handle, .. }| {
            let name = handle.name();
            if self.registry.park_info(*index).is_some() {
                return Some(format!(
                    "the sessions of cluster \"{name}\" are parked: try again later, or pgvane unpark"
                ));
            }
            match self.registry.sessions_without_server(*index) {
                0 => None,
                sessions => {
                    let why = "are being carried to another leader: try again later";
                    Some(format!("sessions of cluster \"{name}\" {why} ({sessions} are left)"))
                }
            }
        })
    }
}
