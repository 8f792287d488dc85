//! One connection from its first byte to its last line in the log.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use tracing::{debug, info};

use super::admission::{Admission, Admitted, Refused};
use super::arrival::Arrival;
use super::cancel;
use super::card::Order;
use super::client::{Client, farewell};
use super::desk::Desk;
use super::end::{End, ProxyFault};
use super::registry::{Presence, Seat};
use super::relay::{Outcome, Relay};
use super::workers::Load;
use crate::cluster::NodeId;
use crate::net::{Peer, Socket};
use crate::protocol::opening::Opening;
use crate::protocol::startup::Who;
use crate::routing::Target;

/// SQLSTATEs that cast doubt on the role of the node that sends them: it shuts down, crashes, or starts.
const SUSPICIOUS: [&[u8; 5]; 3] = [b"57P01", b"57P02", b"57P03"];

/// It refuses to write. Of a leader that is suspicious; of others it is their nature.
const READ_ONLY: &[u8; 5] = b"25006";

/// How long a client that will be refused whatever it says may take to say it, so that it can be told in the right form.
const REFUSED_OPENING_MAX: Duration = Duration::from_secs(2);

/// Serves an accepted connection. Never fails: whatever happens becomes the reason of its end.
pub async fn serve(mut account: Box<Account>) {
    let end = account.serve().await;
    account.end = Some(end);
}

/// A connection, and what is noted of it while it lasts; dropping it is what closes the account.
///
/// It is made in a box and stays there: a future that it was moved into would have room for it twice.
pub struct Account {
    desk: Arc<Desk>,
    peer: Peer,
    started: Instant,
    /// Its place among the listener's sessions, and among those of its client.
    presence: Option<Presence>,
    /// For the log.
    who: Who,
    node: Option<NodeId>,
    stage: Stage,
    end: Option<End>,
    _load: Load,
}

/// What there is of a connection.
#[expect(clippy::large_enum_variant, reason = "it is made for the largest, in which it spends its life")]
enum Stage {
    Arrived(Socket),
    /// In the hands of what brings it to a node, or to its end.
    Between,
    Served(Session),
}

/// A session that has its place.
struct Session {
    relay: Relay,
    seat: Seat,
}

impl Account {
    /// Of a connection that has just been accepted.
    pub fn open(desk: Arc<Desk>, socket: Socket, peer: Peer, load: Load) -> Box<Account> {
        desk.metrics.sessions.inc();
        Box::new(Account {
            desk,
            peer,
            started: Instant::now(),
            presence: None,
            who: Who::default(),
            node: None,
            stage: Stage::Arrived(socket),
            end: None,
            _load: load,
        })
    }

    /// Opening, route, connect, relay, last words. All but the relay have boxes of their own: a session spends its life
    /// there, and carries nothing else along.
    async fn serve(&mut self) -> End {
        if let Err(end) = Box::pin(self.admit()).await {
            return end;
        }
        let (mut obeyed, mut deadline) = (None, None);
        let end = poll_fn(|cx| self.poll_relay(cx, &mut obeyed, &mut deadline)).await;
        Box::pin(self.last_words(&end)).await;
        end
    }

    /// In boxes of less than a kilobyte each: larger ones, glibc's allocator would fill up with what stays, and take
    /// others from the system for the next connection.
    async fn admit(&mut self) -> Result<(), End> {
        let (mut client, preamble) = self.receive_in_turn().await?;
        let desk = &self.desk;
        if let Opening::Cancel(key) = client.opening() {
            let request = cancel::Request::of(&client, preamble);
            return Err(Box::pin(cancel::deliver(desk, key, request)).await);
        }
        let mut admission = Admission::new(desk, &mut client, &preamble);
        let admitted = tokio::select! {
            admitted = admission.run() => admitted,
            () = desk.registry.stopped() => Err(Refused::End(End::Stopped)),
        };
        self.who = client.take_who();
        Err(match (admitted, client.opening()) {
            (Ok(admitted), _) => {
                self.begin(client, admitted);
                return Ok(());
            }
            (Err(Refused::End(end @ End::WrongNode(_))), _) => Box::pin(self.wrong_node(client, end)).await,
            (Err(Refused::End(end)), _) => Box::pin(self.refuse(client, end)).await,
            (Err(Refused::InNodesWords(words, end)), _) => {
                Box::pin(farewell(client.stream(), &words)).await;
                end
            }
            (Err(Refused::WasCancel), Opening::Cancel(key)) => {
                let request = cancel::Request::of(&client, preamble);
                Box::pin(cancel::deliver(&self.desk, key, request)).await
            }
            (Err(Refused::WasCancel), _) => End::Lost,
        })
    }

