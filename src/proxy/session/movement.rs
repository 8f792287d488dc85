//! A session leaves for another process, or comes from one. It consists of two sockets, a few words of state, and seldom
//! some bytes in flight: neither the client nor the server notices. Sessions whose TLS ends at pgvane cannot move: the keys
//! are in the memory of this process.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::other_thread::resume;
use super::{Session, SessionFuture};
use crate::cluster::NodeId;
use crate::net::{Incoming, IncomingStream};
use crate::protocol::CancelKey;
use crate::proxy::connection::Connection;
use crate::proxy::context::ListenerContext;
use crate::proxy::relay::RelayState;
use crate::proxy::sessions::guard::SessionGuard;
use crate::proxy::sessions::moving::{MovingSession, SessionState};
use crate::proxy::sessions::orders::order_for;
use crate::proxy::worker::{Load, Workers};

impl Session {
    /// Offers the session to the other process. It reads and writes nothing meanwhile. `Some` if the session stays here.
    pub(super) async fn move_out(self, relay: RelayState) -> Option<Session> {
        if self.is_taken(relay).await {
            let Session { connection, guard, .. } = self;
            guard.moved_out();
            connection.moved_out();
            return None;
        }
        self.guard.control().stays_here();
        Some(self)
    }

    async fn is_taken(&self, relay: RelayState) -> bool {
        let since = Instant::now();
        let context = self.connection.context();
        let Some(exit) = context.registry.exit() else { return false };
        let (Some(owner), [client, server]) = (self.guard.control().owner(), self.relay.sockets()) else {
            return false;
        };
        let copies = [client, server].map(|socket| socket.as_fd().try_clone_to_owned());
        let [Ok(client), Ok(server)] = copies else { return false }; // no descriptors are left
        let (key, port) = self.guard.key().unzip();
        let state = SessionState {
            id: self.guard.id(),
            listener: context.settings.name.clone(),
            cluster: context.cluster.name().to_owned(),
            node: context.cluster.topology().node(self.guard.node()).member.name.clone(),
            owner: owner.clone(),
            age_ms: u64::try_from(self.connection.age().as_millis()).unwrap_or(u64::MAX),
            node_seconds: self.guard.seconds_on_node(),
            bytes: self.guard.control().bytes().read(),
            key: key.map(|key| key.to_backend_key_data()),
            key_there: self.guard.key_there().map(|key| key.to_backend_key_data()),
            opening: self.guard.opening().map(|opening| (*opening).clone()),
            port: port.flatten(),
            framing: relay.framing,
        };
        let in_flight = [relay.for_server, relay.for_client];
        let (answer, is_taken) = oneshot::channel();
        let moving = MovingSession { state, in_flight, sockets: [client, server], since };
        exit.send((moving, answer)).await.is_ok() && is_taken.await.unwrap_or(false)
    }
}

/// A session that has arrived from another process. It is registered, and nothing of it is read before it is served.
pub struct Arrival {
    context: Arc<ListenerContext>,
    guard: SessionGuard,
    streams: [IncomingStream; 2],
    relay: RelayState,
    age: Duration,
}

impl Arrival {
    /// Takes it in for this listener. Errors: why it cannot be served here, as a part of a sentence.
    pub fn take(moving: MovingSession, context: Arc<ListenerContext>) -> Result<Arrival, String> {
        let MovingSession { state, in_flight: [for_server, for_client], sockets: [client, server], .. } = moving;
        if state.cluster != context.cluster.name() {
            return Err(format!("listener \"{}\" has another cluster now", state.listener));
        }
        let topology = context.cluster.topology_full();
        let node = topology.members().find(|(_, node)| node.member.name == state.node).map(|(id, _)| id);
        let node: NodeId = node.ok_or_else(|| format!("node \"{}\" is not known", state.node))?;
        let incoming = |socket| match Incoming::of(socket) {
            Ok(socket) => Ok(socket.into()),
            Err(error) => Err(format!("a socket cannot be used: {error}")),
        };
        let streams = [incoming(client)?, incoming(server)?];
        context.registry.servers(context.index).is_node(node, &state.node);
        let mut guard = context.registry.move_in(state.id, &context.origin, node, state.node_seconds);
        let control = guard.control();
        control.bytes().begin_with(state.bytes);
        control.set_owner(state.owner);
        if state.framing.is_some() {
            control.show_transactions();
        }
        let [key, key_there] =
            [state.key, state.key_there].map(|key| key.and_then(|key| CancelKey::from_backend_key_data(&key)));
        match (key, key_there) {
            (Some(key), Some(key_there)) => guard.set_carried_key(key, state.port, key_there),
            (Some(key), None) => guard.set_key(key, state.port),
            (None, _) if state.framing.is_none() => guard.mark_opaque(),
            (None, _) => {}
        }
        if let Some(opening) = state.opening.filter(|_| guard.may_be_carried()) {
            guard.keep_opening(opening);
        }
        // from here on orders reach it; one that came before is seen in the topology itself
        let rule = &context.settings.rule;
        if let Some(order) = order_for(rule, &rule.reactions, &context.cluster.topology(), node) {
            guard.control().send_order(order);
        }
        let relay = RelayState { framing: state.framing, for_server, for_client };
        Ok(Arrival { context, guard, streams, relay, age: Duration::from_millis(state.age_ms) })
    }

    /// Serves it on one of these threads.
    pub fn serve(self, workers: &Workers) {
        workers.spawn_anywhere(|load| SessionFuture::Boxed(Box::pin(self.begin(load))));
    }

    async fn begin(self, load: Load) -> Option<Session> {
        let Arrival { context, guard, streams, relay, age } = self;
        let peer = guard.control().owner().map_or(crate::net::Peer::Unix, |owner| owner.client());
        let mut connection = Connection::moved_in(context, peer, age, load);
        connection.node = Some(guard.node());
        resume(connection, guard, streams, relay).await
    }
}
