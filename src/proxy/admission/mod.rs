//! From a client that wants a session to a session on a node: route, connect, log in; and again, or wait, while the
//! client sees nothing but a pause.

pub mod connect;
pub mod login;

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;
use tracing::debug;

use self::connect::reach;
use self::login::{Failure, Login, Ready, Verdict};
use crate::cluster::NodeId;
use crate::cluster::topology::Topology;
use crate::net::Stream;
use crate::net::dial::Destination;
use crate::proxy::context::ListenerContext;
use crate::proxy::end::End;
use crate::proxy::intake::handshake::{CancelRequest, Client};
use crate::proxy::sessions::control::SessionOrder;
use crate::proxy::sessions::registry::{Held, SessionGuard, order_for};
use crate::routing::{NoRoute, Situation, Target, route};

/// First wait before a node that has just failed is tried again, if nothing new is learnt meanwhile.
const RETRY_FIRST: Duration = Duration::from_millis(50);

/// Longest such wait.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// A session that has its place.
pub struct Admitted {
    /// The node's connection.
    pub server: Stream,
    /// Its place in the registry.
    pub guard: SessionGuard,
    /// What the login left for the relay.
    pub ready: Ready,
}

/// Why there will be no session.
pub enum Refused {
    /// The client is to be told in our words, where it can be.
    End(End),
    /// The client is given the words of the last node that refused it.
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
    /// Nodes that have failed for this client since something was last learnt.
    tried: Vec<NodeId>,
    retry_wait: Duration,
    /// When those that have failed, or were full, are tried again.
    retry_at: Option<Instant>,
    newest_failure: Option<Failure>,
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
            tried: Vec::new(),
            retry_wait: RETRY_FIRST,
            retry_at: None,
            newest_failure: None,
            held: None,
        }
    }

    /// Finds a node, within `hold_max` and the timeouts of the last attempt.
    pub async fn run(&mut self) -> Result<Admitted, Refused> {
        loop {
            let topology = self.context.cluster.topology_full();
            match self.route(&topology) {
                Ok(node) => match Box::pin(self.attempt(node, &topology)).await {
                    Ok(admitted) => {
                        self.note_success();
                        return Ok(admitted);
                    }
                    Err(Verdict::NotHere(failure)) => self.leave(node, failure),
                    Err(Verdict::Over(end)) => return Err(Refused::End(end)),
                    Err(Verdict::Cancel(request)) => return Err(Refused::IsCancel(request)),
                    Err(Verdict::Ready(_)) => return Err(Refused::End(End::Lost)),
                },
                Err(no_route) => Box::pin(self.hold(topology.generation, &no_route)).await?,
            }
        }
    }

    fn route(&self, topology: &Topology) -> Result<NodeId, NoRoute> {
        let (context, cluster) = (self.context, self.context.settings.cluster);
        let load = |node| context.registry.load(cluster, node);
        let situation = Situation { tried: &self.tried, turn: context.next_turn(), load, now: context.cluster.now() };
        route(topology, &context.settings.rule, &situation)
    }

    async fn attempt(&mut self, node: NodeId, topology: &Topology) -> Result<Admitted, Verdict> {
        let context = self.context;
        let listener = &context.settings;
        let address = &topology.node(node).member.address;
        let mut guard = context.registry.guard(context.index, listener.cluster, node);

        let tls = context.encryption.to_servers();
        let patience = [listener.connect_timeout, listener.login_timeout];
        let to = Destination { address, options: context.tcp, preamble: self.preamble };
        let mut server = tokio::select! {
            reached = reach(&to, &tls, patience) => reached.map_err(|failure| {
                let is_suspicious = failure.is_suspicious();
                Verdict::NotHere(Failure { why: failure.to_string(), server_error: None, is_suspicious })
            })?,
            () = self.client.closed() => return Err(Verdict::Over(End::ClientLeftHeld)),
        };
        // from here on orders reach the guard; one that came before it was taken is seen in the picture itself
        if let Some(SessionOrder::Cut(cause) | SessionOrder::Drain(cause)) =
            order_for(&listener.rule, &context.cluster.topology(), node)
        {
            return Err(Verdict::NotHere(Failure {
                why: format!("will not do any more: {}", cause.reason()),
                server_error: None,
                is_suspicious: false,
            }));
        }
        let cluster = &context.cluster;
        let mut login = Login { client: self.client, server: &mut server, guard: &mut guard, listener, cluster };
        match login.run().await {
            Verdict::Ready(ready) => Ok(Admitted { server, guard, ready }),
            other => Err(other),
        }
    }

    /// Leaves a node that will not do.
    fn leave(&mut self, node: NodeId, failure: Failure) {
        let name = &self.context.cluster.topology().node(node).member.name.clone();
        debug!(listener = %self.context.settings.name, node = %name, reason = failure.why, "trying elsewhere");
        self.context.metrics.retries.inc();
        if failure.is_suspicious {
            self.context.cluster.failed(node);
        }
        self.tried.push(node);
        self.newest_failure = Some(Failure { why: format!("{name} {}", failure.why), ..failure });
    }

    /// Waits until something is learnt, or it is time to try again. The error is the end of all waiting.
    async fn hold(&mut self, seen: u64, no_route: &NoRoute) -> Result<(), Refused> {
        let deadline = self.started + self.context.settings.hold_max;
        if Instant::now() >= deadline {
            return Err(self.give_up(no_route));
        }
        if self.held.is_none() {
            let most = self.context.settings.hold_sessions_max;
            let Some(held) = self.context.registry.hold(self.context.index, most) else {
                return Err(Refused::End(End::HoldFull(most)));
            };
            debug!(listener = %self.context.settings.name, reason = %no_route, "holding a connection");
            self.held = Some(held);
        }
        // each time anew: those held since the leader became doubtful were so before the loss was on record
        self.context.cluster.history().held(self.context.registry.held(self.context.index));
        let may_try_again = matches!(no_route, NoRoute::AllTried | NoRoute::AllFull);
        let retry_at = *self.retry_at.get_or_insert_with(|| Instant::now() + self.retry_wait);
        tokio::select! {
            () = self.context.cluster.newer_than(seen) => {
                if self.context.cluster.topology().leader().is_none() {
                    self.tried.clear(); // whoever leads next deserves a try
                }
            }
            () = tokio::time::sleep_until(retry_at), if may_try_again => {
                self.tried.clear();
                self.retry_at = None;
                self.retry_wait = (self.retry_wait * 2).min(RETRY_MAX);
            }
            () = tokio::time::sleep_until(deadline) => {}
            () = self.client.closed() => return Err(Refused::End(End::ClientLeftHeld)),
        }
        Ok(())
    }

    fn give_up(&mut self, no_route: &NoRoute) -> Refused {
        let failure = self.newest_failure.take();
        let end = End::no_node(no_route, failure.as_ref().map(|failure| failure.why.as_str()));
        match failure.and_then(|failure| failure.server_error) {
            Some(words) if *no_route == NoRoute::AllTried => Refused::ByServer(words, end),
            _ => Refused::End(end),
        }
    }

    fn note_success(&self) {
        if self.context.settings.rule.target == Target::Leader {
            self.context.cluster.history().session_ready();
        }
        if self.held.is_some() {
            self.context.metrics.hold.observe(self.started.elapsed().as_secs_f64());
        }
    }
}
