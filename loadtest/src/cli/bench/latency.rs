//! What the proxies add to the time that a query takes.

use pgvane_loadtest::Result;
use pgvane_loadtest::bench::load::RoundTrips;
use pgvane_loadtest::bench::report::Measure;

use super::cost::{DESCRIPTORS_AT_REST, until_descriptors_are_closed};
use super::{Bench, Group, in_turn, sessions_in_words};

/// Numbers of sessions for which it is measured.
const SESSIONS: [usize; 3] = [1, 8, 64];

const SHARES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

impl Bench<'_> {
    /// The time with the proxy less the time without it. The time without it is measured just before and just after
    /// each proxy's turn, because it changes with the load of the machine.
    pub(super) async fn latency(&mut self, group: &Group) -> Result<()> {
        for sessions in SESSIONS {
            self.latency_of(sessions, group).await?;
        }
        Ok(())
    }

    async fn latency_of(&mut self, sessions: usize, group: &Group) -> Result<()> {
        let in_words = sessions_in_words(sessions);
        let added = SHARES.map(|(label, _)| format!("added latency {label}, {in_words}"));
        let direct = format!("latency, direct p50, {in_words}");
        if !added.iter().chain([&direct]).any(|name| self.is_wanted(name)) {
            return Ok(());
        }
        let mut added = added.map(|name| Measure::new(name, "µs"));
        let mut direct = Measure::new(direct, "µs").not_compared();
        for round in 0..self.options.rounds {
            until_descriptors_are_closed(DESCRIPTORS_AT_REST).await?;
            let mut before = self.direct_trips(sessions).await?;
            let mut medians = vec![before.percentile_us(0.5)];
            for (name, proxy) in in_turn(&group.running, round) {
                let (_, through) = self.trips_on(&proxy.server, proxy.pid, sessions).await?;
                let after = self.direct_trips(sessions).await?;
                for ((_, share), measure) in SHARES.into_iter().zip(&mut added) {
                    measure.add(name, added_us(&through, [&before, &after], share));
                }
                medians.push(after.percentile_us(0.5));
                before = after;
            }
            direct.add("direct", medians.iter().sum::<f64>() / medians.len() as f64);
        }
        added.into_iter().chain([direct]).for_each(|measure| self.done(measure));
        Ok(())
    }

    async fn direct_trips(&self, sessions: usize) -> Result<RoundTrips> {
        // the CPU time of the null backend, which is in this process, is of no interest
        let (_, trips) = self.trips_on(&self.backend.into(), std::process::id(), sessions).await?;
        Ok(trips)
    }
}

/// How much longer the round trips took through a proxy than without it, before and after; microseconds.
fn added_us(through: &RoundTrips, direct: [&RoundTrips; 2], share: f64) -> f64 {
    let [before, after] = direct.map(|trips| trips.percentile_us(share));
    through.percentile_us(share) - f64::midpoint(before, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trips(microseconds: [u32; 3]) -> RoundTrips {
        RoundTrips { nanoseconds: microseconds.map(|us| us * 1000).to_vec(), ..RoundTrips::default() }
    }

    /// The machine becomes slower, from 10 µs to 30 µs, and the proxy is measured in the middle of that.
    #[test]
    fn a_change_of_the_machine_is_not_taken_for_the_proxy() {
        let (before, through, after) = (trips([9, 10, 11]), trips([45, 50, 90]), trips([29, 30, 31]));
        assert!((added_us(&through, [&before, &after], 0.5) - 30.0).abs() < 1e-9);
        assert!((added_us(&through, [&before, &after], 1.0) - 69.0).abs() < 1e-9);
    }
}
