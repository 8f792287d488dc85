//! Whether pgvane's costs grow with the number of nodes: the same loads on its read port, with few and many replicas.

use std::net::SocketAddr;
use std::time::Duration;

use pgvane_loadtest::Result;
use pgvane_loadtest::bench::load::{self, Server};
use pgvane_loadtest::bench::report::{Measure, Report};
use pgvane_loadtest::bench::usage;
use pgvane_loadtest::fake::FakePatroni;
use pgvane_loadtest::lab::Node;
use pgvane_loadtest::pgvane::Pgvane;

use super::Bench;
use super::cost::timed;
use super::idle::idle_memory;

/// Sessions of the round trips, and idle ones.
const SESSIONS: usize = 64;
const IDLE: usize = 1000;

/// Without sessions, the CPU time of the checks is measured for this long.
const QUIET: Duration = Duration::from_secs(3);

impl Bench<'_> {
    /// One column per number of nodes, each a leader and its replicas.
    pub(super) async fn growth(&mut self) -> Result<Report> {
        let mut measures = [
            Measure::new(format!("round trip, {SESSIONS} sessions"), "CPU µs").not_compared(),
            Measure::new("connect + query + close", "CPU µs").not_compared(),
            Measure::new(format!("idle session, of {IDLE}"), "kB").not_compared(),
            Measure::new("checks", "CPU ms per s").not_compared(),
        ];
        let replicas = FakePatroni::start_without_name().await;
        for _ in 0..self.options.rounds {
            for nodes in self.options.nodes.clone() {
                let column = format!("{nodes} nodes");
                let pgvane = self.in_front_of(nodes, replicas.address()).await?;
                let (server, pid) = (Server::from(pgvane.read_addr), pgvane.process_id());

                let before = usage::cpu_time(pid)?;
                tokio::time::sleep(QUIET).await;
                let checking = usage::cpu_time(pid)? - before;
                measures[3].add(&column, checking.as_secs_f64() * 1e3 / QUIET.as_secs_f64());

                let (cpu, trips) = self.trips_on(&server, pid, SESSIONS).await?;
                measures[0].add(&column, cpu.as_secs_f64() * 1e6 / trips.count() as f64);

                let connects = self.amounts.connects;
                let before = usage::cpu_time(pid)?;
                let all = server.clone();
                timed(move || load::connects(&all, connects).map(|()| connects as f64)).await?;
                let used = usage::cpu_time(pid)? - before;
                measures[1].add(&column, used.as_secs_f64() * 1e6 / connects as f64);

                measures[2].add(&column, idle_memory(&server, pid, IDLE).await?);
            }
        }
        measures.iter_mut().for_each(Measure::finish);
        Ok(Report { measures: measures.into() })
    }

    /// pgvane in front of `nodes` nodes, one leader and otherwise replicas, all of them the null backend under
    /// different addresses.
    async fn in_front_of(&self, nodes: usize, replicas: SocketAddr) -> Result<Pgvane> {
        let address = |number: usize| self.backend_at(number + 1);
        let rest = |number| if number == 0 { self.leader.address() } else { replicas };
        let nodes: Vec<Node> = (0..nodes).map(|n| Node::elsewhere(&format!("null{n}"), address(n), rest(n))).collect();
        Pgvane::builder(&self.pgvane, &nodes).start(self.scratch.directory()).await
    }
}
