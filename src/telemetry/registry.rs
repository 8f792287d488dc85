//! The registry of metrics, and how metrics are made. What is counted is said where it is counted.
//!
//! Names begin with `pgvane_`; units are Prometheus' base units.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The endings of the numbers that belong to a histogram.
const BUCKET: &str = "_bucket";
const SUM: &str = "_sum";
const COUNT: &str = "_count";

/// Buckets from a local round trip to the longest wait that anybody configures.
const WAIT_BUCKETS_SECONDS: &[f64] = &[0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A collection of metrics that is printed as a whole. Cheap to clone; a clone is the same registry.
#[derive(Debug, Clone)]
pub struct MetricRegistry {
    registry: Registry,
    /// The counters by their names, to be added to.
    counters: Arc<Mutex<HashMap<String, IntCounterVec>>>,
    /// What histograms have counted in the processes before this one. Prometheus' crate cannot add to them.
    histograms_before: Arc<Mutex<BTreeMap<HistogramPart, f64>>>,
}

/// A number of a histogram: the name and the labels as Prometheus' text format has them.
type HistogramPart = (String, Labels);

/// Names and values of labels.
pub type Labels = Vec<(String, String)>;

/// Prometheus refuses a metric only if its name or labels are malformed or given twice: all are constants.
const CONSTANT: &str = "names and labels are constants";

impl Default for MetricRegistry {
    /// An empty one.
    fn default() -> MetricRegistry {
        MetricRegistry { registry: Registry::new(), counters: Arc::default(), histograms_before: Arc::default() }
    }
}

impl MetricRegistry {
    /// A registry that says which pgvane this is.
    pub fn with_build_info() -> MetricRegistry {
        let registry = MetricRegistry::default();
        let build = IntGaugeVec::new(Opts::new("pgvane_build_info", "Which pgvane this is."), &["version"]);
        registry.add(build).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry
    }

    /// A counter with these labels.
    pub fn counter(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counter = self.add(IntCounterVec::new(Opts::new(name, help), labels));
        self.counters.lock().insert(name.to_owned(), counter.clone());
        counter
    }

    /// A gauge with these labels.
    pub fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    /// A histogram of waits, in seconds.
    pub fn wait_histogram(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(WAIT_BUCKETS_SECONDS.to_vec());
        self.add(HistogramVec::new(options, labels))
    }

    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = made.expect(CONSTANT);
        self.registry.register(Box::new(metric.clone())).expect(CONSTANT);
        metric
    }

    /// The present values of all its metrics.
    pub fn gather(&self) -> Vec<MetricFamily> {
        let mut families = self.registry.gather();
        let before = self.histograms_before.lock();
        if !before.is_empty() {
            families.iter_mut().for_each(|family| add_before(family, &before));
        }
        families
    }

    /// What counters and histograms have counted: name, labels, value, as Prometheus' text format has them. Another process
    /// can add them to its own.
    pub fn counted(&self) -> Vec<(String, Labels, f64)> {
        let mut counted = Vec::new();
        for family in self.gather() {
            let name = family.name().to_owned();
            for metric in family.get_metric() {
                let labels = labels_of(metric);
                match family.get_field_type() {
                    MetricType::COUNTER => counted.push((name.clone(), labels, metric.get_counter().get_value())),
                    MetricType::HISTOGRAM => {
                        let histogram = metric.get_histogram();
                        for bucket in histogram.get_bucket() {
                            let labels = with_bound(&labels, bucket.upper_bound());
                            counted.push((format!("{name}{BUCKET}"), labels, bucket.cumulative_count() as f64));
                        }
                        counted.push((format!("{name}{SUM}"), labels.clone(), histogram.get_sample_sum()));
                        counted.push((format!("{name}{COUNT}"), labels, histogram.get_sample_count() as f64));
                    }
                    _ => {}
                }
            }
        }
        counted
    }

    /// Adds what another process has counted. False if there is no such metric here.
    pub fn add_counted(&self, name: &str, labels: &[(String, String)], value: f64) -> bool {
        if let Some(counter) = self.counters.lock().get(name) {
            let labels: HashMap<&str, &str> =
                labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            return counter.get_metric_with(&labels).map(|counter| counter.inc_by(value as u64)).is_ok();
        }
        let is_part = [BUCKET, SUM, COUNT].iter().any(|part| name.ends_with(part));
        if is_part {
            *self.histograms_before.lock().entry((name.to_owned(), labels.to_vec())).or_default() += value;
        }
        is_part
    }
}

