//! What the old process knows and the new one goes on with: what operators have set, the changes of the lead, what was
//! counted, and the cancel keys of the sessions. Roles, lag and health are not among it: the new process has checked the
//! nodes itself, and an older answer must not outvote a newer one.

use std::collections::HashSet;
use std::num::NonZeroU16;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{debug, error};

use super::message::{Figure, ITEMS_MAX, Key, Message};
use crate::admin::OperatorLog;
use crate::app::parts::Parts;
use crate::cluster::topology::Topology;
use crate::cluster::{AdminState, NodeId};
use crate::probe::ClusterHandle;
use crate::protocol::CancelKey;
use crate::proxy::context::ListenerContext;
use crate::proxy::sessions::cancel_keys::SessionKey;
use crate::proxy::sessions::registry::Registry;
use crate::telemetry::MetricRegistry;

/// Names of figures that are no metrics begin with one of these.
const OF_LISTENER: &str = "listener ";
const OF_SERVER: &str = "server ";
const OF_NODE: &str = "node ";

/// Figures with this ending are maxima; all others are sums.
const HIGHEST: &str = "highest";

impl Parts {
    /// All that the new process needs to know before it accepts connections.
    pub(super) fn knowledge(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        for cluster in self.cluster_handles() {
            let topology = cluster.topology_full();
            messages.extend(topology.members().filter_map(|(_, node)| {
                let is_set = node.admin != AdminState::Ready || node.weight_set.is_some();
                is_set.then(|| Message::Administered {
                    cluster: cluster.name().to_owned(),
                    node: node.member.name.clone(),
                    state: node.admin.label().to_owned(),
                    weight: node.weight_set,
                })
            }));
            let mut records = cluster.history().records();
            records.reverse();
            messages.push(Message::History { cluster: cluster.name().to_owned(), records });
        }
        messages.push(Message::Operators(self.operators.written()));
        self.sent_figures.clear(); // an earlier process that got them has failed
        messages.extend(self.newest_figures());
        let contexts = self.contexts().borrow().clone();
        messages.extend(keys(&self.registry, &contexts));
        messages
    }

    /// What has been counted since the last time.
    pub(super) fn newest_figures(&mut self) -> Vec<Message> {
        let contexts = self.contexts().borrow().clone();
        let mut newest = Vec::new();
        for figure in figures(&self.metrics, &self.registry, &contexts) {
            let sent = self.sent_figures.entry((figure.name.clone(), figure.of.clone())).or_default();
            let value = if figure.name.ends_with(HIGHEST) { figure.value } else { figure.value - *sent };
            *sent = figure.value;
            if value != 0.0 {
                newest.push(Figure { value, ..figure });
            }
        }
        chunks(newest).map(Message::Figures).collect()
    }
}

fn chunks<T>(items: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter().peekable();
    std::iter::from_fn(move || items.peek().is_some().then(|| items.by_ref().take(ITEMS_MAX).collect()))
}

/// The clusters of these listeners, each once.
fn clusters(contexts: &[Arc<ListenerContext>]) -> Vec<&ClusterHandle> {
    let mut seen = HashSet::new();
    contexts.iter().map(|context| &context.cluster).filter(|cluster| seen.insert(cluster.name().to_owned())).collect()
}

fn figures(metrics: &MetricRegistry, registry: &Registry, contexts: &[Arc<ListenerContext>]) -> Vec<Figure> {
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let counters = metrics.counted().into_iter();
    let mut all: Vec<Figure> = counters.map(|(name, of, value)| Figure { name, of, value }).collect();
    let mut add = |kind: &str, name: &str, of: &[(String, String)], value: u64| {
        all.push(Figure { name: format!("{kind}{name}"), of: of.to_vec(), value: value as f64 });
    };
    for context in contexts {
        let of_listener = label("listener", &context.settings.name);
        for (name, value) in registry.figures(context.index) {
            add(OF_LISTENER, name, std::slice::from_ref(&of_listener), value);
        }
        let topology = context.cluster.topology_full();
        for (id, node) in topology.members() {
            let of = [of_listener.clone(), label("node", &node.member.name)];
            for (name, value) in registry.servers(context.index).figures(id, &node.member.name) {
                add(OF_SERVER, name, &of, value);
            }
        }
    }
    for cluster in clusters(contexts) {
        for (id, node) in cluster.topology_full().members() {
            let of = [label("cluster", cluster.name()), label("node", &node.member.name)];
            for (name, value) in cluster.sessions().figures(id) {
                add(OF_NODE, name, &of, value);
            }
        }
    }
    all
}

fn keys(registry: &Registry, contexts: &[Arc<ListenerContext>]) -> Vec<Message> {
    let mut keys = Vec::new();
    let mut messages = Vec::new();
    for cluster in clusters(contexts) {
        let Some(context) = contexts.iter().find(|context| context.cluster.name() == cluster.name()) else { continue };
        let topology = cluster.topology_full();
        for (key, node, port, key_there) in registry.keys().all(context.settings.cluster) {
            let (key, node) = (key.to_backend_key_data(), topology.node(node).member.name.clone());
            let key_there = key_there.map(|key| key.to_backend_key_data());
            keys.push(Key { key, key_there, cluster: cluster.name().to_owned(), node, port });
        }
    }
    for context in contexts {
        let topology = context.cluster.topology_full();
        for (node, sessions) in registry.keys().all_unseen(context.index) {
            let (listener, node) = (context.settings.name.clone(), topology.node(node).member.name.clone());
            messages.push(Message::UnseenKeys { listener, node, sessions });
        }
    }
    chunks(keys).map(Message::Keys).chain(messages).collect()
}

