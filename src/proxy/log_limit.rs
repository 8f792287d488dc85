//! Bounds how often a listener logs that sessions ended, for each kind of end.

use parking_lot::Mutex;
use strum::VariantArray;
use tokio::time::Instant;

use super::end::EndKind;
use crate::telemetry::LineLimit;

/// Lines of one kind that may come in ten seconds.
const LINES_MAX: u32 = 20;

/// The lines of one listener, by the kind of end that they tell.
#[derive(Debug)]
pub struct LogLimit(Vec<Mutex<LineLimit>>);

impl Default for LogLimit {
    fn default() -> LogLimit {
        LogLimit(EndKind::VARIANTS.iter().map(|_| Mutex::new(LineLimit::new(LINES_MAX))).collect())
    }
}

impl LogLimit {
    /// Whether a line of this kind may be written now: how many were left out before it; `None` if it is left out itself.
    pub fn admit(&self, kind: EndKind) -> Option<u64> {
        self.0[kind as usize].lock().admit(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_hides_no_other() {
        let limit = LogLimit::default();
        let written = (0..1000).filter(|_| limit.admit(EndKind::ServerFailed).is_some()).count();
        assert_eq!(written, LINES_MAX as usize);
        assert_eq!(limit.admit(EndKind::Cut), Some(0));
    }
}
