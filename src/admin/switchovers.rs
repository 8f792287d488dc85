//! The switchovers that operators have asked for here: the newest of each cluster, and how far it is.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// A switchover that an operator has asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Switchover {
    /// The user who has asked for it.
    pub by: String,
    /// When.
    pub asked_at: Timestamp,
    /// The node that led then.
    pub from: String,
    /// The node that is to lead; Patroni chooses if `None`.
    pub to: Option<String>,
    /// How far it is.
    pub phase: Phase,
    /// The same in words.
    pub text: String,
}

impl fmt::Display for Switchover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Switchover { by, asked_at, from, to, text, .. } = self;
        let to = to.as_deref().unwrap_or("a node of Patroni's choice");
        write!(f, "switchover from {from} to {to}, asked for by {by} at {}: {text}", asked_at.strftime("%F %T UTC"))
    }
}

/// How far a switchover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The write sessions are being parked.
    Parking,
    /// Patroni has been asked.
    Asked,
    /// Another node leads. It is over.
    Done,
    /// Nothing came of it, and the sessions go on. It is over.
    Refused,
    /// It is not known whether something comes of it: the sessions stay parked until a node leads, at most for `park_max`.
    /// It is over for pgvane.
    Unknown,
}

impl Phase {
    /// Whether nothing more happens.
    pub fn is_over(self) -> bool {
        match self {
            Phase::Parking | Phase::Asked => false,
            Phase::Done | Phase::Refused | Phase::Unknown => true,
        }
    }
}

/// The newest switchover of each cluster, by the cluster's name.
#[derive(Debug, Default)]
pub struct Switchovers(Mutex<BTreeMap<String, Switchover>>);

impl Switchovers {
    /// Begins one. Errors: the one that is not over.
    pub(super) fn begin(&self, cluster: &str, switchover: Switchover) -> Result<(), Switchover> {
        let mut newest = self.0.lock();
        match newest.get(cluster) {
            Some(running) if !running.phase.is_over() => Err(running.clone()),
            _ => {
                newest.insert(cluster.to_owned(), switchover);
                Ok(())
            }
        }
    }

    /// Says how far the newest one is.
    pub(super) fn advance(&self, cluster: &str, phase: Phase, text: String) {
        if let Some(newest) = self.0.lock().get_mut(cluster) {
            (newest.phase, newest.text) = (phase, text);
        }
    }

    /// The newest one of a cluster.
    pub(super) fn newest(&self, cluster: &str) -> Option<Switchover> {
        self.0.lock().get(cluster).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_switchover_at_a_time_is_in_progress_in_each_cluster() {
        let switchover = |from: &str| Switchover {
            by: "ops".to_owned(),
            asked_at: Timestamp::UNIX_EPOCH,
            from: from.to_owned(),
            to: None,
            phase: Phase::Parking,
            text: String::new(),
        };
        let all = Switchovers::default();
        assert_eq!(all.begin("main", switchover("a")), Ok(()));
        all.advance("main", Phase::Asked, "Patroni has been asked".to_owned());
        let running = all.begin("main", switchover("b")).expect_err("one is in progress");
        assert_eq!((running.from.as_str(), running.text.as_str()), ("a", "Patroni has been asked"));
        assert_eq!(all.begin("other", switchover("b")), Ok(()));
        for over in [Phase::Done, Phase::Refused, Phase::Unknown] {
            all.advance("main", over, String::new());
            assert_eq!(all.begin("main", switchover("c")), Ok(()));
        }
    }
}
