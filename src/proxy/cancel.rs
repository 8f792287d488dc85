//! Hands a cancel request to the node that runs the query.
//!
//! The node is known if the session's key was seen at login. Where it could not be seen, because the session is
//! encrypted from end to end, every node that the listener may lead to gets the request: a key that is not its own
//! makes a node do nothing.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::connect::reach;
use super::desk::Desk;
use super::end::End;
use crate::cluster::NodeId;
use crate::protocol::CancelKey;
use crate::routing::Target;

/// A cancel that arrives later than this might hit the session's next query instead.
const DELIVERY_MAX: Duration = Duration::from_secs(5);

/// Delivers `packet`, the client's request as it sent it.
pub async fn deliver(desk: &Desk, key: &CancelKey, packet: &[u8]) -> End {
    let Ok(_permit) = desk.cancels.try_acquire() else {
        desk.metrics.cancels_failed.inc();
        return End::CancelFailed;
    };
    let nodes = match desk.registry.whose_key(key) {
        Some((cluster, node)) if cluster == desk.settings.cluster => vec![node],
        _ => candidates(desk),
    };
    debug!(listener = %desk.settings.name, ?key, nodes = nodes.len(), "cancel request");
    let deadline = Instant::now() + DELIVERY_MAX;
    let mut deliveries = JoinSet::new();
    for node in nodes {
        let address = desk.cluster.topology().node(node).member.address.clone();
        let (packet, tcp, tls) = (packet.to_vec(), desk.tcp, desk.encryption.to_servers());
        deliveries.spawn(async move {
            let acted = async {
                let reached = reach(&address, tcp, &tls, DELIVERY_MAX, DELIVERY_MAX).await;
                let mut server = reached.map_err(io::Error::other)?;
                server.send(&packet).await?;
                // the server closes once it has signalled the process; libpq waits for that, and so do we
                server.read(&mut [0; 8]).await
            };
            timeout_at(deadline, acted).await.is_ok_and(|read| read.is_ok())
        });
    }
    let is_delivered = deliveries.join_all().await.into_iter().any(|acted| acted);
    if is_delivered {
        desk.metrics.cancels_delivered.inc();
        End::CancelDelivered
    } else {
        desk.metrics.cancels_failed.inc();
        End::CancelFailed
    }
}

/// The nodes on which a session of this listener may be.
fn candidates(desk: &Desk) -> Vec<NodeId> {
    let topology = desk.cluster.topology();
    match desk.settings.rule.target {
        Target::Leader => topology.leader().into_iter().collect(),
        _ => topology.members().map(|(id, _)| id).collect(),
    }
}
