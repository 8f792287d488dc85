//! A client's address: that of the connection, or the one that a trusted proxy sends in a PROXY header.

use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::config::ProxyProtocol;
use crate::net::{Peer, Socket};
use crate::protocol::proxy_header::{self, Beginning, Ends};
use crate::proxy::end::{End, ProxyFault};

/// How many bytes are peeked at a time. Most headers are shorter.
const PEEK_LENGTH: usize = 256;

/// A client's address, and the address that it connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress {
    /// The client.
    pub peer: Peer,
    /// The proxy's address that the client connected to; `None` without a PROXY header.
    destination: Option<SocketAddr>,
}

impl ClientAddress {
    /// The address of a connection without a PROXY header.
    pub fn of(peer: Peer) -> ClientAddress {
        ClientAddress { peer, destination: None }
    }

    /// Reads the header of a connection from `proxy`, if that address is trusted. The bytes after the header stay unread.
    ///
    /// Errors: a required header is missing, it is malformed, or it does not arrive before `deadline`. If there is no
    /// header, no bytes have been read.
    pub async fn read(
        socket: &mut Socket,
        proxy: Peer,
        settings: &ProxyProtocol,
        deadline: Instant,
    ) -> Result<ClientAddress, End> {
        if !settings.trusted.contain(proxy) {
            return Ok(ClientAddress::of(proxy));
        }
        let header = timeout_at(deadline, header(socket)).await.unwrap_or(Err(End::StartupTimedOut))?;
        match header {
            Header::Absent if settings.is_required => Err(End::ProxyHeader(ProxyFault::NoHeader(proxy.host()))),
            Header::Absent | Header::Of(None) => Ok(ClientAddress::of(proxy)),
            Header::Of(Some(Ends { source, destination })) => {
                let address = ClientAddress { peer: source.into(), destination: Some(destination) };
                debug!(%proxy, peer = %address.peer, "PROXY header received");
                Ok(address)
            }
        }
    }

    /// The PROXY header that tells a node the client's address; `socket` is the connection to the client.
    pub fn header(&self, socket: &Socket) -> Vec<u8> {
        let destination = self.destination.or_else(|| socket.local_address());
        proxy_header::encode(
            self.peer.socket_address().zip(destination).map(|(source, destination)| Ends { source, destination }),
        )
    }
}

enum Header {
    Absent,
    Of(Option<Ends>),
}

