//! The process that is taken over from: it starts the new one, lets it have the ports, and sends it the sessions.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use super::message::{Message, common_format, decode, encode};
use super::program::Program;
use super::role_keys::send_role_keys;
use crate::admin::upgrades::{Upgrade, UpgradeRequest};
use crate::app::parts::{CopiedPlace, Parts};
use crate::app::service_manager::ServiceManager;
use crate::net::packets::{DESCRIPTORS_MAX, PacketSocket};
use crate::proxy::sessions::moving::{Departure, QUEUE_LENGTH};

/// How long the new process may take until it is ready: it loads certificates and checks all nodes.
const START_MAX: Duration = Duration::from_secs(30);

/// How long it may take then to accept connections, which wait meanwhile; and to answer for a session.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How many sessions are on their way at the same time: few, so that each waits for a few others only.
const MOVING_MAX: usize = 32;

/// How often sessions are asked to move that were on their way to a node before.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// How often it is said how many sessions are left.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// So many numbers are left for sessions that begin in the old process while it is replaced.
const NUMBERS_LEFT: u64 = 1_000_000;

/// How long the requests to the admin port that are being answered have to end.
const ADMIN_GRACE: Duration = Duration::from_secs(5);

/// Runs at most one start of a new process.
pub(crate) struct Upgrader {
    program: Program,
    running: Option<(UpgradeRequest, JoinHandle<Result<Successor, String>>)>,
}

/// Copies of all sockets at which this process listens.
struct Copies {
    places: Vec<CopiedPlace>,
    admin: Option<CopiedPlace>,
    admin_sockets: Vec<CopiedPlace>,
}

/// The new process.
pub(crate) struct Successor {
    child: Child,
    connection: PacketSocket,
    /// `None` if the two know no common format for sessions.
    format: Option<u32>,
    version: String,
}

/// How it ended that sessions moved to the new process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// No session is left here.
    All,
    /// `drain_timeout` is over, or a second signal came: those that are left have to end.
    TimeIsOver,
    /// The new process has failed, and this one goes on.
    SuccessorFailed,
}

impl Upgrader {
    pub(crate) fn new(program: Program) -> Upgrader {
        Upgrader { program, running: None }
    }

    /// Whether a new process is being started.
    pub(crate) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Begins to start the new process.
    pub(crate) fn begin(&mut self, request: UpgradeRequest, parts: &Parts) {
        info!(by = request.by, program = self.program.file(), "upgrading: starting a new process");
        let program = self.program.clone();
        let (places, admin, admin_sockets) =
            (parts.places_to_copy(), parts.admin_to_copy(), parts.admin_sockets_to_copy());
        let why_not = parts.why_no_upgrade();
        let numbers = (parts.registry.clock_age(), parts.registry.next_id() + NUMBERS_LEFT);
        let running = tokio::spawn(async move {
            if std::process::id() == 1 {
                return Err(
                    "pgvane is the first process of a container, which ends with it: start a new container".into()
                );
            }
            if let Some(why_not) = why_not {
                return Err(why_not);
            }
            let copies = Copies { places: places?, admin: admin?, admin_sockets: admin_sockets? };
            start(&program, copies, numbers).await
        });
        self.running = Some((request, running));
    }

    /// Waits until the new process is ready, or has failed; forever if none is being started. Cancel safe.
    pub(crate) async fn started(&mut self) -> (UpgradeRequest, Result<Successor, String>) {
        let started = match &mut self.running {
            Some((_, running)) => running.await.unwrap_or_else(|error| Err(format!("starting failed: {error}"))),
            None => return pending().await,
        };
        match self.running.take() {
            Some((request, _)) => (request, started),
            None => pending().await, // it was there a line above
        }
    }
}

