//! What a listener's nodes answer when a client asks for TLS: a client that waits for a node is told so in advance.
//!
//! Some drivers limit the wait for this one answer, however long the connection may take: pgjdbc waits five seconds by
//! default (`sslResponseTimeout`), and then reports that the connection failed.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

/// After this wait, a client gets the answer that all nodes have given so far.
pub const ANSWER_AFTER: Duration = Duration::from_secs(3);

const AGREED: u8 = 1;
const REFUSED: u8 = 2;

/// The answers of a listener's nodes to `SSLRequest`.
#[derive(Debug, Default)]
pub struct TlsAnswers(AtomicU8);

impl TlsAnswers {
    /// Records a node's answer.
    pub fn record(&self, answer: u8) {
        let seen = match answer {
            b'S' => AGREED,
            b'N' => REFUSED,
            _ => return,
        };
        if self.0.load(Relaxed) & seen == 0 {
            self.0.fetch_or(seen, Relaxed);
        }
    }

    /// The answer that every node has given. `None` if no node was asked yet, or if they differ.
    pub fn usual(&self) -> Option<u8> {
        match self.0.load(Relaxed) {
            AGREED => Some(b'S'),
            REFUSED => Some(b'N'),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_usual_only_while_no_node_has_given_another() {
        let answers = TlsAnswers::default();
        assert_eq!(answers.usual(), None);
        answers.record(b'S');
        answers.record(b'E'); // an error message begins so
        assert_eq!(answers.usual(), Some(b'S'));
        answers.record(b'N');
        assert_eq!(answers.usual(), None);
    }
}
