//! Who waits for the answer to the question for a session's state, by the session's number.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::protocol::session_question::Answer;

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<HashMap<u64, Waiting>>);

#[derive(Debug)]
struct Waiting {
    custom_settings: Arc<[String]>,
    sender: oneshot::Sender<Answer>,
}

impl Questions {
    /// Somebody waits for the answer of this session, with the custom settings of these names.
    pub(super) fn wait(&self, session: u64, custom_settings: Arc<[String]>) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().insert(session, Waiting { custom_settings, sender });
        receiver
    }

    /// The names of the custom settings that the answer has to contain.
    pub(super) fn custom_settings(&self, session: u64) -> Arc<[String]> {
        let waiting = self.0.lock().get(&session).map(|waiting| Arc::clone(&waiting.custom_settings));
        waiting.unwrap_or_default()
    }

    /// Nobody waits for it any more.
    pub(super) fn give_up(&self, session: u64) {
        self.0.lock().remove(&session);
    }

    /// Passes on the answer, if somebody waits for it.
    pub(super) fn answer(&self, session: u64, answer: Answer) {
        if let Some(waiting) = self.0.lock().remove(&session) {
            let _ = waiting.sender.send(answer); // who has asked may have given up at this moment
        }
    }
}
