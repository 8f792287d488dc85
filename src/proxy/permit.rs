//! A connection's permit to have a session: it counts against the limits of its listener and of its client.

use std::sync::Arc;

use super::context::ListenerContext;
use super::end::End;
use crate::net::Peer;

/// Where a connection was accepted and where it comes from, and its permit once it has one. Dropping it gives the permit
/// back.
pub struct SessionPermit {
    /// What all connections of the listener share.
    pub context: Arc<ListenerContext>,
    /// The client: the address that connected, or the one that a trusted proxy named. It must not change once the permit
    /// is held.
    pub peer: Peer,
    is_held: bool,
}

impl SessionPermit {
    /// Of a connection that has none yet.
    pub fn none(context: Arc<ListenerContext>, peer: Peer) -> SessionPermit {
        SessionPermit { context, peer, is_held: false }
    }

    /// Takes the permit. Errors: the listener or the client has reached its limit. To be called once.
    pub fn acquire(&mut self) -> Result<(), End> {
        let ListenerContext { index, settings, registry, per_client, .. } = &*self.context;
        if !per_client.enter(self.peer) {
            return Err(End::ClientFull { host: self.peer.host(), max: settings.sessions_max_per_client });
        }
        if !registry.has_descriptors() {
            per_client.leave(self.peer);
            return Err(End::DescriptorsFull(registry.descriptors_max()));
        }
        if !registry.enter(*index, settings.sessions_max) {
            per_client.leave(self.peer);
            return Err(End::SessionsFull(settings.sessions_max));
        }
        self.is_held = true;
        Ok(())
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        if self.is_held {
            self.context.registry.leave(self.context.index);
            self.context.per_client.leave(self.peer);
        }
    }
}
