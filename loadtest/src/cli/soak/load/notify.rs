//! A session that sends notifications, and one that waits for each of them (NOTIFY and LISTEN).

use std::time::Duration;

use pgvane_loadtest::failure::Failure;
use pgvane_loadtest::login::{Login, Notified, Session};
use pgvane_loadtest::tls::Endpoint;
use tokio::time::timeout;

use super::session::{CONNECT_WITHIN, Outcome, Stop, Work};

/// PostgreSQL delivers at once, unless it is stopped for some seconds.
const DELIVERED_WITHIN: Duration = Duration::from_secs(60);

/// The sending session is the one of [`Work`].
#[derive(Debug)]
pub(super) struct Notify {
    server: Endpoint,
    login: Login,
    channel: String,
    listener: Option<(Session, Notified)>,
    sent: u64,
}

impl Notify {
    pub(super) fn on(channel: &str, server: Endpoint, login: Login) -> Notify {
        Notify { server, login, channel: channel.to_owned(), listener: None, sent: 0 }
    }
}

impl Work for Notify {
    async fn begin(&mut self, _: &mut Session) -> Outcome {
        self.listener = None;
        let opened = self.login.open_to_listen("LISTEN", self.server, CONNECT_WITHIN).await;
        let (listener, notified) = opened.map_err(|error| Stop::Failed(Failure::connecting(&error)))?;
        listener.client.batch_execute(&format!("listen {}", self.channel)).await?;
        self.listener = Some((listener, notified));
        Ok(())
    }

    async fn round(&mut self, session: &mut Session) -> Outcome {
        let (listener, notified) = self.listener.as_mut().expect("opened when the session began");
        self.sent += 1;
        let payload = self.sent.to_string();
        session.client.batch_execute(&format!("notify {}, '{payload}'", self.channel)).await?;
        let end = tokio::select! {
            arrived = timeout(DELIVERED_WITHIN, notified.recv()) => match arrived {
                Ok(Some(arrived)) if arrived == payload => return Ok(()),
                Ok(Some(arrived)) => return Err(Stop::Wrong(format!("notification {arrived} in place of {payload}"))),
                Ok(None) => listener.ended().await,
                Err(_elapsed) => return Err(Stop::Wrong(format!("notification {payload} has not arrived"))),
            },
            end = session.ended() => end,
        };
        Err(Stop::Failed(end))
    }
}
