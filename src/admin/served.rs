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
    /// Whether connections are accepted. If not, another process accepts them, and each running one ends after its request.
    pub(super) is_accepting: bool,
}

impl Served {
    /// Whether connections are accepted from now on.
    pub fn set_accepting(&mut self, is_accepting: bool) {
        self.is_accepting = is_accepting;
    }
}
