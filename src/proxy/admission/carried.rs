//! Gives a session that has lost its server the same state at another one: connects, logs in with the client's startup
//! packet, restores the state, asks for it, and compares. The client gets nothing meanwhile.

use std::fmt;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::connect::reach;
use crate::cluster::NodeId;
use crate::net::Stream;
use crate::protocol::CancelKey;
use crate::protocol::login_again::{self, Credential, LoggedIn, LoginAgain, LoginRefused};
use crate::protocol::message::TERMINATE;
use crate::protocol::restoring::{NotRestored, Restored, Restoring};
use crate::protocol::session_question::{self, Question};
use crate::protocol::session_state::SessionState;
use crate::proxy::context::ListenerContext;
use crate::proxy::end::NotCarriedReason;
use crate::proxy::sessions::control::SessionOrder;
use crate::proxy::sessions::orders::order_for;

/// How long a server may take to restore a state and to tell it: some milliseconds, unless it is very busy.
const RESTORE_MAX: Duration = Duration::from_secs(10);

/// The maximum of one read.
const READ_LENGTH: usize = 8 * 1024;

/// A session that logs in again.
pub struct CarriedLogin<'a> {
    /// What its listener's sessions share.
    pub context: &'a ListenerContext,
    /// The startup packet as the server before has got it.
    pub packet: &'a [u8],
    /// What it logs in with.
    pub credential: Credential,
    /// What the connection to a node begins with.
    pub preamble: &'a [u8],
    /// The state that it had at the server before.
    pub state: &'a SessionState,
    /// The names of the custom settings that the state may have.
    pub custom_settings: &'a [String],
}

/// A session that has the same state at another server.
pub struct Arrival {
    /// The connection.
    pub server: Stream,
    /// The key that cancels its queries there.
    pub key: Option<CancelKey>,
    /// What the client has to be told: notifications, and what this server reports otherwise than the one before.
    pub for_client: Vec<u8>,
    /// It had logged in before the server led.
    pub in_advance: bool,
}

/// A session that has the same state at a server that may still be in recovery, but for its channels.
pub struct Early(Arrival);

/// Why a session does not have the same state at another server.
#[derive(Debug)]
pub struct NotArrived {
    /// For operators and the client.
    pub why: String,
    /// For the metrics.
    pub reason: NotCarriedReason,
    /// Whether another attempt may succeed.
    pub may_pass: bool,
}

impl NotArrived {
    /// It failed, and another attempt may succeed.
    fn passing(why: impl fmt::Display) -> NotArrived {
        NotArrived { why: why.to_string(), reason: NotCarriedReason::Unreachable, may_pass: true }
    }

    fn never(reason: NotCarriedReason, why: impl fmt::Display) -> NotArrived {
        NotArrived { why: why.to_string(), reason, may_pass: false }
    }
}

