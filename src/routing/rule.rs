//! A listener's rule: to which nodes its sessions go, and what happens to them when that changes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Balance, Rebalance};
use crate::cluster::node::Report;
use crate::cluster::ports::SessionPort;
use crate::cluster::topology::NodeView;

/// The nodes to which a listener routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The node that takes the writes.
    Leader,
    /// Standbys that follow the leader.
    Replica,
    /// Standbys that replicate synchronously, or take part in quorum commit.
    Sync,
    /// Standbys that replicate synchronously; not those that take part in quorum commit.
    SyncOnly,
    /// Standbys that take part in quorum commit.
    Quorum,
    /// Standbys that replicate asynchronously.
    Async,
    /// Standbys and the leader.
    Any,
    /// The leader of a standby cluster.
    StandbyLeader,
}

impl Target {
    /// Every target.
    pub const ALL: [Target; 8] = [
        Target::Leader,
        Target::Replica,
        Target::Sync,
        Target::SyncOnly,
        Target::Quorum,
        Target::Async,
        Target::Any,
        Target::StandbyLeader,
    ];

    /// Its label in the configuration file and on the stats page.
    pub fn label(self) -> &'static str {
        match self {
            Target::Leader => "leader",
            Target::Replica => "replica",
            Target::Sync => "sync",
            Target::SyncOnly => "sync-only",
            Target::Quorum => "quorum",
            Target::Async => "async",
            Target::Any => "any",
            Target::StandbyLeader => "standby-leader",
        }
    }

    /// Whether it means standbys only, so that the leader can only replace them.
    pub fn is_standbys(self) -> bool {
        match self {
            Target::Replica | Target::Sync | Target::SyncOnly | Target::Quorum | Target::Async => true,
            Target::Leader | Target::Any | Target::StandbyLeader => false,
        }
    }
}

/// What happens to a running session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reaction {
    /// It stays.
    Keep,
    /// It ends as soon as no transaction is open, or at the deadline.
    Drain,
    /// It ends now.
    Cut,
}

/// Why a running session may be on the wrong node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The node lost the lead: it says so itself, or another node leads.
    LostLead,
    /// The node's role is no longer the listener's target: a replica was promoted.
    Promotion,
    /// The node lags too far behind.
    Lag,
    /// The node no longer meets another condition: its role in synchronous replication or its tags have changed.
    Standing,
    /// The node does not answer checks.
    Silence,
    /// The node is no longer a member of the cluster.
    Departure,
    /// An operator has taken the node out of service.
    Operator,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Cause; 7] = [
        Cause::LostLead,
        Cause::Promotion,
        Cause::Lag,
        Cause::Standing,
        Cause::Silence,
        Cause::Departure,
        Cause::Operator,
    ];

    /// Its label in the configuration file.
    pub fn label(self) -> &'static str {
        match self {
            Cause::LostLead => "lost_lead",
            Cause::Promotion => "promotion",
            Cause::Lag => "lag",
            Cause::Standing => "standing",
            Cause::Silence => "silence",
            Cause::Departure => "departure",
            Cause::Operator => "operator",
        }
    }

    /// Its rank among causes with the same reaction. A lost lead has the highest rank: its sessions must not write.
    pub fn rank(self) -> u8 {
        (Cause::ALL.len() - 1) as u8 - self as u8
    }

    /// The reason in the client's error message, after "because".
    pub fn reason(self) -> &'static str {
        match self {
            Cause::LostLead => "the server is no longer the leader",
            Cause::Promotion => "the server's role has changed",
            Cause::Lag => "the server lags too far behind the leader",
            Cause::Standing => "the server no longer meets the listener's conditions",
            Cause::Silence => "the server no longer answers its checks",
            Cause::Departure => "the server has left the cluster",
            Cause::Operator => "the server is being taken out of service",
        }
    }
}

/// What happens to running sessions, for each [`Cause`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reactions([Reaction; Cause::ALL.len()]);

impl Default for Reactions {
    /// Sessions on a node that lost the lead are cut. Sessions on a promoted replica, and on a node that an operator
    /// takes out of service, are drained. No other cause ends a session.
    fn default() -> Reactions {
        let mut reactions = Reactions([Reaction::Keep; Cause::ALL.len()]);
        reactions.set(Cause::LostLead, Reaction::Cut);
        reactions.set(Cause::Promotion, Reaction::Drain);
        reactions.set(Cause::Operator, Reaction::Drain);
        reactions
    }
}

