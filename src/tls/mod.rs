//! TLS towards PostgreSQL servers: the five `sslmode`s that libpq documents, made of rustls.
//!
//! [`TlsSettings`] say what is wanted, [`ServerTls`] is that with its files read, and [`ServerTls::negotiate`] turns a
//! fresh connection into a [`Stream`](crate::net::Stream). Rules: <https://www.postgresql.org/docs/current/libpq-ssl.html>.

mod channel_binding;
mod negotiate;
mod verify;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

pub use channel_binding::binding_of;
pub use negotiate::NegotiationFailure;

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

/// What is wanted of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whether, and whom to believe.
    pub mode: SslMode,
    /// PEM file with the certificates to trust: those of authorities, or a server's own.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key, for servers that ask for one.
    pub client: Option<ClientFiles>,
}

/// PEM files with our own certificate (and those between it and its authority), and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate.
    pub cert_file: PathBuf,
    /// The key.
    pub key_file: PathBuf,
}

impl Default for TlsSettings {
    /// libpq's: `prefer`, without files.
    fn default() -> TlsSettings {
        TlsSettings { mode: SslMode::Prefer, ca_file: None, client: None }
    }
}

/// [`TlsSettings`] with their files read. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServerTls {
    mode: SslMode,
    client: Option<Arc<ClientConfig>>,
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
        Ok(ServerTls { mode: settings.mode, client })
    }

    /// The mode it was made for.
    pub fn mode(&self) -> SslMode {
        self.mode
    }

    /// The same servers, in clear: what [`SslMode::Prefer`] falls back to.
    pub fn in_clear() -> ServerTls {
        ServerTls { mode: SslMode::Disable, client: None }
    }
}

/// Why there is no TLS to be had from these settings.
#[derive(Debug)]
pub enum TlsError {
    /// A file could not be read, or holds no PEM of the kind that was looked for.
    Pem {
        /// Which file.
        file: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What is wrong with it.
        error: rustls::pki_types::pem::Error,
    },
    /// There is nothing to verify against.
    NoCaFile,
    /// A certificate or key is of no use to rustls.
    Unusable(rustls::Error),
    /// The authorities in the file are of no use.
    BadAuthorities(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Pem { file, wanted, error } => write!(f, "no {wanted} in {}: {error}", file.display()),
            TlsError::NoCaFile => f.write_str("verify-ca and verify-full need a CA file to verify against"),
            TlsError::Unusable(error) => write!(f, "the client's certificate or key cannot be used: {error}"),
            TlsError::BadAuthorities(error) => write!(f, "the CA file cannot be used: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

fn client_config(settings: &TlsSettings) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(settings, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match &settings.client {
        None => Ok(builder.with_no_client_auth()),
        Some(files) => {
            let chain = certificates(&files.cert_file)?;
            let key = PrivateKeyDer::from_pem_file(&files.key_file).map_err(|error| TlsError::Pem {
                file: files.key_file.clone(),
                wanted: "private key",
                error,
            })?;
            builder.with_client_auth_cert(chain, key).map_err(TlsError::Unusable)
        }
    }
}

fn verifier(settings: &TlsSettings, provider: &Arc<CryptoProvider>) -> Result<Arc<verify::Verifier>, TlsError> {
    let names = match settings.mode {
        SslMode::VerifyFull => verify::Names::Checked,
        _ => verify::Names::Ignored,
    };
    let trusted = match (settings.mode, &settings.ca_file) {
        // libpq would verify here and, where that fails, go on in clear: nothing is won by it
        (SslMode::Disable | SslMode::Prefer, _) | (SslMode::Require, None) => None,
        (_, Some(file)) => Some(certificates(file)?),
        (SslMode::VerifyCa | SslMode::VerifyFull, None) => return Err(TlsError::NoCaFile),
    };
    match trusted {
        None => Ok(Arc::new(verify::Verifier::of_nothing(provider))),
        Some(trusted) => {
            let mut roots = RootCertStore::empty();
            for certificate in &trusted {
                roots.add(certificate.clone()).map_err(|error| TlsError::BadAuthorities(error.to_string()))?;
            }
            let verifier = verify::Verifier::of_chain(provider, roots, trusted, names);
            verifier.map(Arc::new).map_err(|error| TlsError::BadAuthorities(error.to_string()))
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |error| TlsError::Pem { file: file.to_owned(), wanted: "certificate", error };
    let list: Vec<_> = CertificateDer::pem_file_iter(file).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if list.is_empty() {
        return Err(pem(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(list)
}

#[cfg(test)]
mod tests;
