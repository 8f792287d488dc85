//! The memory for names, with lookups that answer as a test says, and a clock that the tests advance.

use std::net::Ipv4Addr;
use std::sync::atomic::AtomicUsize;

use tokio::time::advance;

use super::*;

const PORT: u16 = 5432;

/// Stands for the system's resolver. It gives the same answer to every lookup; while that is `None`, it gives none.
struct Fake {
    answer: watch::Sender<Option<Answer>>,
    lookups: Arc<AtomicUsize>,
}

impl Fake {
    fn with(answer: Answer) -> (Fake, Arc<Resolver>) {
        let fake = Fake { answer: watch::Sender::new(Some(answer)), lookups: Arc::default() };
        let (answers, lookups) = (fake.answer.subscribe(), Arc::clone(&fake.lookups));
        let resolver = Resolver::with_lookup(Box::new(move |_| {
            lookups.fetch_add(1, Relaxed);
            let mut answers = answers.clone();
            Box::pin(async move {
                let answer = answers.wait_for(Option::is_some).await.expect("the test goes on");
                answer.clone().expect("was waited for")
            })
        }));
        (fake, resolver)
    }

    fn answers(&self, answer: Answer) {
        self.answer.send_replace(Some(answer));
    }

    fn falls_silent(&self) {
        self.answer.send_replace(None);
    }

