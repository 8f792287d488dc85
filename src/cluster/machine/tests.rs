//! The machine with two or three nodes and a clock.

use std::num::NonZeroU16;

use super::*;
use crate::cluster::fixtures::{at_ms, leader, member, replica};
use crate::cluster::health::Thresholds;
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
        let machine =
            Machine::new(settings, ["a", "b", "c"][..says.len()].iter().map(|name| member(name)).collect(), at_ms(0));
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
fn the_leader_is_doubtful_until_a_check_that_was_sent_later_has_ended() {
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
    let asks = |node| sent.iter().any(|action| matches!(action, Action::Check { node: asked, .. } if *asked == node));
    assert!(asks(LEADER) && asks(REPLICA), "all nodes are asked at once: {sent:?}");
    let fresh =
        Observation { node: LEADER, asked_at: bench.now, outcome: Err(CheckError::TimedOut), second_opinion: None };
    bench.machine.handle(Event::Checked(fresh), bench.now);
    assert!(bench.machine.topology().doubted_at.is_none(), "silence says nothing");
    assert_eq!(bench.machine.topology().leader(), Some(LEADER));
}

#[test]
fn a_node_that_failed_a_client_is_tried_last_until_a_check_one_interval_later_is_answered() {
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
fn another_port_of_the_leader_that_is_closed_causes_checks_at_once_and_delays_no_writer() {
    let mut bench = TestCluster::new(Ok(leader(1)), Ok(replica(1)));
    bench.feed(Event::Tick);
    bench.checks_in(Duration::from_secs(5));
    let (pooler, why) = (NonZeroU16::new(6432), "connection refused".to_owned());
    let failure = Event::Failure(LEADER, pooler, why, Some(Suspicion::OtherPortFailed));
    let actions = bench.machine.handle(failure, bench.now);
    assert!(actions.iter().any(|action| matches!(action, Action::Check { .. })), "the host may be gone: {actions:?}");
    let topology = bench.machine.topology();
    assert!(topology.doubted_at.is_none(), "PostgreSQL's own port may be in order");
    assert_eq!([pooler, None].map(|port| topology.node(LEADER).ports.fails_clients(port)), [true, false]);
}

#[test]
fn a_suspicion_of_a_replica_does_not_make_the_leader_doubtful() {
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
