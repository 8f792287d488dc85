//! What operators see of the proxy's inside: logs and metrics.

pub mod history;
pub mod logging;
pub mod metrics;
