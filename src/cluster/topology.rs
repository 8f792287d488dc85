//! The published topology of a cluster: an immutable snapshot that sessions, metrics and the stats page read.

use std::fmt;
use std::sync::Arc;

use super::admin_state::AdminState;
use super::health::Health;
use super::lag::Lag;
use super::leadership::{self, LeaderlessReason, Leadership, LockSeen};
use super::moment::Moment;
use super::node::{Claim, Member, NodeId};
use super::ports::Ports;

/// What is known of a cluster at one moment.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Grows with every publication.
    pub generation: u64,
    /// The leader, or why there is none.
    pub leadership: Leadership,
    /// When something happened that makes the leader doubtful. `None` once a check of the leader has ended that was
    /// sent after that. New writes wait for such a check, or for one that was sent after they came; sessions stay.
    pub doubted_at: Option<Moment>,
    /// A switchover that is scheduled for later, as text, from Patroni's `/cluster`.
    pub scheduled_switchover: Option<String>,
    /// The nodes; a [`NodeId`] is an index into this. Nodes that have left keep their place.
    pub nodes: Vec<NodeView>,
}

/// One node in the topology.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Name and addresses.
    pub member: Arc<Member>,
    /// What is known of it.
    pub health: Health,
    /// How far a replica is behind the leader, according to the newest answers of both.
    pub lag: Option<Lag>,
    /// The worst lag of the last few seconds. Lag limits are compared with this.
    pub recent_lag: Option<Lag>,
    /// Since when the node has had its present role and has answered: a replica that has just come back starts slowly.
    pub serving_since: Option<Moment>,
    /// Its ports as clients find them.
    pub ports: Ports,
    /// Its administrative state.
    pub admin: AdminState,
    /// The weight that an operator has set, in place of the configured one.
    pub weight_set: Option<u32>,
    /// Why its answers are not accepted: it belongs to another cluster.
    pub foreign: Option<String>,
    /// It is no longer a member of the cluster.
    pub departed: bool,
    /// When the last check of it ended.
    pub checked_at: Option<Moment>,
    /// When the newest of its finished checks was sent, answered or not.
    pub check_asked_at: Option<Moment>,
    /// When its Patroni said that it holds the leader lock, if it has not been known to have lost it since.
    pub lock: Option<LockSeen>,
}

/// Whether a running write session may stay where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriterVerdict {
    /// There is no reason to end it.
    Keep,
    /// The node itself says that it is not the leader.
    LostLead,
    /// Another node leads.
    Superseded(NodeId),
}

impl Topology {
    /// The topology before the first check: only the names of the nodes are known, and there is no leader.
    pub fn unchecked(nodes: Vec<NodeView>) -> Topology {
        let leadership = Leadership::Leaderless { since: Moment::START, why: LeaderlessReason::Unchecked };
        Topology { generation: 0, leadership, doubted_at: None, scheduled_switchover: None, nodes }
    }

    /// The node that leads, whether doubted or not.
    pub fn leader(&self) -> Option<NodeId> {
        self.leadership.leader()
    }

    /// One node. Panics on a number that this cluster never assigned; that would be a bug of the caller.
    pub fn node(&self, id: NodeId) -> &NodeView {
        &self.nodes[id.index()]
    }