/// Starts the new process, and waits until it is ready. Errors: why it is not; it has ended then.
async fn start(program: &Program, copies: Copies, numbers: (Duration, u64)) -> Result<Successor, String> {
    let cannot = |error: io::Error| format!("cannot start {}: {error}", program.file());
    let (ours, theirs) = PacketSocket::pair().map_err(cannot)?;
    let connection = PacketSocket::watch(ours).map_err(cannot)?;
    let mut child = program.start(theirs).map_err(cannot)?;
    let greeted = timeout(START_MAX, greet(&connection, &copies, numbers)).await;
    let why = match greeted {
        Ok(Ok((format, version))) => return Ok(Successor { child, connection, format, version }),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => String::new(),
        Ok(Err(error)) => format!(": {error}"),
        Err(_) => format!(" within {} s", START_MAX.as_secs()),
    };
    if why.is_empty()
        && let Ok(Ok(status)) = timeout(ANSWER_MAX, child.wait()).await
    {
        return Err(format!("the new process ended before it was ready: {}", told(status)));
    }
    end(&mut child).await;
    Err(format!("the new process did not become ready{why}"))
}

fn told(status: ExitStatus) -> String {
    format!("{status}; its messages are in the log of this process")
}

async fn end(child: &mut Child) {
    let _ = child.kill().await; // it may have ended already
}

/// Sends the sockets, and waits until the new process is ready. Returns the format that both know, and the other version.
async fn greet(
    connection: &PacketSocket,
    copies: &Copies,
    (clock, first_session): (Duration, u64),
) -> io::Result<(Option<u32>, String)> {
    let Message::Hello { formats, version } = receive(connection).await? else { return Err(unexpected()) };
    let format = common_format(&formats);
    send(connection, &Message::Welcome { format, version: env!("CARGO_PKG_VERSION").to_owned() }, &[]).await?;
    for CopiedPlace { owner, bind, sockets } in &copies.places {
        for sockets in sockets.chunks(DESCRIPTORS_MAX) {
            send_sockets(connection, &Message::Place { listener: owner.clone(), bind: bind.clone() }, sockets).await?;
        }
    }
    if let Some(CopiedPlace { bind, sockets, .. }) = &copies.admin {
        send_sockets(connection, &Message::Admin { bind: bind.clone() }, sockets).await?;
    }
    for CopiedPlace { bind, sockets, .. } in &copies.admin_sockets {
        send_sockets(connection, &Message::AdminSocket { path: bind.clone() }, sockets).await?;
    }
    if format.is_some() {
        let age_ms = u64::try_from(clock.as_millis()).unwrap_or(u64::MAX);
        send(connection, &Message::Clock { age_ms, first_session }, &[]).await?;
    }
    send(connection, &Message::Opened, &[]).await?;
    match receive(connection).await? {
        Message::Ready => Ok((format, version)),
        _ => Err(unexpected()),
    }
}

async fn send_sockets(connection: &PacketSocket, message: &Message, sockets: &[OwnedFd]) -> io::Result<()> {
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    send(connection, message, &sockets).await
}

pub(super) async fn send(
    connection: &PacketSocket,
    message: &Message,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    connection.send(&encode(message, &[])?, descriptors).await
}

