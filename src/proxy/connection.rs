//! One connection: identify → authorize → admit, then [`super::session`] relays its bytes, then close.
//!
//! `Connection::establish` is the first half and reads top to bottom; `Connection::close` is the last step.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, debug, debug_span, info};

use super::admission::{Admission, Admitted, Refused};
use super::cancel;
use super::client_message::client_message;
use super::context::ListenerContext;
use super::end::{End, ProxyFault};
use super::intake::handshake::{Client, HandshakeError, Request, send_last_message};
use super::intake::proxy_protocol::ClientAddress;
use super::permit::SessionPermit;
use super::sessions::cluster_parking::ClusterParking;
use super::worker::Load;
use crate::cluster::NodeId;
use crate::net::{Incoming, Peer, Socket};
use crate::protocol::startup::{StartupParameters, cut_to_name_length};

/// How long pgvane waits for the startup packet of a client that it will refuse: libpq shows an error only if it comes
/// after that packet.
const REFUSED_STARTUP_MAX: Duration = Duration::from_secs(2);

/// The maximum number of pending connections from addresses that are not allowed: each is to get an error message.
const REFUSED_MAX: usize = 50;

/// A connection, and what is recorded about it. Dropping it records its end, whatever the cause.
pub struct Connection {
    /// Where it was accepted, where it comes from, and its permit to have a session.
    pub permit: SessionPermit,
    /// The user, database and application that the client named; for the log.
    pub parameters: StartupParameters,
    /// The node that the session is on, or was on.
    pub node: Option<NodeId>,
    started: Instant,
    is_closed: bool,
    /// Its place on a thread.
    pub(super) load: Load,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn accepted(context: Arc<ListenerContext>, peer: Peer, load: Load) -> Connection {
        context.metrics.sessions.inc();
        context.registry.accepted(context.index);
        Connection {
            permit: SessionPermit::none(context, peer),
            parameters: StartupParameters::default(),
            node: None,
            started: Instant::now(),
            is_closed: false,
            load,
        }
    }

    /// A connection that another process had before, since this time.
    pub fn moved_in(context: Arc<ListenerContext>, peer: Peer, age: Duration, load: Load) -> Connection {
        let now = Instant::now();
        Connection {
            permit: SessionPermit::moved_in(context, peer),
            parameters: StartupParameters::default(),
            node: None,
            started: now.checked_sub(age).unwrap_or(now),
            is_closed: false,
            load,
        }
    }

    /// Another process has it now: there is no end to record.
    pub fn moved_out(mut self) {
        self.is_closed = true;
    }

    /// How long it has lasted.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// What all connections of the listener share.
    pub fn context(&self) -> &Arc<ListenerContext> {
        &self.permit.context
    }

    /// From an accepted socket to a session on a node. The error is the connection's end; the client has got its message.
    pub(super) async fn establish(&mut self, socket: Incoming) -> Result<(Box<Client>, Admitted), End> {
        let span = debug_span!("connection", listener = %self.context().settings.name, peer = %self.permit.peer);
        async {
            let (request, preamble) = self.receive(socket).await?;
            match request {
                Request::Session(mut client) => match Box::pin(self.admit(&mut client, &preamble)).await {
                    Ok(admitted) => Ok((client, admitted)),
                    Err(refused) => Err(Box::pin(self.not_admitted(client, refused, preamble)).await),
                },
                // what is left of `request` keeps the canceller's connection open until then
                Request::Cancel(request, _) => {
                    Err(Box::pin(cancel::deliver(self.context(), self.permit.peer, request, preamble)).await)
                }
            }
        }
        .instrument(span)
        .await
    }

    /// Identifies and authorizes the client. The connection counts as pending meanwhile.
    async fn receive(&mut self, socket: Incoming) -> Result<(Request, Vec<u8>), End> {
        let context = Arc::clone(self.context());
        // clients that are not allowed get an error message, and take no place from those that are
        let is_refused =
            context.settings.proxy_protocol.is_none() && !context.settings.access.allows_peer(self.permit.peer);
        let (places, max) = match is_refused {
            true => (context.registry.refused(context.index), REFUSED_MAX),
            false => (
                context.registry.pending(context.index),
                context.registry.pending_max(context.settings.pending_connections_max),
            ),
        };
        let Some(pending) = places.enter(context.settings.client_of(self.permit.peer), max) else {
            return Err(End::PendingFull(max));
        };
        let socket = socket.watch().map_err(End::ClientFailed)?;
        let received = Box::pin(async {
            match self.identify(socket).await? {
                (Request::Session(mut client), preamble) => match self.authorize(&mut client) {
                    Ok(()) => Ok((Request::Session(client), preamble)),
                    Err(end) => Err(Box::pin(self.refuse(client, end)).await),
                },
                cancel @ (Request::Cancel(..), _) => Ok(cancel), // it needs no permit
            }
        });
        tokio::select! {
            received = received => received,
            () = pending.evicted() => Err(End::PendingFull(max)),
        }
    }

