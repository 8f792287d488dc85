//! Many clients at once, and what all of them saw during one switchover.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane_loadtest::failure::FailureClass;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::tls::Endpoint;
use pgvane_loadtest::writer::Gap;
use pgvane_loadtest::{Result, wait};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::session::{Record, Server, Wanderer};

/// The clients do not connect all at once.
const CONNECT_EVERY: Duration = Duration::from_millis(5);

/// All clients have their session, and each has sent a request, within this time.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// The way of a crowd to the leader.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// Through pgvane; every second client with TLS.
    Pgvane(SocketAddr),
    Haproxy(SocketAddr),
    ListOfHosts(Vec<SocketAddr>),
}

impl Way {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Way::Pgvane(_) => "pgvane",
            Way::Haproxy(_) => "HAProxy",
            Way::ListOfHosts(_) => "list of hosts",
        }
    }

    fn server(&self, number: usize) -> Server {
        match self {
            Way::Pgvane(address) => Server::Proxy(Endpoint { address: *address, tls: number % 4 < 2 }),
            Way::Haproxy(address) => Server::Proxy(Endpoint::from(*address)),
            Way::ListOfHosts(nodes) => Server::ListOfHosts(nodes.clone()),
        }
    }
}

/// Running clients.
#[derive(Debug)]
pub(crate) struct Crowd {
    size: usize,
    record: Arc<Record>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

/// What the clients saw during one switchover.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) broken: usize,
    pub(crate) errors: usize,
    pub(crate) wrong: Vec<String>,
    /// The texts of the failures, the most frequent first.
    pub(crate) texts: Vec<(String, usize)>,
    /// The longest statement of each request that the switchover has met, shortest first.
    pub(crate) pauses: Vec<Duration>,
}

impl Seen {
    /// The pause that this share of the requests did not exceed.
    pub(crate) fn pause(&self, share: f64) -> Duration {
        let place = (self.pauses.len() as f64 * share) as usize;
        self.pauses.get(place.min(self.pauses.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl Crowd {
    /// Starts the clients, and waits until each has its session. `logins` are given to them in turn.
    pub(crate) async fn start(size: usize, way: &Way, logins: &[Login]) -> Result<Crowd> {
        let (stop, stopping) = watch::channel(false);
        let record = Arc::new(Record::default());
        let mut clients = JoinSet::new();
        for number in 0..size {
            let login = logins[number % logins.len()];
            let client = Wanderer::new(i32::try_from(number).unwrap_or(i32::MAX), way.server(number), login);
            let (record, mut stopping) = (Arc::clone(&record), stopping.clone());
            clients.spawn(async move { client.work(&record, &mut stopping).await });
            tokio::time::sleep(CONNECT_EVERY).await;
        }
        let crowd = Crowd { size, record, stop, clients };
        crowd.is_ready(Instant::now()).await?;
        crowd.record.lock().expect("nobody panics with it").failures.clear(); // of the start
        Ok(crowd)
    }

    /// Waits until every client has its session, and as many requests as clients have been sent since then and answered.
    pub(crate) async fn is_ready(&self, since: Instant) -> Result<()> {
        wait::until("every client at work", READY_WITHIN, || async {
            let seen = self.record.lock().expect("nobody panics with it");
            let answered = seen.requests.iter().rev().take_while(|request| request.sent >= since).count();
            match seen.ready == self.size && answered >= self.size {
                true => Ok(()),
                false => Err(format!(
                    "{} of {} have a session, {answered} requests; {:?}",
                    seen.ready,
                    self.size,
                    seen.failures.last()
                )),
            }
        })
        .await
    }

    /// What they saw since the last call; `gap` is the time without writes in the cluster.
    pub(crate) fn seen(&self, gap: Gap) -> Seen {
        let mut seen = self.record.lock().expect("nobody panics with it");
        let (requests, failures) = (std::mem::take(&mut seen.requests), std::mem::take(&mut seen.failures));
        let wrong = std::mem::take(&mut seen.wrong);
        drop(seen);
        let met = requests.iter().filter(|request| request.sent < gap.to && request.answered > gap.from);
        let mut pauses: Vec<Duration> = met.map(|request| request.longest_statement).collect();
        pauses.sort_unstable();
        let is_broken = |class| matches!(class, FailureClass::SessionBroken | FailureClass::Unanswered);
        let broken = failures.iter().filter(|failure| is_broken(failure.class)).count();
        let mut texts: Vec<(String, usize)> = Vec::new();
        for failure in &failures {
            match texts.iter_mut().find(|(text, _)| *text == failure.message) {
                Some((_, count)) => *count += 1,
                None => texts.push((failure.message.clone(), 1)),
            }
        }
        texts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Seen { broken, errors: failures.len() - broken, wrong, texts, pauses }
    }

    /// Ends the clients, between two requests.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.clients.join_next().await.is_some() {}
    }
}
