//! The oracle of a simulation: it knows the rules and the answers that were delivered, but not how the machine works.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::node::{Claim, Lsn, Observation};
use crate::cluster::{AdminState, Moment, NodeId, Topology};
use crate::routing::{Cause, Rule, Situation, Target, route, why_on_wrong_node};

/// The machine's `leader_grace`.
pub(super) const GRACE: Duration = Duration::from_secs(20);

/// The lag limit of the readers in these worlds.
const LAG_MAX: u64 = 100_000;

/// The newest answer of a node, as the oracle noted it when it was delivered.
#[derive(Clone)]
pub(super) struct Noted {
    pub(super) asked_at: Moment,
    pub(super) claim: Claim,
    pub(super) is_foreign: bool,
    pub(super) position: u64,
    /// How far it was behind the leader, according to the leader's last answer.
    pub(super) lag: u64,
    /// When the first answer of its present, uninterrupted claim to lead arrived.
    pub(super) claims_since: Option<Moment>,
    /// It is Patroni's answer, not PostgreSQL's.
    pub(super) by_patroni: bool,
    /// When its Patroni said that it holds the lock, unless the node was seen to have lost it since.
    pub(super) lock: Option<Lock>,
}

/// When a node's Patroni said that it holds the lock.
#[derive(Clone, Copy)]
pub(super) struct Lock {
    /// When the first of these answers arrived.
    pub(super) since: Moment,
    /// When the newest of these answers was asked for.
    pub(super) asked_at: Moment,
}

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) noted: BTreeMap<usize, Noted>,
    /// When the newest finished check of each node was sent, answered or not.
    pub(super) ended: BTreeMap<usize, Moment>,
    /// The administrative state of each node.
    pub(super) administered: BTreeMap<usize, AdminState>,
    /// A leader that was suspected, and when. It gets no writes until a later check has ended.
    pub(super) suspected: Option<(NodeId, Moment)>,
    /// Before the first leader there are no sessions that could be misplaced.
    pub(super) has_had_leader: bool,
    /// More than half of the nodes have answered at the same time, and all these belong to one cluster.
    pub(super) knows_cluster: bool,
}

impl Oracle {
    pub(super) fn note(&mut self, observation: &Observation, leader: Option<NodeId>, now: Moment) {
        let id = observation.node.index();
        let leads = leader == Some(observation.node);
        let asked_at = observation.asked_at;
        self.suspected.take_if(|(node, since)| *node == observation.node && asked_at >= *since);
        let ended = self.ended.entry(id).or_insert(asked_at);
        let comes_late = asked_at < *ended;
        *ended = asked_at.max(*ended);
        let before = self.noted.get(&id);
        let answer = match (&observation.outcome, &observation.second_opinion) {
            (Ok(report), _) => Some((report, report.claim, asked_at)),
            (Err(_), Some(_)) if comes_late => None,
            (Err(_), Some(second)) => {
                let meaning = meaning(second.report.claim, before.map(|noted| noted.claim), leads);
                meaning.map(|claim| (&second.report, claim, second.asked_at))
            }
            (Err(_), None) => None,
        };
        let Some((report, claim, described_at)) = answer else { return };
        if before.is_some_and(|noted| noted.asked_at > asked_at) {
            return;
        }
        let claims_since = (claim == Claim::Leader).then(|| before.and_then(|noted| noted.claims_since).unwrap_or(now));
        let by_patroni = observation.outcome.is_ok();
        let lock_before = before.and_then(|noted| noted.lock);
        let lock = match by_patroni {
            _ if !holds_lock(claim) => None,
            true => Some(Lock { since: lock_before.map_or(now, |lock| lock.since), asked_at }),
            false => lock_before, // PostgreSQL knows nothing about the lock
        };
        let is_foreign = report.system_identifier.as_deref() == Some("another cluster");
        let position = report.position.map_or(0, |Lsn(position)| position);
        let end = leader.and_then(|leader| self.noted.get(&leader.index())).map_or(0, |leader| leader.position);
        let lag = end.saturating_sub(position);
        self.noted.insert(
            id,
            Noted { asked_at: described_at, claim, is_foreign, position, lag, claims_since, by_patroni, lock },
        );
    }

    pub(super) fn forget_departed(&mut self, topology: &Topology) {
        let is_here = |id: usize| topology.nodes.get(id).is_none_or(|node| !node.departed);
        self.noted.retain(|id, _| is_here(*id));
        self.ended.retain(|id, _| is_here(*id));
        self.suspected.take_if(|(node, _)| topology.leader() != Some(*node));
    }

