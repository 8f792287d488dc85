//! One connection from its first byte to its last line in the log.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use super::admission::{Admission, Admitted, Refused};
use super::cancel;
use super::client::{Client, farewell};
use super::end::End;
use super::listener::Desk;
use super::registry::{Order, Presence, Seat};
use super::relay::{Outcome, Relay};
use crate::cluster::NodeId;
use crate::protocol::opening::{Opening, Who};
use crate::routing::Cause;

/// SQLSTATEs that cast doubt on the role of the node that sends them: it shuts down, crashes, starts, or refuses to
/// write.
const SUSPICIOUS: [&[u8; 5]; 4] = [b"57P01", b"57P02", b"57P03", b"25006"];

/// Serves one accepted connection. Never fails: whatever happens becomes the reason of its end.
pub async fn serve(desk: Arc<Desk>, stream: TcpStream, peer: SocketAddr) {
    let mut account = Account::open(&desk, peer);
    let end = Box::pin(account.serve(stream)).await;
    account.end = Some(end);
}

/// What is noted of a connection while it lasts; dropping it is what closes the account.
struct Account<'a> {
    desk: &'a Desk,
    peer: SocketAddr,
    started: Instant,
    presence: Option<Presence>,
    who: Who,
    node: Option<NodeId>,
    end: Option<End>,
}

impl<'a> Account<'a> {
    fn open(desk: &'a Desk, peer: SocketAddr) -> Account<'a> {
        desk.metrics.sessions.inc();
        let presence = desk.registry.enter(desk.index, desk.settings.sessions_max);
        Account { desk, peer, started: Instant::now(), presence, who: Who::default(), node: None, end: None }
    }

    /// Opening, route, connect, relay.
    async fn serve(&mut self, stream: TcpStream) -> End {
        let mut client = match Client::meet(stream, self.desk.settings.startup_timeout).await {
            Ok(client) => client,
            Err((client, end)) => return self.refuse(*client, end).await,
        };
        if let Opening::Cancel(key) = client.opening() {
            return cancel::deliver(self.desk, key, client.opening_packet()).await;
        }
        if self.presence.is_none() {
            return self.refuse(client, End::SessionsFull).await;
        }
        let admitted = tokio::select! {
            admitted = Box::pin(Admission::new(self.desk, &mut client).run()) => admitted,
            () = self.desk.registry.stopped() => Err(Refused::End(End::Stopped)),
        };
        if let Opening::Startup(who) = client.opening() {
            self.who = who.clone();
        }
        match (admitted, client.opening()) {
            (Ok(admitted), _) => self.relay(client, admitted).await,
            (Err(Refused::End(End::WrongNode)), _) => self.wrong_node(client).await,
            (Err(Refused::End(end)), _) => self.refuse(client, end).await,
            (Err(Refused::InNodesWords(words, end)), _) => {
                farewell(client.stream(), &words).await;
                end
            }
            (Err(Refused::WasCancel), Opening::Cancel(key)) => {
                cancel::deliver(self.desk, key, client.opening_packet()).await
            }
            (Err(Refused::WasCancel), _) => End::CancelFailed,
        }
    }

    async fn refuse(&self, client: Client, end: End) -> End {
        if let Some(fatal) = end.client_message(&self.desk.settings.name) {
            client.refuse(&fatal).await;
        }
        end
    }

    /// The client has been let in by a node that turned out to be in recovery.
    async fn wrong_node(&self, mut client: Client) -> End {
        if let Some(leader) = self.desk.cluster.topology().leader() {
            self.desk.cluster.suspect(leader);
        }
        if let Some(fatal) = End::WrongNode.client_message(&self.desk.settings.name) {
            farewell(client.stream(), &fatal.encode()).await;
        }
        End::WrongNode
    }

    async fn relay(&mut self, client: Client, admitted: Admitted) -> End {
        let Admitted { server, seat, ready } = admitted;
        self.node = Some(seat.node());
        let (client, for_server) = client.into_parts();
        seat.card().count_to_server(&for_server);
        seat.card().count_to_client(&ready.for_client);
        let mut relay = Relay::new(client, server, ready.framing, for_server, ready.for_client);
        let end = self.relay_until_end(&mut relay, &seat).await;
        if let Some(fatal) = end.client_message(&self.desk.settings.name)
            && relay.can_speak()
        {
            farewell(relay.client(), &fatal.encode()).await;
        } else if matches!(end, End::ServerClosed(_)) {
            relay.finish_for_client().await;
        }
        end
    }

    async fn relay_until_end(&self, relay: &mut Relay, seat: &Seat) -> End {
        let suspect = || self.desk.cluster.suspect(seat.node());
        let mut obeyed = None;
        let mut draining: Option<(Cause, Instant)> = None;
        loop {
            let on_error = |code: [u8; 5]| {
                if SUSPICIOUS.contains(&&code) {
                    suspect();
                }
            };
            let deadline = draining.map_or_else(Instant::now, |(_, deadline)| deadline);
            let outcome = tokio::select! {
                biased;
                order = seat.card().ordered(obeyed) => {
                    obeyed = Some(order);
                    match order {
                        Order::Cut(cause) => return End::Cut(cause),
                        Order::Stop => return End::Stopped,
                        Order::Drain(cause) => {
                            relay.drain();
                            draining = draining.or(Some((cause, Instant::now() + self.desk.drain_timeout)));
                            continue;
                        }
                    }
                }
                () = sleep_until(deadline), if draining.is_some() => Outcome::Drained,
                outcome = relay.run(seat.card(), on_error) => outcome,
            };
            return match outcome {
                Outcome::ClientClosed => End::ClientClosed,
                Outcome::ClientFailed(error) => End::ClientFailed(error),
                Outcome::Drained => draining.map_or(End::Lost, |(cause, _)| End::Drained(cause)),
                Outcome::ServerClosed(code) => {
                    if code.is_none_or(|code| SUSPICIOUS.contains(&&code)) {
                        suspect();
                    }
                    End::ServerClosed(code)
                }
                Outcome::ServerFailed(error) => {
                    suspect();
                    End::ServerFailed(error)
                }
            };
        }
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or(End::Lost);
        self.desk.metrics.ended(end.kind());
        let topology = self.desk.cluster.topology();
        let node = self.node.map_or("", |id| topology.node(id).member.name.as_str());
        let (listener, peer, reason) = (&self.desk.settings.name, self.peer, end.kind().label());
        let Who { user, database, application_name } = &self.who;
        let seconds = self.started.elapsed().as_secs_f64();
        if end.is_trouble() {
            info!(%listener, %peer, node, user, database, application_name, seconds, reason, "session ended: {end}");
        } else {
            debug!(%listener, %peer, node, user, database, application_name, seconds, reason, "session ended: {end}");
        }
    }
}
