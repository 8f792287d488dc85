//! Orders to the sessions: of those on the wrong node after a change of the topology, of operators, of the rebalancer, and at
//! the end.

use std::sync::Arc;

use super::control::{SessionControl, SessionOrder};
use super::registry::Registry;
use super::session_info::SessionInfo;
use crate::cluster::NodeId;
use crate::cluster::node::NODES_MAX;
use crate::cluster::topology::Topology;
use crate::config::{ClusterIndex, ListenerIndex};
use crate::routing::{NodeLoad, Reaction, Reactions, Rule, SessionPark, why_on_wrong_node};

impl Registry {
    /// Closes the sessions for which `is_wanted` is true, and returns their number.
    pub fn close(&self, is_wanted: impl Fn(&SessionInfo) -> bool) -> usize {
        let now = self.seconds();
        let controls = self.controls.lock();
        let wanted = controls.iter().filter(|(id, control)| is_wanted(&SessionInfo::of(**id, control, now)));
        wanted.map(|(_, control)| control.send_order(SessionOrder::Close)).count()
    }

    /// Ends every connection: those on a node with [`SessionOrder::Stop`], the others with [`Registry::stopped`].
    pub fn stop(&self) {
        self.stop.cancel();
        for control in self.controls.lock().values() {
            control.send_order(SessionOrder::Stop);
        }
    }

    /// The load of each node of a cluster, with the sessions of one listener that can move or are about to.
    pub fn node_loads(&self, listener: ListenerIndex, cluster: ClusterIndex) -> [NodeLoad; NODES_MAX] {
        let mut node_loads = [NodeLoad::default(); NODES_MAX];
        for (node_load, sessions) in node_loads.iter_mut().zip(self.on_nodes(cluster).all()) {
            node_load.sessions = sessions;
        }
        for control in self.controls.lock().values().filter(|control| control.listener() == listener) {
            let node_load = &mut node_loads[control.node().index()];
            node_load.movable += u32::from(control.is_movable());
            node_load.leaving += u32::from(control.is_about_to_move());
        }
        node_loads
    }

    /// Orders the oldest movable session of this listener on this node to move between two transactions.
    pub fn move_one(&self, listener: ListenerIndex, node: NodeId) {
        let controls = self.controls.lock();
        let is_movable = |control: &&Arc<SessionControl>| {
            control.listener() == listener && control.node() == node && control.is_movable()
        };
        if let Some(control) = controls.values().find(is_movable) {
            control.send_order(SessionOrder::Move);
        }
    }

    /// Sends orders to the sessions of a cluster that are on the wrong node by a new topology, and withdraws the drain of
    /// those that are on the right node again.
    pub fn apply(&self, cluster: ClusterIndex, topology: &Topology) {
        let controls = self.controls.lock();
        let is_on_node = |control: &&Arc<SessionControl>| control.park() != SessionPark::Carrying;
        for control in controls.values().filter(|control| control.cluster() == cluster).filter(is_on_node) {
            let reactions = *self.tally(control.listener()).reactions.lock();
            match order_for(&control.origin.rule, &reactions, topology, control.node()) {
                Some(order) => control.send_order(order),
                None => control.withdraw_drain(),
            }
        }
    }

    /// Ends the sessions of a listener that was removed.
    pub fn end_listener(&self, listener: ListenerIndex) {
        for control in self.controls.lock().values().filter(|control| control.listener() == listener) {
            control.send_order(SessionOrder::ListenerRemoved);
        }
    }
}

/// The order for a session of this rule that is on `node`; `None` if it can stay.
pub fn order_for(rule: &Rule, reactions: &Reactions, topology: &Topology, node: NodeId) -> Option<SessionOrder> {
    let cause = why_on_wrong_node(rule, topology, node)?;
    match reactions.to(cause) {
        Reaction::Keep => None,
        Reaction::Drain => Some(SessionOrder::Drain(cause)),
        Reaction::Cut => Some(SessionOrder::Cut(cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::guard::SessionGuard;
    use super::super::origin::Origin;
    use super::*;

    #[test]
    fn the_wanted_sessions_are_closed_and_counted_and_the_others_stay() {
        let registry = Arc::new(Registry::new(2, vec![Arc::default()]));
        let guards: Vec<SessionGuard> =
            (0..4).map(|node| registry.guard(&Origin::of_listener(0), NodeId::new(node / 3))).collect();
        assert_eq!(registry.close(|session| session.node == NodeId::new(0)), 3);
        assert!(guards[..3].iter().all(|guard| guard.control().is_ordered(SessionOrder::Close)));
        assert!(!guards[3].control().is_ordered(SessionOrder::Close));
    }

    #[test]
    fn one_session_is_closed_by_its_id_and_the_id_is_not_given_again() {
        let registry = Arc::new(Registry::new(2, vec![Arc::default()]));
        let (first, second) = (
            registry.guard(&Origin::of_listener(0), NodeId::new(0)),
            registry.guard(&Origin::of_listener(0), NodeId::new(0)),
        );
        let ids = || registry.list(9, |_| true).0.iter().map(|session| session.id).collect::<Vec<u64>>();
        let before = ids();
        assert_eq!(registry.close(|session| session.id == before[1]), 1);
        assert!(second.control().is_ordered(SessionOrder::Close) && !first.control().is_ordered(SessionOrder::Close));
        drop(second);
        let _third = registry.guard(&Origin::of_listener(0), NodeId::new(0));
        assert_eq!(ids()[0], before[0], "it stays the same");
        assert!(!before.contains(&ids()[1]), "{before:?}, then {:?}", ids());
    }

    #[test]
    fn the_oldest_session_whose_transactions_are_visible_is_moved() {
        let registry = Arc::new(Registry::new(2, vec![Arc::default()]));
        let guards: Vec<SessionGuard> =
            (0..4).map(|listener| registry.guard(&Origin::of_listener(listener / 3), NodeId::new(2))).collect();
        let node_load = || registry.node_loads(ListenerIndex(0), ClusterIndex(0))[2];
        assert_eq!(
            node_load(),
            NodeLoad { sessions: 4, movable: 0, leaving: 0 },
            "no session's transactions are visible"
        );
        registry.move_one(ListenerIndex(0), NodeId::new(2));
        assert_eq!(node_load().leaving, 0);
        guards[1..].iter().for_each(|guard| guard.control().show_transactions());
        assert_eq!(node_load(), NodeLoad { sessions: 4, movable: 2, leaving: 0 }, "one is of another listener");
        registry.move_one(ListenerIndex(0), NodeId::new(2));
        assert!(guards[1].control().is_about_to_move());
        assert_eq!(node_load(), NodeLoad { sessions: 4, movable: 1, leaving: 1 });
    }
}
