//! A client that sends PostgreSQL's protocol byte by byte, also what no client library would send.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use pgvane_loadtest::messages::{PROTOCOL_3_0, query, ssl_request, startup};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// No single step of a test takes this long unless something is wrong; longer than any hold or timeout in them.
pub const SOON: Duration = Duration::from_secs(20);

/// One message after the opening.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: u8,
    pub body: Vec<u8>,
}

impl fmt::Debug for Message {
    /// Readable in a failed assertion, whatever its length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:.300?})", char::from(self.kind), String::from_utf8_lossy(&self.body))
    }
}

impl Message {
    /// The text of an error's field: `C` the SQLSTATE, `M` the message, `D` the detail, `H` the hint.
    pub fn field(&self, code: u8) -> Option<String> {
        let fields = self.body.split(|byte| *byte == 0);
        let found = fields.filter_map(|field| field.split_first()).find(|(first, _)| **first == code);
        found.map(|(_, text)| String::from_utf8_lossy(text).into_owned())
    }

    /// The SQLSTATE, if this is an error.
    pub fn sqlstate(&self) -> Option<String> {
        (self.kind == b'E').then(|| self.field(b'C')).flatten()
    }
}

/// What most tests begin with.
pub fn plain_startup() -> Vec<u8> {
    startup(PROTOCOL_3_0, &[("user", "trusting"), ("database", "app")])
}

/// A connection to a port that speaks, or should speak, PostgreSQL's protocol. Every step has a deadline.
#[derive(Debug)]
pub struct Wire {
    stream: Box<dyn Connection>,
}

/// Over TCP or a Unix socket, in plaintext or encrypted.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug> Connection for C {}

/// A session that has got as far as `ReadyForQuery`.
pub struct Session {
    pub wire: Wire,
    /// The body of `BackendKeyData`, which a cancel request brings back.
    pub key: Vec<u8>,
}

impl Wire {
    pub async fn to(server: SocketAddr) -> Wire {
        let stream = in_time("a connection", TcpStream::connect(server)).await.expect("the port is open");
        Wire { stream: Box::new(stream) }
    }

    /// From one of the many addresses of loopback, 127.0.0.0/8, and a port that is told too.
    pub async fn from(client: Ipv4Addr, server: SocketAddr) -> (Wire, SocketAddr) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((client, 0).into()).expect("an address of this host");
        let stream = in_time("a connection", socket.connect(server)).await.expect("the port is open");
        let address = stream.local_addr().expect("is connected");
        (Wire { stream: Box::new(stream) }, address)
    }

    /// By the file of a Unix socket.
    pub async fn by(file: &Path) -> Wire {
        let stream = in_time("a connection", UnixStream::connect(file)).await.expect("somebody listens");
        Wire { stream: Box::new(stream) }
    }

    /// Asks for TLS, is granted it, and does the handshake.
    pub async fn asks_for_tls(mut self, tls: &TlsConnector) -> Wire {
        self.send(&ssl_request()).await;
        assert_eq!(self.bytes(1).await, b"S");
        self.begins_tls(tls).await.expect("the handshake succeeds")
    }

    /// Does the handshake with whoever is at the other end, who goes by the name of `localhost`.
    pub async fn begins_tls(self, tls: &TlsConnector) -> io::Result<Wire> {
        let name = ServerName::try_from("localhost").expect("is one");
        let stream = in_time("a handshake", tls.connect(name, self.stream)).await?;
        Ok(Wire { stream: Box::new(stream) })
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        in_time("room to send", sent).await.expect("the connection is open");
    }

    /// Says that nothing more will be sent; answers can still be read.
    pub async fn finish_sending(&mut self) {
        self.stream.shutdown().await.expect("the connection is open");
    }

    /// Exactly so many bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        in_time("bytes", self.stream.read_exact(&mut bytes)).await.expect("that many bytes");
        bytes
    }

    /// Everything until the other side closes, whether in order or by a reset.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match in_time("the end of the connection", self.stream.read_to_end(&mut bytes)).await {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("reading the rest: {error}"),
            Ok(_) | Err(_) => bytes,
        }
    }

    /// The next message, however long it takes to begin.
    pub async fn message_whenever(&mut self) -> Option<Message> {
        let kind = self.stream.read_u8().await.ok()?;
        let length = in_time("a length", self.stream.read_u32()).await.expect("a whole header");
        Some(Message { kind, body: self.bytes(length as usize - 4).await })
    }

    /// The next message; `None` where the stream ends between two messages.
    pub async fn message(&mut self) -> Option<Message> {
        let header = match in_time("a message", self.stream.read_u8()).await {
            Ok(kind) => (kind, in_time("a length", self.stream.read_u32()).await.expect("a whole header")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
            Err(error) => panic!("instead of a message: {error}"),
        };
        let (kind, length) = header;
        Some(Message { kind, body: self.bytes(length as usize - 4).await })
    }

    /// Messages up to and with the first of `kind`, or up to the end.
    pub async fn messages_until(&mut self, kind: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.message().await {
            let is_last = message.kind == kind;
            messages.push(message);
            if is_last {
                break;
            }
        }
        messages
    }

    /// The FATAL error that ends this connection: the only thing the server still says. Closes, as clients do then.
    pub async fn fatal(mut self) -> Message {
        let message = self.message().await.expect("a message before the end");
        assert_eq!(message.kind, b'E', "an error and nothing else, but came {message:?}");
        let rest = self.rest().await;
        assert!(rest.is_empty(), "nothing follows a fatal error, but came {:?}", String::from_utf8_lossy(&rest));
        message
    }

    /// Sends a startup packet and waits for `ReadyForQuery`.
    pub async fn log_in(mut self, startup: &[u8]) -> Session {
        self.send(startup).await;
        let said = self.messages_until(b'Z').await;
        let is_ready = said.last().is_some_and(|message| message.kind == b'Z');
        assert!(is_ready, "the login failed: {said:?}");
        let key = said.into_iter().find(|message| message.kind == b'K').expect("a server gives a key");
        Session { wire: self, key: key.body }
    }
}

impl Session {
    /// A session through `server`, with the usual startup packet.
    pub async fn through(server: SocketAddr) -> Session {
        Wire::to(server).await.log_in(&plain_startup()).await
    }

    /// Sends a query and returns the answer, up to `ReadyForQuery` or the end of the session.
    pub async fn ask(&mut self, text: &str) -> Vec<Message> {
        self.wire.send(&query(text)).await;
        self.wire.messages_until(b'Z').await
    }

    /// Sends a query and returns the only column of the only row of the answer.
    pub async fn value(&mut self, text: &str) -> String {
        let answer = self.ask(text).await;
        let row = answer.iter().find(|message| message.kind == b'D');
        let row = row.unwrap_or_else(|| panic!("{text}: no row in {answer:?}"));
        String::from_utf8(row.body[6..].to_vec()).expect("text")
    }
}

pub async fn in_time<T>(what: &str, step: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, step).await.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}
