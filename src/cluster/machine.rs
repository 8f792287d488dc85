//! The cluster's state machine: events and the time go in, actions come out.
//!
//! It reads no clock and opens no socket. Whoever drives it sends the checks it asks for, hands the answers back,
//! publishes the pictures it makes, and calls again at the latest at [`Machine::next_wakeup`].

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::corroboration;
use super::health::{Health, Thresholds};
use super::leadership::{Candidate, Leadership, decide};
use super::moment::Moment;
use super::node::{Claim, Lsn, Member, NODES_MAX, NodeId, Observation, Report};
use super::schedule::Timetable;
use super::topology::{NodeView, Topology};

/// How long checks stay fast after the lead has changed hands.
const SETTLING: Duration = Duration::from_secs(3);

/// A lock holder that is being promoted is asked this many times as often as the fast interval says: it is the one
/// node whose next answer ends the outage.
const PROMOTION_HASTE: u32 = 4;

/// What the machine is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Time between checks of a node while all is quiet.
    pub interval: Duration,
    /// Time between checks while there is no leader, or just after a change.
    pub fast_interval: Duration,
    /// How long a leader's last word counts.
    pub leader_grace: Duration,
    /// Checks it takes to change what is believed of a silent node.
    pub thresholds: Thresholds,
    /// The cluster's Patroni scope, if the operator has named it; nodes of another are refused.
    pub scope: Option<String>,
    /// Spreads checks over time; any number.
    pub seed: u64,
}

/// What can happen to a cluster, as seen from the proxy.
#[derive(Debug)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A check has come to its end.
    Checked(Observation),
    /// A session met something that makes this node's role doubtful: a refusal, a reset, an unexpected end.
    Suspicion(NodeId),
    /// The cluster's members as discovery sees them. Static ones stay, whatever it says.
    Members(Vec<Member>),
}

/// What the driver is to do.
#[derive(Debug)]
pub enum Action {
    /// Send a check to this node now, and hand its observation back with this very moment in it.
    Check {
        /// Whom to ask.
        node: NodeId,
        /// Becomes [`Observation::asked_at`].
        asked_at: Moment,
    },
    /// Make this picture the current one.
    Publish(Arc<Topology>),
    /// Tell the operators.
    Tell(Change),
}

/// A change that operators want to read about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node has taken the lead.
    LeadTaken {
        /// Who led before, however long ago.
        from: Option<NodeId>,
        /// Who leads now.
        to: NodeId,
        /// The new leader's timeline.
        timeline: Option<u32>,
        /// For how long nobody led; from the start of the process if nobody has led before.
        leaderless: Duration,
    },
    /// Nobody leads any more.
    LeadLost {
        /// Who led until now.
        from: NodeId,
        /// What is known of the reason.
        why: String,
    },
    /// Still nobody leads, but the reason is another.
    StillLeaderless {
        /// What is known of the reason.
        why: String,
    },
    /// A node's role or health has changed.
    Node {
        /// Which.
        node: NodeId,
        /// Its standing before, in words.
        from: String,
        /// Its standing now, in words.
        to: String,
    },
}

struct Node {
    view: NodeView,
    timetable: Timetable,
    is_static: bool,
    /// When the first answer of the present, uninterrupted claim to the lead came in.
    claims_since: Option<Moment>,
    /// The newest `asked_at` of any check that has ended; a silence that is older comes too late.
    newest_asked_at: Option<Moment>,
}

/// See the module's documentation.
pub struct Machine {
    settings: Settings,
    nodes: Vec<Node>,
    leadership: Leadership,
    last_leader: Option<NodeId>,
    generation: u64,
    /// When the leader last became doubtful; cleared by a check of it that was sent after.
    doubted_at: Option<Moment>,
    /// Checks stay fast until then.
    settled_at: Moment,
    /// The cluster's system identifier, learnt from the first leader.
    system_identifier: Option<String>,
    /// The end of the WAL as the last leader stated it.
    wal_end: Option<Lsn>,
}

