//! A small world of nodes, faults and delays that drives the machine through years in seconds, and an onlooker that
//! knows the rules and not the machine.
//!
//! The rules, each with a bug that was planted in the machine to see it break:
//!
//! - a leader's newest answer says that it leads, and is not older than the grace (a lock holder led; a claim never
//!   lapsed; silence renewed the answer's age);
//! - nobody leads while another goes on claiming to (a repeated claim was outdone like a stale one);
//! - a stranger never leads (foreign nodes were believed; the first to answer settled which cluster it is);
//! - knowledge never goes backwards (late answers were taken in);
//! - no write goes to a leader that is suspected (a doubted leader got writes; an earlier question ended the doubt);
//! - no read goes to a node that is no replica, or lags (nodes out of service got reads; lag was not looked at);
//! - an operator's word takes a node's new sessions away, and decides nothing else (a drained leader got writes; one in
//!   maintenance lost the lead);
//! - sessions are misplaced for a cause only that a node's own words bear out (silence, or a restart under the lock, cut
//!   writers);
//! - in peace, the machine finds the leader in time (one check in fifty was never followed by another).
//!
//! Seeds: `PGVANE_SIM_SEEDS=1000000 cargo test --release simulation -- --nocapture`; one seed again:
//! `PGVANE_SIM_SEED=4711`. A failure prints its seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::admin_state::AdminState;
use super::fixtures::{member, report};
use super::health::Thresholds;
use super::leadership::Leadership;
use super::machine::{Action, Discovery, Event, Machine, Settings};
use super::node::{Claim, Lsn, Observation, Report, SecondOpinion, Silence};
use super::topology::Topology;
use super::{Moment, NodeId};
use crate::routing::{Cause, Rule, Situation, Target, route, why_misplaced};

/// Seeds that every test run tries; each is a world of its own.
const SEEDS: u64 = 2_000;

/// How long each world is troubled …
const TROUBLED: Duration = Duration::from_secs(120);

/// … and how long it is left in peace afterwards, for the machine to find out.
const PEACE: Duration = Duration::from_secs(20);

const TIMEOUT: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(20);

/// What the readers of these worlds put up with.
const LAG_MAX: u64 = 100_000;

/// Patroni's lease on the leader lock.
const TTL: Duration = Duration::from_secs(30);

/// In a world at peace: two checks in a row that come to nothing by their timeout, an interval after each, and the answer.
const CONVERGENCE_MAX: Duration = Duration::from_secs(7);

// ---- chance --------------------------------------------------------------------------------------------------

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.roll(to - from))
    }
}

// ---- the world -----------------------------------------------------------------------------------------------

/// One node as it really is.
struct RealNode {
    is_primary: bool,
    /// Until when PostgreSQL is starting, or being promoted.
    busy_until: Moment,
    is_running: bool,
    timeline: u32,
    position: u64,
    /// When it last renewed the leader lock, by its own belief.
    lock_renewed: Option<Moment>,
    sees_dcs: bool,
    /// Paused Patroni keeps the primary running when the DCS is gone: how two nodes come to claim the lead.
    is_paused: bool,
    /// The proxy cannot reach it at all.
    is_cut_off: bool,
    /// Its REST API does not answer.
    is_mute: bool,
    /// Replays nothing, and falls behind.
    is_stuck: bool,
    /// A node of another cluster that got into the list: claims the lead of its own all the time.
    is_stranger: bool,
}

