//! The leader changes: when the leader was lost, when that was noticed, which node took over, when the first session
//! came.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use jiff::{Timestamp, Unit};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::metrics::ClusterMetrics;

/// How many changes are kept for each cluster.
const RECORDS_MAX: usize = 50;

/// The previous leader, if there was none since pgvane started.
const NOBODY: &str = "none";

/// One leader change. Times are UTC, durations are milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// When pgvane noticed that there was no leader any more; or when it saw the new leader, if there was no gap.
    pub noticed_at: Timestamp,
    /// The previous leader.
    pub from: String,
    /// Why it is not the leader any more.
    pub reason: String,
    /// The age of the previous leader's last good answer at that time: the leader was lost within this time.
    pub last_seen_ms: Option<u64>,
    /// The new leader; `None` while there is none.
    pub to: Option<String>,
    /// The new leader's timeline.
    pub timeline: Option<u32>,
    /// How long there was no leader.
    pub leaderless_ms: Option<u64>,
    /// The maximum number of connections that were held at the same time.
    pub held_max: usize,
    /// Time from when the new leader was seen until the first session on it was ready.
    pub first_session_ms: Option<u64>,
    #[serde(skip)]
    taken_at: Option<Instant>,
}

/// A cluster's leader changes.
#[derive(Debug)]
pub struct History {
    records: Mutex<VecDeque<Record>>,
    /// Whether the newest record still waits for its first session. If not, sessions need not take the lock.
    awaits_session: AtomicBool,
    metrics: ClusterMetrics,
}

impl History {
    /// Starts without records. Changes are counted in `metrics` as well.
    pub fn new(metrics: ClusterMetrics) -> History {
        History { records: Mutex::default(), awaits_session: AtomicBool::new(false), metrics }
    }

    /// Records that the leader was lost.
    pub fn lead_lost(&self, from: &str, reason: &str, last_seen: Duration) {
        self.metrics.lead_lost();
        self.push(from, reason, Some(millis(last_seen)));
    }

    /// Records a new leader, after a gap or in place of another one.
    pub fn lead_taken(&self, from: &str, to: &str, timeline: Option<u32>, leaderless: Duration) {
        self.metrics.lead_taken(leaderless);
        let is_open = self.records.lock().back().is_some_and(|record| record.to.is_none());
        if !is_open {
            self.push(from, if from == NOBODY { "pgvane started" } else { "another node took the lead" }, None);
        }
        if let Some(record) = self.records.lock().back_mut() {
            record.to = Some(to.to_owned());
            record.timeline = timeline;
            record.leaderless_ms = Some(millis(leaderless));
            record.taken_at = Some(Instant::now());
            self.awaits_session.store(true, Relaxed);
        }
    }

    /// Records the number of connections that are held now.
    pub fn held(&self, held: usize) {
        if let Some(record) = self.records.lock().back_mut().filter(|record| record.to.is_none()) {
            record.held_max = record.held_max.max(held);
        }
    }

    /// Records that a session on the leader is ready.
    pub fn session_ready(&self) {
        if self.awaits_session.load(Relaxed)
            && self.awaits_session.swap(false, Relaxed)
            && let Some(record) = self.records.lock().back_mut()
            && let Some(taken_at) = record.taken_at
        {
            record.first_session_ms = Some(millis(taken_at.elapsed()));
        }
    }

    /// The changes, newest first.
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().iter().rev().cloned().collect()
    }

    /// Puts the changes that another process has seen, oldest first, before its own. The leader that this process found at its
    /// start is no change if it led before.
    pub fn continue_from(&self, before: Vec<Record>) {
        let mut records = self.records.lock();
        let led_before = before.last().and_then(|record| record.to.clone());
        if led_before.is_some() && records.front().is_some_and(|own| own.from == NOBODY && own.to == led_before) {
            records.pop_front();
            self.awaits_session.store(false, Relaxed);
        }
        before.into_iter().rev().for_each(|record| records.push_front(record));
        while records.len() > RECORDS_MAX {
            records.pop_front();
        }
    }

    fn push(&self, from: &str, reason: &str, last_seen_ms: Option<u64>) {
        let noticed_at = Timestamp::now();
        let mut records = self.records.lock();
        if records.len() == RECORDS_MAX {
            records.pop_front();
        }
        records.push_back(Record {
            noticed_at: noticed_at.round(Unit::Millisecond).unwrap_or(noticed_at),
            from: from.to_owned(),
            reason: reason.to_owned(),
            last_seen_ms,
            to: None,
            timeline: None,
            leaderless_ms: None,
            held_max: 0,
            first_session_ms: None,
            taken_at: None,
        });
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::metrics::ProbeMetrics;
    use crate::telemetry::MetricRegistry;

    fn history() -> History {
        History::new(ProbeMetrics::new(&MetricRegistry::default()).cluster("main"))
    }

    #[test]
    fn a_failover_is_one_record_from_loss_to_first_session() {
        let history = history();
        history.lead_lost("a", "a holds the leader lock, but its PostgreSQL is stopping", Duration::from_millis(7));
        history.held(3);
        history.held(1);
        history.lead_taken("a", "b", Some(2), Duration::from_millis(1500));
        history.held(9);
        history.session_ready();
        let [record] = &history.records()[..] else { panic!("one record") };
        assert_eq!((record.from.as_str(), record.to.as_deref()), ("a", Some("b")));
        assert_eq!((record.last_seen_ms, record.leaderless_ms, record.held_max), (Some(7), Some(1500), 3));
        assert!(record.first_session_ms.is_some());
    }

    #[test]
    fn a_change_without_a_gap_is_a_record_too_and_old_ones_are_dropped() {
        let history = history();
        for _ in 0..60 {
            history.lead_taken("a", "b", None, Duration::ZERO);
        }
        assert_eq!(history.records().len(), RECORDS_MAX);
    }
}
