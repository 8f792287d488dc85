//! What operators see of the proxy's inside: logs and metrics.

pub mod logging;
pub mod metrics;
