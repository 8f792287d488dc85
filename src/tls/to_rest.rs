//! TLS towards Patroni's REST APIs: the same trust as towards PostgreSQL's servers, so that one CA file, or a server's own
//! self-signed certificate, serves both.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;

use super::{TlsError, authorities, certificates, key_file, verify};

/// What REST APIs have to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestTrust<'f> {
    /// Anything: nothing is verified.
    Nothing,
    /// A certificate that comes from this file, and names the host.
    File(&'f Path),
}

/// What a client of REST APIs needs; `identity` is one PEM file with our own certificate and its key.
///
/// Errors: a file that cannot be read, or does not hold what it should.
pub fn rest_client(trust: RestTrust<'_>, identity: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match trust {
        RestTrust::Nothing => verify::Verifier::of_nothing(&provider),
        RestTrust::File(file) => authorities(file, |roots, trusted| {
            verify::Verifier::of_chain(&provider, roots, trusted, verify::Names::Checked)
        })?,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unsupported)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(file) = identity else { return Ok(builder.with_no_client_auth()) };
    let key = key_file::private_key(file)?;
    let unusable = |error| TlsError::Unusable { file: file.to_owned(), error };
    builder.with_client_auth_cert(certificates(file)?, key).map_err(unusable)
}
