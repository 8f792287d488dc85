//! Takes a session to another thread of this process, while nothing of it is in flight.

use super::{Session, SessionFuture};
use crate::net::{IncomingStream, Stream};
use crate::proxy::connection::Connection;
use crate::proxy::end::End;
use crate::proxy::relay::{Relay, RelayState};
use crate::proxy::sessions::guard::SessionGuard;
use crate::proxy::worker::Load;

impl Session {
    /// What its relay goes on with on another thread, and its place there. `None` if it stays here: it has nothing that is
    /// bound to this thread but its two sockets, or it does not move.
    pub(super) fn state_to_change_thread(&self) -> Option<(RelayState, Load)> {
        if !self.relay.is_empty() || self.rare.is_some() || self.has_order() {
            return None;
        }
        let relay = self.relay.state()?;
        Some((relay, self.connection.load.change_thread()?))
    }

    /// Goes on there.
    pub(super) fn change_thread(mut self, state: RelayState, there: Load) {
        match self.relay.into_streams().map(Stream::unwatch) {
            [Ok(client), Ok(server)] => {
                let next = there.clone();
                self.connection.load = there;
                let session = resume(self.connection, self.guard, [client, server], state);
                next.spawn(SessionFuture::Boxed(Box::pin(session)));
            }
            [Err(error), _] | [_, Err(error)] => self.connection.close(&End::ClientFailed(error)),
        }
    }
}

/// A session that goes on in this runtime with these connections. `None` if it has ended.
pub(super) async fn resume(
    connection: Connection,
    guard: SessionGuard,
    streams: [IncomingStream; 2],
    state: RelayState,
) -> Option<Session> {
    match streams.map(IncomingStream::watch) {
        [Ok(client), Ok(server)] => {
            let mode = connection.context().settings.relay;
            let relay = Relay::resumed(mode, client, server, state);
            Some(Session { connection, relay, guard, last_order: None, rare: None })
        }
        [Err(error), _] | [_, Err(error)] => {
            connection.close(&End::ClientFailed(error)); // the kernel accepts no more descriptors in epoll
            None
        }
    }
}