struct World {
    dice: Dice,
    now: Moment,
    nodes: Vec<RealNode>,
    lock: Option<(NodeId, Moment)>,
    /// Where a node's REST API does not answer, its PostgreSQL is asked.
    asks_postgresql: bool,
    /// Answers on their way: when they arrive, and what they say.
    mail: BTreeMap<(Moment, u64), Observation>,
    posted: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(seed);
        let count = 2 + dice.roll(4) as usize;
        let asks_postgresql = dice.one_in(2);
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
            is_mute: false,
            is_stuck: false,
            is_stranger: false,
        };
        let mut nodes: Vec<RealNode> = (0..count).map(node).collect();
        if count > 2 && dice.one_in(3) {
            nodes[dice.roll(count as u64) as usize].is_stranger = true;
        }
        World { dice, now: Moment::START, nodes, lock: None, asks_postgresql, mail: BTreeMap::new(), posted: 0 }
    }

    fn any_node(&mut self) -> usize {
        self.dice.roll(self.nodes.len() as u64) as usize
    }

    /// Patroni's work on every node: renew, acquire or give up the lock.
    fn live(&mut self) {
        let now = self.now;
        if self.lock.is_some_and(|(_, renewed)| now - renewed > TTL) {
            self.lock = None;
        }
        for id in 0..self.nodes.len() {
            let holds = self.lock.is_some_and(|(holder, _)| holder.index() == id);
            let newest_timeline = self.nodes.iter().map(|node| node.timeline).max().unwrap_or(1);
            let newest_position = self.nodes.iter().map(|node| node.position).max().unwrap_or(0);
            let node = &mut self.nodes[id];
            if !node.is_running || node.is_stranger {
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
                node.busy_until = now + self.dice.ms(100, 3_000);
            } else if node.is_primary && (node.sees_dcs || !node.is_paused) {
                // without the lock, or unable to renew it for a ttl, a primary steps down
                let lapsed = node.lock_renewed.is_none_or(|renewed| now - renewed > TTL);
                if (node.sees_dcs && !holds) || lapsed {
                    node.is_primary = false;
                    node.lock_renewed = None;
                    node.busy_until = now + self.dice.ms(500, 5_000);
                }
            }
            if node.is_primary {
                node.position += self.dice.roll(10_000);
            } else {
                node.timeline = newest_timeline;
                node.position = if node.is_stuck { node.position } else { newest_position };
            }
        }
    }

    /// Something goes wrong, or right again.
    fn trouble(&mut self) {
        let id = self.any_node();
        match self.dice.roll(12) {
            0 => self.nodes[id].is_cut_off = !self.nodes[id].is_cut_off,
            1 => self.nodes[id].is_mute = !self.nodes[id].is_mute,
            2 => self.nodes[id].sees_dcs = !self.nodes[id].sees_dcs,
            3 => self.nodes[id].is_paused = !self.nodes[id].is_paused,
            4 => self.crash(id),
            5 => self.restart(id),
            6 => self.nodes[id].is_stuck = !self.nodes[id].is_stuck,
            // the proxy's machine is suspended: its clock goes on without it
            7 => self.now = self.now + self.dice.ms(1_000, 120_000),
            8 => self.nodes[id].busy_until = self.now + self.dice.ms(100, 8_000),
            _ => self.switch_over(id),
        }
    }

    fn crash(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        (node.is_running, node.is_primary, node.lock_renewed) = (false, false, None);
    }

    fn restart(&mut self, id: usize) {
        let starting = self.dice.ms(100, 4_000);
        let node = &mut self.nodes[id];
        if !node.is_running {
            (node.is_running, node.busy_until) = (true, self.now + starting);
        }
    }

    fn switch_over(&mut self, id: usize) {
        if let Some((holder, _)) = self.lock
            && holder.index() != id
            && self.nodes[holder.index()].sees_dcs
        {
            let stopping = self.dice.ms(200, 3_000);
            let old = &mut self.nodes[holder.index()];
            (old.is_primary, old.lock_renewed, old.busy_until) = (false, None, self.now + stopping);
            self.lock = None;
        }
    }

    fn make_peace(&mut self) {
        for id in 0..self.nodes.len() {
            self.restart(id);
            let node = &mut self.nodes[id];
            (node.is_cut_off, node.is_mute, node.sees_dcs) = (false, false, true);
            (node.is_paused, node.is_stuck) = (false, false);
        }
    }

    /// What a node says of itself now; nothing if it cannot be heard.
    fn answer(&self, id: usize) -> Option<Report> {
        let node = &self.nodes[id];
        if node.is_cut_off || node.is_mute || !node.is_running {
            return None;
        }
        if node.is_stranger {
            let system_identifier = Some("another cluster".to_owned());
            return Some(Report { system_identifier, ..report(Claim::Leader, 99) });
        }
        let is_ready = node.busy_until <= self.now;
        let believes_in_lock = node.is_primary && node.lock_renewed.is_some();
        let claim = match (believes_in_lock, is_ready) {
            (true, true) => Claim::Leader,
            (true, false) => Claim::LockHolder,
            (false, true) if !node.is_primary => Claim::Replica,
            _ => Claim::OutOfService,
        };
        Some(Report { position: Some(Lsn(node.position)), ..report(claim, node.timeline) })
    }

    /// What a node's PostgreSQL says now; nothing if it cannot be heard.
    fn answer_of_postgresql(&self, id: usize) -> Option<Report> {
        let node = &self.nodes[id];
        if !self.asks_postgresql || node.is_cut_off || !node.is_running {
            return None;
        }
        if node.is_stranger {
            let system_identifier = Some("another cluster".to_owned());
            return Some(Report { system_identifier, ..report(Claim::Leader, 99) });
        }
        let claim = match (node.is_primary, node.busy_until <= self.now) {
            (true, true) => Claim::Leader,
            (false, false) => Claim::OutOfService,
            _ => Claim::Replica, // in recovery, being promoted or not
        };
        let word = report(claim, node.timeline);
        Some(Report { position: Some(Lsn(node.position)), patroni_version: None, ..word })
    }

    /// Takes a question: the answer describes the node at some moment on the way and arrives later, or never.
    fn ask(&mut self, real: usize, node: NodeId, asked_at: Moment) {
        let (outcome, delay) = match self.answer(real) {
            Some(report) if !self.dice.one_in(40) => {
                let slow = self.dice.one_in(20);
                let delay = if slow { self.dice.ms(50, 2_000) } else { self.dice.ms(1, 30) };
                (Ok(Arc::new(report)), delay)
            }
            _ if self.dice.one_in(2) => (Err(Silence::Refused), self.dice.ms(1, 5)),
            _ => (Err(Silence::TimedOut), TIMEOUT),
        };
        let second_opinion = match outcome {
            Ok(_) => None,
            Err(_) => {
                self.answer_of_postgresql(real).map(|report| SecondOpinion { asked_at, report: Arc::new(report) })
            }
        };
        self.posted += 1;
        let observation = Observation { node, asked_at, outcome, second_opinion };
        self.mail.insert((self.now + delay, self.posted), observation);
    }

    /// The node that leads beyond doubt, in a world at peace.
    fn true_leader(&self) -> Option<usize> {
        let claims = |id: &usize| {
            !self.nodes[*id].is_stranger && self.answer(*id).is_some_and(|report| report.claim == Claim::Leader)
        };
        let mut claimants = (0..self.nodes.len()).filter(claims);
        let first = claimants.next()?;
        claimants.next().is_none().then_some(first)
    }
}

