//! A server that speaks just enough of PostgreSQL's protocol to be logged in to, and misbehaves on demand.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::wire::{cancel_request, error, fatal, gss_request, message, parameter_status, ready, row, ssl_request};

/// What happens to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Refuses encryption, lets everybody in, and answers queries:
    /// `who` with a row that holds the server's name; `begin` and `commit` with the transaction's new state;
    /// `half` with the first half of a row, and nothing after it; `many` with [`MANY_ROWS`] rows of [`LONG_ANSWER`] bytes, `long` with one of them, after the
    /// client has finished sending; `fail` with an error, `raise 57P01` with one that a function of the user's has raised, `write` with that of one that only reads; `vanish` by closing without a word;
    /// `pause` with success after it has read nothing for [`PAUSE`];
    /// `shut down` by saying that it does, and closing; anything else with success.
    Serves,
    /// The same, but asks for a proof first, in the manner of SCRAM, and takes any.
    Challenges,
    /// Asks for a proof, and closes the connection when it has been given one.
    VanishesAfterProof,
    /// The same as [`Manner::Challenges`], but takes a message that comes in two pieces for an attack, as PgBouncer before
    /// 1.19 does.
    ReadsWholeMessages,
    /// Asks for a proof, and says nothing more when it has been given one.
    FreezesAfterProof,
    /// Asks for a password in plaintext, or as MD5, and takes any.
    WantsPassword { md5: bool },
    /// Sends notices without end, and is never ready.
    Babbles,
    /// Refuses the session with this SQLSTATE.
    Refuses(&'static str),
    /// Takes the connection and never says a word.
    KeepsSilent,
    /// Closes at once.
    HangsUp,
    /// Agrees to encryption, asked for or begun without asking; instead of a handshake every byte comes back.
    Encrypts,
}

/// `AuthenticationSASL`, as a server asks it that takes SCRAM.
const CHALLENGE: &[u8] = b"\0\0\0\x0aSCRAM-SHA-256\0\0";

/// For how long `pause` makes it read nothing: longer than the shortest `tcp_user_timeout`.
pub const PAUSE: Duration = Duration::from_secs(45);

/// How many such rows answer `many`.
pub const MANY_ROWS: usize = 8;

/// Of the row that answers `long`; more than all buffers on the way hold.
pub const LONG_ANSWER: usize = 8 << 20;

pub struct FakePostgres {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    name: String,
    script: Mutex<Script>,
}

struct Script {
    usual: Manner,
    next: VecDeque<Manner>,
    is_in_recovery: bool,
    seen: Seen,
}

/// What has reached the server, byte for byte.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Connections accepted.
    pub connections: usize,
    /// Startup packets.
    pub startups: Vec<Vec<u8>>,
    /// What clients have answered when they were asked for a proof.
    pub proofs: Vec<Vec<u8>>,
    /// Sessions and logins that have ended.
    pub ended: usize,
    /// Cancel requests.
    pub cancels: Vec<Vec<u8>>,
}

impl FakePostgres {
    pub async fn start(name: &str) -> FakePostgres {
        let seen = Seen::default();
        let script = Script { usual: Manner::Serves, next: VecDeque::new(), is_in_recovery: false, seen };
        let shared = Arc::new(Shared { name: name.to_owned(), script: Mutex::new(script) });
        // open to networks of tests too, see `Namespace`
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a port");
        let port = listener.local_addr().expect("is bound").port();
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let accepting = Some(tokio::spawn(accept(listener, Arc::clone(&shared))));
        FakePostgres { address, shared, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port; connections that are open stay.
    pub fn closes(&mut self) {
        self.accepting.take().inspect(JoinHandle::abort);
    }

    /// Opens the port again.
    pub async fn opens(&mut self) {
        let listener =
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, self.address.port())).await.expect("nobody else has taken it");
        self.accepting = Some(tokio::spawn(accept(listener, Arc::clone(&self.shared))));
    }

    /// What happens to the connections to come, in this order; after them comes what is usual.
    pub fn next(&self, manners: &[Manner]) {
        self.shared.script().next.extend(manners);
    }

    /// What happens to every connection; [`Manner::Serves`] unless set.
    pub fn usually(&self, manner: Manner) {
        self.shared.script().usual = manner;
    }

    /// What it answers to whoever asks at login.
    pub fn is_in_recovery(&self, yes: bool) {
        self.shared.script().is_in_recovery = yes;
    }

    pub fn seen(&self) -> Seen {
        self.shared.script().seen.clone()
    }
}

impl Drop for FakePostgres {
    fn drop(&mut self) {
        self.closes();
    }
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no test panics with this lock")
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let manner = {
            let mut script = shared.script();
            script.seen.connections += 1;
            script.next.pop_front().unwrap_or(script.usual)
        };
        let shared = Arc::clone(&shared);
        // a connection that breaks is what many a test wants
        tokio::spawn(async move {
            attend(stream, manner, &shared).await.ok();
            shared.script().seen.ended += 1;
        });
    }
}

async fn attend(mut stream: TcpStream, manner: Manner, shared: &Shared) -> io::Result<()> {
    match manner {
        Manner::HangsUp => return Ok(()),
        Manner::KeepsSilent => return stay_until_closed(&mut stream).await,
        _ => {}
    }
    loop {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first == [0x16] {
            return echo(&mut stream).await;
        }
        let opening = read_opening(&mut stream).await?;
        if opening == ssl_request() && manner == Manner::Encrypts {
            stream.write_all(b"S").await?;
            return echo(&mut stream).await;
        } else if opening == ssl_request() || opening == gss_request() {
            stream.write_all(b"N").await?;
        } else if opening[4..8] == cancel_request(b"")[4..8] {
            shared.script().seen.cancels.push(opening);
            return Ok(());
        } else {
            shared.script().seen.startups.push(opening);
            break;
        }
    }
    match manner {
        Manner::Refuses(sqlstate) => stream.write_all(&fatal(sqlstate, "not now, says the server")).await,
        _ => serve(stream, manner, shared).await,
    }
}

