//! Receives a connection: learns whom it comes from and what it wants, and sees it to a node, or to its end.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::account::Account;
use super::admission::{Admission, Admitted, Refused};
use super::cancel;
use super::end::{End, ProxyFault};
use super::intake::handshake::{Client, farewell};
use super::intake::proxy_protocol::Arrival;
use crate::net::{Incoming, Socket};
use crate::protocol::opening::Opening;

/// How long a client that will be refused whatever it says may take to say it, so that it can be told in the right form.
const REFUSED_OPENING_MAX: Duration = Duration::from_secs(2);

impl Account {
    /// From an accepted connection to a client that wants a session, and its place on a node; or to its end, of which it
    /// has been told.
    pub(super) async fn admit(&mut self, socket: Incoming) -> Result<(Client, Admitted), End> {
        let (mut client, preamble) = self.receive_in_turn(socket).await?;
        let context = &self.context;
        if let Opening::Cancel(key) = client.opening() {
            let request = cancel::Request::of(&client, preamble);
            return Err(Box::pin(cancel::deliver(context, key, request)).await);
        }
        let mut admission = Admission::new(context, &mut client, &preamble);
        let admitted = tokio::select! {
            admitted = admission.run() => admitted,
            () = context.registry.stopped() => Err(Refused::End(End::Stopped)),
        };
        self.who = client.take_who();
        Err(match (admitted, client.opening()) {
            (Ok(admitted), _) => return Ok((client, admitted)),
            (Err(Refused::End(end @ End::WrongNode(_))), _) => Box::pin(self.wrong_node(client, end)).await,
            (Err(Refused::End(end)), _) => Box::pin(self.refuse(client, end)).await,
            (Err(Refused::ServerError(words, end)), _) => {
                Box::pin(farewell(client.stream(), &words)).await;
                end
            }
            (Err(Refused::WasCancel), Opening::Cancel(key)) => {
                let request = cancel::Request::of(&client, preamble);
                Box::pin(cancel::deliver(&self.context, key, request)).await
            }
            (Err(Refused::WasCancel), _) => End::Lost,
        })
    }

    /// Counts the connection as pending while it has not yet said what it wants.
    async fn receive_in_turn(&mut self, socket: Incoming) -> Result<(Client, Vec<u8>), End> {
        let context = Arc::clone(&self.context);
        let pending = context.registry.pending(context.index);
        let Some(opening) = pending.enter(context.settings.pending_connections_max) else {
            return Err(End::PendingFull);
        };
        let socket = socket.watch().map_err(End::ClientFailed)?;
        tokio::select! {
            received = Box::pin(self.receive(socket)) => received,
            () = poll_fn(|cx| opening.poll_evicted(cx)) => Err(End::PendingFull),
        }
    }

    /// Learns who the client is and what it wants, and gives it a place if it wants a session. Also returned: what
    /// connections to nodes have to begin with.
    async fn receive(&mut self, mut socket: Socket) -> Result<(Client, Vec<u8>), End> {
        let settings = &self.context.settings;
        let mut deadline = Instant::now() + settings.startup_timeout;
        let (arrival, mut refusal) = match &settings.proxy_protocol {
            None => (Arrival::of(self.peer), None),
            Some(proxies) => match Box::pin(Arrival::read(&mut socket, self.peer, proxies, deadline)).await {
                Ok(arrival) => (arrival, None),
                Err(end @ End::Proxy(ProxyFault::NoHeader(_))) => (Arrival::of(self.peer), Some(end)),
                Err(end) => return Err(end),
            },
        };
        self.peer = arrival.peer;
        if !settings.access.lets_in_from(arrival.peer) {
            refusal.get_or_insert(End::AddressNotAllowed(arrival.peer.host()));
        }
        if refusal.is_some() {
            deadline = deadline.min(Instant::now() + REFUSED_OPENING_MAX);
        }
        let preamble = if self.context.sends_proxy_header { arrival.header(&socket) } else { Vec::new() };

        let mut client = match Client::meet(arrival.peer, socket, &self.context.encryption, deadline).await {
            Ok(client) => client,
            Err((Some(client), end)) => {
                return Err(Box::pin(self.refuse(*client, refusal.unwrap_or(end))).await);
            }
            Err((None, end)) => return Err(refusal.unwrap_or(end)),
        };
        let taken_in = match (refusal, client.opening()) {
            (Some(end), _) => Err(end),
            (None, Opening::Cancel(_)) => Ok(()),
            (None, _) => client.take_in(settings).and_then(|()| self.take_place()),
        };
        match taken_in {
            Ok(()) => Ok((client, preamble)),
            Err(end) => Err(Box::pin(self.refuse(client, end)).await),
        }
    }

    async fn refuse(&self, client: Client, end: End) -> End {
        if let Some(fatal) = end.client_message(&self.context.settings.name) {
            client.refuse(&fatal).await;
        }
        end
    }

    /// The client has been let in by a node that turned out to have another role.
    async fn wrong_node(&self, mut client: Client, end: End) -> End {
        if let Some(fatal) = end.client_message(&self.context.settings.name) {
            farewell(client.stream(), &fatal.encode()).await;
        }
        end
    }
}