// ---- the onlooker --------------------------------------------------------------------------------------------

/// What the newest answer of a node said, as the onlooker noted it when it was delivered.
#[derive(Clone)]
struct Noted {
    asked_at: Moment,
    claim: Claim,
    is_stranger: bool,
    position: u64,
    /// How far it was behind the leader, by what the leader had said until then.
    lag: u64,
    /// When the first answer of the present run of claims to the lead came in.
    claims_since: Option<Moment>,
    /// It is Patroni's word, not PostgreSQL's.
    by_patroni: bool,
}

#[derive(Default)]
struct Onlooker {
    noted: BTreeMap<usize, Noted>,
    /// When the newest check of each node was asked for that has ended, answered or not.
    ended: BTreeMap<usize, Moment>,
    /// What operators have said last of each node.
    administered: BTreeMap<usize, AdminState>,
    /// A leader that was suspected, and when: it gets no writes until a later question has come to an end.
    suspected: Option<(NodeId, Moment)>,
    /// Before anybody has led there are no sessions to be misplaced.
    somebody_has_led: bool,
}

impl Onlooker {
    fn note(&mut self, observation: &Observation, leader: Option<NodeId>, now: Moment) {
        let id = observation.node.index();
        let leads = leader == Some(observation.node);
        let asked_at = observation.asked_at;
        self.suspected.take_if(|(node, since)| *node == observation.node && asked_at >= *since);
        let ended = self.ended.entry(id).or_insert(asked_at);
        let comes_late = asked_at < *ended;
        *ended = asked_at.max(*ended);
        let before = self.noted.get(&id);
        let word = match (&observation.outcome, &observation.second_opinion) {
            (Ok(report), _) => Some((report, report.claim, asked_at)),
            (Err(_), Some(_)) if comes_late => None,
            (Err(_), Some(second)) => {
                let worth = worth(second.report.claim, before.map(|noted| noted.claim), leads);
                worth.map(|claim| (&second.report, claim, second.asked_at))
            }
            (Err(_), None) => None,
        };
        let Some((report, claim, described_at)) = word else { return };
        if before.is_some_and(|noted| noted.asked_at > asked_at) {
            return;
        }
        let claims_since = (claim == Claim::Leader).then(|| before.and_then(|noted| noted.claims_since).unwrap_or(now));
        let is_stranger = report.system_identifier.as_deref() == Some("another cluster");
        let position = report.position.map_or(0, |Lsn(position)| position);
        let end = leader.and_then(|leader| self.noted.get(&leader.index())).map_or(0, |leader| leader.position);
        let lag = end.saturating_sub(position);
        let by_patroni = observation.outcome.is_ok();
        self.noted
            .insert(id, Noted { asked_at: described_at, claim, is_stranger, position, lag, claims_since, by_patroni });
    }

