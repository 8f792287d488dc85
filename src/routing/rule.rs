//! A listener's rule: where its sessions go, and what becomes of them when that changes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Balance, Rebalance};

/// Which nodes a listener leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The node that takes the writes.
    Leader,
    /// Standbys that follow the leader.
    Replica,
    /// Standbys that replicate synchronously, or take part in quorum commit.
    Sync,
    /// Standbys that do not.
    Async,
    /// Standbys and the leader alike.
    Any,
    /// The leader of a standby cluster.
    StandbyLeader,
}

impl Target {
    /// Every target.
    pub const ALL: [Target; 6] =
        [Target::Leader, Target::Replica, Target::Sync, Target::Async, Target::Any, Target::StandbyLeader];

    /// The word for it in the configuration file and on the stats page.
    pub fn label(self) -> &'static str {
        match self {
            Target::Leader => "leader",
            Target::Replica => "replica",
            Target::Sync => "sync",
            Target::Async => "async",
            Target::Any => "any",
            Target::StandbyLeader => "standby-leader",
        }
    }

    /// Whether it names standbys only, so that the leader is at best a stand-in.
    pub fn is_standbys(self) -> bool {
        matches!(self, Target::Replica | Target::Sync | Target::Async)
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

/// Why a running session may be in the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The node lost the lead, by its own word or because another leads.
    LostLead,
    /// The node's role is no longer the one that the listener leads to: a replica was promoted.
    Promotion,
    /// The node lags too far behind.
    Lag,
    /// The node is no longer fit in another way: its sync standing or its tags have changed.
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

    /// The word for it in the configuration file.
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

    /// Its rank among causes with the same reaction: a lost lead outranks all others, for its sessions must not write.
    pub fn rank(self) -> u8 {
        (Cause::ALL.len() - 1) as u8 - self as u8
    }

    /// What the client is told, after "because".
    pub fn reason(self) -> &'static str {
        match self {
            Cause::LostLead => "the server is no longer the leader",
            Cause::Promotion => "the server's role has changed",
            Cause::Lag => "the server lags too far behind the leader",
            Cause::Standing => "the server no longer meets the listener's conditions",
            Cause::Silence => "the server's state is unknown",
            Cause::Departure => "the server has left the cluster",
            Cause::Operator => "the server is being taken out of service",
        }
    }
}

/// What happens to running sessions, for each [`Cause`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reactions([Reaction; Cause::ALL.len()]);

impl Default for Reactions {
    /// A session on a node that lost the lead is cut, one on a promoted replica drained, and one on a node that an
    /// operator takes out of service too; nothing else ends a session.
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

    /// Determines what happens for this cause.
    pub fn set(&mut self, cause: Cause, reaction: Reaction) {
        self.0[cause as usize] = reaction;
    }
}

/// A listener's rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which nodes it leads to.
    pub target: Target,
    /// How sessions are spread over them.
    pub balance: Balance,
    /// Whether the leader serves while no standby can.
    pub falls_back_to_leader: bool,
    /// Standbys that lag by more bytes than this get no new sessions.
    pub lag_bytes_max: Option<u64>,
    /// Standbys that lag by more time than this get no new sessions.
    pub lag_time_max: Option<Duration>,
    /// Only standbys that stream; not those that replay from an archive.
    pub requires_streaming: bool,
    /// Only nodes with these tags in Patroni's configuration.
    pub tags: BTreeMap<String, String>,
    /// How long a node that has come back takes to get its full share.
    pub slow_start: Duration,
    /// What happens to running sessions.
    pub reactions: Reactions,
    /// Whether running sessions are moved so that nodes carry their shares again, and how.
    pub rebalance: Option<Rebalance>,
}

impl Rule {
    /// A rule without any condition.
    pub fn new(target: Target) -> Rule {
        Rule {
            target,
            balance: Balance::default(),
            falls_back_to_leader: target.is_standbys(),
            lag_bytes_max: None,
            lag_time_max: None,
            requires_streaming: false,
            tags: BTreeMap::new(),
            slow_start: Duration::ZERO,
            reactions: Reactions::default(),
            rebalance: None,
        }
    }

    /// Why a node that is in recovery, or is not, will not do; `None` if it may.
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

    /// Whether a session on the leader is in the right place.
    pub fn accepts_leader(&self) -> bool {
        match self.target {
            Target::Leader | Target::Any => true,
            Target::Replica | Target::Sync | Target::Async => self.falls_back_to_leader,
            Target::StandbyLeader => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_word_at_login_decides_whether_it_will_do() {
        let strict = |target| Rule { falls_back_to_leader: false, ..Rule::new(target) };
        for target in [Target::Replica, Target::Sync, Target::Async, Target::StandbyLeader] {
            assert_eq!(strict(target).why_wrong(false), Some(Cause::Promotion), "{}", target.label());
            assert_eq!(strict(target).why_wrong(true), None, "{}", target.label());
        }
        assert_eq!(Rule::new(Target::Replica).why_wrong(false), None, "the leader may stand in");
        assert_eq!(Rule::new(Target::Leader).why_wrong(true), Some(Cause::LostLead));
        assert_eq!(Rule::new(Target::Leader).why_wrong(false), None);
        assert_eq!([true, false].map(|word| Rule::new(Target::Any).why_wrong(word)), [None, None]);
    }
}