    fn lookups(&self) -> usize {
        self.lookups.load(Relaxed)
    }
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn found(last: &[u8]) -> Answer {
    Ok(last.iter().map(|last| (ip(*last), 0).into()).collect())
}

fn failed() -> Answer {
    Err(NameError::Failed("Temporary failure in name resolution".to_owned()))
}

fn not_found() -> Answer {
    Err(NameError::NotFound("Name or service not known".to_owned()))
}

/// Asks for `pg1`, and returns the last bytes of its addresses, and how long that took.
async fn ask(resolver: &Arc<Resolver>) -> (Result<Vec<u8>, String>, Duration) {
    let began = Instant::now();
    let answer = resolver.addresses("pg1", PORT, began + Duration::from_secs(5)).await;
    let last = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(_) => panic!("only IPv4 was answered"),
    };
    let answer = answer.map(|addresses| addresses.iter().map(last).collect());
    (answer.map_err(|error| error.to_string()), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn while_the_resolver_is_silent_the_last_addresses_serve_after_a_short_wait() {
    let (fake, resolver) = Fake::with(found(&[1]));
    assert_eq!(ask(&resolver).await, (Ok(vec![1]), Duration::ZERO));
    fake.falls_silent();
    advance(FRESH_FOR).await;
    assert_eq!(ask(&resolver).await, (Ok(vec![1]), PATIENCE), "it may be only slow");
    for _ in 0..100 {
        assert_eq!(ask(&resolver).await, (Ok(vec![1]), PATIENCE_WITH_SLOW_RESOLVER));
        advance(Duration::from_secs(10)).await;
    }
    assert_eq!(fake.lookups(), 2, "each lookup without an answer would occupy a thread");
}

#[tokio::test(start_paused = true)]
async fn a_failing_resolver_takes_no_address_away() {
    let (fake, resolver) = Fake::with(found(&[1, 2]));
    assert_eq!(ask(&resolver).await.0, Ok(vec![1, 2]));
    fake.answers(failed());
    for _ in 0..1000 {
        advance(Duration::from_secs(60)).await;
        assert_eq!(ask(&resolver).await, (Ok(vec![1, 2]), Duration::ZERO));
    }
    let [unresolved] = &resolver.unresolved()[..] else { panic!("one name") };
    assert_eq!((unresolved.name.as_str(), &unresolved.addresses[..]), ("pg1", &[ip(1), ip(2)][..]));
    assert!(unresolved.since >= Duration::from_secs(999 * 60), "{:?}", unresolved.since);

    fake.answers(found(&[3]));
    advance(FRESH_FOR).await;
    assert_eq!(ask(&resolver).await.0, Ok(vec![3]));
    assert_eq!(resolver.unresolved(), []);
    assert_eq!(resolver.counts(), LookupCounts { answered: 2, not_found: 0, failed: 1000 });
}

#[tokio::test(start_paused = true)]
async fn the_addresses_of_a_name_that_is_deleted_serve_for_another_thirty_seconds() {
    for answer in [not_found(), found(&[])] {
        let (fake, resolver) = Fake::with(found(&[1]));
        assert_eq!(ask(&resolver).await.0, Ok(vec![1]));
        fake.answers(answer);
        advance(FRESH_FOR).await;
        assert_eq!(ask(&resolver).await.0, Ok(vec![1]));
        advance(NOT_FOUND_HOLD - Duration::from_millis(1)).await;
        // that the resolver fails after it has said so does not bring the name back
        fake.answers(failed());
        assert_eq!(ask(&resolver).await.0, Ok(vec![1]));
        advance(FRESH_FOR).await;
        assert!(ask(&resolver).await.0.is_err());

        fake.answers(found(&[2]));
        advance(FRESH_FOR).await;
        assert_eq!(ask(&resolver).await.0, Ok(vec![2]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_used_from_then_on() {
    let (fake, resolver) = Fake::with(found(&[1]));
    assert_eq!(ask(&resolver).await.0, Ok(vec![1]));
    fake.falls_silent();
    advance(FRESH_FOR).await;
    assert_eq!(ask(&resolver).await.0, Ok(vec![1]));
    advance(SILENT_AFTER).await;
    tokio::task::yield_now().await;
    assert_eq!(resolver.unresolved().len(), 1);
    fake.answers(found(&[2]));
    assert_eq!(ask(&resolver).await, (Ok(vec![2]), Duration::ZERO));
    assert_eq!(resolver.unresolved(), []);
}

#[tokio::test(start_paused = true)]
async fn a_changed_address_is_used_a_second_later_or_as_soon_as_the_old_one_fails() {
    let (fake, resolver) = Fake::with(found(&[1]));
    assert_eq!(ask(&resolver).await.0, Ok(vec![1]));
    fake.answers(found(&[2]));
    assert_eq!(ask(&resolver).await.0, Ok(vec![1]), "an answer is used for a second");
    advance(FRESH_FOR).await;
    assert_eq!(ask(&resolver).await.0, Ok(vec![2]));

    fake.answers(found(&[3]));
    resolver.not_connected("pg1");
    assert_eq!(ask(&resolver).await.0, Ok(vec![3]));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_connections_at_once_share_one_lookup() {
    let (fake, resolver) = Fake::with(found(&[1]));
    fake.falls_silent();
    let asking: Vec<_> = (0..1000)
        .map(|_| {
            tokio::spawn({
                let resolver = Arc::clone(&resolver);
                async move { ask(&resolver).await.0 }
            })
        })
        .collect();
    advance(Duration::from_secs(1)).await;
    fake.answers(found(&[1]));
    for asked in asking {
        assert_eq!(asked.await.expect("no panic"), Ok(vec![1]));
    }
    assert_eq!(fake.lookups(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_was_never_resolved_is_waited_for_until_the_deadline() {
    let (fake, resolver) = Fake::with(failed());
    let why = "its name cannot be resolved: Temporary failure in name resolution";
    assert_eq!(ask(&resolver).await, (Err(why.to_owned()), Duration::ZERO));
    fake.falls_silent();
    advance(FRESH_FOR).await;
    let (answer, took) = ask(&resolver).await;
    assert_eq!(answer, Err("its name cannot be resolved: the resolver does not answer within 3 s".to_owned()));
    assert_eq!(took, Duration::from_secs(5));
    fake.answers(not_found());
    let why = "its name does not exist: Name or service not known";
    assert_eq!(ask(&resolver).await.0, Err(why.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_caller_in_a_hurry_keeps_half_of_its_time_for_connecting() {
    let (fake, resolver) = Fake::with(found(&[1]));
    assert_eq!(ask(&resolver).await.0, Ok(vec![1]));
    fake.falls_silent();
    advance(FRESH_FOR).await;
    let began = Instant::now();
    let answer = resolver.addresses("pg1", PORT, began + Duration::from_millis(200)).await;
    assert_eq!((answer.is_ok(), began.elapsed()), (true, Duration::from_millis(100)));
}

#[tokio::test(start_paused = true)]
async fn the_address_that_was_connected_to_comes_first_for_its_port() {
    let (_fake, resolver) = Fake::with(found(&[1, 2, 3]));
    assert_eq!(ask(&resolver).await.0, Ok(vec![1, 2, 3]));
    resolver.connected("pg1", PORT, ip(2));
    resolver.connected("pg1", 8008, ip(3));
    assert_eq!(ask(&resolver).await.0, Ok(vec![2, 1, 3]));
    let rest_api = resolver.addresses("pg1", 8008, Instant::now() + PATIENCE).await.expect("is known");
    assert_eq!(rest_api[0], (ip(3), 8008).into());
    resolver.connected("pg1", PORT, ip(9)); // an address that the name does not have any more
    assert_eq!(ask(&resolver).await.0, Ok(vec![1, 2, 3]));
}

#[test]
fn families_alternate_and_the_number_of_addresses_is_limited() {
    let parse = |texts: &[&str]| -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().expect("an address"), 0)).collect()
    };
    let ordered = in_order(parse(&["fd00::1", "fd00::2", "fd00::1", "fd00::3", "10.0.0.1", "10.0.0.2"]));
    assert_eq!(ordered, parse(&["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2", "fd00::3"]));
    let many = (0..200).map(|last| (ip(last), 0).into()).collect();
    assert_eq!(in_order(many).len(), ADDRESSES_MAX);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_names_is_limited_and_those_in_use_stay() {
    let (fake, resolver) = Fake::with(found(&[1]));
    let deadline = || Instant::now() + PATIENCE;
    for number in 0..NAMES_MAX * 2 {
        resolver.addresses("in-use", PORT, deadline()).await.expect("is answered");
        resolver.addresses(&format!("pod-{number}"), PORT, deadline()).await.expect("is answered");
        advance(Duration::from_micros(1)).await;
    }
    assert!(resolver.names.lock().len() <= NAMES_MAX);
    assert_eq!(fake.lookups(), NAMES_MAX * 2 + 1, "the name in use was forgotten");
}

#[tokio::test]
async fn the_systems_resolver_knows_this_host() {
    let deadline = Instant::now() + Duration::from_secs(20);
    let addresses = Resolver::system().addresses("localhost", PORT, deadline).await.expect("every host has this name");
    assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == PORT), "{addresses:?}");
}