impl Reactions {
    /// What happens for this cause.
    pub fn to(&self, cause: Cause) -> Reaction {
        self.0[cause as usize]
    }

    /// Sets what happens for this cause.
    pub fn set(&mut self, cause: Cause, reaction: Reaction) {
        self.0[cause as usize] = reaction;
    }
}

/// A listener's rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The nodes to which it routes.
    pub target: Target,
    /// The port of these nodes that its sessions use.
    pub port: SessionPort,
    /// How sessions are spread over these nodes.
    pub balance: Balance,
    /// Whether the leader serves as long as no standby can.
    pub falls_back_to_leader: bool,
    /// Whether the leader gets its share beside the standbys.
    pub includes_leader: bool,
    /// Nodes with these tags come first, if there are any.
    pub prefer_tags: BTreeMap<String, String>,
    /// Nodes of these names come first.
    pub prefer_nodes: Vec<String>,
    /// Standbys that lag by more bytes than this get no new sessions.
    pub lag_bytes_max: Option<u64>,
    /// Standbys that lag by more time than this get no new sessions.
    pub lag_time_max: Option<Duration>,
    /// Only standbys that stream, not standbys that replay from an archive.
    pub requires_streaming: bool,
    /// Only nodes with these tags in Patroni's configuration.
    pub tags: BTreeMap<String, String>,
    /// The time until a node that has come back gets its full share.
    pub slow_start: Duration,
    /// What happens to running sessions.
    pub reactions: Reactions,
    /// Whether and how running sessions are moved, so that all nodes have their shares again.
    pub rebalance: Option<Rebalance>,
}

impl Rule {
    /// A rule without any condition.
    pub fn new(target: Target) -> Rule {
        Rule {
            target,
            port: None,
            balance: Balance::default(),
            falls_back_to_leader: target.is_standbys(),
            includes_leader: false,
            prefer_tags: BTreeMap::new(),
            prefer_nodes: Vec::new(),
            lag_bytes_max: None,
            lag_time_max: None,
            requires_streaming: false,
            tags: BTreeMap::new(),
            slow_start: Duration::ZERO,
            reactions: Reactions::default(),
            rebalance: None,
        }
    }

    /// Why a node that is in recovery, or is not, is wrong for this rule; `None` if it is right.
    pub fn why_wrong(&self, in_recovery: bool) -> Option<Cause> {
        match self.target {
            Target::Leader if in_recovery => Some(Cause::LostLead),
            Target::Leader | Target::Any => None,
            _ if in_recovery || self.accepts_leader() => None,
            _ => Some(Cause::Promotion),
        }
    }

    /// Whether more than one node may serve.
    pub fn has_alternatives(&self) -> bool {
        !matches!(self.target, Target::Leader | Target::StandbyLeader)
    }

    /// Whether the leader is a right node for a session.
    pub fn accepts_leader(&self) -> bool {
        match self.target {
            Target::Leader | Target::Any => true,
            Target::StandbyLeader => false,
            _ => self.falls_back_to_leader || self.includes_leader,
        }
    }

    /// Whether the leader is one of the nodes that share the sessions.
    pub(super) fn shares_with_leader(&self) -> bool {
        self.target == Target::Any || self.includes_leader
    }

    /// Whether this node comes before others.
    pub(super) fn prefers(&self, node: &NodeView) -> bool {
        let has = |report: &Report| self.prefer_tags.iter().all(|(name, value)| report.tags.get(name) == Some(value));
        let by_tags = || !self.prefer_tags.is_empty() && node.health.report().is_some_and(|report| has(report));
        self.prefer_nodes.contains(&node.member.name) || by_tags()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_reports_at_login_decides_whether_it_is_right() {
        let strict = |target| Rule { falls_back_to_leader: false, ..Rule::new(target) };
        for target in Target::ALL.into_iter().filter(|target| target.is_standbys() || *target == Target::StandbyLeader)
        {
            assert_eq!(strict(target).why_wrong(false), Some(Cause::Promotion), "{}", target.label());
            assert_eq!(strict(target).why_wrong(true), None, "{}", target.label());
        }
        assert_eq!(Rule::new(Target::Replica).why_wrong(false), None, "the leader may serve as the fallback");
        assert_eq!(Rule::new(Target::Leader).why_wrong(true), Some(Cause::LostLead));
        assert_eq!(Rule::new(Target::Leader).why_wrong(false), None);
        assert_eq!([true, false].map(|in_recovery| Rule::new(Target::Any).why_wrong(in_recovery)), [None, None]);
    }
}