async fn receive(connection: &PacketSocket) -> io::Result<Message> {
    match connection.receive().await? {
        Some(packet) => Ok(decode(&packet.bytes)?.0),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the new process sent an unexpected message")
}

impl Successor {
    /// The number of the process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Lets it have the ports, and waits until it accepts connections. Errors: it does not, and this process does again.
    pub(crate) async fn take_over(&mut self, parts: &mut Parts) -> Result<Upgrade, String> {
        parts.set_accepting(false); // first, so that no park begins any more
        if let Some(why_not) = parts.why_no_upgrade() {
            // it has begun while the new process was starting
            end(&mut self.child).await;
            parts.set_accepting(true);
            return Err(why_not);
        }
        let switched = timeout(ANSWER_MAX, async {
            if self.format.is_some() {
                for message in parts.knowledge() {
                    send(&self.connection, &message, &[]).await?;
                }
            }
            send_role_keys(&self.connection, self.format, parts).await?;
            send(&self.connection, &Message::TakeOver, &[]).await?;
            match receive(&self.connection).await? {
                Message::Accepting => Ok(()),
                _ => Err(unexpected()),
            }
        });
        let why = match switched.await {
            Ok(Ok(())) => {
                return Ok(Upgrade {
                    process: self.process(),
                    version: self.version.clone(),
                    version_before: env!("CARGO_PKG_VERSION").to_owned(),
                    sessions: parts.registry.sessions(),
                    can_move_sessions: self.format.is_some(),
                });
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it did not accept connections within {} s", ANSWER_MAX.as_secs()),
        };
        end(&mut self.child).await;
        parts.set_accepting(true);
        Err(format!("the new process failed when it took over: {why}"))
    }

    /// Moves the sessions to it. Returns when none is left, after `drain_timeout`, or if it fails.
    pub(crate) async fn move_sessions(&mut self, parts: &mut Parts, stop: watch::Receiver<bool>) -> Moved {
        let (exit, departures) = mpsc::channel(QUEUE_LENGTH);
        let can_move = self.format.is_some();
        parts.registry.set_exit(can_move.then_some(exit));
        let mut moving = Moving { departures, waiting: HashMap::new(), waits: Vec::new(), next: 0, is_stopping: false };
        let moved = moving.run(self, parts, can_move, stop).await;
        moving.report();
        match moved {
            Moved::SuccessorFailed => {
                end(&mut self.child).await;
                parts.registry.set_exit(None); // the answers that are dropped tell sessions to stay
            }
            Moved::All | Moved::TimeIsOver if can_move => {
                for figures in parts.newest_figures() {
                    let _ = send(&self.connection, &figures, &[]).await; // it may have gone
                }
            }
            Moved::All | Moved::TimeIsOver => {}
        }
        moved
    }
}

/// The sessions that are on their way.
struct Moving {
    departures: mpsc::Receiver<Departure>,
    /// Each with the time since when it waits.
    waiting: HashMap<u64, (oneshot::Sender<bool>, std::time::Instant)>,
    /// How long those waited that have moved.
    waits: Vec<Duration>,
    next: u64,
    /// The new process stops because it was told to.
    is_stopping: bool,
}

impl Moving {
    async fn run(
        &mut self,
        successor: &mut Successor,
        parts: &mut Parts,
        can_move: bool,
        mut stop: watch::Receiver<bool>,
    ) -> Moved {
        let (registry, sessions) = (parts.registry.clone(), parts.workers.sessions().clone());
        sessions.close();
        let over = Instant::now() + parts.config().drain_timeout;
        let ticker = |every| {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut ask, mut report) = (ticker(ASK_INTERVAL), ticker(REPORT_INTERVAL));
        let mut answer_due = Instant::now() + ANSWER_MAX;
        let mut signals = u32::from(*stop.borrow_and_update());
        loop {
            tokio::select! {
                () = sessions.wait(), if parts.upgrades.predecessor().is_none() => return Moved::All,
                // what the process before this one still has comes here first
                () = parts.upgrades.predecessor_ended(), if parts.upgrades.predecessor().is_some() => {}
                Some((moving, answer)) = self.departures.recv(), if self.waiting.len() < MOVING_MAX => {
                    if self.waiting.is_empty() {
                        answer_due = Instant::now() + ANSWER_MAX;
                    }
                    let id = self.next;
                    self.next += 1;
                    let [for_server, for_client] = &moving.in_flight;
                    let state = Box::new(moving.state);
                    let message = Message::Session { id, for_server: for_server.len(), state };
                    let sockets = moving.sockets.each_ref().map(AsFd::as_fd);
                    let sent = match encode(&message, &[for_server, for_client]) {
                        Ok(packet) => successor.connection.send(&packet, &sockets).await,
                        Err(error) => {
                            debug!(%error, "a session stays here");
                            continue;
                        }
                    };
                    match sent {
                        Ok(()) => _ = self.waiting.insert(id, (answer, moving.since)),
                        Err(error) => {
                            error!(%error, "cannot send a session to the new process");
                            return Moved::SuccessorFailed;
                        }
                    }
                }
                message = receive(&successor.connection), if !self.is_stopping => match message {
                    Ok(Message::Taken { id }) => {
                        self.answer(id, true);
                        answer_due = Instant::now() + ANSWER_MAX;
                        if self.waiting.is_empty() && can_move {
                            registry.ask_to_move_out(MOVING_MAX);
                        }
                    }
                    Ok(Message::Refused { id, why }) => {
                        warn!(why, "the new process did not take a session; it goes on here");
                        self.answer(id, false);
                    }
                    Ok(Message::Stopping) => self.is_stopping = true,
                    Ok(_) => error!("the new process sent an unexpected message"),
                    Err(error) => {
                        error!(%error, sessions = registry.sessions(), "the new process has ended too early: this one goes on");
                        return Moved::SuccessorFailed;
                    }
                },
                _ = ask.tick(), if can_move && !self.is_stopping => {
                    registry.ask_to_move_out(MOVING_MAX);
                }
                _ = report.tick(), if !self.is_stopping => {
                    let left = Message::Left { sessions: registry.sessions() };
                    let _ = send(&successor.connection, &left, &[]).await; // if it has gone, the next `receive` says so
                }
                () = sleep_until(answer_due), if !self.waiting.is_empty() => {
                    error!("the new process does not answer: this one goes on");
                    return Moved::SuccessorFailed;
                }
                () = sleep_until(over) => return Moved::TimeIsOver,
                // a service manager stops both processes at the same time: the first signal changes nothing here
                _ = stop.changed() => {
                    signals += 1;
                    if signals > 1 {
                        return Moved::TimeIsOver;
                    }
                }
            }
        }
    }

    fn answer(&mut self, id: u64, is_taken: bool) {
        if let Some((answer, since)) = self.waiting.remove(&id) {
            if is_taken {
                self.waits.push(since.elapsed());
            }
            let _ = answer.send(is_taken); // the session waits for it
        }
    }

    /// Logs how many sessions have moved and how long they waited.
    fn report(&mut self) {
        self.waits.sort_unstable();
        let at = |percent: usize| self.waits.get(self.waits.len().saturating_sub(1) * percent / 100);
        let millis = |percent| at(percent).map_or(0.0, |wait| wait.as_secs_f64() * 1000.0);
        let (p99_ms, longest_ms) = (millis(99), millis(100));
        info!(
            sessions = self.waits.len(),
            p99_ms, longest_ms, "sessions have moved to the new process; each waited so long"
        );
    }
}

/// Ends an upgrade for which a new process was started: lets it take over, and moves the sessions to it. Returns whether this
/// process is not needed any more. If not, it goes on as before.
pub(crate) async fn hand_over(
    parts: &mut Parts,
    request: UpgradeRequest,
    started: Result<Successor, String>,
    manager: &ServiceManager,
    stop: watch::Receiver<bool>,
) -> bool {
    let taken_over = match started {
        Ok(mut successor) => successor.take_over(parts).await.map(|upgrade| (successor, upgrade)),
        Err(why) => Err(why),
    };
    let answer = |outcome| {
        if let Some(answer) = request.answer {
            let _ = answer.send(outcome); // who asked may have gone
        }
    };
    let (mut successor, upgrade) = match taken_over {
        Ok(taken_over) => taken_over,
        Err(reason) => {
            error!(by = request.by, reason, "the upgrade failed; this process goes on");
            answer(Err(reason));
            return false;
        }
    };
    let Upgrade { process, version, sessions, can_move_sessions, .. } = &upgrade;
    info!(by = request.by, process, version, sessions, can_move_sessions, "the new process accepts connections");
    manager.main_process(*process);
    answer(Ok(upgrade));
    match successor.move_sessions(parts, stop).await {
        Moved::All => info!("no session is left in this process: it ends"),
        Moved::TimeIsOver => info!(sessions = parts.registry.sessions(), "the sessions that cannot move have to end"),
        Moved::SuccessorFailed => {
            parts.workers.sessions().reopen();
            parts.set_accepting(true);
            manager.main_process(std::process::id());
            manager.ready("connections are accepted; the new process has failed");
            return false;
        }
    }
    true
}

impl Parts {
    /// Ends what runs, after another process has taken over.
    pub(crate) async fn end_handed_over(&mut self) {
        self.close_all().await;
        if let Some(connections) = self.admin_connections() {
            connections.close();
            let _ = timeout(ADMIN_GRACE, connections.wait()).await; // for requests that are being answered
        }
        self.background.shut_down().await;
        info!("ended; the new process has all that was here");
    }
}
