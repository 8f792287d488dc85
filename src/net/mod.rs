//! Connections for the rest of pgvane: a [`Socket`] is TCP or Unix, a [`Stream`] is a plaintext socket or one with TLS.

mod bind;
pub mod descriptors;
pub mod dial;
mod encrypted;
pub mod listen;
pub(crate) mod networks;
pub mod packets;
mod peer;
pub mod resolver;
mod socket;
mod stream;
pub mod tcp_info;
mod tls_socket;
pub mod unix_listener;

pub use bind::{Bind, Binds, UnixBind};
pub use encrypted::Encrypted;
pub use networks::Networks;
pub use peer::{Ipv6Prefix, Peer};
pub use resolver::Resolver;
pub use socket::{Incoming, Socket};
pub use stream::{IncomingStream, Stream};
pub use tls_socket::TlsSocket;
