//! The cluster's state machine: events and the time go in, actions come out.
//!
//! It reads no clock and opens no socket. Its driver sends the checks that it requests, passes the answers back,
//! publishes its topologies, and calls again at [`Machine::next_wakeup`] at the latest.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::admin_state::AdminState;
use super::corroboration;
use super::health::{Health, Thresholds};
use super::identity::{Identity, Vote};
use super::lag::Lag;
use super::leadership::{Candidate, Leadership, decide};
use super::moment::Moment;
use super::node::{Claim, Lsn, Member, NodeId, NodeSet, Observation, Report};
use super::ports::SessionPort;
use super::roster::{Entry, LoginHint, Roster};
use super::suspicion::Suspicion;
use super::topology::{NodeView, Topology};

/// How long checks stay fast after a change of leader.
const SETTLING: Duration = Duration::from_secs(3);

/// Suspicions of one kind may cause a check of a node at this interval in the long run, even if the regular checks are
/// rarer.
const SUSPICION_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// A lock holder that is being promoted is checked this many times per fast interval: its next answer ends the outage.
const PROMOTION_HASTE: u32 = 4;

/// The settings of the machine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Time between checks of a node in normal operation.
    pub interval: Duration,
    /// Time between checks while there is no leader, or just after a change.
    pub fast_interval: Duration,
    /// How long a leader's last answer is valid.
    pub leader_grace: Duration,
    /// The number of checks until a node counts as silent, or as answering again.
    pub thresholds: Thresholds,
    /// The cluster's Patroni scope, if the operator has named it. Nodes of another scope are refused.
    pub scope: Option<String>,
    /// Spreads checks over time. Any number.
    pub seed: u64,
}

/// What can happen to a cluster, as the proxy sees it.
#[derive(Debug)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A check has ended.
    Checked(Observation),
    /// Something happened in a session that makes this node's role doubtful.
    Suspicion(NodeId, Suspicion),
    /// A client got no session on this port of the node; with the reason. Other clients try it last for a while. It may
    /// be a suspicion too.
    Failure(NodeId, SessionPort, String, Option<Suspicion>),
    /// A client got a session on this port of the node, where other clients had failed.
    Served(NodeId, SessionPort),
    /// A node reported at a login on this port whether it is in recovery, and its checks say the opposite. A newer check
    /// has to decide.
    LoginHint(NodeId, SessionPort, bool),
    /// pgvane was suspended: what it knows may be as old as the suspension.
    Overslept,
    /// The result of discovery, and which nodes have sessions.
    Discovered(Discovery, NodeSet),
    /// An operator has set the administrative state of a node.
    Administered(NodeId, AdminState),
    /// An operator has set the weight of a node, or wants the configured one again.
    Weighed(NodeId, Option<u32>),
    /// The configuration has changed.
    Reconfigured(Reconfigured),
}

/// A changed configuration of a cluster.
#[derive(Debug, Clone)]
pub struct Reconfigured {
    /// The new settings; the seed stays as it was.
    pub settings: Settings,
    /// The nodes that the operator names now.
    pub members: Vec<Member>,
    /// Whether members that the operator does not name are found. If not, only the named ones stay.
    pub discovers: bool,
    /// Which nodes have sessions.
    pub busy: NodeSet,
}

/// The cluster as its DCS describes it.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    /// The members. Static ones stay even if they are not listed.
    pub members: Vec<Member>,
    /// The reports of the REST APIs that the operator has named. If the operator has named no nodes, these reports
    /// decide which cluster is meant.
    pub named: Vec<Arc<Report>>,
    /// A switchover that is scheduled for later, as text.
    pub scheduled_switchover: Option<String>,
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Action {
    /// Send a check to this node now, and pass its observation back with this moment in it.
    Check {
        /// The node to check.
        node: NodeId,
        /// Becomes [`Observation::asked_at`].
        asked_at: Moment,
    },
    /// Make this topology the current one.
    Publish(Arc<Topology>),
    /// Report this change to the operators.
    Tell(Change),
}

