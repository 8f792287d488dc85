//! The process that takes over: it gets the ports of the old one, what that knows, and its sessions.

use std::collections::HashSet;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::knowledge::Learner;
use super::message::{FORMATS, Message, decode};
use super::old_process::send;
use super::program;
use super::role_keys::take_role_key;
use crate::admin::upgrades::{Predecessor, Upgrades};
use crate::app::parts::Parts;
use crate::app::parts::inherited::Inherited;
use crate::cluster::Topology;
use crate::net::Bind;
use crate::net::packets::{Packet, PacketSocket};
use crate::probe::ClusterHandle;
use crate::protocol::CancelKey;
use crate::proxy::context::ListenerContext;
use crate::proxy::session::movement::Arrival;
use crate::proxy::sessions::moving::MovingSession;
use crate::proxy::worker::Workers;

/// How long the checks of the nodes may take before this process takes over without knowing all of them.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);

/// How long the old process may take for each of its messages.
const MESSAGE_MAX: Duration = Duration::from_secs(30);

/// The old process.
pub struct OldProcess {
    connection: PacketSocket,
    version: String,
    /// How long the clock of its sessions has run.
    pub(crate) clock: Duration,
    /// The number of the first session here.
    first_session: u64,
    /// Its sockets.
    pub(crate) inherited: Inherited,
}

impl OldProcess {
    /// Greets the process that this one takes over from; `None` if there is none. Errors: it has ended, or is not a pgvane.
    pub async fn greet() -> io::Result<Option<OldProcess>> {
        let Some(connection) = program::connection()? else { return Ok(None) };
        let connection = PacketSocket::watch(connection)?;
        let hello = Message::Hello { formats: FORMATS.to_vec(), version: env!("CARGO_PKG_VERSION").to_owned() };
        send(&connection, &hello, &[]).await?;
        let (Message::Welcome { version, .. }, _) = receive(&connection).await? else { return Err(unexpected()) };
        let mut old = OldProcess {
            connection,
            version,
            clock: Duration::ZERO,
            first_session: 0,
            inherited: Inherited::default(),
        };
        loop {
            match receive(&old.connection).await? {
                (Message::Place { listener, bind }, sockets) => match Bind::parse(&bind) {
                    Ok(bind) => old.inherited.add(listener, bind, sockets),
                    Err(_) => return Err(unexpected()),
                },
                (Message::Admin { bind }, sockets) => match (bind.parse(), sockets.into_iter().next()) {
                    (Ok(bind), Some(socket)) => old.inherited.add_admin(bind, socket),
                    _ => return Err(unexpected()),
                },
                (Message::AdminSocket { path }, sockets) => match sockets.into_iter().next() {
                    Some(socket) => old.inherited.add_admin_socket(path.into(), socket),
                    None => return Err(unexpected()),
                },
                (Message::Clock { age_ms, first_session }, _) => {
                    (old.clock, old.first_session) = (Duration::from_millis(age_ms), first_session);
                }
                (Message::Opened, _) => return Ok(Some(old)),
                _ => return Err(unexpected()),
            }
        }
    }

    /// Takes over: accepts connections in place of the old process. Then its sessions come, in the background. Errors: the
    /// old process has ended, or goes on by itself; this one must end.
    pub(crate) async fn take_over(self, parts: &mut Parts) -> io::Result<()> {
        let OldProcess { connection, version, first_session, .. } = self;
        parts.registry.number_from(first_session);
        know_nodes(&parts.cluster_handles()).await;
        send(&connection, &Message::Ready, &[]).await?;
        let mut learner = Learner::new(parts);
        loop {
            // it may have a key in it, and is overwritten when it is dropped
            let packet = Zeroizing::new(receive_packet(&connection).await?.bytes);
            match decode(&packet)? {
                (Message::TakeOver, _) => break,
                (Message::RoleKey { cluster, role }, secret) => {
                    take_role_key(&parts.contexts().borrow(), &cluster, &role, secret);
                }
                (message, _) => learner.learn(message).await,
            }
        }
        parts.set_accepting(true);
        send(&connection, &Message::Accepting, &[]).await?;
        info!(version_before = version, "took over from the process before: connections are accepted");
        parts.upgrades.note_predecessor(Some(Predecessor { version: version.clone(), sessions: 0 }));
        let arrivals = Arrivals {
            connection,
            version,
            learner,
            contexts: parts.contexts(),
            workers: Arc::clone(&parts.workers),
            upgrades: Arc::clone(&parts.upgrades),
            taken: 0,
        };
        let is_stopping = parts.is_stopping();
        parts.background.spawn("sessions of the process before", arrivals.run(is_stopping));
        Ok(())
    }
}

