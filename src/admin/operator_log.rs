//! What operators have changed, when and under which name: for the stats page and the API. The log has the same as lines.

use std::collections::{BTreeMap, VecDeque};

use jiff::{Timestamp, Unit};
use parking_lot::Mutex;

use super::status::{OperatorAction, SetBy};

/// How many changes are kept.
const ACTIONS_MAX: usize = 50;

/// The newest changes, and for each node the newest one of each kind.
#[derive(Debug, Default)]
pub struct OperatorLog(Mutex<Records>);

#[derive(Debug, Default)]
struct Records {
    newest: VecDeque<OperatorAction>,
    of_nodes: BTreeMap<(String, String, NodeSetting), SetBy>,
}

/// What operators set of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NodeSetting {
    /// Its administrative state.
    State,
    /// Its weight.
    Weight,
}

impl OperatorLog {
    /// Records a change that this user has made from this address; `what` is a sentence.
    pub fn record(&self, user: &str, from: &str, what: String) {
        let action = OperatorAction { at: now(), user: user.to_owned(), from: from.to_owned(), what };
        let newest = &mut self.0.lock().newest;
        newest.truncate(ACTIONS_MAX - 1);
        newest.push_front(action);
    }

    /// Records who has set something of a node.
    pub(super) fn set(&self, cluster: &str, node: &str, setting: NodeSetting, user: &str) {
        let by = SetBy { user: user.to_owned(), at: now() };
        self.0.lock().of_nodes.insert((cluster.to_owned(), node.to_owned(), setting), by);
    }

    /// Who has set this of a node.
    pub(super) fn who_set(&self, cluster: &str, node: &str, setting: NodeSetting) -> Option<SetBy> {
        self.0.lock().of_nodes.get(&(cluster.to_owned(), node.to_owned(), setting)).cloned()
    }

    /// The changes, newest first.
    pub(super) fn newest(&self) -> Vec<OperatorAction> {
        self.0.lock().newest.iter().cloned().collect()
    }
}

fn now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_changes_are_kept_and_each_node_knows_who_set_it() {
        let log = OperatorLog::default();
        (0..60).for_each(|number| log.record("ops", "192.0.2.1:5", format!("change {number}")));
        let newest = log.newest();
        assert_eq!((newest.len(), newest[0].what.as_str()), (ACTIONS_MAX, "change 59"));
        log.set("main", "node1", NodeSetting::State, "ops");
        log.set("main", "node1", NodeSetting::State, "bot");
        let user = |setting| log.who_set("main", "node1", setting).map(|by| by.user);
        assert_eq!((user(NodeSetting::State).as_deref(), user(NodeSetting::Weight)), (Some("bot"), None));
    }
}
