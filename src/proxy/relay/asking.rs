//! pgvane's own question to the server of a session that has stopped between two transactions.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::Relay;
use super::pump::Pump;
use crate::protocol::session_question::{Answer, NoState, Question, Step};
use crate::proxy::byte_counters::ByteCounters;

/// The maximum of one read. An answer has a few kilobytes.
const READ_LENGTH: usize = 8 * 1024;

/// A question that has been asked, or its answer.
#[derive(Debug)]
pub(super) enum Asking {
    /// The answer is not complete.
    Open(Question),
    /// It is.
    Answered(Answer),
}

impl Relay {
    /// Asks the server for the session's state. The session has stopped; it goes on when the answer is taken.
    ///
    /// Returns false if it cannot be asked now.
    pub fn ask(&mut self) -> bool {
        let can_ask = self.is_parked && self.asking.is_none() && self.up.is_empty() && self.can_send_own_message();
        if can_ask {
            self.up.inject(&Question::request());
            self.asking = Some(Box::new(Asking::Open(Question::default())));
        }
        can_ask
    }

    /// Whether a question is open: until it is answered, nothing else may be sent to the server.
    pub fn awaits_own_answer(&self) -> bool {
        matches!(self.asking.as_deref(), Some(Asking::Open(_)))
    }

    /// The answer, once.
    pub fn take_answer(&mut self) -> Option<Answer> {
        match *self.asking.take_if(|asking| matches!(**asking, Asking::Answered(_)))? {
            Asking::Answered(answer) => Some(answer),
            Asking::Open(_) => None,
        }
    }

    /// Sends the question and reads the answer. Ready when there is no open question: what the server has said besides
    /// is then in the direction to the client.
    pub(super) fn poll_asking(&mut self, cx: &mut Context<'_>, bytes: &ByteCounters) -> Poll<()> {
        loop {
            let Relay { client, server, up, down, framing, asking, server_write_failed, .. } = self;
            let Some(Asking::Open(question)) = asking.as_deref_mut() else { return Poll::Ready(()) };
            // the bytes that the server said besides are sent first: more of them are not kept
            if deliver(down, cx, client).is_pending() {
                return Poll::Pending;
            }
            if !*server_write_failed && deliver(up, cx, server) == Poll::Ready(false) {
                *server_write_failed = true; // why, the server may have said
            }
            let mut room = [0; READ_LENGTH];
            let mut room = ReadBuf::new(&mut room);
            let read = match Pin::new(server).poll_read(cx, &mut room) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(read) => read.map(|()| room.filled()).unwrap_or_default(),
            };
            let mut for_client = Vec::new();
            let step = match read {
                // closed, or failed: the relay reads that again and ends the session; the client is told by pgvane
                [] => Step::Done(Err(NoState::Closed)),
                read => question.take(read, &mut for_client),
            };
            if !for_client.is_empty() {
                bytes.add_to_client(for_client.len());
                framing.iter_mut().for_each(|framing| framing.server_sent(&for_client));
                down.inject(&for_client);
            }
            match step {
                Step::Wait => {}
                Step::Send(request) => up.inject(&request),
                Step::Done(answer) => *asking = Some(Box::new(Asking::Answered(answer))),
            }
        }
    }
}

/// Delivers what is in flight. Ready with false if the receiving side fails.
fn deliver<W>(pump: &mut Pump, cx: &mut Context<'_>, to: &mut W) -> Poll<bool>
where
    W: tokio::io::AsyncWrite + super::splice::MaybePlain + Unpin,
{
    pump.poll_deliver(cx, to).map(|delivered| delivered.is_ok())
}
