//! `loadtest bench`: what pgvane, HAProxy and PgBouncer cost, side by side on a null backend and on a real server.

mod growth;
mod pgbench;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use pgvane_loadtest::bench::load::{self, RoundTrips, Session};
use pgvane_loadtest::bench::proxy::{Proxy, Running};
use pgvane_loadtest::bench::report::{Measure, Report};
use pgvane_loadtest::bench::{backend, plot, usage};
use pgvane_loadtest::fake::FakePatroni;
use pgvane_loadtest::scratch::Scratch;
use pgvane_loadtest::{Error, Result, wait};
use serde_json::json;

use super::unless_interrupted;

/// Sessions of the latency measure.
const LATENCY_SESSIONS: usize = 8;

/// After many sessions were opened, the proxy has finished its work for them within this time.
const SETTLE: Duration = Duration::from_millis(1500);

/// Descriptors that this process may have before sessions are opened; with two for each of 8,000, that leaves room.
const DESCRIPTORS_AT_REST: usize = 2000;

const DESCRIPTORS_CLOSED_WITHIN: Duration = Duration::from_secs(60);

const GIGABYTE: f64 = 1e9;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// pgvane's binary; more of them, given as NAME=PATH, get columns of their own
    #[arg(long, value_name = "[NAME=]PATH", required = true)]
    pgvane: Vec<String>,
    /// Lines of TOML for pgvane's listener, such as 'relay = "copy"'
    #[arg(long, value_name = "TOML", default_value = "")]
    listener: String,
    /// How often each proxy is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// A short run with less exact figures
    #[arg(long)]
    quick: bool,
    /// Measure only what has one of these words in its name
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave out these proxies
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    without: Vec<String>,
    /// Sessions of the round trips
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,8,64,512,8000")]
    sessions: Vec<usize>,
    /// Sessions that are left idle
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1000,2000,8000")]
    idle: Vec<usize>,
    /// Numbers of nodes for which pgvane's costs are compared
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "2,10,50")]
    nodes: Vec<usize>,
    /// Also write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the cost by number of sessions, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    unless_interrupted(measure(options)).await.map(drop)
}

/// What is measured, and how much of it.
#[derive(Debug, Clone, Copy)]
struct Amounts {
    trips: Duration,
    gigabytes: f64,
    connects: u64,
}

struct Bench<'a> {
    options: &'a Options,
    amounts: Amounts,
    proxies: Vec<Proxy>,
    /// The one that is asked whether its costs grow.
    pgvane: PathBuf,
    backend: SocketAddr,
    /// The REST API of the null backend.
    leader: FakePatroni,
    scratch: Scratch,
    report: Report,
}

async fn measure(options: &Options) -> Result<()> {
    let amounts = if options.quick {
        Amounts { trips: Duration::from_millis(700), gigabytes: 1.0, connects: 2000 }
    } else {
        Amounts { trips: Duration::from_secs(3), gigabytes: 4.0, connects: 10_000 }
    };
    let proxies = proxies(options)?;
    let pgvane = proxies.iter().find_map(|proxy| match proxy {
        Proxy::Pgvane { binary, .. } => Some(binary.clone()),
        _ => None,
    });
    let leader = FakePatroni::start_without_name().await;
    leader.leads(1);
    let mut bench = Bench {
        options,
        amounts,
        pgvane: pgvane.expect("the command line asks for one"),
        proxies,
        backend: backend::start()?,
        leader,
        scratch: Scratch::new()?,
        report: Report::default(),
    };
    bench.all().await?;
    print!("{}", bench.report.markdown());
    let growth = match bench.is_wanted("nodes") {
        true => bench.growth().await?,
        false => Report::default(),
    };
    if !growth.measures.is_empty() {
        print!("\n{}", growth.markdown());
    }
    if let Some(file) = &options.json {
        let all = json!({ "proxies": bench.report.measures, "nodes": growth.measures });
        let text = serde_json::to_string_pretty(&all).expect("numbers and names always make JSON");
        write(file, &(text + "\n"))?;
    }
    options.plot.as_ref().map_or(Ok(()), |file| write(file, &plot::svg(&bench.report)))
}

/// The null backend is in this process. After thousands of sessions have ended, a proxy, especially a pooler, may keep
/// its connections to it for a moment.
async fn until_descriptors_are_closed() -> Result<()> {
    wait::until("closed connections", DESCRIPTORS_CLOSED_WITHIN, || async {
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        if open <= DESCRIPTORS_AT_REST { Ok(()) } else { Err(format!("{open} descriptors are open")) }
    })
    .await
}

