//! What is recorded of each node besides the topology, for operators: its last check, since when it has been in its
//! state, and how long it has been down altogether.

use std::time::Duration;

use parking_lot::Mutex;

use crate::cluster::node::{CheckError, NODES_MAX};
use crate::cluster::topology::NodeView;
use crate::cluster::{Moment, NodeId, Topology};

/// The records of a cluster's nodes, by their numbers.
#[derive(Debug, Default)]
pub struct NodeRecords(Mutex<Vec<NodeRecord>>);

/// The record of a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeRecord {
    name: String,
    health: &'static str,
    role: &'static str,
    /// The check that ended last.
    pub last_check: Option<LastCheck>,
    /// Checks that got no answer.
    pub checks_failed: u64,
    /// Since when its health has had its present label: `up`, `silent`, …
    pub health_since: Moment,
    /// Since when it has had its present role.
    pub role_since: Moment,
    /// How often it stopped answering its checks.
    pub downs: u32,
    down_since: Option<Moment>,
    down_before: Duration,
}

/// The check of a node that ended last.
#[derive(Debug, Clone, PartialEq)]
pub struct LastCheck {
    /// How long it took.
    pub took: Duration,
    /// Why there was no answer, if there was none.
    pub error: Option<CheckError>,
}

impl NodeRecord {
    /// How long it has not answered its checks, altogether.
    pub fn downtime(&self, now: Moment) -> Duration {
        self.down_before + self.down_since.map_or(Duration::ZERO, |since| now - since)
    }

    fn apply_observation(&mut self, node: &NodeView, now: Moment) {
        let health = node.health.label();
        if self.health != health {
            (self.health, self.health_since) = (health, node.health.silent_since().unwrap_or(now));
        }
        let role = node.role_label();
        if self.role != role {
            (self.role, self.role_since) = (role, now);
        }
        let is_down = !node.departed && matches!(health, "silent" | "unreachable");
        match (self.down_since, is_down) {
            (None, true) => {
                self.down_since = Some(self.health_since);
                self.downs += 1;
            }
            (Some(since), false) => {
                self.down_before += now - since;
                self.down_since = None;
            }
            _ => {}
        }
    }
}

impl NodeRecords {
    /// The record of a node.
    pub fn of(&self, node: NodeId) -> NodeRecord {
        self.0.lock().get(node.index()).cloned().unwrap_or_default()
    }

    /// Records a check that has ended.
    pub fn check_ended(&self, node: NodeId, took: Duration, error: Option<CheckError>) {
        if let Some(record) = self.0.lock().get_mut(node.index()) {
            record.checks_failed += u64::from(error.is_some());
            record.last_check = Some(LastCheck { took, error });
        }
    }

    /// Records the states of the nodes. Returns the numbers that are other nodes' than before.
    pub fn apply_observation(&self, topology: &Topology, now: Moment) -> Vec<NodeId> {
        let mut records = self.0.lock();
        let mut replaced = Vec::new();
        for (number, node) in topology.nodes.iter().take(NODES_MAX).enumerate() {
            let is_other = records.get(number).is_none_or(|record| record.name != node.member.name);
            if is_other {
                let record = NodeRecord {
                    name: node.member.name.clone(),
                    health_since: now,
                    role_since: now,
                    ..NodeRecord::default()
                };
                match records.get_mut(number) {
                    Some(place) => {
                        *place = record;
                        replaced.push(NodeId::new(number));
                    }
                    None => records.push(record),
                }
            }
            records[number].apply_observation(node, now);
        }
        replaced
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::fixtures::{at_ms, member, replica};
    use crate::cluster::health::Health;

    fn topology(name: &str, health: Health) -> Topology {
        Topology::unchecked(vec![NodeView { health, ..NodeView::unchecked(Arc::new(member(name))) }])
    }

    fn up(at: u64) -> Health {
        Health::Answering { report: replica(1), asked_at: at_ms(at), since: at_ms(at), missed: 0 }
    }

    fn silent(at: u64) -> Health {
        let (asked_at, since) = (at_ms(at), at_ms(at));
        Health::Silent { report: replica(1), asked_at, since, error: CheckError::TimedOut, risen: 0 }
    }

    #[test]
    fn downtime_adds_up_and_the_state_says_since_when() {
        let (records, node) = (NodeRecords::default(), NodeId::new(0));
        records.apply_observation(&topology("a", up(0)), at_ms(0));
        assert_eq!((records.of(node).downtime(at_ms(900)), records.of(node).downs), (Duration::ZERO, 0));
        records.apply_observation(&topology("a", silent(1000)), at_ms(1000));
        records.apply_observation(&topology("a", silent(1000)), at_ms(2500));
        let record = records.of(node);
        assert_eq!((record.downs, record.health_since), (1, at_ms(1000)));
        assert_eq!(record.downtime(at_ms(3000)), Duration::from_secs(2), "it is still down");
        records.apply_observation(&topology("a", up(3000)), at_ms(3000));
        records.apply_observation(&topology("a", silent(7000)), at_ms(7000));
        let record = records.of(node);
        assert_eq!((record.downs, record.downtime(at_ms(8000))), (2, Duration::from_secs(3)));
    }

    #[test]
    fn a_node_that_never_answered_is_down_and_one_that_was_not_checked_is_not() {
        let (records, node) = (NodeRecords::default(), NodeId::new(0));
        records.apply_observation(&topology("a", Health::UNKNOWN), at_ms(0));
        assert_eq!(records.of(node).downtime(at_ms(500)), Duration::ZERO);
        let refused = Health::Unchecked { error: Some(CheckError::Refused) };
        records.apply_observation(&topology("a", refused), at_ms(500));
        assert_eq!(records.of(node).downtime(at_ms(700)), Duration::from_millis(200));
    }

    #[test]
    fn a_number_that_is_given_to_another_node_starts_again() {
        let (records, node) = (NodeRecords::default(), NodeId::new(0));
        assert_eq!(records.apply_observation(&topology("a", silent(0)), at_ms(0)), []);
        records.check_ended(node, Duration::from_millis(3), Some(CheckError::TimedOut));
        assert_eq!(records.of(node).checks_failed, 1);
        assert_eq!(records.apply_observation(&topology("b", up(10)), at_ms(10)), [node]);
        let record = records.of(node);
        assert_eq!((record.last_check.clone(), record.checks_failed, record.downs), (None, 0, 0));
    }
}