/// A change that is reported to operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node has become the leader.
    LeadTaken {
        /// The leader before, even if that is long ago.
        from: Option<NodeId>,
        /// The leader now.
        to: NodeId,
        /// The new leader's timeline.
        timeline: Option<u32>,
        /// How long there was no leader; since the start of the process if there was none before.
        leaderless: Duration,
    },
    /// There is no leader any more.
    LeadLost {
        /// The leader until now.
        from: NodeId,
        /// The reason, as far as known.
        why: String,
        /// The age of the leader's last good answer: the lead was really lost within this time.
        last_seen: Duration,
        /// Several nodes claim the lead.
        is_contested: bool,
    },
    /// There is still no leader, for another reason.
    StillLeaderless {
        /// The reason, as far as known.
        why: String,
        /// Several nodes claim the lead.
        is_contested: bool,
    },
    /// Clients get no session on this node, although its checks may be answered.
    PortFailed {
        /// The node.
        node: NodeId,
        /// The port.
        port: SessionPort,
        /// Why.
        why: String,
    },
    /// Clients get sessions on this node again.
    PortRestored {
        /// The node.
        node: NodeId,
        /// The port.
        port: SessionPort,
        /// How long they got none.
        after: Duration,
    },
    /// There are more nodes than pgvane can manage: this member is ignored.
    NoRoom {
        /// Its name.
        name: String,
    },
    /// The nodes agree on another system identifier than before: the cluster was created again.
    Rebuilt {
        /// The system identifier until now.
        from: String,
        /// The system identifier now.
        to: String,
    },
    /// A newer check has refuted what a node reports at logins about recovery: there is a pooler in front of it.
    LoginHintRefuted {
        /// The node.
        node: NodeId,
    },
    /// A node's role or health has changed.
    Node {
        /// The node.
        node: NodeId,
        /// Its standing before, as text.
        from: String,
        /// Its standing now, as text.
        to: String,
    },
}

/// See the module's documentation.
pub struct Machine {
    settings: Settings,
    roster: Roster,
    identity: Identity,
    /// No claim counts until it is known which cluster this is.
    identity_is_settled: bool,
    leadership: Leadership,
    last_leader: Option<NodeId>,
    generation: u64,
    /// When the leader last became doubtful. Cleared by a check of the leader that was sent after that.
    doubted_at: Option<Moment>,
    /// The last reports of the REST APIs that the operator has named.
    named: Vec<Arc<Report>>,
    /// Checks stay fast until this moment.
    settled_at: Moment,
    /// The end of the WAL, as the last leader reported it.
    wal_end: Option<Lsn>,
    scheduled_switchover: Option<String>,
}

impl Machine {
    /// A machine that knows the static members by name; there is no leader yet.
    pub fn new(settings: Settings, static_members: Vec<Member>, now: Moment) -> Machine {
        Machine {
            roster: Roster::new(static_members, settings.seed, now),
            identity: Identity::new(settings.scope.clone()),
            identity_is_settled: false,
            leadership: Topology::unchecked(Vec::new()).leadership,
            last_leader: None,
            generation: 0,
            doubted_at: None,
            named: Vec::new(),
            settled_at: now,
            wal_end: None,
            scheduled_switchover: None,
            settings,
        }
    }

    /// The present topology.
    pub fn topology(&self) -> Topology {
        Topology {
            generation: self.generation,
            leadership: self.leadership.clone(),
            doubted_at: self.doubted_at.filter(|_| self.leadership.leader().is_some()),
            scheduled_switchover: self.scheduled_switchover.clone(),
            nodes: self.roster.all().iter().map(|entry| entry.view.clone()).collect(),
        }
    }

    /// A node's name and addresses.
    pub fn member(&self, id: NodeId) -> &Arc<Member> {
        &self.roster.entry(id).view.member
    }

    /// The administrative state of a node.
    pub fn admin_state(&self, id: NodeId) -> AdminState {
        self.roster.entry(id).view.admin
    }

