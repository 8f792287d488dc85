//! Each mode against each kind of server, by real handshakes over a pair of connected sockets.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// An authority and the certificates that it gave to `localhost` and to a client.
struct World {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl World {
    fn new() -> World {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        World { directory: tempfile::tempdir().expect("a directory"), authority }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("is written");
        path
    }

    fn ca_file(&self) -> PathBuf {
        self.file("ca.pem", &self.authority.pem())
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        (params.signed_by(&key, &self.authority).expect("a certificate"), key)
    }

    fn client_files(&self) -> ClientFiles {
        let (certificate, key) = self.issue("pgvane");
        let key_file = self.file("client.key", &key.serialize_pem());
        ClientFiles { cert_file: self.file("client.pem", &certificate.pem()), key_file }
    }

    /// What a server needs to be `localhost`, asking for client certificates if `asks`.
    fn server(&self, asks: bool) -> TlsAcceptor {
        let (certificate, key) = self.issue("localhost");
        acceptor(&certificate, &key, asks.then_some(&self.authority))
    }
}

fn acceptor(
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
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).expect("a certificate")))
}

/// What a session with a server came to: whether it is encrypted and has a binding, or the failure's text.
async fn met(settings: &TlsSettings, host: &str, server: Option<TlsAcceptor>) -> Result<(bool, bool), String> {
    let tls = ServerTls::new(settings).map_err(|error| error.to_string())?;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
    let (mut accepted, _) = listener.accept().await.expect("accepts");
    let serving = tokio::spawn(async move {
        if let Ok(8) = accepted.read_u32().await {
            accepted.read_u32().await.expect("the rest of an SSLRequest");
            accepted.write_all(if server.is_some() { b"S" } else { b"N" }).await.expect("is written");
        }
        match server {
            // one byte is sent back through what was agreed on, to see the handshake through
            Some(server) => {
                if let Ok(mut stream) = server.accept(accepted).await {
                    let _ = stream.write_all(b"!").await;
                    let _ = stream.flush().await;
                }
            }
            None => drop(accepted.write_all(b"!").await),
        }
    });
    let outcome = async {
        let mut stream = tls.negotiate(client.into(), host).await.map_err(|error| error.to_string())?;
        stream.write_all(&[0; 8]).await.map_err(|error| error.to_string())?;
        let byte = stream.read_u8().await.map_err(|error| error.to_string())?;
        assert_eq!(byte, b'!');
        Ok((stream.is_encrypted(), binding_of(&stream).is_some()))
    };
    let outcome = outcome.await;
    serving.await.expect("does not panic");
    outcome
}

fn settings(mode: SslMode, ca_file: Option<PathBuf>) -> TlsSettings {
    TlsSettings { mode, ca_file, client: None }
}

const ENCRYPTED: Result<(bool, bool), String> = Ok((true, true));
const IN_CLEAR: Result<(bool, bool), String> = Ok((false, false));

#[tokio::test]
async fn without_verification_any_certificate_will_do() {
    let world = World::new();
    for mode in [SslMode::Prefer, SslMode::Require] {
        assert_eq!(met(&settings(mode, None), "elsewhere", Some(world.server(false))).await, ENCRYPTED, "{mode:?}");
    }
    assert_eq!(met(&settings(SslMode::Disable, None), "localhost", None).await, IN_CLEAR);
}

#[tokio::test]
async fn a_server_without_tls_will_do_for_prefer_only() {
    let ca_file = World::new();
    assert_eq!(met(&settings(SslMode::Prefer, None), "localhost", None).await, IN_CLEAR);
    for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        let refused = met(&settings(mode, Some(ca_file.ca_file())), "localhost", None).await.expect_err("refused");
        assert_eq!(refused, "the server does not support TLS, which sslmode asks for", "{mode:?}");
    }
}

#[tokio::test]
async fn the_chain_and_the_name_are_verified_as_the_mode_says() {
    let (world, stranger) = (World::new(), World::new());
    let (ours, other) = (Some(world.ca_file()), Some(stranger.ca_file()));
    for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        let trusting = settings(mode, ours.clone());
        assert_eq!(met(&trusting, "localhost", Some(world.server(false))).await, ENCRYPTED, "{mode:?}");
        let refused = met(&settings(mode, other.clone()), "localhost", Some(world.server(false))).await;
        let said = refused.expect_err("a stranger's");
        assert!(said.contains("invalid peer certificate"), "{mode:?}: {said}");
        let elsewhere = met(&trusting, "elsewhere", Some(world.server(false))).await;
        match mode {
            SslMode::VerifyFull => {
                let said = elsewhere.expect_err("another host");
                assert!(said.contains("elsewhere") && said.contains("localhost"), "{said}");
            }
            _ => assert_eq!(elsewhere, ENCRYPTED, "{mode:?}"),
        }
    }
}

#[tokio::test]
async fn a_self_signed_certificate_that_is_named_itself_is_trusted() {
    let world = World::new();
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained); // as `openssl req -x509` makes it
    let own = params.self_signed(&key).expect("a certificate");
    let trusting = settings(SslMode::VerifyFull, Some(world.file("own.pem", &own.pem())));
    assert_eq!(met(&trusting, "localhost", Some(acceptor(&own, &key, None))).await, ENCRYPTED);
    assert!(met(&trusting, "elsewhere", Some(acceptor(&own, &key, None))).await.is_err());
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let world = World::new();
    let with = TlsSettings { client: Some(world.client_files()), ..settings(SslMode::Require, None) };
    assert_eq!(met(&with, "localhost", Some(world.server(true))).await, ENCRYPTED);
    assert!(met(&settings(SslMode::Require, None), "localhost", Some(world.server(true))).await.is_err());
}

#[test]
fn settings_that_cannot_work_say_why() {
    let world = World::new();
    let told = |settings: &TlsSettings| ServerTls::new(settings).expect_err("cannot work").to_string();
    assert!(told(&settings(SslMode::VerifyFull, None)).contains("need a CA file"));
    let empty = world.file("empty.pem", "nothing\n");
    assert!(told(&settings(SslMode::VerifyCa, Some(empty))).contains("no certificate in"));
    let absent = PathBuf::from("/nowhere/ca.pem");
    assert!(told(&settings(SslMode::VerifyCa, Some(absent))).contains("/nowhere/ca.pem"));
    let mut files = world.client_files();
    files.key_file = world.ca_file();
    let keyless = TlsSettings { client: Some(files), ..TlsSettings::default() };
    assert!(told(&keyless).contains("no private key in"), "{}", told(&keyless));
}
