//! From a fresh TCP connection to one that is encrypted, or known to be in clear.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsConnector, TlsStream};

use super::{APPLICATION_PROTOCOL, Negotiation, ServerTls, SslMode};
use crate::net::{Encrypted, Socket, Stream};

/// `SSLRequest`: length 8 and NEGOTIATE_SSL_CODE (src/include/libpq/pqcomm.h), 1234 and 5679.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Why a connection could not be agreed on.
#[derive(Debug)]
pub enum NegotiationFailure {
    /// The connection broke, or the server closed it.
    Io(io::Error),
    /// The server has no TLS, and the mode asks for it.
    NotOffered,
    /// The server answered with something else than yes or no: an error of its own, or it is no PostgreSQL.
    Garbled(u8),
    /// The handshake failed; most often because the certificate is not believed.
    Handshake(io::Error),
    /// The server began TLS unasked, and did not say that it speaks PostgreSQL's protocol within.
    NotPostgres,
    /// What was connected to has no name that a certificate could bear.
    BadHostName(String),
}

impl fmt::Display for NegotiationFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NegotiationFailure::Io(error) => write!(f, "{error}"),
            NegotiationFailure::NotOffered => f.write_str("the server does not support TLS, which sslmode asks for"),
            NegotiationFailure::Garbled(byte) => {
                write!(f, "the server answered the request for TLS with \"{}\"", byte.escape_ascii())
            }
            NegotiationFailure::Handshake(error) => write!(f, "TLS: {error}"),
            NegotiationFailure::NotPostgres => f.write_str(
                "TLS: the server did not name PostgreSQL's protocol (ALPN), as sslnegotiation = \"direct\" asks for",
            ),
            NegotiationFailure::BadHostName(host) => write!(f, "TLS: \"{host}\" is not a host name"),
        }
    }
}

impl ServerTls {
    /// Agrees with the server on `socket` whether to encrypt. `host` is the name or address that was connected to: the
    /// one that `verify-full` looks for in the certificate.
    ///
    /// Bounded by nothing of its own. Cancel safe: dropped half-way, it leaves no line in PostgreSQL's log, unless it
    /// was in the midst of the handshake.
    ///
    /// Errors: see [`NegotiationFailure`]. In mode `prefer` the caller may try again with [`ServerTls::in_clear`]
    /// after a failed handshake, as libpq does.
    pub async fn negotiate(&self, mut socket: Socket, host: &str) -> Result<Stream, NegotiationFailure> {
        let Some(config) = &self.client else { return Ok(Stream::Plain(socket)) };
        let named = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(named).map_err(|_| NegotiationFailure::BadHostName(host.to_owned()))?;

        if self.negotiation == Negotiation::Direct {
            let stream = handshake(config, name, socket).await?;
            return match stream.application_protocol() {
                Some(APPLICATION_PROTOCOL) => Ok(stream.into()),
                _ => Err(NegotiationFailure::NotPostgres),
            };
        }
        socket.write_all(&SSL_REQUEST).await.map_err(NegotiationFailure::Io)?;
        // this byte and no more: what follows belongs to the handshake (CVE-2021-23222)
        match socket.read_u8().await.map_err(NegotiationFailure::Io)? {
            b'S' => handshake(config, name, socket).await.map(Stream::from),
            b'N' if self.mode == SslMode::Prefer => Ok(Stream::Plain(socket)),
            b'N' => Err(NegotiationFailure::NotOffered),
            other => Err(NegotiationFailure::Garbled(other)),
        }
    }
}

async fn handshake(
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    socket: Socket,
) -> Result<Encrypted, NegotiationFailure> {
    let handshake = TlsConnector::from(Arc::clone(config)).connect(name, socket);
    let stream = handshake.await.map_err(NegotiationFailure::Handshake)?;
    Ok(TlsStream::from(stream).into())
}
