//! A server that speaks as much of PostgreSQL's protocol as a login and a simple query need, and misbehaves on demand.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::messages::{
    cancel_request, error, fatal, gss_request, message, one_column, parameter_status, ready, row, ssl_request,
};

/// How the server treats one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Refuses encryption, accepts every login, and answers the question of a check (`pg_is_in_recovery()`, or `NOT` it)
    /// and these queries:
    ///
    /// - `who` with a row that holds the server's name
    /// - `begin` and `commit` with the transaction's new state
    /// - `half` with the first half of a row, and nothing after it
    /// - `many` with [`MANY_ROWS`] rows of [`LONG_ANSWER`] bytes
    /// - `long` with one such row, after the client has finished sending
    /// - `fail` with an error, `raise 57P01` with one that a user's function has raised, `write` with that of a server
    ///   that is read only
    /// - `pause` with success, after it has read nothing for [`PAUSE`]
    /// - `close` by closing the connection without a message
    /// - `shut down` with the error that it shuts down, and by closing the connection
    /// - any other with success
    Serves,
    /// As [`Behaviour::Serves`], but lets nobody call `pg_control_system()`.
    HidesControlData,
    /// Accepts every login, and answers no query.
    AnswersNoQuery,
    /// As [`Behaviour::Serves`], but asks for SCRAM first, and accepts any answer.
    AsksForScram,
    /// Asks for SCRAM, and closes the connection after the client's answer.
    ClosesAfterScram,
    /// Asks for SCRAM, and sends nothing after the client's answer.
    HangsAfterScram,
    /// As [`Behaviour::AsksForScram`], but refuses a message that arrives in two pieces, as PgBouncer before 1.19 does.
    RefusesPartialMessages,
    /// As [`Behaviour::Serves`], but asks for a password in plaintext, or as MD5, and accepts any.
    AsksForPassword {
        /// As MD5.
        md5: bool,
    },
    /// Sends notices without end, and is never ready.
    SendsNoticesForever,
    /// Answers the startup packet with an error of this SQLSTATE and this text, and closes the connection.
    Refuses(&'static str, &'static str),
    /// Accepts the connection and sends nothing.
    AnswersNothing,
    /// Closes the connection at once.
    ClosesAtOnce,
    /// Agrees to encryption, also to a handshake that begins without a question; then sends back each byte in place of
    /// a handshake.
    EchoesInsteadOfTls,
}

/// PostgreSQL's answer while it starts.
pub const STARTING_UP: Behaviour = Behaviour::Refuses("57P03", "the database system is starting up");

/// PostgreSQL's answer while it stops.
pub const SHUTTING_DOWN: Behaviour = Behaviour::Refuses("57P03", "the database system is shutting down");

/// PostgreSQL's answer if `max_connections` is reached.
pub const TOO_MANY_CLIENTS: Behaviour = Behaviour::Refuses("53300", TOO_MANY_CLIENTS_TEXT);

/// The text of [`TOO_MANY_CLIENTS`].
pub const TOO_MANY_CLIENTS_TEXT: &str = "sorry, too many clients already";

/// PostgreSQL's answer to a wrong password.
pub const WRONG_PASSWORD: Behaviour = Behaviour::Refuses("28P01", "password authentication failed for user \"u\"");

/// `AuthenticationSASL` of a server that offers SCRAM.
const SCRAM: &[u8] = b"\0\0\0\x0aSCRAM-SHA-256\0\0";

/// For how long the query `pause` makes it read nothing: longer than the shortest `tcp_user_timeout`.
pub const PAUSE: Duration = Duration::from_secs(45);

/// How many rows answer the query `many`.
pub const MANY_ROWS: usize = 8;

/// Length of the row that answers the query `long`: more than all buffers between server and client hold.
pub const LONG_ANSWER: usize = 8 << 20;

/// No condition that a test waits for takes this long, unless something is wrong.
const SOON: Duration = Duration::from_secs(20);

/// A server, until it is dropped.
#[derive(Debug)]
pub struct FakePostgres {
    address: SocketAddr,
    listens_on: Ipv4Addr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    script: Mutex<Script>,
    logins_are_held: watch::Sender<bool>,
    crashes: watch::Sender<()>,
    seen: watch::Sender<Seen>,
}

#[derive(Debug)]
struct Script {
    usual: Behaviour,
    next: VecDeque<Behaviour>,
    is_in_recovery: bool,
}

/// What has reached the server, byte for byte.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Connections accepted.
    pub connections: usize,
    /// Startup packets.
    pub startups: Vec<Vec<u8>>,
    /// What clients have sent when they were asked for a password or for SCRAM.
    pub passwords: Vec<Vec<u8>>,
    /// Connections that ended with the client's Terminate.
    pub terminated: usize,
    /// Connections that have ended, for any reason.
    pub ended: usize,
    /// Cancel requests.
    pub cancels: Vec<Vec<u8>>,
}

