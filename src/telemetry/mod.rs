//! Logs and metrics: how they are written, whatever it is that they tell.

mod log_writer;
pub mod logging;
pub mod registry;

pub use log_writer::lines_lost;
pub use registry::MetricRegistry;
