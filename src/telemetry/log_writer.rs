//! Where log lines go: to standard error, through a thread of their own, so that a log that cannot be written stops nothing.
//!
//! A full disk, a pipe that nobody reads, a closed terminal: a line that cannot be written is dropped and counted. The
//! threads that serve sessions and check nodes never wait for the log, and never fail because of it.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that may wait for the writing thread: a few seconds of a very busy log, at some 200 bytes each.
const LINES_WAITING_MAX: usize = 16_384;

/// Lines that the operating system did not take.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Counts lines that were dropped because too many were waiting.
static DROPPED: Mutex<Option<ErrorCounter>> = Mutex::new(None);

/// A writer that never waits, and the guard of its thread: dropping the guard writes what is waiting, for a second at most.
pub(super) fn to_standard_error() -> (NonBlocking, WorkerGuard) {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_WAITING_MAX)
        .thread_name("pgvane-log")
        .finish(Counted(io::stderr()));
    *DROPPED.lock() = Some(writer.error_counter());
    (writer, guard)
}

/// Log lines lost since the start.
pub fn lines_lost() -> u64 {
    let dropped = DROPPED.lock().as_ref().map_or(0, ErrorCounter::dropped_lines);
    REFUSED.load(Relaxed) + dropped as u64
}

/// Writes whole lines, and counts those that could not be written.
struct Counted<W>(W);

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.write_all(line).is_err() {
            REFUSED.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full;

    impl Write for Full {
        fn write(&mut self, _line: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_is_no_error() {
        let before = lines_lost();
        let mut writer = Counted(Full);
        writer.write_all(b"a line\n").expect("is dropped");
        assert_eq!(lines_lost(), before + 1);
    }
}