    /// Handles an event at `now` and returns what has to be done. `now` must never go backwards.
    pub fn handle(&mut self, event: Event, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        let ended = match &event {
            Event::Checked(observation) => Some((observation.node, observation.asked_at)),
            _ => None,
        };
        let is_news = match event {
            Event::Tick => false,
            Event::Suspicion(node, suspicion) => self.suspect(node, suspicion, now),
            Event::Failure(node, port, why, suspicion) => {
                let is_news = self.roster.entry_mut(node).view.ports.fails_client(port, &why, now);
                if is_news {
                    actions.push(Action::Tell(Change::PortFailed { node, port, why }));
                }
                is_news | suspicion.is_some_and(|suspicion| self.suspect(node, suspicion, now))
            }
            Event::Served(node, port) => match self.roster.entry_mut(node).view.ports.serves_client(port) {
                Some(since) => {
                    actions.push(Action::Tell(Change::PortRestored { node, port, after: now - since }));
                    true
                }
                None => false,
            },
            Event::LoginHint(node, port, in_recovery) => {
                self.take_login_hint(node, LoginHint { came_at: now, port, in_recovery }, now)
            }
            Event::Overslept => self.oversleep(now),
            Event::Checked(observation) => {
                let node = observation.node;
                let was_refuted = self.roster.entry(node).view.ports.has_refuted_hints();
                let is_news = self.noting_changes(now, &mut actions, |machine| machine.take_in(observation, now));
                if !was_refuted && self.roster.entry(node).view.ports.has_refuted_hints() {
                    actions.push(Action::Tell(Change::LoginHintRefuted { node }));
                }
                is_news
            }
            Event::Discovered(discovery, busy) => {
                let mut left_out = Vec::new();
                let is_news = self.noting_changes(now, &mut actions, |machine| {
                    machine.take_discovery(discovery, busy, &mut left_out, now)
                });
                actions.extend(left_out.into_iter().map(|name| Action::Tell(Change::NoRoom { name })));
                is_news
            }
            Event::Weighed(node, weight) => self.roster.weigh(node, weight),
            Event::Administered(node, state) => {
                self.noting_changes(now, &mut actions, |machine| machine.roster.administer(node, state, now))
            }
            Event::Reconfigured(changed) => {
                let mut left_out = Vec::new();
                let is_news = self.noting_changes(now, &mut actions, |machine| {
                    left_out = machine.reconfigure(changed, now);
                    true
                });
                actions.extend(left_out.into_iter().map(|name| Action::Tell(Change::NoRoom { name })));
                is_news
            }
        };
        let lead_changed = self.reconsider_lead(now, &mut actions);
        if let Some((id, asked_at)) = ended {
            let pace = self.pace_of(self.roster.entry(id), now);
            self.roster.entry_mut(id).timetable.ended(asked_at, pace);
        }
        self.hasten(now);
        if is_news || lead_changed {
            self.generation += 1;
            actions.push(Action::Publish(Arc::new(self.topology())));
        }
        self.ask_who_is_due(now, &mut actions);
        actions
    }

    /// The latest moment at which to call [`Machine::handle`] again, if no event comes before.
    pub fn next_wakeup(&self) -> Option<Moment> {
        let next_check = self.roster.present().filter_map(|(_, entry)| entry.timetable.next_due()).min();
        let lapse = self.leadership.leader().and_then(|leader| {
            let asked_at = self.roster.entry(leader).view.health.answer_asked_at()?;
            Some(asked_at + self.settings.leader_grace + Duration::from_millis(1))
        });
        next_check.into_iter().chain(lapse).min()
    }

    // ---- what comes in -----------------------------------------------------------------------------------

    fn take_in(&mut self, observation: Observation, now: Moment) -> bool {
        let Observation { node: id, asked_at, outcome, second_opinion } = observation;
        let leads = self.leadership.leader() == Some(id);
        let entry = self.roster.entry_mut(id);
        if entry.view.departed {
            return false;
        }
        // Only a later answer replaces an answer. A later check that failed does not make it invalid.
        let newest = if outcome.is_ok() { entry.view.health.answer_asked_at() } else { entry.view.check_asked_at };
        if newest.is_some_and(|newest| asked_at < newest) {
            return false;
        }
        entry.view.check_asked_at = entry.view.check_asked_at.max(Some(asked_at));
        // With PostgreSQL's answer, the report describes the node at a moment after PostgreSQL was asked, not Patroni.
        let (outcome, described_at) = match (outcome, second_opinion) {
            (Err(error), Some(second)) => {
                let known = entry.view.health.report().map(Arc::as_ref);
                let settled = corroboration::settle(error, known, leads, &second.report);
                let described_at = if settled.is_ok() { second.asked_at } else { asked_at };
                (settled.map(Arc::new), described_at)
            }
            (outcome, _) => (outcome, asked_at),
        };
        let has_answered = outcome.is_ok();
        let outcome = outcome.map(|report| with_known_facts(report, entry.view.health.report()));
        let health = mem::replace(&mut entry.view.health, Health::UNKNOWN);
        entry.view.health = health.after(outcome, described_at, now, self.settings.thresholds);
        entry.view.checked_at = Some(now);
        if leads && self.doubted_at.is_some_and(|doubted| asked_at >= doubted) {
            self.doubted_at = None;
        }
        if has_answered {
            let entry = self.roster.entry_mut(id);
            entry.view.ports.forget_failures(asked_at, self.settings.interval);
            entry.settle_login_hint(asked_at, now);
            self.measure_lag(id, now);
        }
        true
    }

