//! What operators have changed, when and under which name: for the stats page and the API. The log has the same as lines.

use std::collections::{BTreeMap, VecDeque};

use jiff::{Timestamp, Unit};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::reloads::{Refused, Reload, RequestedBy};
use super::status::{OperatorAction, SetBy};

/// How many changes are kept.
const ACTIONS_MAX: usize = 50;

/// How many changes of a configuration are named.
const CHANGES_SHOWN: usize = 5;

/// The newest changes, and for each node the newest one of each kind.
#[derive(Debug, Default)]
pub struct OperatorLog(Mutex<Records>);

#[derive(Debug, Default)]
struct Records {
    newest: VecDeque<OperatorAction>,
    of_nodes: BTreeMap<(String, String, NodeSetting), SetBy>,
}

/// Who sent a request, and from where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operator<'a> {
    pub(super) user: &'a str,
    /// The address of the client, or the path of the socket.
    pub(super) from: &'a str,
}

/// All that is recorded, for the process that takes over.
#[derive(Debug, Serialize, Deserialize)]
pub struct WrittenLog {
    /// Newest first.
    newest: VecDeque<OperatorAction>,
    /// Cluster, node and what was set, with who has set it.
    of_nodes: Vec<((String, String, NodeSetting), SetBy)>,
}

/// What operators set of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

    /// Records a reload: what it has changed, or why the file was not accepted.
    pub fn reloaded(&self, by: &RequestedBy, outcome: &Result<Reload, Refused>) {
        let what = match outcome {
            Ok(reload) => format!("configuration reloaded: {}", summary(reload)),
            Err(why) => format!("the changed configuration was not accepted: {}", why.to_string().trim_end()),
        };
        match by {
            RequestedBy::Signal(signal) => self.record("?", signal, what), // any process of the host can send one
            RequestedBy::User { name, peer } => self.record(name, &peer.to_string(), what),
        }
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

    /// All that is recorded.
    pub fn written(&self) -> WrittenLog {
        let records = self.0.lock();
        let of_nodes = records.of_nodes.iter().map(|(setting, by)| (setting.clone(), by.clone())).collect();
        WrittenLog { newest: records.newest.clone(), of_nodes }
    }

    /// Goes on with what another process has recorded.
    pub fn continue_from(&self, written: WrittenLog) {
        let WrittenLog { newest, of_nodes } = written;
        *self.0.lock() = Records { newest, of_nodes: of_nodes.into_iter().collect() };
    }

    /// The changes, newest first.
    pub(super) fn newest(&self) -> Vec<OperatorAction> {
        self.0.lock().newest.iter().cloned().collect()
    }
}

/// The first changes in words, and how many more there are.
fn summary(reload: &Reload) -> String {
    let all: Vec<&str> = reload.changes.iter().chain(&reload.needs_restart).map(String::as_str).collect();
    let shown = all[..all.len().min(CHANGES_SHOWN)].join("; ");
    match all.len() {
        0 => "nothing has changed".to_owned(),
        count if count > CHANGES_SHOWN => format!("{shown}; and {} more", count - CHANGES_SHOWN),
        _ => shown,
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
    fn a_reload_is_recorded_with_its_first_changes_or_its_fault() {
        let log = OperatorLog::default();
        let reload = |count: usize| Reload {
            at: Timestamp::UNIX_EPOCH,
            by: String::new(),
            changes: (0..count).map(|number| format!("key{number}: 1 → 2")).collect(),
            needs_restart: vec!["threads: 1 → 2".to_owned()],
            warnings: Vec::new(),
        };
        let user = RequestedBy::User { name: "ops".to_owned(), peer: ([192, 0, 2, 1], 5).into() };
        log.reloaded(&user, &Ok(reload(1)));
        log.reloaded(&RequestedBy::Signal("SIGHUP"), &Ok(reload(9)));
        log.reloaded(&user, &Err(Refused::Faulty("line 3: no\n".to_owned())));
        let newest = log.newest();
        assert_eq!(newest[2].what, "configuration reloaded: key0: 1 → 2; threads: 1 → 2");
        assert_eq!((newest[2].user.as_str(), newest[2].from.as_str()), ("ops", "192.0.2.1:5"));
        assert!(newest[1].what.ends_with("key4: 1 → 2; and 5 more") && newest[1].from == "SIGHUP", "{newest:?}");
        assert_eq!(newest[0].what, "the changed configuration was not accepted: line 3: no");
    }

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
