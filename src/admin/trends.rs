//! The last hour in memory: one sample every ten seconds, for the plots of the stats page. Bounded: a sample has some
//! numbers, and one for each replica.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::status::Status;

/// Time between two samples.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// For how long samples are kept.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(3600);

/// How many samples are kept.
const SAMPLES_MAX: usize = (KEPT_FOR.as_secs() / INTERVAL.as_secs()) as usize + 1;

/// The samples, oldest first.
#[derive(Debug, Default)]
pub struct Trends(Mutex<VecDeque<Sample>>);

/// The state at one moment. Rates are averages since the sample before.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// When it was taken.
    pub(super) at: Instant,
    /// Connections on all listeners.
    pub(super) sessions: f64,
    /// Connections that wait for a node.
    pub(super) held: f64,
    /// Connections accepted per second.
    pub(super) connects_per_second: f64,
    /// Bytes relayed per second, both ways.
    pub(super) bytes_per_second: f64,
    /// The lag in bytes of each node that has one.
    pub(super) lags: Box<[(Arc<str>, f64)]>,
}

/// The counters at the sample before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counters {
    at: Instant,
    accepted: u64,
    bytes: u64,
}

impl Trends {
    /// The samples, oldest first.
    pub(super) fn samples(&self) -> Vec<Sample> {
        self.0.lock().iter().cloned().collect()
    }

    /// Adds a sample, and returns the counters for the next one.
    pub(super) fn add(&self, status: &Status, before: Option<Counters>, at: Instant) -> Counters {
        let listeners = &status.listeners;
        let now = Counters {
            at,
            accepted: listeners.iter().map(|one| one.sessions_total).sum(),
            bytes: listeners.iter().map(|one| one.bytes_to_server + one.bytes_to_client).sum(),
        };
        let before = before.unwrap_or(now);
        let seconds = (at - before.at).as_secs_f64();
        let per_second = |now: u64, before: u64| match seconds > 0.0 {
            true => now.saturating_sub(before) as f64 / seconds,
            false => 0.0,
        };
        let mut samples = self.0.lock();
        let known = samples.back().map(|sample| sample.lags.clone()).unwrap_or_default();
        let sample = Sample {
            at,
            sessions: listeners.iter().map(|one| one.sessions as f64).sum(),
            held: listeners.iter().map(|one| one.held as f64).sum(),
            connects_per_second: per_second(now.accepted, before.accepted),
            bytes_per_second: per_second(now.bytes, before.bytes),
            lags: lags(status, &known),
        };
        samples.push_back(sample);
        if samples.len() > SAMPLES_MAX {
            samples.pop_front();
        }
        now
    }
}

/// The lags, under the names of the sample before where they are the same, so that the names are kept once.
fn lags(status: &Status, known: &[(Arc<str>, f64)]) -> Box<[(Arc<str>, f64)]> {
    let has_several = status.clusters.len() > 1;
    let nodes = status.clusters.iter().flat_map(|cluster| cluster.nodes.iter().map(move |node| (cluster, node)));
    let lagging = nodes.filter_map(|(cluster, node)| {
        let name = if has_several { format!("{}/{}", cluster.name, node.name) } else { node.name.clone() };
        let name =
            known.iter().find(|(known, _)| **known == *name).map_or_else(|| name.into(), |(known, _)| known.clone());
        Some((name, node.lag_bytes? as f64))
    });
    lagging.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::{Cluster, Listener, Node};

    fn status(accepted: u64, bytes: u64, lag: u64) -> Status {
        let listener =
            Listener { sessions: 4, held: 1, sessions_total: accepted, bytes_to_server: bytes, ..Listener::default() };
        let node = |name: &str, lag_bytes| Node { name: name.to_owned(), lag_bytes, ..Node::default() };
        let nodes = vec![node("a", None), node("b", Some(lag))];
        Status {
            listeners: vec![listener],
            clusters: vec![Cluster { nodes, ..Cluster::default() }],
            ..Status::default()
        }
    }

    #[test]
    fn rates_are_averages_since_the_sample_before_and_an_hour_is_kept() {
        let (trends, start) = (Trends::default(), Instant::now());
        let mut before = None;
        for number in 0..400_u64 {
            let at = start + INTERVAL * u32::try_from(number).expect("small");
            before = Some(trends.add(&status(number * 20, number * 1000, number), before, at));
        }
        let samples = trends.samples();
        assert_eq!(samples.len(), 361);
        let newest = samples.last().expect("there are some");
        assert_eq!((newest.connects_per_second, newest.bytes_per_second), (2.0, 100.0));
        assert_eq!((newest.sessions, newest.held), (4.0, 1.0));
        assert_eq!(&*newest.lags, [("b".into(), 399.0)]);
        assert!(Arc::ptr_eq(&newest.lags[0].0, &samples[0].lags[0].0), "names are kept once");
        assert!(newest.at - samples[0].at <= KEPT_FOR);
    }

    #[test]
    fn the_first_sample_has_no_rates() {
        let trends = Trends::default();
        trends.add(&status(500, 9000, 0), None, Instant::now());
        assert_eq!(trends.samples()[0].connects_per_second, 0.0);
    }
}
