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
use crate::proxy::context::Desk;
use crate::proxy::end::End;
use crate::proxy::intake::handshake::Client;
use crate::proxy::sessions::control::Order;
use crate::proxy::sessions::registry::{Held, Seat, order_for};
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
    pub seat: Seat,
    /// What the login left for the relay.
    pub ready: Ready,
}

/// Why there will be no session.
pub enum Refused {
    /// The client is to be told in our words, where it can be.
    End(End),
    /// The client is given the words of the last node that refused it.
    InNodesWords(BytesMut, End),
    /// The client wanted no session after all, but a query cancelled.
    WasCancel,
}

/// One client on its way to a node.
pub struct Admission<'a> {
    desk: &'a Desk,
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
    pub fn new(desk: &'a Desk, client: &'a mut Client, preamble: &'a [u8]) -> Admission<'a> {
        Admission {
            desk,
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
            let topology = self.desk.cluster.topology_full();
            match self.route(&topology) {
                Ok(node) => match Box::pin(self.attempt(node, &topology)).await {
                    Ok(admitted) => {
                        self.note_success();
                        return Ok(admitted);
                    }
                    Err(Verdict::NotHere(failure)) => self.leave(node, failure),
                    Err(Verdict::Over(end)) => return Err(Refused::End(end)),
                    Err(Verdict::Cancel | Verdict::Ready(_)) => return Err(Refused::WasCancel),
                },
                Err(no_route) => Box::pin(self.hold(topology.generation, &no_route)).await?,
            }
        }
    }

    fn route(&self, topology: &Topology) -> Result<NodeId, NoRoute> {
        let (desk, cluster) = (self.desk, self.desk.settings.cluster);
        let load = |node| desk.registry.load(cluster, node);
        let situation = Situation { tried: &self.tried, turn: desk.next_turn(), load, now: desk.cluster.now() };
        route(topology, &desk.settings.rule, &situation)
    }

    async fn attempt(&mut self, node: NodeId, topology: &Topology) -> Result<Admitted, Verdict> {
        let desk = self.desk;
        let listener = &desk.settings;
        let address = &topology.node(node).member.address;
        let mut seat = desk.registry.seat(desk.index, listener.cluster, node);

        let tls = desk.encryption.to_servers();
        let patience = [listener.connect_timeout, listener.login_timeout];
        let to = Destination { address, options: desk.tcp, preamble: self.preamble };
        let mut server = tokio::select! {
            reached = reach(&to, &tls, patience) => reached.map_err(|failure| {
                let is_suspicious = failure.is_suspicious();
                Verdict::NotHere(Failure { why: failure.to_string(), own_words: None, is_suspicious })
            })?,
            () = self.client.hangs_up() => return Err(Verdict::Over(End::ClientLeftHeld)),
        };
        // from here on orders reach the seat; one that came before it was taken is seen in the picture itself
        if let Some(Order::Cut(cause) | Order::Drain(cause)) = order_for(&listener.rule, &desk.cluster.topology(), node)
        {
            return Err(Verdict::NotHere(Failure {
                why: format!("will not do any more: {}", cause.reason()),
                own_words: None,
                is_suspicious: false,
            }));
        }
        let cluster = &desk.cluster;
        let mut login = Login { client: self.client, server: &mut server, seat: &mut seat, listener, cluster };
        match login.run().await {
            Verdict::Ready(ready) => Ok(Admitted { server, seat, ready }),
            other => Err(other),
        }
    }

    /// Leaves a node that will not do.
    fn leave(&mut self, node: NodeId, failure: Failure) {
        let name = &self.desk.cluster.topology().node(node).member.name.clone();
        debug!(listener = %self.desk.settings.name, node = %name, reason = failure.why, "trying elsewhere");
        self.desk.metrics.retries.inc();
        if failure.is_suspicious {
            self.desk.cluster.failed(node);
        }
        self.tried.push(node);
        self.newest_failure = Some(Failure { why: format!("{name} {}", failure.why), ..failure });
    }

    /// Waits until something is learnt, or it is time to try again. The error is the end of all waiting.
    async fn hold(&mut self, seen: u64, no_route: &NoRoute) -> Result<(), Refused> {
        let deadline = self.started + self.desk.settings.hold_max;
        if Instant::now() >= deadline {
            return Err(self.give_up(no_route));
        }
        if self.held.is_none() {
            let most = self.desk.settings.hold_sessions_max;
            let Some(held) = self.desk.registry.hold(self.desk.index, most) else {
                return Err(Refused::End(End::HoldFull));
            };
            debug!(listener = %self.desk.settings.name, reason = %no_route, "holding a connection");
            self.held = Some(held);
        }
        // each time anew: those held since the leader became doubtful were so before the loss was on record
        self.desk.cluster.history().held(self.desk.registry.held(self.desk.index));
        let may_try_again = matches!(no_route, NoRoute::AllTried | NoRoute::AllFull);
        let retry_at = *self.retry_at.get_or_insert_with(|| Instant::now() + self.retry_wait);
        tokio::select! {
            () = self.desk.cluster.newer_than(seen) => {
                if self.desk.cluster.topology().leader().is_none() {
                    self.tried.clear(); // whoever leads next deserves a try
                }
            }
            () = tokio::time::sleep_until(retry_at), if may_try_again => {
                self.tried.clear();
                self.retry_at = None;
                self.retry_wait = (self.retry_wait * 2).min(RETRY_MAX);
            }
            () = tokio::time::sleep_until(deadline) => {}
            () = self.client.hangs_up() => return Err(Refused::End(End::ClientLeftHeld)),
        }
        Ok(())
    }

    fn give_up(&mut self, no_route: &NoRoute) -> Refused {
        let failure = self.newest_failure.take();
        let end = End::no_node(no_route, failure.as_ref().map(|failure| failure.why.as_str()));
        match failure.and_then(|failure| failure.own_words) {
            Some(words) if *no_route == NoRoute::AllTried => Refused::InNodesWords(words, end),
            _ => Refused::End(end),
        }
    }

    fn note_success(&self) {
        if self.desk.settings.rule.target == Target::Leader {
            self.desk.cluster.history().session_ready();
        }
        if self.held.is_some() {
            self.desk.metrics.hold.observe(self.started.elapsed().as_secs_f64());
        }
    }
}