    /// The nodes that belong to the cluster now, with their numbers.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &NodeView)> {
        self.nodes.iter().enumerate().map(|(id, node)| (NodeId::new(id), node)).filter(|(_, node)| !node.departed)
    }

    /// Whether a write session on `id` may stay.
    pub fn verdict_on_writers(&self, id: NodeId) -> WriterVerdict {
        match self.leader() {
            Some(leader) if leader == id => WriterVerdict::Keep,
            Some(leader) => WriterVerdict::Superseded(leader),
            None => match self.node(id).claim() {
                Some(claim) if !claim.keeps_writers() => WriterVerdict::LostLead,
                _ => self.lock_taken_from(id).map_or(WriterVerdict::Keep, WriterVerdict::Superseded),
            },
        }
    }

    /// Another node that was seen to hold Patroni's leader lock after `id` was last known to hold it.
    fn lock_taken_from(&self, id: NodeId) -> Option<NodeId> {
        let node = self.node(id);
        node.health.report()?;
        let mut others = self.members().filter(|(other, node)| *other != id && node.foreign.is_none());
        others.find(|(_, holder)| holder.has_taken_lock_from(node)).map(|(other, _)| other)
    }

    /// Whether a new write that came at `arrived_at` has to wait for a check of the leader. One check that was sent after
    /// it came is enough, even if new suspicions came up meanwhile.
    pub fn is_doubted_for(&self, arrived_at: Moment) -> bool {
        let asked_since = |moment: Moment| {
            let checked = self.leader().and_then(|leader| self.node(leader).check_asked_at);
            checked.is_some_and(|asked_at| asked_at >= moment)
        };
        self.doubted_at.is_some_and(|doubted_at| !asked_since(doubted_at)) && !asked_since(arrived_at)
    }

    /// Why there is no leader, as text for people. `None` while there is one, doubted or not.
    pub fn why_no_leader(&self) -> Option<String> {
        let name = |id: &NodeId| &self.node(*id).member.name;
        match &self.leadership {
            Leadership::Led { .. } => None,
            Leadership::Contested { claimants, .. } => {
                let names: Vec<&str> = claimants.iter().map(|id| name(id).as_str()).collect();
                Some(format!("{} claim to be the leader at the same time", names.join(" and ")))
            }
            Leadership::Leaderless { why, .. } => Some(match why {
                LeaderlessReason::Unchecked => "the first checks of the nodes have not finished yet".to_owned(),
                LeaderlessReason::Foreign | LeaderlessReason::Unclaimed | LeaderlessReason::Unreachable
                    if self.foreign_leader().is_some() =>
                {
                    self.foreign_leader().unwrap_or_default()
                }
                LeaderlessReason::Foreign => self.why_all_foreign(),
                LeaderlessReason::Unreachable => "no node answers its checks".to_owned(),
                LeaderlessReason::Unclaimed => "no node claims to be the leader".to_owned(),
                LeaderlessReason::Unlocked(id) => {
                    format!("{} runs as a primary, but does not hold the leader lock", name(id))
                }
                LeaderlessReason::Silent(id) => format!("{} was the leader and no longer answers its checks", name(id)),
                LeaderlessReason::NotReady(id) => match self.node(*id).health.report() {
                    Some(report) if report.state == "running" => {
                        format!("{} holds the leader lock and is being promoted", name(id))
                    }
                    Some(report) => {
                        format!("{} holds the leader lock, but its PostgreSQL is {}", name(id), report.state)
                    }
                    None => format!("{} holds the leader lock, but is not ready", name(id)),
                },
            }),
        }
    }
}

impl Topology {
    /// Why each node that answers is ignored.
    fn why_all_foreign(&self) -> String {
        let why = |node: &NodeView| Some(format!("{}: {}", node.member.name, node.foreign.as_ref()?));
        let all: Vec<String> = self.members().filter_map(|(_, node)| why(node)).collect();
        match all.is_empty() {
            true => "the nodes have not agreed yet on which cluster this is".to_owned(),
            false => format!("every node that answers belongs to another cluster ({})", all.join("; ")),
        }
    }

    /// A foreign node that claims to be the leader, with the reason why it is ignored.
    fn foreign_leader(&self) -> Option<String> {
        self.members().find_map(|(_, node)| {
            let why = node.foreign.as_ref()?;
            let claims = matches!(&node.health, Health::Answering { report, .. } if report.claim == Claim::Leader);
            claims.then(|| format!("{} claims to be the leader, but {why}", node.member.name))
        })
    }
}

impl NodeView {
    /// A node of which only the name is known.
    pub fn unchecked(member: Arc<Member>) -> NodeView {
        NodeView {
            member,
            health: Health::UNKNOWN,
            lag: None,
            recent_lag: None,
            serving_since: None,
            ports: Ports::default(),
            admin: AdminState::Ready,
            weight_set: None,
            foreign: None,
            departed: false,
            checked_at: None,
            check_asked_at: None,
            lock: None,
        }
    }

    /// Its name in Patroni, which reports it from version 4 on. With an older one the configuration must have the same.
    pub fn name_in_patroni(&self) -> &str {
        let reported = self.health.report().and_then(|report| report.name.as_deref());
        reported.unwrap_or(&self.member.name)
    }

    /// Whether the configuration or Patroni calls it so.
    pub fn is_called(&self, name: &str) -> bool {
        self.member.name == name || self.name_in_patroni() == name
    }

    /// Its share of new sessions, relative to the weights of the other nodes.
    pub fn weight(&self) -> u32 {
        self.weight_set.unwrap_or(self.member.weight)
    }

    /// Whether this node was first seen to hold the leader lock after another node last said that it holds it.
    fn has_taken_lock_from(&self, other: &NodeView) -> bool {
        leadership::has_taken_lock(&self.health, self.lock, other.lock)
    }

