//! A simulated cluster with faults and delays, in which hours pass in seconds, and an oracle that checks the machine: it
//! knows the rules, but not how the machine works.
//!
//! The rules. In brackets: the faults that were put into the machine to see that the rule finds them.
//!
//! - a leader's newest answer says that it leads, and is not older than the grace (a lock holder led; a claim never
//!   expired; silence renewed the answer's age);
//! - no node leads while another keeps claiming to lead (a repeated claim was ignored like a stale one);
//! - a node of another cluster does not lead once more than half of the nodes have answered at the same time (foreign
//!   nodes were accepted; the first answer decided which cluster it is). Before that, it can be the only node that
//!   answers, and only the configured `scope` can tell it from a cluster whose other nodes are down;
//! - knowledge never goes backwards (late answers were accepted);
//! - no write goes to a leader that is suspected (a doubted leader got writes; an earlier check ended the doubt);
//! - no read goes to a node that is not a replica, or lags (nodes out of service got reads; lag was ignored);
//! - an administrative state takes a node's new sessions away, and decides nothing else (a drained leader got writes; a
//!   leader in maintenance lost the lead);
//! - a reload changes the lead only if the node that leads is not named any more (its knowledge was not kept);
//! - sessions are misplaced only for a cause that the answers of the nodes prove (silence, or a restart under the lock,
//!   cut writers);
//! - without faults, the machine finds the leader in time (one check in fifty was never followed by another).
//!
//! More seeds: `PGVANE_SIM_SEEDS=1000000 cargo test --release --lib simulation -- --nocapture`, from seed 500000 on with
//! `PGVANE_SIM_FIRST=500000`. Each seed that breaks a rule is printed; `PGVANE_SIM_SEED=4711` runs one seed again and
//! prints its events and topologies.

mod oracle;
mod world;

use std::sync::Arc;
use std::time::Duration;

use self::oracle::{GRACE, Oracle};
use self::world::World;
use crate::cluster::event::{Action, Discovery, Event, Reconfigured};
use crate::cluster::fixtures::member;
use crate::cluster::health::Thresholds;
use crate::cluster::machine::Machine;
use crate::cluster::machine_settings::Settings;
use crate::cluster::node::{Observation, Report};
use crate::cluster::{AdminState, HostPort, Member, Moment, NodeId, NodeSet, Suspicion, Topology};

/// The number of seeds in every test run; each makes another world.
const SEEDS: u64 = 2_000;

/// How long each world has faults …
const WITH_FAULTS: Duration = Duration::from_secs(120);

/// … and how long it has none after that, so that the machine can find the leader.
const WITHOUT_FAULTS: Duration = Duration::from_secs(20);

/// A test run ends after this many seeds that break a rule.
const BROKEN_MAX: usize = 20;

const INTERVAL: Duration = Duration::from_secs(1);

const THRESHOLDS: Thresholds = Thresholds { rise: 2, fall: 3 };

/// In a world without faults: two checks in a row that time out, an interval after each, and the answer.
const CONVERGENCE_MAX: Duration = Duration::from_secs(7);

