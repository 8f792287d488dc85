//! The running sessions: which of them are wanted, and as JSON. `session_page` is the page.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::answer::json;
use super::collect::session;
use super::context::AdminContext;
use super::query::Query;
use super::refusal::Refusal;
use super::session_order::SessionOrder;
use super::status::Session;
use crate::cluster::Topology;
use crate::net::Peer;
use crate::probe::ClusterHandle;
use crate::proxy::sessions::owner::Owner;
use crate::proxy::sessions::session_info::SessionInfo;

/// How many sessions are listed if the request does not say.
const LISTED: usize = 100;

/// How many sessions are listed at most.
pub(super) const LISTED_MAX: usize = 5000;

/// The fields by which sessions are found: names in query strings, and labels on the page.
const FIELDS: [(&str, &str); 9] = [
    ("client", "client (address or network)"),
    ("user", "user"),
    ("database", "database"),
    ("application", "application"),
    ("node", "node"),
    ("state", "state"),
    ("listener", "listener"),
    ("cluster", "cluster"),
    ("session", "session (number)"),
];

/// The fields of which one is needed to close sessions.
const CLOSE_FIELDS: [&str; 7] = ["client", "user", "database", "application", "node", "listener", "session"];

/// Which sessions are wanted: those that match every field that is given.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    fields: [Option<String>; FIELDS.len()],
}

/// A field of a form.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) value: String,
}

impl Wanted {
    pub(super) fn of(query: &Query) -> Wanted {
        Wanted { fields: FIELDS.map(|(name, _)| query.get(name).map(str::to_owned)) }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let place = FIELDS.iter().position(|(known, _)| *known == name)?;
        self.fields[place].as_deref()
    }

    /// The fields, with their values; those without one are empty.
    pub(super) fn fields(&self) -> Vec<Field> {
        let named = FIELDS.iter().zip(&self.fields);
        named.map(|((name, label), value)| Field { name, label, value: value.clone().unwrap_or_default() }).collect()
    }

    /// A link to this path that finds the same sessions.
    pub(super) fn link(&self, path: &str) -> String {
        let fields = FIELDS.iter().zip(&self.fields);
        Query::of(fields.map(|((name, _), value)| (*name, value.as_deref().unwrap_or_default()))).link(path)
    }

    /// Whether it says which sessions to close.
    pub(super) fn can_be_closed(&self) -> bool {
        CLOSE_FIELDS.iter().any(|name| self.get(name).is_some())
    }

    /// Errors: it does not say which sessions to close, or names something that does not exist.
    pub(super) fn check_for_close(&self, context: &AdminContext) -> Result<(), Refusal> {
        if !self.can_be_closed() {
            return Err(Refusal::AllSessions);
        }
        let mut clusters = context.clusters.iter();
        if let Some(name) = self.get("cluster").filter(|name| clusters.all(|cluster| cluster.name() != *name)) {
            return Err(Refusal::UnknownCluster(name.to_owned()));
        }
        if let Some(name) = self.get("listener").filter(|name| !has_listener(context, name)) {
            return Err(Refusal::UnknownListener(name.to_owned()));
        }
        if let Some(id) = self.get("session").filter(|id| !has_session(context, id)) {
            return Err(Refusal::UnknownSession(id.to_owned()));
        }
        let has = |name: &str| {
            context.clusters.iter().any(|cluster| {
                self.get("cluster").is_none_or(|wanted| cluster.name() == wanted)
                    && cluster.topology().nodes.iter().any(|node| node.member.name == name)
            })
        };
        match self.get("node").filter(|name| !has(name)) {
            Some(name) => Err(Refusal::UnknownNode(name.to_owned())),
            None => Ok(()),
        }
    }

    /// Finds the sessions among those that run now.
    pub(super) fn finder<'a>(&'a self, context: &'a AdminContext) -> Finder<'a> {
        let topologies = context.clusters.iter().map(ClusterHandle::topology_full).collect();
        Finder { wanted: self, context, topologies }
    }
}

impl fmt::Display for Wanted {
    /// `user "app", node "node2"`; `all` if no field is given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = FIELDS.iter().zip(&self.fields);
        let given = given.filter_map(|((name, _), value)| Some(format!("{name} {:?}", value.as_ref()?)));
        let given: Vec<String> = given.collect();
        f.write_str(if given.is_empty() { "all" } else { "" })?;
        f.write_str(&given.join(", "))
    }
}

/// Compares sessions with what is wanted.
pub(super) struct Finder<'a> {
    wanted: &'a Wanted,
    context: &'a AdminContext,
    topologies: Vec<Arc<Topology>>,
}

