//! A parked session whose server has stopped, or does not lead any more, is carried to the leader: it waits for that and
//! for its turn, logs in with the client's own startup packet, restores the session's state and compares it. Only if it is
//! the same does the client go on. When it does what, [`Carry`] decides. What can be done before there is a leader is done
//! at the node that will probably lead.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;

use tokio::time::Instant;
use tracing::debug;

use super::Session;
use super::early::{EarlyLogins, Progress};
use super::prospect::again;
use super::rare::Prospect;
use crate::cluster::{Moment, NodeId};
use crate::protocol::login_again::Credential;
use crate::protocol::session_state::SessionState;
use crate::proxy::admission::carried::{Arrival, CarriedLogin, Early, NotArrived};
use crate::proxy::client_message::client_message;
use crate::proxy::connection::Connection;
use crate::proxy::context::ListenerContext;
use crate::proxy::end::{End, NotCarried, NotCarriedReason, ParkEnd};
use crate::proxy::intake::handshake::send_last_message;
use crate::proxy::intake::proxy_protocol::ClientAddress;
use crate::proxy::relay::Relay;
use crate::proxy::relay::client_side::ClientSide;
use crate::proxy::sessions::cluster_parking::{CarryLimits, ClusterParking};
use crate::proxy::sessions::control::{SessionControl, SessionOrder};
use crate::proxy::sessions::guard::SessionGuard;
use crate::proxy::sessions::openings::Opening;
use crate::proxy::sessions::orders::order_for;
use crate::proxy::sessions::owner::Owner;
use crate::proxy::sessions::pace::Turn;
use crate::routing::{Attempted, Carry, CarryEnd, CarryStep, ParkView, SessionPark, successor};

impl Session {
    /// Carries it to the leader. `None` if it has ended.
    pub(super) async fn carry(self, prospect: Prospect) -> Option<Session> {
        let Session { mut connection, relay, mut guard, .. } = self;
        let (begun, context) = (Instant::now(), Arc::clone(connection.context()));
        guard.left_server();
        let mut client = match relay.leave_server() {
            Ok(client) => client,
            Err(_) => return None, // never: it was asked before whether it can; the connection records the end
        };
        match Box::pin(arrival(&context, &guard, &client, &prospect)).await {
            Ok((node, arrived)) => {
                let Arrival { server, key, for_client, in_advance } = arrived;
                let name = context.cluster.topology().node(node).member.name.clone();
                context.registry.servers(context.index).is_node(node, &name);
                guard.carried_to(node, context.settings.rule.port, key);
                guard.note_arrived();
                // an order that came before it was there is seen in the topology itself
                let rule = &context.settings.rule;
                if let Some(order) = order_for(rule, &rule.reactions, &context.cluster.topology(), node) {
                    guard.control().send_order(order);
                }
                connection.node = Some(node);
                note_arrival(&context, node, begun, in_advance);
                client.for_client.extend_from_slice(&for_client);
                guard.control().bytes().add_to_client(for_client.len());
                guard.control().bytes().add_to_server(client.for_server.len());
                let relay = Relay::with_another_server(context.settings.relay, client, server);
                Some(Session { connection, relay, guard, last_order: None, rare: None })
            }
            Err(end) => {
                end_without_server(connection, guard, client, end).await;
                None
            }
        }
    }
}

/// Brings it to a leader. The error is its end.
async fn arrival(
    context: &ListenerContext,
    guard: &SessionGuard,
    client: &ClientSide,
    prospect: &Prospect,
) -> Result<(NodeId, Arrival), End> {
    let Prospect { limits, state } = prospect;
    let state = state.as_ref().map_err(|why| End::NotCarried(why.clone()))?;
    let (opening, credential) = again(guard).map_err(End::NotCarried)?;
    let control = guard.control();
    let left = guard.node();
    Journey { context, control, client, limits, left, state, opening: &opening, credential }.run().await
}

fn note_arrival(context: &ListenerContext, node: NodeId, begun: Instant, in_advance: bool) {
    let topology = context.cluster.topology();
    let name = &topology.node(node).member.name;
    let waited = begun.elapsed();
    context.registry.parking(context.settings.cluster).carried().carried(waited, in_advance);
    context.cluster.history().session_carried(waited);
    context.cluster.sessions().established(node);
    context.cluster.history().session_ready();
    let seconds = waited.as_secs_f64();
    debug!(listener = %context.settings.name, node = %name, seconds, "a session was carried");
}

/// Sends the client the reason, and records the end.
async fn end_without_server(mut connection: Connection, guard: SessionGuard, mut client: ClientSide, end: End) {
    connection.parameters = guard.control().owner().map(Owner::parameters).unwrap_or_default();
    drop(guard);
    if let Some(fatal) = client_message(&end, &connection.context().settings.name) {
        client.for_client.extend_from_slice(&fatal.encode());
        Box::pin(send_last_message(&mut client.stream, &client.for_client)).await;
    }
    drop(client);
    connection.close(&end);
}