struct Run {
    world: World,
    machine: Machine,
    oracle: Oracle,
    topology: Arc<Topology>,
    /// Since when the world has one leader that can be reached, and the machine knows another one or none.
    wrong_since: Option<Moment>,
    /// A client causes suspicions all the time.
    client_causes_suspicions: bool,
    /// The configuration has members discovered.
    discovers: bool,
    /// Print the events and topologies.
    is_verbose: bool,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut world = World::new(seed);
        // the operator has named some of the nodes; discovery finds the others
        // (with a node of another cluster, the operator has named all: that node must not be the only one named)
        let has_foreign = world.nodes.iter().any(|node| node.is_foreign);
        let named = if has_foreign { world.nodes.len() } else { 1 + world.any_node() };
        let members = (0..named).map(named_member).collect();
        let machine = Machine::new(settings(THRESHOLDS, seed), members, Moment::START);
        let topology = Arc::new(machine.topology());
        let is_verbose = from_environment("PGVANE_SIM_SEED").is_some();
        let client_causes_suspicions = world.random.one_in(4);
        let oracle = Oracle::default();
        Run {
            world,
            machine,
            oracle,
            topology,
            wrong_since: None,
            client_causes_suspicions,
            discovers: true,
            is_verbose,
        }
    }

    fn feed(&mut self, event: Event) -> Result<(), String> {
        let now = self.world.now;
        match &event {
            // an answer of a node that has gone says nothing about the one that comes again under its number
            Event::Checked(observation) if self.topology.node(observation.node).departed => {}
            Event::Checked(observation) => self.oracle.note(observation, self.topology.leader(), now),
            Event::Administered(node, state) => drop(self.oracle.administered.insert(node.index(), *state)),
            _ => {}
        }
        if self.is_verbose && !matches!(event, Event::Tick) {
            println!("{:?}: {}", now.since_start(), described(&event));
        }
        let mut is_change = !matches!(event, Event::Tick);
        for action in self.machine.handle(event, now) {
            is_change |= matches!(action, Action::Publish(_));
            match action {
                Action::Check { node, asked_at } => self.world.ask(self.real(node), node, asked_at),
                Action::Publish(topology) => {
                    if topology.generation <= self.topology.generation {
                        return Err("a topology is not newer than the one before".to_owned());
                    }
                    self.oracle.forget_departed(&topology);
                    self.topology = topology;
                    if self.is_verbose {
                        println!("    {:?}, doubted {:?}", self.topology.leadership, self.topology.doubted_at);
                    }
                    if let (Some(doubted_at), Some(leader)) = (self.topology.doubted_at, self.topology.leader()) {
                        self.oracle.suspected = Some((leader, doubted_at));
                    }
                }
                Action::Tell(_) => {}
            }
        }
        self.oracle.check_lead(&self.topology, now)?;
        // nothing else can be broken by the passing of time alone
        if is_change { self.oracle.check(&self.topology, now) } else { Ok(()) }
    }

    /// The node of the world that has this number in the machine.
    fn real(&self, node: NodeId) -> usize {
        let name = &self.machine.member(node).name;
        name.trim_start_matches("node").parse().expect("nodes are called by their numbers")
    }

    /// Runs until `end`, with a fault about every `every`.
    fn until(&mut self, end: Moment, every: Option<Duration>) -> Result<(), String> {
        let mut next_patroni_run = self.world.now;
        while self.world.now < end {
            let in_transit = self.world.in_transit.keys().next().map(|(at, _)| *at);
            let wakeup = self.machine.next_wakeup();
            let next =
                [Some(next_patroni_run), in_transit, wakeup, Some(end)].into_iter().flatten().min().unwrap_or(end);
            self.world.now = self.world.now.max(next);
            if self.world.now >= next_patroni_run {
                self.world.run_patroni();
                if every.is_some_and(|every| self.world.random.one_in(every.as_millis() as u64 / 100)) {
                    let before = self.world.now;
                    self.world.begin_or_end_fault();
                    if self.world.now - before > Duration::from_millis(1500) {
                        self.feed(Event::Suspended)?;
                    }
                }
                next_patroni_run = self.world.now + Duration::from_millis(100);
            }
            let due = self.world.in_transit.first_key_value().is_some_and(|((at, _), _)| *at <= self.world.now);
            let event = match due.then(|| self.world.in_transit.pop_first()).flatten() {
                Some((_, observation)) => Event::Checked(observation),
                None if self.discovers && self.world.random.one_in(500) => {
                    Event::Discovered(self.list(every.is_some()), NodeSet::default())
                }
                None if self.world.random.one_in(if self.client_causes_suspicions { 2 } else { 200 }) => {
                    self.some_suspicion()
                }
                None if self.world.random.one_in(200) => {
                    self.administer()?;
                    continue;
                }
                None if every.is_some() && self.world.random.one_in(1_000) => {
                    self.reload()?;
                    continue;
                }
                None => Event::Tick,
            };
            self.feed(event)?;
            if every.is_none() {
                self.check_convergence()?;
            }
        }
        Ok(())
    }

    /// The answer of `/cluster`: all members, or, if it is stale, some of them.
    fn list(&mut self, is_stale: bool) -> Discovery {
        let count = self.world.nodes.len();
        let listed: Vec<usize> = (0..count).filter(|_| !(is_stale && self.world.random.one_in(4))).collect();
        let moves = is_stale && self.world.random.one_in(5);
        let at = |id: usize| {
            let whole = member(&format!("node{id}"));
            let moved =
                || HostPort::new(&format!("{}.{}", whole.address.host(), self.world.sent), whole.address.port());
            let address = if moves { moved().expect("is a host") } else { whole.address.clone() };
            Member { address, ..whole }
        };
        Discovery { members: listed.into_iter().map(at).collect(), ..Discovery::default() }
    }

    fn some_suspicion(&mut self) -> Event {
        let node = NodeId::new(self.world.any_node());
        if node.index() >= self.topology.nodes.len() {
            return Event::Tick; // the machine does not know it yet
        }
        const KINDS: [Suspicion; 4] =
            [Suspicion::ConnectFailed, Suspicion::ConnectionLost, Suspicion::ShuttingDown, Suspicion::ReadOnly];
        let kind = KINDS[self.world.random.below(4) as usize];
        match self.world.random.below(3) {
            0 => Event::Failure(node, None, "refused".to_owned(), Some(kind)),
            1 => Event::LoginHint(node, None, self.world.random.one_in(2)),
            _ => Event::Suspicion(node, kind),
        }
    }

    /// An operator sets the state of a node. No other node changes by that.
    fn administer(&mut self) -> Result<(), String> {
        let node = NodeId::new(self.world.random.below(self.topology.nodes.len() as u64) as usize);
        let state = AdminState::ALL[self.world.random.below(3) as usize];
        self.feed(Event::Tick)?;
        let before = (self.topology.leadership.clone(), self.topology.doubted_at);
        self.feed(Event::Administered(node, state))?;
        if before != (self.topology.leadership.clone(), self.topology.doubted_at) {
            return Err(format!("an operator has made {node:?} {state:?}, and the lead has changed"));
        }
        Ok(())
    }

    /// An operator changes the configuration: which nodes it names, whether it has others discovered, how it counts answers.
    /// A node that leads goes on leading, unless it is not a member any more.
    fn reload(&mut self) -> Result<(), String> {
        let count = self.world.nodes.len();
        // all, if there is a node of another cluster: see `new`
        let names_all = self.world.nodes.iter().any(|node| node.is_foreign);
        let mut named: Vec<usize> = (0..count).filter(|_| names_all || !self.world.random.one_in(3)).collect();
        if named.is_empty() {
            named.push(self.world.any_node());
        }
        self.discovers = names_all || !self.world.random.one_in(3);
        let [rise, fall] = [3, 4].map(|max| 1 + self.world.random.below(max) as u32);
        self.feed(Event::Tick)?;
        let before = self.topology.leader().map(|leader| self.real(leader));
        let stays = before.filter(|leader| self.discovers || named.contains(leader));
        self.reconfigure(&named, Thresholds { rise, fall })?;
        let after = self.topology.leader().map(|leader| self.real(leader));
        if stays.is_some() && after != stays {
            return Err(format!("a reload names {named:?}, and {after:?} leads in place of {before:?}"));
        }
        Ok(())
    }

    fn reconfigure(&mut self, named: &[usize], thresholds: Thresholds) -> Result<(), String> {
        self.feed(Event::Reconfigured(Reconfigured {
            settings: settings(thresholds, 0),
            members: named.iter().copied().map(named_member).collect(),
            discovers: self.discovers,
            busy: NodeSet::default(),
        }))
    }

    fn check_convergence(&mut self) -> Result<(), String> {
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

fn named_member(id: usize) -> Member {
    member(&format!("node{id}"))
}

fn settings(thresholds: Thresholds, seed: u64) -> Settings {
    Settings {
        interval: INTERVAL,
        fast_interval: Duration::from_millis(100),
        leader_grace: GRACE,
        thresholds,
        scope: None,
        seed,
    }
}

/// An event as one line.
fn described(event: &Event) -> String {
    let Event::Checked(Observation { node, asked_at, outcome, second_opinion }) = event else {
        return format!("{event:?}");
    };
    let says = |report: &Arc<Report>| (report.claim, report.timeline, report.system_identifier.clone());
    let outcome = outcome.as_ref().map(says);
    let second = second_opinion.as_ref().map(|second| (second.asked_at, says(&second.report)));
    format!("{node:?}, asked at {:?}: {outcome:?}, second opinion {second:?}", asked_at.since_start())
}

/// Runs one world. The error is the rule that was broken, and when.
fn simulate(seed: u64) -> Result<Topology, String> {
    let mut run = Run::new(seed);
    let faults_until = Moment::START + WITH_FAULTS;
    let pace = run.world.random.ms(500, 20_000);
    let outcome = run.until(faults_until, Some(pace)).and_then(|()| {
        run.world.end_all_faults();
        run.discovers = true;
        let all: Vec<usize> = (0..run.world.nodes.len()).collect();
        run.reconfigure(&all, THRESHOLDS)?;
        let whole = Event::Discovered(run.list(false), NodeSet::default());
        run.feed(whole)?;
        run.until(run.world.now + WITHOUT_FAULTS, None)
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
        (None, Some(many)) => {
            let first = from_environment("PGVANE_SIM_FIRST").unwrap_or(0);
            first..first + many
        }
        (None, None) => 0..SEEDS,
    };
    let count = seeds.end - seeds.start;
    let mut broken = Vec::new();
    for seed in seeds {
        let rule = match simulate(seed) {
            Ok(topology) if topology.leader().is_some() => continue,
            Ok(_) => "no node leads at the end".to_owned(),
            Err(rule) => rule,
        };
        println!("seed {seed}: {rule}");
        broken.push(seed);
        if broken.len() == BROKEN_MAX {
            break;
        }
    }
    assert!(broken.is_empty(), "these seeds break a rule (see above): {broken:?}");
    let hours = count as f64 * (WITH_FAULTS + WITHOUT_FAULTS).as_secs_f64() / 3600.0;
    println!("{count} seeds, {hours:.0} simulated hours, no rule broken");
}
