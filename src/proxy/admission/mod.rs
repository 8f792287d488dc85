//! From a client that wants a session to a session on a node: route, connect, log in. If that fails, it is tried again or
//! at another node, or the client waits: it notices nothing but a pause.

pub mod carried;
pub mod connect;
pub mod failure;
pub mod login;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;
use tracing::debug;

use self::connect::reach;
use self::failure::{NodeFailure, Reachability};
use self::login::{Login, LoginOutcome, Ready};
use crate::cluster::topology::{NodeView, Topology};
use crate::cluster::{Moment, NodeId, Suspicion};
use crate::net::Stream;
use crate::protocol::startup::StartupParameters;
use crate::proxy::context::ListenerContext;
use crate::proxy::end::End;
use crate::proxy::intake::handshake::{CancelRequest, Client, SessionOpening};
use crate::proxy::intake::tls_answers::ANSWER_AFTER;
use crate::proxy::sessions::cluster_parking::{ClusterParking, is_parkable};
use crate::proxy::sessions::control::SessionOrder;
use crate::proxy::sessions::guard::{Held, SessionGuard};
use crate::proxy::sessions::orders::order_for;
use crate::proxy::sessions::owner::Owner;
use crate::routing::{NoRoute, Situation, Target, route};

/// How long a node may take for its first answer where another can be tried instead: PostgreSQL needs a few milliseconds.
const ANSWER_TIMEOUT_WITH_ALTERNATIVES: Duration = Duration::from_secs(2);

/// First wait before a node that has just failed is tried again, if the topology does not change meanwhile.
const RETRY_FIRST: Duration = Duration::from_millis(50);

/// Longest such wait.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// A session that has its node.
pub struct Admitted {
    /// The node's connection.
    pub server: Stream,
    /// Its registration on the node.
    pub guard: SessionGuard,
    /// What the login left for the relay.
    pub ready: Ready,
}

/// Why there will be no session.
pub enum Refused {
    /// The client gets pgvane's own error message, where it can get one.
    End(End),
    /// The client gets the error message of the last node that refused it.
    ByServer(BytesMut, End),
    /// The client sent a cancel request after its request for encryption was refused.
    IsCancel(CancelRequest),
}

/// One client on its way to a node.
pub struct Admission<'a> {
    context: &'a ListenerContext,
    client: &'a mut Client,
    /// What every connection to a node begins with.
    preamble: &'a [u8],
    started: Instant,
    /// The same on the clock of the checks.
    arrived_at: Moment,
    /// Nodes that have failed for this client since the topology last changed.
    tried: Vec<NodeId>,
    retry_wait: Duration,
    /// When those that have failed, or were full, are tried again.
    retry_at: Option<Instant>,
    newest_failure: Option<NodeFailure>,
    /// One of those that have failed may work a moment later.
    may_try_again: bool,
    held: Option<Held>,
}

