//! One connection from its first byte to its last line in the log; [`movement`] takes it to another process, and `carry` to
//! another server, with a login in advance by `early`. `other_thread` takes it to another thread of this process.

mod carry;
mod early;
pub mod movement;
mod other_thread;
mod prospect;
mod rare;

use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::sleep;

use self::rare::{Prospect, Rare, forget};
use crate::cluster::Suspicion;
use crate::net::Incoming;
use crate::net::tcp_info::{PeerState, peer_state};
use crate::protocol::ServerError;
use crate::proxy::admission::Admitted;
use crate::proxy::client_message::client_message;
use crate::proxy::connection::Connection;
use crate::proxy::end::{End, ParkEnd};
use crate::proxy::intake::handshake::{Client, send_last_message};
use crate::proxy::relay::{Outcome, Relay, RelayState};
use crate::proxy::sessions::control::{SessionControl, SessionOrder};
use crate::proxy::sessions::guard::SessionGuard;
use crate::proxy::sessions::owner::Owner;
use crate::proxy::worker::Load;
use crate::routing::{SessionPark, Target};

/// `read_only_sql_transaction`: the server refuses to write.
const READ_ONLY: &[u8; 5] = b"25006";

/// An encrypted session that has lasted this long is authenticated: otherwise PostgreSQL ends it after
/// `authentication_timeout`, a minute by default. Before that, any client could have caused its end.
const AUTHENTICATED_AFTER: Duration = Duration::from_secs(65);

/// Serves an accepted connection. Never fails: whatever happens becomes the reason of its end.
pub fn serve(connection: Connection, socket: Incoming) -> SessionFuture {
    SessionFuture::Boxed(Box::pin(begin(connection, socket)))
}

/// A connection from its first byte to its end: connected to a node, relayed, closed.
///
/// It is the future of the connection's task, and only as large as the relay, in which a session spends its life. An
/// `async fn` would also have room for what comes before and after.
#[expect(clippy::large_enum_variant, reason = "the largest variant is the usual one")]
pub enum SessionFuture {
    /// Before the relay, or after it. Next: the relay, or the end.
    Boxed(Pin<Box<dyn Future<Output = Option<Session>> + Send>>),
    /// In the relay. Next: the last message to the client.
    Relaying(Session),
    /// The connection has ended, and its end is recorded.
    Done,
}

impl Future for SessionFuture {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            *self = match &mut *self {
                SessionFuture::Boxed(part) => {
                    ready!(part.as_mut().poll(cx)).map_or(SessionFuture::Done, SessionFuture::Relaying)
                }
                SessionFuture::Relaying(session) => {
                    let leave = ready!(session.poll_until_it_leaves(cx));
                    let SessionFuture::Relaying(session) = mem::replace(&mut *self, SessionFuture::Done) else {
                        continue;
                    };
                    match leave {
                        Leave::Ended(end) => SessionFuture::Boxed(Box::pin(session.end(end))),
                        Leave::MovesOut(relay) => SessionFuture::Boxed(Box::pin(session.move_out(relay))),
                        Leave::LosesServer(prospect) => SessionFuture::Boxed(Box::pin(session.carry(*prospect))),
                        Leave::ChangesThread(relay, there) => {
                            session.change_thread(relay, there);
                            SessionFuture::Done
                        }
                    }
                }
                SessionFuture::Done => return Poll::Ready(()),
            };
        }
    }
}

/// How a session leaves the relay.
enum Leave {
    Ended(End),
    /// It is to go on in another process, and nothing holds it here.
    MovesOut(RelayState),
    /// It is parked, has lost its server, and may go on at another one.
    LosesServer(Box<Prospect>),
    /// It is to go on on another thread.
    ChangesThread(RelayState, Load),
}

/// A connection that has its place on a node.
pub struct Session {
    connection: Connection,
    relay: Relay,
    guard: SessionGuard,
    /// The newest order that it has taken notice of.
    last_order: Option<SessionOrder>,
    rare: Option<Box<Rare>>,
}

/// Brings a connection to a node. `None` if it has ended.
async fn begin(mut connection: Connection, socket: Incoming) -> Option<Session> {
    // in boxes of less than a kilobyte each: glibc's allocator would use the room of larger ones for what stays, and get
    // more memory from the system for the next connection
    match Box::pin(connection.establish(socket)).await {
        Ok((client, admitted)) => Some(Session::of(connection, client, admitted)),
        Err(end) => {
            connection.close(&end);
            None
        }
    }
}

impl Session {
    fn of(mut connection: Connection, client: Box<Client>, admitted: Admitted) -> Session {
        let Admitted { server, mut guard, ready } = admitted;
        if ready.framing.is_none() {
            guard.mark_opaque();
        }
        connection.node = Some(guard.node());
        // kept there and not here while the session lasts: operators can see it there
        guard.control().set_owner(Owner::new(connection.permit.peer, &mem::take(&mut connection.parameters)));
        let (client, for_server) = client.into_parts();
        guard.control().bytes().add_to_server(for_server.len());
        guard.control().bytes().add_to_client(ready.for_client.len());
        if ready.framing.is_some() {
            guard.control().show_transactions();
        }
        let mode = connection.context().settings.relay;
        let relay = Relay::new(mode, client, server, ready.framing, for_server, ready.for_client);
        Session { connection, relay, guard, last_order: None, rare: None }
    }

