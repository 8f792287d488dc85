//! `pgvane park` and `pgvane unpark`: hold the write sessions of a cluster between two transactions, at every pgvane
//! that is in front of it. Patroni's hook `before_stop` calls the first and waits for its end.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::admin_api::{AdminApi, AdminUrl, CliError, Identity};
use crate::admin::park_status::Park;
use crate::admin::parking::ParkState;
use crate::config::{default_port, duration};

/// How often it is asked whether the sessions are parked.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The cluster, and the pgvanes that are in front of it.
#[derive(Debug, Args)]
pub(super) struct ParkTarget {
    /// The cluster; not needed if there is only one
    pub(super) cluster: Option<String>,
    /// URLs of the admin addresses of every pgvane in front of the cluster, separated by commas
    #[arg(
        long, visible_alias = "url", value_name = "URL", value_delimiter = ',',
        default_values_t = [format!("http://127.0.0.1:{}", default_port::ADMIN)]
    )]
    pub(super) admin: Vec<String>,
    #[command(flatten)]
    pub(super) identity: Identity,
}

/// The arguments of `pgvane park`.
#[derive(Debug, Args)]
pub(super) struct ParkArgs {
    #[command(flatten)]
    target: ParkTarget,
    /// The node that is about to stop, by its name in Patroni: nothing is parked unless it leads
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// End after this time at the latest, whatever a pgvane does
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    wait: Duration,
}

/// The arguments of `pgvane unpark`.
#[derive(Debug, Args)]
pub(super) struct UnparkArgs {
    #[command(flatten)]
    target: ParkTarget,
    /// End after this time at the latest, whatever a pgvane does
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    wait: Duration,
}

/// Parks the sessions, and waits until they are parked.
pub(super) async fn park(args: &ParkArgs) -> Result<(), CliError> {
    let deadline = Instant::now() + args.wait;
    let cluster = args.target.cluster.as_ref();
    let asked = query(&[("cluster", cluster), ("node", args.node.as_ref())]);
    let request = ParkRequest { asked, polled: query(&[("cluster", cluster)]), answer_within: None };
    at_each(&args.target, |api| {
        let request = request.clone();
        async move {
            let mut newest = "no answer yet".to_owned();
            let parked = timeout_at(deadline, request.at(&api, &mut newest)).await;
            parked.unwrap_or_else(|_| Err(CliError::ParkTimedOut(newest)))
        }
    })
    .await
}

/// Lets the sessions go on.
pub(super) async fn unpark(args: &UnparkArgs) -> Result<(), CliError> {
    let deadline = Instant::now() + args.wait;
    let query = query(&[("cluster", args.target.cluster.as_ref())]);
    at_each(&args.target, |api| {
        let query = query.clone();
        async move {
            let unparked = async {
                let state = read(&api.post(&["api", "unpark"], Some(&query), "").await?)?;
                Ok(state.why_not.unwrap_or_else(|| format!("the write sessions of {} go on", state.cluster)))
            };
            let unparked = timeout_at(deadline, unparked).await;
            unparked.unwrap_or_else(|_| Err(CliError::ParkTimedOut("no answer yet".to_owned())))
        }
    })
    .await
}

/// What a pgvane is asked, to park the sessions of a cluster.
#[derive(Debug, Clone)]
pub(super) struct ParkRequest {
    /// The query string of the request to park them.
    pub(super) asked: String,
    /// The query string of the question whether they are parked.
    pub(super) polled: String,
    /// How long each answer may take, if the caller does not limit the whole.
    pub(super) answer_within: Option<Duration>,
}

impl ParkRequest {
    /// Parks the sessions at one pgvane. Returns what became of them; `newest` is what was known last.
    pub(super) async fn at(&self, api: &AdminApi, newest: &mut String) -> Result<String, CliError> {
        let mut state = self.answered(api.post(&["api", "park"], Some(&self.asked), "")).await?;
        loop {
            let park = match (state.why_not, state.park) {
                (Some(why_not), _) => return Ok(why_not),
                (None, None) => return Err(CliError::SessionsNotParked("the park is over already".to_owned())),
                (None, Some(park)) => park,
            };
            newest.clone_from(&park.sessions());
            if park.finishing == 0 {
                return outcome(&park);
            }
            sleep(POLL_INTERVAL).await;
            state = self.answered(api.poll(&["api", "park"], &self.polled)).await?;
        }
    }

    async fn answered(&self, request: impl Future<Output = Result<String, CliError>>) -> Result<ParkState, CliError> {
        let Some(within) = self.answer_within else { return read(&request.await?) };
        let late = || CliError::SessionsNotParked(format!("no answer within {} s", within.as_secs()));
        read(&timeout(within, request).await.map_err(|_| late())??)
    }
}

fn outcome(park: &Park) -> Result<String, CliError> {
    if park.late > 0 { Err(CliError::SessionsNotParked(park.sessions())) } else { Ok(park.sessions()) }
}

/// Does `action` at every pgvane at the same time, and prints the outcomes.
async fn at_each<Action>(target: &ParkTarget, action: impl Fn(AdminApi) -> Action) -> Result<(), CliError>
where
    Action: Future<Output = Result<String, CliError>> + Send + 'static,
{
    let started: Vec<_> = target
        .admin
        .iter()
        .map(|url| {
            let api = AdminApi::at(&AdminUrl::new(url.clone()), Some(&target.identity))?.for_changes()?;
            Ok(tokio::spawn(action(api)))
        })
        .collect();
    let mut errors = Vec::new();
    for (url, started) in target.admin.iter().zip(started) {
        let outcome = match started {
            Ok(task) => task.await.unwrap_or_else(|error| Err(CliError::NoClient(error.to_string()))),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(text) => println!("{url}: {text}"),
            Err(error) => errors.push((url.clone(), error)),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(CliError::NotParked(errors)) }
}

pub(super) fn query(pairs: &[(&str, Option<&String>)]) -> String {
    let given = pairs.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
    form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish()
}

fn read(text: &str) -> Result<ParkState, CliError> {
    serde_json::from_str(text).map_err(|error| CliError::Unreadable(error.to_string()))
}
