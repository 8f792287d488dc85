//! For tests: a certificate authority (CA), and certificates that it issues.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::{IdentityFiles, Terminate, VerifyClient, Version};

/// A CA, and a directory for the certificates that it issues.
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
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("is ours");
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

    /// A certificate for `name`, in files whose names begin with `role`.
    pub(crate) fn identity(&self, role: &str, name: &str) -> IdentityFiles {
        let (certificate, key) = self.issue(name);
        let key_file = self.file(&format!("{role}.key"), &key.serialize_pem());
        IdentityFiles { cert_file: self.file(&format!("{role}.pem"), &certificate.pem()), key_file }
    }

    /// pgvane as `localhost`, without client certificates.
    pub(crate) fn terminate(&self) -> Terminate {
        Terminate {
            identity: self.identity("pgvane", "localhost"),
            is_required: false,
            verify_client: VerifyClient::None,
            min_version: Version::Tls12,
        }
    }

    /// A server's acceptor for `localhost`; it requires client certificates if `verifies_clients`.
    pub(crate) fn server(&self, verifies_clients: bool) -> TlsAcceptor {
        let (certificate, key) = self.issue("localhost");
        acceptor(&certificate, &key, verifies_clients.then_some(&self.authority))
    }
}

/// A server's acceptor with this certificate. It requires client certificates that `client_ca` has issued, if given.
pub(crate) fn acceptor(
    certificate: &rcgen::Certificate,
    key: &KeyPair,
    client_ca: Option<&CertifiedIssuer<'static, KeyPair>>,
) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match client_ca {
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
