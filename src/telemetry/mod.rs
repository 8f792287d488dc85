//! Logs and metrics: how they are written, whatever it is that they tell.

mod line_limit;
mod log_writer;
pub mod logging;
pub mod registry;

pub use line_limit::LineLimit;
pub use log_writer::lines_lost;
pub use registry::MetricRegistry;
