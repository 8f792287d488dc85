//! The cancel keys of running sessions: which node a session is on.
//!
//! pgvane reads a session's key at login, unless client and server encrypt end to end. So an unknown key belongs to no
//! session, or to one of those.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::Mutex;

use super::slots::Slots;
use crate::cluster::NodeId;
use crate::cluster::node::NODES_MAX;
use crate::cluster::ports::SessionPort;
use crate::config::{ClusterIndex, ListenerIndex};
use crate::protocol::CancelKey;

/// The number of ended sessions whose keys are remembered, so that a late cancel is not taken for one of an encrypted
/// session: as many as end in a few seconds on a busy port, at eight bytes each.
const ENDED_MAX: usize = 4096;

/// Where the session of a cancel request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyLocation {
    /// On this node, by this port.
    On(NodeId, SessionPort),
    /// The same, and the node knows it by this key: the session was carried there from another node.
    Carried(NodeId, SessionPort, CancelKey),
    /// If it is running, on one of these nodes: they have sessions whose keys pgvane cannot read.
    Among(Vec<NodeId>),
    /// The session has ended or has never existed.
    Nowhere,
}

/// What is known of a session's key.
#[derive(Debug)]
pub enum SessionKey {
    /// The server has not sent it yet, or sends none.
    Unknown,
    /// The key.
    Seen(CancelKey),
    /// pgvane cannot read it.
    Unseen,
}

/// The keys of all sessions.
#[derive(Debug)]
pub struct Keys {
    seen: Mutex<Seen>,
    /// The number of sessions whose keys pgvane cannot read, by listener and node number.
    unseen: Slots<[AtomicU32; NODES_MAX]>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Cluster, node and port of running sessions.
    locations: BTreeMap<CancelKey, (ClusterIndex, NodeId, SessionPort)>,
    /// Of those of them that were carried: the key by which the node knows the session, by the key that the client has.
    carried: BTreeMap<CancelKey, CancelKey>,
    /// Hashes of the keys of the sessions that ended last, newest first.
    ended: VecDeque<u64>,
    hasher: RandomState,
}

impl Keys {
    /// An empty set of keys.
    pub fn empty() -> Keys {
        Keys { seen: Mutex::default(), unseen: Slots::empty() }
    }

    fn unseen(&self, listener: ListenerIndex) -> &[AtomicU32; NODES_MAX] {
        self.unseen.get_or_init(listener.0, || std::array::from_fn(|_| AtomicU32::new(0)))
    }

    /// Adds the key of a session that uses this port of the node.
    pub fn add(&self, key: CancelKey, cluster: ClusterIndex, node: NodeId, port: SessionPort) {
        let mut seen = self.seen.lock();
        seen.carried.remove(&key); // should another server have given out the same key
        seen.locations.insert(key, (cluster, node, port));
    }

    /// Adds the key of a session that was carried to this node, which knows it by `key_there`.
    pub fn add_carried(
        &self,
        key: CancelKey,
        cluster: ClusterIndex,
        (node, port): (NodeId, SessionPort),
        key_there: CancelKey,
    ) {
        let mut seen = self.seen.lock();
        seen.locations.insert(key.clone(), (cluster, node, port));
        seen.carried.insert(key, key_there);
    }

    /// The keys of a cluster's sessions, with node and port, and with the key by which the node knows the session if that
    /// is another one.
    pub fn all(&self, cluster: ClusterIndex) -> Vec<(CancelKey, NodeId, SessionPort, Option<CancelKey>)> {
        let seen = self.seen.lock();
        let here = seen.locations.iter().filter(|(_, (found, ..))| *found == cluster);
        here.map(|(key, (_, node, port))| (key.clone(), *node, *port, seen.carried.get(key).cloned())).collect()
    }

    /// The key by which its node knows the session of this key, if the session was carried there.
    pub fn key_there(&self, key: &CancelKey) -> Option<CancelKey> {
        self.seen.lock().carried.get(key).cloned()
    }

