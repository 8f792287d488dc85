//! Members that are the same node, and nodes that the operator has named with a wrong address.

use super::Members;
use crate::cluster::moment::Moment;
use crate::cluster::node::NodeId;
use crate::cluster::same_node::{is_same_node, is_same_server, stated_name};
use crate::cluster::topology::NodeView;

impl Members {
    /// Removes discovered members that are the same as a known node: by the name that a node reports, or because both
    /// report the same system identifier and the same postmaster start.
    pub(in crate::cluster) fn remove_duplicates(&mut self, now: Moment) {
        let known: Vec<(usize, NodeView, bool)> =
            self.present().map(|(id, entry)| (id.index(), entry.view.clone(), entry.is_static)).collect();
        for (id, entry) in self.present_mut().filter(|(_, entry)| !entry.is_static) {
            let comes_first = |other: usize, is_static: bool| is_static || other < id.index();
            let is_duplicate = known.iter().any(|(other, view, is_static)| {
                *other != id.index()
                    && comes_first(*other, *is_static)
                    && ((*is_static && is_same_node(view, &entry.view.member)) || is_same_server(view, &entry.view))
            });
            if is_duplicate {
                entry.leaves(now);
            }
        }
    }

    /// The nodes that the operator has named with a wrong address, and why: the Patroni there reports the name of
    /// another node, or the server is the same as that of another node.
    pub(in crate::cluster) fn wrong_addresses(&self) -> Vec<(NodeId, String)> {
        let named: Vec<(NodeId, &NodeView)> =
            self.present().filter(|(_, entry)| entry.is_static).map(|(id, entry)| (id, &entry.view)).collect();
        let why_wrong = |id: NodeId, view: &NodeView| {
            let stated = view.health.report()?.name.as_deref();
            let others = || named.iter().filter(|(other, _)| *other != id);
            if let Some(stated) = stated
                && stated != view.member.name
                && others().any(|(_, other)| other.member.name == stated)
            {
                return Some(format!("{} answers as {stated}, not as {}", view.member.patroni_url, view.member.name));
            }
            let is_first = |other: NodeId| stated != Some(view.member.name.as_str()) && other < id;
            let double = others().find(|(other, of)| {
                is_same_server(of, view) && (is_first(*other) || stated_name(of) == Some(of.member.name.as_str()))
            });
            double.map(|(_, other)| format!("it is the same server as {}", other.member.name))
        };
        named.iter().filter_map(|(id, view)| Some((*id, why_wrong(*id, view)?))).collect()
    }
}
