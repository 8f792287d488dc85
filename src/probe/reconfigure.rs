//! A change of a cluster's configuration, prepared before anything is changed: its certificates have been read.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::checker::{Checker, CheckerError};
use crate::cluster::Member;
use crate::cluster::health::Thresholds;
use crate::cluster::machine_settings::Settings;
use crate::config;
use crate::net::Resolver;

/// What the monitor needs to take over a changed configuration.
pub struct ClusterChange {
    pub(super) settings: Settings,
    pub(super) members: Vec<Member>,
    pub(super) discovery: Option<config::Discovery>,
    /// How to ask the nodes; `None` if that has not changed and needs no files: kept connections stay open.
    pub(super) checker: Option<Checker>,
    pub(super) names: Arc<Resolver>,
}

/// A change on its way to the monitor.
pub(super) struct Reconfiguration {
    pub(super) change: ClusterChange,
    pub(super) is_published: oneshot::Sender<()>,
}

impl ClusterChange {
    /// The change from one configuration of a cluster to another.
    ///
    /// Errors: certificates that cannot be read.
    pub fn between(
        old: &config::Cluster,
        new: &config::Cluster,
        names: &Arc<Resolver>,
    ) -> Result<ClusterChange, CheckerError> {
        let apart_from_nodes = |cluster: &config::Cluster| config::Cluster { nodes: Vec::new(), ..cluster.clone() };
        let asks_as_before =
            apart_from_nodes(old) == apart_from_nodes(new) && old.may_speak_https() == new.may_speak_https();
        let checker = if asks_as_before && !reads_files(new) { None } else { Some(Checker::new(new, names)?) };
        Ok(ClusterChange {
            settings: settings(new),
            members: new.nodes.clone(),
            discovery: new.discovery.clone(),
            checker,
            names: Arc::clone(names),
        })
    }
}

/// Whether the checks of a cluster need certificates from files, which may be other ones now under the same names.
pub fn reads_files(cluster: &config::Cluster) -> bool {
    let config::PatroniTls { ca_file, client_identity_file, verifies_nothing: _ } = &cluster.patroni_tls;
    let of_sql = match &cluster.check {
        config::Check::Sql(sql) => Some(sql),
        config::Check::Patroni { second_opinion } => second_opinion.as_ref(),
    };
    let tls = of_sql.map(|sql| &sql.tls);
    let is_in_sql = tls.is_some_and(|tls| tls.ca_file.is_some() || tls.identity.is_some());
    // without ca_file those are the system's
    cluster.may_speak_https() || ca_file.is_some() || client_identity_file.is_some() || is_in_sql
}

/// The settings of the cluster's state machine.
pub(super) fn settings(cluster: &config::Cluster) -> Settings {
    Settings {
        interval: cluster.interval,
        fast_interval: cluster.fast_interval,
        leader_grace: cluster.leader_grace,
        thresholds: Thresholds { rise: cluster.rise, fall: cluster.fall },
        scope: cluster.scope.clone(),
        seed: u64::from(std::process::id()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::world::World;

    /// The file may be another one under the same name.
    #[test]
    fn a_reload_reads_the_certificates_of_the_checks_again_and_otherwise_keeps_their_connections() {
        let (world, names) = (World::new(), Resolver::system());
        let file = "[[cluster]]\n[[cluster.node]]\naddress = \"10.0.0.1:5432\"\n\
                    [[listener]]\nbind = \"0.0.0.0:6432\"\ntarget = \"leader\"\n";
        let config = config::Config::from_toml("test.toml", file).unwrap_or_else(|faults| panic!("{faults}"));
        let plain = config.clusters[0].clone();
        let change = ClusterChange::between(&plain, &plain, &names).expect("no files");
        assert!(change.checker.is_none() && !reads_files(&plain));
        let patroni_tls = config::PatroniTls { ca_file: Some(world.ca_file()), ..plain.patroni_tls.clone() };
        let verifying = config::Cluster { patroni_tls, ..plain };
        let change = || ClusterChange::between(&verifying, &verifying, &names);
        assert!(change().expect("the file is there").checker.is_some());
        world.file("ca.pem", "not a certificate");
        assert!(change().is_err(), "it is said before anything is changed");
    }
}
