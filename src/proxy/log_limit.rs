//! Bounds how often the same is logged: some lines at once, and then one for each interval, with how many were left out.

use std::time::Duration;

use parking_lot::Mutex;
use strum::VariantArray;
use tokio::time::Instant;

use super::end::EndKind;

/// Lines of one kind that may come in one interval.
const LINES_MAX: u32 = 20;

/// The interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// The lines of one listener, by the kind of end that they tell.
#[derive(Debug)]
pub struct LogLimit(Vec<Mutex<Window>>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Default for LogLimit {
    fn default() -> LogLimit {
        LogLimit(EndKind::VARIANTS.iter().map(|_| Mutex::default()).collect())
    }
}

impl LogLimit {
    /// Whether a line of this kind may be written now: how many were left out before it; `None` if it is left out itself.
    pub fn admit(&self, kind: EndKind) -> Option<u64> {
        self.admit_at(kind, Instant::now())
    }

    fn admit_at(&self, kind: EndKind, now: Instant) -> Option<u64> {
        let mut window = self.0[kind as usize].lock();
        if window.since.is_none_or(|since| now - since >= INTERVAL) {
            (window.since, window.lines) = (Some(now), 0);
        }
        if window.lines == LINES_MAX {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_counted_and_hides_no_other() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let written = (0..42_000).filter(|_| limit.admit_at(EndKind::ServerFailed, start).is_some()).count();
        assert_eq!(written, LINES_MAX as usize);
        assert_eq!(limit.admit_at(EndKind::Cut, start), Some(0));
        assert_eq!(limit.admit_at(EndKind::ServerFailed, start + INTERVAL), Some(42_000 - u64::from(LINES_MAX)));
        assert_eq!(limit.admit_at(EndKind::ServerFailed, start + INTERVAL), Some(0), "told once");
    }
}
