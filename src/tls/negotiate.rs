//! Negotiates TLS with a server on a new connection; the result is an encrypted or a plaintext connection.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsConnector, TlsStream};

use super::{APPLICATION_PROTOCOL, Negotiation, ServerTls, SslMode};
use crate::net::{Encrypted, Socket, Stream};
use crate::protocol::message::SSL_REQUEST;

/// Why the negotiation failed.
#[derive(Debug)]
pub enum NegotiationFailure {
    /// The connection failed, or the server closed it.
    Io(io::Error),
    /// The server does not support TLS, and the mode requires it.
    NotOffered,
    /// The server answered neither `S` nor `N`: it sent an error, or it is not PostgreSQL.
    UnknownAnswer(u8),
    /// The handshake failed; most often because the certificate could not be verified.
    Handshake(io::Error),
    /// The handshake without SSLRequest (`direct`) succeeded, and the server did not select PostgreSQL's protocol (ALPN).
    NotPostgres,
    /// The host is not a name or an address that a certificate can contain.
    BadHostName(String),
}

impl fmt::Display for NegotiationFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NegotiationFailure::Io(error) => write!(f, "{error}"),
            NegotiationFailure::NotOffered => f.write_str("the server does not support TLS, which sslmode requires"),
            NegotiationFailure::UnknownAnswer(byte) => {
                write!(f, "the server answered SSLRequest with \"{}\", not with \"S\" or \"N\"", byte.escape_ascii())
            }
            NegotiationFailure::Handshake(error) => write!(f, "TLS: {error}"),
            NegotiationFailure::NotPostgres => f.write_str(
                "TLS: the server did not select \"postgresql\" (ALPN), which sslnegotiation = \"direct\" requires",
            ),
            NegotiationFailure::BadHostName(host) => write!(f, "TLS: \"{host}\" is not a valid host name"),
        }
    }
}

impl ServerTls {
    /// Negotiates with the server on `socket` whether the connection is encrypted. `host` is the name or IP address of
    /// the server, without brackets: `verify-full` compares it with the certificate.
    ///
    /// Has no timeout. Cancel safe: if it is dropped, PostgreSQL logs nothing, unless the handshake had begun.
    ///
    /// Errors: see [`NegotiationFailure`]. In mode `prefer` the caller may try again with [`ServerTls::plaintext`]
    /// after a failed handshake, as libpq does.
    pub async fn negotiate(&self, mut socket: Socket, host: &str) -> Result<Stream, NegotiationFailure> {
        let Some(config) = &self.client else { return Ok(Stream::Plain(socket)) };
        let invalid = |_| NegotiationFailure::BadHostName(host.to_owned());
        let name = ServerName::try_from(host.to_owned()).map_err(invalid)?;

        if self.negotiation == Negotiation::Direct {
            let stream = handshake(config, name, socket).await?;
            return match stream.application_protocol() {
                Some(APPLICATION_PROTOCOL) => Ok(stream.into()),
                _ => Err(NegotiationFailure::NotPostgres),
            };
        }
        socket.write_all(SSL_REQUEST).await.map_err(NegotiationFailure::Io)?;
        // this byte and no more: what follows belongs to the handshake (CVE-2021-23222)
        match socket.read_u8().await.map_err(NegotiationFailure::Io)? {
            b'S' => handshake(config, name, socket).await.map(Stream::from),
            b'N' if self.mode == SslMode::Prefer => Ok(Stream::Plain(socket)),
            b'N' => Err(NegotiationFailure::NotOffered),
            other => Err(NegotiationFailure::UnknownAnswer(other)),
        }
    }
}

async fn handshake(
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    socket: Socket,
) -> Result<Encrypted, NegotiationFailure> {
    let handshake = TlsConnector::from(Arc::clone(config)).connect(name, socket.into());
    let stream = handshake.await.map_err(NegotiationFailure::Handshake)?;
    Ok(TlsStream::from(stream).into())
}
