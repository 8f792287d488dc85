//! `config/keepalived`: two database nodes and one address, followed by its README on machines of their own, with real
//! keepalived, PostgreSQL, Patroni and etcd, and an application in PHP.

use std::time::{Duration, Instant};

use pgvane_loadtest::machine::Machine;
use pgvane_loadtest::wait;

use super::php::PhpWriter;
use super::readme::Readme;
use super::{copied, machines, patroni_is_downloaded, typed, typed_until};

const ADDRESS: &str = "10.0.0.10";
const SOON: Duration = Duration::from_secs(60);
/// `ttl` in the folder's patroni.yml is 20 s; the machine is busy.
const FAILOVER_WITHIN: Duration = Duration::from_secs(120);
/// What PHP may be without service when a machine is shut down: Patroni's own switchover and the move of the address.
const PLANNED_GAP_MAX: f64 = 20.0;
/// The same after a machine has lost its power: `ttl`, the election, and the time to connect.
const CRASH_GAP_MAX: f64 = 60.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "four machines, three failovers: three minutes"]
async fn the_address_moves_and_an_application_in_php_goes_on() {
    let wanted = [("db1", "10.0.0.11"), ("db2", "10.0.0.12"), ("quorum", "10.0.0.13"), ("web", "10.0.0.20")];
    let Some((_switch, [db1, db2, quorum, web])) = machines(wanted).await else { return };
    let readme = Readme::of("keepalived");
    readme.leaves_no_address_behind("0.", r"10\.0\.0\.[0-9]|eth0");
    set_up(&readme, &db1, &db2, &quorum).await;
    let pair = Pair([&db1, &db2]);
    let [create] = readme.commands("7.");
    typed(&db1, create);
    let php = application(&readme, &web);
    php.goes_on(SOON).await;

    // planned: the machine with the address and the leader is shut down
    pair.make_leader(pair.holder().await).await;
    let [power_off] = readme.commands("Try it");
    assert_eq!(power_off.trim(), "systemctl poweroff");
    let (away, other) = (pair.holder().await, 1 - pair.holder().await);
    let moment = php.now();
    pair.0[away].shut_down().await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(pair.holder().await, other);
    php.goes_on(FAILOVER_WITHIN).await;
    report("shut down, the leader and the address", &php, moment, PLANNED_GAP_MAX);
    pair.0[away].boot().await.unwrap_or_else(|error| panic!("{error}"));
    pair.wait_until_streams(away).await;
    assert_eq!(pair.holder().await, other, "the address stays");

    // the machine with the address loses its power; the other one leads, and has a session through its own pgvane
    let (away, other) = (other, away);
    pair.make_leader(other).await;
    php.goes_on(SOON).await;
    let neighbour = Neighbour::start(&web, other).await;
    let moment = php.now();
    pair.0[away].cut_power().await.unwrap_or_else(|error| panic!("{error}"));
    php.goes_on(FAILOVER_WITHIN).await;
    assert_eq!(pair.holder().await, other);
    report("power cut, the address alone", &php, moment, CRASH_GAP_MAX);
    neighbour.is_untouched().await;
    pair.0[away].boot().await.unwrap_or_else(|error| panic!("{error}"));
    pair.wait_until_streams(away).await;

    // the same with the address and the leader on one machine
    let (away, other) = (other, away);
    assert_eq!(pair.holder().await, away, "the address stays");
    let moment = php.now();
    pair.0[away].cut_power().await.unwrap_or_else(|error| panic!("{error}"));
    php.goes_on(FAILOVER_WITHIN).await;
    assert_eq!(pair.holder().await, other);
    report("power cut, the leader and the address", &php, moment, CRASH_GAP_MAX);
    pair.0[away].boot().await.unwrap_or_else(|error| panic!("{error}"));
    pair.wait_until_streams(away).await;
    php.goes_on(SOON).await;

    let written = php.rows();
    let there = sql(&web, ADDRESS, "select id from rows_written");
    let missing: Vec<&u64> = written.iter().filter(|id| !there.lines().any(|row| row == id.to_string())).collect();
    assert!(missing.is_empty(), "acknowledged and not there: {missing:?}");
    readme.assert_all_is_used();
}

