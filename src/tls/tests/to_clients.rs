//! TLS termination with each kind of client.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::net::Stream;
use crate::tls::world::World;
use crate::tls::*;

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
    (client, listener.accept().await.expect("accepts").0)
}

/// The result of a client's handshake with pgvane: the version and whether the client offered PostgreSQL's protocol, or
/// pgvane's error.
async fn met(pgvane: &Terminate, client: TlsConnector) -> Result<(Version, bool), String> {
    let (outside, mut inside) = connected().await;
    let client = tokio::spawn(async move {
        let name = ServerName::try_from("localhost").expect("is one");
        let mut stream = client.connect(name, outside).await?;
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        stream.read_u8().await
    });
    let acceptor = Acceptor::new(pgvane).expect("sound files");
    // the first bytes of the client have been read before the handshake
    let mut begun = [0; 5];
    inside.read_exact(&mut begun).await.expect("the client begins");
    let accepted = acceptor.accept(inside.into(), &begun).await.map_err(|error| error.to_string())?;
    let outcome = (accepted.version, accepted.names_postgresql());
    let mut stream = Stream::from(accepted.stream);
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.map_err(|error| error.to_string())?;
    assert_eq!(&heard, b"hello");
    stream.send(b"!").await.expect("goes");
    assert_eq!(client.await.expect("no panic").expect("comes"), b'!');
    Ok(outcome)
}

