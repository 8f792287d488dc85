//! Thousands of sessions of which a few are busy: what the others cost them.

use std::time::Duration;

use pgvane_loadtest::Result;
use pgvane_loadtest::bench::load::{RoundTrips, Server};
use pgvane_loadtest::bench::proxy::{Proxy, Setup};
use pgvane_loadtest::bench::report::Measure;

use super::cost::{trips_among, until_descriptors_are_closed};
use super::idle::sessions_at_rest;
use super::{Bench, in_turn, off_the_runtime};

/// One session in this many is busy.
const BUSY_EVERY: usize = 100;

/// Descriptors that are needed besides those of the sessions, by this process and by the proxies.
const DESCRIPTORS_BESIDES: usize = 200;

/// Of these, what this process may have open before it begins.
const DESCRIPTORS_AT_REST: usize = 100;

impl Bench<'_> {
    /// CPU time per round trip, and latency, of the busy sessions. Every proxy runs alone, in a new process each time:
    /// the descriptors of this process, which has both ends, do not suffice for two.
    pub(super) async fn crowd(&mut self) -> Result<()> {
        let sessions = sessions_within(self.descriptors_max, self.options.crowd);
        let busy = (0..sessions).filter(|number| is_busy(*number)).count();
        let name = format!("{busy} of {sessions} sessions busy");
        let names = [format!("round trip, {name}"), format!("latency p50, {name}"), format!("latency p99, {name}")];
        if !names.iter().any(|name| self.is_wanted(name)) {
            return Ok(());
        }
        if sessions < self.options.crowd {
            let (wanted, limit) = (self.options.crowd, self.descriptors_max);
            eprintln!("{sessions} sessions in place of {wanted}: a process may have {limit} descriptors (ulimit -Hn)");
        }
        let [trip, median, slow] = names;
        let mut rate = Measure::new(format!("{trip}: rate"), "1/s").not_compared();
        let mut cost = Measure::new(trip, "CPU µs");
        let mut latencies = [(0.5, Measure::new(median, "µs")), (0.99, Measure::new(slow, "µs"))];
        // splicing is for streams, and needs descriptors for its pipes
        let proxies: Vec<Proxy> =
            self.proxies.iter().filter(|proxy| **proxy != Proxy::Haproxy { splices: true }).cloned().collect();
        for round in 0..self.options.rounds {
            let mut add = |name: &str, trips: &RoundTrips| {
                rate.add(name, trips.rate());
                for (share, measure) in &mut latencies {
                    measure.add(name, trips.percentile_us(*share));
                }
            };
            // no turn waits for local ports that the turn before has left in TIME_WAIT
            let (_, trips) = self.trips_in_crowd(&self.backend_at(1).into(), std::process::id(), sessions).await?;
            add("direct", &trips);
            for (turn, proxy) in in_turn(&proxies, round).enumerate() {
                let setup = Setup { backend: self.backend_at(turn + 2), sessions_max: sessions, ..self.setup() };
                let running = proxy.start(&setup).await?;
                let (cpu, trips) = self.trips_in_crowd(&running.server, running.pid, sessions).await?;
                cost.add(proxy.name(), cpu.as_secs_f64() * 1e6 / trips.count() as f64);
                add(proxy.name(), &trips);
            }
        }
        self.done(cost);
        self.done(rate);
        latencies.into_iter().for_each(|(_, measure)| self.done(measure));
        Ok(())
    }

    async fn trips_in_crowd(&self, server: &Server, pid: u32, sessions: usize) -> Result<(Duration, RoundTrips)> {
        until_descriptors_are_closed(DESCRIPTORS_AT_REST).await?;
        let open = sessions_at_rest(server, sessions).await?;
        let duration = self.amounts.trips;
        off_the_runtime(move || {
            let (mut busy, _idle) = apart(open);
            trips_among(&mut busy, pid, duration)
        })
        .await
    }
}

/// The wanted number of sessions, or as many as a process can have with two descriptors for each.
fn sessions_within(descriptors_max: usize, wanted: usize) -> usize {
    let fitting = descriptors_max.saturating_sub(DESCRIPTORS_BESIDES) / 2;
    if fitting < wanted { (fitting - fitting % BUSY_EVERY).max(1) } else { wanted }
}

/// One in each hundred, at another place in the next hundred: a proxy that gives its sessions to its threads in turn
/// would otherwise have all busy ones on one thread.
fn is_busy(number: usize) -> bool {
    number % BUSY_EVERY == number / BUSY_EVERY % BUSY_EVERY
}

/// The busy ones and the others.
fn apart<T>(all: Vec<T>) -> (Vec<T>, Vec<T>) {
    let (mut busy, mut idle) = (Vec::new(), Vec::new());
    for (number, one) in all.into_iter().enumerate() {
        if is_busy(number) { busy.push(one) } else { idle.push(one) }
    }
    (busy, idle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_session_in_a_hundred_is_busy_and_they_are_on_all_threads() {
        let (busy, idle) = apart((0..20_000).collect::<Vec<usize>>());
        assert_eq!((busy.len(), idle.len()), (200, 19_800));
        for threads in [2, 3, 4, 8] {
            for thread in 0..threads {
                let on_it = busy.iter().filter(|number| **number % threads == thread).count();
                let even = 200 / threads;
                assert!(on_it.abs_diff(even) <= 2, "{on_it} busy sessions on thread {thread} of {threads}");
            }
        }
    }

    #[test]
    fn there_are_no_more_sessions_than_descriptors_for_both_ends() {
        assert_eq!(sessions_within(1 << 20, 10_000), 10_000);
        assert_eq!(sessions_within(20_000, 10_000), 9900);
        assert_eq!(sessions_within(4096, 10_000), 1900);
        assert_eq!(sessions_within(64, 10_000), 1);
    }
}