fn proxies(options: &Options) -> Result<Vec<Proxy>> {
    let mut all = Vec::new();
    for given in &options.pgvane {
        let (name, path) = given.split_once('=').unwrap_or(("pgvane", given));
        let binary = Path::new(path).canonicalize();
        let binary = binary.map_err(|source| Error::Io { doing: format!("looking for {path}"), source })?;
        all.push(Proxy::Pgvane { name: name.to_owned(), binary, listener: options.listener.clone() });
    }
    all.extend([Proxy::Haproxy { splices: false }, Proxy::Haproxy { splices: true }, Proxy::PgBouncer]);
    all.retain(|proxy| !options.without.iter().any(|name| name == proxy.name()));
    Ok(all)
}

impl Bench<'_> {
    async fn all(&mut self) -> Result<()> {
        let mut running = Vec::new();
        for proxy in &self.proxies {
            let started = proxy.start(self.scratch.directory(), self.backend, self.leader.address()).await?;
            running.push((proxy.name().to_owned(), started));
        }
        for sessions in self.options.sessions.clone() {
            self.round_trips(sessions, &running).await?;
        }
        self.latency(&running).await?;
        let gigabytes = self.amounts.gigabytes;
        let bytes = (gigabytes * GIGABYTE) as u64;
        for (name, kind) in [("streaming out", "bulk"), ("streaming out, 8 kB pieces", "out")] {
            self.cost(name, "CPU s per GB", &running, move |server| {
                let mut session = Session::open(server)?;
                Ok(session.copy_out(kind, bytes)? as f64 / GIGABYTE)
            })
            .await?;
        }
        self.cost("streaming in", "CPU s per GB", &running, move |server| {
            let mut session = Session::open(server)?;
            Ok(session.copy_in(bytes)? as f64 / GIGABYTE)
        })
        .await?;
        let connects = self.amounts.connects;
        self.cost("connect + query + close", "CPU µs", &running, move |server| {
            load::connects(server, connects)?;
            Ok(connects as f64 / 1e6)
        })
        .await?;
        drop(running);
        for sessions in self.options.idle.clone() {
            self.idle(sessions).await?;
        }
        self.pgbench().await
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.options.only.is_empty() || self.options.only.iter().any(|word| name.contains(word))
    }

    fn done(&mut self, mut measure: Measure) {
        measure.finish();
        let medians: Vec<String> =
            measure.columns.iter().map(|column| format!("{} {:.2}", column.proxy, column.median)).collect();
        eprintln!("{}, {}: {}", measure.name, measure.unit, medians.join(", "));
        self.report.measures.push(measure);
    }

    /// CPU seconds of the proxy per unit of `work`, which returns how many units it did.
    async fn cost(
        &mut self,
        name: &str,
        unit: &'static str,
        running: &[(String, Running)],
        work: impl Fn(SocketAddr) -> std::io::Result<f64> + Copy + Send + 'static,
    ) -> Result<()> {
        if !self.is_wanted(name) {
            return Ok(());
        }
        let mut cost = Measure::new(name, unit);
        let mut rate = Measure::new(format!("{name}: rate"), if unit.contains("GB") { "GB/s" } else { "1/s" });
        for round in 0..self.options.rounds {
            let direct = self.backend;
            let (done, took) = timed(move || work(direct)).await?;
            rate.add("direct", per_second(done, took, unit));
            for (name, proxy) in in_turn(running, round) {
                let before = usage::cpu_time(proxy.pid)?;
                let address = proxy.address;
                let (done, took) = timed(move || work(address)).await?;
                // closing still costs CPU time just after it
                tokio::time::sleep(Duration::from_millis(50)).await;
                let used = usage::cpu_time(proxy.pid)? - before;
                cost.add(name, used.as_secs_f64() / done);
                rate.add(name, per_second(done, took, unit));
            }
        }
        self.done(cost);
        self.done(rate.not_compared());
        Ok(())
    }

    async fn round_trips(&mut self, sessions: usize, running: &[(String, Running)]) -> Result<()> {
        let plural = if sessions == 1 { "session" } else { "sessions" };
        let name = format!("round trip, {sessions} {plural}");
        if !self.is_wanted(&name) {
            return Ok(());
        }
        let mut cost = Measure::new(&name, "CPU µs").at_sessions(sessions);
        let mut rate = Measure::new(format!("{name}: rate"), "1/s").not_compared();
        for round in 0..self.options.rounds {
            until_descriptors_are_closed().await?;
            rate.add("direct", self.trips(self.backend, sessions).await?.rate());
            for (name, proxy) in in_turn(running, round) {
                until_descriptors_are_closed().await?;
                let (cpu, trips) = self.trips_on(proxy.address, proxy.pid, sessions).await?;
                cost.add(name, cpu.as_secs_f64() * 1e6 / trips.count() as f64);
                rate.add(name, trips.rate());
            }
        }
        self.done(cost);
        self.done(rate);
        Ok(())
    }

    /// What a proxy adds to the time that a query takes.
    async fn latency(&mut self, running: &[(String, Running)]) -> Result<()> {
        let shares = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
        let name = |label| format!("added latency {label}, {LATENCY_SESSIONS} sessions");
        if !self.is_wanted(&name("p50")) {
            return Ok(());
        }
        let mut measures = shares.map(|(label, _)| Measure::new(name(label), "µs"));
        for round in 0..self.options.rounds {
            let direct = self.trips(self.backend, LATENCY_SESSIONS).await?;
            for (name, proxy) in in_turn(running, round) {
                let (_, trips) = self.trips_on(proxy.address, proxy.pid, LATENCY_SESSIONS).await?;
                for ((_, share), measure) in shares.into_iter().zip(&mut measures) {
                    measure.add(name, trips.percentile_us(share) - direct.percentile_us(share));
                }
            }
        }
        measures.into_iter().for_each(|measure| self.done(measure));
        Ok(())
    }

    async fn trips(&self, server: SocketAddr, sessions: usize) -> Result<RoundTrips> {
        let duration = self.amounts.trips;
        off_the_runtime(move || load::round_trips(&mut load::open_many(server, sessions)?, duration)).await
    }

    /// CPU time of the proxy, without what opening and closing the sessions took, and the round trips.
    async fn trips_on(&self, server: SocketAddr, pid: u32, sessions: usize) -> Result<(Duration, RoundTrips)> {
        let duration = self.amounts.trips;
        off_the_runtime(move || {
            let mut open = load::open_many(server, sessions)?;
            load::round_trips(&mut open, duration / 10)?;
            let cpu = |pid| usage::cpu_time(pid).map_err(std::io::Error::other);
            let before = cpu(pid)?;
            let trips = load::round_trips(&mut open, duration)?;
            Ok((cpu(pid)? - before, trips))
        })
        .await
    }

    /// Memory per idle session after one query; each time in a new process.
    async fn idle(&mut self, sessions: usize) -> Result<()> {
        let name = format!("idle session, of {sessions}");
        if !self.is_wanted(&name) {
            return Ok(());
        }
        let mut memory = Measure::new(name, "kB");
        for _ in 0..self.options.rounds {
            for proxy in &self.proxies {
                let running = proxy.start(self.scratch.directory(), self.backend, self.leader.address()).await?;
                let (server, pid) = (running.address, running.pid);
                let before = usage::resident_bytes(pid)?;
                let open = off_the_runtime(move || {
                    let mut open = load::open_many(server, sessions)?;
                    open.iter_mut().try_for_each(Session::query)?;
                    Ok(open)
                })
                .await?;
                tokio::time::sleep(SETTLE).await;
                let grown = usage::resident_bytes(pid)?.saturating_sub(before);
                memory.add(proxy.name(), grown as f64 / sessions as f64 / 1000.0);
                drop(open);
            }
        }
        self.done(memory);
        Ok(())
    }
}

/// Another proxy is the first in each round, because the first one meets a different load of the machine.
fn in_turn(running: &[(String, Running)], round: usize) -> impl Iterator<Item = &(String, Running)> {
    running.iter().cycle().skip(round % running.len()).take(running.len())
}

fn per_second(done: f64, took: Duration, unit: &str) -> f64 {
    let scale = if unit.contains("GB") { 1.0 } else { 1e6 };
    done * scale / took.as_secs_f64()
}

async fn timed(work: impl FnOnce() -> std::io::Result<f64> + Send + 'static) -> Result<(f64, Duration)> {
    off_the_runtime(move || {
        let started = Instant::now();
        let done = work()?;
        Ok((done, started.elapsed()))
    })
    .await
}

/// Runs a load on a thread of its own.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    let worked = tokio::task::spawn_blocking(work).await.expect("a load does not panic");
    worked.map_err(|source| Error::Io { doing: "running a load".to_owned(), source })
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).map_err(|source| Error::Io { doing: format!("writing {}", file.display()), source })
}
