//! `pgvane switchover`: has Patroni hand the lead to another node, with the write sessions parked before; and the dry run,
//! which says which write sessions could be carried to another server, which not, and why.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::admin_api::{AdminApi, AdminUrl, CliError};
use super::park::{ParkRequest, ParkTarget, query};
use super::status::aligned;
use crate::admin::planned_switchover::SwitchoverState;
use crate::admin::switchover::{DryRun, Restore};
use crate::admin::switchovers::{Phase, Switchover};
use crate::config::duration;

/// How often it is asked how far the switchover is.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How long one of the other pgvanes may take for an answer: the sessions of those that have parked theirs wait meanwhile.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long the other pgvanes may take to park their sessions, besides `park_grace`.
const PARK_WITHIN: Duration = Duration::from_secs(30);

/// The arguments of `pgvane switchover`.
#[derive(Debug, Args)]
pub(super) struct SwitchoverArgs {
    #[command(flatten)]
    target: ParkTarget,
    /// The node that is to lead, by its name in Patroni; by default Patroni chooses
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Only say what would become of the sessions
    #[arg(long, conflicts_with = "to")]
    dry_run: bool,
    /// Wait so long for the end; after that, the switchover goes on without this command
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5min")]
    wait: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Switches over, or does the dry run. The first pgvane asks Patroni; the others park their sessions before.
pub(super) async fn run(args: &SwitchoverArgs) -> Result<(), CliError> {
    let target = &args.target;
    let api = |url: &String| AdminApi::at(&AdminUrl::new(url.clone()), Some(&target.identity))?.for_changes();
    let apis = target.admin.iter().map(api).collect::<Result<Vec<AdminApi>, CliError>>()?;
    if args.dry_run {
        for api in &apis {
            dry_run(args, api).await?;
        }
        return Ok(());
    }
    let deadline = Instant::now() + args.wait;
    let mut apis = apis.into_iter().map(Arc::new);
    let Some(first) = apis.next() else { return Ok(()) };
    let others: Vec<Arc<AdminApi>> = apis.collect();
    if !others.is_empty() {
        let cluster = query(&[("cluster", target.cluster.as_ref())]);
        let known = read(&first.get_with(&["api", "switchover"], Some(&cluster)).await?)?;
        park_others(args, &others, known.leader.as_ref()).await;
    }
    let mut newest = None;
    let outcome = timeout_at(deadline, switch_over(args, &first, &mut newest)).await;
    let outcome = outcome.unwrap_or_else(|_| {
        Err(CliError::SwitchoverFailed(format!("not within --wait: {}", newest.as_deref().unwrap_or("no answer yet"))))
    });
    if outcome.as_ref().is_err_and(|error| newest.is_none() || matches!(error, CliError::NoSwitchover(_))) {
        let unpark = query(&[("cluster", target.cluster.as_ref())]);
        let unparking = others.iter().map(|api| {
            let (api, unpark) = (Arc::clone(api), unpark.clone());
            async move { api.post(&["api", "unpark"], Some(&unpark), "").await }
        });
        unparking.collect::<JoinSet<_>>().join_all().await; // if one fails, its park ends by itself
    }
    outcome
}

/// Parks the sessions at the other pgvanes, at all at the same time: what one of them does not do in time, the sessions of
/// the others wait for. One that is down or slow does not prevent the switchover; and if it reads the request when this
/// leader does not lead any more, it parks nothing.
async fn park_others(args: &SwitchoverArgs, others: &[Arc<AdminApi>], leader: Option<&String>) {
    let cluster = args.target.cluster.as_ref();
    let asked = query(&[("cluster", cluster), ("node", leader)]);
    let request = ParkRequest { asked, polled: query(&[("cluster", cluster)]), answer_within: Some(ANSWER_WITHIN) };
    let parking = others.iter().zip(&args.target.admin[1..]).map(|(api, url)| {
        let (api, url, request) = (Arc::clone(api), url.clone(), request.clone());
        async move {
            let mut newest = "no answer yet".to_owned();
            let parked = timeout_at(Instant::now() + PARK_WITHIN, request.at(&api, &mut newest)).await;
            (url, parked.unwrap_or_else(|_| Err(CliError::ParkTimedOut(newest))))
        }
    });
    let mut parking: JoinSet<_> = parking.collect();
    while let Some(parked) = parking.join_next().await {
        match parked {
            Ok((_, Ok(_))) if args.json => {}
            Ok((url, Ok(text))) => println!("{url}: {text}"),
            Ok((url, Err(error))) => {
                let _ = writeln!(io::stderr(), "pgvane: {url}: {error}; the switchover goes on without it");
            }
            Err(error) => _ = writeln!(io::stderr(), "pgvane: {error}"),
        }
    }
}

/// Has this pgvane switch over, and waits for the end. `newest` is what was known last.
async fn switch_over(args: &SwitchoverArgs, api: &AdminApi, newest: &mut Option<String>) -> Result<(), CliError> {
    let cluster = args.target.cluster.as_ref();
    let asked = query(&[("cluster", cluster), ("to", args.to.as_ref())]);
    let mut state = read(&api.post(&["api", "switchover"], Some(&asked), "").await?)?;
    let polled = query(&[("cluster", Some(&state.cluster))]);
    loop {
        let Some(Switchover { phase, text, .. }) = state.switchover.clone() else {
            return Err(CliError::SwitchoverFailed("this pgvane was started again meanwhile".to_owned()));
        };
        if !args.json && !phase.is_over() && newest.as_ref() != Some(&text) {
            println!("{}: {text}", state.cluster);
        }
        match phase {
            Phase::Parking | Phase::Asked => *newest = Some(text),
            Phase::Done | Phase::Refused | Phase::Unknown if args.json => {
                println!("{}", serde_json::to_string_pretty(&state).unwrap_or_default());
                return if phase == Phase::Done { Ok(()) } else { Err(failure(phase, text)) };
            }
            Phase::Done => {
                println!("{}: {text}", state.cluster);
                return Ok(());
            }
            Phase::Refused | Phase::Unknown => return Err(failure(phase, text)),
        }
        sleep(POLL_INTERVAL).await;
        state = read(&api.poll(&["api", "switchover"], &polled).await?)?;
    }
}

fn failure(phase: Phase, text: String) -> CliError {
    if phase == Phase::Refused { CliError::NoSwitchover(text) } else { CliError::SwitchoverFailed(text) }
}

fn read(text: &str) -> Result<SwitchoverState, CliError> {
    serde_json::from_str(text).map_err(|error| CliError::Unreadable(error.to_string()))
}

/// Asks for the state of the sessions, and prints what would become of them.
async fn dry_run(args: &SwitchoverArgs, api: &AdminApi) -> Result<(), CliError> {
    let dry_run = "yes".to_owned();
    let query = query(&[("dry_run", Some(&dry_run)), ("cluster", args.target.cluster.as_ref())]);
    let text = api.post(&["api", "switchover"], Some(&query), "").await?;
    let printed = match args.json {
        true => text,
        false => told(&serde_json::from_str(&text).map_err(|error| CliError::Unreadable(error.to_string()))?),
    };
    let _ = io::stdout().write_all(printed.as_bytes()); // the reader may close the pipe early, as `head` does
    Ok(())
}

fn told(run: &DryRun) -> String {
    let Restore { settings, prepared_statements, prepared_by_sql, channels, roles } = run.restore;
    let mut text = run.summary();
    text += &format!(
        "\nto restore: {settings} settings, {prepared_statements} prepared statements of the protocol and \
         {prepared_by_sql} of PREPARE, {channels} channels of LISTEN, {roles} roles of SET ROLE\n"
    );
    if run.not_carried.is_empty() {
        return text;
    }
    let header = ["CLIENT", "USER", "DATABASE", "APPLICATION", "PROCESS", "WHY NOT"];
    let or_unknown = |name: &String| if name.is_empty() { "?".to_owned() } else { name.clone() };
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(run.not_carried.iter().map(|one| {
        [
            or_unknown(&one.session.client),
            or_unknown(&one.session.user),
            or_unknown(&one.session.database),
            or_unknown(&one.session.application_name),
            one.process_id.map_or_else(|| "?".to_owned(), |id| id.to_string()),
            one.reasons.join("; "),
        ]
    }));
    let others = match (run.sessions - run.carried).saturating_sub(run.not_carried.len()) {
        0 => String::new(),
        others => format!("and {others} more\n"),
    };
    text + "\n" + &aligned(&rows) + &others
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::Session;
    use crate::admin::switchover::NotCarried;

    #[test]
    fn sessions_that_cannot_be_carried_are_a_table_with_reasons() {
        let session = Session {
            client: "192.0.2.7:5000".to_owned(),
            user: "app".to_owned(),
            database: "shop".to_owned(),
            ..Session::default()
        };
        let reasons = vec!["1 temporary object".to_owned(), "2 advisory locks".to_owned()];
        let run = DryRun {
            cluster: "main".to_owned(),
            sessions: 5,
            carried: 3,
            restore: Restore { settings: 4, ..Restore::default() },
            not_carried: vec![NotCarried { session, process_id: Some(77), reasons }],
        };
        let expected = "\
main: 5 sessions for writes, 3 could be carried to another server, 2 could not
to restore: 4 settings, 0 prepared statements of the protocol and 0 of PREPARE, 0 channels of LISTEN, 0 roles of SET ROLE

CLIENT          USER  DATABASE  APPLICATION  PROCESS  WHY NOT
192.0.2.7:5000  app   shop      ?            77       1 temporary object; 2 advisory locks
and 1 more
";
        assert_eq!(told(&run), expected);
    }
}