impl FakePostgres {
    /// A primary that serves. Needs a tokio runtime.
    pub async fn start(name: &str) -> FakePostgres {
        // open to networks of tests too, see `Namespace`
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a port");
        let port = listener.local_addr().expect("is bound").port();
        FakePostgres::serving(name, listener, Ipv4Addr::UNSPECIFIED, (Ipv4Addr::LOCALHOST, port).into())
    }

    /// The same at this address of loopback.
    pub async fn start_at(name: &str, ip: Ipv4Addr, port: u16) -> FakePostgres {
        let listener = TcpListener::bind((ip, port)).await.unwrap_or_else(|error| panic!("{ip}:{port}: {error}"));
        FakePostgres::serving(name, listener, ip, (ip, port).into())
    }

    fn serving(name: &str, listener: TcpListener, listens_on: Ipv4Addr, address: SocketAddr) -> FakePostgres {
        let script = Script { usual: Behaviour::Serves, next: VecDeque::new(), is_in_recovery: false };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            script: Mutex::new(script),
            logins_are_held: watch::Sender::new(false),
            crashes: watch::Sender::default(),
            seen: watch::Sender::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        FakePostgres { address, listens_on, shared, accepting }
    }

    /// On loopback.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port: once this returns, connections are refused. Those that are open stay.
    pub async fn closes(&mut self) {
        super::end(&self.accepting).await;
    }

    /// Closes the port and every connection.
    pub async fn crashes(&mut self) {
        self.closes().await;
        self.shared.crashes.send_replace(());
    }

    /// Opens the port again.
    pub async fn opens(&mut self) {
        let listener =
            TcpListener::bind((self.listens_on, self.address.port())).await.expect("nobody else has taken it");
        self.accepting = tokio::spawn(accept(listener, Arc::clone(&self.shared)));
    }

    /// Treats the next connections so, in this order; those after them are treated as usual.
    pub fn next(&self, behaviours: &[Behaviour]) {
        self.shared.script().next.extend(behaviours);
    }

    /// Treats each connection so from now on; [`Behaviour::Serves`] unless set.
    pub fn usually(&self, behaviour: Behaviour) {
        self.shared.script().usual = behaviour;
    }

    /// Whether it is a standby: what it says at login and to pgvane's check.
    pub fn is_in_recovery(&self, yes: bool) {
        self.shared.script().is_in_recovery = yes;
    }

    /// Answers no startup packet until [`FakePostgres::releases_logins`].
    pub fn holds_logins(&self) {
        self.shared.logins_are_held.send_replace(true);
    }

    /// Answers the startup packets that it has held, and those to come.
    pub fn releases_logins(&self) {
        self.shared.logins_are_held.send_replace(false);
    }

    /// What has reached it so far.
    pub fn seen(&self) -> Seen {
        self.shared.seen.borrow().clone()
    }

    /// Waits until what has reached it fulfils this condition; returns it as it was at that moment.
    ///
    /// # Panics
    /// If that takes longer than 20 seconds.
    pub async fn has_seen(&self, what: &str, is_fulfilled: impl FnMut(&Seen) -> bool) -> Seen {
        let mut changes = self.shared.seen.subscribe();
        match tokio::time::timeout(SOON, changes.wait_for(is_fulfilled)).await {
            Ok(seen) => seen.expect("the sender is ours").clone(),
            Err(_elapsed) => panic!("{what}: not within {SOON:?}, but {:?}", self.seen()),
        }
    }
}

impl Drop for FakePostgres {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("nothing panics with this lock")
    }

    fn saw(&self, change: impl FnOnce(&mut Seen)) {
        self.seen.send_modify(change);
    }

    /// The server's answer to a query, without `CommandComplete` and `ReadyForQuery`.
    fn answer_to_check(&self, question: &str, behaviour: Behaviour) -> Result<Vec<u8>, Vec<u8>> {
        if behaviour == Behaviour::HidesControlData && question.contains("pg_control_system") {
            return Err(error("42501", "permission denied for function pg_control_system"));
        }
        let asks_for_the_opposite = question.to_ascii_lowercase().starts_with("select not ");
        let answer: &[u8] = if self.script().is_in_recovery == asks_for_the_opposite { b"f" } else { b"t" };
        Ok([one_column("in_recovery"), row(answer)].concat())
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let behaviour = {
            let mut script = shared.script();
            script.next.pop_front().unwrap_or(script.usual)
        };
        shared.saw(|seen| seen.connections += 1);
        let shared = Arc::clone(&shared);
        let mut crashes = shared.crashes.subscribe();
        tokio::spawn(async move {
            // connections that break are what many tests want
            tokio::select! {
                _broken = attend(stream, behaviour, &shared) => {}
                _crash = crashes.changed() => {}
            }
            shared.saw(|seen| seen.ended += 1);
        });
    }
}

