//! Bounds how often the same is logged: some lines at once, and then some for each interval, with how many were left out.

use std::time::Duration;

use tokio::time::Instant;

/// The interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// The lines of one kind.
#[derive(Debug)]
pub struct LineLimit {
    lines_max: u32,
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl LineLimit {
    /// At most `lines_max` lines in ten seconds.
    pub fn new(lines_max: u32) -> LineLimit {
        LineLimit { lines_max, since: None, lines: 0, left_out: 0 }
    }

    /// Whether a line may be written at `now`: how many were left out before it; `None` if it is left out itself.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now - since >= INTERVAL) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == self.lines_max {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_the_count_is_told_once() {
        let (mut limit, start) = (LineLimit::new(20), Instant::now());
        assert_eq!((0..42_000).filter(|_| limit.admit(start).is_some()).count(), 20);
        assert_eq!(limit.admit(start + INTERVAL), Some(42_000 - 20));
        assert_eq!(limit.admit(start + INTERVAL), Some(0));
    }
}