    /// The claim in the node's newest answer. `None` if it has not answered; out of service if it is foreign.
    pub fn claim(&self) -> Option<Claim> {
        match &self.foreign {
            Some(_) => Some(Claim::OutOfService),
            None => self.health.report().map(|report| report.claim),
        }
    }

    /// Whether its PostgreSQL should be in recovery, as far as known.
    pub fn known_in_recovery(&self) -> Option<bool> {
        match self.claim()? {
            Claim::Leader | Claim::UnlockedPrimary => Some(false),
            Claim::Replica | Claim::StandbyLeader => Some(true),
            Claim::LockHolder | Claim::OutOfService => None,
        }
    }

    /// The label of its role in metrics, logs and the stats page.
    pub fn role_label(&self) -> &'static str {
        match (&self.foreign, self.claim()) {
            (Some(_), _) => "foreign",
            (None, Some(claim)) => claim.label(),
            (None, None) => "unknown",
        }
    }

    /// The standing of a node that was just added.
    pub fn unchecked_summary() -> &'static str {
        "unknown"
    }

    /// All that affects routing, as one line of text for logs.
    pub fn summary(&self) -> Summary<'_> {
        Summary(self)
    }
}

/// A node's role and health as text: `replica`, `leader (silent: no answer in time)`.
pub struct Summary<'a>(&'a NodeView);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.0;
        f.write_str(node.role_label())?;
        if let Some(why) = &node.foreign {
            write!(f, " ({why})")?;
        }
        if let Some(report) = node.health.report()
            && report.state != "running"
        {
            write!(f, ", PostgreSQL {}", report.state)?;
        }
        if let Some(error) = node.health.report().and_then(|report| report.patroni_error.as_ref()) {
            write!(f, " according to PostgreSQL only (Patroni: {error})")?;
        }
        if node.departed {
            f.write_str(", no longer a member")?;
        }
        if let Some(why) = node.admin.why_not_eligible() {
            write!(f, ", {why}")?;
        }
        match &node.health {
            Health::Silent { error, .. } => write!(f, " (silent: {error})"),
            Health::Unchecked { error: Some(error) } => write!(f, " ({error})"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::{at_ms, leader, member, replica, report};
    use crate::cluster::node::Report;

    fn view(name: &str, report: Option<Arc<Report>>) -> NodeView {
        let member = member(name);
        let health = match report {
            Some(report) => Health::Answering { report, asked_at: at_ms(1), since: at_ms(1), missed: 0 },
            None => Health::UNKNOWN,
        };
        NodeView { health, ..NodeView::unchecked(Arc::new(member)) }
    }

    fn leaderless(why: LeaderlessReason) -> Leadership {
        Leadership::Leaderless { since: at_ms(0), why }
    }

    #[test]
    fn writers_stay_until_the_node_says_otherwise_or_another_leads() {
        let nodes = vec![view("a", Some(leader(1))), view("b", Some(replica(1))), view("c", None)];
        let mut topology =
            Topology { leadership: leaderless(LeaderlessReason::Unclaimed), ..Topology::unchecked(nodes) };
        assert_eq!(topology.verdict_on_writers(NodeId::new(0)), WriterVerdict::Keep);
        assert_eq!(topology.verdict_on_writers(NodeId::new(1)), WriterVerdict::LostLead);
        assert_eq!(topology.verdict_on_writers(NodeId::new(2)), WriterVerdict::Keep, "silence says nothing");
        topology.leadership = Leadership::Led { leader: NodeId::new(1), timeline: Some(2), since: at_ms(9) };
        assert_eq!(topology.verdict_on_writers(NodeId::new(0)), WriterVerdict::Superseded(NodeId::new(1)));
        assert_eq!(topology.verdict_on_writers(NodeId::new(1)), WriterVerdict::Keep);
    }

    #[test]
    fn the_reason_for_having_no_leader_names_the_node_and_its_state() {
        let mut stopping = report(Claim::LockHolder, 1);
        stopping.state = "stopping".into();
        let nodes = vec![view("pg1", Some(Arc::new(stopping)))];
        let topology = Topology {
            leadership: leaderless(LeaderlessReason::NotReady(NodeId::new(0))),
            ..Topology::unchecked(nodes)
        };
        let why = topology.why_no_leader().expect("nobody leads");
        assert_eq!(why, "pg1 holds the leader lock, but its PostgreSQL is stopping");
    }
}