/// A client with these TLS versions and these ALPN protocols.
fn client(
    world: &World,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&[u8]],
    identity: Option<&IdentityFiles>,
) -> TlsConnector {
    let roots = authorities(&world.ca_file(), |roots, _| Ok::<_, String>(roots)).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match identity.map(|files| files.read().expect("sound files")) {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("fit together"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

const OLD: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const BOTH: &[&SupportedProtocolVersion] = rustls::ALL_VERSIONS;

#[tokio::test]
async fn the_newest_common_version_is_used_and_none_below_the_minimum() {
    let world = World::new();
    let pgvane = world.terminate();
    let strict = Terminate { min_version: Version::Tls13, ..pgvane.clone() };
    assert_eq!(met(&pgvane, client(&world, BOTH, &[], None)).await, Ok((Version::Tls13, false)));
    assert_eq!(met(&pgvane, client(&world, OLD, &[], None)).await, Ok((Version::Tls12, false)));
    assert_eq!(met(&strict, client(&world, BOTH, &[], None)).await, Ok((Version::Tls13, false)));
    let refused = met(&strict, client(&world, OLD, &[], None)).await.expect_err("too old");
    assert!(refused.contains("incompatible"), "{refused}");
}

#[tokio::test]
async fn a_client_that_offers_protocols_must_offer_postgresqls() {
    let world = World::new();
    let pgvane = world.terminate();
    let naming = |protocols: &[&[u8]]| client(&world, BOTH, protocols, None);
    assert_eq!(met(&pgvane, naming(&[b"postgresql"])).await, Ok((Version::Tls13, true)));
    assert_eq!(met(&pgvane, naming(&[b"h2", b"postgresql"])).await, Ok((Version::Tls13, true)));
    let refused = met(&pgvane, naming(&[b"h2", b"http/1.1"])).await.expect_err("a browser");
    assert!(refused.contains("known protocol"), "{refused}");
}

#[tokio::test]
async fn client_certificates_are_verified_as_the_settings_say() {
    let (world, stranger) = (World::new(), World::new());
    let ours = world.identity("client", "app");
    let theirs = stranger.identity("client", "app");
    let of = |identity| client(&world, BOTH, &[], identity);
    let asking = |verify_client| Terminate { verify_client, ..world.terminate() };
    let met = async |verify_client, identity| met(&asking(verify_client), of(identity)).await.is_ok();

    assert!(met(VerifyClient::None, Some(&theirs)).await, "it is not verified");
    for (verify_client, may_come_without) in
        [(VerifyClient::Optional(world.ca_file()), true), (VerifyClient::Required(world.ca_file()), false)]
    {
        assert!(met(verify_client.clone(), Some(&ours)).await, "{verify_client:?}");
        assert!(!met(verify_client.clone(), Some(&theirs)).await, "{verify_client:?}");
        assert_eq!(met(verify_client.clone(), None).await, may_come_without, "{verify_client:?}");
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_end_and_a_dropped_stream_sends_close_notify() {
    let world = World::new();
    let acceptor = Acceptor::new(&world.terminate()).expect("sound files");
    let accepted = async |outside: TcpStream, inside: TcpStream| {
        let name = ServerName::try_from("localhost").expect("is one");
        let (client, accepted) =
            tokio::join!(client(&world, BOTH, &[], None).connect(name, outside), acceptor.accept(inside.into(), &[]));
        (client.expect("agrees"), Stream::from(accepted.expect("agrees").stream))
    };
    let (outside, inside) = connected().await;
    let (client, mut stream) = accepted(outside, inside).await;
    drop(client.into_inner()); // closes the socket without close_notify
    assert_eq!(stream.read(&mut [0]).await.expect("is no failure"), 0);

    let (outside, inside) = connected().await;
    let (mut client, mut stream) = accepted(outside, inside).await;
    stream.write_last(b"bye");
    drop(stream);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.expect("ends in order");
    assert_eq!(heard, b"bye");
}

#[tokio::test]
async fn a_close_is_seen_through_tls() {
    let world = World::new();
    let acceptor = Acceptor::new(&world.terminate()).expect("sound files");
    let name = ServerName::try_from("localhost").expect("is one");
    let (outside, inside) = connected().await;
    let client = client(&world, BOTH, &[], None);
    let (client, accepted) = tokio::join!(client.connect(name, outside), acceptor.accept(inside.into(), &[]));
    let (mut client, mut stream) = (client.expect("agrees"), Stream::from(accepted.expect("agrees").stream));

    let pause = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(pause, stream.closed()).await.is_err(), "the client is there");
    client.write_all(b"early").await.expect("goes");
    client.flush().await.expect("goes");
    assert!(tokio::time::timeout(pause, stream.closed()).await.is_err(), "there is something to read");
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.expect("nothing of it is lost");
    assert_eq!(&heard, b"early");
    client.shutdown().await.expect("goes");
    stream.closed().await;
}

#[test]
fn settings_that_cannot_work_say_why() {
    let world = World::new();
    let good = world.terminate();
    let told = |settings: &Terminate| Acceptor::new(settings).expect_err("cannot work").to_string();
    let keyed = |key_file| Terminate { identity: IdentityFiles { key_file, ..good.identity.clone() }, ..good.clone() };
    let other = keyed(world.identity("other", "localhost").key_file);
    assert!(told(&other).contains("the private key does not match the certificate in"), "{}", told(&other));
    let absent = keyed("/nowhere/key.pem".into());
    assert!(told(&absent).contains("no private key in /nowhere/key.pem"), "{}", told(&absent));
    let no_authority = Terminate { verify_client: VerifyClient::Optional(world.file("empty.pem", "")), ..good.clone() };
    assert!(told(&no_authority).contains("no certificate in"), "{}", told(&no_authority));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Random bytes, some of them read before the handshake: no panic, and the handshake ends.
    #[test]
    fn garbage_is_no_handshake(mut garbage in proptest::collection::vec(any::<u8>(), 1..700), split in 0usize..700) {
        garbage[0] = 0x16;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let world = World::new();
            let acceptor = Acceptor::new(&world.terminate()).expect("sound files");
            let (mut outside, inside) = connected().await;
            let (before, after) = garbage.split_at(split.min(garbage.len()));
            outside.write_all(after).await.expect("fits");
            outside.shutdown().await.expect("is open");
            assert!(acceptor.accept(inside.into(), before).await.is_err());
        });
    }
}