async fn attend(mut stream: TcpStream, behaviour: Behaviour, shared: &Shared) -> io::Result<()> {
    match behaviour {
        Behaviour::ClosesAtOnce => return Ok(()),
        Behaviour::AnswersNothing => return stay_until_closed(&mut stream).await,
        _ => {}
    }
    loop {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first == [0x16] {
            return echo(&mut stream).await;
        }
        let opening = read_opening(&mut stream).await?;
        if opening == ssl_request() && behaviour == Behaviour::EchoesInsteadOfTls {
            stream.write_all(b"S").await?;
            return echo(&mut stream).await;
        } else if opening == ssl_request() || opening == gss_request() {
            stream.write_all(b"N").await?;
        } else if opening[4..8] == cancel_request(b"")[4..8] {
            shared.saw(|seen| seen.cancels.push(opening));
            return Ok(());
        } else {
            shared.saw(|seen| seen.startups.push(opening));
            break;
        }
    }
    let mut logins_are_held = shared.logins_are_held.subscribe();
    logins_are_held.wait_for(|held| !held).await.expect("the sender is shared");
    match behaviour {
        Behaviour::Refuses(sqlstate, text) => stream.write_all(&fatal(sqlstate, text)).await,
        Behaviour::SendsNoticesForever => send_notices(&mut stream).await,
        _ => {
            if authenticate(&mut stream, behaviour, shared).await? {
                serve(stream, behaviour, shared).await?;
            }
            Ok(())
        }
    }
}

/// Asks for a password, where the behaviour says so; `false` if the connection has ended.
async fn authenticate(stream: &mut TcpStream, behaviour: Behaviour, shared: &Shared) -> io::Result<bool> {
    let request = match behaviour {
        Behaviour::AsksForScram | Behaviour::ClosesAfterScram | Behaviour::HangsAfterScram => SCRAM,
        Behaviour::AsksForPassword { md5: true } => b"\0\0\0\x05salt",
        Behaviour::AsksForPassword { md5: false } => b"\0\0\0\x03",
        Behaviour::RefusesPartialMessages => {
            stream.write_all(&message(b'R', SCRAM)).await?;
            if !read_at_once(stream).await? {
                stream.write_all(&fatal("08P01", "client sent partial pkt in startup phase")).await?;
                return Ok(false);
            }
            return Ok(true);
        }
        _ => return Ok(true),
    };
    stream.write_all(&message(b'R', request)).await?;
    let (_, password) = read_message(stream).await?;
    shared.saw(|seen| seen.passwords.push(password));
    match behaviour {
        Behaviour::ClosesAfterScram => Ok(false),
        Behaviour::HangsAfterScram => stay_until_closed(stream).await.map(|()| false),
        _ => Ok(true),
    }
}

async fn serve(mut stream: TcpStream, behaviour: Behaviour, shared: &Shared) -> io::Result<()> {
    let in_recovery = if shared.script().is_in_recovery { "on" } else { "off" };
    let startup_response = [
        message(b'R', &[0; 4]),
        parameter_status("server_version", "15.8"),
        parameter_status("in_hot_standby", in_recovery),
        message(b'K', &new_key()),
        ready(b'I'),
    ];
    stream.write_all(&startup_response.concat()).await?;
    let mut transaction = b'I';
    loop {
        let (kind, body) = read_message(&mut stream).await?;
        let query = std::str::from_utf8(&body).unwrap_or_default().trim_end_matches('\0');
        let answer = match (kind, query) {
            (b'X', _) => {
                shared.saw(|seen| seen.terminated += 1);
                return Ok(());
            }
            (b'Q', _) if behaviour == Behaviour::AnswersNoQuery => continue,
            (b'Q', "close") => return Ok(()),
            (b'Q', "shut down") => return stream.write_all(&fatal("57P01", "I shut down")).await,
            (b'Q', "half") => {
                stream.write_all(&row(b"a row of which only the first half is ever sent")[..20]).await?;
                return stay_until_closed(&mut stream).await;
            }
            (b'Q', "write") => Err(error("25006", "cannot execute INSERT")),
            (b'Q', "raise 57P01") => Err(error("57P01", "raised by a function")),
            (b'Q', "fail") => Err(error("22012", "division by zero")),
            (b'Q', "who") => Ok(row(shared.name.as_bytes())),
            (b'Q', "pause") => {
                tokio::time::sleep(PAUSE).await;
                Ok(Vec::new())
            }
            (b'Q', "many") => Ok(row(&vec![b'x'; LONG_ANSWER]).repeat(MANY_ROWS)),
            (b'Q', "long") => {
                stay_until_closed(&mut stream).await?;
                Ok(row(&vec![b'x'; LONG_ANSWER]))
            }
            (b'Q', question) if question.contains("pg_is_in_recovery") => shared.answer_to_check(question, behaviour),
            _ => Ok(Vec::new()),
        };
        transaction = match query {
            "begin" => b'T',
            "commit" => b'I',
            _ => transaction,
        };
        let end = answer.as_ref().map_or_else(|_| Vec::new(), |_| message(b'C', b"DONE\0"));
        let answer = answer.unwrap_or_else(|error| error);
        stream.write_all(&[answer, end, ready(transaction)].concat()).await?;
    }
}

async fn send_notices(stream: &mut TcpStream) -> io::Result<()> {
    let notice = message(b'N', &[b"SNOTICE\0Mblah\0".as_slice(), &[b'x'; 1000], b"\0\0"].concat());
    loop {
        stream.write_all(&notice).await?;
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
