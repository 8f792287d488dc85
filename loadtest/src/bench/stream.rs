//! A client's connection, in plaintext or with TLS, on a blocking socket or not.
//!
//! With TLS, all clients offer the same and nothing else, so that every proxy does the same work: TLS 1.3 with
//! `TLS_AES_256_GCM_SHA384`, which libpq chooses with OpenSSL's defaults, keys by X25519, and no resumption. They do
//! not verify the server, because their own CPU time is not what is measured.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, LazyLock};

use rustix::net::{RecvFlags, recv};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::cipher_suite::TLS13_AES_256_GCM_SHA384;
use rustls::crypto::ring::kx_group::X25519;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::tls::SSL_REQUEST;

/// How much is read from the socket with one call: rustls by itself reads 4 kB.
const READ_LENGTH: usize = 64 * 1024;

static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = CryptoProvider {
        cipher_suites: vec![TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![X25519],
        ..ring::default_provider()
    };
    let verifier = Arc::new(VerifiesNothing(provider.signature_verification_algorithms.supported_schemes()));
    let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[&TLS13]);
    let config = config.expect("the cipher is one of TLS 1.3").dangerous().with_custom_certificate_verifier(verifier);
    let mut config = config.with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
});

/// A connection to a proxy or a server.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, Buffered>>),
}

impl Stream {
    /// Connects. With TLS, it is asked for with an SSLRequest, as libpq does.
    pub(super) fn connect(address: SocketAddr, tls: bool) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(super::load::ANSWER_WITHIN))?;
        if !tls {
            return Ok(Self::Plain(stream));
        }
        stream.write_all(&SSL_REQUEST)?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        if answer != *b"S" {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{answer:?} to a request for TLS")));
        }
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let connection = ClientConnection::new(Arc::clone(&TLS), name).map_err(io::Error::other)?;
        let buffered = Buffered(BufReader::with_capacity(READ_LENGTH, stream));
        let mut stream = StreamOwned::new(connection, buffered);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self::Tls(Box::new(stream)))
    }

    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket().set_nonblocking(nonblocking)
    }

    /// Takes up to the length of `room`, whose content means nothing afterwards.
    pub(super) fn discard(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            // the kernel throws the bytes away without copying them
            Self::Plain(stream) => Ok(recv(stream, room, RecvFlags::TRUNC).map(|(_, taken)| taken)?),
            Self::Tls(stream) => {
                let taken = stream.fill_buf()?.len().min(room.len());
                stream.consume(taken);
                Ok(taken)
            }
        }
    }

    /// With TLS, says that nothing more follows, as libpq does before it closes.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if let Self::Tls(stream) = self {
            stream.conn.send_close_notify();
            stream.flush()?;
        }
        Ok(())
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.sock.0.get_ref(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

/// A socket that is read in large pieces and written without a buffer.
#[derive(Debug)]
pub(super) struct Buffered(BufReader<TcpStream>);

impl Read for Buffered {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.get_mut().write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Accepts every server without a look at its certificate or its signature.
#[derive(Debug)]
struct VerifiesNothing(Vec<SignatureScheme>);

impl ServerCertVerifier for VerifiesNothing {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _host: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::{HandshakeKind, ServerConfig, ServerConnection};

    use super::*;
    use crate::bench::load::{Server, Session, round_trips};
    use crate::bench::{ANSWER, COPY_OUT_BEGIN, COPY_OUT_END, backend};
    use crate::lab::certificate::{self, Key};
    use crate::process::Account;
    use crate::scratch::Scratch;

    #[test]
    fn a_server_without_tls_is_an_error() {
        let address = backend::start().expect("starts");
        let error = Stream::connect(address, true).expect_err("it answers N");
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn clients_with_tls_run_every_load_with_the_same_cipher_and_a_full_handshake_each() {
        for key in [Key::Ecdsa, Key::Rsa] {
            let server = Server { addresses: vec![start_server(key)], tls: true };
            let mut sessions = [0, 1].map(|client| Session::open(&server, client).expect("logs in"));
            let trips = round_trips(&mut sessions, Duration::from_millis(50)).expect("answers");
            assert!(trips.count() >= 2);
            for mut session in sessions {
                session.query().expect("answers on a blocking socket");
                assert_eq!(session.copy_out("out", 1).expect("streams"), 64 * 1024);
                session.query().expect("answers after streaming as well");
                session.close().expect("closes");
            }
        }
    }

    /// A server that answers what looks like a query for a stream with one of 64 kB, and everything else with one row.
    fn start_server(key: Key) -> SocketAddr {
        let scratch = Scratch::new().expect("a writable /tmp");
        let files = certificate::make(Account::Own, key, "test", scratch.directory()).expect("there is openssl");
        let certificate = CertificateDer::from_pem_file(&files[0]).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&files[1]).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().expect("ring has them").with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certificate], key).expect("the key fits"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let config = Arc::clone(&config);
                thread::spawn(move || serve(stream.expect("a client"), config).expect("until Terminate"));
            }
        });
        address
    }

    fn serve(mut socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
        let mut request = [0; 8];
        socket.read_exact(&mut request)?;
        assert_eq!(request, SSL_REQUEST);
        socket.write_all(b"S")?;
        let mut stream = StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, socket);
        let mut room = [0; 1024];
        assert!(stream.read(&mut room)? > 0, "a startup packet");
        let cipher = stream.conn.negotiated_cipher_suite().expect("the handshake is done");
        assert_eq!(cipher.suite(), rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
        assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Full));
        stream.write_all(b"Z\0\0\0\x05I")?;
        loop {
            let read = stream.read(&mut room)?;
            match &room[..read] {
                [] | [b'X', ..] => return Ok(()),
                [b'Q', _, _, _, _, b'o', ..] => {
                    stream.write_all(COPY_OUT_BEGIN)?;
                    stream.write_all(&crate::bench::copy_data(64 * 1024, 128))?;
                    stream.write_all(COPY_OUT_END)?;
                }
                _ => stream.write_all(ANSWER)?,
            }
        }
    }
}
