//! Settings of TLS with servers: five of libpq's `sslmode`s.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;

use super::{APPLICATION_PROTOCOL, FromFiles, IdentityFiles, TlsError, authorities, verify};

/// Whether to encrypt and what to verify: libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Always plaintext.
    Disable,
    /// Encrypted if the server supports it, else plaintext. Nothing is verified, so nothing is guaranteed.
    Prefer,
    /// Encrypted. Verified as in [`SslMode::VerifyCa`] if there is a CA file, else not at all.
    Require,
    /// Encrypted, and a CA of the CA file has issued the certificate, for any host.
    VerifyCa,
    /// Encrypted, a CA of the CA file has issued the certificate, and it names the host of the connection.
    VerifyFull,
}

/// How TLS begins: libpq's `sslnegotiation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiation {
    /// After an SSLRequest; every version of PostgreSQL supports it.
    Postgres,
    /// At once, which saves a round trip; since PostgreSQL 17.
    Direct,
}

/// Settings of TLS with servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whether to encrypt and what to verify.
    pub mode: SslMode,
    /// How TLS begins.
    pub negotiation: Negotiation,
    /// PEM file with the trusted certificates: CA certificates, or a server's own.
    pub ca_file: Option<PathBuf>,
    /// pgvane's certificate and key, for servers that ask for a client certificate.
    pub identity: Option<IdentityFiles>,
}

impl TlsSettings {
    /// A mode without files.
    pub fn of_mode(mode: SslMode) -> TlsSettings {
        TlsSettings { mode, negotiation: Negotiation::Postgres, ca_file: None, identity: None }
    }
}

/// [`TlsSettings`] with their files loaded. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServerTls {
    pub(super) mode: SslMode,
    pub(super) negotiation: Negotiation,
    pub(super) client: Option<Arc<ClientConfig>>,
    verifies: bool,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// Errors: a file cannot be read or has the wrong content; `verify-ca` or `verify-full` without a CA file.
    pub fn new(settings: &TlsSettings) -> Result<ServerTls, TlsError> {
        let client = match settings.mode {
            SslMode::Disable => None,
            _ => Some(Arc::new(client_config(settings)?)),
        };
        Ok(ServerTls {
            mode: settings.mode,
            negotiation: settings.negotiation,
            client,
            verifies: verified_by(settings).is_some(),
        })
    }

    /// The mode.
    pub fn mode(&self) -> SslMode {
        self.mode
    }

    /// Whether a server has to prove who it is, by its certificate.
    pub fn verifies(&self) -> bool {
        self.verifies
    }

    /// No TLS: what [`SslMode::Prefer`] falls back to.
    pub fn plaintext() -> ServerTls {
        ServerTls { mode: SslMode::Disable, negotiation: Negotiation::Postgres, client: None, verifies: false }
    }
}

impl FromFiles for ServerTls {
    type Settings = TlsSettings;

    fn read(settings: &TlsSettings) -> Result<ServerTls, TlsError> {
        ServerTls::new(settings)
    }

    fn files(settings: &TlsSettings) -> Vec<PathBuf> {
        if settings.mode == SslMode::Disable {
            return Vec::new();
        }
        settings.ca_file.iter().cloned().chain(settings.identity.iter().flat_map(IdentityFiles::files)).collect()
    }
}

fn client_config(settings: &TlsSettings) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(settings, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unsupported)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = files.read()?;
            let unusable = |error| TlsError::Unusable { file: files.cert_file.clone(), error };
            builder.with_client_auth_cert(chain, key).map_err(unusable)?
        }
    };
    config.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()]; // servers before version 17 ignore it
    config.resumption = Resumption::disabled(); // PostgreSQL's server does not support it
    Ok(config)
}

/// The CA file that certificates are verified by, if they are.
fn verified_by(settings: &TlsSettings) -> Option<&PathBuf> {
    match settings.mode {
        // libpq would verify with "prefer" and go on without TLS if that fails: this protects nothing
        SslMode::Disable | SslMode::Prefer => None,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => settings.ca_file.as_ref(),
    }
}

fn verifier(settings: &TlsSettings, provider: &Arc<CryptoProvider>) -> Result<Arc<verify::Verifier>, TlsError> {
    let names = match settings.mode {
        SslMode::VerifyFull => verify::Names::Checked,
        _ => verify::Names::Ignored,
    };
    if matches!(settings.mode, SslMode::VerifyCa | SslMode::VerifyFull) && settings.ca_file.is_none() {
        return Err(TlsError::NoCaFile);
    }
    let verifier = match verified_by(settings) {
        None => verify::Verifier::of_nothing(provider),
        Some(file) => authorities(file, |roots, trusted| verify::Verifier::of_chain(provider, roots, trusted, names))?,
    };
    Ok(Arc::new(verifier))
}
