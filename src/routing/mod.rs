//! Where a new session goes: a pure function of the topology, the listener's rule and the load.

mod balance;

use std::fmt;

pub use balance::Balance;

use crate::cluster::node::{Claim, Report};
use crate::cluster::topology::{NodeView, Topology};
use crate::cluster::{NodeId, health::Health};

/// Which nodes a listener leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The node that takes the writes.
    Leader,
    /// Standbys that follow the leader.
    Replica,
    /// Standbys and the leader alike.
    Any,
}

impl Target {
    /// The word for it in the configuration file and on the stats page.
    pub fn label(self) -> &'static str {
        match self {
            Target::Leader => "leader",
            Target::Replica => "replica",
            Target::Any => "any",
        }
    }
}

/// A listener's rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which nodes it leads to.
    pub target: Target,
    /// How sessions are spread over them.
    pub balance: Balance,
    /// Whether the leader serves while no replica can.
    pub falls_back_to_leader: bool,
    /// Replicas that lag by more bytes than this get no new sessions.
    pub lag_bytes_max: Option<u64>,
}

impl Rule {
    /// Whether a session on a node that leads is in the right place.
    pub fn accepts_leader(&self) -> bool {
        self.target != Target::Replica || self.falls_back_to_leader
    }
}

/// Why there is no node for a session, in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    /// Nobody takes writes.
    NoLeader(String),
    /// No node of the wanted kind serves.
    NoReplica(String),
    /// All that would serve were tried for this session, and failed.
    AllTried,
}

impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoRoute::NoLeader(why) => write!(f, "no leader: {why}"),
            NoRoute::NoReplica(why) => write!(f, "no replica: {why}"),
            NoRoute::AllTried => f.write_str("every node that could serve has failed to answer"),
        }
    }
}

/// The node for a new session, or why there is none.
///
/// `tried` are nodes that have just failed for this very session; `turn` counts the listener's choices; `load` is
/// a node's present number of sessions.
pub fn route(
    topology: &Topology,
    rule: &Rule,
    tried: &[NodeId],
    turn: u64,
    load: impl Fn(NodeId) -> u32,
) -> Result<NodeId, NoRoute> {
    match rule.target {
        Target::Leader => certain_leader(topology, tried),
        Target::Replica | Target::Any => reader(topology, rule, tried, turn, load),
    }
}

fn certain_leader(topology: &Topology, tried: &[NodeId]) -> Result<NodeId, NoRoute> {
    match (topology.leader(), topology.why_no_leader()) {
        (Some(leader), None) if tried.contains(&leader) => Err(NoRoute::AllTried),
        (Some(leader), None) => Ok(leader),
        (_, why) => Err(NoRoute::NoLeader(why.unwrap_or_default())),
    }
}

/// Pools in order of preference: those that answer and are fresh, the leader where it may stand in, those that
/// have fallen silent. The first pool with anybody in it is used.
fn reader(
    topology: &Topology,
    rule: &Rule,
    tried: &[NodeId],
    turn: u64,
    load: impl Fn(NodeId) -> u32,
) -> Result<NodeId, NoRoute> {
    let mut fresh = Vec::with_capacity(topology.nodes.len());
    let mut silent = Vec::new();
    let leader = topology.leader();
    for (id, node) in topology.members().filter(|(id, _)| !tried.contains(id)) {
        let is_leader = leader == Some(id);
        match standing_for_reads(node, rule) {
            _ if is_leader && rule.target == Target::Any => fresh.push(id),
            Standing::Fresh if !is_leader => fresh.push(id),
            Standing::Silent if !is_leader => silent.push(id),
            _ => {}
        }
    }
    let stand_in: &[NodeId] = match &leader {
        Some(leader) if rule.falls_back_to_leader && !tried.contains(leader) => std::slice::from_ref(leader),
        _ => &[],
    };
    [fresh.as_slice(), stand_in, silent.as_slice()]
        .into_iter()
        .find_map(|pool| rule.balance.pick(pool, turn, &load))
        .ok_or_else(|| {
            if tried.is_empty() { NoRoute::NoReplica(why_no_reader(topology, rule)) } else { NoRoute::AllTried }
        })
}

