//! A connection is registered as long as it has its guard: a session on a node, or a client that waits for one.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::cancel_keys::SessionKey;
use super::cluster_carrying::NotAgain;
use super::control::SessionControl;
use super::openings::Opening;
use super::origin::Origin;
use super::owner::Owner;
use super::registry::Registry;
use super::waiting::WaitingClient;
use crate::cluster::NodeId;
use crate::cluster::ports::SessionPort;
use crate::config::ListenerIndex;
use crate::protocol::CancelKey;
use crate::protocol::login_again::Credential;
use crate::protocol::scram_exchange::Proof;
use crate::protocol::session_question::Answer;
use crate::routing::SessionParkEvent;

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
        self.registry.seconds().saturating_sub(self.control.since_seconds())
    }

    /// Another process has it now.
    pub fn moved_out(self) {
        self.control.has_moved_out();
    }

    /// The session's node.
    pub fn node(&self) -> NodeId {
        self.control.node()
    }

    /// The shared part of the session.
    pub fn control(&self) -> &SessionControl {
        &self.control
    }

    /// Records the cancel key of the session, which uses this port of its node. If a server sends several, the last one
    /// counts.
    pub fn set_key(&mut self, key: CancelKey, port: SessionPort) {
        self.replace_key(SessionKey::Unknown); // first, because a server may send the same key again
        self.registry.keys.add(key.clone(), self.control.cluster(), self.control.node(), port);
        self.key = SessionKey::Seen(key);
    }

    /// Records that pgvane cannot read the session from now on: if it has no key yet, pgvane will not see it.
    pub fn mark_opaque(&mut self) {
        if matches!(self.key, SessionKey::Unknown) {
            self.registry.keys.add_unseen(self.control.listener(), self.control.node());
            self.replace_key(SessionKey::Unseen);
        }
    }

    /// The session has left its server, to be carried to the leader: it gets no more orders because of its node.
    pub fn left_server(&self) {
        let _controls = self.registry.controls.lock(); // none is given meanwhile
        self.control.note_park(SessionParkEvent::LeftServer);
        self.control.withdraw_orders_of_node();
    }

    /// The session is at the leader, and is parked again if there is another park.
    pub fn note_arrived(&self) {
        let _controls = self.registry.controls.lock(); // a park does not begin meanwhile
        self.control.note_park(SessionParkEvent::Arrived);
        self.registry.parkings.get(self.control.cluster().0).inspect(|parking| parking.ask_new(&self.control));
    }

    /// The names of the custom settings that somebody wants to know with the session's state.
    pub fn custom_settings(&self) -> Arc<[String]> {
        self.registry.questions.custom_settings(self.id)
    }

    /// The session was carried to this node, by this port; the node knows it by `key_there`. It counts there from now on,
    /// with the bytes that it moves from now on. Orders that the node before was the reason of are withdrawn: look
    /// afterwards whether there is one for this node ([`order_for`](super::orders::order_for)), as after a registration.
    ///
    /// The node's name must be known to the listener's [`ServerCounts`](super::server_counts::ServerCounts).
    pub fn carried_to(&mut self, node: NodeId, port: SessionPort, key_there: Option<CancelKey>) {
        let (registry, control) = (&self.registry, &self.control);
        let (before, nodes) = (control.node(), registry.on_nodes(control.cluster()));
        nodes.add(node);
        let controls = registry.controls.lock();
        let tally = registry.tally(control.listener());
        tally.servers.ended(control);
        tally.servers.chosen(node, registry.seconds());
        let bytes = control.bytes().take();
        nodes.add_ended_bytes(before, bytes);
        tally.add_ended_bytes(bytes);
        control.is_now_on(node, registry.seconds());
        drop(controls);
        nodes.remove(before);
        match (&self.key, key_there) {
            (SessionKey::Seen(key), Some(key_there)) => {
                registry.keys.add_carried(key.clone(), control.cluster(), (node, port), key_there);
            }
            (SessionKey::Seen(_), None) => self.replace_key(SessionKey::Unknown),
            (SessionKey::Unknown | SessionKey::Unseen, _) => {}
        }
    }

    /// The key by which its node knows the session, if it was carried there.
    pub fn key_there(&self) -> Option<CancelKey> {
        match &self.key {
            SessionKey::Seen(key) => self.registry.keys.key_there(key),
            SessionKey::Unknown | SessionKey::Unseen => None,
        }
    }

    /// Records the cancel key of a session that was carried before this process had it.
    pub fn set_carried_key(&mut self, key: CancelKey, port: SessionPort, key_there: CancelKey) {
        self.set_key(key.clone(), port);
        self.registry.keys.add_carried(key, self.control.cluster(), (self.control.node(), port), key_there);
    }

    /// Whether the session may be carried to another server, so that its login has to be kept.
    pub fn may_be_carried(&self) -> bool {
        self.registry.carrying(self.control.cluster()).concerns(&self.control.origin.rule)
    }

    /// Keeps how the session has begun, so that it can log in again at another server.
    pub fn keep_opening(&self, opening: Opening) {
        self.registry.openings.keep(self.id, opening);
    }

    /// The session's client has proved its password so: in time, other sessions of its role can log in again by that.
    pub fn note_proof(&self, packet: &[u8], proof: Proof) {
        self.registry.carrying(self.control.cluster()).has_logged_in(packet, proof);
    }

    /// How the session has begun, and with what it can log in again at another server. Errors: why it cannot.
    pub fn log_in_again(&self) -> Result<(Arc<Opening>, Credential), NotAgain> {
        let opening = self.opening();
        let credential = self.registry.carrying(self.control.cluster()).credential(opening.as_deref())?;
        opening.map(|opening| (opening, credential)).ok_or(NotAgain::Unknown)
    }

    /// How the session has begun, if that has been kept.
    pub fn opening(&self) -> Option<Arc<Opening>> {
        self.registry.openings.of(self.id)
    }

    /// Passes on what the server has answered to the question for the session's state.
    pub fn answer(&self, answer: Answer) {
        self.control.set_asked(false);
        self.registry.questions.answer(self.id, answer);
    }

    fn replace_key(&mut self, key: SessionKey) {
        let before = std::mem::replace(&mut self.key, key);
        self.registry.keys.end(&before, self.control.listener(), self.control.node());
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.replace_key(SessionKey::Unknown);
        let registry = &self.registry;
        registry.on_nodes(self.control.cluster()).remove(self.control.node());
        registry.questions.give_up(self.id);
        registry.openings.forget(self.id);
        // the bytes are added to those of ended sessions under the lock that `census` takes, so none are counted twice
        let mut controls = registry.controls.lock();
        controls.remove(&self.id);
        let tally = registry.tally(self.control.listener());
        if self.control.is_moved_out() {
            return tally.servers.moved_out(self.control.node());
        }
        let bytes = self.control.bytes().read();
        registry.on_nodes(self.control.cluster()).add_ended_bytes(self.control.node(), bytes);
        tally.servers.ended(&self.control);
        tally.add_ended_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use pgwire::messages::startup::SecretKey;

    use super::super::cancel_keys::KeyLocation;
    use super::super::control::SessionOrder;
    use super::*;
    use crate::config::ClusterIndex;
    use crate::protocol::authentication::AuthenticatedBy;

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
    fn a_carried_session_counts_on_its_new_node_and_its_client_can_cancel_there() {
        let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
        let [old, new] = [0, 1].map(NodeId::new);
        let [given, there, again] = [7, 70, 71].map(|pid| CancelKey::new(pid, &SecretKey::I32(9)));
        let mut guard = registry.guard(&Origin::of_listener(0), old);
        guard.set_key(given.clone(), None);
        guard.control().bytes().add_to_client(5);
        guard.control().send_order(SessionOrder::Cut(crate::routing::Cause::LostLead));
        let location = || registry.keys().look_up(&given, ListenerIndex(0), ClusterIndex(0));

        guard.carried_to(new, None, Some(there.clone()));
        assert_eq!((guard.node(), registry.loads(ClusterIndex(0))[..2].to_vec()), (new, vec![0, 1]));
        assert!(!guard.control().has_order(), "it was ordered to leave the node before");
        guard.control().bytes().add_to_client(2);
        let census = registry.census();
        assert_eq!(census.node_bytes[0][..2], [[0, 5], [0, 2]]);
        let servers =
            [0, 1].map(|node: usize| (census.servers[0][node].sessions, census.servers[0][node].bytes_to_client));
        assert_eq!((servers, census.listeners[0].bytes_to_client), ([(0, 5), (1, 2)], 7));
        assert_eq!(location(), KeyLocation::Carried(new, None, there));

        guard.carried_to(old, None, Some(again.clone()));
        assert_eq!(location(), KeyLocation::Carried(old, None, again));
        drop(guard);
        assert_eq!((location(), registry.loads(ClusterIndex(0))[..2].to_vec()), (KeyLocation::Nowhere, vec![0, 0]));
        assert_eq!(registry.census().node_bytes[0][..2], [[0, 5], [0, 2]]);
        assert_eq!(registry.census().listeners[0].bytes_to_client, 7);
    }

    /// What the session was ordered for itself is in force also if its node was a reason to end it at the same time.
    #[test]
    fn an_order_that_was_hidden_by_one_of_the_node_before_is_followed_after_a_session_was_carried() {
        for order in [SessionOrder::Close, SessionOrder::ListenerRemoved, SessionOrder::Stop] {
            for is_hidden_until_it_arrives in [false, true] {
                let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
                let mut guard = registry.guard(&Origin::of_listener(0), NodeId::new(0));
                guard.control().send_order(SessionOrder::Cut(crate::routing::Cause::LostLead));
                match order {
                    SessionOrder::Close => assert_eq!(registry.close(|_| true), 1),
                    SessionOrder::ListenerRemoved => registry.end_listener(ListenerIndex(0)),
                    _ => registry.stop(),
                }
                if !is_hidden_until_it_arrives {
                    guard.left_server();
                }
                guard.carried_to(NodeId::new(1), None, None);
                assert!(guard.control().is_ordered(order), "{order:?}, {is_hidden_until_it_arrives}");
            }
        }
    }

    #[test]
    fn how_a_session_has_begun_is_kept_until_it_ends() {
        let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
        let guard = registry.guard(&Origin::of_listener(0), NodeId::new(0));
        assert_eq!(guard.opening(), None);
        let opening = Opening { packet: Box::from(*b"packet"), authenticated_by: AuthenticatedBy::Nothing };
        guard.keep_opening(opening.clone());
        assert_eq!(guard.opening().as_deref(), Some(&opening));
        let id = guard.id();
        drop(guard);
        assert_eq!(registry.openings.of(id), None);
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
