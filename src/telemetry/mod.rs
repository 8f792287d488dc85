//! Logs and metrics: how they are written, whatever it is that they tell.

pub mod logging;
pub mod registry;

pub use registry::MetricRegistry;