enum Standing {
    Fresh,
    Silent,
    Unfit(&'static str),
}

fn standing_for_reads(node: &NodeView, rule: &Rule) -> Standing {
    if node.claim() != Some(Claim::Replica) {
        return Standing::Unfit(node.role_label());
    }
    if node.health.report().is_some_and(|report: &std::sync::Arc<Report>| report.asks_for_no_reads()) {
        return Standing::Unfit("tagged noloadbalance");
    }
    match (&node.health, rule.lag_bytes_max, node.lag_bytes) {
        (Health::Unchecked { .. }, ..) => Standing::Unfit("unchecked"),
        (_, Some(max), Some(lag)) if lag > max => Standing::Unfit("lagging"),
        (Health::Answering { .. }, ..) => Standing::Fresh,
        (Health::Silent { .. }, ..) => Standing::Silent,
    }
}

fn why_no_reader(topology: &Topology, rule: &Rule) -> String {
    let reasons: Vec<String> = topology
        .members()
        .map(|(id, node)| {
            let why = match standing_for_reads(node, rule) {
                Standing::Unfit(why) => why,
                _ if topology.leader() == Some(id) => "leader",
                Standing::Fresh | Standing::Silent => "failed to answer",
            };
            format!("{} is {why}", node.member.name)
        })
        .collect();
    if reasons.is_empty() { "no node is known".to_owned() } else { reasons.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::fixtures::{at_ms, leader, replica, report};
    use crate::cluster::leadership::Leadership;
    use crate::cluster::node::{Member, Silence};

    const READ: Rule = Rule {
        target: Target::Replica,
        balance: Balance::RoundRobin,
        falls_back_to_leader: true,
        lag_bytes_max: Some(64),
    };
    const WRITE: Rule =
        Rule { target: Target::Leader, balance: Balance::RoundRobin, falls_back_to_leader: false, lag_bytes_max: None };

    fn node(report: Option<Arc<Report>>) -> NodeView {
        let member = Member { name: "n".into(), address: "h:1".into(), patroni_url: "http://h:2".into() };
        let health = match report {
            Some(report) => Health::Answering { report, asked_at: at_ms(1), since: at_ms(1), missed: 0 },
            None => Health::UNKNOWN,
        };
        NodeView { health, ..NodeView::unchecked(Arc::new(member)) }
    }

    /// A leader and two replicas, in this order.
    fn three() -> Topology {
        let nodes = vec![node(Some(leader(1))), node(Some(replica(1))), node(Some(replica(1)))];
        let leadership = Leadership::Led { leader: NodeId(0), timeline: Some(1), since: at_ms(1) };
        Topology { leadership, ..Topology::unchecked(nodes) }
    }

    fn readers(topology: &Topology, rule: &Rule, tried: &[NodeId]) -> Vec<NodeId> {
        (0..4).filter_map(|turn| route(topology, rule, tried, turn, |_| 0).ok()).collect()
    }

    fn silence(topology: &mut Topology, id: usize) {
        let report = Arc::clone(topology.nodes[id].health.report().expect("has answered"));
        let silence = Silence::TimedOut;
        topology.nodes[id].health = Health::Silent { report, asked_at: at_ms(1), since: at_ms(2), silence, risen: 0 };
    }

    #[test]
    fn writes_go_to_the_leader_unless_it_is_doubted() {
        let mut topology = three();
        assert_eq!(route(&topology, &WRITE, &[], 0, |_| 0), Ok(NodeId(0)));
        topology.doubted = true;
        assert!(matches!(route(&topology, &WRITE, &[], 0, |_| 0), Err(NoRoute::NoLeader(_))));
    }

    #[test]
    fn reads_spread_over_replicas_and_leave_the_leader_alone() {
        assert_eq!(readers(&three(), &READ, &[]), [NodeId(1), NodeId(2), NodeId(1), NodeId(2)]);
    }

    #[test]
    fn a_lagging_or_untouchable_replica_gets_nothing_new() {
        let mut topology = three();
        topology.nodes[1].lag_bytes = Some(65);
        let mut shy = report(Claim::Replica, 1);
        shy.tags.insert("noloadbalance".into(), "true".into());
        topology.nodes[2] = node(Some(Arc::new(shy)));
        assert_eq!(readers(&topology, &READ, &[])[0], NodeId(0), "the leader stands in");
        let strict = Rule { falls_back_to_leader: false, ..READ };
        let Err(refusal) = route(&topology, &strict, &[], 0, |_| 0) else { panic!("nobody is fit") };
        assert_eq!(refusal.to_string(), "no replica: n is leader, n is lagging, n is tagged noloadbalance");
    }

    #[test]
    fn silent_replicas_serve_only_when_nobody_else_can() {
        let mut topology = three();
        silence(&mut topology, 1);
        assert_eq!(readers(&topology, &READ, &[]), [NodeId(2); 4]);
        silence(&mut topology, 2);
        assert_eq!(readers(&topology, &READ, &[]), [NodeId(0); 4]);
        let strict = Rule { falls_back_to_leader: false, ..READ };
        assert_eq!(readers(&topology, &strict, &[])[..2], [NodeId(1), NodeId(2)]);
    }

    #[test]
    fn nodes_that_failed_this_session_are_passed_over() {
        assert_eq!(readers(&three(), &READ, &[NodeId(1)]), [NodeId(2); 4]);
        let all = [NodeId(0), NodeId(1), NodeId(2)];
        assert_eq!(route(&three(), &READ, &all, 0, |_| 0), Err(NoRoute::AllTried));
    }

    #[test]
    fn any_takes_leader_and_replicas_alike() {
        let any = Rule { target: Target::Any, ..READ };
        assert_eq!(readers(&three(), &any, &[])[..3], [NodeId(0), NodeId(1), NodeId(2)]);
    }

    #[test]
    fn nothing_is_open_before_the_first_check() {
        let topology = Topology::unchecked(vec![node(None), node(None)]);
        assert!(route(&topology, &WRITE, &[], 0, |_| 0).is_err());
        assert!(route(&topology, &READ, &[], 0, |_| 0).is_err());
    }
}
