//! A connection's permit to have a session: it counts against the limits of its listener and of its client.

use std::sync::Arc;

use super::context::ListenerContext;
use super::end::End;
use crate::net::{Ipv6Prefix, Peer};

/// Where a connection was accepted and where it comes from, and its permit once it has one. Dropping it gives the permit
/// back.
pub struct SessionPermit {
    /// What all connections of the listener share.
    pub context: Arc<ListenerContext>,
    /// The client: the address that connected, or the one that a trusted proxy named. It must not change once the permit
    /// is held.
    pub peer: Peer,
    is_held: bool,
    /// By which prefix its client is counted; `None` if it is not.
    counted_by: Option<Ipv6Prefix>,
}

impl SessionPermit {
    /// Of a connection that has none yet.
    pub fn none(context: Arc<ListenerContext>, peer: Peer) -> SessionPermit {
        SessionPermit { context, peer, is_held: false, counted_by: None }
    }

    /// Of a session that another process had before. It counts, even above the limits.
    pub fn moved_in(context: Arc<ListenerContext>, peer: Peer) -> SessionPermit {
        let ListenerContext { index, settings, registry, kept, .. } = &*context;
        let client = settings.client_of(peer).filter(|_| settings.sessions_max_per_client < usize::MAX);
        let counted_by = client.filter(|client| kept.per_client.enter(*client, usize::MAX));
        let counted_by = counted_by.map(|_| settings.client_ipv6_prefix);
        let is_held = registry.enter(*index, usize::MAX);
        SessionPermit { context, peer, is_held, counted_by }
    }

    /// Takes the permit. Errors: the listener or the client has reached a limit. To be called once.
    pub fn acquire(&mut self) -> Result<(), End> {
        let context = Arc::clone(&self.context);
        let ListenerContext { index, settings, registry, kept, .. } = &*context;
        if let Some(client) = settings.client_of(self.peer) {
            if let Some(rate) = settings.connection_rate_max_per_client
                && !kept.connection_rates.admit(client, rate)
            {
                return Err(End::ClientTooFast { host: self.peer.host(), rate });
            }
            let max = settings.sessions_max_per_client;
            if max < usize::MAX {
                if !kept.per_client.enter(client, max) {
                    return Err(End::ClientFull { host: self.peer.host(), max });
                }
                self.counted_by = Some(settings.client_ipv6_prefix); // the drop gives it back, also after an error below
            }
        }
        if !registry.has_descriptors() {
            return Err(End::DescriptorsFull(registry.descriptors_max()));
        }
        if !registry.enter(*index, settings.sessions_max) {
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
        }
        if let Some(client) = self.counted_by.and_then(|prefix| self.peer.source(prefix)) {
            self.context.kept.per_client.leave(client);
        }
    }
}
