//! A connection is registered as long as it has its guard: a session on a node, or a client that waits for one.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::cancel_keys::SessionKey;
use super::control::SessionControl;
use super::origin::Origin;
use super::owner::Owner;
use super::registry::Registry;
use super::waiting::WaitingClient;
use crate::cluster::NodeId;
use crate::cluster::ports::SessionPort;
use crate::config::ListenerIndex;
use crate::protocol::CancelKey;
use crate::protocol::session_question::Answer;

impl Registry {
    /// Counts a connection as held, unless `held_max` are held.
    pub fn hold(self: &Arc<Self>, origin: &Arc<Origin>, held_max: usize, owner: Owner) -> Option<Held> {
        let (listener, origin) = (origin.listener, Arc::clone(origin));
        if !self.tally(listener).held.raise(held_max) {
            return None;
        }
        let number = self.waiting.add(WaitingClient { origin, owner, since: Instant::now(), reason: String::new() });
        Some(Held { registry: Arc::clone(self), listener, number })
    }

    /// Registers a session on a node: it counts as the node's load, receives orders, and can have a cancel key.
    pub fn guard(self: &Arc<Self>, origin: &Arc<Origin>, node: NodeId) -> SessionGuard {
        self.servers(origin.listener).chosen(node, self.seconds());
        self.register(self.next_id.fetch_add(1, Relaxed), origin, node, self.seconds())
    }

    /// Registers a session that another process had before, under the same number; it has been on the node for so long.
    pub fn move_in(self: &Arc<Self>, id: u64, origin: &Arc<Origin>, node: NodeId, node_seconds: u32) -> SessionGuard {
        self.servers(origin.listener).moved_in(node);
        self.register(id, origin, node, self.seconds().saturating_sub(node_seconds))
    }

    fn register(self: &Arc<Self>, id: u64, origin: &Arc<Origin>, node: NodeId, since_seconds: u32) -> SessionGuard {
        let control = Arc::new(SessionControl::new(Arc::clone(origin), node, since_seconds));
        self.on_nodes(origin.cluster).add(node);
        let mut controls = self.controls.lock();
        self.parkings.get(origin.cluster.0).inspect(|parking| parking.ask_new(&control));
        controls.insert(id, Arc::clone(&control));
        drop(controls);
        SessionGuard { registry: Arc::clone(self), id, control, key: SessionKey::Unknown }
    }
}

/// A held connection; the drop removes it from the count.
#[derive(Debug)]
pub struct Held {
    registry: Arc<Registry>,
    listener: ListenerIndex,
    /// Among those that wait.
    number: u64,
}

impl Held {
    /// Says why it waits now.
    pub fn set_reason(&self, reason: String) {
        self.registry.waiting.set_reason(self.number, reason);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.registry.waiting.remove(self.number);
        self.registry.tally(self.listener).held.lower();
    }
}

/// A session's registration on a node; the drop removes the session and its cancel key.
#[derive(Debug)]
pub struct SessionGuard {
    registry: Arc<Registry>,
    id: u64,
    control: Arc<SessionControl>,
    key: SessionKey,
}