    pub(super) fn claim(&self, id: NodeId) -> Option<Claim> {
        self.noted.get(&id.index()).map(|noted| noted.claim)
    }

    /// The rules of who leads. An error names the one that is broken.
    pub(super) fn check_lead(&mut self, topology: &Topology, now: Moment) -> Result<(), String> {
        let answers = |id: &usize| topology.node(NodeId::new(*id)).health.last_error().is_none();
        let own = self.noted.iter().filter(|(id, noted)| !noted.is_foreign && answers(id)).count();
        self.knows_cluster |= own * 2 > topology.nodes.len();
        if self.may_know_only_a_foreign_node() { Ok(()) } else { self.check_leader(topology, now) }
    }

    /// The rules of everything else. An error names the one that is broken.
    pub(super) fn check(&mut self, topology: &Topology, now: Moment) -> Result<(), String> {
        if self.may_know_only_a_foreign_node() {
            return Ok(());
        }
        self.has_had_leader |= topology.leader().is_some();
        if self.has_had_leader {
            self.check_sessions(topology)?;
        }
        self.check_routes(topology, now)?;
        for (id, view) in topology.members() {
            let known = view.health.answer_asked_at();
            let noted = self.noted.get(&id.index()).map(|noted| noted.asked_at);
            if known < noted && view.health.last_error().is_none() {
                return Err(format!("knowledge of {id:?} went backwards: {known:?} after {noted:?}"));
            }
        }
        Ok(())
    }

    /// The node of another cluster may be the only one that has answered yet.
    fn may_know_only_a_foreign_node(&self) -> bool {
        !self.knows_cluster && self.noted.values().any(|noted| noted.is_foreign)
    }

    fn check_leader(&self, topology: &Topology, now: Moment) -> Result<(), String> {
        let Some(leader) = topology.leader() else { return Ok(()) };
        let Some(noted) = self.noted.get(&leader.index()) else {
            return Err(format!("{leader:?} leads and has never answered"));
        };
        if noted.is_foreign {
            return Err(format!("{leader:?} leads and belongs to another cluster"));
        }
        let Some(claims_since) = noted.claims_since else {
            return Err(format!("{leader:?} leads and its newest answer says {:?}", noted.claim));
        };
        if now - noted.asked_at > GRACE + Duration::from_millis(5) {
            return Err(format!("{leader:?} leads by an answer older than the grace"));
        }
        let answers = |id: usize| topology.node(NodeId::new(id)).health.last_error().is_none();
        if let Some(holder) = self.lock_taken_from(leader).find(|holder| answers(*holder)) {
            return Err(format!("{leader:?} leads and NodeId::new({holder}) has been seen to hold the lock since"));
        }
        let rival = self.noted.iter().find(|(id, other)| {
            let is_fresh = now - other.asked_at <= GRACE;
            !other.is_foreign
                && **id != leader.index()
                && other.claim == Claim::Leader
                && is_fresh
                && (other.by_patroni || !noted.by_patroni || !has_taken_lock(noted, other))
                && other.asked_at >= claims_since
        });
        let lock = self.noted.iter().find(|(id, other)| {
            let answers = topology.node(NodeId::new(**id)).health.last_error().is_none();
            // an answer that is older than the leader's own last answer about the lock does not count against it
            let is_later = noted.lock.is_none_or(|lock| other.asked_at >= lock.asked_at);
            let says_lock = other.by_patroni && holds_lock(other.claim);
            **id != leader.index() && !other.is_foreign && says_lock && is_later && answers
        });
        if let (false, Some((holder, _))) = (noted.by_patroni, lock) {
            return Err(format!(
                "{leader:?} leads according to PostgreSQL only while NodeId::new({holder}) holds the lock"
            ));
        }
        match rival {
            Some((rival, _)) => Err(format!("{leader:?} leads while NodeId::new({rival}) keeps claiming to lead")),
            None => Ok(()),
        }
    }