/// Adds to the histograms of a family what was counted before.
fn add_before(family: &mut MetricFamily, before: &BTreeMap<HistogramPart, f64>) {
    if family.get_field_type() != MetricType::HISTOGRAM {
        return;
    }
    let name = family.name().to_owned();
    let of = |part: &str, labels: &[(String, String)]| {
        before.get(&(format!("{name}{part}"), labels.to_vec())).copied().unwrap_or_default()
    };
    for metric in family.mut_metric() {
        let labels = labels_of(metric);
        let mut histogram = metric.get_histogram().clone();
        let mut buckets = histogram.get_bucket().to_vec();
        for bucket in &mut buckets {
            let count = of(BUCKET, &with_bound(&labels, bucket.upper_bound()));
            bucket.set_cumulative_count(bucket.cumulative_count() + count as u64);
        }
        histogram.set_bucket(buckets);
        histogram.set_sample_sum(histogram.get_sample_sum() + of(SUM, &labels));
        histogram.set_sample_count(histogram.get_sample_count() + of(COUNT, &labels) as u64);
        metric.set_histogram(histogram);
    }
}

fn labels_of(metric: &Metric) -> Vec<(String, String)> {
    metric.get_label().iter().map(|label| (label.name().to_owned(), label.value().to_owned())).collect()
}

fn with_bound(labels: &[(String, String)], bound: f64) -> Vec<(String, String)> {
    labels.iter().cloned().chain([("le".to_owned(), bound.to_string())]).collect()
}

/// These metrics in Prometheus' text format.
pub fn render(families: &[MetricFamily]) -> String {
    let mut text = Vec::new();
    TextEncoder::new().encode(families, &mut text).expect("writing to memory does not fail");
    String::from_utf8(text).expect("the text format is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_goes_on_with_what_another_one_has_counted() {
        let metrics = || {
            let registry = MetricRegistry::with_build_info();
            let ends = registry.counter("pgvane_ends_total", "Ends.", &["listener", "reason"]);
            let waits = registry.wait_histogram("pgvane_wait_seconds", "Waits.", &["listener"]);
            (registry, ends.with_label_values(&["rw", "lost"]), waits.with_label_values(&["rw"]))
        };
        let (before, ends, waits) = metrics();
        ends.inc_by(5);
        [0.003, 0.003, 7.0].into_iter().for_each(|wait| waits.observe(wait));
        let (after, ends, waits) = metrics();
        ends.inc_by(2);
        waits.observe(0.04);
        for (name, labels, value) in before.counted() {
            assert!(after.add_counted(&name, &labels, value), "{name}");
        }
        assert_eq!(ends.get(), 7);
        let text = render(&after.gather());
        for line in [
            "pgvane_ends_total{listener=\"rw\",reason=\"lost\"} 7",
            "pgvane_wait_seconds_bucket{listener=\"rw\",le=\"0.001\"} 0",
            "pgvane_wait_seconds_bucket{listener=\"rw\",le=\"0.005\"} 2",
            "pgvane_wait_seconds_bucket{listener=\"rw\",le=\"0.05\"} 3",
            "pgvane_wait_seconds_bucket{listener=\"rw\",le=\"+Inf\"} 4",
            "pgvane_wait_seconds_count{listener=\"rw\"} 4",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!after.add_counted("pgvane_unknown_total", &[], 1.0));
        assert!(!after.add_counted("pgvane_build_info", &[], 1.0), "a gauge is not counted");
    }
}
