//! The real clusters that the tests use, one for each version of PostgreSQL, and the load on them.
//!
//! A cluster takes ten seconds to start and both cores to run, so the tests share one and take turns. Each test gets a
//! healthy cluster: what the test before has killed or frozen is started again first.

use std::time::Duration;

use pgvane_loadtest::failure::{Failure, FailureClass};
use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::pgvane::{Pgvane, PgvaneBuilder};
use pgvane_loadtest::programs::Postgresql;
use pgvane_loadtest::reader::{Reader, ReaderReport, RunningReader};
use pgvane_loadtest::writer::{RunningWriter, Writer, WriterReport, longest_gap};
use pgvane_loadtest::{http, namespace, wait};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

use crate::binary;
use crate::metrics;
use crate::wire::SOON;

/// Patroni may take its ttl of 20 s for a failover, and a crashed leader as long again to be rewound.
pub const PATRONI_WITHIN: Duration = Duration::from_secs(90);

/// What pgvane may add to the time in which the cluster itself takes no writes. A release build on a quiet machine adds
/// 15 to 30 ms; the rest is for debug builds beside three busy servers on two cores.
const ADDED_GAP_MAX: Duration = Duration::from_millis(500);

/// What a login by SCRAM may take on top: a debug build of the client works on the proof for 50 ms if it has a core to
/// itself, and right after a failover everybody wants one.
const SCRAM_MAX: Duration = Duration::from_millis(1000);

/// The name of the writer that logs in so.
const SCRAM: &str = "scram";

/// Rows that show that writes flow.
const ACKS: usize = 50;

static PACKAGED: Mutex<Option<Lab>> = Mutex::const_new(None);
static EIGHTEEN: Mutex<Option<Lab>> = Mutex::const_new(None);

/// The cluster of Debian's PostgreSQL, for this test alone, with three sound nodes. It ends with the program.
pub async fn sound_cluster() -> MappedMutexGuard<'static, Lab> {
    sound_cluster_of(Postgresql::Packaged).await
}

/// The same of the version that is wanted.
pub async fn sound_cluster_of(postgresql: Postgresql) -> MappedMutexGuard<'static, Lab> {
    let stage = match postgresql {
        Postgresql::Packaged => &PACKAGED,
        Postgresql::Eighteen => &EIGHTEEN,
    };
    let mut stage = stage.lock().await;
    let is_sound = match stage.as_ref() {
        Some(lab) => brought_back(lab, postgresql).await,
        None => false,
    };
    if !is_sound {
        *stage = None; // its ports and processes go first
        *stage = Some(new_cluster(postgresql).await);
    }
    MutexGuard::map(stage, |stage| stage.as_mut().expect("set above"))
}

async fn brought_back(lab: &Lab, postgresql: Postgresql) -> bool {
    for node in 0..lab.nodes().len() {
        let _not_running = lab.thaw_patroni(node);
        lab.thaw_postgres(node);
        let _runs_already = lab.start_node(node);
    }
    lab.wait_until_all_streaming(PATRONI_WITHIN).await.is_ok()
        && (!is_synchronous(postgresql) || has_synchronous_standby(lab).await)
}

/// The cluster whose leaders are made to crash is synchronous: "acknowledged" then means "survives a crash of the leader",
/// and a row that is missed afterwards was written to the wrong node.
fn is_synchronous(postgresql: Postgresql) -> bool {
    postgresql == Postgresql::Packaged
}

/// Patroni names one some seconds after the replicas have come up. Before that a crash of the leader is the end: no
/// other node may be promoted in synchronous mode.
async fn has_synchronous_standby(lab: &Lab) -> bool {
    let look = || async {
        for node in lab.nodes() {
            let answer = http::get(node.rest, "/synchronous", SOON).await.map_err(|error| error.to_string())?;
            if answer.status == 200 {
                return Ok(());
            }
        }
        Err("none".to_owned())
    };
    wait::until("a synchronous standby", PATRONI_WITHIN, look).await.is_ok()
}

async fn new_cluster(postgresql: Postgresql) -> Lab {
    let synchronous = is_synchronous(postgresql);
    let lab = Lab::builder().postgresql(postgresql).synchronous_mode(synchronous).tls();
    let lab = lab.parameter("wal_level", "logical");
    // those who come by a network of their own are let in where there can be such a network
    let lab = if namespace::unavailable_because().is_none() { lab.reachable_from(namespace::NETWORK) } else { lab };
    let lab = lab.start().await.unwrap_or_else(|error| panic!("no cluster: {error}"));
    let is_sound = !synchronous || has_synchronous_standby(&lab).await;
    assert!(is_sound, "Patroni names no synchronous standby: {}", lab.log_text(0));
    Writer::prepare(&lab).await.expect("a table to write to");
    lab
}

/// A pgvane before the cluster that has heard every node.
pub async fn pgvane_before(lab: &Lab, configured: impl FnOnce(PgvaneBuilder) -> PgvaneBuilder) -> Pgvane {
    let builder = Pgvane::builder(&binary::pgvane(), lab.nodes());
    let pgvane = configured(builder).start(lab.directory()).await;
    let pgvane = pgvane.unwrap_or_else(|error| panic!("pgvane does not get ready: {error}"));
    for node in lab.nodes() {
        metrics::wait_for(&pgvane, &format!("pgvane_node_up{{cluster=\"main\",node=\"{}\"}}", node.name), 1.0).await;
    }
    pgvane
}

