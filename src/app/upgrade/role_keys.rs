//! The keys by which sessions log in again at another server go along when another process takes over: without them, the
//! sessions of a role could not be carried until its next login, and a pool may not log in for hours.
//!
//! They are as good as passwords. They go by the socket that only the two processes have, one in a packet, behind the
//! message, and each copy of them is overwritten as soon as it has been used.

use std::io;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::message::{Message, encode};
use crate::app::parts::Parts;
use crate::net::packets::PacketSocket;
use crate::protocol::scram::RoleKey;
use crate::proxy::context::ListenerContext;

/// The first format in which they go along.
const FORMAT: u32 = 3;

/// Sends the keys that this process knows, if the other one understands that. Errors: it has ended.
pub(super) async fn send_role_keys(connection: &PacketSocket, format: Option<u32>, parts: &Parts) -> io::Result<()> {
    if format.is_none_or(|format| format < FORMAT) {
        return Ok(());
    }
    for (cluster, role, key) in parts.role_keys() {
        let secret = key.to_secret();
        let packet = Zeroizing::new(encode(&Message::RoleKey { cluster, role }, &[secret.as_bytes()])?);
        connection.send(&packet, &[]).await?;
    }
    Ok(())
}

/// Takes over the key of a role. One of a cluster whose sessions are not
/// carried here is dropped.
pub(super) fn take_role_key(contexts: &[Arc<ListenerContext>], cluster: &str, role: &str, secret: &[u8]) {
    let key = std::str::from_utf8(secret).ok().and_then(RoleKey::from_secret);
    let context = contexts.iter().find(|context| context.cluster.name() == cluster);
    if let (Some(context), Some(key)) = (context, key) {
        context.registry.carrying(context.settings.cluster).take_over_key(role, key);
    }
}