impl SessionGuard {
    /// Its cancel key and the port of the node that it uses, if the server has sent a key.
    pub fn key(&self) -> Option<(CancelKey, SessionPort)> {
        match &self.key {
            SessionKey::Seen(key) => Some((key.clone(), self.registry.keys.port(key))),
            SessionKey::Unknown | SessionKey::Unseen => None,
        }
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How long it has been on the node.
    pub fn seconds_on_node(&self) -> u32 {
        self.registry.seconds().saturating_sub(self.control.since_seconds)
    }

    /// Another process has it now.
    pub fn moved_out(self) {
        self.control.has_moved_out();
    }

    /// The session's node.
    pub fn node(&self) -> NodeId {
        self.control.node
    }

    /// The shared part of the session.
    pub fn control(&self) -> &SessionControl {
        &self.control
    }

    /// Records the cancel key of the session, which uses this port of its node. If a server sends several, the last one
    /// counts.
    pub fn set_key(&mut self, key: CancelKey, port: SessionPort) {
        self.replace_key(SessionKey::Unknown); // first, because a server may send the same key again
        self.registry.keys.add(key.clone(), self.control.cluster(), self.control.node, port);
        self.key = SessionKey::Seen(key);
    }

    /// Records that pgvane cannot read the session from now on: if it has no key yet, pgvane will not see it.
    pub fn mark_opaque(&mut self) {
        if matches!(self.key, SessionKey::Unknown) {
            self.registry.keys.add_unseen(self.control.listener(), self.control.node);
            self.replace_key(SessionKey::Unseen);
        }
    }

    /// The names of the custom settings that somebody wants to know with the session's state.
    pub fn custom_settings(&self) -> Arc<[String]> {
        self.registry.questions.custom_settings(self.id)
    }

    /// Passes on what the server has answered to the question for the session's state.
    pub fn answer(&self, answer: Answer) {
        self.control.set_asked(false);
        self.registry.questions.answer(self.id, answer);
    }

    fn replace_key(&mut self, key: SessionKey) {
        let before = std::mem::replace(&mut self.key, key);
        self.registry.keys.end(&before, self.control.listener(), self.control.node);
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.replace_key(SessionKey::Unknown);
        let registry = &self.registry;
        registry.on_nodes(self.control.cluster()).remove(self.control.node);
        // the bytes are added to those of ended sessions under the lock that `census` takes, so none are counted twice
        registry.questions.give_up(self.id);
        let mut controls = registry.controls.lock();
        controls.remove(&self.id);
        let tally = registry.tally(self.control.listener());
        if self.control.is_moved_out() {
            return tally.servers.moved_out(self.control.node);
        }
        let [to_server, to_client] = self.control.bytes().read();
        registry.on_nodes(self.control.cluster()).add_ended_bytes(self.control.node, [to_server, to_client]);
        tally.servers.ended(&self.control);
        tally.ended_bytes_to_server.fetch_add(to_server, Relaxed);
        tally.ended_bytes_to_client.fetch_add(to_client, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use pgwire::messages::startup::SecretKey;

    use super::super::cancel_keys::KeyLocation;
    use super::*;
    use crate::config::ClusterIndex;

    #[test]
    fn a_session_counts_as_load_and_keeps_its_key_until_it_ends() {
        let registry = Arc::new(Registry::new(2, vec![Arc::default()]));
        let key = CancelKey::new(7, &SecretKey::I32(9));
        let mut guard = registry.guard(&Origin::of_listener(0), NodeId::new(2));
        guard.set_key(key.clone(), None);
        assert_eq!(registry.load(ClusterIndex(0), NodeId::new(2)), 1);
        assert_eq!(
            registry.keys().look_up(&key, ListenerIndex(0), ClusterIndex(0)),
            KeyLocation::On(NodeId::new(2), None)
        );
        guard.mark_opaque();
        let other = CancelKey::new(8, &SecretKey::I32(9));
        assert_eq!(
            registry.keys().look_up(&other, ListenerIndex(0), ClusterIndex(0)),
            KeyLocation::Nowhere,
            "the session has one already"
        );
        drop(guard);
        assert_eq!(registry.load(ClusterIndex(0), NodeId::new(2)), 0);
        assert_eq!(registry.keys().look_up(&key, ListenerIndex(0), ClusterIndex(0)), KeyLocation::Nowhere);
    }

    #[test]
    fn the_last_key_counts_also_if_it_is_named_twice() {
        let registry = Arc::new(Registry::new(2, vec![Arc::default()]));
        let [first, last] = [7, 8].map(|pid| CancelKey::new(pid, &SecretKey::I32(9)));
        let mut guard = registry.guard(&Origin::of_listener(0), NodeId::new(2));
        for key in [&first, &last, &last] {
            guard.set_key(key.clone(), None);
        }
        let location = |key| registry.keys().look_up(key, ListenerIndex(0), ClusterIndex(0));
        assert_eq!(location(&last), KeyLocation::On(NodeId::new(2), None));
        assert_eq!(location(&first), KeyLocation::Nowhere);
    }

    #[test]
    fn an_opaque_session_may_have_any_key_while_it_lasts() {
        let registry = Arc::new(Registry::new(2, vec![Arc::default()]));
        let key = CancelKey::new(7, &SecretKey::I32(9));
        let mut guard = registry.guard(&Origin::of_listener(0), NodeId::new(2));
        guard.mark_opaque();
        assert_eq!(
            registry.keys().look_up(&key, ListenerIndex(0), ClusterIndex(0)),
            KeyLocation::Among(vec![NodeId::new(2)])
        );
        drop(guard);
        assert_eq!(registry.keys().look_up(&key, ListenerIndex(0), ClusterIndex(0)), KeyLocation::Nowhere);
    }

    #[test]
    fn bytes_stay_counted_after_a_session_has_ended() {
        let registry = Arc::new(Registry::new(2, vec![Arc::default()]));
        let guard = registry.guard(&Origin::of_listener(1), NodeId::new(0));
        guard.control().bytes().add_to_client(5);
        let counted = || (registry.census().listeners[1].bytes_to_client, registry.census().node_bytes[0][0]);
        assert_eq!(counted(), (5, [0, 5]));
        drop(guard);
        assert_eq!(counted(), (5, [0, 5]));
    }
}