/// How an attempt ended.
enum Attempt {
    Over(Result<Arrival, NotArrived>),
    /// The node does not lead any more.
    GivenUp,
    TooLate(CarryEnd),
    /// The session ends for another reason.
    Interrupted(End),
}

/// What was looked at last.
#[derive(Clone, Copy)]
struct Seen {
    generation: u64,
    is_parked: bool,
}

/// A session between two servers.
struct Journey<'a> {
    context: &'a ListenerContext,
    control: &'a SessionControl,
    client: &'a ClientSide,
    limits: &'a CarryLimits,
    /// The node that it has lost.
    left: NodeId,
    state: &'a SessionState,
    opening: &'a Opening,
    credential: Credential,
}

impl Journey<'_> {
    /// Until it has arrived at a leader, or its end.
    async fn run(&self) -> Result<(NodeId, Arrival), End> {
        let mut interrupted = pin!(self.interrupted());
        let mut carry = Carry::new(self.limits.max);
        let mut early = EarlyLogins::default();
        let mut newest_failure = None;
        loop {
            let (seen, step) = self.look(&mut carry);
            let node = match step {
                CarryStep::Wait(until) => {
                    if let Some(node) = self.successor(early.node()) {
                        early.aim_at(node, || Box::pin(self.log_in_early(node)));
                    }
                    tokio::select! {
                        () = self.changed(seen, until) => {}
                        end = &mut interrupted => return Err(end),
                        never = early.go_on() => match never {},
                    }
                    continue;
                }
                CarryStep::End(end) => return Err(self.end(end, newest_failure)),
                CarryStep::GoOn(_) => return Err(End::Lost), // it goes on after an attempt only
                CarryStep::Attempt(node, _) => node,
            };
            let attempt = self.attempt(node, early.take(node), &mut carry, interrupted.as_mut());
            let outcome = match attempt.await {
                Attempt::Over(outcome) => outcome,
                Attempt::GivenUp => continue,
                Attempt::TooLate(end) => return Err(self.end(end, newest_failure)),
                Attempt::Interrupted(end) => return Err(end),
            };
            let attempted = match &outcome {
                Ok(_) => Attempted::Same,
                Err(NotArrived { may_pass: true, .. }) => Attempted::Again,
                Err(NotArrived { may_pass: false, .. }) => Attempted::Never,
            };
            match (carry.attempted(attempted, self.context.cluster.now()), outcome) {
                (Some(CarryStep::GoOn(node)), Ok(arrival)) => return Ok((node, arrival)),
                (Some(CarryStep::End(end)), Err(failure)) => return Err(self.end(end, Some(failure))),
                (_, Err(failure)) => {
                    debug!(listener = %self.context.settings.name, reason = failure.why, "not carried yet");
                    newest_failure = Some(failure);
                }
                (_, Ok(_)) => return Err(End::Lost), // an attempt that succeeds is always taken
            }
        }
    }

    fn look(&self, carry: &mut Carry) -> (Seen, CarryStep) {
        let is_parked = self.parking().is_on();
        let park = match self.control.park() {
            SessionPark::NoLeader => ParkView::Failed,
            _ if is_parked => ParkView::On,
            _ => ParkView::Off,
        };
        let topology = self.context.cluster.topology_full();
        let step = carry.look(park, topology.leader(), self.context.cluster.now());
        (Seen { generation: topology.generation, is_parked }, step)
    }

    fn parking(&self) -> &ClusterParking {
        self.context.registry.parking(self.context.settings.cluster)
    }

    /// Waits until there may be something new to look at, or until this time.
    async fn changed(&self, seen: Seen, until: Option<Moment>) {
        let due = async {
            match until {
                Some(until) => tokio::time::sleep(until - self.context.cluster.now()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.context.cluster.newer_than(seen.generation) => {}
            () = self.parking().changes_from(seen.is_parked) => {}
            () = due => {}
        }
    }

    /// Tries it at this node, as long as it leads.
    async fn attempt(
        &self,
        node: NodeId,
        early: Option<Progress<'_>>,
        carry: &mut Carry,
        mut interrupted: Pin<&mut impl Future<Output = End>>,
    ) -> Attempt {
        let mut arrival = pin!(self.arrival_at(node, early));
        loop {
            let (seen, step) = self.look(carry);
            let until = match step {
                CarryStep::Attempt(still, until) if still == node => until,
                CarryStep::End(end) => return Attempt::TooLate(end),
                CarryStep::Attempt(..) | CarryStep::Wait(_) | CarryStep::GoOn(_) => return Attempt::GivenUp,
            };
            tokio::select! {
                outcome = &mut arrival => return Attempt::Over(outcome),
                () = self.changed(seen, until) => {}
                end = &mut interrupted => return Attempt::Interrupted(end),
            }
        }
    }

    /// The node that will probably lead: the one that it was before, `guess`, unless it cannot be any more. `None` while
    /// another node leads than the one that was left.
    fn successor(&self, guess: Option<NodeId>) -> Option<NodeId> {
        let topology = self.context.cluster.topology_full();
        let may_change = topology.leader().is_none_or(|leader| leader == self.left);
        if may_change { successor(&topology, self.left, guess) } else { None }
    }

    async fn log_in_early(&self, node: NodeId) -> Result<Early, NotArrived> {
        let _turn = self.turn().await;
        let preamble = self.preamble();
        self.login(&preamble).early_at(node).await
    }

    /// Completes a login that was made in advance. Without one, or if that fails: waits for its turn, and logs in and
    /// restores the state.
    async fn arrival_at(&self, node: NodeId, early: Option<Progress<'_>>) -> Result<Arrival, NotArrived> {
        let preamble = self.preamble();
        let login = self.login(&preamble);
        if let Some(early) = early {
            let completed = async { login.completed(early.finish().await?).await };
            match Box::pin(completed).await {
                Ok(arrival) => return Ok(arrival),
                Err(failure) => debug!(reason = failure.why, "the login in advance was in vain"),
            }
        }
        let _turn = self.turn().await;
        // boxed: many sessions wait for their turn, and few have it
        Box::pin(login.at(node)).await
    }

    async fn turn(&self) -> Turn<'_> {
        let (pace, rate) = (&self.parking().pace, self.limits.rate);
        // those that listen come first too: others may notify them as soon as they go on
        let is_urgent = !self.client.for_server.is_empty() || self.state.restorable().channels > 0;
        match is_urgent {
            true => pace.urgent_turn(rate).await,
            false => tokio::select! {
                turn = pace.idle_turn(rate) => turn,
                turn = async {
                    self.has_sent_more().await;
                    pace.urgent_turn(rate).await
                } => turn,
            },
        }
    }

    fn login<'l>(&'l self, preamble: &'l [u8]) -> CarriedLogin<'l> {
        CarriedLogin {
            context: self.context,
            packet: &self.opening.packet,
            credential: self.credential.clone(),
            preamble,
            state: self.state,
            custom_settings: &self.limits.custom_settings,
        }
    }

    fn preamble(&self) -> Vec<u8> {
        match self.context.sends_proxy_header {
            true => self.client_address().header(self.client.stream.socket()),
            false => Vec::new(),
        }
    }

    fn client_address(&self) -> ClientAddress {
        ClientAddress::of(self.control.owner().map_or(crate::net::Peer::Unix, Owner::client))
    }

    /// Waits until the client has sent something that pgvane has not read.
    async fn has_sent_more(&self) {
        if !matches!(self.client.stream.socket().peek(&mut [0]).await, Ok(1..)) {
            std::future::pending::<()>().await; // it has closed, which is another end
        }
    }

    /// Waits until the client has closed, or until it has to end for another reason than its server.
    async fn interrupted(&self) -> End {
        tokio::select! {
            () = self.client.stream.socket().closed() => End::ClientClosed,
            end = self.ordered() => end,
        }
    }

    /// Waits for an order to end. To leave its node is what it does anyway.
    async fn ordered(&self) -> End {
        let mut last_order = None;
        loop {
            last_order = poll_fn(|cx| self.control.poll_order(cx, last_order)).await;
            match last_order {
                Some(SessionOrder::Close) => return End::ClosedByOperator,
                Some(SessionOrder::ListenerRemoved) => return End::ListenerRemoved,
                Some(SessionOrder::Stop) => return End::Stopped,
                Some(SessionOrder::Cut(_) | SessionOrder::Drain(_) | SessionOrder::Move) | None => {}
            }
        }
    }

    fn end(&self, end: CarryEnd, newest_failure: Option<NotArrived>) -> End {
        match (end, newest_failure) {
            (CarryEnd::NoLeader, _) => End::Parked(ParkEnd::NoLeader),
            (CarryEnd::Impossible | CarryEnd::TooLate, Some(NotArrived { why, reason, .. })) => {
                End::NotCarried(NotCarried { reason, why })
            }
            (CarryEnd::Impossible | CarryEnd::TooLate, None) => End::NotCarried(NotCarried {
                reason: NotCarriedReason::Unreachable,
                why: "park_max is over".to_owned(),
            }),
        }
    }
}
