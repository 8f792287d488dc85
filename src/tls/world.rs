//! For tests: an authority, and what it has issued.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::{IdentityFiles, Terminate, VerifyClient, Version};

/// An authority, and a directory for what it issues.
pub(crate) struct World {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl World {
    pub(crate) fn new() -> World {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        World { directory: tempfile::tempdir().expect("a directory"), authority }
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("is written");
        path
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.file("ca.pem", &self.authority.pem())
    }

    pub(crate) fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        (params.signed_by(&key, &self.authority).expect("a certificate"), key)
    }

    /// A certificate for `name`, in files that are named after `role`.
    pub(crate) fn identity(&self, role: &str, name: &str) -> IdentityFiles {
        let (certificate, key) = self.issue(name);
        let key_file = self.file(&format!("{role}.key"), &key.serialize_pem());
        IdentityFiles { cert_file: self.file(&format!("{role}.pem"), &certificate.pem()), key_file }
    }

    /// pgvane as `localhost`, asking for no certificate.
    pub(crate) fn terminate(&self) -> Terminate {
        Terminate {
            identity: self.identity("pgvane", "localhost"),
            is_required: false,
            verify_client: VerifyClient::None,
            min_version: Version::Tls12,
        }
    }

    /// What a server needs to be `localhost`, asking for client certificates if `asks`.
    pub(crate) fn server(&self, asks: bool) -> TlsAcceptor {
        let (certificate, key) = self.issue("localhost");
        acceptor(&certificate, &key, asks.then_some(&self.authority))
    }
}

/// What a server needs to show this certificate, asking for those `clients_of` an authority.
pub(crate) fn acceptor(
    certificate: &rcgen::Certificate,
    key: &KeyPair,
    clients_of: Option<&CertifiedIssuer<'static, KeyPair>>,
) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match clients_of {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).expect("a certificate")))
}
