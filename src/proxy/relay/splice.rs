//! When a direction uses `splice(2)`: its system calls pay off for a stream of data, not for short messages.

use crate::config::RelayMode;
use crate::net::{Socket, Stream};

/// The maximum of one read. A large one saves system calls on big results, and costs memory once per thread.
pub(super) const SCRATCH_LENGTH: usize = 64 * 1024;

/// A direction begins to splice after this many consecutive reads filled the scratch buffer: one large row is no stream.
const FULL_READS: u8 = 3;

/// A direction copies again after this many consecutive chunks were too small to splice.
const SMALL_CHUNKS: u8 = 4;

/// The minimum that is spliced; below it, two system calls and the work on the pipe cost more than a copy.
pub(super) const SPLICE_LENGTH_MIN: usize = 16 * 1024;

/// This many of the bytes that have arrived are always read and not spliced: when a stream pauses, pgvane has then seen
/// its last messages. See [`crate::protocol::framing::Framing::server_paused`].
pub(super) const TAIL_LENGTH: usize = 64;

/// A connection that may be a plaintext socket. Between two plaintext sockets the kernel can move the bytes.
pub(super) trait MaybePlain {
    /// The socket, if the connection is not encrypted.
    fn plain(&self) -> Option<&Socket>;
}

impl MaybePlain for Stream {
    fn plain(&self) -> Option<&Socket> {
        Stream::plain(self)
    }
}

/// Decides whether one direction copies or splices.
#[derive(Debug, Clone, Copy)]
pub(super) struct SpliceHeuristic {
    mode: RelayMode,
    splices: bool,
    /// Consecutive chunks for which the other method would have been better.
    streak: u8,
}

impl SpliceHeuristic {
    /// The state at the beginning of a session.
    pub(super) fn new(mode: RelayMode) -> SpliceHeuristic {
        SpliceHeuristic { mode, splices: mode == RelayMode::Splice, streak: 0 }
    }

    /// Whether the next chunk is spliced, if it is large enough.
    pub(super) fn splices(self) -> bool {
        self.splices
    }

    /// Records the length of a chunk.
    pub(super) fn note(&mut self, length: usize) {
        if self.mode != RelayMode::Auto {
            return;
        }
        let (fits_other, limit) = match self.splices {
            true => (length < SPLICE_LENGTH_MIN, SMALL_CHUNKS),
            false => (length == SCRATCH_LENGTH, FULL_READS),
        };
        self.streak = if fits_other { self.streak + 1 } else { 0 };
        if self.streak == limit {
            *self = SpliceHeuristic { splices: !self.splices, streak: 0, ..*self };
        }
    }

    /// Copies from now on: the kernel cannot splice these sockets.
    pub(super) fn give_up(&mut self) {
        *self = SpliceHeuristic { mode: RelayMode::Copy, splices: false, streak: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_spliced_and_short_messages_are_not() {
        let mut heuristic = SpliceHeuristic::new(RelayMode::Auto);
        for length in [SCRATCH_LENGTH, SCRATCH_LENGTH, 100, SCRATCH_LENGTH, SCRATCH_LENGTH] {
            heuristic.note(length);
            assert!(!heuristic.splices());
        }
        heuristic.note(SCRATCH_LENGTH);
        assert!(heuristic.splices());
        for length in [100, 100, 100, SPLICE_LENGTH_MIN, 100, 100, 100] {
            heuristic.note(length);
            assert!(heuristic.splices());
        }
        heuristic.note(100);
        assert!(!heuristic.splices());
    }

    #[test]
    fn the_mode_overrides_the_heuristic() {
        let (mut copies, mut splices) =
            (SpliceHeuristic::new(RelayMode::Copy), SpliceHeuristic::new(RelayMode::Splice));
        for _ in 0..10 {
            copies.note(SCRATCH_LENGTH);
            splices.note(1);
        }
        assert!(!copies.splices() && splices.splices());
    }
}
