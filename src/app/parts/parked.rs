//! Sessions that cannot move to another process: they are parked, or have no server.

use super::{Parts, RunningCluster};

impl Parts {
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
