//! What is wanted of TLS towards servers: the five `sslmode`s that libpq documents.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;

use super::{APPLICATION_PROTOCOL, FromFiles, IdentityFiles, TlsError, authorities, verify};

/// Whether to encrypt, and whom to believe, in libpq's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// In clear, always.
    Disable,
    /// Encrypted if the server can, else in clear. Nothing is verified, so nothing is promised.
    Prefer,
    /// Encrypted. Verified as in [`SslMode::VerifyCa`] if there is a CA file, else not at all.
    Require,
    /// Encrypted, and the certificate comes from one of ours; whichever host it names.
    VerifyCa,
    /// Encrypted, the certificate comes from one of ours and names the host that was connected to.
    VerifyFull,
}

/// How TLS is begun, in libpq's words (`sslnegotiation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiation {
    /// After asking for it, as PostgreSQL has always had it.
    Postgres,
    /// At once, which saves a round trip; from PostgreSQL 17 on.
    Direct,
}

/// What is wanted of TLS towards servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whether, and whom to believe.
    pub mode: SslMode,
    /// How it is begun.
    pub negotiation: Negotiation,
    /// PEM file with the certificates to trust: those of authorities, or a server's own.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key, for servers that ask for one.
    pub identity: Option<IdentityFiles>,
}

impl TlsSettings {
    /// A mode without files.
    pub fn of_mode(mode: SslMode) -> TlsSettings {
        TlsSettings { mode, negotiation: Negotiation::Postgres, ca_file: None, identity: None }
    }
}

/// [`TlsSettings`] with their files read. Cheap to clone.
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
    /// Errors: a file that cannot be read or does not hold what it should; `verify-ca` and `verify-full` without a
    /// CA file.
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

    /// The mode it was made for.
    pub fn mode(&self) -> SslMode {
        self.mode
    }

    /// Whether a server has to prove who it is, by its certificate.
    pub fn verifies(&self) -> bool {
        self.verifies
    }

    /// The same servers, in clear: what [`SslMode::Prefer`] falls back to.
    pub fn in_clear() -> ServerTls {
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
    config.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()]; // servers before 17 take no notice
    config.resumption = Resumption::disabled(); // PostgreSQL's servers resume nothing
    Ok(config)
}

/// The CA file that certificates are verified by, if they are.
fn verified_by(settings: &TlsSettings) -> Option<&PathBuf> {
    match settings.mode {
        // libpq would verify with "prefer" and, where that fails, go on in clear: nothing is won by it
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
