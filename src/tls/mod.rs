//! TLS on either side of a session, made of rustls.
//!
//! Towards servers: [`TlsSettings`] say what is wanted in libpq's words, [`ServerTls`] is that with its files read, and
//! [`ServerTls::negotiate`] turns a fresh connection into a [`Stream`](crate::net::Stream). Towards clients:
//! [`Terminate`] says what is wanted in PostgreSQL's words, [`Acceptor`] is that with its files read, and
//! [`Acceptor::accept`] is the handshake. [`Reloading`] is either of the two, kept in step with its files.
//!
//! Rules: <https://www.postgresql.org/docs/current/libpq-ssl.html>, <https://www.postgresql.org/docs/current/ssl-tcp.html>
//! and <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>.

mod certificate;
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
pub use negotiate::NegotiationFailure;
pub use reloading::{FromFiles, Look, Reloading};
pub use to_clients::{Acceptor, ClientTls, Terminate, VerifyClient, Version};
pub use to_rest::{RestTrust, rest_client};
pub use to_servers::{Negotiation, ServerTls, SslMode, TlsSettings};

/// The name of PostgreSQL's protocol within TLS (ALPN), as IANA registers it; PostgreSQL knows it since version 17.
const APPLICATION_PROTOCOL: &[u8] = b"postgresql";

/// PEM files with a certificate of ours (and those between it and its authority), and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate.
    pub cert_file: PathBuf,
    /// The key.
    pub key_file: PathBuf,
}

impl IdentityFiles {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let key = PrivateKeyDer::from_pem_file(&self.key_file).map_err(|error| TlsError::Pem {
            file: self.key_file.clone(),
            wanted: "private key",
            error,
        });
        Ok((certificates(&self.cert_file)?, key?))
    }

    fn files(&self) -> [PathBuf; 2] {
        [self.cert_file.clone(), self.key_file.clone()]
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
        error: pem::Error,
    },
    /// There is nothing to verify against.
    NoCaFile,
    /// A certificate or key is of no use to rustls.
    Unusable {
        /// The certificate's file.
        file: PathBuf,
        /// What is wrong with it, or with its key.
        error: rustls::Error,
    },
    /// What is in the file is not a certificate, or none that can be understood.
    Garbled {
        /// The certificate's file.
        file: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// The authorities in the file are of no use.
    BadAuthorities {
        /// Which file.
        file: PathBuf,
        /// What is wrong with them.
        error: String,
    },
    /// rustls cannot do what is asked of it.
    Unsupported(rustls::Error),
}

impl TlsError {
    /// The file that is to blame, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            TlsError::Pem { file, .. }
            | TlsError::Unusable { file, .. }
            | TlsError::Garbled { file, .. }
            | TlsError::BadAuthorities { file, .. } => Some(file),
            TlsError::NoCaFile | TlsError::Unsupported(_) => None,
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Pem { file, wanted, error } => write!(f, "no {wanted} in {}: {error}", file.display()),
            TlsError::NoCaFile => f.write_str("verify-ca and verify-full need a CA file to verify against"),
            TlsError::Unusable { file, error: rustls::Error::InconsistentKeys(_) } => {
                write!(f, "the key is not that of the certificate in {}", file.display())
            }
            TlsError::Unusable { file, error } => {
                write!(f, "the certificate in {} or its key cannot be used: {error}", file.display())
            }
            TlsError::Garbled { file, error } => {
                write!(f, "the certificate in {} cannot be understood: {error}", file.display())
            }
            TlsError::BadAuthorities { file, error } => {
                write!(f, "the certificates in {} are not those of authorities: {error}", file.display())
            }
            TlsError::Unsupported(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for TlsError {}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |error| TlsError::Pem { file: file.to_owned(), wanted: "certificate", error };
    let list: Vec<_> = CertificateDer::pem_file_iter(file).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if list.is_empty() {
        return Err(pem(pem::Error::NoItemsFound));
    }
    Ok(list)
}

/// The certificates of a CA file, and authorities made of them by `build`.
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