    /// Sessions are misplaced only for a cause that the answers of this node, or of another, prove.
    fn check_sessions(&self, topology: &Topology) -> Result<(), String> {
        for (id, view) in topology.members() {
            let noted = self.noted.get(&id.index());
            let leads = topology.leader() == Some(id);
            for target in [Target::Leader, Target::Replica] {
                let rule = Rule { falls_back_to_leader: false, lag_bytes_max: Some(LAG_MAX), ..Rule::new(target) };
                let is_proved = match why_on_wrong_node(&rule, topology, id) {
                    None => true,
                    Some(Cause::LostLead) => {
                        let by_its_own_answer = noted.is_some_and(|noted| {
                            noted.is_foreign
                                || !matches!(noted.claim, Claim::Leader | Claim::LockHolder | Claim::UnlockedPrimary)
                        });
                        by_its_own_answer
                            || topology.leader().is_some_and(|other| other != id)
                            || self.lock_taken_from(id).next().is_some()
                    }
                    Some(Cause::Promotion) => leads && target == Target::Replica,
                    Some(Cause::Lag) => view.recent_lag.is_some_and(|lag| lag.bytes > LAG_MAX),
                    Some(Cause::Silence) => view.health.last_error().is_some(),
                    Some(Cause::Operator) => self.is_out_of_service(id),
                    Some(Cause::Standing | Cause::Departure) => false,
                };
                if !is_proved {
                    return Err(format!("sessions on {id:?} are misplaced though it says {:?}", self.claim(id)));
                }
            }
        }
        Ok(())
    }

    /// The nodes that were seen to hold the lock after this one last said that it leads.
    fn lock_taken_from(&self, id: NodeId) -> impl Iterator<Item = usize> {
        let noted = self.noted.get(&id.index());
        let has_taken = move |other: &Noted| noted.is_some_and(|noted| has_taken_lock(other, noted));
        let others = self.noted.iter().filter(move |(other, of)| **other != id.index() && !of.is_foreign);
        others.filter(move |(_, of)| has_taken(of)).map(|(other, _)| *other)
    }

    pub(super) fn is_out_of_service(&self, id: NodeId) -> bool {
        self.administered.get(&id.index()).is_some_and(|state| *state != AdminState::Ready)
    }

    pub(super) fn why_not_for_reads(&self, node: NodeId) -> Option<String> {
        let noted = self.noted.get(&node.index())?;
        match noted.claim {
            Claim::Replica if noted.lag > LAG_MAX => Some(format!("it lags by {} bytes", noted.lag)),
            Claim::Replica => None,
            other => Some(format!("it says {other:?}")),
        }
    }

    fn check_routes(&self, topology: &Topology, now: Moment) -> Result<(), String> {
        let rule = |target| Rule { falls_back_to_leader: false, lag_bytes_max: Some(LAG_MAX), ..Rule::new(target) };
        let routed = |target, turn| {
            route(
                topology,
                &rule(target),
                &Situation { tried: &[], turn, load: |_| 0, now, arrived_at: now, monitored_at: now },
            )
        };
        for turn in 0..topology.nodes.len() as u64 {
            let (writer, reader) = (routed(Target::Leader, turn), routed(Target::Replica, turn));
            if let Some(node) = [&writer, &reader].into_iter().flatten().find(|node| self.is_out_of_service(**node)) {
                return Err(format!("a session is sent to {node:?}, which an operator has taken out of service"));
            }
            if let Ok(node) = writer
                && (self.suspected.is_some() || self.claim(node) != Some(Claim::Leader))
            {
                return Err(format!("a write is sent to {node:?}, which is suspected or says {:?}", self.claim(node)));
            }
            if let Ok(node) = reader
                && self.why_not_for_reads(node).is_some()
            {
                return Err(format!("a read is sent to {node:?}: {:?}", self.why_not_for_reads(node)));
            }
        }
        Ok(())
    }
}

/// Whether a node was first seen to hold the lock after the other's Patroni last said that it holds it.
fn has_taken_lock(holder: &Noted, other: &Noted) -> bool {
    let says_lock = holder.by_patroni && holds_lock(holder.claim);
    let is_later = |lock: Lock| other.lock.is_none_or(|others| others.asked_at < lock.since);
    says_lock && holder.lock.is_some_and(is_later)
}

fn holds_lock(claim: Claim) -> bool {
    matches!(claim, Claim::Leader | Claim::LockHolder | Claim::StandbyLeader)
}

/// What follows from PostgreSQL's answer while Patroni does not answer, given the node's last claim: it can end the
/// lead or confirm the leader, and it never makes a node the leader.
pub(super) fn meaning(answer: Claim, before: Option<Claim>, leads: bool) -> Option<Claim> {
    let had_lock = before.is_some_and(Claim::keeps_writers);
    match answer {
        Claim::Leader => (leads && before == Some(Claim::Leader)).then_some(Claim::Leader),
        Claim::OutOfService if before == Some(Claim::UnlockedPrimary) => before,
        Claim::OutOfService if had_lock => Some(Claim::LockHolder),
        other => Some(other),
    }
}
