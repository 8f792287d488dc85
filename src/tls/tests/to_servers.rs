//! Each mode with each kind of server: real handshakes over a pair of connected sockets.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::tls::world::{World, acceptor};
use crate::tls::*;

/// The result of a negotiation with a server: whether the connection is encrypted and has a binding, or the error.
async fn met(settings: &TlsSettings, host: &str, server: Option<TlsAcceptor>) -> Result<(bool, bool), String> {
    let tls = ServerTls::new(settings).map_err(|error| error.to_string())?;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
    let (mut accepted, _) = listener.accept().await.expect("accepts");
    let asks = settings.negotiation == Negotiation::Postgres && settings.mode != SslMode::Disable;
    let serving = tokio::spawn(async move {
        if asks && let Ok(8) = accepted.read_u32().await {
            accepted.read_u32().await.expect("the rest of an SSLRequest");
            accepted.write_all(if server.is_some() { b"S" } else { b"N" }).await.expect("is written");
        }
        match server {
            // one byte is sent through the new connection, so that the handshake completes
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
    TlsSettings { ca_file, ..TlsSettings::of_mode(mode) }
}

const ENCRYPTED: Result<(bool, bool), String> = Ok((true, true));
const PLAINTEXT: Result<(bool, bool), String> = Ok((false, false));

#[tokio::test]
async fn without_verification_any_certificate_is_accepted() {
    let world = World::new();
    for mode in [SslMode::Prefer, SslMode::Require] {
        assert_eq!(met(&settings(mode, None), "elsewhere", Some(world.server(false))).await, ENCRYPTED, "{mode:?}");
    }
    assert_eq!(met(&settings(SslMode::Disable, None), "localhost", None).await, PLAINTEXT);
}

#[tokio::test]
async fn a_server_without_tls_is_accepted_by_prefer_only() {
    let ca_file = World::new();
    assert_eq!(met(&settings(SslMode::Prefer, None), "localhost", None).await, PLAINTEXT);
    for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        let refused = met(&settings(mode, Some(ca_file.ca_file())), "localhost", None).await.expect_err("refused");
        assert_eq!(refused, "the server does not support TLS, which sslmode requires", "{mode:?}");
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
async fn a_self_signed_certificate_in_the_ca_file_is_trusted() {
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
async fn a_self_signed_certificate_that_has_expired_is_refused_though_it_is_trusted() {
    let world = World::new();
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    let own = params.self_signed(&key).expect("a certificate");
    let file = world.file("expired.pem", &own.pem());
    for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
        let server = acceptor(&own, &key, None);
        let refused = met(&settings(mode, Some(file.clone())), "localhost", Some(server)).await.expect_err("refused");
        assert!(refused.contains("xpired"), "{mode:?}: {refused}");
    }
}

/// As `openssl req -x509` makes one, which is what most REST APIs of Patroni have.
#[tokio::test]
async fn a_rest_api_with_a_self_signed_certificate_is_trusted_by_it_and_by_no_other() {
    let (world, key) = (World::new(), KeyPair::generate().expect("a key"));
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = params.self_signed(&key).expect("a certificate");
    let (own_file, other_file) = (world.file("own.pem", &own.pem()), world.ca_file());
    for (trust, is_met) in
        [(RestTrust::File(&own_file), true), (RestTrust::File(&other_file), false), (RestTrust::Nothing, true)]
    {
        let config = rest_client(trust, None).expect("can be read");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let (accepted, _) = listener.accept().await.expect("accepts");
        let server = acceptor(&own, &key, None);
        let serving = tokio::spawn(async move { server.accept(accepted).await.is_ok() });
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let met = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, client).await;
        assert_eq!(met.is_ok(), is_met, "{trust:?}");
        drop(met);
        serving.await.expect("does not panic");
    }
}

#[tokio::test]
async fn a_client_certificate_is_sent_if_the_server_asks_for_it() {
    let world = World::new();
    let identity = Some(world.identity("client", "pgvane"));
    let with = TlsSettings { identity, ..settings(SslMode::Require, None) };
    assert_eq!(met(&with, "localhost", Some(world.server(true))).await, ENCRYPTED);
    assert!(met(&settings(SslMode::Require, None), "localhost", Some(world.server(true))).await.is_err());
}

#[tokio::test]
async fn with_direct_negotiation_the_server_must_select_the_protocol() {
    let world = World::new();
    let direct = |mode| TlsSettings { negotiation: Negotiation::Direct, ..settings(mode, Some(world.ca_file())) };
    let naming = world.server(false);
    let mut config = rustls::ServerConfig::clone(naming.config());
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let naming = TlsAcceptor::from(std::sync::Arc::new(config));
    assert_eq!(met(&direct(SslMode::VerifyFull), "localhost", Some(naming.clone())).await, ENCRYPTED);
    let another = met(&direct(SslMode::VerifyFull), "elsewhere", Some(naming)).await.expect_err("another host");
    assert!(another.contains("invalid peer certificate"), "{another}");
    let silent = met(&direct(SslMode::VerifyFull), "localhost", Some(world.server(false))).await;
    assert!(silent.expect_err("is no PostgreSQL").contains("did not select \"postgresql\" (ALPN)"));
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
    let mut files = world.identity("client", "pgvane");
    files.key_file = world.ca_file();
    let keyless = TlsSettings { identity: Some(files), ..settings(SslMode::Prefer, None) };
    assert!(told(&keyless).contains("no private key in"), "{}", told(&keyless));
}
