//! Logs and metrics: how they are written, whatever it is that they tell.

mod line_limit;
mod log_writer;
pub mod logging;
mod rate;
pub mod registry;

pub use line_limit::LineLimit;
pub use log_writer::lines_lost;
pub use rate::RateMeter;
pub use registry::MetricRegistry;
