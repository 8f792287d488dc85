//! The leader changes: when the leader was lost, when that was noticed, which node took over, when the first session
//! came.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use jiff::{Timestamp, Unit};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::metrics::ClusterMetrics;

/// How many changes are kept for each cluster.
const RECORDS_MAX: usize = 50;

/// A session that is carried, or is not, within this time belongs to the newest change.
const SESSIONS_WITHIN: Duration = Duration::from_secs(120);

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
    /// What became of the sessions that were parked for this change.
    #[serde(default, flatten)]
    pub sessions: CarriedSessions,
    #[serde(skip)]
    taken_at: Option<Instant>,
}

/// What became of the parked sessions that lost their server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedSessions {
    /// They were carried to the new leader.
    #[serde(default)]
    pub carried: usize,
    /// The longest time that one of these had no server.
    #[serde(default)]
    pub carried_longest_ms: Option<u64>,
    /// They ended, by reason.
    #[serde(default)]
    pub not_carried: BTreeMap<String, usize>,
}

/// A cluster's leader changes.
#[derive(Debug)]
pub struct History {
    records: Mutex<VecDeque<Record>>,
    /// Whether the newest record still waits for its first session. If not, sessions need not take the lock.
    awaits_session: AtomicBool,
    /// Sessions that ended before the loss of the leader was noticed: its server has closed them first.
    early: Mutex<Option<(Instant, CarriedSessions)>>,
    metrics: ClusterMetrics,
}

impl History {
    /// Starts without records. Changes are counted in `metrics` as well.
    pub fn new(metrics: ClusterMetrics) -> History {
        History { records: Mutex::default(), awaits_session: AtomicBool::new(false), early: Mutex::default(), metrics }
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

    /// Records that a session was carried to the new leader, after this time without a server.
    pub fn session_carried(&self, waited: Duration) {
        self.metrics.session_carried(waited);
        self.note(|sessions| {
            sessions.carried += 1;
            sessions.carried_longest_ms = sessions.carried_longest_ms.max(Some(millis(waited)));
        });
    }

    /// Records that a parked session has lost its server and was not carried.
    pub fn session_not_carried(&self, reason: &str) {
        self.note(|sessions| *sessions.not_carried.entry(reason.to_owned()).or_default() += 1);
    }

    /// To the newest change, if it is recent, and to the next one otherwise.
    fn note(&self, change: impl FnOnce(&mut CarriedSessions)) {
        let mut records = self.records.lock();
        let is_recent = |record: &&mut Record| record.taken_at.is_none_or(|at| at.elapsed() < SESSIONS_WITHIN);
        match records.back_mut().filter(is_recent) {
            Some(record) => change(&mut record.sessions),
            None => {
                let mut early = self.early.lock();
                early.take_if(|(since, _)| since.elapsed() >= SESSIONS_WITHIN);
                change(&mut early.get_or_insert_with(|| (Instant::now(), CarriedSessions::default())).1);
            }
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
        let early = self.early.lock().take();
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
            sessions: early
                .filter(|(since, _)| since.elapsed() < SESSIONS_WITHIN)
                .map(|(_, early)| early)
                .unwrap_or_default(),
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
    fn sessions_belong_to_the_change_for_which_they_were_parked() {
        let history = history();
        history.lead_taken(NOBODY, "a", Some(1), Duration::ZERO);
        if let Some(record) = history.records.lock().back_mut() {
            record.taken_at = Instant::now().checked_sub(SESSIONS_WITHIN);
        }
        history.session_not_carried("state"); // its server has closed it, and no check has seen that yet
        history.lead_lost("a", "stopping", Duration::ZERO);
        history.lead_taken("a", "b", Some(2), Duration::ZERO);
        [1000, 1500, 700].iter().for_each(|ms| history.session_carried(Duration::from_millis(*ms)));
        history.session_not_carried("login");
        let [newest, first] = &history.records()[..] else { panic!("two records") };
        assert_eq!(first.sessions, CarriedSessions::default());
        let not_carried = ["login", "state"].map(|reason| (reason.to_owned(), 1)).into();
        let expected = CarriedSessions { carried: 3, carried_longest_ms: Some(1500), not_carried };
        assert_eq!(newest.sessions, expected);
        let json = serde_json::to_value(newest).expect("is JSON");
        assert_eq!(json["carried"], 3, "flat: {json}");
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
