//! What the admin port serves by one configuration.

use std::sync::Arc;

use axum::Router;

use super::context::AdminContext;

/// What the admin port serves by one configuration.
#[derive(Debug, Clone)]
pub struct Served {
    /// Answers requests.
    pub(super) router: Router,
    /// What its handlers share.
    pub(super) context: Arc<AdminContext>,
}