/// Peeks before it reads: the bytes after the header belong to the session.
async fn header(socket: &mut Socket) -> Result<Header, End> {
    let mut seen = BytesMut::new();
    loop {
        let taken = seen.len();
        seen.resize(taken + PEEK_LENGTH, 0);
        let more = socket.peek(&mut seen[taken..]).await.map_err(End::early)?;
        if more == 0 {
            return Err(End::ClientLeftEarly);
        }
        seen.truncate(taken + more);
        let read = proxy_header::read(&seen).map_err(|why| End::ProxyHeader(ProxyFault::Malformed(why)))?;
        let (end, header) = match read {
            Beginning::Other if taken == 0 => return Ok(Header::Absent),
            Beginning::Other => return Err(End::ProxyHeader(ProxyFault::Malformed(proxy_header::Malformed::Invalid))),
            Beginning::Incomplete => (seen.len(), None),
            Beginning::Header { ends, length } => (length, Some(Header::Of(ends))),
        };
        socket.read_exact(&mut seen[taken..end]).await.map_err(End::early)?;
        if let Some(header) = header {
            return Ok(header);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;
    use crate::net::Networks;
    use crate::protocol::message::SSL_REQUEST;

    const PROXY: Peer = Peer::Unix;

    fn settings(trusted: &[&str], is_required: bool) -> ProxyProtocol {
        let trusted: Vec<String> = trusted.iter().map(|text| (*text).to_owned()).collect();
        ProxyProtocol { trusted: Networks::parse(&trusted).expect("are networks"), is_required }
    }

    /// The result for a connection that sends these portions one after the other, and the bytes that stay unread.
    async fn address_of(settings: &ProxyProtocol, portions: &[&[u8]]) -> (Result<ClientAddress, End>, Vec<u8>) {
        let (mut far, near) = UnixStream::pair().expect("sockets");
        let mut near = Socket::from(near);
        let portions: Vec<Vec<u8>> = portions.iter().map(|portion| portion.to_vec()).collect();
        let said = async move {
            for portion in portions {
                if far.write_all(&portion).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let read = async {
            let deadline = Instant::now() + Duration::from_secs(10);
            let address = ClientAddress::read(&mut near, PROXY, settings, deadline).await;
            let mut left = Vec::new();
            near.read_to_end(&mut left).await.expect("is read");
            (address, left)
        };
        tokio::join!(said, read).1
    }

    fn client() -> SocketAddr {
        "192.0.2.7:12345".parse().expect("an address")
    }

    fn header() -> Vec<u8> {
        let destination = "10.0.0.1:6432".parse().expect("an address");
        proxy_header::encode(Some(Ends { source: client(), destination }))
    }

    #[tokio::test]
    async fn a_header_from_an_untrusted_address_is_not_read() {
        let (address, left) = address_of(&settings(&["10.0.0.5"], true), &[&header(), SSL_REQUEST]).await;
        assert_eq!(address.expect("is let in").peer, PROXY);
        assert_eq!(left, [&header(), SSL_REQUEST].concat(), "and what it says is an opening, or none");
    }

    #[tokio::test]
    async fn a_trusted_proxy_has_to_send_a_header_unless_it_is_optional() {
        let (refused, left) = address_of(&settings(&["unix"], true), &[SSL_REQUEST]).await;
        assert!(matches!(refused, Err(End::ProxyHeader(ProxyFault::NoHeader(_)))), "{refused:?}");
        assert_eq!(left, SSL_REQUEST, "so that it can be told in the right form");
        let (served, left) = address_of(&settings(&["unix"], false), &[SSL_REQUEST]).await;
        assert_eq!((served.expect("is let in").peer, left.as_slice()), (PROXY, SSL_REQUEST));
    }

    #[tokio::test]
    async fn a_header_without_an_address_leaves_the_proxys_own() {
        let (address, left) = address_of(&settings(&["unix"], true), &[&proxy_header::encode(None), SSL_REQUEST]).await;
        assert_eq!((address.expect("is let in").peer, left.as_slice()), (PROXY, SSL_REQUEST));
    }

    #[tokio::test]
    async fn half_a_header_and_a_broken_one_are_refused() {
        let (half, _) = address_of(&settings(&["unix"], true), &[&header()[..20]]).await;
        assert!(matches!(half, Err(End::ClientLeftEarly)), "{half:?}");
        let (broken, _) = address_of(&settings(&["unix"], true), &[b"PRO", b"XYZ"]).await;
        assert!(matches!(broken, Err(End::ProxyHeader(ProxyFault::Malformed(_)))), "{broken:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// For every split of a header, the client's address is read and the bytes after it stay unread.
        #[test]
        fn portions_do_not_matter(
            is_v1 in any::<bool>(),
            fields in 0usize..600,
            mut cuts in proptest::collection::vec(0usize..700, 0..5),
        ) {
            let mut said = if is_v1 { b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 6432\r\n".to_vec() } else { header() };
            if !is_v1 {
                let length = u16::from_be_bytes([said[14], said[15]]) + fields as u16;
                said[14..16].copy_from_slice(&length.to_be_bytes());
                said.resize(said.len() + fields, 4);
            }
            said.extend(SSL_REQUEST);
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(said.len()));
            cuts.extend([0, said.len()]);
            cuts.sort_unstable();
            let portions: Vec<&[u8]> = cuts.windows(2).map(|cut| &said[cut[0]..cut[1]]).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let (address, left) = runtime.block_on(address_of(&settings(&["unix"], true), &portions));
            prop_assert_eq!(address.expect("is let in").peer, client().into());
            prop_assert_eq!(left.as_slice(), SSL_REQUEST);
        }
    }
}
