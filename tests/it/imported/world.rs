//! What the nodes are, and which of them each listener is for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use toml::Table;

/// More than any `lag_max` of the samples.
const FAR_BEHIND: u64 = 3 << 30;

/// Between the limits of the samples: 16 MB, 32 MB, 64 MB.
const A_LITTLE_BEHIND: [u64; 2] = [20 << 20, 40 << 20];

/// What all clusters are at one time. The first node leads unless something else is said, the second is synchronous and
/// has the tag `zone = "east"`, and the last is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    Calm,
    /// The second node leads, and the first one is synchronous.
    SwitchedOver,
    /// The last node does not answer: neither PostgreSQL nor Patroni.
    LastDown,
    /// The leader does not answer, and no other node leads yet.
    LeaderDown,
    /// The last node's PostgreSQL starts up.
    LastStartsUp,
    /// One replica lags 20 MB, another 40 MB.
    LagALittle,
    /// All replicas lag 3 GB.
    LagFar,
    /// The last node has Patroni's tag `noloadbalance`.
    NoLoadBalance,
    /// No replica is synchronous.
    NobodyIsSynchronous,
    /// The second node is a member of the quorum in place of a synchronous standby.
    Quorum,
    /// All nodes are replicas.
    NobodyLeads,
    /// The cluster is a standby of another one: its leader is a replica, too, and nobody is synchronous.
    StandbyCluster,
    AllDown,
}

impl Scenario {
    /// In an order in which each differs from the one before.
    pub const ALL: [Scenario; 13] = [
        Scenario::Calm,
        Scenario::SwitchedOver,
        Scenario::LastDown,
        Scenario::LagALittle,
        Scenario::LeaderDown,
        Scenario::LastStartsUp,
        Scenario::LagFar,
        Scenario::NoLoadBalance,
        Scenario::NobodyIsSynchronous,
        Scenario::Quorum,
        Scenario::NobodyLeads,
        Scenario::StandbyCluster,
        Scenario::AllDown,
    ];
}

/// A node as the configuration names it.
#[derive(Debug, Clone)]
pub struct Member {
    pub cluster: String,
    pub name: String,
    pub ip: Ipv4Addr,
    pub port: u16,
    /// Where the REST API listens; none if the cluster is checked by SQL.
    pub rest: Option<SocketAddr>,
}

impl Member {
    /// How its PostgreSQL, or the pooler at this port, answers `who`.
    pub fn answer(&self, port: Option<u16>) -> String {
        format!("{} {}:{}", self.cluster, self.name, port.unwrap_or(self.port))
    }
}

/// A node in a scenario.
#[derive(Debug, Clone)]
pub struct Standing {
    pub member: Member,
    pub is_up: bool,
    pub starts_up: bool,
    pub leads: bool,
    pub in_recovery: bool,
    pub sync: bool,
    pub quorum: bool,
    pub in_quorum_mode: bool,
    pub in_standby_cluster: bool,
    pub noloadbalance: bool,
    pub lag: u64,
    pub tags: BTreeMap<String, String>,
    /// The name of the node that has the leader lock.
    pub leader: Option<String>,
}

/// All nodes in a scenario.
#[derive(Debug)]
pub struct World {
    pub scenario: Scenario,
    pub nodes: Vec<Standing>,
}

impl World {
    pub fn new(scenario: Scenario, members: &[Member]) -> World {
        let clusters: BTreeSet<&str> = members.iter().map(|member| member.cluster.as_str()).collect();
        let of = |cluster| members.iter().filter(move |member| member.cluster == cluster).cloned().collect();
        World { scenario, nodes: clusters.into_iter().flat_map(|cluster| standings(scenario, of(cluster))).collect() }
    }
}

/// The nodes of one cluster.
fn standings(scenario: Scenario, members: Vec<Member>) -> Vec<Standing> {
    use Scenario::{
        AllDown, LagALittle, LagFar, LastDown, LastStartsUp, LeaderDown, NoLoadBalance, NobodyIsSynchronous,
        NobodyLeads, Quorum, StandbyCluster, SwitchedOver,
    };
    let last = members.len() - 1;
    let leader = usize::from(scenario == SwitchedOver);
    let leader_name = (scenario != NobodyLeads).then(|| members[leader].name.clone());
    let standing = |(place, member)| {
        let leads = place == leader && scenario != NobodyLeads;
        let is_second = place == 1 - leader;
        let lag = match scenario {
            LagALittle => A_LITTLE_BEHIND[usize::from(!is_second)],
            LagFar => FAR_BEHIND,
            _ => 0,
        };
        Standing {
            member,
            is_up: !match scenario {
                AllDown => true,
                LastDown => place == last,
                LeaderDown => place == leader,
                _ => false,
            },
            starts_up: scenario == LastStartsUp && place == last,
            leads,
            in_recovery: !leads || scenario == StandbyCluster,
            sync: is_second && !leads && ![NobodyIsSynchronous, Quorum, StandbyCluster].contains(&scenario),
            quorum: is_second && !leads && scenario == Quorum,
            in_quorum_mode: scenario == Quorum,
            in_standby_cluster: scenario == StandbyCluster,
            noloadbalance: scenario == NoLoadBalance && place == last,
            lag: if leads { 0 } else { lag },
            tags: if place == 1 { [("zone".to_owned(), "east".to_owned())].into() } else { BTreeMap::new() },
            leader: leader_name.clone(),
        }
    };
    members.into_iter().enumerate().map(standing).collect()
}