/// Takes over what the old process knows.
pub(super) struct Learner {
    contexts: watch::Receiver<Vec<Arc<ListenerContext>>>,
    registry: Arc<Registry>,
    metrics: MetricRegistry,
    operators: Arc<OperatorLog>,
    /// Keys of sessions that the old process has.
    keys: HashSet<CancelKey>,
    /// The same where it could not read the key.
    unseen: Vec<(Arc<ListenerContext>, NodeId)>,
}

impl Learner {
    pub(super) fn new(parts: &Parts) -> Learner {
        Learner {
            contexts: parts.contexts(),
            registry: Arc::clone(&parts.registry),
            metrics: parts.metrics.clone(),
            operators: Arc::clone(&parts.operators),
            keys: HashSet::new(),
            unseen: Vec::new(),
        }
    }

    /// Takes over one thing. What has no place in this configuration is dropped.
    pub(super) async fn learn(&mut self, message: Message) {
        match message {
            Message::Administered { cluster, node, state, weight } => {
                let Some((cluster, id)) = self.node(&cluster, &node) else { return };
                if let Some(state) = AdminState::from_label(&state).filter(|state| *state != AdminState::Ready) {
                    cluster.administer(id, state).await;
                }
                if weight.is_some() {
                    cluster.set_weight(id, weight).await;
                }
            }
            Message::History { cluster, records } => {
                if let Some(cluster) = self.cluster(&cluster) {
                    cluster.history().continue_from(records);
                }
            }
            Message::Operators(written) => self.operators.continue_from(written),
            Message::Figures(figures) => figures.iter().for_each(|figure| self.count(figure)),
            Message::Keys(keys) => keys.iter().for_each(|key| self.add_key(key)),
            Message::UnseenKeys { listener, node, sessions } => {
                let Some(context) = self.context(&listener) else { return };
                let Some(id) = id_of(&context.cluster.topology(), &node) else { return };
                for _ in 0..sessions {
                    self.registry.keys().add_unseen(context.index, id);
                    self.unseen.push((Arc::clone(&context), id));
                }
            }
            other => error!(message = ?std::mem::discriminant(&other), "the process before sent an unexpected message"),
        }
    }

    /// The session of this key is here now.
    pub(super) fn has_arrived(&mut self, key: Option<&CancelKey>) {
        if let Some(key) = key {
            self.keys.remove(key);
        }
    }

    /// The old process has ended, and its sessions with it.
    pub(super) fn forget_keys(&mut self) {
        // where a key was seen, listener and node have no part in it
        let ended = self.keys.drain().map(SessionKey::Seen);
        ended.for_each(|key| self.registry.keys().end(&key, crate::config::ListenerIndex(0), NodeId::new(0)));
        for (context, node) in self.unseen.drain(..) {
            self.registry.keys().end(&SessionKey::Unseen, context.index, node);
        }
    }

    fn add_key(&mut self, Key { key, key_there, cluster, node, port }: &Key) {
        let Some(key) = CancelKey::from_backend_key_data(key) else { return };
        let contexts = self.contexts.borrow();
        let Some(context) = contexts.iter().find(|context| context.cluster.name() == *cluster) else { return };
        let Some(id) = id_of(&context.cluster.topology(), node) else { return };
        let port: Option<NonZeroU16> = *port;
        let cluster = context.settings.cluster;
        match key_there.as_ref().and_then(|key| CancelKey::from_backend_key_data(key)) {
            Some(there) => self.registry.keys().add_carried(key.clone(), cluster, (id, port), there),
            None => self.registry.keys().add(key.clone(), cluster, id, port),
        }
        self.keys.insert(key);
    }

    fn count(&self, Figure { name, of, value }: &Figure) {
        let label = |wanted: &str| of.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let whole = *value as u64; // counts are whole and not negative
        let was_counted = if let Some(name) = name.strip_prefix(OF_LISTENER) {
            let context = label("listener").and_then(|listener| self.context(listener));
            context.map(|context| self.registry.add_figure(context.index, name, whole))
        } else if let Some(name) = name.strip_prefix(OF_SERVER) {
            label("listener").and_then(|listener| self.context(listener)).zip(label("node")).and_then(
                |(context, node)| {
                    let id = id_of(&context.cluster.topology(), node)?;
                    let servers = self.registry.servers(context.index);
                    servers.is_node(id, node);
                    Some(servers.add_figure(id, name, whole))
                },
            )
        } else if let Some(name) = name.strip_prefix(OF_NODE) {
            let found = label("cluster").zip(label("node")).and_then(|(cluster, node)| self.node(cluster, node));
            found.map(|(cluster, id)| cluster.sessions().add_figure(id, name, whole))
        } else {
            Some(self.metrics.add_counted(name, of, *value))
        };
        if was_counted != Some(true) {
            debug!(name, ?of, "a figure of the process before has no place here");
        }
    }

    fn context(&self, listener: &str) -> Option<Arc<ListenerContext>> {
        self.contexts.borrow().iter().find(|context| context.settings.name == listener).cloned()
    }

    fn cluster(&self, name: &str) -> Option<ClusterHandle> {
        self.contexts.borrow().iter().map(|context| &context.cluster).find(|cluster| cluster.name() == name).cloned()
    }

    fn node(&self, cluster: &str, node: &str) -> Option<(ClusterHandle, NodeId)> {
        let cluster = self.cluster(cluster)?;
        let id = id_of(&cluster.topology(), node)?;
        Some((cluster, id))
    }
}

fn id_of(topology: &Topology, name: &str) -> Option<NodeId> {
    topology.members().find(|(_, node)| node.member.name == name).map(|(id, _)| id)
}
