//! What a list of members changes: the one from discovery, and the one of the nodes that the operator names.

use std::sync::Arc;

use super::{Admitted, Members};
use crate::cluster::health::Health;
use crate::cluster::moment::Moment;
use crate::cluster::node::{Member, NodeId, NodeSet};
use crate::cluster::node_state::NodeState;
use crate::cluster::same_node::{has_name, is_same_node, is_same_place};

/// The result of applying a list of members.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cluster) struct ListApplied {
    /// Something has changed.
    pub(in crate::cluster) is_change: bool,
    /// The names of members for which there is no room.
    pub(in crate::cluster) left_out: Vec<String>,
}

/// The result of applying a list of nodes that the operator names.
#[derive(Debug, Default)]
pub(in crate::cluster) struct NamedTaken {
    /// Nodes that have other addresses now.
    pub(in crate::cluster) moved: Vec<NodeId>,
    /// The names of nodes for which there is no room.
    pub(in crate::cluster) left_out: Vec<String>,
}

impl Members {
    /// Applies the list from discovery; `busy` nodes have sessions.
    ///
    /// A member with the same name is the same node, even at another address: it takes the new address, and keeps its
    /// number and its sessions. A discovered node that is no longer listed leaves once it no longer answers: the list
    /// may be stale, an answer is not.
    pub(in crate::cluster) fn apply_list(&mut self, members: Vec<Member>, busy: NodeSet, now: Moment) -> ListApplied {
        let mut taken = ListApplied::default();
        for (_, entry) in self.present_mut().filter(|(_, entry)| !entry.is_static) {
            let listed = members.iter().find(|member| has_name(&entry.view, &member.name));
            let answers = matches!(entry.view.health, Health::Answering { .. });
            match listed {
                Some(member) if !is_same_place(member, &entry.view.member) => {
                    let name = entry.view.member.name.clone();
                    entry.view.member = Arc::new(Member { name, ..member.clone() });
                    entry.schedule.request(now);
                    taken.is_change = true;
                }
                None if !answers => {
                    entry.leaves(now);
                    taken.is_change = true;
                }
                Some(_) | None => {}
            }
        }
        for member in members {
            match self.admit(member, false, busy, now) {
                Admitted::New => taken.is_change = true,
                Admitted::Known => {}
                Admitted::NoRoom(member) => taken.left_out.push(member.name),
            }
        }
        taken
    }

    /// Applies a changed list of the nodes that the operator names; `busy` nodes have sessions.
    ///
    /// A node with the same name is the same node, even at another address, and so is a node at the same address or with
    /// the same REST API under another name: it keeps its number, its sessions and its administrative state. A node that
    /// is not named any more leaves, unless members are discovered: then it is one of those.
    pub(in crate::cluster) fn take_named(
        &mut self,
        members: Vec<Member>,
        discovers: bool,
        busy: NodeSet,
        now: Moment,
    ) -> NamedTaken {
        let mut taken = NamedTaken::default();
        let mut unmatched = Vec::new();
        self.present_mut().for_each(|(_, entry)| entry.is_static = false);
        for member in members {
            match self.entry_named(&member) {
                Some(id) => taken.moved.extend(self.rename(id, member, now).then_some(id)),
                None => unmatched.push(member),
            }
        }
        let mut new = Vec::new();
        for member in unmatched {
            let known = self.present().find(|(_, entry)| !entry.is_static && is_same_node(&entry.view, &member));
            match known.map(|(id, _)| id) {
                Some(id) => taken.moved.extend(self.rename(id, member, now).then_some(id)),
                None => new.push(member),
            }
        }
        if !discovers {
            let unnamed = self.present_mut().filter(|(_, entry)| !entry.is_static);
            unnamed.for_each(|(_, entry)| entry.leaves(now));
        }
        let named_before = |entry: &&mut NodeState| !entry.is_static && !entry.view.member.is_discovered;
        for entry in self.present_mut().map(|(_, entry)| entry).filter(named_before) {
            entry.view.member = Arc::new(Member { is_discovered: true, ..Member::clone(&entry.view.member) });
        }
        for member in new {
            if let Admitted::NoRoom(member) = self.admit(member, true, busy, now) {
                taken.left_out.push(member.name);
            }
        }
        taken
    }

    fn entry_named(&self, member: &Member) -> Option<NodeId> {
        let named = self.present().find(|(_, entry)| entry.view.member.name == member.name);
        named.map(|(id, _)| id)
    }

    /// Gives a node the name and the addresses by which the operator names it. True if it has other addresses now.
    fn rename(&mut self, id: NodeId, member: Member, now: Moment) -> bool {
        let entry = self.entry_mut(id);
        entry.is_static = true;
        let moves = !is_same_place(&member, &entry.view.member);
        if moves {
            entry.schedule.request(now);
        }
        entry.view.member = Arc::new(member);
        moves
    }
}
