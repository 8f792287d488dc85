//! The registry of metrics, and how metrics are made. What is counted is said where it is counted.
//!
//! Names begin with `pgvane_`; units are Prometheus' base units.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Buckets from a local round trip to the longest wait that anybody configures.
const WAIT_BUCKETS_SECONDS: &[f64] = &[0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A collection of metrics that is printed as a whole. Cheap to clone; a clone is the same registry.
#[derive(Debug, Clone)]
pub struct MetricRegistry(Registry);

/// Prometheus refuses a metric only if its name or labels are malformed or given twice: all are constants.
const CONSTANT: &str = "names and labels are constants";

impl Default for MetricRegistry {
    /// An empty one.
    fn default() -> MetricRegistry {
        MetricRegistry(Registry::new())
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
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
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
        self.0.register(Box::new(metric.clone())).expect(CONSTANT);
        metric
    }

    /// The present values of all its metrics.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.0.gather()
    }
}

/// These metrics in Prometheus' text format.
pub fn render(families: &[MetricFamily]) -> String {
    let mut text = Vec::new();
    TextEncoder::new().encode(families, &mut text).expect("writing to memory does not fail");
    String::from_utf8(text).expect("the text format is UTF-8")
}
