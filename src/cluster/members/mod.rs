//! The cluster's members, and their numbers.
//!
//! Here: the members, past and present. `lists`: what changes with a list from discovery or from the operator.
//! `duplicates`: members that are the same node, and wrong addresses.

mod duplicates;
mod lists;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::admin_state::AdminState;
use super::moment::Moment;
use super::node::{Member, NODES_MAX, NodeId, NodeSet};
use super::node_state::NodeState;
use super::same_node::{has_name, is_same_node, is_same_place};

/// The minimum time for which the number of a node that has left is not used again: a session that was routed there has
/// arrived long before.
const NUMBER_KEPT_FOR: Duration = Duration::from_secs(60);

/// All members, past and present. A number is given to another node only when nothing refers to it any more.
pub(super) struct Members {
    entries: Vec<NodeState>,
    seed: u64,
}

impl Members {
    /// The members that the operator has named.
    pub(super) fn new(static_members: Vec<Member>, seed: u64, now: Moment) -> Members {
        let mut members = Members { entries: Vec::new(), seed };
        for member in static_members {
            members.admit(member, true, NodeSet::default(), now);
        }
        members
    }

    pub(super) fn entry(&self, id: NodeId) -> &NodeState {
        &self.entries[id.index()]
    }

    pub(super) fn entry_mut(&mut self, id: NodeId) -> &mut NodeState {
        &mut self.entries[id.index()]
    }

    /// Sets the administrative state of a node. True if that is new. A node that is ready again has just come back.
    pub(super) fn administer(&mut self, id: NodeId, state: AdminState, now: Moment) -> bool {
        let view = &mut self.entry_mut(id).view;
        let is_change = view.admin != state;
        if is_change && state == AdminState::Ready {
            view.serving_since = view.serving_since.map(|_| now);
        }
        view.admin = state;
        is_change
    }

    /// Sets the weight of a node, or takes the configured one again. True if that is new.
    pub(super) fn weigh(&mut self, id: NodeId, weight: Option<u32>) -> bool {
        let view = &mut self.entry_mut(id).view;
        std::mem::replace(&mut view.weight_set, weight) != weight
    }

    /// All entries, those of departed nodes included, in the order of their numbers.
    pub(super) fn all(&self) -> &[NodeState] {
        &self.entries
    }

    /// The present members.
    pub(super) fn present(&self) -> impl Iterator<Item = (NodeId, &NodeState)> {
        self.entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| !entry.view.departed)
            .map(|(id, entry)| (NodeId::new(id), entry))
    }

    /// The present members, mutable.
    pub(super) fn present_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut NodeState)> {
        let present = self.entries.iter_mut().enumerate().filter(|(_, entry)| !entry.view.departed);
        present.map(|(id, entry)| (NodeId::new(id), entry))
    }

    /// Adds a member, or adds it again. If all numbers are in use, it gets the number of a node that has left and has
    /// no sessions any more.
    fn admit(&mut self, member: Member, is_static: bool, busy: NodeSet, now: Moment) -> Admitted {
        let is_known = |entry: &NodeState| match entry.is_static || is_static {
            true => is_same_node(&entry.view, &member),
            false => has_name(&entry.view, &member.name) || is_same_place(&entry.view.member, &member),
        };
        if self.present().any(|(_, entry)| is_known(entry) && !(is_static && entry.is_static)) {
            return Admitted::Known;
        }
        let came_back = self
            .entries
            .iter()
            .position(|entry| entry.view.departed && !entry.is_static && entry.view.member.name == member.name);
        let next = || Some(self.entries.len()).filter(|id| *id < NODES_MAX);
        let Some(id) = came_back.or_else(next).or_else(|| self.free_number(busy, now)) else {
            return Admitted::NoRoom(member);
        };
        let seed = self.seed.wrapping_add(id as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut entry = NodeState::new(member, is_static, now, seed);
        match self.entries.get_mut(id) {
            Some(departed) => {
                if departed.view.member.name == entry.view.member.name {
                    entry.view.admin = departed.view.admin; // it was not the operator who removed it
                }
                *departed = entry;
            }
            None => self.entries.push(entry),
        }
        Admitted::New
    }

    /// The number of the node that left first, among those that left long enough ago and have no sessions.
    fn free_number(&self, busy: NodeSet, now: Moment) -> Option<usize> {
        let left = self.entries.iter().enumerate().filter_map(|(id, entry)| Some((entry.departed_at?, id)));
        let is_free =
            |(left_at, id): &(Moment, usize)| now - *left_at >= NUMBER_KEPT_FOR && !busy.contains(NodeId::new(*id));
        left.filter(is_free).min().map(|(_, id)| id)
    }
}

/// The result of adding a member.
enum Admitted {
    New,
    Known,
    NoRoom(Member),
}
