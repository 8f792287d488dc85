//! Verifies a server's certificate: not at all, or against the CA file, with or without the host name.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::validity;

/// Whether the certificate has to name the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Checked,
    Ignored,
}

/// The verifier of one [`super::ServerTls`].
///
/// In every mode the server has to prove that it owns the key of its certificate: without that, SCRAM's channel binding
/// would protect nothing.
#[derive(Debug)]
pub(super) struct Verifier {
    chain: Option<Chain>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Chain {
    authorities: Arc<WebPkiServerVerifier>,
    /// The CA file's certificates. They may include a server's own self-signed certificate, as in PostgreSQL's manual;
    /// webpki would refuse that one because it is a CA certificate.
    trusted: Vec<CertificateDer<'static>>,
    names: Names,
}

impl Verifier {
    /// Accepts every certificate.
    pub(super) fn of_nothing(provider: &CryptoProvider) -> Verifier {
        Verifier { chain: None, algorithms: provider.signature_verification_algorithms }
    }

    /// Accepts certificates that one of `roots` has issued, and those in `trusted`.
    pub(super) fn of_chain(
        provider: &Arc<CryptoProvider>,
        roots: RootCertStore,
        trusted: Vec<CertificateDer<'static>>,
        names: Names,
    ) -> Result<Verifier, VerifierBuilderError> {
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build()?;
        let chain = Chain { authorities, trusted, names };
        Ok(Verifier { chain: Some(chain), algorithms: provider.signature_verification_algorithms })
    }
}

/// Whether a certificate that is trusted itself holds now. Of all others webpki asks that.
fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let now = now.as_secs();
    match validity(certificate) {
        Some((from, _)) if now < from => Err(Error::InvalidCertificate(CertificateError::NotValidYet)),
        Some((_, until)) if now > until => Err(Error::InvalidCertificate(CertificateError::Expired)),
        Some(_) => Ok(()),
        None => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        if chain.trusted.iter().any(|trusted| trusted == certificate) {
            check_validity(certificate, now)?;
            if chain.names == Names::Checked {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, host)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match chain.authorities.verify_server_cert(certificate, intermediates, host, ocsp_response, now) {
            // webpki verifies the name last: the chain is valid here
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if chain.names == Names::Ignored => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