    fn forget_departed(&mut self, topology: &Topology) {
        let is_here = |id: usize| topology.nodes.get(id).is_none_or(|node| !node.departed);
        self.noted.retain(|id, _| is_here(*id));
        self.ended.retain(|id, _| is_here(*id));
        self.suspected.take_if(|(node, _)| topology.leader() != Some(*node));
    }

    fn claim(&self, id: NodeId) -> Option<Claim> {
        self.noted.get(&id.index()).map(|noted| noted.claim)
    }

    /// The rules. An error names the one that is broken.
    fn judge(&mut self, topology: &Topology, now: Moment) -> Result<(), String> {
        self.judge_lead(topology, now)?;
        self.somebody_has_led |= topology.leader().is_some();
        if self.somebody_has_led {
            self.judge_sessions(topology)?;
        }
        self.judge_routes(topology)?;
        for (id, view) in topology.members() {
            let known = view.health.answer_asked_at();
            let noted = self.noted.get(&id.index()).map(|noted| noted.asked_at);
            if known < noted && view.health.silence().is_none() {
                return Err(format!("knowledge of {id:?} went backwards: {known:?} after {noted:?}"));
            }
        }
        Ok(())
    }

    fn judge_lead(&self, topology: &Topology, now: Moment) -> Result<(), String> {
        let Some(leader) = topology.leader() else { return Ok(()) };
        let Some(noted) = self.noted.get(&leader.index()) else {
            return Err(format!("{leader:?} leads and has never answered"));
        };
        if noted.is_stranger {
            return Err(format!("{leader:?} leads and belongs to another cluster"));
        }
        let Some(claims_since) = noted.claims_since else {
            return Err(format!("{leader:?} leads and its newest answer says {:?}", noted.claim));
        };
        if now - noted.asked_at > GRACE + Duration::from_millis(5) {
            return Err(format!("{leader:?} leads by an answer older than the grace"));
        }
        let rival = self.noted.iter().find(|(id, other)| {
            let is_fresh = now - other.asked_at <= GRACE;
            !other.is_stranger
                && **id != leader.index()
                && other.claim == Claim::Leader
                && is_fresh
                && (other.by_patroni || !noted.by_patroni)
                && other.asked_at >= claims_since
        });
        let lock = self.noted.iter().find(|(id, other)| {
            let answers = topology.node(NodeId::new(**id)).health.silence().is_none();
            **id != leader.index() && !other.is_stranger && other.by_patroni && other.claim.holds_lock() && answers
        });
        if let (false, Some((holder, _))) = (noted.by_patroni, lock) {
            return Err(format!("{leader:?} leads by PostgreSQL's word while NodeId::new({holder}) holds the lock"));
        }
        match rival {
            Some((rival, _)) => Err(format!("{leader:?} leads while NodeId::new({rival}) goes on claiming")),
            None => Ok(()),
        }
    }

    /// Sessions are in the wrong place for a cause that the node's own words, or another's, bear out.
    fn judge_sessions(&self, topology: &Topology) -> Result<(), String> {
        for (id, view) in topology.members() {
            let noted = self.noted.get(&id.index());
            let leads = topology.leader() == Some(id);
            for target in [Target::Leader, Target::Replica] {
                let rule = Rule { falls_back_to_leader: false, lag_bytes_max: Some(LAG_MAX), ..Rule::new(target) };
                let is_borne_out = match why_misplaced(&rule, topology, id) {
                    None => true,
                    Some(Cause::LostLead) => {
                        let by_its_own_word = noted.is_some_and(|noted| {
                            noted.is_stranger || !matches!(noted.claim, Claim::Leader | Claim::LockHolder)
                        });
                        by_its_own_word || topology.leader().is_some_and(|other| other != id)
                    }
                    Some(Cause::Promotion) => leads && target == Target::Replica,
                    Some(Cause::Lag) => view.recent_lag.is_some_and(|lag| lag.bytes > LAG_MAX),
                    Some(Cause::Silence) => view.health.silence().is_some(),
                    Some(Cause::Operator) => self.is_out_of_service(id),
                    Some(Cause::Standing | Cause::Departure) => false,
                };
                if !is_borne_out {
                    return Err(format!("sessions on {id:?} are misplaced though it says {:?}", self.claim(id)));
                }
            }
        }
        Ok(())
    }