impl<'a> Admission<'a> {
    /// Begins; the time for which the client may be held counts from here.
    pub fn new(context: &'a ListenerContext, client: &'a mut Client, preamble: &'a [u8]) -> Admission<'a> {
        Admission {
            context,
            client,
            preamble,
            started: Instant::now(),
            arrived_at: context.cluster.now(),
            tried: Vec::new(),
            retry_wait: RETRY_FIRST,
            retry_at: None,
            newest_failure: None,
            may_try_again: false,
            held: None,
        }
    }

    /// Finds a node, within `hold_max` and the timeouts of the last attempt.
    pub async fn run(&mut self) -> Result<Admitted, Refused> {
        loop {
            if self.tls_answer_due().is_some_and(|due| Instant::now() >= due) {
                Box::pin(self.answer_tls_request()).await?;
            }
            let topology = self.context.cluster.topology_full();
            match self.route(&topology) {
                Ok(node) => match Box::pin(self.attempt(node, &topology)).await {
                    Ok(admitted) => {
                        self.note_success(node, &topology);
                        return Ok(admitted);
                    }
                    Err(LoginOutcome::TryElsewhere(failure)) => self.leave(node, failure),
                    Err(LoginOutcome::End(end)) => return Err(Refused::End(end)),
                    Err(LoginOutcome::Cancel(request)) => return Err(Refused::IsCancel(request)),
                    Err(LoginOutcome::Ready(_)) => return Err(Refused::End(End::Lost)),
                },
                Err(no_route) => Box::pin(self.hold(topology.generation, &no_route)).await?,
            }
        }
    }

    /// When the client is to be told what the nodes answer to its request for TLS; `None` if it is not.
    fn tls_answer_due(&self) -> Option<Instant> {
        let answer = self.context.kept.tls_answers.usual()?;
        // what is encrypted to the node hides the names
        let is_allowed = answer == b'N' || !self.context.settings.access.restricts_names();
        (is_allowed && self.client.awaits_tls_answer()).then(|| self.started + ANSWER_AFTER)
    }

    async fn answer_tls_request(&mut self) -> Result<(), Refused> {
        let Some(answer) = self.context.kept.tls_answers.usual() else { return Ok(()) };
        let settings = &self.context.settings;
        debug!(listener = %settings.name, answer = %char::from(answer), "answering a request for TLS before a node does");
        match self.client.answer_in_advance(answer, settings.startup_timeout).await {
            Ok(Some(request)) => return Err(Refused::IsCancel(request)),
            // it was refused TLS and uses it nevertheless
            Ok(None) if *self.client.opening() == SessionOpening::DirectTls => {
                return Err(Refused::End(End::ClientLeftEarly));
            }
            Ok(None) => {}
            Err(end) => return Err(Refused::End(end)),
        }
        self.client.check_access(settings).map_err(Refused::End)
    }

    fn route(&self, topology: &Topology) -> Result<NodeId, NoRoute> {
        let (context, cluster) = (self.context, self.context.settings.cluster);
        if let Some(why) = self.parking().and_then(ClusterParking::why_parked) {
            return Err(NoRoute::Parked(why));
        }
        let load = |node| context.registry.load(cluster, node);
        let situation = Situation {
            tried: &self.tried,
            turn: context.next_turn(),
            load,
            now: context.cluster.now(),
            arrived_at: self.arrived_at,
            monitored_at: context.cluster.monitored_at(),
        };
        route(topology, &context.settings.rule, &situation)
    }

    /// The park that concerns this client, if it is one of a write listener.
    fn parking(&self) -> Option<&'a ClusterParking> {
        let settings = &self.context.settings;
        is_parkable(&settings.rule).then(|| self.context.registry.parking(settings.cluster))
    }

    async fn attempt(&mut self, node: NodeId, topology: &Topology) -> Result<Admitted, LoginOutcome> {
        let context = self.context;
        let listener = &context.settings;
        let member = &topology.node(node).member;
        context.registry.servers(context.index).is_node(node, &member.name);
        let mut guard = context.registry.guard(&context.origin, node);

        let tls = context.encryption.to_servers();
        let begun = Instant::now();
        let patience = [listener.connect_timeout, listener.login_timeout];
        let to = context.cluster.dialer().destination(member, listener.rule.port, context.tcp, self.preamble);
        let mut server = tokio::select! {
            reached = reach(&to, &tls, patience) => reached.map_err(|failure| {
                let suspicion = failure.is_passing().then_some(Suspicion::ConnectFailed);
                let reachability =
                    if failure.is_passing() { Reachability::Failing } else { Reachability::Misconfigured };
                let failure = NodeFailure::new(failure.to_string(), suspicion);
                LoginOutcome::TryElsewhere(NodeFailure { reachability, ..failure })
            })?,
            () = self.client.closed() => return Err(LoginOutcome::End(End::ClientLeftHeld)),
        };
        let counts = context.registry.servers(context.index);
        counts.connected(node, begun - self.started, begun.elapsed());
        // from here on orders reach the guard; one that came before it was taken is seen in the topology itself
        if let Some(SessionOrder::Cut(cause) | SessionOrder::Drain(cause)) =
            order_for(&listener.rule, &listener.rule.reactions, &context.cluster.topology(), node)
        {
            return Err(NodeFailure::no_longer_eligible(cause).into());
        }
        let cluster = &context.cluster;
        let (metrics, answer_timeout) = (&context.metrics, self.answer_timeout(topology));
        let (client, server_stream, guard_ref) = (&mut *self.client, &mut server, &mut guard);
        let tls_answers = &context.kept.tls_answers;
        let mut login = Login {
            client,
            server: server_stream,
            guard: guard_ref,
            listener,
            cluster,
            metrics,
            tls_answers,
            answer_timeout,
        };
        // boxed, so that neither this future nor the login is larger than a kilobyte: see `session::begin`
        match Box::pin(login.run()).await {
            LoginOutcome::Ready(ready) => Ok(Admitted { server, guard, ready }),
            other => Err(other),
        }
    }

    /// How long a node may take for its first answer: less where another can be tried instead.
    fn answer_timeout(&self, topology: &Topology) -> Duration {
        let listener = &self.context.settings;
        let fails = |node: &NodeView| node.ports.fails_clients(listener.rule.port);
        let untried = topology.members().filter(|(id, node)| !self.tried.contains(id) && !fails(node)).count();
        match listener.rule.has_alternatives() && untried > 1 {
            true => listener.login_timeout.min(ANSWER_TIMEOUT_WITH_ALTERNATIVES),
            false => listener.login_timeout,
        }
    }