/// Who leads, and the two others.
pub async fn leader_and_replicas(lab: &Lab) -> (usize, [usize; 2]) {
    let leader = lab.wait_for_leader(PATRONI_WITHIN).await.expect("a leader");
    (leader, [(leader + 1) % 3, (leader + 2) % 3])
}

/// Clients of every kind: writers past pgvane on each node, through it with and without SCRAM, and readers.
pub struct Load {
    direct: Vec<RunningWriter>,
    through: Vec<RunningWriter>,
    readers: Vec<RunningReader>,
}

impl Load {
    /// Starts them, and returns once writes flow.
    pub async fn start(lab: &Lab, pgvane: &Pgvane) -> Load {
        let leader = lab.wait_for_leader(PATRONI_WITHIN).await.expect("a leader");
        let direct: Vec<_> = Writer::direct(lab).into_iter().map(Writer::start).collect();
        let scram = Writer::to(SCRAM, pgvane.write_addr).login(Login::App);
        let through = [scram, Writer::to("trusting", pgvane.write_addr)].map(Writer::start).into();
        let reader = Reader::to(pgvane.read_addr).pace(Duration::from_millis(20));
        let readers = [reader.login(Login::App), reader].map(Reader::start).into();
        let load = Load { direct, through, readers };
        load.direct[leader].wait_for_acks(ACKS, PATRONI_WITHIN).await.expect("the leader takes writes");
        load.flows().await;
        load
    }

    /// Waits until every writer through pgvane has got further.
    pub async fn flows(&self) {
        for writer in &self.through {
            writer.wait_for_acks(ACKS, PATRONI_WITHIN).await.unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Ends them as soon as writes flow, past pgvane to `leader` as well as through it.
    pub async fn finish_once_it_flows(self, leader: usize) -> Seen {
        self.direct[leader].wait_for_acks(ACKS, PATRONI_WITHIN).await.expect("the leader takes writes");
        self.flows().await;
        let mut seen = Seen { direct: Vec::new(), through: Vec::new(), readers: Vec::new() };
        for writer in self.direct {
            seen.direct.push(writer.finish().await);
        }
        for writer in self.through {
            seen.through.push(writer.finish().await);
        }
        for reader in self.readers {
            seen.readers.push(reader.finish().await);
        }
        seen
    }
}

/// What the clients of a [`Load`] have seen.
pub struct Seen {
    direct: Vec<WriterReport>,
    through: Vec<WriterReport>,
    readers: Vec<ReaderReport>,
}

impl Seen {
    /// What went wrong through pgvane.
    pub fn failures(&self) -> Vec<&Failure> {
        let of_writers = self.through.iter().flat_map(|writer| &writer.failures);
        of_writers.chain(self.readers.iter().flat_map(|reader| &reader.failures)).collect()
    }

    /// The longest time that a writer through pgvane got no row acknowledged.
    pub fn longest_pause(&self) -> Duration {
        let gaps = self.through.iter().filter_map(|writer| writer.longest_gap());
        gaps.map(|gap| gap.length()).max().expect("writers have written")
    }

    /// Asserts what a change of leader may look like through pgvane: a pause hardly longer than the cluster's own, at
    /// the price of the session in which it happened; nothing for readers; and no acknowledged row is missing.
    pub async fn it_was_a_pause(&self, lab: &Lab) {
        for writer in &self.through {
            let name = &writer.name;
            let broken = writer.count(FailureClass::SessionBroken);
            assert!(broken <= 1, "{name} lost more than the one session it had: {:#?}", writer.failures);
            assert_eq!(writer.failures.len(), broken, "{name} met something else: {:#?}", writer.failures);
            let missing = writer.missing_rows(lab).await.expect("the table is there");
            assert!(missing.is_empty(), "{name}: acknowledged and not there: {missing:?}");
        }
        for reader in &self.readers {
            // A node that Patroni stops, to rewind it or to follow another leader, takes what is on it just then with
            // it: a session, or a login whose client has been asked for its proof and cannot be moved any more.
            let class =
                |failure: &&Failure| matches!(failure.class, FailureClass::SessionBroken | FailureClass::ConnectFailed);
            let broken = reader.failures.iter().filter(class).count();
            assert!(broken <= 1, "a reader lost more than one session: {:#?}", reader.failures);
            assert_eq!(reader.failures.len(), broken, "a reader met something else: {:#?}", reader.failures);
            assert!(!reader.visits.is_empty(), "nobody read");
        }
        let own = longest_gap(self.direct.iter().flat_map(|writer| &writer.acks)).expect("writes went on").length();
        for writer in &self.through {
            let gap = writer.longest_gap().expect("it has written").length();
            println!("{}: {gap:?}, of which the cluster's own gap was {own:?}", writer.name); // seen with --nocapture
            let added = gap.saturating_sub(own);
            let most = if writer.name == SCRAM { ADDED_GAP_MAX + SCRAM_MAX } else { ADDED_GAP_MAX };
            assert!(added <= most, "{}: pgvane added {added:?} to the cluster's own gap of {own:?}", writer.name);
        }
    }
}