    /// Finds out the client's address and reads its request. Also returned: what connections to nodes have to start with.
    async fn identify(&mut self, mut socket: Socket) -> Result<(Request, Vec<u8>), End> {
        let context = Arc::clone(self.context());
        let settings = &context.settings;
        let mut deadline = Instant::now() + settings.startup_timeout;
        let (address, mut refusal) = match &settings.proxy_protocol {
            None => (ClientAddress::of(self.permit.peer), None),
            Some(proxies) => {
                match Box::pin(ClientAddress::read(&mut socket, self.permit.peer, proxies, deadline)).await {
                    Ok(address) => (address, None),
                    Err(end @ End::ProxyHeader(ProxyFault::NoHeader(_))) => {
                        (ClientAddress::of(self.permit.peer), Some(end))
                    }
                    Err(end) => return Err(end),
                }
            }
        };
        self.permit.peer = address.peer;
        if !settings.access.allows_peer(address.peer) {
            refusal.get_or_insert(End::AddressNotAllowed(address.peer.host()));
        }
        if refusal.is_some() {
            deadline = deadline.min(Instant::now() + REFUSED_STARTUP_MAX);
        }
        let preamble = if context.sends_proxy_header { address.header(&socket) } else { Vec::new() };
        let read = Box::pin(Request::read(address.peer, socket, &context.encryption, deadline)).await;
        match (read, refusal) {
            (Ok(request), None) => Ok((request, preamble)),
            (Ok(Request::Cancel(..)), Some(refusal)) => Err(refusal),
            (Ok(Request::Session(client)), Some(refusal)) => Err(Box::pin(self.refuse(client, refusal)).await),
            (Err(HandshakeError { client: Some(client), end }), refusal) => {
                Err(Box::pin(self.refuse(client, refusal.unwrap_or(end))).await)
            }
            (Err(HandshakeError { client: None, end }), refusal) => Err(refusal.unwrap_or(end)),
        }
    }

    /// Checks user and database against the allow-lists, and takes the permit to have a session.
    fn authorize(&mut self, client: &mut Client) -> Result<(), End> {
        client.check_access(&self.context().settings)?;
        self.permit.acquire()
    }

    fn parking(&self) -> &ClusterParking {
        let context = self.context();
        context.registry.parking(context.settings.cluster)
    }

    /// Gives the client a session on a node.
    async fn admit(&mut self, client: &mut Client, preamble: &[u8]) -> Result<Admitted, Refused> {
        let context = Arc::clone(self.context());
        let mut admission = Admission::new(&context, client, preamble);
        let admitted = tokio::select! {
            admitted = admission.run() => admitted,
            () = context.registry.stopped() => Err(Refused::End(End::Stopped)),
        };
        drop(admission);
        self.parameters = client.take_parameters();
        admitted
    }

    /// Sends a client that was not admitted the reason.
    async fn not_admitted(&self, mut client: Box<Client>, refused: Refused, preamble: Vec<u8>) -> End {
        let context = self.context();
        match refused {
            Refused::End(end @ (End::WrongNode(_) | End::LoginBroken(_))) => {
                // the client has been authenticated: the error is the next message that it expects
                if let Some(fatal) = client_message(&end, &context.settings.name) {
                    send_last_message(client.stream(), &fatal.encode()).await;
                }
                end
            }
            Refused::End(end) => self.refuse(client, end).await,
            Refused::ByServer(message, end) => {
                send_last_message(client.stream(), &message).await;
                end
            }
            Refused::IsCancel(request) => cancel::deliver(context, self.permit.peer, request, preamble).await,
        }
    }

    async fn refuse(&self, client: Box<Client>, end: End) -> End {
        if let Some(fatal) = client_message(&end, &self.context().settings.name) {
            client.refuse(&fatal).await;
        }
        end
    }

    /// Records the end: one line in the log, and one more of its kind in the metrics.
    pub fn close(mut self, end: &End) {
        self.record(end);
    }

    fn record(&mut self, end: &End) {
        self.is_closed = true;
        let context = self.context();
        context.metrics.ended(end.kind());
        if let Some(node) = self.node.filter(|_| end.is_loss_of_server()) {
            context.cluster.sessions().lost(node);
        }
        if let Some(node) = self.node {
            let counts = context.registry.servers(context.index);
            counts.aborted(node, end);
            counts.lasted(node, self.started.elapsed());
        }
        match end {
            End::Parked(_) => self.parking().count_ended(),
            End::NotCarried(why) => {
                self.parking().count_ended();
                self.parking().carried().not_carried(why.reason);
                context.cluster.history().session_not_carried(why.reason.label());
            }
            _ => {}
        }
        let topology = context.cluster.topology();
        let node = self.node.map_or("", |id| topology.node(id).member.name.as_str());
        let (listener, peer, reason) = (&context.settings.name, self.permit.peer, end.kind().label());
        let names = [self.parameters.user(), self.parameters.database(), self.parameters.application_name()];
        let [user, database, application_name] = names.map(cut_to_name_length);
        let seconds = self.started.elapsed().as_secs_f64();
        let admitted = end.is_problem().then(|| context.kept.log_limit.admit(end.kind())).flatten();
        if let Some(suppressed) = admitted {
            let suppressed = (suppressed > 0).then_some(suppressed);
            info!(
                %listener, %peer, node, user, database, application_name, seconds, reason, suppressed,
                "session ended: {end}"
            );
        } else {
            debug!(%listener, %peer, node, user, database, application_name, seconds, reason, "session ended: {end}");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_closed {
            self.record(&End::Lost);
        }
    }
}
