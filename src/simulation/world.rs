//! The world of a simulation: nodes that fail, restart, lose their network and change roles, like a real cluster under
//! Patroni, and their answers to checks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::cluster::fixtures::report;
use crate::cluster::node::{CheckError, Claim, Lsn, Observation, Report, SecondOpinion};
use crate::cluster::{Moment, NodeId};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Patroni's lease on the leader lock.
const TTL: Duration = Duration::from_secs(30);

/// Random numbers that a seed repeats.
pub(super) struct Random(Rng);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0.u64(..limit)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// One node as it really is.
pub(super) struct RealNode {
    pub(super) is_primary: bool,
    /// Until when PostgreSQL is starting, or being promoted.
    pub(super) busy_until: Moment,
    pub(super) is_running: bool,
    pub(super) timeline: u32,
    pub(super) position: u64,
    /// When it last renewed the leader lock, as far as it knows.
    pub(super) lock_renewed: Option<Moment>,
    pub(super) sees_dcs: bool,
    /// Paused Patroni keeps the primary running when the DCS is unavailable: then two nodes can claim the lead.
    pub(super) is_paused: bool,
    /// The proxy cannot reach it at all.
    pub(super) is_cut_off: bool,
    /// Its REST API does not answer.
    pub(super) rest_api_hangs: bool,
    /// Replays nothing, and falls behind.
    pub(super) is_stuck: bool,
    /// Until when its Patroni has just been started again, and has not taken its lock yet.
    pub(super) patroni_starts_until: Moment,
    /// A node of another cluster that got into the list. It always claims to lead.
    pub(super) is_foreign: bool,
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Moment,
    pub(super) nodes: Vec<RealNode>,
    pub(super) lock: Option<(NodeId, Moment)>,
    /// If a node's REST API does not answer, its PostgreSQL is asked.
    pub(super) asks_postgresql: bool,
    /// Answers in transit: when they arrive, and their content.
    pub(super) in_transit: BTreeMap<(Moment, u64), Observation>,
    pub(super) sent: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let mut random = Random(Rng::with_seed(seed));
        let count = 2 + random.below(4) as usize;
        let asks_postgresql = random.one_in(2);
        let node = |_| RealNode {
            is_primary: false,
            busy_until: Moment::START,
            is_running: true,
            timeline: 1,
            position: 1000,
            lock_renewed: None,
            sees_dcs: true,
            is_paused: false,
            is_cut_off: false,
            rest_api_hangs: false,
            is_stuck: false,
            patroni_starts_until: Moment::START,
            is_foreign: false,
        };
        let mut nodes: Vec<RealNode> = (0..count).map(node).collect();
        if count > 2 && random.one_in(3) {
            nodes[random.below(count as u64) as usize].is_foreign = true;
        }
        World { random, now: Moment::START, nodes, lock: None, asks_postgresql, in_transit: BTreeMap::new(), sent: 0 }
    }

    pub(super) fn any_node(&mut self) -> usize {
        self.random.below(self.nodes.len() as u64) as usize
    }

    /// Patroni's work on every node: renew, acquire or release the lock.
    pub(super) fn run_patroni(&mut self) {
        let now = self.now;
        if self.lock.is_some_and(|(_, renewed)| now - renewed > TTL) {
            self.lock = None;
        }
        for id in 0..self.nodes.len() {
            let holds = self.lock.is_some_and(|(holder, _)| holder.index() == id);
            let newest_timeline = self.nodes.iter().map(|node| node.timeline).max().unwrap_or(1);
            let newest_position = self.nodes.iter().map(|node| node.position).max().unwrap_or(0);
            let node = &mut self.nodes[id];
            if !node.is_running || node.is_foreign {
                continue;
            }
            if node.sees_dcs && holds && node.is_primary {
                self.lock = Some((NodeId::new(id), now));
                node.lock_renewed = Some(now);
            } else if node.sees_dcs && (holds || self.lock.is_none()) && !node.is_primary {
                self.lock = Some((NodeId::new(id), now));
                node.lock_renewed = Some(now);
                node.is_primary = true;
                node.timeline = newest_timeline + 1;
                node.busy_until = now + self.random.ms(100, 3_000);
            } else if node.is_primary && (node.sees_dcs || !node.is_paused) {
                // without the lock, or unable to renew it for a ttl, a primary steps down
                let lapsed = node.lock_renewed.is_none_or(|renewed| now - renewed > TTL);
                if (node.sees_dcs && !holds) || lapsed {
                    node.is_primary = false;
                    node.lock_renewed = None;
                    node.busy_until = now + self.random.ms(500, 5_000);
                }
            }
            if node.is_primary {
                node.position += self.random.below(10_000);
            } else {
                node.timeline = newest_timeline;
                node.position = if node.is_stuck { node.position } else { newest_position };
            }
        }
    }

    /// One fault begins or ends.
    pub(super) fn begin_or_end_fault(&mut self) {
        let id = self.any_node();
        match self.random.below(15) {
            0 => self.nodes[id].is_cut_off = !self.nodes[id].is_cut_off,
            1 => self.nodes[id].rest_api_hangs = !self.nodes[id].rest_api_hangs,
            2 => self.nodes[id].sees_dcs = !self.nodes[id].sees_dcs,
            3 => self.nodes[id].is_paused = !self.nodes[id].is_paused,
            4 => self.crash(id),
            5 => self.restart(id),
            6 => self.nodes[id].is_stuck = !self.nodes[id].is_stuck,
            // the proxy's machine is suspended: time passes without it
            7 => self.now = self.now + self.random.ms(1_000, 120_000),
            // like a slow `pre_promote`
            9 => self.nodes[id].busy_until = self.now + self.random.ms(4_000, 12_000),
            10 | 11 => self.nodes[id].patroni_starts_until = self.now + self.random.ms(50, 1_000),
            8 => self.nodes[id].busy_until = self.now + self.random.ms(100, 8_000),
            _ => self.switch_over(id),
        }
    }

    pub(super) fn crash(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        (node.is_running, node.is_primary, node.lock_renewed) = (false, false, None);
    }

    pub(super) fn restart(&mut self, id: usize) {
        let starting = self.random.ms(100, 4_000);
        let node = &mut self.nodes[id];
        if !node.is_running {
            (node.is_running, node.busy_until) = (true, self.now + starting);
        }
    }

    pub(super) fn switch_over(&mut self, id: usize) {
        if let Some((holder, _)) = self.lock
            && holder.index() != id
            && self.nodes[holder.index()].sees_dcs
        {
            let stopping = self.random.ms(200, 3_000);
            let old = &mut self.nodes[holder.index()];
            (old.is_primary, old.lock_renewed, old.busy_until) = (false, None, self.now + stopping);
            self.lock = None;
        }
    }

    pub(super) fn end_all_faults(&mut self) {
        for id in 0..self.nodes.len() {
            self.restart(id);
            let node = &mut self.nodes[id];
            (node.is_cut_off, node.rest_api_hangs, node.sees_dcs) = (false, false, true);
            (node.is_paused, node.is_stuck) = (false, false);
        }
    }

    /// A node's answer now; `None` if it cannot be reached.
    pub(super) fn answer(&self, id: usize) -> Option<Report> {
        let node = &self.nodes[id];
        if node.is_cut_off || node.rest_api_hangs || !node.is_running {
            return None;
        }
        if node.is_foreign {
            let system_identifier = Some("another cluster".to_owned());
            return Some(Report { system_identifier, ..report(Claim::Leader, 99) });
        }
        let is_ready = node.busy_until <= self.now;
        let believes_in_lock = node.is_primary && node.lock_renewed.is_some();
        let has_just_started = node.patroni_starts_until > self.now;
        let claim = match (believes_in_lock && !has_just_started, is_ready) {
            (false, true) if node.is_primary && has_just_started => Claim::UnlockedPrimary,
            (true, true) => Claim::Leader,
            (true, false) => Claim::LockHolder,
            (false, true) if !node.is_primary => Claim::Replica,
            _ => Claim::OutOfService,
        };
        Some(Report { position: Some(Lsn(node.position)), ..report(claim, node.timeline) })
    }

    /// The answer of a node's PostgreSQL now; `None` if it cannot be reached.
    pub(super) fn answer_of_postgresql(&self, id: usize) -> Option<Report> {
        let node = &self.nodes[id];
        if !self.asks_postgresql || node.is_cut_off || !node.is_running {
            return None;
        }
        if node.is_foreign {
            let system_identifier = Some("another cluster".to_owned());
            return Some(Report { system_identifier, ..report(Claim::Leader, 99) });
        }
        let claim = match (node.is_primary, node.busy_until <= self.now) {
            (true, true) => Claim::Leader,
            (false, false) => Claim::OutOfService,
            _ => Claim::Replica, // in recovery, being promoted or not
        };
        let answer = report(claim, node.timeline);
        Some(Report { position: Some(Lsn(node.position)), patroni_version: None, holds_lock: false, ..answer })
    }

    /// Receives a check. The answer describes the node at this moment and arrives later, or fails.
    pub(super) fn ask(&mut self, real: usize, node: NodeId, asked_at: Moment) {
        let (outcome, delay) = match self.answer(real) {
            Some(report) if !self.random.one_in(40) => {
                let slow = self.random.one_in(20);
                let delay = if slow { self.random.ms(50, 2_000) } else { self.random.ms(1, 30) };
                (Ok(Arc::new(report)), delay)
            }
            _ if self.random.one_in(2) => (Err(CheckError::Refused), self.random.ms(1, 5)),
            _ => (Err(CheckError::TimedOut), TIMEOUT),
        };
        let second_opinion = match outcome {
            Ok(_) => None,
            Err(_) => {
                self.answer_of_postgresql(real).map(|report| SecondOpinion { asked_at, report: Arc::new(report) })
            }
        };
        self.sent += 1;
        let observation = Observation { node, asked_at, outcome, second_opinion };
        self.in_transit.insert((self.now + delay, self.sent), observation);
    }

    /// The only node that claims to lead, in a world without faults.
    pub(super) fn true_leader(&self) -> Option<usize> {
        let claims = |id: &usize| {
            !self.nodes[*id].is_foreign && self.answer(*id).is_some_and(|report| report.claim == Claim::Leader)
        };
        let mut claimants = (0..self.nodes.len()).filter(claims);
        let first = claimants.next()?;
        claimants.next().is_none().then_some(first)
    }
}
