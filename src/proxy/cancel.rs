//! Sends a cancel request to the node that runs the query.
//!
//! The node is known if pgvane has read the session's key at login. If it could not, because client and server encrypt
//! end to end, every node with such sessions gets the request: a node ignores a key that it does not know. A request
//! that cannot belong to any session is dropped. [`cancel_limits`](super::sessions::cancel_limits) says how
//! many requests are sent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::cluster::NodeId;
use crate::cluster::ports::SessionPort;
use crate::net::Peer;
use crate::proxy::admission::connect::reach;
use crate::proxy::context::ListenerContext;
use crate::proxy::end::{CancelOutcome, End};
use crate::proxy::intake::handshake::CancelRequest;
use crate::proxy::sessions::cancel_keys::KeyLocation;
use crate::proxy::sessions::cancel_limits::Servers;

/// A cancel request that arrives later could cancel the session's next query.
const DELIVERY_MAX: Duration = Duration::from_secs(5);

/// The bytes that are sent to a server.
#[derive(Debug, Clone)]
struct Delivery {
    /// The first bytes of the connection, for example a PROXY header.
    preamble: Vec<u8>,
    /// The cancel request: as the client sent it, or with the key by which the node knows a carried session.
    packet: Vec<u8>,
}

/// Delivers this peer's cancel request within five seconds, or drops it.
pub async fn deliver(context: &ListenerContext, peer: Peer, request: CancelRequest, preamble: Vec<u8>) -> End {
    let CancelRequest { key, packet } = request;
    let request = Delivery { preamble, packet };
    let deadline = Instant::now() + DELIVERY_MAX;
    let location = context.registry.keys().look_up(&key, context.index, context.settings.cluster);
    debug!(listener = %context.settings.name, ?key, ?location, "cancel request");
    let (limits, source) = (&context.kept.cancel_limits, context.settings.client_of(peer));
    let outcome = match location {
        KeyLocation::On(node, port) => match limits.permit(&key, source, Servers::One, deadline).await {
            Some(_permit) => send_to(context, vec![node], port, request, deadline, CancelOutcome::Delivered).await,
            None => CancelOutcome::Limited,
        },
        KeyLocation::Carried(node, port, key_there) => {
            match limits.permit(&key, source, Servers::One, deadline).await {
                Some(_permit) => {
                    let request = Delivery { packet: key_there.to_cancel_request(), ..request };
                    send_to(context, vec![node], port, request, deadline, CancelOutcome::Delivered).await
                }
                None => CancelOutcome::Limited,
            }
        }
        KeyLocation::Among(nodes) => match limits.permit(&key, source, Servers::Several, deadline).await {
            Some(_permit) => {
                let port = context.settings.rule.port;
                send_to(context, nodes, port, request, deadline, CancelOutcome::FannedOut).await
            }
            None => CancelOutcome::Limited,
        },
        KeyLocation::Nowhere => CancelOutcome::NoSession,
    };
    context.metrics.cancelled(outcome);
    End::Cancel(outcome)
}

async fn send_to(
    context: &ListenerContext,
    nodes: Vec<NodeId>,
    port: SessionPort,
    request: Delivery,
    deadline: Instant,
    success: CancelOutcome,
) -> CancelOutcome {
    let mut deliveries = JoinSet::new();
    for node in nodes {
        let (cluster, member) = (context.cluster.clone(), Arc::clone(&context.cluster.topology().node(node).member));
        let (request, options, tls) = (request.clone(), context.tcp, context.encryption.to_servers());
        deliveries.spawn(async move {
            let delivered = async {
                let to = cluster.dialer().destination(&member, port, options, &request.preamble);
                let mut server = reach(&to, &tls, [DELIVERY_MAX; 2]).await.map_err(io::Error::other)?;
                server.send(&request.packet).await?;
                // the server closes after it has signalled the backend; libpq waits for that, and so does pgvane
                server.read(&mut [0; 8]).await
            };
            timeout_at(deadline, delivered).await.is_ok_and(|read| read.is_ok())
        });
    }
    if deliveries.join_all().await.contains(&true) { success } else { CancelOutcome::Failed }
}