pub(super) async fn set_up(readme: &Readme, db1: &Machine, db2: &Machine, quorum: &Machine) {
    let [copy] = readme.commands("1.");
    let [install, install_quorum] = readme.commands("2.");
    for machine in [db1, db2, quorum] {
        copied(machine, copy);
    }
    for node in [db1, db2] {
        patroni_is_downloaded(node);
        typed(node, install);
    }
    typed(quorum, install_quorum);

    let [start, health] = readme.commands("3.");
    for machine in [db1, db2, quorum] {
        typed(machine, start);
    }
    for machine in [db1, db2, quorum] {
        typed_until(machine, health, |answer| answer.contains(r#""health":"true""#)).await;
    }
    let [start, list] = readme.commands("4.");
    for node in [db1, db2] {
        typed(node, start);
    }
    typed_until(db2, list, |list| list.contains(" Leader ") && list.contains(" streaming ")).await;
    let [start] = readme.commands("5.");
    for node in [db1, db2] {
        typed(node, start);
    }
    let [start, address] = readme.commands("6.");
    for node in [db1, db2] {
        typed(node, start);
    }
    let holds = |node: &Machine| typed(node, address).contains(ADDRESS);
    let one_has_it = || async { if holds(db1) != holds(db2) { Ok(()) } else { Err("none or both".to_owned()) } };
    wait::until("one machine to have the address", SOON, one_has_it).await.unwrap_or_else(|error| panic!("{error}"));
}

/// What Nextcloud does with the lines of its `config.php`.
pub(super) fn application(readme: &Readme, web: &Machine) -> PhpWriter {
    let lines = readme.excerpt("7.", "php");
    let value = |key: &str| {
        let line = lines.lines().find_map(|line| line.strip_prefix(&format!("'{key}' => '"))).expect("is there");
        line.trim_end_matches("',").to_owned()
    };
    let (dbhost, dbname) = (value("dbhost"), value("dbname"));
    let (host, port) = dbhost.split_once(':').expect("has a port");
    let dsn = format!("pgsql:host={host};port={port};dbname={dbname}");
    PhpWriter::start(web, &dsn, &value("dbuser"), &value("dbpassword"))
}

fn report(what: &str, php: &PhpWriter, moment: usize, gap_max: f64) {
    let seen = php.seen_since(moment);
    println!("{what}: {:.1} s without service, errors {:?}", seen.longest_gap, seen.errors); // with --nocapture
    assert!(seen.longest_gap <= gap_max, "{what}: {seen:?}");
}

/// The two nodes.
pub(super) struct Pair<'a>(pub(super) [&'a Machine; 2]);

impl Pair<'_> {
    /// Which of them has the address.
    pub(super) async fn holder(&self) -> usize {
        let look = || async {
            let has = |node: &Machine| node.output("ip -br address show dev eth0").is_ok_and(|it| it.contains(ADDRESS));
            match self.0.map(has) {
                [true, false] => Ok(0),
                [false, true] => Ok(1),
                other => Err(format!("{other:?}")),
            }
        };
        wait::until("one node to have the address", SOON, look).await.unwrap_or_else(|error| panic!("{error}"))
    }

    fn members(&self) -> String {
        let list = "/opt/patroni/bin/patronictl -c /etc/patroni/patroni.yml list";
        self.0.iter().find_map(|node| node.run(list).ok()).unwrap_or_default()
    }

    /// The node runs as a replica of the other one, as Patroni says.
    pub(super) async fn wait_until_streams(&self, node: usize) {
        let name = self.0[node].name();
        let streams = || async {
            let members = self.members();
            let is_it = |line: &str| line.contains(&format!(" {name} ")) && line.contains(" streaming ");
            let is_sync = members.contains("Sync Standby");
            if members.lines().any(is_it) && is_sync { Ok(()) } else { Err(members) }
        };
        let waited = wait::until(&format!("{name} to stream"), FAILOVER_WITHIN, streams).await;
        waited.unwrap_or_else(|error| panic!("{error}"));
    }

    pub(super) async fn make_leader(&self, node: usize) {
        let name = self.0[node].name();
        let leads = |members: &str| {
            members.lines().any(|line| line.contains(&format!(" {name} ")) && line.contains(" Leader "))
        };
        if !leads(&self.members()) {
            let order = "/opt/patroni/bin/patronictl -c /etc/patroni/patroni.yml switchover --force";
            typed(self.0[node], order);
        }
        self.wait_until_streams(1 - node).await;
        assert!(leads(&self.members()), "{}", self.members());
    }
}

/// A session through the pgvane of one node, by that node's own address.
struct Neighbour<'a> {
    web: &'a Machine,
    process: pgvane_loadtest::process::Process,
}

impl<'a> Neighbour<'a> {
    async fn start(web: &'a Machine, node: usize) -> Neighbour<'a> {
        let host = ["10.0.0.11", "10.0.0.12"][node];
        let script = "mkfifo questions && (sleep infinity >questions &) && \
                      PGPASSWORD=change-me-nextcloud exec psql -AtX -U nextcloud -p 5000 -d nextcloud <questions -h";
        let process = web.start("neighbour", &format!("{script} {host}")).unwrap_or_else(|error| panic!("{error}"));
        let neighbour = Neighbour { web, process };
        neighbour.ask("first").await;
        neighbour
    }

    async fn ask(&self, word: &str) {
        let fifo = || async { self.web.run("test -p questions").map(drop).map_err(|error| error.to_string()) };
        wait::until("psql's input", SOON, fifo).await.unwrap_or_else(|error| panic!("{error}"));
        typed(self.web, &format!("echo \"select '{word} answer of ' || pg_backend_pid();\" >questions"));
        let answered = || async {
            let said = self.process.log_text();
            if said.contains(&format!("{word} answer of ")) { Ok(()) } else { Err(said) }
        };
        wait::until("the neighbour's answer", SOON, answered).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// The same session answers, from the same backend.
    async fn is_untouched(&self) {
        let began = Instant::now();
        self.ask("second").await;
        let said = self.process.log_text();
        let pids: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once(" answer of ")?.1)).collect();
        assert_eq!(pids.len(), 2, "{said}");
        assert_eq!(pids[0], pids[1], "another session answers: {said}");
        println!("the neighbour's session answers as before, after {:?}", began.elapsed());
    }
}

/// A query as the superuser, through this address.
fn sql(machine: &Machine, host: &str, query: &str) -> String {
    typed(
        machine,
        &format!("PGPASSWORD=change-me-postgres psql -AtX -h {host} -p 5000 -U postgres -d nextcloud -c '{query}'"),
    )
}
