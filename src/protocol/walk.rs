//! Walks from message to message through a stream that arrives in any chunks, without buffering it.

use serde::{Deserialize, Serialize};

use super::message::HEADER_LENGTH;

/// A place in a stream of messages.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Walk {
    header: [u8; HEADER_LENGTH],
    header_filled: u8,
    body_left: u32,
}

/// A length that no message can have: this is not PostgreSQL's protocol.
#[derive(Debug)]
pub(super) struct InvalidLength;

impl Walk {
    /// Whether the last byte walked over was the last of a message.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.header_filled == 0
    }

    /// How many bytes of the present message follow; 0 before its header is complete.
    pub(super) fn body_left(&self) -> usize {
        self.body_left as usize
    }

    /// The type of the message in which the last step was, or which it finished. Undefined before the header is
    /// complete.
    pub(super) fn kind(&self) -> u8 {
        self.header[0]
    }

    /// Takes a step: over the rest of a header, or the rest of a body, as far as `bytes` go; never both. Returns the
    /// number of bytes, and which of them belong to the body.
    pub(super) fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, &'a [u8]), InvalidLength> {
        if self.body_left > 0 {
            let part = &bytes[..bytes.len().min(self.body_left as usize)];
            self.pass_body(part.len());
            return Ok((part.len(), part));
        }
        let filled = usize::from(self.header_filled);
        let taken = bytes.len().min(HEADER_LENGTH - filled);
        self.header[filled..filled + taken].copy_from_slice(&bytes[..taken]);
        self.header_filled += taken as u8;
        if usize::from(self.header_filled) == HEADER_LENGTH {
            let [_, length @ ..] = self.header;
            self.body_left = u32::from_be_bytes(length).checked_sub(4).ok_or(InvalidLength)?;
            self.pass_body(0);
        }
        Ok((taken, &[]))
    }

    /// Skips bytes that were not read, if they belong to the body of one message.
    pub(super) fn pass(&mut self, length: usize) -> bool {
        let is_within_body = length <= self.body_left as usize;
        if is_within_body {
            self.pass_body(length);
        }
        is_within_body
    }

    fn pass_body(&mut self, length: usize) {
        self.body_left -= length as u32;
        if self.body_left == 0 {
            self.header_filled = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_body_can_be_skipped_unread() {
        let mut walk = Walk::default();
        assert!(!walk.pass(1), "between two messages anything may come");
        walk.step(b"D\0\0\0\x68").expect("is a header");
        assert!(!walk.is_at_boundary() && !walk.pass(101));
        assert!(walk.pass(60) && !walk.is_at_boundary());
        assert!(walk.pass(40) && walk.is_at_boundary());
        walk.step(b"S\0").expect("is half a header");
        assert!(!walk.pass(1));
    }

    #[test]
    fn a_message_without_a_body_ends_with_its_header() {
        let mut walk = Walk::default();
        assert_eq!(walk.step(b"S\0\0\0\x04Q").expect("is a header"), (5, &b""[..]));
        assert!(walk.is_at_boundary() && walk.kind() == b'S');
        assert!(walk.step(b"Q\0\0\0\x03").is_err());
    }
}