    /// Ends the session at the server, and then sends the client the reason.
    async fn end(mut self, mut end: End) -> Option<Session> {
        let message = client_message(&end, &self.connection.context().settings.name);
        let last_message = message.filter(|_| self.relay.can_send_own_message()).map(|fatal| fatal.encode());
        if last_message.is_some() {
            self.relay.terminate_server();
        }
        self.connection.parameters = self.guard.control().owner().map(Owner::parameters).unwrap_or_default();
        drop(self.guard);
        match last_message {
            Some(text) => Box::pin(send_last_message(self.relay.client(), &text)).await,
            None if matches!(end, End::ServerClosed(_)) || self.relay.is_opaque() => {
                end = Box::pin(finish(&mut self.relay, end)).await;
            }
            None => {}
        }
        drop(self.relay);
        self.connection.close(&end);
        None
    }

    fn poll_until_it_leaves(&mut self, cx: &mut Context<'_>) -> Poll<Leave> {
        if self.guard.control().is_to_move_out() {
            self.relay.stop_splicing();
            if let Some(relay) = self.state_to_move() {
                return Poll::Ready(Leave::MovesOut(relay));
            }
        }
        match self.poll_relay(cx) {
            Poll::Ready(end) => Poll::Ready(self.leave(end)),
            // also if it was asked during this call, before it could be woken
            Poll::Pending if self.guard.control().is_to_move_out() => match self.state_to_move() {
                Some(relay) => Poll::Ready(Leave::MovesOut(relay)),
                None => Poll::Pending,
            },
            Poll::Pending if self.connection.load.acts() => match self.state_to_change_thread() {
                Some((relay, there)) => Poll::Ready(Leave::ChangesThread(relay, there)),
                None => Poll::Pending,
            },
            Poll::Pending => Poll::Pending,
        }
    }

    /// A session that could be carried has not ended if it is its server that is lost.
    fn leave(&mut self, end: End) -> Leave {
        let is_about_server = match end {
            End::Parked(why) => why != ParkEnd::NoLeader,
            End::Cut(_) | End::Drained(_) | End::DrainTimedOut(_) | End::ServerUnresponsive(_) => true,
            _ => false,
        };
        match self.rare.as_mut().and_then(|rare| rare.prospect.take()).filter(|_| is_about_server) {
            None => Leave::Ended(end),
            Some(prospect) => match &prospect.state {
                Err(why) => Leave::Ended(End::NotCarried(why.clone())),
                Ok(_) if self.relay.can_leave_server() => Leave::LosesServer(prospect),
                Ok(_) => Leave::Ended(end),
            },
        }
    }

    /// `None` if it cannot move to another process now.
    fn state_to_move(&self) -> Option<RelayState> {
        if matches!(self.rare.as_deref(), Some(Rare { question: Some(_), .. })) {
            return None; // the answer of the server is for this process
        }
        if self.has_order() || !self.relay.is_plain() { None } else { self.relay.state() }
    }

    /// Whether it is to end, to stop or to move.
    fn has_order(&self) -> bool {
        let control = self.guard.control();
        self.last_order.is_some() || control.has_order() || control.park() != SessionPark::Free
    }