    fn is_out_of_service(&self, id: NodeId) -> bool {
        self.administered.get(&id.index()).is_some_and(|state| *state != AdminState::Ready)
    }

    fn why_no_reader(&self, node: NodeId) -> Option<String> {
        let noted = self.noted.get(&node.index())?;
        match noted.claim {
            Claim::Replica if noted.lag > LAG_MAX => Some(format!("it lags by {} bytes", noted.lag)),
            Claim::Replica => None,
            other => Some(format!("it says {other:?}")),
        }
    }

    fn judge_routes(&self, topology: &Topology) -> Result<(), String> {
        let rule = |target| Rule { falls_back_to_leader: false, lag_bytes_max: Some(LAG_MAX), ..Rule::new(target) };
        let routed = |target, turn| {
            route(topology, &rule(target), &Situation { tried: &[], turn, load: |_| 0, now: Moment::START })
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
                && self.why_no_reader(node).is_some()
            {
                return Err(format!("a read is sent to {node:?}: {:?}", self.why_no_reader(node)));
            }
        }
        Ok(())
    }
}

/// What PostgreSQL's word is worth while Patroni is silent, in view of what the node said last: it takes the lead
/// away, it keeps it for the leader, and it gives it to nobody.
fn worth(word: Claim, before: Option<Claim>, leads: bool) -> Option<Claim> {
    let had_lock = before.is_some_and(Claim::keeps_writers);
    match word {
        Claim::Leader => (leads && before == Some(Claim::Leader)).then_some(Claim::Leader),
        Claim::OutOfService if had_lock => Some(Claim::LockHolder),
        other => Some(other),
    }
}

// ---- one run -------------------------------------------------------------------------------------------------