/// Waits until each cluster has a leader and all its nodes have been checked, for some seconds.
async fn know_nodes(clusters: &[ClusterHandle]) {
    let is_known = |topology: &Topology| {
        topology.leader().is_some() && topology.members().all(|(_, node)| node.check_asked_at.is_some())
    };
    let all = async {
        for cluster in clusters {
            loop {
                let topology = cluster.topology_full();
                if is_known(&topology) {
                    break;
                }
                cluster.newer_than(topology.generation).await;
            }
        }
    };
    if timeout(KNOWN_WITHIN, all).await.is_err() {
        warn!("not all nodes have answered yet; taking over nevertheless");
    }
}

/// Takes the sessions of the old process, one by one.
struct Arrivals {
    connection: PacketSocket,
    version: String,
    learner: Learner,
    contexts: watch::Receiver<Vec<Arc<ListenerContext>>>,
    workers: Arc<Workers>,
    upgrades: Arc<Upgrades>,
    taken: usize,
}

impl Arrivals {
    /// Never returns.
    async fn run(mut self, mut is_stopping: watch::Receiver<bool>) {
        let mut stops = Box::pin(async move { is_stopping.wait_for(|is_stopping| *is_stopping).await.is_ok() });
        let ended = loop {
            tokio::select! {
                packet = self.connection.receive() => match packet {
                    Ok(Some(packet)) => {
                        if let Err(error) = self.handle(packet).await {
                            break Err(error);
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                },
                true = &mut stops => {
                    let _ = send(&self.connection, &Message::Stopping, &[]).await; // it may have ended
                    break Ok(());
                }
            }
        };
        match ended {
            Ok(()) => info!(sessions = self.taken, "the process before has ended; its sessions are here"),
            Err(error) => error!(%error, sessions = self.taken, "the process before is lost"),
        }
        self.learner.forget_keys();
        warn_of_missing_keys(&self.contexts.borrow());
        self.upgrades.note_predecessor(None);
        drop(self.connection);
        pending::<()>().await;
    }

    async fn handle(&mut self, packet: Packet) -> io::Result<()> {
        let (message, in_flight) = decode(&packet.bytes)?;
        match message {
            Message::Session { id, for_server, state } => {
                let [client, server] = <[OwnedFd; 2]>::try_from(packet.descriptors).map_err(|_| unexpected())?;
                let (for_server, for_client) = in_flight.split_at_checked(for_server).ok_or_else(unexpected)?;
                let in_flight = [for_server.to_vec(), for_client.to_vec()];
                let moving =
                    MovingSession { state: *state, in_flight, sockets: [client, server], since: Instant::now() };
                self.take(id, moving).await
            }
            Message::Left { sessions } => {
                let version = self.version.clone();
                self.upgrades.note_predecessor(Some(Predecessor { version, sessions }));
                Ok(())
            }
            message => {
                self.learner.learn(message).await;
                Ok(())
            }
        }
    }

    /// Answers before it reads a byte: if the answer cannot be sent, the old process goes on with the session.
    async fn take(&mut self, id: u64, moving: MovingSession) -> io::Result<()> {
        let listener = &moving.state.listener;
        let context = self.contexts.borrow().iter().find(|context| context.settings.name == *listener).cloned();
        let key = moving.state.key.as_deref().and_then(CancelKey::from_backend_key_data);
        let arrival = match context {
            Some(context) => Arrival::take(moving, context),
            None => Err(format!("listener \"{listener}\" is not in the configuration")),
        };
        match arrival {
            Ok(arrival) => {
                self.learner.has_arrived(key.as_ref());
                send(&self.connection, &Message::Taken { id }, &[]).await?;
                arrival.serve(&self.workers);
                self.taken += 1;
                Ok(())
            }
            Err(why) => send(&self.connection, &Message::Refused { id, why }, &[]).await,
        }
    }
}

/// Logs how many sessions cannot log in again at another server because the process before did not know the keys of their
/// roles, or could not send them: it was an older version.
fn warn_of_missing_keys(contexts: &[Arc<ListenerContext>]) {
    let mut seen = HashSet::new();
    for context in contexts.iter().filter(|context| seen.insert(context.settings.cluster)) {
        let sessions = context.registry.sessions_before_keys(context.settings.cluster);
        if sessions > 0 {
            warn!(
                cluster = context.cluster.name(),
                sessions,
                "sessions cannot be carried to another leader until a client of their role has logged in: the process before \
                 has not sent the keys of their roles"
            );
        }
    }
}

async fn receive(connection: &PacketSocket) -> io::Result<(Message, Vec<OwnedFd>)> {
    let packet = receive_packet(connection).await?;
    Ok((decode(&packet.bytes)?.0, packet.descriptors))
}

async fn receive_packet(connection: &PacketSocket) -> io::Result<Packet> {
    match timeout(MESSAGE_MAX, connection.receive()).await?? {
        Some(packet) => Ok(packet),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the process before has ended")),
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the process before sent an unexpected message")
}
