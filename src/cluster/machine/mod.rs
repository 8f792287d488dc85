//! The cluster's state machine: events and the time go in, actions come out.
//!
//! It reads no clock and opens no socket. Its driver sends the checks that it requests, passes the answers back,
//! publishes its topologies, and calls again at [`Machine::next_wakeup`] at the latest.
//!
//! Here: what an event changes, and who leads after it. `check_times`: when which node is checked. `changes`: what
//! operators are told.

mod changes;
mod check_times;
#[cfg(test)]
mod tests;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::admin_state::AdminState;
use super::corroboration;
use super::event::{Action, Change, Discovery, Event, Reconfigured};
use super::health::Health;
use super::identity::{Identity, Vote};
use super::leadership::{Candidate, Leadership, decide};
use super::machine_settings::Settings;
use super::members::Members;
use super::moment::Moment;
use super::node::{Lsn, Member, NodeId, NodeSet, Observation, Report};
use super::node_state::{LoginHint, NodeState};
use super::suspicion::Suspicion;
use super::topology::Topology;

/// How long checks stay fast after a change of leader.
const SETTLING: Duration = Duration::from_secs(3);

/// Suspicions of one kind may cause a check of a node at this interval in the long run, even if the regular checks are
/// rarer.
const SUSPICION_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// See the module's documentation.
pub struct Machine {
    settings: Settings,
    members: Members,
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
            members: Members::new(static_members, settings.seed, now),
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
            nodes: self.members.all().iter().map(|entry| entry.view.clone()).collect(),
        }
    }

    /// A node's name and addresses.
    pub fn member(&self, id: NodeId) -> &Arc<Member> {
        &self.members.entry(id).view.member
    }

    /// The administrative state of a node.
    pub fn admin_state(&self, id: NodeId) -> AdminState {
        self.members.entry(id).view.admin
    }

    /// Handles an event at `now` and returns what has to be done. `now` must never go backwards.
    pub fn handle(&mut self, event: Event, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        let ended = match &event {
            Event::Checked(observation) => Some((observation.node, observation.asked_at)),
            _ => None,
        };
        let is_change = match event {
            Event::Tick => false,
            Event::Suspicion(node, suspicion) => self.suspect(node, suspicion, now),
            Event::Failure(node, port, why, suspicion) => {
                let is_change = self.members.entry_mut(node).view.ports.fails_client(port, &why, now);
                if is_change {
                    actions.push(Action::Tell(Change::PortFailed { node, port, why }));
                }
                is_change | suspicion.is_some_and(|suspicion| self.suspect(node, suspicion, now))
            }
            Event::Served(node, port) => match self.members.entry_mut(node).view.ports.serves_client(port) {
                Some(since) => {
                    actions.push(Action::Tell(Change::PortRestored { node, port, after: now - since }));
                    true
                }
                None => false,
            },
            Event::LoginHint(node, port, in_recovery) => {
                self.apply_login_hint(node, LoginHint { arrived_at: now, port, in_recovery }, now)
            }
            Event::Suspended => self.after_suspension(now),
            Event::Checked(observation) => {
                let node = observation.node;
                let was_refuted = self.members.entry(node).view.ports.has_refuted_hints();
                let is_change = self.apply(now, &mut actions, |machine| machine.apply_observation(observation, now));
                if !was_refuted && self.members.entry(node).view.ports.has_refuted_hints() {
                    actions.push(Action::Tell(Change::LoginHintRefuted { node }));
                }
                is_change
            }
            Event::Discovered(discovery, busy) => {
                let mut left_out = Vec::new();
                let is_change = self
                    .apply(now, &mut actions, |machine| machine.apply_discovery(discovery, busy, &mut left_out, now));
                actions.extend(left_out.into_iter().map(|name| Action::Tell(Change::NoRoom { name })));
                is_change
            }
            Event::Weighed(node, weight) => self.members.weigh(node, weight),
            Event::Administered(node, state) => {
                self.apply(now, &mut actions, |machine| machine.members.administer(node, state, now))
            }
            Event::Reconfigured(changed) => {
                let mut left_out = Vec::new();
                let is_change = self.apply(now, &mut actions, |machine| {
                    left_out = machine.reconfigure(changed, now);
                    true
                });
                actions.extend(left_out.into_iter().map(|name| Action::Tell(Change::NoRoom { name })));
                is_change
            }
        };
        let lead_changed = self.decide_lead(now, &mut actions);
        if let Some((id, asked_at)) = ended {
            let interval = self.check_interval(self.members.entry(id), now);
            self.members.entry_mut(id).schedule.ended(asked_at, interval);
        }
        self.bring_checks_forward(now);
        if is_change || lead_changed {
            self.generation += 1;
            actions.push(Action::Publish(Arc::new(self.topology())));
        }
        self.send_due_checks(now, &mut actions);
        actions
    }

    // ---- what an event changes -----------------------------------------------------------------------------------

    fn apply_observation(&mut self, observation: Observation, now: Moment) -> bool {
        let Observation { node: id, asked_at, outcome, second_opinion } = observation;
        let leads = self.leadership.leader() == Some(id);
        let entry = self.members.entry_mut(id);
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
        let outcome = outcome.map(|report| report.with_gaps_filled_from(entry.view.health.report()));
        let health = mem::replace(&mut entry.view.health, Health::UNKNOWN);
        entry.view.health = health.after(outcome, described_at, now, self.settings.thresholds);
        entry.view.checked_at = Some(now);
        if leads && self.doubted_at.is_some_and(|doubted| asked_at >= doubted) {
            self.doubted_at = None;
        }
        if has_answered {
            let entry = self.members.entry_mut(id);
            entry.view.ports.forget_failures(asked_at, self.settings.interval);
            entry.check_login_hint(asked_at, now);
            self.measure_lag(id, now);
        }
        true
    }

    /// Applies a change to the nodes, with its consequences, and reports the nodes that have changed.
    fn apply(&mut self, now: Moment, actions: &mut Vec<Action>, take: impl FnOnce(&mut Machine) -> bool) -> bool {
        let before = self.summaries();
        let is_change = take(self);
        self.members.remove_duplicates(now);
        self.decide_identity(now, actions);
        actions.extend(self.changes_since(&before));
        is_change
    }

    /// Requests checks of all nodes, unless this kind of suspicion has reached its rate. True if the leader has become
    /// doubtful.
    fn suspect(&mut self, id: NodeId, suspicion: Suspicion, now: Moment) -> bool {
        let interval = self.settings.interval.min(SUSPICION_INTERVAL_MAX);
        if !self.members.entry_mut(id).suspicions.admits(suspicion, now, interval) {
            return false;
        }
        self.request_all_checks(now);
        suspicion.makes_leader_doubtful() && self.doubt(id, now)
    }

    fn request_all_checks(&mut self, now: Moment) {
        for (_, entry) in self.members.present_mut() {
            entry.schedule.request(now);
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

    /// The client that logs in waits for the result, so the node itself is checked in any case.
    fn apply_login_hint(&mut self, id: NodeId, hint: LoginHint, now: Moment) -> bool {
        let entry = self.members.entry_mut(id);
        entry.login_hint = Some(hint);
        entry.schedule.request(now);
        self.suspect(id, Suspicion::HotStandby, now)
    }

    fn after_suspension(&mut self, now: Moment) -> bool {
        match self.leadership.leader() {
            Some(leader) => {
                self.request_all_checks(now);
                self.doubt(leader, now)
            }
            None => false,
        }
    }

    fn apply_discovery(
        &mut self,
        discovery: Discovery,
        busy: NodeSet,
        left_out: &mut Vec<String>,
        now: Moment,
    ) -> bool {
        let switchover_has_changed = self.scheduled_switchover != discovery.scheduled_switchover;
        self.scheduled_switchover = discovery.scheduled_switchover;
        self.named = discovery.named;
        let taken = self.members.apply_list(discovery.members, busy, now);
        *left_out = taken.left_out;
        taken.is_change || switchover_has_changed
    }

    /// Takes over a changed configuration. What is known of the nodes stays. Returns the names of nodes for which there is
    /// no room.
    fn reconfigure(&mut self, changed: Reconfigured, now: Moment) -> Vec<String> {
        let Reconfigured { settings, members, discovers, busy } = changed;
        self.settings = Settings { seed: self.settings.seed, ..settings };
        self.identity.scope.clone_from(&self.settings.scope);
        let taken = self.members.take_named(members, discovers, busy, now);
        for id in taken.moved {
            // what is known of it was said at another address: a new write session waits for an answer from the new one
            self.doubt(id, now);
        }
        self.request_all_checks(now);
        taken.left_out
    }

    // ---- what follows from that ------------------------------------------------------------------------------

    fn decide_identity(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let votes = self.votes();
        let before = self.identity.system_identifier().map(str::to_owned);
        self.identity.reconsider(&votes);
        self.identity_is_settled = self.identity.is_settled(&votes);
        let after = self.identity.system_identifier();
        let has_changed = before.is_some() && before.as_deref() != after;
        if let (true, Some(from), Some(to)) = (has_changed, before, after) {
            actions.push(Action::Tell(Change::Rebuilt { from, to: to.to_owned() }));
        }
        let wrong_addresses = self.members.wrong_addresses();
        let why_foreign = |id: NodeId, entry: &NodeState| {
            let wrong_address = wrong_addresses.iter().find(|(wrong, _)| *wrong == id).map(|(_, why)| why.clone());
            let report = entry.view.health.report().map(Arc::as_ref);
            let unproven = || report.filter(|_| !entry.is_static).and_then(|report| self.identity.why_unproven(report));
            wrong_address.or_else(|| self.identity.why_foreign(report?, &votes)).or_else(unproven)
        };
        let foreign: Vec<Option<String>> = self.members.present().map(|(id, entry)| why_foreign(id, entry)).collect();
        for ((_, entry), why) in self.members.present_mut().zip(foreign) {
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
            self.members.present().filter(|(_, entry)| entry.is_static).map(|(_, entry)| entry.vote()).collect();
        match named.is_empty() {
            false => named,
            true => self.named.iter().map(|report| Vote::answered(Arc::clone(report))).collect(),
        }
    }

    fn decide_lead(&mut self, now: Moment, actions: &mut Vec<Action>) -> bool {
        let belongs = |entry: &NodeState| self.identity_is_settled && entry.view.foreign.is_none();
        let candidates: Vec<Candidate<'_>> = self
            .members
            .present()
            .map(|(id, entry)| Candidate {
                id,
                health: &entry.view.health,
                belongs: belongs(entry),
                claims_since: entry.claims_since,
                lock: entry.view.lock.filter(|_| belongs(entry)),
            })
            .collect();
        let next = decide(&self.leadership, &candidates, now, self.settings.leader_grace);
        if next == self.leadership {
            return false;
        }
        let previous = mem::replace(&mut self.leadership, next);
        if self.leadership_differs_from(&previous) {
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

    /// Updates a standby's lag after its answer, or the end of the WAL after an answer of the leader.
    ///
    /// A standby is compared with what was known of the leader when the standby answered. If it were measured again
    /// with each answer of the leader, every standby would lag by what a busy leader writes between two checks.
    fn measure_lag(&mut self, id: NodeId, now: Moment) {
        let wal_end = self.wal_end;
        let leads = self.leadership.leader() == Some(id);
        let entry = self.members.entry_mut(id);
        if leads {
            self.wal_end = entry.view.health.report().and_then(|report| report.position).or(wal_end);
        }
        let lag = entry.lag_behind(wal_end);
        entry.view.lag = lag;
        entry.view.recent_lag = lag.map(|lag| entry.lag_meter.measure(lag, now));
        if lag.is_none() {
            entry.lag_meter.forget();
        }
    }
}