impl Standing {
    /// For `nodes.py`.
    pub fn as_json(&self, tls: &Value) -> Option<Value> {
        let role = match (self.leads, self.in_recovery) {
            (true, false) => "primary",
            (true, true) => "standby_leader",
            _ => "replica",
        };
        // the time at which a PostgreSQL was started tells it from all others
        let started = format!("2026-01-01 00:00:{}.{:06}+00:00", self.member.ip.octets()[3], self.member.port);
        Some(json!({
            "started": started, "listen": self.member.rest?, "tls": tls, "up": self.is_up,
            "name": self.member.name, "scope": self.member.cluster, "system": format!("75{}", self.member.cluster.len()),
            "role": role, "state": if self.starts_up { "starting" } else { "running" }, "leader": self.leader,
            "is_sync": self.sync || self.quorum, "quorum_mode": self.in_quorum_mode,
            "in_standby_cluster": self.in_standby_cluster,
            "noloadbalance": self.noloadbalance, "lag": self.lag, "tags": self.tags,
        }))
    }
}

/// A listener of the configuration, as far as it says which nodes it is for.
#[derive(Debug)]
pub struct Listener {
    pub name: String,
    pub binds: Vec<SocketAddr>,
    pub has_allow: bool,
    cluster: Option<String>,
    target: String,
    port: Option<u16>,
    lag_max: u64,
    tags: BTreeMap<String, String>,
}

impl Listener {
    /// Who answers its clients.
    pub fn serves(&self, world: &World) -> BTreeSet<String> {
        self.answers(world, |node| self.is_for(node))
    }

    /// Who answers the clients of one proxy alone.
    pub fn differs(&self, world: &World) -> BTreeSet<String> {
        match world.scenario {
            Scenario::NoLoadBalance => self.answers(world, |node| node.noloadbalance),
            Scenario::Quorum => self.answers(world, |node| node.quorum),
            Scenario::StandbyCluster => self.answers(world, |node| node.leads),
            _ => BTreeSet::new(),
        }
    }

    fn answers(&self, world: &World, is_for: impl Fn(&Standing) -> bool) -> BTreeSet<String> {
        let of_cluster = |node: &&Standing| self.cluster.as_ref().is_none_or(|cluster| *cluster == node.member.cluster);
        let nodes = world.nodes.iter().filter(of_cluster).filter(|node| node.is_up && !node.starts_up && is_for(node));
        nodes.map(|node| node.member.answer(self.port)).collect()
    }

    fn is_for(&self, node: &Standing) -> bool {
        if node.member.rest.is_none() {
            // PostgreSQL itself knows whether it is in recovery, and nothing else
            return (self.target == "leader") != node.in_recovery;
        }
        let leads = node.leads && !node.in_recovery;
        let is_replica = !node.leads
            && !node.noloadbalance
            && node.lag <= self.lag_max
            && self.tags.iter().all(|(tag, value)| node.tags.get(tag) == Some(value));
        match self.target.as_str() {
            "leader" => leads,
            "replica" => is_replica,
            "sync" => is_replica && node.sync,
            "async" => is_replica && !node.sync && !node.quorum,
            "any" => node.leads || is_replica,
            other => panic!("a sample with target {other}: say here which nodes it is for"),
        }
    }
}

/// Those of a configuration.
pub fn listeners(table: &Table) -> Vec<Listener> {
    let listeners = table["listener"].as_array().expect("there are some");
    listeners.iter().map(|listener| read(listener.as_table().expect("is one"))).collect()
}

fn read(listener: &Table) -> Listener {
    let text = |key: &str| listener.get(key).map(|value| value.as_str().expect("is text").to_owned());
    let binds = match &listener["bind"] {
        toml::Value::Array(list) => list.iter().filter_map(toml::Value::as_str).collect(),
        one => vec![one.as_str().expect("is text")],
    };
    let tags = listener.get("tags").and_then(toml::Value::as_table).into_iter().flatten();
    let lag_max = text("lag_max").map_or(u64::MAX, |size| {
        size.strip_suffix("MB").and_then(|size| size.parse::<u64>().ok()).expect("the samples say MB") << 20
    });
    Listener {
        name: text("name").expect("has one"),
        binds: binds.into_iter().map(|bind| bind.parse().expect("an address")).collect(),
        has_allow: listener.contains_key("allow"),
        cluster: text("cluster"),
        target: text("target").expect("is written out"),
        port: listener.get("port").and_then(toml::Value::as_integer).map(|port| port.try_into().expect("a port")),
        lag_max,
        tags: tags.map(|(tag, value)| (tag.clone(), value.as_str().expect("is text").to_owned())).collect(),
    }
}
