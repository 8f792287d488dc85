//! Serves a socket: a limited number of connections, each with a limited length of its lines and a limited time to send
//! them. As at HAProxy, a connection without `prompt` ends when its commands are answered.

use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Uid, User};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::commands::{self, Verb};
use super::{change, info, line, servers, session_lines, stat};
use crate::admin::context::AdminContext;
use crate::admin::operator_log::Operator;
use crate::admin::served::Served;
use crate::admin::status::Status;
use crate::cluster::AdminState;
use crate::config::{AdminSocket, SocketLevel};
use crate::proxy::intake::pending::PendingConnections;
use crate::telemetry::LineLimit;

/// HAProxy's `stats maxconn`. A further connection takes the place of the oldest one, if that has lasted for a second;
/// otherwise it is closed.
const CONNECTIONS_MAX: usize = 10;

/// The longest line, in bytes; HAProxy's buffer has the same size.
const LINE_MAX: u64 = 16_384;

/// How long to wait after `accept` has failed: the process may have no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest time that a client can set with `set timeout cli`.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// Serves until it is dropped; its connections end with it. Each command is answered by the newest of `served`, and with
/// the newest of `settings`.
pub async fn serve(
    socket: std::os::unix::net::UnixListener,
    settings: watch::Receiver<AdminSocket>,
    mut served: watch::Receiver<Served>,
) {
    let socket = match UnixListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return warn!(%error, "the admin socket cannot be served"),
    };
    {
        let AdminSocket { file, level, .. } = &*settings.borrow();
        info!(path = %file.path.display(), level = level.label(), "admin socket");
    }
    let places = Arc::new(PendingConnections::default());
    let mut connections = JoinSet::new();
    let mut lines = LineLimit::new(1);
    let mut is_accepting = served.borrow_and_update().is_accepting;
    loop {
        tokio::select! {
            Ok(()) = served.changed() => is_accepting = served.borrow_and_update().is_accepting,
            accepted = socket.accept(), if is_accepting => match accepted {
                Ok((stream, _)) => {
                    let client = Client::new(&stream, settings.clone(), served.clone());
                    let places = Arc::clone(&places);
                    connections.spawn(async move {
                        let Some(place) = places.enter(None, CONNECTIONS_MAX) else { return };
                        tokio::select! {
                            () = client.converse(stream) => {}
                            () = place.evicted() => {}
                        }
                    });
                }
                Err(error) => {
                    if let Some(suppressed) = lines.admit(Instant::now()) {
                        let suppressed = (suppressed > 0).then_some(suppressed);
                        warn!(%error, suppressed, "the admin socket cannot accept a connection");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// A client of the socket.
struct Client {
    settings: watch::Receiver<AdminSocket>,
    served: watch::Receiver<Served>,
    /// The user of this host who runs it.
    uid: Option<u32>,
    /// What it has lowered its level to.
    level: SocketLevel,
    has_prompt: bool,
    /// The time that it has set.
    idle_timeout: Option<Duration>,
}

/// What a command leads to.
enum Answer {
    Text(String),
    Quit,
}

impl From<Result<String, &'static str>> for Answer {
    fn from(outcome: Result<String, &'static str>) -> Answer {
        Answer::Text(outcome.unwrap_or_else(str::to_owned))
    }
}

impl From<Result<(), String>> for Answer {
    fn from(outcome: Result<(), String>) -> Answer {
        Answer::Text(outcome.err().unwrap_or_default())
    }
}

impl Client {
    fn new(stream: &UnixStream, settings: watch::Receiver<AdminSocket>, served: watch::Receiver<Served>) -> Client {
        let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
        Client { settings, served, uid, level: SocketLevel::Admin, has_prompt: false, idle_timeout: None }
    }

    /// Reads lines and answers their commands. An error needs no log line: the client sees it.
    async fn converse(mut self, mut stream: UnixStream) {
        let (receive, mut send) = stream.split();
        let mut received = BufReader::new(receive);
        loop {
            let mut text = Vec::new();
            let mut limited = (&mut received).take(LINE_MAX);
            match timeout(self.idle_timeout(), limited.read_until(b'\n', &mut text)).await {
                Ok(Ok(length)) if length > 0 => {}
                _ => return,
            }
            let is_too_long = text.len() as u64 == LINE_MAX && !text.ends_with(b"\n");
            let (answer, is_over) = match is_too_long {
                true => ("The command is too long.\n\n".to_owned(), true),
                false => self.answer(&String::from_utf8_lossy(&text)).await,
            };
            if !matches!(timeout(self.idle_timeout(), send.write_all(answer.as_bytes())).await, Ok(Ok(()))) {
                return;
            }
            if is_over || !self.has_prompt && received.buffer().is_empty() {
                return;
            }
        }
    }

    fn idle_timeout(&self) -> Duration {
        self.idle_timeout.unwrap_or_else(|| self.settings.borrow().idle_timeout)
    }

    /// What the client may do now.
    fn level(&self) -> SocketLevel {
        self.level.min(self.settings.borrow().level)
    }

    /// The answers to the commands of a line, and whether the connection is over.
    async fn answer(&mut self, line: &str) -> (String, bool) {
        let mut all = line::commands(line);
        if all.is_empty() {
            all.push(Vec::new());
        }
        let mut text = String::new();
        for words in all {
            match self.execute(&words).await {
                Answer::Text(answer) => text += &answer,
                Answer::Quit => return (text, true),
            }
            text += if self.has_prompt { "\n> " } else { "\n" };
        }
        (text, false)
    }

    async fn execute(&mut self, words: &[String]) -> Answer {
        let Some((command, rest)) = commands::find(words) else {
            let is_silent = words.is_empty() && self.has_prompt;
            return Answer::Text(if is_silent { String::new() } else { commands::unknown(words) });
        };
        if command.level > self.level() {
            return Answer::Text("Permission denied\n".to_owned());
        }
        let context = self.served.borrow().context.clone();
        let status = || Status::of(&context);
        match command.verb {
            Verb::DisableServer => self.change(&context, Change::State(AdminState::Maint), rest).await,
            Verb::EnableServer => self.change(&context, Change::State(AdminState::Ready), rest).await,
            Verb::SetServer => self.change(&context, Change::Server, rest).await,
            Verb::SetWeight => self.change(&context, Change::Weight, rest).await,
            Verb::ShutdownSession => self.change(&context, Change::EndSession, rest).await,
            Verb::ShutdownSessions => self.change(&context, Change::EndSessions, rest).await,
            Verb::GetWeight => change::weight_of(&status(), rest).into(),
            Verb::ShowBackend => Answer::Text(stat::backends(&status())),
            Verb::ShowInfo => Answer::Text(info::info(&status(), rest)),
            Verb::ShowServersConn => servers::conn(&status(), rest.first()).into(),
            Verb::ShowServersState => servers::state(&status(), rest.first()).into(),
            Verb::ShowSessions => session_lines::sessions(&context, rest).into(),
            Verb::ShowStat => stat::stat(&status(), rest).into(),
            Verb::ShowVersion => Answer::Text(format!("{}\n", status().version)),
            Verb::ShowSockets => Answer::Text(sockets(&context)),
            Verb::ShowLevel => Answer::Text(format!("{}\n", self.level().label())),
            Verb::LowerTo(level) => {
                self.level = self.level.min(level);
                Answer::Text(String::new())
            }
            Verb::SetTimeout => self.set_timeout(rest.first()).into(),
            Verb::Help => Answer::Text(commands::help(rest)),
            Verb::Prompt => {
                self.has_prompt = !self.has_prompt;
                Answer::Text(String::new())
            }
            Verb::Quit => Answer::Quit,
        }
    }

    async fn change(&self, context: &AdminContext, change: Change, words: &[String]) -> Answer {
        let user = user(self.uid).await;
        let from = format!("unix:{}", self.settings.borrow().file.path.display());
        let by = Operator { user: &user, from: &from };
        let outcome = match change {
            Change::Server => change::server(context, by, words).await,
            Change::State(state) => change::state(context, by, state, words).await,
            Change::Weight => change::weight(context, by, words).await,
            Change::EndSession => change::shut_down_session(context, by, words),
            Change::EndSessions => change::shut_down_sessions(context, by, words),
        };
        outcome.into()
    }

    fn set_timeout(&mut self, given: Option<&String>) -> Result<String, &'static str> {
        let given = given.ok_or("Expects an integer value.\n")?;
        let timeout = delay(given).filter(|time| (Duration::from_millis(1)..=IDLE_MAX).contains(time));
        self.idle_timeout = Some(timeout.ok_or("Invalid timeout value.\n")?);
        Ok(String::new())
    }
}

/// A command that changes something.
enum Change {
    Server,
    State(AdminState),
    Weight,
    EndSession,
    EndSessions,
}

/// The name of a user of this host; its number if it has no name.
async fn user(uid: Option<u32>) -> String {
    let Some(uid) = uid else { return "?".to_owned() };
    // the name may come from a directory service
    let name = spawn_blocking(move || User::from_uid(Uid::from_raw(uid)).ok().flatten()).await.ok().flatten();
    name.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

fn sockets(context: &AdminContext) -> String {
    let line =
        |AdminSocket { file, level, .. }: &AdminSocket| format!("unix@{} {} all\n", file.path.display(), level.label());
    let lines: String = context.config.admin_sockets.iter().map(line).collect();
    format!("# socket lvl processes\n{lines}")
}

/// A time in HAProxy's form: seconds, or a number with `us`, `ms`, `s`, `m`, `h` or `d`.
fn delay(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number = u32::try_from(number.parse::<u64>().ok()?).ok()?;
    let unit = match unit {
        "us" => Duration::from_micros(1),
        "ms" => Duration::from_millis(1),
        "" | "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        "d" => Duration::from_secs(86_400),
        _ => return None,
    };
    unit.checked_mul(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_haproxy_reads_it() {
        for (text, expected) in
            [("10", Some(10_000)), ("250ms", Some(250)), ("2m", Some(120_000)), ("1h", Some(3_600_000))]
        {
            assert_eq!(delay(text), expected.map(Duration::from_millis), "{text}");
        }
        for wrong in ["", "x", "10x", "-1", "1min", "99999999999"] {
            assert_eq!(delay(wrong), None, "{wrong}");
        }
    }
}