    /// Orders come first, then the deadline of a drain, then bytes. Written as one poll, because the futures of a
    /// `select!` would make every idle session larger.
    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Session { connection, relay, guard, last_order, rare } = self;
        let context = connection.context();
        while let Poll::Ready(order) = guard.control().poll_order(cx, *last_order) {
            *last_order = order;
            relay.set_draining(order.is_some());
            match order {
                Some(SessionOrder::Cut(cause)) => return Poll::Ready(End::Cut(cause)),
                Some(SessionOrder::ListenerRemoved) => return Poll::Ready(End::ListenerRemoved),
                Some(SessionOrder::Stop) => return Poll::Ready(End::Stopped),
                Some(SessionOrder::Close) => return Poll::Ready(End::ClosedByOperator),
                Some(SessionOrder::Drain(_)) => {
                    let deadline = &mut rare.get_or_insert_default().deadline;
                    deadline.get_or_insert_with(|| Box::pin(sleep(context.drain_timeout)));
                }
                Some(SessionOrder::Move) | None => forget(rare, |rare| rare.deadline = None),
            }
        }
        let park = guard.control().park();
        match park {
            SessionPark::NoLeader => return Poll::Ready(End::Parked(ParkEnd::NoLeader)),
            SessionPark::NewLeader => return Poll::Ready(End::Parked(ParkEnd::NewLeader)),
            SessionPark::Free
            | SessionPark::Finishing
            | SessionPark::Parked
            | SessionPark::Late
            | SessionPark::Carrying => {}
        }
        if guard.control().take_peer_check()
            && let Some(end) = unresponsive_peer(relay, guard.control(), context.settings.tcp_user_timeout)
        {
            if matches!(end, End::ServerUnresponsive(_)) {
                context.suspect(guard.node(), Suspicion::ConnectionLost);
            }
            return Poll::Ready(end);
        }
        if let (Some(SessionOrder::Drain(cause)), Some(Rare { deadline: Some(deadline), .. })) =
            (&last_order, rare.as_deref_mut())
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(End::DrainTimedOut(*cause));
        }
        let is_opaque = relay.is_opaque();
        let suspect = |suspicion| context.suspect(guard.node(), suspicion);
        let on_error = |error: ServerError| match error {
            error if error.is_shutting_down() => suspect(Suspicion::ShuttingDown),
            error if error.sqlstate == *READ_ONLY && context.settings.rule.target == Target::Leader => {
                suspect(Suspicion::ReadOnly);
            }
            _ => {}
        };
        let lost = || {
            if !is_opaque || connection.age() >= AUTHENTICATED_AFTER {
                suspect(Suspicion::ConnectionLost);
            }
        };
        let polled = loop {
            ready!(prospect::poll_question(relay, guard, context, rare, cx));
            if !park.stops() && rare.as_ref().is_some_and(|rare| rare.prospect.is_some()) {
                // the client goes on, unless its server has closed at the same time
                let polled = relay.poll(cx, guard.control().bytes(), &on_error);
                if polled.is_ready() {
                    break polled;
                }
                forget(rare, |rare| rare.prospect = None); // from now on it may not be true any more
            }
            relay.set_parking(park.stops() || guard.control().is_asked() && relay.is_at_rest());
            let polled = relay.poll(cx, guard.control().bytes(), &on_error);
            if polled.is_ready() || !prospect::attend_to_question(relay, guard, context, rare) {
                break polled;
            }
        };
        let is_parked = relay.is_parked();
        if is_parked && park == SessionPark::Finishing {
            guard.control().note_at_rest();
        }
        polled.map(|outcome| match outcome {
            Outcome::ClientClosed => End::ClientClosed,
            Outcome::ClientFailed(error) => End::ClientFailed(error),
            Outcome::Drained => match *last_order {
                Some(SessionOrder::Drain(cause)) => End::Drained(cause),
                Some(SessionOrder::Move) => End::Rebalanced,
                _ => End::Lost,
            },
            Outcome::ServerClosedParked => {
                suspect(Suspicion::ShuttingDown);
                End::Parked(ParkEnd::ServerClosed)
            }
            Outcome::ServerClosed(code) => {
                if code.is_none() {
                    lost();
                }
                if is_parked { End::Parked(ParkEnd::ServerClosed) } else { End::ServerClosed(code) }
            }
            Outcome::ServerFailed(error) => {
                lost();
                if is_parked { End::Parked(ParkEnd::ServerClosed) } else { End::ServerFailed(error) }
            }
        })
    }
}

/// The end of a session of which a peer does not acknowledge any more.
fn unresponsive_peer(relay: &Relay, control: &SessionControl, max: Duration) -> Option<End> {
    // of a Unix socket the kernel knows by itself
    let [client, server] = relay.sockets().map(|socket| peer_state(socket, max).unwrap_or(PeerState::Confirmed));
    control.note_peers([client, server] == [PeerState::Confirmed; 2]);
    match (client, server) {
        (_, PeerState::Unresponsive(time)) => Some(End::ServerUnresponsive(time)),
        (PeerState::Unresponsive(time), _) => Some(End::ClientUnresponsive(time)),
        _ => None,
    }
}

/// Closes the client's connection after the server has closed, and lets the client finish what it sends.
///
/// In an encrypted session pgvane cannot see what the two sent last. If both close within a moment, in either order, the
/// session has ended normally.
async fn finish(relay: &mut Relay, end: End) -> End {
    let is_opaque = relay.is_opaque();
    match end {
        End::ServerClosed(code) => {
            let client_closed = relay.finish_for_client().await;
            if is_opaque && client_closed { End::ClientClosed } else { End::ServerClosed(code) }
        }
        End::ServerFailed(error) if is_opaque && error.kind() == io::ErrorKind::ConnectionReset => {
            if relay.finish_for_client().await { End::ClientClosed } else { End::ServerFailed(error) }
        }
        End::ClientFailed(error) if is_opaque && error.kind() == io::ErrorKind::ConnectionReset => End::ClientClosed,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The runtime keeps tasks in lines of 128 bytes. With this limit, a session's task needs four lines, of which the
    /// runtime's own part is 112 bytes.
    #[test]
    fn a_session_is_small() {
        let counters = 2 * size_of::<u64>(); // of the pumps, for tests
        let checks = if cfg!(debug_assertions) { 2 * size_of::<usize>() } else { 0 }; // of mio's, in each socket
        let length = size_of::<SessionFuture>() - counters - checks;
        assert!(length <= 400, "{length} bytes");
    }
}
