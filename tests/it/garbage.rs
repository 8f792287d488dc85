//! Ten thousand connections that are no clients, or faulty ones: whatever they send, no other session is affected, each is
//! counted under the reason of its end, and nothing of them remains.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgvane_loadtest::messages::{PROTOCOL_3_0, cancel_request, gss_request, ssl_request, startup};
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::wait;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::fake::FakeCluster;
use crate::metrics;
use crate::wire::{SOON, Session, in_time, plain_startup};

/// Where visitors come from: anywhere that is allowed, by way of a proxy, and from where nobody may.
const CLIENT: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 9, 9, 9);

const LISTENER: &str = "startup_timeout = \"1s\"\nallow = [\"127.0.0.0/24\", \"192.0.2.0/24\"]\n\
                        users = [\"trusting\"]\nproxy_protocol = { trusted = [\"127.0.0.2\"] }";

/// Visitors at once. One in seven visits lasts as long as pgvane has patience.
const VISITORS: usize = 400;

/// So many visits, first, bring the allocator and the tables to their size.
const VISITS_BEFORE: usize = 4_000;

const VISITS: usize = 10_000;

/// What may be left in memory after ten thousand visits: a hundred bytes each would be more.
const LEFT_MAX_KB: u64 = 900;

/// One thing to do to a port, and what it has to be counted as.
struct Visit {
    from: Ipv4Addr,
    says: Vec<u8>,
    manner: Manner,
    counted_as: &'static str,
}

#[derive(Clone, Copy)]
enum Manner {
    /// Says all and waits for the end.
    Waits,
    /// Says all and that it has finished, and waits for the end.
    Finishes,
    /// Says all and resets the connection.
    Resets,
    /// Says it byte by byte, and never comes to the end.
    Dawdles,
    /// Asks for encryption first, and leaves when that is refused.
    LeavesAfterNo,
}

/// xorshift: the same visits in every run.
struct Lot(u64);

impl Lot {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most as u64).expect("below a usize")
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Noise that cannot be taken for a length, a handshake or a header.
    fn noise(&mut self) -> Vec<u8> {
        let length = 8 + self.below(2000);
        [vec![b'0' + self.below(10) as u8], self.bytes(length)].concat()
    }

    fn visit(&mut self) -> Visit {
        let visit = |says, manner, counted_as| Visit { from: CLIENT, says, manner, counted_as };
        let whole = plain_startup();
        let framed = |length: u32, rest: &[u8]| [&length.to_be_bytes()[..], rest].concat();
        match self.below(21) {
            0 => visit(self.noise(), Manner::Waits, "not-postgres"),
            1 => {
                // too long by one byte or by gigabytes, and some of it comes
                let length = [10_001, 65_536, u32::MAX][self.below(3)];
                let body = self.below(70_000);
                visit(framed(length, &vec![0; body]), Manner::Waits, "not-postgres")
            }
            2 => visit(framed(self.below(8) as u32, &[0; 20]), Manner::Waits, "not-postgres"),
            3 => {
                let length = self.below(3000);
                let body = [&PROTOCOL_3_0.to_be_bytes()[..], &self.bytes(length)].concat();
                visit(framed(body.len() as u32 + 4, &body), Manner::Waits, "not-postgres")
            }
            4 => visit(startup(2 << 16, &[("user", "trusting")]), Manner::Waits, "not-postgres"),
            5 => visit(whole[..self.below(whole.len())].to_vec(), Manner::Finishes, "client-left-early"),
            6 => visit(whole[..self.below(whole.len())].to_vec(), Manner::Resets, "client-left-early"),
            7 => visit(whole[..self.below(whole.len())].to_vec(), Manner::Waits, "startup-timed-out"),
            8 => visit(whole[..whole.len() - 1].to_vec(), Manner::Dawdles, "startup-timed-out"),
            9 => visit(ssl_request(), Manner::LeavesAfterNo, "client-left-early"),
            10 => visit(gss_request(), Manner::LeavesAfterNo, "client-left-early"),
            11 => {
                let length = self.below(500);
                visit([&[0x16, 3, 1][..], &self.bytes(length)].concat(), Manner::Waits, "names-hidden")
            }
            12 => visit(startup(PROTOCOL_3_0, &[("user", "root")]), Manner::Waits, "user-not-allowed"),
            13 => {
                let length = 8 + self.below(250);
                visit(cancel_request(&self.bytes(length)), Manner::Waits, "cancel")
            }
            14 => Visit { from: PROXY, ..visit(whole, Manner::Waits, "proxy-header") },
            15 => {
                let header = b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 6432\r\n".to_vec();
                Visit { from: PROXY, ..visit(header, Manner::Waits, "proxy-header") }
            }
            16 => {
                let header = b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 6432\r\n".to_vec();
                let says = [header, self.noise()].concat();
                Visit { from: PROXY, ..visit(says, Manner::Waits, "not-postgres") }
            }
            17 => {
                let length = 20 + self.below(500);
                let says = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\0", &self.bytes(length)[..]].concat();
                Visit { from: PROXY, ..visit(says, Manner::Waits, "startup-timed-out") }
            }
            18 => Visit { from: PROXY, ..visit(Vec::new(), Manner::Resets, "client-left-early") },
            19 => Visit { from: STRANGER, ..visit(whole, Manner::Waits, "address-not-allowed") },
            _ => Visit { from: STRANGER, ..visit(self.noise(), Manner::Waits, "address-not-allowed") },
        }
    }
}

