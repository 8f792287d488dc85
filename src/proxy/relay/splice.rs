//! When a direction's bytes pass by user space: `splice(2)` is worth its calls for a stream, not for a conversation.

use crate::config::RelayMode;
use crate::net::{Socket, Stream};

/// What one read takes at the most. Larger ones save system calls on big results, and cost memory per thread only.
pub(super) const SCRATCH_LENGTH: usize = 64 * 1024;

/// Reads in a row that filled the scratch buffer, before a direction splices: a single large row is not a stream.
const FULL_READS: u8 = 3;

/// Chunks in a row that were too small to splice, before a direction copies again.
const SMALL_CHUNKS: u8 = 4;

/// The least that is spliced; below, two system calls and the pipe's bookkeeping cost more than a copy.
pub(super) const SPLICE_LENGTH_MIN: usize = 16 * 1024;

/// So much of what has arrived is always left to be read: the end of a stream that comes to rest is then seen, with
/// the last messages in it. See [`crate::protocol::framing::Framing::comes_to_rest`].
pub(super) const TAIL_LENGTH: usize = 64;

/// A connection that may be a socket in clear, between two of which the kernel can move bytes by itself.
pub(super) trait MaybePlain {
    /// The socket, if what is written to this connection is what the network carries.
    fn plain(&self) -> Option<&Socket>;
}

impl MaybePlain for Stream {
    fn plain(&self) -> Option<&Socket> {
        Stream::plain(self)
    }
}

/// Whether one direction copies or splices now.
#[derive(Debug, Clone, Copy)]
pub(super) struct SpliceHeuristic {
    mode: RelayMode,
    splices: bool,
    /// Chunks in a row that spoke for the other heuristic.
    streak: u8,
}

impl SpliceHeuristic {
    /// At the beginning of a session.
    pub(super) fn new(mode: RelayMode) -> SpliceHeuristic {
        SpliceHeuristic { mode, splices: mode == RelayMode::Splice, streak: 0 }
    }

    /// Whether the next chunk is to be spliced, if there is enough of it.
    pub(super) fn splices(self) -> bool {
        self.splices
    }

    /// Notes how much was moved at once.
    pub(super) fn note(&mut self, length: usize) {
        if self.mode != RelayMode::Auto {
            return;
        }
        let (speaks_against, most) = match self.splices {
            true => (length < SPLICE_LENGTH_MIN, SMALL_CHUNKS),
            false => (length == SCRATCH_LENGTH, FULL_READS),
        };
        self.streak = if speaks_against { self.streak + 1 } else { 0 };
        if self.streak == most {
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
    fn a_stream_is_spliced_and_a_conversation_is_not() {
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
    fn the_mode_has_the_last_word() {
        let (mut copies, mut splices) =
            (SpliceHeuristic::new(RelayMode::Copy), SpliceHeuristic::new(RelayMode::Splice));
        for _ in 0..10 {
            copies.note(SCRATCH_LENGTH);
            splices.note(1);
        }
        assert!(!copies.splices() && splices.splices());
    }
}
