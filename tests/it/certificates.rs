//! An authority and what it issues, in files that PostgreSQL's account can read too.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::sync::Arc;

use pgvane_loadtest::process::Account;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// PostgreSQL's protocol within TLS.
pub const POSTGRESQL: &[u8] = b"postgresql";

pub struct Certificates {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    /// The authority's own certificate is in `ca.pem`.
    pub fn new() -> Certificates {
        let files =
            Certificates { directory: tempfile::tempdir().expect("a directory"), authority: authority("an authority") };
        let account = Account::for_servers().expect("an account");
        account.make_directory(files.directory.path()).expect("it is ours");
        files.write("ca.pem", &files.authority.pem());
        files
    }

    /// A certificate for `name` in `FILE.pem`, and its key in `FILE.key`; what was there before is replaced.
    pub fn issue(&self, file: &str, name: &str) {
        self.issue_for(file, &[name.to_owned()]);
    }

    /// The same for several names or addresses.
    pub fn issue_for(&self, file: &str, names: &[String]) {
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, names[0].as_str()); // by which PostgreSQL knows the role
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.authority).expect("a certificate");
        self.write(&format!("{file}.pem"), &certificate.pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    /// Another authority's certificate in `stranger.pem`.
    pub fn stranger(&self) {
        self.write("stranger.pem", &authority("a stranger").pem());
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Nobody but PostgreSQL's account, and root, may read it: PostgreSQL insists on that for keys.
    pub fn write(&self, name: &str, text: &str) {
        let path = PathBuf::from(self.path(name));
        fs::write(&path, text).expect("is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("is ours");
        if let Account::Postgres { uid, gid } = Account::for_servers().expect("an account") {
            chown(&path, Some(uid), Some(gid)).expect("root may");
        }
    }

    /// A client that trusts this authority and names these protocols.
    pub fn client(&self, protocols: &[&[u8]]) -> TlsConnector {
        self.client_of(protocols, None)
    }

    /// One that shows the certificate in `FILE.pem`.
    pub fn client_with(&self, file: &str) -> TlsConnector {
        self.client_of(&[], Some(file))
    }

    fn client_of(&self, protocols: &[&[u8]], identity: Option<&str>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let chain = CertificateDer::from_pem_file(self.path(&format!("{file}.pem"))).expect("a certificate");
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{file}.key"))).expect("a key");
                builder.with_client_auth_cert(vec![chain], key).expect("fit together")
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}