    /// How many sessions of a listener have keys that pgvane cannot read, by node.
    pub fn all_unseen(&self, listener: ListenerIndex) -> Vec<(NodeId, u32)> {
        let counts = self.unseen(listener).iter().enumerate();
        let counts = counts.map(|(number, count)| (NodeId::new(number), count.load(Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// The port of its node that the session of this key uses.
    pub fn port(&self, key: &CancelKey) -> SessionPort {
        self.seen.lock().locations.get(key).and_then(|(_, _, port)| *port)
    }

    /// Adds a session whose key pgvane cannot read.
    pub fn add_unseen(&self, listener: ListenerIndex, node: NodeId) {
        self.unseen(listener)[node.index()].fetch_add(1, Relaxed);
    }

    /// Removes the key of a session that has ended.
    pub fn end(&self, key: &SessionKey, listener: ListenerIndex, node: NodeId) {
        match key {
            SessionKey::Unknown => {}
            SessionKey::Seen(key) => self.end_seen(key),
            SessionKey::Unseen => _ = self.unseen(listener)[node.index()].fetch_sub(1, Relaxed),
        }
    }

    fn end_seen(&self, key: &CancelKey) {
        let mut seen = self.seen.lock();
        seen.locations.remove(key);
        seen.carried.remove(key);
        let hash = seen.hasher.hash_one(key);
        seen.ended.truncate(ENDED_MAX - 1);
        seen.ended.push_front(hash);
    }

    /// Where the session of this key is. The cancel request came to this listener of this cluster.
    pub fn look_up(&self, key: &CancelKey, listener: ListenerIndex, cluster: ClusterIndex) -> KeyLocation {
        let seen = self.seen.lock();
        match seen.locations.get(key) {
            Some((found, node, port)) if *found == cluster => {
                return match seen.carried.get(key) {
                    Some(key_there) => KeyLocation::Carried(*node, *port, key_there.clone()),
                    None => KeyLocation::On(*node, *port),
                };
            }
            None if seen.ended.contains(&seen.hasher.hash_one(key)) => return KeyLocation::Nowhere,
            _ => {}
        }
        drop(seen);
        let counts = self.unseen(listener).iter().enumerate();
        let among: Vec<_> =
            counts.filter(|(_, count)| count.load(Relaxed) > 0).map(|(number, _)| NodeId::new(number)).collect();
        if among.is_empty() { KeyLocation::Nowhere } else { KeyLocation::Among(among) }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use pgwire::messages::startup::SecretKey;

    use super::*;

    fn key(process_id: i32) -> CancelKey {
        CancelKey::new(process_id, &SecretKey::I32(9))
    }

    #[test]
    fn a_session_is_found_from_every_listener_of_its_cluster_while_it_runs() {
        let keys = Keys::empty();
        let pooler = NonZeroU16::new(6432);
        keys.add(key(7), ClusterIndex(0), NodeId::new(2), pooler);
        for listener in [0, 1] {
            assert_eq!(
                keys.look_up(&key(7), ListenerIndex(listener), ClusterIndex(0)),
                KeyLocation::On(NodeId::new(2), pooler)
            );
        }
        assert_eq!(keys.look_up(&key(7), ListenerIndex(2), ClusterIndex(1)), KeyLocation::Nowhere, "another cluster's");
        assert_eq!(keys.look_up(&key(8), ListenerIndex(0), ClusterIndex(0)), KeyLocation::Nowhere, "nobody's");
        keys.end(&SessionKey::Seen(key(7)), ListenerIndex(0), NodeId::new(2));
        assert_eq!(keys.look_up(&key(7), ListenerIndex(0), ClusterIndex(0)), KeyLocation::Nowhere);
    }

    #[test]
    fn a_carried_session_is_found_by_its_clients_key_until_it_ends() {
        let keys = Keys::empty();
        let found = |keys: &Keys| keys.look_up(&key(7), ListenerIndex(0), ClusterIndex(0));
        keys.add(key(7), ClusterIndex(0), NodeId::new(0), None);
        for (node, key_there) in [(1, key(70)), (2, key(71))] {
            keys.add_carried(key(7), ClusterIndex(0), (NodeId::new(node), None), key_there.clone());
            assert_eq!(found(&keys), KeyLocation::Carried(NodeId::new(node), None, key_there.clone()));
            let other = keys.look_up(&key_there, ListenerIndex(0), ClusterIndex(0));
            assert_eq!(other, KeyLocation::Nowhere, "the client has never got it");
        }
        keys.end(&SessionKey::Seen(key(7)), ListenerIndex(0), NodeId::new(2));
        keys.add_unseen(ListenerIndex(0), NodeId::new(1));
        assert_eq!(found(&keys), KeyLocation::Nowhere, "ended, and remembered");
        assert_eq!(keys.key_there(&key(7)), None);
    }

    #[test]
    fn a_server_that_gives_out_the_key_of_a_carried_session_does_not_mix_the_two() {
        let keys = Keys::empty();
        keys.add_carried(key(7), ClusterIndex(0), (NodeId::new(1), None), key(70));
        keys.add(key(70), ClusterIndex(0), NodeId::new(0), None);
        let found = |wanted: i32| keys.look_up(&key(wanted), ListenerIndex(0), ClusterIndex(0));
        assert_eq!(found(7), KeyLocation::Carried(NodeId::new(1), None, key(70)));
        assert_eq!(found(70), KeyLocation::On(NodeId::new(0), None), "another client's");
        keys.add(key(7), ClusterIndex(0), NodeId::new(2), None);
        assert_eq!(found(7), KeyLocation::On(NodeId::new(2), None), "and nothing of the session before");
    }

    #[test]
    fn an_unknown_key_may_belong_to_a_session_on_its_listener_whose_key_was_not_seen() {
        let keys = Keys::empty();
        keys.add_unseen(ListenerIndex(0), NodeId::new(1));
        keys.add_unseen(ListenerIndex(0), NodeId::new(4));
        keys.add_unseen(ListenerIndex(0), NodeId::new(4));
        assert_eq!(
            keys.look_up(&key(7), ListenerIndex(0), ClusterIndex(0)),
            KeyLocation::Among(vec![NodeId::new(1), NodeId::new(4)])
        );
        assert_eq!(keys.look_up(&key(7), ListenerIndex(1), ClusterIndex(0)), KeyLocation::Nowhere);
        keys.end(&SessionKey::Unseen, ListenerIndex(0), NodeId::new(1));
        keys.end(&SessionKey::Unseen, ListenerIndex(0), NodeId::new(4));
        assert_eq!(keys.look_up(&key(7), ListenerIndex(0), ClusterIndex(0)), KeyLocation::Among(vec![NodeId::new(4)]));
        keys.end(&SessionKey::Unseen, ListenerIndex(0), NodeId::new(4));
        assert_eq!(keys.look_up(&key(7), ListenerIndex(0), ClusterIndex(0)), KeyLocation::Nowhere);
    }

    #[test]
    fn a_key_that_was_seen_is_not_taken_for_one_that_was_not() {
        let keys = Keys::empty();
        keys.add_unseen(ListenerIndex(0), NodeId::new(1));
        let newest = i32::try_from(ENDED_MAX).expect("fits") + 10;
        for process_id in 0..=newest {
            keys.add(key(process_id), ClusterIndex(0), NodeId::new(0), None);
            keys.end(&SessionKey::Seen(key(process_id)), ListenerIndex(0), NodeId::new(0));
        }
        assert_eq!(keys.look_up(&key(newest), ListenerIndex(0), ClusterIndex(0)), KeyLocation::Nowhere);
        assert_eq!(keys.look_up(&key(newest - 100), ListenerIndex(0), ClusterIndex(0)), KeyLocation::Nowhere);
        assert_eq!(keys.seen.lock().ended.len(), ENDED_MAX);
        assert_eq!(
            keys.look_up(&key(0), ListenerIndex(0), ClusterIndex(0)),
            KeyLocation::Among(vec![NodeId::new(1)]),
            "forgotten by now"
        );
    }
}
