//! When two entries in lists of members are the same node.

use super::node::Member;
use super::topology::NodeView;

/// The name that a node's Patroni reports.
pub(super) fn stated_name(view: &NodeView) -> Option<&str> {
    view.health.report()?.name.as_deref()
}

/// Whether a node has this name, or its Patroni reports it.
pub(super) fn has_name(view: &NodeView, name: &str) -> bool {
    view.member.name == name || stated_name(view) == Some(name)
}

/// Whether a discovered member is a node that is known already, under another name or at another address.
pub(super) fn is_same_node(known: &NodeView, found: &Member) -> bool {
    has_name(known, &found.name)
        || known.member.address == found.address
        || known.member.patroni_url == found.patroni_url
}

/// Whether two nodes are the same server, according to their reports.
pub(super) fn is_same_server(a: &NodeView, b: &NodeView) -> bool {
    let facts = |view: &NodeView| {
        let report = view.health.report()?;
        Some((report.system_identifier.clone()?, report.postmaster_start.clone()?))
    };
    facts(a).is_some_and(|stated| facts(b) == Some(stated))
}

/// Whether two members have the same addresses.
pub(super) fn is_same_place(a: &Member, b: &Member) -> bool {
    a.address == b.address && a.patroni_url == b.patroni_url
}
