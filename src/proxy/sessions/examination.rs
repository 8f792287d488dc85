//! Asks the servers for the state of the write sessions of a cluster: which of them could be carried to another server,
//! and which not, and why.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::cluster_carrying::NotAgain;
use super::cluster_parking::is_parkable;
use super::control::SessionControl;
use super::registry::Registry;
use super::session_info::SessionInfo;
use crate::config::ClusterIndex;
use crate::protocol::session_question::NoState;
use crate::protocol::session_state::SessionState;

/// The number of sessions that are asked at the same time: the question reads the server's table of locks.
const AT_ONCE: usize = 16;

/// How long a session may have a transaction or a request in progress before it is left out.
const REST_WITHIN: Duration = Duration::from_millis(500);

/// How long the whole examination may take. The HTTP request for it must have its answer within ten seconds.
const EXAMINATION_MAX: Duration = Duration::from_secs(8);

/// Why the state of a session is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    /// Client and server encrypt end to end.
    Encrypted,
    /// It is logging in.
    LoggingIn,
    /// It has had a transaction or a request in progress all the time.
    Busy,
    /// There were too many sessions before it.
    NoTime,
    /// It has ended meanwhile.
    Ended,
    /// The server has not told it.
    NoState(NoState),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown::Encrypted => f.write_str("client and server encrypt end to end"),
            Unknown::LoggingIn => f.write_str("it is logging in"),
            Unknown::Busy => f.write_str("it has a transaction or a statement in progress"),
            Unknown::NoTime => f.write_str("it was not asked: there was no time left"),
            Unknown::Ended => f.write_str("it has ended meanwhile"),
            Unknown::NoState(why) => why.fmt(f),
        }
    }
}

/// A session, and what its server tells of its state.
#[derive(Debug, Clone)]
pub struct Examined {
    /// The session.
    pub session: SessionInfo,
    /// Its state.
    pub state: Result<SessionState, Unknown>,
    /// Why it cannot log in again at another server, if sessions are carried there.
    pub not_again: Option<NotAgain>,
}

impl Registry {
    /// Asks for the state of each write session of a cluster, between two of its transactions; the oldest come first.
    /// Takes a few seconds at most. The custom settings of these names are asked for too.
    ///
    /// Cancel safe: a session whose server has been asked goes on when it has the answer.
    pub async fn examine(self: &Arc<Self>, cluster: ClusterIndex, custom_settings: Arc<[String]>) -> Vec<Examined> {
        let concerned: Vec<(SessionInfo, Arc<SessionControl>)> = self.concerned(cluster);
        let (turns, deadline) = (Arc::new(Semaphore::new(AT_ONCE)), Instant::now() + EXAMINATION_MAX);
        let mut tasks = JoinSet::new();
        for (session, control) in concerned {
            let (registry, turns, names) = (Arc::clone(self), Arc::clone(&turns), Arc::clone(&custom_settings));
            tasks.spawn(async move {
                let state = match timeout_at(deadline, turns.acquire()).await {
                    Ok(_turn) => registry.ask((session.id, &control), names, deadline).await,
                    Err(_) => Err(Unknown::NoTime),
                };
                let not_again = match state {
                    Err(Unknown::Encrypted | Unknown::LoggingIn) => None, // that says it
                    _ => registry.why_not_again(cluster, &session.origin.rule, session.id),
                };
                Examined { session, state, not_again }
            });
        }
        let mut examined = tasks.join_all().await;
        examined.retain(|examined| examined.state != Err(Unknown::Ended));
        examined.sort_by_key(|examined| examined.session.id);
        examined
    }

    fn concerned(&self, cluster: ClusterIndex) -> Vec<(SessionInfo, Arc<SessionControl>)> {
        let is_concerned = |control: &SessionControl| control.cluster() == cluster && is_parkable(&control.origin.rule);
        self.select(is_concerned)
    }

    async fn ask(
        &self,
        (id, control): (u64, &SessionControl),
        custom_settings: Arc<[String]>,
        deadline: Instant,
    ) -> Result<SessionState, Unknown> {
        match control.is_visible() {
            None => return Err(Unknown::LoggingIn),
            Some(false) => return Err(Unknown::Encrypted),
            Some(true) => {}
        }
        let answer = self.questions.wait(id, custom_settings);
        control.set_asked(true);
        let answered = timeout_at(deadline.min(Instant::now() + REST_WITHIN), answer).await;
        control.set_asked(false);
        self.questions.give_up(id);
        match answered {
            Ok(Ok(answer)) => answer.map_err(Unknown::NoState),
            Ok(Err(_)) => Err(Unknown::Ended),
            Err(_) => Err(Unknown::Busy),
        }
    }
}
