//! Reads what a configuration needs from files: certificates and keys. It may block, and it changes nothing.

use std::sync::Arc;

use super::error::StartError;
use crate::config::{Cluster, Config, Listener};
use crate::net::Resolver;
use crate::probe::checker::CheckerError;
use crate::probe::metrics::ProbeMetrics;
use crate::probe::reconfigure::reads_files;
use crate::probe::sql::AuthQuery;
use crate::probe::{ClusterChange, ClusterHandle, Monitor};
use crate::proxy::context::ListenerContext;
use crate::proxy::intake::tls::Encryption;
use crate::proxy::metrics::ProxyMetrics;

/// Loads configurations. It knows the one in use, so that what does not change is kept.
pub(super) struct Loader {
    pub(super) current: Option<Arc<Config>>,
    pub(super) contexts: Vec<Arc<ListenerContext>>,
    pub(super) names: Arc<Resolver>,
    pub(super) probe_metrics: Arc<ProbeMetrics>,
    pub(super) proxy_metrics: Arc<ProxyMetrics>,
}

/// A configuration with its files loaded.
pub(super) struct Loaded {
    pub(super) config: Config,
    /// In the order of the clusters.
    pub(super) clusters: Vec<LoadedCluster>,
    /// How to ask for the verifiers of roles, in the order of the clusters.
    pub(super) auth_queries: Vec<Option<Arc<AuthQuery>>>,
    /// In the order of the listeners.
    pub(super) encryptions: Vec<Arc<Encryption>>,
}

/// A cluster, compared with those that run.
pub(super) enum LoadedCluster {
    /// It runs, and its settings, nodes or certificates may change, or not.
    Known(Option<Box<ClusterChange>>),
    /// It does not run yet.
    New(Box<Monitor>, ClusterHandle),
}

impl Loader {
    /// Loads the files of a configuration. Errors: a file cannot be used.
    pub(super) fn load(&self, config: Config) -> Result<Loaded, StartError> {
        let clusters = config.clusters.iter().map(|cluster| self.cluster(cluster)).collect::<Result<_, _>>()?;
        let encryptions =
            config.listeners.iter().map(|listener| self.encryption(listener)).collect::<Result<_, _>>()?;
        let auth_query = |cluster| {
            let query = AuthQuery::of(cluster, Arc::clone(&self.names)).map_err(CheckerError::Sql);
            query.map(|query| query.map(Arc::new)).map_err(StartError::Check)
        };
        let auth_queries = config.clusters.iter().map(auth_query).collect::<Result<_, _>>()?;
        Ok(Loaded { config, clusters, auth_queries, encryptions })
    }

    fn cluster(&self, cluster: &Cluster) -> Result<LoadedCluster, StartError> {
        let known = self.current.iter().flat_map(|config| &config.clusters).find(|known| known.name == cluster.name);
        match known {
            Some(known) if known == cluster && !reads_files(cluster) => Ok(LoadedCluster::Known(None)),
            Some(known) => {
                let change = ClusterChange::between(known, cluster, &self.names).map_err(StartError::Check)?;
                Ok(LoadedCluster::Known(Some(Box::new(change))))
            }
            None => {
                let metrics = self.probe_metrics.cluster(&cluster.name);
                let (monitor, handle) = Monitor::new(cluster, metrics, &self.names).map_err(StartError::Check)?;
                Ok(LoadedCluster::New(Box::new(monitor), handle))
            }
        }
    }

    /// The encryption of a listener: the one in use if its settings stay the same, as it then keeps its state.
    fn encryption(&self, listener: &Listener) -> Result<Arc<Encryption>, StartError> {
        let same = self.contexts.iter().find(|context| {
            let known = &context.settings;
            (&known.name, &known.tls, &known.server_tls) == (&listener.name, &listener.tls, &listener.server_tls)
        });
        if let Some(context) = same {
            return Ok(Arc::clone(&context.encryption));
        }
        Encryption::new(listener, &self.proxy_metrics)
            .map(Arc::new)
            .map_err(|error| StartError::Tls { listener: listener.name.clone(), error })
    }
}