struct Run {
    world: World,
    machine: Machine,
    onlooker: Onlooker,
    topology: Arc<Topology>,
    /// Since when the world has had one leader that can be heard, and the machine another belief.
    wrong_since: Option<Moment>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut world = World::new(seed);
        // the operator has named some of the nodes; the others are found by and by
        // (all, where there is a stranger: it is one among many, not the only one that the operator meant)
        let has_stranger = world.nodes.iter().any(|node| node.is_stranger);
        let named = if has_stranger { world.nodes.len() } else { 1 + world.any_node() };
        let settings = Settings {
            interval: INTERVAL,
            fast_interval: Duration::from_millis(100),
            leader_grace: GRACE,
            thresholds: Thresholds { rise: 2, fall: 3 },
            scope: None,
            seed,
        };
        let members = (0..named).map(|id| member(&format!("node{id}"))).collect();
        let machine = Machine::new(settings, members, Moment::START);
        let topology = Arc::new(machine.topology());
        Run { world, machine, onlooker: Onlooker::default(), topology, wrong_since: None }
    }

    fn feed(&mut self, event: Event) -> Result<(), String> {
        let now = self.world.now;
        match &event {
            Event::Checked(observation) => self.onlooker.note(observation, self.topology.leader(), now),
            Event::Administered(node, state) => drop(self.onlooker.administered.insert(node.index(), *state)),
            _ => {}
        }
        for action in self.machine.handle(event, now) {
            match action {
                Action::Check { node, asked_at } => self.world.ask(self.real(node), node, asked_at),
                Action::Publish(topology) => {
                    if topology.generation <= self.topology.generation {
                        return Err("a picture is not newer than the one before".to_owned());
                    }
                    self.onlooker.forget_departed(&topology);
                    self.topology = topology;
                }
                Action::Tell(_) => {}
            }
        }
        self.onlooker.judge(&self.topology, now)
    }

    /// Which node of the world the machine knows by this number.
    fn real(&self, node: NodeId) -> usize {
        let name = &self.machine.member(node).name;
        name.trim_start_matches("node").parse().expect("nodes are called by their numbers")
    }

    /// Lives until `end`, with something happening to the world about every `every`.
    fn until(&mut self, end: Moment, every: Option<Duration>) -> Result<(), String> {
        let mut next_life = self.world.now;
        while self.world.now < end {
            let mail = self.world.mail.keys().next().map(|(at, _)| *at);
            let wakeup = self.machine.next_wakeup();
            let next = [Some(next_life), mail, wakeup, Some(end)].into_iter().flatten().min().unwrap_or(end);
            self.world.now = self.world.now.max(next);
            if self.world.now >= next_life {
                self.world.live();
                if every.is_some_and(|every| self.world.dice.one_in(every.as_millis() as u64 / 100)) {
                    self.world.trouble();
                }
                next_life = self.world.now + Duration::from_millis(100);
            }
            let due = self.world.mail.first_key_value().is_some_and(|((at, _), _)| *at <= self.world.now);
            let event = match due.then(|| self.world.mail.pop_first()).flatten() {
                Some((_, observation)) => Event::Checked(observation),
                None if self.world.dice.one_in(500) => Event::Discovered(self.list(every.is_some())),
                None if self.world.dice.one_in(200) => self.some_suspicion(),
                None if self.world.dice.one_in(200) => {
                    self.administer()?;
                    continue;
                }
                None => Event::Tick,
            };
            self.feed(event)?;
            if every.is_none() {
                self.judge_convergence()?;
            }
        }
        Ok(())
    }

    /// What `/cluster` tells: all members, or, if it is stale, some of them.
    fn list(&mut self, is_stale: bool) -> Discovery {
        let count = self.world.nodes.len();
        let listed = (0..count).filter(|_| !(is_stale && self.world.dice.one_in(4)));
        Discovery { members: listed.map(|id| member(&format!("node{id}"))).collect(), scheduled_switchover: None }
    }

    fn some_suspicion(&mut self) -> Event {
        let node = NodeId::new(self.world.any_node());
        if self.topology.leader() == Some(node) {
            self.onlooker.suspected = Some((node, self.world.now));
        }
        let is_known = node.index() < self.topology.nodes.len();
        if is_known && self.world.dice.one_in(2) { Event::Failure(node) } else { Event::Suspicion(node) }
    }

    /// An operator says something of a node, and nobody else's part changes by that.
    fn administer(&mut self) -> Result<(), String> {
        let node = NodeId::new(self.world.dice.roll(self.topology.nodes.len() as u64) as usize);
        let state = AdminState::ALL[self.world.dice.roll(3) as usize];
        self.feed(Event::Tick)?;
        let before = (self.topology.leadership.clone(), self.topology.doubted);
        self.feed(Event::Administered(node, state))?;
        if before != (self.topology.leadership.clone(), self.topology.doubted) {
            return Err(format!("an operator has made {node:?} {state:?}, and the lead has changed"));
        }
        Ok(())
    }

    fn judge_convergence(&mut self) -> Result<(), String> {
        let (now, truth) = (self.world.now, self.world.true_leader());
        let belief = self.topology.leader().map(|leader| self.real(leader));
        if truth.is_none() || truth == belief {
            self.wrong_since = None;
            return Ok(());
        }
        let since = *self.wrong_since.get_or_insert(now);
        if now - since > CONVERGENCE_MAX {
            return Err(format!("{truth:?} leads for {:?}, and the machine believes {belief:?}", now - since));
        }
        Ok(())
    }
}

/// Lives through one world. The error is the rule that was broken, and when.
fn simulate(seed: u64) -> Result<Topology, String> {
    let mut run = Run::new(seed);
    let troubled_until = Moment::START + TROUBLED;
    let pace = run.world.dice.ms(500, 20_000);
    let outcome = run.until(troubled_until, Some(pace)).and_then(|()| {
        run.world.make_peace();
        let whole = Event::Discovered(run.list(false));
        run.feed(whole)?;
        run.until(run.world.now + PEACE, None)
    });
    outcome.map_err(|rule| format!("at {:?}: {rule}", run.world.now.since_start()))?;
    Ok(Topology::clone(&run.topology))
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_rule_is_broken_in_any_world() {
    let seeds = match (from_environment("PGVANE_SIM_SEED"), from_environment("PGVANE_SIM_SEEDS")) {
        (Some(one), _) => one..one + 1,
        (None, Some(many)) => 0..many,
        (None, None) => 0..SEEDS,
    };
    let count = seeds.end - seeds.start;
    for seed in seeds {
        match simulate(seed) {
            Ok(topology) => {
                assert!(matches!(topology.leadership, Leadership::Led { .. }), "seed {seed}: nobody leads at the end");
            }
            Err(broken) => panic!("seed {seed}: {broken}"),
        }
    }
    let hours = count as f64 * (TROUBLED + PEACE).as_secs_f64() / 3600.0;
    println!("{count} seeds, {hours:.0} simulated hours, no rule broken");
}