impl Visit {
    async fn pay(&self, pgvane: SocketAddr) {
        let socket = TcpSocket::new_v4().expect("descriptors are left");
        SockRef::from(&socket).set_reuse_address(true).expect("a socket option");
        socket.bind((self.from, 0).into()).expect("a port is left");
        let mut stream = in_time("a connection", socket.connect(pgvane)).await.expect("the port is open");
        // who is refused in the middle of a sentence may find that out in any of these calls
        match self.manner {
            Manner::Waits | Manner::Resets => drop(stream.write_all(&self.says).await),
            Manner::Finishes => {
                let _ = stream.write_all(&self.says).await;
                let _ = stream.shutdown().await;
            }
            Manner::Dawdles => {
                for byte in &self.says {
                    let _ = stream.write_all(&[*byte]).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            Manner::LeavesAfterNo => {
                stream.write_all(&self.says).await.expect("is listened to");
                assert_eq!(in_time("an answer", stream.read_u8()).await.expect("an answer"), b'N');
                return;
            }
        }
        if let Manner::Resets = self.manner {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket option");
            return;
        }
        until_closed(&mut stream).await;
    }
}

async fn until_closed(stream: &mut TcpStream) {
    let mut sink = Vec::new();
    let _reset_or_not = in_time("the end", stream.read_to_end(&mut sink)).await;
}

/// So many visits, whoever is free making the next one. Returns how many have to be counted as what.
async fn visited(pgvane: SocketAddr, count: usize, seed: u64) -> BTreeMap<String, u64> {
    let mut lot = Lot(seed);
    let visits: Vec<Visit> = std::iter::repeat_with(|| lot.visit()).take(count).collect();
    let mut expected = BTreeMap::new();
    for visit in &visits {
        *expected.entry(visit.counted_as.to_owned()).or_insert(0) += 1;
    }
    let queue = Arc::new(Mutex::new(visits));
    let next = |queue: &Mutex<Vec<Visit>>| queue.lock().expect("nobody panics with it").pop();
    let mut visitors = JoinSet::new();
    for _ in 0..VISITORS {
        let queue = Arc::clone(&queue);
        visitors.spawn(async move {
            while let Some(visit) = next(&queue) {
                visit.pay(pgvane).await;
            }
        });
    }
    visitors.join_all().await;
    expected
}

/// Someone who works all the while. Returns how many answers there were, in sessions that begin anew now and then.
async fn bystander(pgvane: SocketAddr, is_over: Arc<AtomicBool>) -> usize {
    let mut answers = 0;
    while !is_over.load(Relaxed) {
        let mut session = Session::through(pgvane).await;
        for _ in 0..50 {
            assert_eq!(session.value("who").await, "node1");
            answers += 1;
            tokio::time::sleep(Duration::from_millis(1)).await; // leaves room for the others
        }
    }
    answers
}

/// What is counted, by reason; nothing that has not occurred.
async fn ends(pgvane: &Pgvane) -> BTreeMap<String, u64> {
    let all = metrics::all(pgvane).await;
    let reason = |series: &str| {
        let labels = series.strip_prefix("pgvane_session_ends_total{listener=\"write\",reason=\"")?;
        labels.strip_suffix("\"}").map(str::to_owned)
    };
    all.iter().filter(|(_, count)| **count > 0.0).filter_map(|(series, n)| Some((reason(series)?, *n as u64))).collect()
}

/// Waits until all has ended that was begun.
async fn at_rest(pgvane: &Pgvane) {
    for gauge in ["pgvane_connections_pending", "pgvane_sessions", "pgvane_sessions_held"] {
        metrics::wait_for(pgvane, &format!("{gauge}{{listener=\"write\"}}"), 0.0).await;
    }
}

fn descriptors(pgvane: &Pgvane) -> usize {
    fs::read_dir(format!("/proc/{}/fd", pgvane.process_id())).expect("it runs").count()
}

fn resident_kb(pgvane: &Pgvane) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pgvane.process_id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_bad_openings_affect_no_session_and_leave_nothing_behind() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(LISTENER)).await;
    visited(pgvane.write_addr, VISITS_BEFORE, 3).await;
    at_rest(&pgvane).await;
    let (ends_before, memory_before) = (ends(&pgvane).await, resident_kb(&pgvane));
    let descriptors_before = descriptors(&pgvane);

    let is_over = Arc::new(AtomicBool::new(false));
    let working = tokio::spawn(bystander(pgvane.write_addr, Arc::clone(&is_over)));
    let expected = visited(pgvane.write_addr, VISITS, 5).await;
    is_over.store(true, Relaxed);
    let answers = working.await.expect("nothing was refused or lost");
    assert!(answers >= 100, "only {answers} answers");
    at_rest(&pgvane).await;

    let mut counted = ends(&pgvane).await;
    counted.remove("client-closed"); // the bystander's
    counted.iter_mut().for_each(|(reason, count)| *count -= ends_before.get(reason).copied().unwrap_or(0));
    assert_eq!(counted, expected, "each is counted by what was wrong with it");
    let log = pgvane.log_text();
    assert!(!log.contains("panicked"), "{log}");

    wait::until("descriptors as before", SOON, || async {
        let now = descriptors(&pgvane);
        if now <= descriptors_before { Ok(()) } else { Err(format!("{now} after {descriptors_before}")) }
    })
    .await
    .expect("what was opened is closed");
    let memory_after = resident_kb(&pgvane);
    println!("resident: {memory_before} kB before, {memory_after} kB after; {answers} answers meanwhile");
    assert!(memory_after <= memory_before + LEFT_MAX_KB, "{memory_before} kB have become {memory_after} kB");
}