    /// Applies a change to the nodes, with its consequences, and reports the nodes that have changed.
    fn noting_changes(
        &mut self,
        now: Moment,
        actions: &mut Vec<Action>,
        take: impl FnOnce(&mut Machine) -> bool,
    ) -> bool {
        let before = self.standings();
        let is_news = take(self);
        self.roster.remove_duplicates(now);
        self.reconsider_identity(now, actions);
        actions.extend(self.changes_since(&before));
        is_news
    }

    /// Requests checks of all nodes, unless this kind of suspicion has reached its rate. True if the leader has become
    /// doubtful.
    fn suspect(&mut self, id: NodeId, suspicion: Suspicion, now: Moment) -> bool {
        let interval = self.settings.interval.min(SUSPICION_INTERVAL_MAX);
        if !self.roster.entry_mut(id).suspicions.admits(suspicion, now, interval) {
            return false;
        }
        self.hurry_checks(now);
        suspicion.casts_doubt() && self.doubt(id, now)
    }

    fn hurry_checks(&mut self, now: Moment) {
        for (_, entry) in self.roster.present_mut() {
            entry.timetable.hurry(now);
        }
    }

    /// True if the node is the leader, which is doubtful from now on.
    fn doubt(&mut self, id: NodeId, now: Moment) -> bool {
        let is_leader = self.leadership.leader() == Some(id);
        if is_leader {
            self.doubted_at = Some(now);
        }
        is_leader
    }

    /// The client that logs in there waits for the answer, so the node itself is checked in any case.
    fn take_login_hint(&mut self, id: NodeId, hint: LoginHint, now: Moment) -> bool {
        let entry = self.roster.entry_mut(id);
        entry.login_hint = Some(hint);
        entry.timetable.hurry(now);
        self.suspect(id, Suspicion::HotStandby, now)
    }

    fn oversleep(&mut self, now: Moment) -> bool {
        match self.leadership.leader() {
            Some(leader) => {
                self.hurry_checks(now);
                self.doubt(leader, now)
            }
            None => false,
        }
    }

    fn take_discovery(&mut self, discovery: Discovery, busy: NodeSet, left_out: &mut Vec<String>, now: Moment) -> bool {
        let switchover_has_changed = self.scheduled_switchover != discovery.scheduled_switchover;
        self.scheduled_switchover = discovery.scheduled_switchover;
        self.named = discovery.named;
        let taken = self.roster.take_list(discovery.members, busy, now);
        *left_out = taken.left_out;
        taken.is_news || switchover_has_changed
    }

    /// Takes over a changed configuration. What is known of the nodes stays. Returns the names of nodes for which there is
    /// no room.
    fn reconfigure(&mut self, changed: Reconfigured, now: Moment) -> Vec<String> {
        let Reconfigured { settings, members, discovers, busy } = changed;
        self.settings = Settings { seed: self.settings.seed, ..settings };
        self.identity.scope.clone_from(&self.settings.scope);
        let taken = self.roster.take_named(members, discovers, busy, now);
        for id in taken.moved {
            // what is known of it was said at another address: a new write session waits for an answer from the new one
            self.doubt(id, now);
        }
        self.hurry_checks(now);
        taken.left_out
    }

    // ---- what follows from it ------------------------------------------------------------------------------

