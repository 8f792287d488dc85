//! TLS towards clients: pgvane as the end of it, with a certificate of its own.

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

/// What becomes of TLS that clients ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientTls {
    /// It is between the client and the server, and pgvane sees none of what is said.
    Passthrough,
    /// It is refused.
    Disable,
    /// It ends at pgvane.
    Terminate(Terminate),
}

/// How TLS ends at pgvane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminate {
    /// pgvane's certificate and key.
    pub identity: IdentityFiles,
    /// Whether clients that do not ask for TLS are turned away.
    pub is_required: bool,
    /// Which certificates clients have to show.
    pub verify_client: VerifyClient,
    /// Older versions of TLS are refused.
    pub min_version: Version,
}

/// Which certificates clients have to show. PEM files hold the authorities that may have signed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyClient {
    /// None; they are not asked.
    None,
    /// One of these authorities', if any.
    Optional(PathBuf),
    /// One of these authorities'.
    Required(PathBuf),
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.2, of 2008; the oldest that rustls knows, and PostgreSQL's default.
    Tls12,
    /// 1.3, of 2018.
    Tls13,
}

impl Version {
    /// Every version, in the order of its discriminant.
    pub const ALL: [Version; 2] = [Version::Tls12, Version::Tls13];

    /// The word for it in PostgreSQL's configuration.
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

/// [`Terminate`] with its files read.
#[derive(Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    certificate: Certificate,
}

/// A client with whom the handshake has been done.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: Encrypted,
    /// What was agreed on.
    pub version: Version,
}

impl Acceptor {
    /// Reads the files.
    ///
    /// Errors: a file that cannot be read or does not hold what it should; a key that is not the certificate's.
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
        // nothing is resumed, as at PostgreSQL's own server: clients of databases do not ask for it
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let certificate = Certificate::read(own).map_err(|error| TlsError::Garbled { file: file(), error })?;
        Ok(Acceptor { config: Arc::new(config), certificate })
    }

    /// The certificate that clients are shown.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Does the handshake with a client of which `received` has been read already. Bounded by nothing of its own.
    ///
    /// Errors: as the client's socket gives them; `InvalidData` where the two do not agree, in rustls' words.
    pub async fn accept(&self, socket: Socket, mut received: &[u8]) -> io::Result<Accepted> {
        let mut hopeless = None;
        let mut handshake = TlsAcceptor::from(Arc::clone(&self.config)).accept_with(socket, |session| {
            // never read at its end, which would be taken for the connection's
            while !received.is_empty() && hopeless.is_none() {
                let read = session.read_tls(&mut received);
                let processed = read.and_then(|_| session.process_new_packets().map_err(io::Error::other));
                hopeless = processed.err().map(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            }
        });
        if let Some(error) = hopeless {
            // once, for the alert to go out; to wait for more would be in vain
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
    /// Whether the client has named PostgreSQL's protocol, as one has to that begins TLS without asking: else somebody
    /// could have made a browser, say, speak to this port.
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