impl Machine {
    /// A machine that knows its static members by name, and of whom nobody leads yet.
    pub fn new(settings: Settings, static_members: Vec<Member>, now: Moment) -> Machine {
        let leadership = Topology::unchecked(Vec::new()).leadership;
        let mut machine = Machine {
            settings,
            nodes: Vec::new(),
            leadership,
            last_leader: None,
            generation: 0,
            doubted_at: None,
            settled_at: now,
            system_identifier: None,
            wal_end: None,
        };
        for member in static_members {
            machine.admit(member, true, now);
        }
        machine
    }

    /// The present picture.
    pub fn topology(&self) -> Topology {
        Topology {
            generation: self.generation,
            leadership: self.leadership.clone(),
            doubted: self.doubted_at.is_some() && self.leadership.leader().is_some(),
            nodes: self.nodes.iter().map(|node| node.view.clone()).collect(),
        }
    }

    /// A node's name and addresses.
    pub fn member(&self, id: NodeId) -> &Arc<Member> {
        &self.nodes[id.0].view.member
    }

    /// Takes an event in at `now` and says what is to be done. `now` must never run backwards.
    pub fn handle(&mut self, event: Event, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        let ended = match &event {
            Event::Checked(observation) => Some((observation.node, observation.asked_at)),
            _ => None,
        };
        let is_news = match event {
            Event::Tick => false,
            Event::Checked(observation) => self.take_in(observation, now, &mut actions),
            Event::Suspicion(node) => self.doubt(node, now),
            Event::Members(members) => self.take_members(members, now, &mut actions),
        };
        let lead_changed = self.reconsider_lead(now, &mut actions);
        if let Some((id, asked_at)) = ended {
            let pace = self.pace_of(id, now);
            self.nodes[id.0].timetable.ended(asked_at, pace);
        }
        self.hasten(now);
        if is_news || lead_changed {
            self.generation += 1;
            actions.push(Action::Publish(Arc::new(self.topology())));
        }
        self.ask_who_is_due(now, &mut actions);
        actions
    }

    /// The latest moment at which to call [`Machine::handle`] again, if nothing happens before.
    pub fn next_wakeup(&self) -> Option<Moment> {
        let next_check = self.present().filter_map(|node| node.timetable.next_due()).min();
        let lapse = self.leadership.leader().and_then(|leader| {
            let asked_at = self.nodes[leader.0].view.health.answer_asked_at()?;
            Some(asked_at + self.settings.leader_grace + Duration::from_millis(1))
        });
        next_check.into_iter().chain(lapse).min()
    }

