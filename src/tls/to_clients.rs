//! TLS with clients: pgvane terminates it, with its own certificate.

use std::future::{Future, poll_fn};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ProtocolVersion, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::TlsAcceptor;

use super::{APPLICATION_PROTOCOL, Certificate, FromFiles, IdentityFiles, TlsError, authorities};
use crate::net::{Encrypted, Socket};

/// What pgvane does when a client asks for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientTls {
    /// The server answers. If it accepts, client and server encrypt end to end, and pgvane cannot read the session.
    Passthrough,
    /// pgvane refuses TLS.
    Disable,
    /// pgvane terminates TLS.
    Terminate(Terminate),
}

/// How pgvane terminates TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminate {
    /// pgvane's certificate and key.
    pub identity: IdentityFiles,
    /// Whether clients that do not ask for TLS are refused.
    pub is_required: bool,
    /// Whether clients need a certificate.
    pub verify_client: VerifyClient,
    /// The lowest version of TLS that is accepted.
    pub min_version: Version,
}

/// Whether clients need a certificate. The PEM files hold the CA certificates that the client's is verified against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyClient {
    /// Clients are not asked for a certificate.
    None,
    /// A certificate is verified if the client sends one.
    Optional(PathBuf),
    /// The client has to send a certificate, and it is verified.
    Required(PathBuf),
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.2 (2008): the oldest that rustls supports, and PostgreSQL's default.
    Tls12,
    /// 1.3 (2018).
    Tls13,
}

impl Version {
    /// Every version, in the order of its discriminant.
    pub const ALL: [Version; 2] = [Version::Tls12, Version::Tls13];

    /// Its name in PostgreSQL's configuration.
    pub fn label(self) -> &'static str {
        match self {
            Version::Tls12 => "TLSv1.2",
            Version::Tls13 => "TLSv1.3",
        }
    }

    fn and_newer(self) -> Vec<&'static SupportedProtocolVersion> {
        match self {
            Version::Tls12 => vec![&rustls::version::TLS12, &rustls::version::TLS13],
            Version::Tls13 => vec![&rustls::version::TLS13],
        }
    }
}

/// [`Terminate`] with its files loaded.
#[derive(Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    certificate: Certificate,
}

/// A connection after the TLS handshake.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: Encrypted,
    /// The negotiated version.
    pub version: Version,
}

impl Acceptor {
    /// Reads the files.
    ///
    /// Errors: a file cannot be read or has the wrong content; the key does not match the certificate.
    pub fn new(settings: &Terminate) -> Result<Acceptor, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = client_verifier(&settings.verify_client, &provider)?;
        let (chain, key) = settings.identity.read()?;
        let file = || settings.identity.cert_file.clone();
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&settings.min_version.and_newer())
            .map_err(TlsError::Unsupported)?
            .with_client_cert_verifier(verifier);
        let own = chain[0].clone();
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| TlsError::Unusable { file: file(), error })?;
        config.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()];
        // no session resumption, as in PostgreSQL's server: PostgreSQL clients do not use it
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let certificate = Certificate::read(own).map_err(|error| TlsError::Unparseable { file: file(), error })?;
        Ok(Acceptor { config: Arc::new(config), certificate })
    }

    /// The certificate that is sent to clients.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Does the handshake with a client; `received` are the bytes that were read from it already. Has no timeout.
    ///
    /// Errors: those of the socket; `InvalidData` with rustls' error if the handshake fails.
    pub async fn accept(&self, socket: Socket, mut received: &[u8]) -> io::Result<Accepted> {
        let mut failure = None;
        let mut handshake = TlsAcceptor::from(Arc::clone(&self.config)).accept_with(socket.into(), |session| {
            // an empty slice is not read: rustls would take that for the end of the connection
            while !received.is_empty() && failure.is_none() {
                let read = session.read_tls(&mut received);
                let processed = read.and_then(|_| session.process_new_packets().map_err(io::Error::other));
                failure = processed.err().map(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            }
        });
        if let Some(error) = failure {
            // polled once, to send the alert; there is nothing to wait for
            let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut handshake).poll(cx))).await;
            return Err(error);
        }
        let stream = handshake.await?;
        let version = match stream.get_ref().1.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
            _ => Version::Tls12,
        };
        Ok(Accepted { stream: Encrypted::from(tokio_rustls::TlsStream::from(stream)), version })
    }
}

impl Accepted {
    /// Whether the client offered PostgreSQL's protocol (ALPN). A client that begins TLS without SSLRequest has to: else
    /// an attacker could make a browser, for example, connect to this port.
    pub fn names_postgresql(&self) -> bool {
        self.stream.application_protocol() == Some(APPLICATION_PROTOCOL)
    }
}

impl FromFiles for Acceptor {
    type Settings = Terminate;

    fn read(settings: &Terminate) -> Result<Acceptor, TlsError> {
        Acceptor::new(settings)
    }

    fn files(settings: &Terminate) -> Vec<PathBuf> {
        let authorities = match &settings.verify_client {
            VerifyClient::None => None,
            VerifyClient::Optional(file) | VerifyClient::Required(file) => Some(file.clone()),
        };
        settings.identity.files().into_iter().chain(authorities).collect()
    }
}

fn client_verifier(
    wanted: &VerifyClient,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let (file, is_required) = match wanted {
        VerifyClient::None => return Ok(WebPkiClientVerifier::no_client_auth()),
        VerifyClient::Optional(file) => (file, false),
        VerifyClient::Required(file) => (file, true),
    };
    authorities(file, |roots, _| {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if is_required { builder.build() } else { builder.allow_unauthenticated().build() }
    })
}