    fn reconsider_identity(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let votes = self.votes();
        let before = self.identity.system_identifier().map(str::to_owned);
        self.identity.reconsider(&votes);
        self.identity_is_settled = self.identity.is_settled(&votes);
        let after = self.identity.system_identifier();
        let has_changed = before.is_some() && before.as_deref() != after;
        if let (true, Some(from), Some(to)) = (has_changed, before, after) {
            actions.push(Action::Tell(Change::Rebuilt { from, to: to.to_owned() }));
        }
        let wrong_addresses = self.roster.wrong_addresses();
        let why_foreign = |id: NodeId, entry: &Entry| {
            let wrong_address = wrong_addresses.iter().find(|(wrong, _)| *wrong == id).map(|(_, why)| why.clone());
            let report = entry.view.health.report().map(Arc::as_ref);
            let unproven = || report.filter(|_| !entry.is_static).and_then(|report| self.identity.why_unproven(report));
            wrong_address.or_else(|| self.identity.why_foreign(report?, &votes)).or_else(unproven)
        };
        let foreign: Vec<Option<String>> = self.roster.present().map(|(id, entry)| why_foreign(id, entry)).collect();
        for ((_, entry), why) in self.roster.present_mut().zip(foreign) {
            let belongs = why.is_none() && self.identity_is_settled && entry.view.health.report().is_some();
            // what still has the former identifier belonged to that, and not to the cluster as it is known now
            let belonged_to_former = has_changed && why.is_some();
            entry.has_belonged = belongs || (entry.has_belonged && !belonged_to_former);
            entry.view.foreign = why;
            entry.review(now);
        }
    }

    /// The votes on which cluster this is: of the nodes that the operator has named, or, if there are none, of the REST
    /// APIs.
    fn votes(&self) -> Vec<Vote> {
        let named: Vec<Vote> =
            self.roster.present().filter(|(_, entry)| entry.is_static).map(|(_, entry)| vote(entry)).collect();
        match named.is_empty() {
            false => named,
            true => self.named.iter().map(|report| Vote::answered(Arc::clone(report))).collect(),
        }
    }

