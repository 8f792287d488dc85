//! A change of a cluster's configuration, prepared before anything is changed: its certificates have been read.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::checker::{Checker, CheckerError};
use crate::cluster::Member;
use crate::cluster::health::Thresholds;
use crate::cluster::machine::Settings;
use crate::config;
use crate::net::Resolver;

/// What the monitor needs to take over a changed configuration.
pub struct ClusterChange {
    pub(super) settings: Settings,
    pub(super) members: Vec<Member>,
    pub(super) discovery: Option<config::Discovery>,
    /// How to ask the nodes; `None` if that has not changed: kept connections stay open.
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
        let checker = if asks_as_before { None } else { Some(Checker::new(new, names)?) };
        Ok(ClusterChange {
            settings: settings(new),
            members: new.nodes.clone(),
            discovery: new.discovery.clone(),
            checker,
            names: Arc::clone(names),
        })
    }
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
