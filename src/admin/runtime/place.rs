//! Finds the listener and the node that a command names as HAProxy's backend and server.

use crate::admin::haproxy::FIRST_PROXY;
use crate::admin::status::{Cluster, Listener, Node, Status};

/// A server of a backend.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'s> {
    /// The listener; `None` if the command names a cluster.
    pub(super) listener: Option<&'s Listener>,
    pub(super) cluster: &'s Cluster,
    pub(super) node: &'s Node,
}

impl<'s> Place<'s> {
    /// Finds `backend/server`. The backend is the name of a listener or of a cluster, or `#` with the number of a listener;
    /// the server is the name of a node, or `#` with its number. Errors: HAProxy's text.
    pub(super) fn find(status: &'s Status, text: Option<&String>) -> Result<Place<'s>, &'static str> {
        const REQUIRED: &str = "Require 'backend/server'.\n";
        let (backend, server) = text.and_then(|text| text.split_once('/')).ok_or(REQUIRED)?;
        let listener = listener(status, backend);
        let name = listener.map_or(backend, |listener| &listener.cluster);
        let cluster = status.clusters.iter().find(|cluster| cluster.name == name).ok_or("No such backend.\n")?;
        let numbered = server.strip_prefix('#').and_then(|number| number.parse::<u32>().ok());
        let has_number = |node: &&Node| {
            let mut servers =
                status.listeners.iter().filter(|one| one.cluster == cluster.name).flat_map(|one| &one.servers);
            servers.any(|server| Some(server.number) == numbered && server.node == node.name)
        };
        let mut nodes = cluster.nodes.iter();
        let node = nodes.find(|node| node.name == server || has_number(node)).ok_or("No such server.\n")?;
        Ok(Place { listener, cluster, node })
    }
}

/// The listener of this name or number.
pub(super) fn listener<'s>(status: &'s Status, text: &str) -> Option<&'s Listener> {
    match text.strip_prefix('#').map(str::parse::<u32>) {
        Some(Ok(number)) => (FIRST_PROXY..).zip(&status.listeners).find(|(own, _)| *own == number).map(|(_, one)| one),
        _ => status.listeners.iter().find(|listener| listener.name == text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::servers::Server;

    #[test]
    fn servers_are_found_by_name_and_by_number_through_listeners_and_clusters() {
        let node = |name: &str| Node { name: name.to_owned(), ..Node::default() };
        let server = |node: &str, number| Server { node: node.to_owned(), number, ..Server::default() };
        let cluster = Cluster { name: "main".to_owned(), nodes: vec![node("a"), node("b")], ..Cluster::default() };
        let read = Listener {
            name: "read".to_owned(),
            cluster: "main".to_owned(),
            servers: vec![server("a", 1), server("b", 2)],
            ..Listener::default()
        };
        let status = Status { clusters: vec![cluster], listeners: vec![read], ..Status::default() };
        let find = |text: &str| {
            let found = Place::find(&status, Some(&text.to_owned()));
            found.map(|place| (place.listener.is_some(), place.node.name.as_str()))
        };
        for text in ["read/b", "#2/b", "read/#2", "#2/#2"] {
            assert_eq!(find(text), Ok((true, "b")), "{text}");
        }
        assert_eq!(find("main/a"), Ok((false, "a")));
        assert_eq!(find("read/c"), Err("No such server.\n"));
        assert_eq!(find("read/#3"), Err("No such server.\n"));
        assert_eq!(find("#3/a"), Err("No such backend.\n"));
        assert_eq!(find("read"), Err("Require 'backend/server'.\n"));
    }
}