    fn present(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.view.departed)
    }

    // ---- what comes in -----------------------------------------------------------------------------------

    fn take_in(&mut self, observation: Observation, now: Moment, actions: &mut Vec<Action>) -> bool {
        let Observation { node: id, asked_at, outcome, second_opinion } = observation;
        let leads = self.leadership.leader() == Some(id);
        let node = &self.nodes[id.0];
        // An answer is overtaken by a later answer only: that a later check was in vain takes nothing from it.
        let newest = if outcome.is_ok() { node.view.health.answer_asked_at() } else { node.newest_asked_at };
        if newest.is_some_and(|newest| asked_at < newest) {
            return false;
        }
        // The report then describes the node at some moment after PostgreSQL was asked, not after Patroni was.
        let (outcome, described_at) = match (outcome, second_opinion) {
            (Err(silence), Some(second)) => {
                let known = node.view.health.report().map(Arc::as_ref);
                let settled = corroboration::settle(silence, known, leads, &second.report);
                let described_at = if settled.is_ok() { second.asked_at } else { asked_at };
                (settled.map(Arc::new), described_at)
            }
            (outcome, _) => (outcome, asked_at),
        };
        let foreign = outcome.as_ref().ok().and_then(|report| self.why_foreign(report));

        let node = &mut self.nodes[id.0];
        node.newest_asked_at = node.newest_asked_at.max(Some(asked_at));
        let before = node.view.standing().to_string();
        if outcome.is_ok() {
            node.view.foreign = foreign;
        }
        let health = mem::replace(&mut node.view.health, Health::UNKNOWN);
        node.view.health = health.after(outcome, described_at, now, self.settings.thresholds);
        node.view.checked_at = Some(now);
        node.claims_since = match node.view.claim() {
            Some(Claim::Leader) => node.claims_since.or(Some(now)),
            _ => None,
        };
        let after = node.view.standing().to_string();
        if before != after {
            actions.push(Action::Tell(Change::Node { node: id, from: before, to: after }));
        }
        if leads && self.doubted_at.is_some_and(|doubted| asked_at >= doubted) {
            self.doubted_at = None;
        }
        self.measure_lag(id);
        true
    }

    /// Why a report does not belong to this cluster.
    fn why_foreign(&self, report: &Report) -> Option<String> {
        let differs = |known: &Option<String>, said: &Option<String>| match (known, said) {
            (Some(known), Some(said)) if known != said => Some((known.clone(), said.clone())),
            _ => None,
        };
        if let Some((known, said)) = differs(&self.settings.scope, &report.scope) {
            return Some(format!("belongs to Patroni scope \"{said}\", not \"{known}\""));
        }
        let (known, said) = differs(&self.system_identifier, &report.system_identifier)?;
        Some(format!("has system identifier {said}, the cluster's is {known}"))
    }

    fn doubt(&mut self, id: NodeId, now: Moment) -> bool {
        for node in self.nodes.iter_mut().filter(|node| !node.view.departed) {
            node.timetable.hurry(now);
        }
        let is_leader = self.leadership.leader() == Some(id);
        let is_news = is_leader && self.doubted_at.is_none();
        if is_leader {
            self.doubted_at = Some(now);
        }
        is_news
    }

    fn take_members(&mut self, members: Vec<Member>, now: Moment, actions: &mut Vec<Action>) -> bool {
        let mut changed = false;
        for id in 0..self.nodes.len() {
            let node = &mut self.nodes[id];
            let listed = members.iter().any(|member| member == node.view.member.as_ref());
            // A node that still answers is kept: the list may be stale, the answer is not.
            let answers = matches!(node.view.health, Health::Answering { .. });
            let renamed = members.iter().any(|member| member.name == node.view.member.name) && !listed;
            let leaves = !listed && (renamed || !answers);
            if !node.is_static && !node.view.departed && leaves {
                let from = node.view.standing().to_string();
                node.view.departed = true;
                node.claims_since = None;
                let to = node.view.standing().to_string();
                actions.push(Action::Tell(Change::Node { node: NodeId(id), from, to }));
                changed = true;
            }
        }
        for member in members {
            changed |= self.admit(member, false, now);
        }
        changed
    }

    /// Takes a member in, or back in. False if it is known already, or if there is no place left.
    fn admit(&mut self, member: Member, is_static: bool, now: Moment) -> bool {
        if let Some(id) = self.nodes.iter().position(|node| *node.view.member == member) {
            let node = &mut self.nodes[id];
            let returns = mem::replace(&mut node.view.departed, false);
            if returns {
                node.view = NodeView::unchecked(Arc::clone(&node.view.member));
                node.newest_asked_at = None;
                node.timetable.hurry(now);
            }
            return returns;
        }
        let clashes = self.present().any(|node| node.is_static && node.view.member.name == member.name);
        if clashes || self.nodes.len() == NODES_MAX {
            return false;
        }
        let seed = self.settings.seed.wrapping_add(self.nodes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.nodes.push(Node {
            view: NodeView::unchecked(Arc::new(member)),
            timetable: Timetable::starting(now, seed),
            is_static,
            claims_since: None,
            newest_asked_at: None,
        });
        true
    }

    // ---- what follows from it ------------------------------------------------------------------------------

    fn reconsider_lead(&mut self, now: Moment, actions: &mut Vec<Action>) -> bool {
        let unknown = Health::UNKNOWN;
        let candidates: Vec<Candidate<'_>> = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| !node.view.departed)
            .map(|(id, node)| Candidate {
                id: NodeId(id),
                health: if node.view.foreign.is_some() { &unknown } else { &node.view.health },
                claims_since: node.claims_since,
            })
            .collect();
        let next = decide(&self.leadership, &candidates, now, self.settings.leader_grace);
        if next == self.leadership {
            return false;
        }
        let previous = mem::replace(&mut self.leadership, next);
        if previous.leader() != self.leadership.leader() || !same_kind(&previous, &self.leadership) {
            self.after_change_of_lead(&previous, now, actions);
        }
        true
    }

    fn after_change_of_lead(&mut self, previous: &Leadership, now: Moment, actions: &mut Vec<Action>) {
        self.doubted_at = None;
        self.settled_at = now + SETTLING;
        if let Some(leader) = self.leadership.leader() {
            let report = self.nodes[leader.0].view.health.report();
            if self.system_identifier.is_none() {
                self.system_identifier = report.and_then(|report| report.system_identifier.clone());
            }
            self.measure_lag(leader);
        }
        actions.push(Action::Tell(self.change_since(previous, now)));
        self.last_leader = self.leadership.leader().or(self.last_leader);
    }

    fn change_since(&self, previous: &Leadership, now: Moment) -> Change {
        match (&self.leadership, previous.leader()) {
            (Leadership::Led { leader, timeline, .. }, from) => Change::LeadTaken {
                from: from.or(self.last_leader),
                to: *leader,
                timeline: *timeline,
                leaderless: previous.leaderless_since().map_or(Duration::ZERO, |since| now - since),
            },
            (_, Some(from)) => Change::LeadLost { from, why: self.topology().why_no_leader().unwrap_or_default() },
            (_, None) => Change::StillLeaderless { why: self.topology().why_no_leader().unwrap_or_default() },
        }
    }

    /// Brings lags up to date after an answer of `id`: everybody's after the leader's, else its own.
    fn measure_lag(&mut self, id: NodeId) {
        let position = |node: &Node| node.view.health.report().and_then(|report| report.position);
        let leads = self.leadership.leader() == Some(id);
        if leads {
            self.wal_end = position(&self.nodes[id.0]).or(self.wal_end);
        }
        let wal_end = self.wal_end;
        let concerned = if leads { 0..self.nodes.len() } else { id.0..id.0 + 1 };
        for node in &mut self.nodes[concerned] {
            let is_standby = matches!(node.view.claim(), Some(Claim::Replica | Claim::StandbyLeader));
            node.view.lag_bytes = match (wal_end, position(node)) {
                (Some(Lsn(end)), Some(Lsn(at))) if is_standby => Some(end.saturating_sub(at)),
                _ => None,
            };
        }
    }

    // ---- when to ask ---------------------------------------------------------------------------------------

    fn pace_of(&self, id: NodeId, now: Moment) -> Duration {
        let leader_answers = self
            .leadership
            .leader()
            .is_some_and(|leader| matches!(self.nodes[leader.0].view.health, Health::Answering { missed: 0, .. }));
        if self.nodes[id.0].view.claim() == Some(Claim::LockHolder) {
            self.settings.fast_interval / PROMOTION_HASTE
        } else if leader_answers && self.doubted_at.is_none() && self.settled_at <= now {
            self.settings.interval
        } else {
            self.settings.fast_interval
        }
    }

    /// Brings checks forward where things have become pressing since they were planned.
    fn hasten(&mut self, now: Moment) {
        for id in 0..self.nodes.len() {
            let pace = self.pace_of(NodeId(id), now);
            if pace < self.settings.interval {
                self.nodes[id].timetable.quicken(pace);
            }
        }
    }

    fn ask_who_is_due(&mut self, now: Moment, actions: &mut Vec<Action>) {
        for (id, node) in self.nodes.iter_mut().enumerate().filter(|(_, node)| !node.view.departed) {
            if node.timetable.next_due().is_some_and(|due| due <= now) {
                node.timetable.asked(now);
                actions.push(Action::Check { node: NodeId(id), asked_at: now });
            }
        }
    }
}

fn same_kind(a: &Leadership, b: &Leadership) -> bool {
    match (a, b) {
        (Leadership::Vacant { why: a, .. }, Leadership::Vacant { why: b, .. }) => a == b,
        _ => mem::discriminant(a) == mem::discriminant(b),
    }
}
