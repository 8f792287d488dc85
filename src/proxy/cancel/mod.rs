//! Hands a cancel request to the node that runs the query.
//!
//! The node is known if the session's key was seen at login. Where it could not be seen, because the session is
//! encrypted from end to end, every node with such sessions gets the request: a key that is not its own makes a node do
//! nothing. A request that can belong to no session goes nowhere.

use std::io;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use crate::cluster::NodeId;
use crate::net::dial::Destination;
use crate::protocol::CancelKey;
use crate::proxy::admission::connect::reach;
use crate::proxy::context::ListenerContext;
use crate::proxy::end::{CancelOutcome, End};
use crate::proxy::intake::handshake::Client;
use crate::proxy::sessions::cancel_keys::KeyLocation;

/// A cancel that arrives later than this might hit the session's next query instead.
const DELIVERY_MAX: Duration = Duration::from_secs(5);

/// Requests that one listener hands to several nodes in a second, in the long run. Anybody can make up a key that is
/// not known, and each makes every such node start a process. With those that come together and those that wait for
/// their turn, no more than 350 are under way at once.
const FAN_OUTS_PER_SECOND: u32 = 50;

/// How many of these may come together.
const FAN_OUT_BURST: u32 = 100;

/// What a node is sent.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the connection begins with.
    pub preamble: Vec<u8>,
    /// The request, as the client sent it.
    pub packet: Vec<u8>,
}

impl Request {
    /// That of a client whose opening packet is one.
    pub fn of(client: &Client, preamble: Vec<u8>) -> Request {
        Request { preamble, packet: client.opening_packet().to_vec() }
    }
}

/// Delivers a request within five seconds or not at all.
pub async fn deliver(context: &ListenerContext, key: &CancelKey, request: Request) -> End {
    let deadline = Instant::now() + DELIVERY_MAX;
    let location = context.registry.keys().look_up(key, context.index, context.settings.cluster);
    debug!(listener = %context.settings.name, ?key, ?location, "cancel request");
    let outcome = match location {
        KeyLocation::On(node) => hand_over(context, vec![node], request, deadline, CancelOutcome::Delivered).await,
        KeyLocation::Among(nodes) => match context.fan_outs.next_turn(Instant::now(), deadline) {
            Some(turn) => {
                sleep_until(turn).await;
                hand_over(context, nodes, request, deadline, CancelOutcome::FannedOut).await
            }
            None => CancelOutcome::Limited,
        },
        KeyLocation::Nowhere => CancelOutcome::NoSession,
    };
    context.metrics.cancelled(outcome);
    End::Cancel(outcome)
}

async fn hand_over(
    context: &ListenerContext,
    nodes: Vec<NodeId>,
    request: Request,
    deadline: Instant,
    success: CancelOutcome,
) -> CancelOutcome {
    let mut deliveries = JoinSet::new();
    for node in nodes {
        let address = context.cluster.topology().node(node).member.address.clone();
        let (request, options, tls) = (request.clone(), context.tcp, context.encryption.to_servers());
        deliveries.spawn(async move {
            let acted = async {
                let to = Destination { address: &address, options, preamble: &request.preamble };
                let mut server = reach(&to, &tls, [DELIVERY_MAX; 2]).await.map_err(io::Error::other)?;
                server.send(&request.packet).await?;
                // the server closes once it has signalled the process; libpq waits for that, and so do we
                server.read(&mut [0; 8]).await
            };
            timeout_at(deadline, acted).await.is_ok_and(|read| read.is_ok())
        });
    }
    if deliveries.join_all().await.contains(&true) { success } else { CancelOutcome::Failed }
}

/// Spreads requests evenly over time once a burst of them is used up.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    burst: u32,
    /// When the last turn that was given would have come had there been no burst.
    newest: Mutex<Option<Instant>>,
}

impl Default for Pace {
    /// That of requests which go to several nodes.
    fn default() -> Pace {
        Pace::new(Duration::from_secs(1) / FAN_OUTS_PER_SECOND, FAN_OUT_BURST)
    }
}

impl Pace {
    fn new(interval: Duration, burst: u32) -> Pace {
        Pace { interval, burst, newest: Mutex::new(None) }
    }

    /// When whoever asks now may go on; `None` if that is not before the deadline, and then it costs nobody else's turn.
    fn next_turn(&self, now: Instant, deadline: Instant) -> Option<Instant> {
        let mut newest = self.newest.lock();
        let even = newest.map_or(now, |newest| now.max(newest + self.interval));
        let turn = even.checked_sub(self.interval * (self.burst - 1)).map_or(now, |turn| now.max(turn));
        (turn < deadline).then(|| {
            *newest = Some(even);
            turn
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_stands_at_its_own_place() {
        for (place, outcome) in CancelOutcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, place, "{}", outcome.label());
        }
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_waits_its_turn_or_is_turned_away() {
        let second = Duration::from_secs(1);
        let pace = Pace::new(second, 3);
        let start = Instant::now() + second * 100; // an instant has no room below it for the burst otherwise
        let next = |now: Instant| pace.next_turn(now, now + second * 2);
        for _ in 0..3 {
            assert_eq!(next(start), Some(start));
        }
        assert_eq!(next(start), Some(start + second));
        assert_eq!(next(start), None, "its turn would be at the deadline");
        assert_eq!(next(start), None, "which has cost nobody else's");
        assert_eq!(next(start + second), Some(start + second * 2));
        let later = start + second * 60;
        for _ in 0..3 {
            assert_eq!(next(later), Some(later), "the burst comes back, and no more than that");
        }
        assert_eq!(next(later), Some(later + second));
    }
}
