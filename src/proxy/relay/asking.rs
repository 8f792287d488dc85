//! pgvane's own question to the server of a session that has stopped between two transactions.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::Relay;
use crate::protocol::session_question::{Answer, NoState, Question, Step};
use crate::proxy::byte_counters::ByteCounters;

/// The maximum of one read. An answer has a few kilobytes.
const READ_LENGTH: usize = 8 * 1024;

impl Relay {
    /// Asks the server for the session's state, with the custom settings of these names. `None` if it cannot be asked now: the session has not stopped between two
    /// transactions, or bytes are in flight. Those that are held back may be.
    ///
    /// Until [`Relay::poll_answer`] is ready, the relay must not be polled: nothing else may be sent to the server, and
    /// what it sends is the answer.
    pub fn ask(&mut self, custom_settings: &[String]) -> Option<Question> {
        let can_ask = self.is_parked && self.up.has_delivered() && self.can_send_own_message();
        can_ask.then(|| {
            self.up.inject(&Question::request(custom_settings));
            Question::default()
        })
    }

    /// Sends the question and reads the answer. What the server says besides goes to the client.
    pub fn poll_answer(&mut self, cx: &mut Context<'_>, bytes: &ByteCounters, question: &mut Question) -> Poll<Answer> {
        let Relay { client, server, up, down, framing, server_write_failed, .. } = self;
        loop {
            // what is for the client is sent first, so that there is never much of it; that this fails, the relay sees
            let _ = ready!(down.poll_deliver(cx, client));
            if !*server_write_failed && matches!(up.poll_deliver(cx, server), Poll::Ready(Err(_))) {
                *server_write_failed = true; // why, the server may have said
            }
            let mut room = [0; READ_LENGTH];
            let mut room = ReadBuf::new(&mut room);
            let read = ready!(Pin::new(&mut *server).poll_read(cx, &mut room));
            if read.is_err() || room.filled().is_empty() {
                // the relay reads that again and ends the session
                return Poll::Ready(Err(NoState::Closed));
            }
            let mut for_client = Vec::new();
            let step = question.take(room.filled(), &mut for_client);
            if !for_client.is_empty() {
                bytes.add_to_client(for_client.len());
                framing.iter_mut().for_each(|framing| framing.server_sent(&for_client));
                down.inject(&for_client);
            }
            match step {
                Step::Wait => {}
                Step::Send(request) => up.inject(&request),
                Step::Done(answer) => return Poll::Ready(answer),
            }
        }
    }
}