    /// Gives up a node that cannot take the session.
    fn leave(&mut self, node: NodeId, failure: NodeFailure) {
        let member = Arc::clone(&self.context.cluster.topology().node(node).member);
        let name = &member.name;
        debug!(listener = %self.context.settings.name, node = %name, reason = failure.why, "trying elsewhere");
        self.context.metrics.retries.inc();
        self.context.registry.servers(self.context.index).failed(node);
        if failure.reachability != Reachability::Reachable {
            self.context.cluster.sessions().failed(node);
            let listener = &self.context.settings;
            let suspicion = failure.suspicion.map(|suspicion| listener.suspicion(suspicion, &member));
            self.context.cluster.failed(node, listener.rule.port, &failure.why, suspicion);
        }
        self.may_try_again |= failure.reachability != Reachability::Misconfigured;
        self.tried.push(node);
        self.newest_failure = Some(NodeFailure { why: format!("{name} {}", failure.why), ..failure });
    }

    /// Waits until the topology changes, or until it is time to try again. The error ends the waiting.
    async fn hold(&mut self, seen: u64, no_route: &NoRoute) -> Result<(), Refused> {
        let deadline = self.started + self.context.settings.hold_max;
        let is_hopeless = *no_route == NoRoute::AllTried && !self.may_try_again;
        if is_hopeless || Instant::now() >= deadline {
            return Err(self.give_up(no_route));
        }
        if self.held.is_none() {
            let most = self.context.settings.hold_sessions_max;
            let Some(held) = self.context.registry.hold(&self.context.origin, most, self.owner()) else {
                let are_nodes_full = *no_route == NoRoute::AllFull;
                return Err(Refused::End(End::HoldFull { max: most, are_nodes_full }));
            };
            debug!(listener = %self.context.settings.name, reason = %no_route, "holding a connection");
            self.held = Some(held);
        }
        self.held.iter().for_each(|held| held.set_reason(no_route.to_string()));
        // again each time: connections that are held since the leader became doubtful were held before the loss was recorded
        self.context.cluster.history().held(self.context.registry.held(self.context.index));
        let may_try_again = matches!(no_route, NoRoute::AllTried | NoRoute::AllFull);
        let tls_answer_due = self.tls_answer_due();
        let retry_at = *self.retry_at.get_or_insert_with(|| Instant::now() + self.retry_wait);
        tokio::select! {
            () = self.context.cluster.newer_than(seen) => {
                if self.context.cluster.topology().leader().is_none() {
                    self.tried.clear(); // the next leader is tried
                }
            }
            () = park_over(self.parking()), if matches!(no_route, NoRoute::Parked(_)) => {}
            () = tokio::time::sleep_until(retry_at), if may_try_again => {
                self.tried.clear();
                self.retry_at = None;
                self.retry_wait = (self.retry_wait * 2).min(RETRY_MAX);
            }
            // one session ends, and one connection is woken; if that does not help it, it tries again at `retry_at`
            () = self.context.cluster.sessions().session_ended(), if *no_route == NoRoute::AllFull => {}
            () = tokio::time::sleep_until(tls_answer_due.unwrap_or(deadline)), if tls_answer_due.is_some() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = self.client.closed() => return Err(Refused::End(End::ClientLeftHeld)),
        }
        Ok(())
    }

    /// Whose connection it is; without names where encryption hides them.
    fn owner(&self) -> Owner {
        match self.client.opening() {
            SessionOpening::Startup(parameters) => Owner::new(self.client.peer(), parameters),
            _ => Owner::new(self.client.peer(), &StartupParameters::default()),
        }
    }

    fn give_up(&mut self, no_route: &NoRoute) -> Refused {
        let failure = self.newest_failure.take();
        let end = End::no_node(no_route, failure.as_ref().map(|failure| failure.why.as_str()));
        match failure.and_then(|failure| failure.server_error) {
            Some(message) if *no_route == NoRoute::AllTried => Refused::ByServer(message, end),
            _ => Refused::End(end),
        }
    }

    fn note_success(&self, node: NodeId, topology: &Topology) {
        self.context.cluster.sessions().established(node);
        let port = self.context.settings.rule.port;
        if topology.node(node).ports.failure(port).is_some() {
            self.context.cluster.served(node, port);
        }
        if self.context.settings.rule.target == Target::Leader {
            self.context.cluster.history().session_ready();
        }
        if self.held.is_some() {
            self.context.metrics.hold.observe(self.started.elapsed().as_secs_f64());
        }
    }
}

/// Waits until there is no park.
async fn park_over(parking: Option<&ClusterParking>) {
    if let Some(parking) = parking {
        parking.over().await;
    }
}
