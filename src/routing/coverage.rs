//! What operators have to know of a listener's choice: which replicas get no new sessions although their role is right,
//! and whether the leader serves in their place.

use super::eligibility::{self, Eligibility};
use super::pools::Pools;
use super::rule::{Cause, Rule, Target};
use crate::cluster::NodeId;
use crate::cluster::topology::Topology;

/// Who gets a listener's new sessions, as far as that is unusual.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Coverage {
    /// The leader, if new sessions go to it because no standby can serve (`fallback = "leader"`).
    pub fallback: Option<NodeId>,
    /// The nodes that get no new sessions because of a condition of the listener.
    pub excluded: Vec<Excluded>,
}

/// A node that gets no new sessions because of a condition of the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded {
    /// The node.
    pub node: NodeId,
    /// The condition, as text that follows "is".
    pub why: String,
    /// It lags by more than `lag_max` or `lag_max_time`.
    pub is_lag: bool,
}

impl Coverage {
    /// The coverage of a listener with this rule.
    pub fn of(topology: &Topology, rule: &Rule) -> Coverage {
        if rule.target == Target::Leader {
            return Coverage::default();
        }
        let excluded = topology.members().filter_map(|(node, _)| match eligibility::for_reads(topology, node, rule) {
            Eligibility::NotEligible { why, cause: Some(cause @ (Cause::Lag | Cause::Standing)) } => {
                Some(Excluded { node, why, is_lag: cause == Cause::Lag })
            }
            _ => None,
        });
        Coverage { fallback: Pools::new(topology, rule).fallback(), excluded: excluded.collect() }
    }

    /// Whether this node is excluded.
    pub fn excludes(&self, node: NodeId) -> bool {
        self.excluded.iter().any(|excluded| excluded.node == node)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::cluster::fixtures::{at_ms, leader, member, replica};
    use crate::cluster::health::Health;
    use crate::cluster::lag::Lag;
    use crate::cluster::leadership::Leadership;
    use crate::cluster::topology::NodeView;

    #[test]
    fn a_replica_that_lags_is_excluded_and_the_leader_serves_once_all_are() {
        let node = |name, report| NodeView {
            health: Health::Answering { report, asked_at: at_ms(1), since: at_ms(1), missed: 0 },
            ..NodeView::unchecked(Arc::new(member(name)))
        };
        let nodes = vec![node("a", leader(1)), node("b", replica(1)), node("c", replica(1))];
        let leadership = Leadership::Led { leader: NodeId::new(0), timeline: Some(1), since: at_ms(1) };
        let mut topology = Topology { leadership, ..Topology::unchecked(nodes) };
        let rule = Rule { lag_bytes_max: Some(64), ..Rule::new(Target::Replica) };
        assert_eq!(Coverage::of(&topology, &rule), Coverage::default());
        for (lagging, fallback) in [(1, None), (2, Some(NodeId::new(0)))] {
            topology.nodes[lagging].recent_lag = Some(Lag { bytes: 65, time: Duration::ZERO });
            let coverage = Coverage::of(&topology, &rule);
            assert!(coverage.excludes(NodeId::new(lagging)) && coverage.excluded.iter().all(|one| one.is_lag));
            assert_eq!(coverage.fallback, fallback);
        }
        let strict = Rule { falls_back_to_leader: false, ..rule };
        assert_eq!(Coverage::of(&topology, &strict).fallback, None);
        assert_eq!(Coverage::of(&topology, &Rule::new(Target::Leader)), Coverage::default());
    }
}
