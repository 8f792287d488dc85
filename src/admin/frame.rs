//! What all pages have in common.

/// The frame of a page.
pub(super) struct Frame {
    pub(super) version: &'static str,
    at: &'static str,
}

impl Frame {
    /// The frame of this page.
    pub(super) fn of(at: &'static str) -> Frame {
        Frame { version: env!("CARGO_PKG_VERSION"), at }
    }

    /// Whether this is the page that is shown.
    pub(super) fn is_at(&self, page: &str) -> bool {
        self.at == page
    }
}
