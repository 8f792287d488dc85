//! CPU time of the proxies per operation, and how many operations they do: round trips, streams, connections.

use std::fs;
use std::time::{Duration, Instant};

use pgvane_loadtest::bench::load::{self, RoundTrips, Server, Session};
use pgvane_loadtest::bench::report::Measure;
use pgvane_loadtest::bench::usage;
use pgvane_loadtest::{Result, wait};

use super::{Bench, Group, in_turn, off_the_runtime, sessions_in_words};

/// Descriptors that this process may have before sessions are opened; with two for each of 8,000, that leaves room.
pub(super) const DESCRIPTORS_AT_REST: usize = 2000;

const DESCRIPTORS_CLOSED_WITHIN: Duration = Duration::from_secs(60);

const GIGABYTE: f64 = 1e9;

impl Bench<'_> {
    pub(super) async fn round_trips(&mut self, sessions: usize, group: &Group) -> Result<()> {
        let name = format!("round trip, {}{}", sessions_in_words(sessions), group.suffix);
        if !self.is_wanted(&name) {
            return Ok(());
        }
        let mut cost = Measure::new(&name, "CPU µs").against(group.baseline);
        if group.is_plotted {
            cost = cost.at_sessions(sessions);
        }
        let mut rate = Measure::new(format!("{name}: rate"), "1/s").not_compared();
        for round in 0..self.options.rounds {
            until_descriptors_are_closed(DESCRIPTORS_AT_REST).await?;
            if let Some(server) = &group.direct {
                rate.add("direct", self.trips(server.clone(), sessions).await?.rate());
            }
            for (name, proxy) in in_turn(&group.running, round) {
                until_descriptors_are_closed(DESCRIPTORS_AT_REST).await?;
                let (cpu, trips) = self.trips_on(&proxy.server, proxy.pid, sessions).await?;
                cost.add(name, cpu.as_secs_f64() * 1e6 / trips.count() as f64);
                rate.add(name, trips.rate());
            }
        }
        self.done(cost);
        self.done(rate);
        Ok(())
    }

    /// `COPY` of large and small pieces to the client, and from it.
    pub(super) async fn streams(&mut self, group: &Group) -> Result<()> {
        let bytes = (self.amounts.gigabytes * GIGABYTE) as u64;
        for (name, kind) in [("streaming out", "bulk"), ("streaming out, 8 kB pieces", "out")] {
            self.cost(name, "CPU s per GB", group, move |server| {
                let mut session = Session::open(server, 0)?;
                Ok(session.copy_out(kind, bytes)? as f64 / GIGABYTE)
            })
            .await?;
        }
        self.cost("streaming in", "CPU s per GB", group, move |server| {
            let mut session = Session::open(server, 0)?;
            Ok(session.copy_in(bytes)? as f64 / GIGABYTE)
        })
        .await
    }

    /// Sessions of one query each.
    pub(super) async fn connects(&mut self, group: &Group) -> Result<()> {
        let connects = self.amounts.connects;
        self.cost("connect + query + close", "CPU µs", group, move |server| {
            load::connects(server, connects)?;
            Ok(connects as f64 / 1e6)
        })
        .await
    }

    /// CPU seconds of the proxy per unit of `work`, which returns how many units it did.
    async fn cost(
        &mut self,
        name: &str,
        unit: &'static str,
        group: &Group,
        work: impl Fn(&Server) -> std::io::Result<f64> + Copy + Send + 'static,
    ) -> Result<()> {
        let name = format!("{name}{}", group.suffix);
        if !self.is_wanted(&name) {
            return Ok(());
        }
        let mut cost = Measure::new(&name, unit).against(group.baseline);
        let mut rate = Measure::new(format!("{name}: rate"), if unit.contains("GB") { "GB/s" } else { "1/s" });
        for round in 0..self.options.rounds {
            if let Some(server) = group.direct.clone() {
                let (done, took) = timed(move || work(&server)).await?;
                rate.add("direct", per_second(done, took, unit));
            }
            for (name, proxy) in in_turn(&group.running, round) {
                let before = usage::cpu_time(proxy.pid)?;
                let server = proxy.server.clone();
                let (done, took) = timed(move || work(&server)).await?;
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

    async fn trips(&self, server: Server, sessions: usize) -> Result<RoundTrips> {
        let duration = self.amounts.trips;
        off_the_runtime(move || load::round_trips(&mut load::open_many(&server, sessions)?, duration)).await
    }

    /// CPU time of the proxy, without what opening and closing the sessions took, and the round trips.
    pub(super) async fn trips_on(&self, server: &Server, pid: u32, sessions: usize) -> Result<(Duration, RoundTrips)> {
        let (duration, server) = (self.amounts.trips, server.clone());
        off_the_runtime(move || trips_among(&mut load::open_many(&server, sessions)?, pid, duration)).await
    }
}

/// Round trips of open sessions, and the CPU time that process `pid` used meanwhile.
pub(super) fn trips_among(
    open: &mut [Session],
    pid: u32,
    duration: Duration,
) -> std::io::Result<(Duration, RoundTrips)> {
    load::round_trips(open, duration / 10)?;
    let cpu = || usage::cpu_time(pid).map_err(std::io::Error::other);
    let before = cpu()?;
    let trips = load::round_trips(open, duration)?;
    Ok((cpu()? - before, trips))
}

/// The null backend is in this process. After thousands of sessions have ended, a proxy, especially a pooler, may keep
/// its connections to it for a moment.
pub(super) async fn until_descriptors_are_closed(most: usize) -> Result<()> {
    wait::until("closed connections", DESCRIPTORS_CLOSED_WITHIN, || async {
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        if open <= most { Ok(()) } else { Err(format!("{open} descriptors are open")) }
    })
    .await
}

fn per_second(done: f64, took: Duration, unit: &str) -> f64 {
    let scale = if unit.contains("GB") { 1.0 } else { 1e6 };
    done * scale / took.as_secs_f64()
}

pub(super) async fn timed(work: impl FnOnce() -> std::io::Result<f64> + Send + 'static) -> Result<(f64, Duration)> {
    off_the_runtime(move || {
        let started = Instant::now();
        let done = work()?;
        Ok((done, started.elapsed()))
    })
    .await
}