impl CarriedLogin<'_> {
    /// Tries it at this node.
    ///
    /// Cancel safe: the server ends a session whose connection is dropped.
    pub async fn at(&self, node: NodeId) -> Result<Arrival, NotArrived> {
        self.is_eligible(node)?;
        self.tried_at(node, false).await
    }

    /// Does in advance what a node in recovery allows: all but `LISTEN`.
    ///
    /// Cancel safe, as [`Self::at`].
    pub async fn early_at(&self, node: NodeId) -> Result<Early, NotArrived> {
        self.tried_at(node, true).await.map(Early)
    }

    /// Does the rest, when the node leads.
    ///
    /// The state is not compared again: nobody else can have changed it meanwhile.
    ///
    /// Cancel safe, as [`Self::at`].
    pub async fn completed(&self, early: Early) -> Result<Arrival, NotArrived> {
        let Early(mut arrival) = early;
        let Arrival { server, for_client, .. } = &mut arrival;
        let completed = async {
            let rest = restored(server, Restoring::after_promotion(self.state), Vec::new(), for_client).await?;
            for_client.extend(notifications(server, rest).await?);
            Ok(())
        };
        match timeout(RESTORE_MAX, completed).await {
            Ok(Ok(())) => Ok(arrival),
            Ok(Err(failure)) => {
                arrival.server.write_last(TERMINATE);
                Err(failure)
            }
            Err(_) => Err(silent()),
        }
    }

    async fn tried_at(&self, node: NodeId, in_advance: bool) -> Result<Arrival, NotArrived> {
        let name = self.context.cluster.topology().node(node).member.name.clone();
        let named = |failure: NotArrived| NotArrived { why: format!("{name}: {}", failure.why), ..failure };
        let mut server = self.reach(node).await.map_err(named)?;
        match self.become_the_same(&mut server, in_advance).await {
            Ok((key, for_client)) => Ok(Arrival { server, key, for_client, in_advance }),
            Err(failure) => {
                server.write_last(TERMINATE);
                Err(named(failure))
            }
        }
    }

    fn is_eligible(&self, node: NodeId) -> Result<(), NotArrived> {
        let (topology, rule) = (self.context.cluster.topology_full(), &self.context.settings.rule);
        match order_for(rule, &rule.reactions, &topology, node) {
            Some(SessionOrder::Cut(cause) | SessionOrder::Drain(cause)) => {
                let name = &topology.node(node).member.name;
                Err(NotArrived::passing(format_args!("{name}: not eligible: {}", cause.reason())))
            }
            _ => Ok(()),
        }
    }

    async fn reach(&self, node: NodeId) -> Result<Stream, NotArrived> {
        let (context, listener) = (self.context, &self.context.settings);
        let topology = context.cluster.topology_full();
        let member = &topology.node(node).member;
        let tls = context.encryption.to_servers();
        let patience = [listener.connect_timeout, listener.login_timeout];
        let to = context.cluster.dialer().destination(member, listener.rule.port, context.tcp, self.preamble);
        reach(&to, &tls, patience).await.map_err(|failure| match failure.is_passing() {
            true => NotArrived::passing(failure),
            false => NotArrived::never(NotCarriedReason::Login, failure),
        })
    }

    /// Logs in, and restores and compares the state.
    async fn become_the_same(
        &self,
        server: &mut Stream,
        in_advance: bool,
    ) -> Result<(Option<CancelKey>, Vec<u8>), NotArrived> {
        let login = timeout(self.context.settings.login_timeout, self.log_in(server, in_advance));
        let LoggedIn { parameters, key, rest } = login.await.map_err(|_| silent())??;
        // what it reports and the client has been told otherwise, or not at all; a server that will have been promoted
        // when the client goes on is not in recovery then
        let mut for_client = Vec::new();
        let is_news = |name, value| self.state.is_news(name, value) && !(in_advance && name == b"in_hot_standby");
        for (name, value) in parameters.iter().filter(|(name, value)| is_news(name, value)) {
            session_question::put_parameter(&mut for_client, name, value);
        }
        let restored = timeout(RESTORE_MAX, self.restore(server, in_advance, rest, &mut for_client));
        restored.await.map_err(|_| silent())??;
        Ok((key, for_client))
    }

    async fn log_in(&self, server: &mut Stream, in_advance: bool) -> Result<LoggedIn, NotArrived> {
        let mut nonce = login_again::Nonce::default();
        SystemRandom::new().fill(&mut nonce).map_err(|_| NotArrived::passing("the system has no random numbers"))?;
        let mut login = LoginAgain::new(self.credential.clone(), &nonce);
        if in_advance {
            login = login.in_recovery_too();
        }
        server.send(self.packet).await.map_err(NotArrived::passing)?;
        loop {
            let received = read(server).await?;
            match login.take(&received) {
                login_again::Step::Wait => {}
                login_again::Step::Send(answer) => server.send(&answer).await.map_err(NotArrived::passing)?,
                login_again::Step::Done(session) => return Ok(session),
                login_again::Step::Refused(why) if why.is_passing() || why == LoginRefused::InRecovery => {
                    return Err(NotArrived::passing(why));
                }
                login_again::Step::Refused(why) => return Err(NotArrived::never(NotCarriedReason::Login, why)),
            }
        }
    }

    /// Restores the state, asks for it and compares. `received` is what the server has sent already.
    async fn restore(
        &self,
        server: &mut Stream,
        in_advance: bool,
        received: Vec<u8>,
        for_client: &mut Vec<u8>,
    ) -> Result<(), NotArrived> {
        let restoring = if in_advance { Restoring::in_recovery(self.state) } else { Restoring::new(self.state) };
        let rest = restored(server, restoring.map_err(not_restored)?, received, for_client).await?;
        let names = [self.custom_settings, &self.state.custom_settings()].concat();
        server.send(&Question::request(&names)).await.map_err(NotArrived::passing)?;
        let (mut question, mut besides, mut received) = (Question::default(), Vec::new(), rest);
        let answer = loop {
            match question.take(&received, &mut besides) {
                session_question::Step::Wait => received = read(server).await?,
                session_question::Step::Send(request) => {
                    server.send(&request).await.map_err(NotArrived::passing)?;
                    received = read(server).await?;
                }
                session_question::Step::Done(answer) => break answer,
            }
        };
        for_client.extend(notifications(server, besides).await?);
        let restored = answer.map_err(|why| NotArrived::never(NotCarriedReason::Restore, why))?;
        let difference = match in_advance {
            true => self.state.difference_but_channels(&restored),
            false => self.state.difference(&restored),
        };
        match difference {
            None => Ok(()),
            Some(difference) => {
                let why = format_args!("its state would not be the same: {difference}").to_string();
                Err(NotArrived::never(NotCarriedReason::Different, why))
            }
        }
    }
}

/// Sends what restores a state, and reads the answer. Returns what the server has sent after it.
async fn restored(
    server: &mut Stream,
    mut restoring: Restoring,
    mut received: Vec<u8>,
    for_client: &mut Vec<u8>,
) -> Result<Vec<u8>, NotArrived> {
    server.send(restoring.request()).await.map_err(NotArrived::passing)?;
    loop {
        match restoring.take(&received, for_client) {
            Restored::Wait => received = read(server).await?,
            Restored::Done(outcome) => {
                outcome.map_err(not_restored)?;
                return Ok(restoring.rest().to_vec());
            }
        }
    }
}

/// The notifications among the last messages that the server has sent, the last of which may not be complete yet.
async fn notifications(server: &mut Stream, mut received: Vec<u8>) -> Result<Vec<u8>, NotArrived> {
    loop {
        match session_question::notifications(&received) {
            Some(notifications) => return Ok(notifications),
            None => received.extend(read(server).await?),
        }
    }
}

fn not_restored(why: NotRestored) -> NotArrived {
    NotArrived::never(NotCarriedReason::Restore, why)
}

fn silent() -> NotArrived {
    NotArrived::passing("it did not answer in time")
}

/// What the server has sent.
async fn read(server: &mut Stream) -> Result<Vec<u8>, NotArrived> {
    let mut received = Vec::with_capacity(READ_LENGTH);
    match server.read_buf(&mut received).await {
        Ok(0) => Err(NotArrived::passing("it closed the connection")),
        Ok(_) => Ok(received),
        Err(error) => Err(NotArrived::passing(error)),
    }
}