    fn reconsider_lead(&mut self, now: Moment, actions: &mut Vec<Action>) -> bool {
        let believed = |entry: &Entry| self.identity_is_settled && entry.view.foreign.is_none();
        let candidates: Vec<Candidate<'_>> = self
            .roster
            .present()
            .map(|(id, entry)| Candidate {
                id,
                health: &entry.view.health,
                is_believed: believed(entry),
                claims_since: entry.claims_since,
                lock: entry.view.lock.filter(|_| believed(entry)),
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
            self.measure_lag(leader, now);
        }
        actions.push(Action::Tell(self.change_since(previous, now)));
        self.last_leader = self.leadership.leader().or(self.last_leader);
    }

    fn change_since(&self, previous: &Leadership, now: Moment) -> Change {
        let why = || self.topology().why_no_leader().unwrap_or_default();
        let is_contested = matches!(self.leadership, Leadership::Contested { .. });
        match (&self.leadership, previous.leader()) {
            (Leadership::Led { leader, timeline, .. }, from) => Change::LeadTaken {
                from: from.or(self.last_leader),
                to: *leader,
                timeline: *timeline,
                leaderless: self.leaderless(previous, now),
            },
            (_, Some(from)) => {
                Change::LeadLost { from, why: why(), last_seen: self.last_good(from, now), is_contested }
            }
            (_, None) => Change::StillLeaderless { why: why(), is_contested },
        }
    }

    /// How long there was no leader, as far as known: since the last good answer of the leader before, which may have
    /// lost the lead right after it.
    fn leaderless(&self, previous: &Leadership, now: Moment) -> Duration {
        let Some(since) = previous.leaderless_since() else { return Duration::ZERO };
        let last_led_at = self.last_leader.and_then(|leader| self.roster.entry(leader).last_led_at);
        now - last_led_at.map_or(since, |last_led_at| last_led_at.min(since))
    }

    /// The age of the last check in which this leader still led. It may have lost the lead right after that.
    fn last_good(&self, leader: NodeId, now: Moment) -> Duration {
        let asked_at = self.roster.entry(leader).last_led_at;
        asked_at.map_or(Duration::ZERO, |asked_at| now - asked_at)
    }

    fn standings(&self) -> Vec<String> {
        self.roster.all().iter().map(|entry| entry.view.standing().to_string()).collect()
    }

    fn changes_since(&self, before: &[String]) -> Vec<Action> {
        let now = self.standings().into_iter().enumerate();
        let unchecked = NodeView::unchecked_standing();
        now.filter_map(|(id, to)| {
            let from = before.get(id).map_or(unchecked, String::as_str);
            (from != to).then(|| Action::Tell(Change::Node { node: NodeId::new(id), from: from.to_owned(), to }))
        })
        .collect()
    }

    /// Updates a standby's lag after its answer, or the end of the WAL after an answer of the leader.
    ///
    /// A standby is compared with what was known of the leader when the standby answered. If it were measured again
    /// with each answer of the leader, every standby would lag by what a busy leader writes between two checks.
    fn measure_lag(&mut self, id: NodeId, now: Moment) {
        let wal_end = self.wal_end;
        let leads = self.leadership.leader() == Some(id);
        let entry = self.roster.entry_mut(id);
        if leads {
            self.wal_end = entry.view.health.report().and_then(|report| report.position).or(wal_end);
        }
        let lag = lag_behind(wal_end, entry);
        entry.view.lag = lag;
        entry.view.recent_lag = lag.map(|lag| entry.lag_meter.measure(lag, now));
        if lag.is_none() {
            entry.lag_meter.forget();
        }
    }

    // ---- when to ask ---------------------------------------------------------------------------------------

    fn pace_of(&self, entry: &Entry, now: Moment) -> Duration {
        let leader_answers = self
            .leadership
            .leader()
            .is_some_and(|leader| matches!(self.roster.entry(leader).view.health, Health::Answering { missed: 0, .. }));
        if entry.view.claim() == Some(Claim::LockHolder) {
            self.settings.fast_interval / PROMOTION_HASTE
        } else if leader_answers && self.doubted_at.is_none() && self.settled_at <= now {
            self.settings.interval
        } else {
            self.settings.fast_interval
        }
    }

    /// Moves checks to an earlier time where they have become urgent since they were planned.
    fn hasten(&mut self, now: Moment) {
        let paces: Vec<Duration> = self.roster.present().map(|(_, entry)| self.pace_of(entry, now)).collect();
        for ((_, entry), pace) in self.roster.present_mut().zip(paces) {
            if pace < self.settings.interval {
                entry.timetable.quicken(pace);
            }
        }
    }

    fn ask_who_is_due(&mut self, now: Moment, actions: &mut Vec<Action>) {
        for (node, entry) in self.roster.present_mut() {
            if entry.timetable.next_due().is_some_and(|due| due <= now) {
                entry.timetable.asked(now);
                actions.push(Action::Check { node, asked_at: now });
            }
        }
    }
}

/// A silent node has no vote: its last answer may be outdated.
fn vote(entry: &Entry) -> Vote {
    let answers = matches!(entry.view.health, Health::Answering { .. });
    Vote {
        is_checked: entry.view.checked_at.is_some(),
        report: entry.view.health.report().filter(|_| answers).cloned(),
        has_belonged: entry.has_belonged,
    }
}

/// Patroni's answer has gaps while it cannot query its PostgreSQL (state "unknown"): the values that
/// do not change from query to query stay as they were.
fn with_known_facts(report: Arc<Report>, known: Option<&Arc<Report>>) -> Arc<Report> {
    let Some(known) = known.filter(|known| report.state == "unknown" && known.claim == report.claim) else {
        return report;
    };
    let mut whole = Report::clone(&report);
    whole.timeline = whole.timeline.or(known.timeline);
    whole.position = whole.position.or(known.position);
    whole.system_identifier = whole.system_identifier.or_else(|| known.system_identifier.clone());
    whole.postmaster_start = whole.postmaster_start.or_else(|| known.postmaster_start.clone());
    whole.server_version = whole.server_version.or(known.server_version);
    Arc::new(whole)
}

/// How far a standby is behind. Bytes and time are read together: the time since the last replayed commit grows on an
/// idle cluster, so it counts only while there is WAL left to replay.
fn lag_behind(wal_end: Option<Lsn>, entry: &Entry) -> Option<Lag> {
    let report = entry.view.health.report()?;
    let Some(Claim::Replica | Claim::StandbyLeader) = entry.view.claim() else { return None };
    let (Lsn(end), Lsn(at)) = (wal_end?, report.position?);
    let bytes = end.saturating_sub(at);
    let time = report.replay_delay.filter(|_| bytes > 0).unwrap_or_default();
    Some(Lag { bytes, time })
}

fn same_kind(a: &Leadership, b: &Leadership) -> bool {
    match (a, b) {
        (Leadership::Vacant { why: a, .. }, Leadership::Vacant { why: b, .. }) => a == b,
        _ => mem::discriminant(a) == mem::discriminant(b),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::cluster::fixtures::{at_ms, leader, member, replica};
    use crate::cluster::node::CheckError;

    const LEADER: NodeId = NodeId::new(0);
    const REPLICA: NodeId = NodeId::new(1);

    /// A machine of a few nodes, and a clock; each check is answered at once, as set for its node.
    struct TestCluster {
        machine: Machine,
        now: Moment,
        says: Vec<Result<Arc<Report>, CheckError>>,
        asked: Vec<(NodeId, Moment)>,
    }

    impl TestCluster {
        fn new(first: Result<Arc<Report>, CheckError>, second: Result<Arc<Report>, CheckError>) -> TestCluster {
            TestCluster::of(vec![first, second])
        }

        fn of(says: Vec<Result<Arc<Report>, CheckError>>) -> TestCluster {
            let settings = Settings {
                interval: Duration::from_secs(1),
                fast_interval: Duration::from_millis(100),
                leader_grace: Duration::from_secs(20),
                thresholds: Thresholds { rise: 2, fall: 3 },
                scope: None,
                seed: 7,
            };
            let machine = Machine::new(
                settings,
                ["a", "b", "c"][..says.len()].iter().map(|name| member(name)).collect(),
                at_ms(0),
            );
            TestCluster { machine, now: at_ms(0), says, asked: Vec::new() }
        }

        fn feed(&mut self, event: Event) {
            let mut events = vec![event];
            while let Some(event) = events.pop() {
                for action in self.machine.handle(event, self.now) {
                    if let Action::Check { node, asked_at } = action {
                        self.asked.push((node, asked_at));
                        let outcome = self.says[node.index()].clone();
                        events.push(Event::Checked(Observation { node, asked_at, outcome, second_opinion: None }));
                    }
                }
            }
        }

        /// How many checks are sent in this time.
        fn checks_in(&mut self, time: Duration) -> usize {
            let (end, before) = (self.now + time, self.asked.len());
            while self.now < end {
                self.now = self.now + Duration::from_millis(5);
                self.feed(Event::Tick);
            }
            self.asked.len() - before
        }
    }

    #[test]
    fn checks_are_fast_while_no_node_leads_and_slow_otherwise() {
        let second = Duration::from_secs(1);
        let mut bench = TestCluster::new(Ok(replica(1)), Ok(replica(1)));
        bench.feed(Event::Tick);
        let leaderless = bench.checks_in(second);
        assert!((16..=24).contains(&leaderless), "two nodes were asked {leaderless} times in a second");
        bench.says[0] = Ok(leader(2));
        bench.checks_in(SETTLING + second);
        let quiet = bench.checks_in(10 * second);
        assert!((18..=23).contains(&quiet), "two nodes were asked {quiet} times in ten seconds");
        bench.says[0] = Err(CheckError::TimedOut);
        bench.checks_in(2 * second);
        let missed = bench.checks_in(second);
        assert!((16..=24).contains(&missed), "a silent leader: {missed} checks in a second");
    }

    #[test]
    fn doubt_ends_with_an_answer_to_a_later_question_only() {
        let mut bench = TestCluster::new(Ok(leader(1)), Ok(replica(1)));
        bench.feed(Event::Tick);
        bench.checks_in(Duration::from_secs(5));
        let earlier = bench.now;
        bench.now = bench.now + Duration::from_millis(3);
        let sent = bench.machine.handle(Event::Suspicion(LEADER, Suspicion::ConnectionLost), bench.now);
        assert!(bench.machine.topology().doubted_at.is_some());
        let late = Observation { node: LEADER, asked_at: earlier, outcome: Ok(leader(1)), second_opinion: None };
        bench.machine.handle(Event::Checked(late), bench.now);
        assert!(bench.machine.topology().doubted_at.is_some(), "that check was sent before the doubt");
        let asks =
            |node| sent.iter().any(|action| matches!(action, Action::Check { node: asked, .. } if *asked == node));
        assert!(asks(LEADER) && asks(REPLICA), "all nodes are asked at once: {sent:?}");
        let fresh =
            Observation { node: LEADER, asked_at: bench.now, outcome: Err(CheckError::TimedOut), second_opinion: None };
        bench.machine.handle(Event::Checked(fresh), bench.now);
        assert!(bench.machine.topology().doubted_at.is_none(), "silence says nothing");
        assert_eq!(bench.machine.topology().leader(), Some(LEADER));
    }

    #[test]
    fn a_node_that_failed_a_client_is_tried_last_until_an_answer_to_a_question_of_an_interval_later() {
        let mut bench = TestCluster::new(Ok(leader(1)), Ok(replica(1)));
        bench.feed(Event::Tick);
        bench.checks_in(Duration::from_secs(5));
        let fails = |bench: &TestCluster| bench.machine.topology().node(REPLICA).ports.fails_clients(None);
        let generation = bench.machine.topology().generation;
        bench.feed(Event::Failure(REPLICA, None, "connection refused".to_owned(), Some(Suspicion::ConnectFailed)));
        assert!(fails(&bench) && bench.machine.topology().generation > generation, "it is published");
        assert!(bench.machine.topology().doubted_at.is_none(), "it says nothing about the leader");
        assert_eq!(bench.machine.topology().leader(), Some(LEADER));
        bench.checks_in(Duration::from_millis(800));
        assert!(fails(&bench), "its Patroni answers, but that is not what failed");
        bench.checks_in(Duration::from_millis(1500));
        assert!(!fails(&bench), "it may be tried again");
        bench.feed(Event::Failure(LEADER, None, "connection refused".to_owned(), Some(Suspicion::ConnectFailed)));
        assert_eq!(bench.machine.topology().leader(), Some(LEADER), "no role changes by that");
    }

    #[test]
    fn another_port_of_the_leader_that_is_closed_hurries_the_checks_and_keeps_no_writer_waiting() {
        let mut bench = TestCluster::new(Ok(leader(1)), Ok(replica(1)));
        bench.feed(Event::Tick);
        bench.checks_in(Duration::from_secs(5));
        let (pooler, why) = (NonZeroU16::new(6432), "connection refused".to_owned());
        let failure = Event::Failure(LEADER, pooler, why, Some(Suspicion::OtherPortFailed));
        let actions = bench.machine.handle(failure, bench.now);
        assert!(
            actions.iter().any(|action| matches!(action, Action::Check { .. })),
            "the host may be gone: {actions:?}"
        );
        let topology = bench.machine.topology();
        assert!(topology.doubted_at.is_none(), "PostgreSQL's own port may be in order");
        assert_eq!([pooler, None].map(|port| topology.node(LEADER).ports.fails_clients(port)), [true, false]);
    }

    #[test]
    fn suspicion_of_a_replica_casts_no_doubt_on_the_leader() {
        let mut bench = TestCluster::new(Ok(leader(1)), Ok(replica(1)));
        bench.feed(Event::Tick);
        bench.machine.handle(Event::Suspicion(REPLICA, Suspicion::ConnectionLost), bench.now);
        assert!(bench.machine.topology().doubted_at.is_none());
    }

    #[test]
    fn a_node_of_another_cluster_that_led_alone_does_not_lead_again_after_the_others_were_heard() {
        let other = Arc::new(Report { system_identifier: Some("9".into()), ..(*leader(7)).clone() });
        let silent = || Err(CheckError::Refused);
        let mut bench = TestCluster::of(vec![Ok(Arc::clone(&other)), silent(), silent()]);
        bench.feed(Event::Tick);
        let a_while = Duration::from_secs(40);
        bench.checks_in(a_while);
        assert_eq!(bench.machine.topology().leader(), Some(NodeId::new(0)), "nothing else is known");
        (bench.says[1], bench.says[2]) = (Ok(leader(3)), Ok(replica(3)));
        bench.checks_in(a_while);
        assert_eq!(bench.machine.topology().leader(), Some(NodeId::new(1)), "two of three are of one cluster");
        (bench.says[1], bench.says[2]) = (silent(), silent());
        bench.checks_in(a_while);
        assert_eq!(bench.machine.topology().leader(), None);
        let made_again = Arc::new(Report { system_identifier: Some("10".into()), ..(*leader(1)).clone() });
        (bench.says[0], bench.says[1]) = (silent(), Ok(made_again));
        bench.checks_in(a_while);
        assert_eq!(bench.machine.topology().leader(), Some(NodeId::new(1)), "it was created again");
    }
}
