//! Who waits for the answer to the question for a session's state, by the session's number.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::protocol::session_question::Answer;

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<HashMap<u64, oneshot::Sender<Answer>>>);

impl Questions {
    /// Somebody waits for the answer of this session.
    pub(super) fn wait(&self, session: u64) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().insert(session, sender);
        receiver
    }

    /// Nobody waits for it any more.
    pub(super) fn give_up(&self, session: u64) {
        self.0.lock().remove(&session);
    }

    /// Passes on the answer, if somebody waits for it.
    pub(super) fn answer(&self, session: u64, answer: Answer) {
        if let Some(sender) = self.0.lock().remove(&session) {
            let _ = sender.send(answer); // who has asked may have given up at this moment
        }
    }
}
