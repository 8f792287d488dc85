//! What is noted of a connection while it lasts, and told when it ends.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info};

use super::context::ListenerContext;
use super::end::End;
use super::worker::Load;
use crate::cluster::NodeId;
use crate::net::Peer;
use crate::protocol::startup::Who;

/// A connection's account. Dropping it closes it, however the connection came to its end.
pub struct Account {
    /// What it shares with the others of its listener.
    pub context: Arc<ListenerContext>,
    /// Whom it comes from: who has connected, or whom that one has named.
    pub peer: Peer,
    /// Who wants the session, for the log.
    pub who: Who,
    /// Where the session is, or was.
    pub node: Option<NodeId>,
    started: Instant,
    /// Whether it counts among the sessions of the listener and of its client.
    has_place: bool,
    is_closed: bool,
    _load: Load,
}

impl Account {
    /// Of a connection that has just been accepted.
    pub fn open(context: Arc<ListenerContext>, peer: Peer, load: Load) -> Account {
        context.metrics.sessions.inc();
        Account {
            context,
            peer,
            who: Who::default(),
            node: None,
            started: Instant::now(),
            has_place: false,
            is_closed: false,
            _load: load,
        }
    }

    /// Takes a place among the sessions of the listener, and among those of the client. To be called once.
    pub fn take_place(&mut self) -> Result<(), End> {
        let ListenerContext { index, settings, registry, per_client, .. } = &*self.context;
        if !per_client.enter(self.peer) {
            return Err(End::ClientFull(self.peer.host()));
        }
        if !registry.enter(*index, settings.sessions_max) {
            per_client.leave(self.peer);
            return Err(End::SessionsFull);
        }
        self.has_place = true;
        Ok(())
    }

    /// Closes it: one line in the log, and the end counted by its kind.
    pub fn close(mut self, end: &End) {
        self.settle(end);
    }

    fn settle(&mut self, end: &End) {
        self.is_closed = true;
        self.context.metrics.ended(end.kind());
        if self.has_place {
            self.context.registry.leave(self.context.index);
            self.context.per_client.leave(self.peer);
        }
        let topology = self.context.cluster.topology();
        let node = self.node.map_or("", |id| topology.node(id).member.name.as_str());
        let (listener, peer, reason) = (&self.context.settings.name, self.peer, end.kind().label());
        let (user, database, application_name) = (self.who.user(), self.who.database(), self.who.application_name());
        let seconds = self.started.elapsed().as_secs_f64();
        if end.is_trouble() {
            info!(%listener, %peer, node, user, database, application_name, seconds, reason, "session ended: {end}");
        } else {
            debug!(%listener, %peer, node, user, database, application_name, seconds, reason, "session ended: {end}");
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if !self.is_closed {
            self.settle(&End::Lost);
        }
    }
}