    /// Gives the connection a place among the openings while it has not yet said what it wants.
    async fn receive_in_turn(&mut self) -> Result<(Client, Vec<u8>), End> {
        let Stage::Arrived(socket) = mem::replace(&mut self.stage, Stage::Between) else { return Err(End::Lost) };
        let desk = Arc::clone(&self.desk);
        let openings = desk.registry.openings(desk.index);
        let Some(opening) = openings.enter(desk.settings.openings_max) else { return Err(End::OpeningsFull) };
        tokio::select! {
            received = Box::pin(self.receive(socket)) => received,
            () = poll_fn(|cx| opening.poll_gives_way(cx)) => Err(End::OpeningsFull),
        }
    }

    /// Learns who the client is and what it wants, and gives it a place if it wants a session. Also returned: what
    /// connections to nodes have to begin with.
    async fn receive(&mut self, mut socket: Socket) -> Result<(Client, Vec<u8>), End> {
        let settings = &self.desk.settings;
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
        let preamble = if self.desk.sends_proxy_header { arrival.header(&socket) } else { Vec::new() };

        let mut client = match Client::meet(arrival.peer, socket, &self.desk.encryption, deadline).await {
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

    fn take_place(&mut self) -> Result<(), End> {
        let Desk { index, settings, registry, per_client, .. } = &*self.desk;
        if !per_client.enter(self.peer) {
            return Err(End::ClientFull(self.peer.host()));
        }
        self.presence = registry.enter(*index, settings.sessions_max);
        if self.presence.is_none() {
            per_client.leave(self.peer);
            return Err(End::SessionsFull);
        }
        Ok(())
    }

    async fn refuse(&self, client: Client, end: End) -> End {
        if let Some(fatal) = end.client_message(&self.desk.settings.name) {
            client.refuse(&fatal).await;
        }
        end
    }

    /// The client has been let in by a node that turned out to have another role.
    async fn wrong_node(&self, mut client: Client, end: End) -> End {
        if let Some(fatal) = end.client_message(&self.desk.settings.name) {
            farewell(client.stream(), &fatal.encode()).await;
        }
        end
    }

    fn begin(&mut self, client: Client, admitted: Admitted) {
        let Admitted { server, mut seat, ready } = admitted;
        if ready.framing.is_none() {
            seat.turns_opaque();
        }
        self.node = Some(seat.node());
        let (client, for_server) = client.into_parts();
        seat.card().count_to_server(&for_server);
        seat.card().count_to_client(&ready.for_client);
        if ready.framing.is_some() {
            seat.card().show_transactions();
        }
        let mode = self.desk.settings.relay;
        let relay = Relay::new(mode, client, server, ready.framing, for_server, ready.for_client);
        self.stage = Stage::Served(Session { relay, seat });
    }

    /// Leaves the server, and then tells the client why.
    async fn last_words(&mut self, end: &End) {
        let Stage::Served(Session { mut relay, seat }) = mem::replace(&mut self.stage, Stage::Between) else { return };
        let words = end.client_message(&self.desk.settings.name).filter(|_| relay.can_speak());
        if words.is_some() {
            relay.leave_server();
        }
        drop(seat);
        match words {
            Some(fatal) => farewell(relay.client(), &fatal.encode()).await,
            None if matches!(end, End::ServerClosed(_)) => relay.finish_for_client().await,
            None => {}
        }
    }

    /// Orders come first, then the deadline of a drain, then bytes. Written as one poll, because the futures of a
    /// `select!` would make every idle session larger.
    fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        obeyed: &mut Option<Order>,
        deadline: &mut Option<Pin<Box<Sleep>>>,
    ) -> Poll<End> {
        let Account { desk, stage, .. } = self;
        let Stage::Served(Session { relay, seat }) = stage else { return Poll::Ready(End::Lost) };
        while let Poll::Ready(order) = seat.card().poll_order(cx, *obeyed) {
            *obeyed = order;
            relay.set_draining(order.is_some());
            match order {
                Some(Order::Cut(cause)) => return Poll::Ready(End::Cut(cause)),
                Some(Order::Stop) => return Poll::Ready(End::Stopped),
                Some(Order::Drain(_)) => {
                    deadline.get_or_insert_with(|| Box::pin(sleep(desk.drain_timeout)));
                }
                Some(Order::Move) | None => *deadline = None,
            }
        }
        if let (Some(Order::Drain(cause)), Some(deadline)) = (&obeyed, deadline)
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(End::DrainTimedOut(*cause));
        }
        let suspect = || desk.cluster.suspect(seat.node());
        let is_suspicious = |code: [u8; 5]| {
            let is_to_write = desk.settings.rule.target == Target::Leader;
            SUSPICIOUS.contains(&&code) || (is_to_write && code == *READ_ONLY)
        };
        let on_error = |code: [u8; 5]| {
            if is_suspicious(code) {
                suspect();
            }
        };
        relay.poll(cx, seat.card(), on_error).map(|outcome| match outcome {
            Outcome::ClientClosed => End::ClientClosed,
            Outcome::ClientFailed(error) => End::ClientFailed(error),
            Outcome::Drained => match *obeyed {
                Some(Order::Drain(cause)) => End::Drained(cause),
                Some(Order::Move) => End::Rebalanced,
                _ => End::Lost,
            },
            Outcome::ServerClosed(code) => {
                if code.is_none_or(is_suspicious) {
                    suspect();
                }
                End::ServerClosed(code)
            }
            Outcome::ServerFailed(error) => {
                suspect();
                End::ServerFailed(error)
            }
        })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or(End::Lost);
        self.desk.metrics.ended(end.kind());
        if self.presence.is_some() {
            self.desk.per_client.leave(self.peer);
        }
        let topology = self.desk.cluster.topology();
        let node = self.node.map_or("", |id| topology.node(id).member.name.as_str());
        let (listener, peer, reason) = (&self.desk.settings.name, self.peer, end.kind().label());
        let (user, database, application_name) = (self.who.user(), self.who.database(), self.who.application_name());
        let seconds = self.started.elapsed().as_secs_f64();
        if end.is_trouble() {
            info!(%listener, %peer, node, user, database, application_name, seconds, reason, "session ended: {end}");
        } else {
            debug!(%listener, %peer, node, user, database, application_name, seconds, reason, "session ended: {end}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::config::Config;
    use crate::probe::Monitor;
    use crate::proxy::encryption::Encryption;
    use crate::proxy::registry::Registry;
    use crate::telemetry::metrics::Metrics;

    /// What a session takes of its task while it is relayed. Whoever makes it larger, makes every idle session larger.
    #[tokio::test]
    async fn a_session_is_small() {
        let mut config = Config::from_patroni_urls(&["http://127.0.0.1:8008".to_owned()]).expect("is valid");
        let metrics = Metrics::default();
        let (_, cluster) = Monitor::new(&config.clusters[0], metrics.cluster("main")).expect("no certificates");
        let registry = Arc::new(Registry::new(1, 1));
        let counters = metrics.listener("write");
        let settings = config.listeners.remove(0);
        let encryption = Arc::new(Encryption::new(&settings, &metrics).expect("no certificates"));
        let desk = Arc::new(Desk::new(0, settings, Duration::ZERO, cluster, registry, counters, encryption));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let stream = tokio::net::TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let account = Account::open(desk, stream.into(), Peer::Unix, Load::default());
        let lengths = [size_of_val(&*account), size_of_val(&serve(account))];
        assert!(lengths[0] <= 584 && lengths[1] <= 112, "{lengths:?} bytes");
    }
}