impl Finder<'_> {
    /// Whether the session matches every field.
    pub(super) fn matches(&self, info: &SessionInfo) -> bool {
        let [user, database, application] = info.owner.as_ref().map(Owner::names).unwrap_or_default();
        let cluster = self.cluster_of(info);
        let is = |name: &str, value: &str| self.wanted.get(name).is_none_or(|wanted| wanted == value);
        is("user", user)
            && is("database", database)
            && is("application", application)
            && is("state", info.state())
            && is("node", cluster.map_or("", |(_, topology)| &topology.node(info.node).member.name))
            && is("cluster", cluster.map_or("", |(view, _)| view.name()))
            && is("listener", &info.origin.listener_name)
            && self.wanted.get("session").is_none_or(|wanted| wanted.parse() == Ok(info.id))
            && self
                .wanted
                .get("client")
                .is_none_or(|wanted| info.owner.as_ref().is_some_and(|owner| is_client(owner.client(), wanted)))
    }

    /// The cluster of a session; `None` if a reload has removed it.
    fn cluster_of(&self, info: &SessionInfo) -> Option<(&ClusterHandle, &Topology)> {
        let at = self.context.cluster_numbers.iter().position(|number| *number == info.origin.cluster)?;
        Some((&self.context.clusters[at], &self.topologies[at]))
    }

    /// The first of them in this order, at most `max`, and the number of all.
    pub(super) fn list(&self, order: SessionOrder, max: usize) -> Sessions {
        // the registry has them by age, so that no others are needed for the oldest
        let read_max = if order == SessionOrder::Age { max } else { usize::MAX };
        let (listed, total) = self.context.registry.list(read_max, |info| self.matches(info));
        let mut sessions: Vec<Session> = listed.iter().map(|info| session(self.cluster_of(info), info)).collect();
        order.sort(&mut sessions);
        sessions.truncate(max);
        let listed: HashMap<u64, &SessionInfo> = listed.iter().map(|info| (info.id, info)).collect();
        for session in &mut sessions {
            let why = listed.get(&session.id).and_then(|info| self.context.registry.why_not_again_of(info));
            session.cannot_log_in_again = why.map(|why| why.to_string());
        }
        Sessions { total, sessions }
    }
}

/// Whether there is this listener: in the configuration, or of running sessions that a reload has left without one.
fn has_listener(context: &AdminContext, name: &str) -> bool {
    context.config.listeners.iter().any(|listener| listener.name == name)
        || context.registry.list(0, |info| info.origin.listener_name == name).1 > 0
}

/// Whether a session with this number runs.
fn has_session(context: &AdminContext, id: &str) -> bool {
    id.parse::<u64>().is_ok_and(|id| context.registry.list(0, |info| info.id == id).1 > 0)
}

/// Whether the client is the wanted one: an address, an address with its port, a network, or `unix`.
fn is_client(client: Peer, wanted: &str) -> bool {
    if let Ok(network) = wanted.parse::<IpNet>() {
        return client.ip().is_some_and(|ip| network.contains(&ip));
    }
    match (wanted.parse::<IpAddr>(), wanted.parse::<SocketAddr>()) {
        (Ok(ip), _) => client.ip() == Some(ip.to_canonical()),
        (_, Ok(address)) => client == Peer::from(address),
        _ => client == Peer::Unix && wanted == "unix",
    }
}

/// Sessions, and how many there are.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Sessions {
    /// The number of the sessions that match.
    pub total: usize,
    /// The first of them: the oldest, if no other order was asked for.
    pub sessions: Vec<Session>,
}

/// `GET /api/sessions`.
pub(super) async fn as_json(State(context): State<Arc<AdminContext>>, RawQuery(query): RawQuery) -> Response {
    let query = Query::read(query.as_deref().unwrap_or_default());
    match order(&query) {
        Ok(order) => json(&Wanted::of(&query).finder(&context).list(order, listed(&query))),
        Err(refusal) => refusal.into_response(),
    }
}

/// The order that the query asks for. Errors: there is no such order.
pub(super) fn order(query: &Query) -> Result<SessionOrder, Refusal> {
    let Some(given) = query.get("sort") else { return Ok(SessionOrder::default()) };
    given.parse().map_err(|_| Refusal::UnknownOrder(given.to_owned()))
}

/// How many are to be listed.
pub(super) fn listed(query: &Query) -> usize {
    query.get("max").and_then(|max| max.parse().ok()).unwrap_or(LISTED).min(LISTED_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_found_by_address_by_port_and_by_network() {
        let client = Peer::from("192.0.2.7:5000".parse::<SocketAddr>().expect("an address"));
        for wanted in ["192.0.2.7", "192.0.2.7:5000", "192.0.2.0/24", "::ffff:192.0.2.7"] {
            assert!(is_client(client, wanted), "{wanted}");
        }
        for other in ["192.0.2.70", "192.0.2.7:5001", "192.0.3.0/24", "192.0.2", "unix", ""] {
            assert!(!is_client(client, other), "{other}");
        }
        assert!(is_client(Peer::Unix, "unix") && !is_client(Peer::Unix, "0.0.0.0/0"));
    }

    #[test]
    fn what_is_wanted_is_named_and_a_state_or_a_cluster_alone_closes_nothing() {
        let wanted = |query: &str| Wanted::of(&Query::read(query));
        assert_eq!(wanted("user=app&node=n2&unknown=x").to_string(), "user \"app\", node \"n2\"");
        assert_eq!(wanted("").to_string(), "all");
        assert_eq!(wanted("user=a%26b&max=3").link("/stats/close"), "/stats/close?user=a%26b");
        assert!(!wanted("").can_be_closed() && !wanted("cluster=main&state=open&user=").can_be_closed());
        assert!(wanted("cluster=main&user=app").can_be_closed());
    }
}
