//! One client with a long session that has state of its own. After every request it knows whether something was lost: its
//! counter in a table, and what its session sees of its own state.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use pgvane_loadtest::failure::{Failure, FailureClass};
use pgvane_loadtest::login::Login;
use pgvane_loadtest::tls::Endpoint;
use tokio::sync::watch;
use tokio_postgres::{Client, Statement};

/// The time between two requests of one client; half of it at least.
const PAUSE: Duration = Duration::from_millis(900);

/// How long a request may take: longer than any park.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How long a transaction of every second client lasts, at most.
const TRANSACTION_MAX_MS: u64 = 50;

/// What a session sees of its state.
const STATE: &str = "\
    select concat_ws('|', current_setting('work_mem'), current_setting('application_name'), \
    current_setting('search_path'), current_setting('app.tenant', true), current_user, \
    (select string_agg(channel, ',' order by channel) from pg_listening_channels() as listened (channel)), \
    (select string_agg(name, ',' order by name) from pg_prepared_statements))";

/// Where clients connect to.
#[derive(Debug, Clone)]
pub(crate) enum Server {
    /// A proxy.
    Proxy(Endpoint),
    /// Whichever of these nodes is read-write, as the client finds out itself.
    ListOfHosts(Vec<SocketAddr>),
}

/// What all clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When a request was sent, when it was answered, and the longest time that one of its statements took.
    pub(crate) requests: Vec<Request>,
    /// Sessions that ended, and other errors.
    pub(crate) failures: Vec<Failure>,
    /// States that were not the session's own, and counters that were not what they should be.
    pub(crate) wrong: Vec<String>,
    /// Clients that have a session with all its state.
    pub(crate) ready: usize,
}

/// A request that was answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
    /// Without the time that the server was asked to sleep.
    pub(crate) longest_statement: Duration,
}

/// Where the clients record what they see.
pub(crate) type Record = Mutex<Seen>;

/// One client.
#[derive(Debug)]
pub(crate) struct Wanderer {
    /// Its row in the table of counters.
    pub(crate) number: i32,
    pub(crate) server: Server,
    pub(crate) login: Login,
    /// What its counter must be.
    expected: i64,
}

struct Running {
    client: Client,
    count: Statement,
    state: Statement,
    /// What it saw of its state when that was new.
    own: String,
}

impl Wanderer {
    pub(crate) fn new(number: i32, server: Server, login: Login) -> Wanderer {
        Wanderer { number, server, login, expected: 0 }
    }

    /// Works until `stop`, and connects again after every failure.
    pub(crate) async fn work(mut self, record: &Record, stop: &mut watch::Receiver<bool>) {
        while !*stop.borrow() {
            match self.begin().await {
                Ok(running) => {
                    record.lock().expect("nobody panics with it").ready += 1;
                    let ended = self.session(&running, record, stop).await;
                    let mut seen = record.lock().expect("nobody panics with it");
                    seen.ready -= 1;
                    seen.failures.extend(ended);
                }
                Err(failure) => {
                    record.lock().expect("nobody panics with it").failures.push(failure);
                    tokio::time::sleep(PAUSE / 4).await;
                }
            }
        }
    }

    async fn begin(&mut self) -> Result<Running, Failure> {
        let client = self.connect().await?;
        let number = self.number;
        let state = format!(
            "set work_mem = '{}kB'; set application_name = 'client {number}'; set search_path = public, pg_temp; \
             set app.tenant = 'tenant {number}'; listen channel_{}; {}",
            1024 + number,
            number % 100,
            if number % 4 == 0 { "set role carried" } else { "" }
        );
        let sql = |error: tokio_postgres::Error| Failure::of_statement(&error);
        client.batch_execute(&state).await.map_err(sql)?;
        if number % 3 == 0 {
            client.batch_execute("prepare by_sql (integer) as select $1 + 1").await.map_err(sql)?;
        }
        let counted = client.prepare("update counters set n = n + 1 where id = $1 returning n").await.map_err(sql)?;
        let state = client.prepare(STATE).await.map_err(sql)?;
        let now = client.query_one("select n from counters where id = $1", &[&number]).await.map_err(sql)?;
        // after an error it is not known whether the last request was executed
        self.expected = now.get(0);
        drop(now); // the client library closes the statement of that query with the next request
        client.query_one(&state, &[]).await.map_err(sql)?;
        let own = client.query_one(&state, &[]).await.map_err(sql)?.get(0);
        Ok(Running { client, count: counted, state, own })
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let connecting = async {
            match &self.server {
                Server::Proxy(endpoint) => self.login.connect(*endpoint, ANSWER_WITHIN).await,
                Server::ListOfHosts(nodes) => self.login.connect_to_leader_of(nodes, ANSWER_WITHIN).await,
            }
        };
        connecting.await.map_err(|error| Failure::connecting(&error))
    }

    /// One session. Returns why it ended, unless it was to stop.
    async fn session(
        &mut self,
        running: &Running,
        record: &Record,
        stop: &mut watch::Receiver<bool>,
    ) -> Option<Failure> {
        loop {
            let pause = PAUSE.mul_f64(0.5 + f64::from(fastrand::u8(..)) / 255.0 / 2.0);
            tokio::select! {
                _ = stop.wait_for(|stops| *stops) => return None,
                () = tokio::time::sleep(pause) => {}
            }
            let sent = Instant::now();
            let outcome = match tokio::time::timeout(ANSWER_WITHIN, self.request(running)).await {
                Ok(outcome) => outcome,
                Err(_) => return Some(Failure::unanswered()),
            };
            let mut seen = record.lock().expect("nobody panics with it");
            match outcome {
                Ok((longest_statement, problem)) => {
                    seen.requests.push(Request { sent, answered: Instant::now(), longest_statement });
                    seen.wrong.extend(problem);
                }
                Err(error) => {
                    let failure = Failure::of_statement(&error);
                    if failure.class == FailureClass::SessionBroken {
                        return Some(failure);
                    }
                    seen.failures.push(failure);
                }
            }
        }
    }

    /// Counts, and compares the counter and the state. Returns how long the longest statement took, and what is wrong.
    async fn request(&mut self, running: &Running) -> Result<(Duration, Option<String>), tokio_postgres::Error> {
        let Running { client, count, state, own } = running;
        let mut longest = Duration::ZERO;
        let mut since = Instant::now();
        let mut lap = |sleeps: Duration| {
            longest = longest.max(since.elapsed().saturating_sub(sleeps));
            since = Instant::now();
        };
        let is_in_transaction = self.number % 2 != 0;
        if is_in_transaction {
            client.batch_execute("begin").await?;
            lap(Duration::ZERO);
        }
        let counted: i64 = client.query_one(count, &[&self.number]).await?.get(0);
        lap(Duration::ZERO);
        if is_in_transaction {
            let sleeps = Duration::from_millis(5 + fastrand::u64(..TRANSACTION_MAX_MS - 5));
            client.batch_execute(&format!("select pg_sleep({})", sleeps.as_secs_f64())).await?;
            lap(sleeps);
            client.batch_execute("commit").await?;
            lap(Duration::ZERO);
        }
        self.expected += 1;
        if counted != self.expected {
            let expected = std::mem::replace(&mut self.expected, counted);
            let wrong = format!("client {}: its counter is {counted}, not {expected}", self.number);
            return Ok((longest, Some(wrong)));
        }
        let now: String = client.query_one(state, &[]).await?.get(0);
        lap(Duration::ZERO);
        let wrong = (now != *own).then(|| format!("client {}: its state is {now:?}, not {own:?}", self.number));
        Ok((longest, wrong))
    }
}
