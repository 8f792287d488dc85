//! TLS with clients and with servers, by rustls.
//!
//! With servers: [`TlsSettings`] holds libpq's settings, [`ServerTls`] is the same with its files loaded, and
//! [`ServerTls::negotiate`] turns a new connection into a [`Stream`](crate::net::Stream). With clients: [`Terminate`]
//! holds PostgreSQL's settings, [`Acceptor`] is the same with its files loaded, and [`Acceptor::accept`] does the
//! handshake. [`Reloading`] loads the files of either again when they change.
//!
//! Rules: <https://www.postgresql.org/docs/current/libpq-ssl.html>, <https://www.postgresql.org/docs/current/ssl-tcp.html>
//! and <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>.

mod certificate;
mod key_file;
mod negotiate;
mod reloading;
mod to_clients;
mod to_rest;
mod to_servers;
mod verify;

use std::fmt;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use certificate::{Certificate, binding_of};
pub use key_file::is_open_to_others;
pub use negotiate::NegotiationFailure;
pub use reloading::{FileCheck, FromFiles, Reloading};
pub use to_clients::{Acceptor, ClientTls, Terminate, VerifyClient, Version};
pub use to_rest::{RestTrust, rest_client};
pub use to_servers::{Negotiation, ServerTls, SslMode, TlsSettings};

/// PostgreSQL's protocol name for ALPN, as registered with IANA. PostgreSQL uses it since version 17.
const APPLICATION_PROTOCOL: &[u8] = b"postgresql";

/// PEM files with pgvane's certificate (and its intermediate certificates) and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate chain.
    pub cert_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

impl IdentityFiles {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let key = key_file::private_key(&self.key_file);
        Ok((certificates(&self.cert_file)?, key?))
    }

    fn files(&self) -> [PathBuf; 2] {
        [self.cert_file.clone(), self.key_file.clone()]
    }
}

/// Why TLS settings cannot be used.
#[derive(Debug)]
pub enum TlsError {
    /// A file could not be read, or holds no PEM item of the expected kind.
    Pem {
        /// The file.
        file: PathBuf,
        /// The expected kind.
        wanted: &'static str,
        /// The cause.
        error: pem::Error,
    },
    /// Other users of the machine can read the file of a private key.
    KeyPermissions {
        /// The file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The mode verifies certificates, and there is no CA file.
    NoCaFile,
    /// rustls does not accept the certificate or its key.
    Unusable {
        /// The certificate's file.
        file: PathBuf,
        /// The cause.
        error: rustls::Error,
    },
    /// The file's certificate cannot be parsed.
    Unparseable {
        /// The certificate's file.
        file: PathBuf,
        /// The cause.
        error: String,
    },
    /// The file's certificates cannot be used as CA certificates.
    BadAuthorities {
        /// The file.
        file: PathBuf,
        /// The cause.
        error: String,
    },
    /// rustls does not support the settings.
    Unsupported(rustls::Error),
}

impl TlsError {
    /// The file that caused the error, if one did.
    pub fn file(&self) -> Option<&Path> {
        match self {
            TlsError::Pem { file, .. }
            | TlsError::KeyPermissions { file, .. }
            | TlsError::Unusable { file, .. }
            | TlsError::Unparseable { file, .. }
            | TlsError::BadAuthorities { file, .. } => Some(file),
            TlsError::NoCaFile | TlsError::Unsupported(_) => None,
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Pem { file, wanted, error } => write!(f, "no {wanted} in {}: {error}", file.display()),
            TlsError::KeyPermissions { file, mode } => {
                let file = file.display();
                write!(
                    f,
                    "other users can read the private key in {file}, which has mode {mode:04o}: run chmod 0600 {file}, or \
                     chmod 0640 if root owns the file"
                )
            }
            TlsError::NoCaFile => f.write_str("sslmode verify-ca and verify-full need a CA file"),
            TlsError::Unusable { file, error: rustls::Error::InconsistentKeys(_) } => {
                write!(f, "the private key does not match the certificate in {}", file.display())
            }
            TlsError::Unusable { file, error } => {
                write!(f, "the certificate in {} or its key cannot be used: {error}", file.display())
            }
            TlsError::Unparseable { file, error } => {
                write!(f, "cannot parse the certificate in {}: {error}", file.display())
            }
            TlsError::BadAuthorities { file, error } => {
                write!(f, "the certificates in {} cannot be used as CA certificates: {error}", file.display())
            }
            TlsError::Unsupported(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// When each certificate of a PEM file expires, with its names. What is no certificate is left out. Blocks.
pub fn expiries(file: &Path) -> Vec<(String, jiff::Timestamp)> {
    let certificates = certificates(file).unwrap_or_default().into_iter().map(Certificate::read);
    certificates.flatten().map(|certificate| (certificate.names().join(", "), certificate.expires())).collect()
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |error| TlsError::Pem { file: file.to_owned(), wanted: "certificate", error };
    let list: Vec<_> = CertificateDer::pem_file_iter(file).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if list.is_empty() {
        return Err(pem(pem::Error::NoItemsFound));
    }
    Ok(list)
}

/// Reads the certificates of a CA file and passes them to `build`, as a root store and as a list.
fn authorities<T, E: fmt::Display>(
    file: &Path,
    build: impl FnOnce(RootCertStore, Vec<CertificateDer<'static>>) -> Result<T, E>,
) -> Result<T, TlsError> {
    let trusted = certificates(file)?;
    let bad = |error: &dyn fmt::Display| TlsError::BadAuthorities { file: file.to_owned(), error: error.to_string() };
    let mut roots = RootCertStore::empty();
    for certificate in &trusted {
        roots.add(certificate.clone()).map_err(|error| bad(&error))?;
    }
    build(roots, trusted).map_err(|error| bad(&error))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;