async fn serve(mut stream: TcpStream, manner: Manner, shared: &Shared) -> io::Result<()> {
    match manner {
        Manner::Challenges | Manner::VanishesAfterProof | Manner::FreezesAfterProof => {
            stream.write_all(&message(b'R', CHALLENGE)).await?;
            let (_, proof) = read_message(&mut stream).await?;
            shared.script().seen.proofs.push(proof);
        }
        Manner::WantsPassword { md5 } => {
            let request: &[u8] = if md5 { b"\0\0\0\x05salt" } else { b"\0\0\0\x03" };
            stream.write_all(&message(b'R', request)).await?;
            let (_, password) = read_message(&mut stream).await?;
            shared.script().seen.proofs.push(password);
        }
        Manner::ReadsWholeMessages => {
            stream.write_all(&message(b'R', CHALLENGE)).await?;
            if !read_at_once(&mut stream).await? {
                return stream.write_all(&fatal("08P01", "client sent partial pkt in startup phase")).await;
            }
        }
        Manner::Babbles => loop {
            stream
                .write_all(&message(b'N', &[b"SNOTICE\0Mblah\0".as_slice(), &[b'x'; 1000], b"\0\0"].concat()))
                .await?;
        },
        _ => {}
    }
    match manner {
        Manner::VanishesAfterProof => return Ok(()),
        Manner::FreezesAfterProof => return stay_until_closed(&mut stream).await,
        _ => {}
    }
    let in_recovery = if shared.script().is_in_recovery { "on" } else { "off" };
    let welcome = [
        message(b'R', &[0; 4]),
        parameter_status("server_version", "15.8"),
        parameter_status("in_hot_standby", in_recovery),
        message(b'K', &new_key()),
        ready(b'I'),
    ];
    stream.write_all(&welcome.concat()).await?;
    let mut transaction = b'I';
    loop {
        let (kind, body) = read_message(&mut stream).await?;
        let answer = match (kind, body.as_slice()) {
            (b'X', _) | (b'Q', b"vanish\0") => return Ok(()),
            (b'Q', b"write\0") => {
                stream.write_all(&[error("25006", "cannot execute INSERT"), ready(transaction)].concat()).await?;
                continue;
            }
            (b'Q', b"raise 57P01\0") => {
                stream.write_all(&[error("57P01", "raised by a function"), ready(transaction)].concat()).await?;
                continue;
            }
            (b'Q', b"fail\0") => {
                stream.write_all(&[error("22012", "division by zero"), ready(transaction)].concat()).await?;
                continue;
            }
            (b'Q', b"who\0") => row(shared.name.as_bytes()),
            (b'Q', b"shut down\0") => return stream.write_all(&fatal("57P01", "I shut down")).await,
            (b'Q', b"half\0") => {
                stream.write_all(&row(b"a row of which nobody will ever see the end")[..20]).await?;
                return stay_until_closed(&mut stream).await;
            }
            (b'Q', b"pause\0") => {
                tokio::time::sleep(PAUSE).await;
                Vec::new()
            }
            (b'Q', b"many\0") => row(&vec![b'x'; LONG_ANSWER]).repeat(MANY_ROWS),
            (b'Q', b"long\0") => {
                stay_until_closed(&mut stream).await?;
                row(&vec![b'x'; LONG_ANSWER])
            }
            _ => Vec::new(),
        };
        transaction = match body.as_slice() {
            b"begin\0" => b'T',
            b"commit\0" => b'I',
            _ => transaction,
        };
        stream.write_all(&[answer, message(b'C', b"DONE\0"), ready(transaction)].concat()).await?;
    }
}

/// A process id that no other session has had, and a secret of four bytes.
fn new_key() -> Vec<u8> {
    static PROCESS_ID: AtomicU32 = AtomicU32::new(1);
    let process_id = PROCESS_ID.fetch_add(1, Ordering::Relaxed);
    [process_id, process_id ^ 0x5ca1_ab1e].map(u32::to_be_bytes).concat()
}

async fn read_opening(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut packet = length.to_be_bytes().to_vec();
    packet.resize(length as usize, 0);
    stream.read_exact(&mut packet[4..]).await?;
    Ok(packet)
}

/// Whether one read brings whole messages only.
async fn read_at_once(stream: &mut TcpStream) -> io::Result<bool> {
    let mut bytes = vec![0; 4096];
    let length = stream.read(&mut bytes).await?;
    let mut rest = &bytes[..length];
    while let Some((header, _)) = rest.split_first_chunk::<5>() {
        let whole = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize + 1;
        let Some(behind) = rest.get(whole..) else { return Ok(false) };
        rest = behind;
    }
    Ok(rest.is_empty() && length > 0)
}

async fn read_message(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await?;
    let mut body = vec![0; stream.read_u32().await? as usize - 4];
    stream.read_exact(&mut body).await?;
    Ok((kind, body))
}

async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

async fn stay_until_closed(stream: &mut TcpStream) -> io::Result<()> {
    tokio::io::copy(stream, &mut tokio::io::sink()).await.map(drop)
}
