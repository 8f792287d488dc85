//! Clients that harm: crowds, clients that read slowly or not at all, clients that cause errors.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use pgvane_loadtest::login::Login;
use pgvane_loadtest::messages::{PROTOCOL_3_0, query, startup};
use pgvane_loadtest::tls::{self, Endpoint};
use pgvane_loadtest::{Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::super::world::io_error;

const CONNECT_WITHIN: Duration = Duration::from_secs(90);
/// How much a slow reader reads at a time, and the pause after it.
const SLOW_READ: usize = 16 * 1024;
const SLOW_PAUSE: Duration = Duration::from_millis(20);
const SLOW_ROWS: usize = 10_000;
/// `DataRow`: header, number of columns, length, and a value of 1000 bytes.
const SLOW_ROW_LENGTH: usize = 5 + 2 + 4 + 1000;
/// `RowDescription` of one column "repeat", `CommandComplete` of "SELECT 10000", `ReadyForQuery`.
const SLOW_REST_LENGTH: usize = 32 + 18 + 6;
const REST_WITHIN: Duration = Duration::from_secs(90);

/// `ReadyForQuery` outside a transaction.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// Clients that write in read-only transactions, one after another: as many errors 25006 as possible.
pub(super) async fn read_only_writers(server: Endpoint, count: usize, lasts: Duration) -> Result<()> {
    let until = Instant::now() + lasts;
    let writes = || async move {
        while Instant::now() < until {
            let client = Login::Trusting.connect(server, CONNECT_WITHIN).await?;
            for _ in 0..20 {
                let _refused =
                    client.batch_execute("begin read only; insert into writes values ('read only', 0, 0)").await;
                let _ended = client.batch_execute("rollback").await;
            }
        }
        Ok(())
    };
    let clients: Vec<_> = (0..count).map(|_| tokio::spawn(writes())).collect();
    for client in clients {
        client.await.expect("a client does not panic")?;
    }
    Ok(())
}

/// Connections that send `bytes` and nothing else.
/// All of them come from an address that no other client has: pgvane limits what one address may use.
pub(super) async fn crowd(
    from: Ipv4Addr,
    server: SocketAddr,
    size: usize,
    bytes: &[u8],
    lasts: Duration,
) -> Result<()> {
    let connections = connect_many(from, server, size, bytes).await?;
    sleep(lasts).await;
    drop(connections);
    Ok(())
}

pub(super) async fn connect_many(
    from: Ipv4Addr,
    server: SocketAddr,
    size: usize,
    bytes: &[u8],
) -> Result<Vec<TcpStream>> {
    let mut connections = Vec::with_capacity(size);
    for _ in 0..size {
        let mut stream = connect_from(from, server).await.map_err(|error| io_error("connecting to pgvane", error))?;
        let _closed_by_a_limit = stream.write_all(bytes).await;
        connections.push(stream);
    }
    Ok(connections)
}

/// Sessions that send a query with a large result and do not read it.
pub(super) async fn non_reading_clients(server: Endpoint, count: usize, lasts: Duration) -> Result<()> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let client = asked(server, "select repeat('x', 1000) from generate_series(1, 1000000)").await;
        clients.push(client.map_err(|error| io_error("logging in as a client that does not read", error))?);
    }
    sleep(lasts).await;
    Ok(())
}

/// Sessions that read a large result slowly, and then the rest of it: it must be whole.
pub(super) async fn slow_readers(server: Endpoint, count: usize, lasts: Duration) -> Result<()> {
    let readers: Vec<_> = (0..count).map(|_| tokio::spawn(slow_reader(server, lasts))).collect();
    for reader in readers {
        let read = reader.await.expect("a reader does not panic");
        let read = read.map_err(|error| io_error("reading slowly", error))?;
        if read != SLOW_ROWS * SLOW_ROW_LENGTH + SLOW_REST_LENGTH {
            let output = format!("{read} bytes have arrived for {SLOW_ROWS} rows");
            return Err(Error::Command { command: "reading a large result slowly".to_owned(), output });
        }
    }
    Ok(())
}

/// Returns how many bytes the result had.
async fn slow_reader(server: Endpoint, lasts: Duration) -> io::Result<usize> {
    let until = Instant::now() + lasts;
    let mut stream = asked(server, &format!("select repeat('x', 1000) from generate_series(1, {SLOW_ROWS})")).await?;
    let mut piece = vec![0; SLOW_READ];
    let (mut read, mut last) = (0, Vec::new());
    while last != READY {
        let length = timeout(REST_WITHIN, stream.read(&mut piece)).await??;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read += length;
        last.extend_from_slice(&piece[..length]);
        last.drain(..last.len().saturating_sub(READY.len()));
        if Instant::now() < until {
            sleep(SLOW_PAUSE).await;
        }
    }
    Ok(read)
}

/// A byte stream, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A session that has sent this query and has read nothing of its answer.
async fn asked(server: Endpoint, text: &str) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(server.address).await?;
    let mut stream: Box<dyn Stream> = if server.tls { Box::new(tls::start(stream).await?) } else { Box::new(stream) };
    stream.write_all(&startup(PROTOCOL_3_0, &[("user", "trusting"), ("database", "app")])).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(READY) {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    stream.write_all(&query(text)).await?;
    stream.flush().await?;
    Ok(stream)
}

async fn connect_from(client: Ipv4Addr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((client, 0).into())?;
    socket.connect(server).await
}
