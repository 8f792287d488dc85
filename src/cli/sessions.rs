//! `pgvane sessions` and `pgvane close`: lists and closes the sessions of a running pgvane.

use std::io::{self, IsTerminal};

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde::de::DeserializeOwned;

use super::admin_api::CliError;
use super::running::Asked;
use super::status::aligned;
use crate::admin::held::HeldClients;
use crate::admin::session_order::SessionOrder;
use crate::admin::sessions::Sessions;
use crate::config::size_text;

/// Which sessions: those that match every option that is given.
#[derive(Debug, Args)]
pub(super) struct SessionFilter {
    /// The session with this number, as `pgvane sessions` and the stats page show it
    #[arg(long, value_name = "NUMBER")]
    session: Option<u64>,
    /// Sessions on this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Sessions of this user of the database
    #[arg(long, value_name = "NAME")]
    db_user: Option<String>,
    /// Sessions in this database
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Sessions with this application_name
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// Sessions from this address, or from this network in CIDR notation
    #[arg(long, value_name = "IP[/BITS]")]
    client: Option<String>,
    /// Sessions of this listener
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Sessions of this cluster
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Sessions in this state: login, open, parked or draining
    #[arg(long, value_parser = ["login", "open", "parked", "draining"])]
    state: Option<String>,
}

/// The arguments of `pgvane sessions`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    filter: SessionFilter,
    /// List the clients that wait for a node instead: who waits, for how long, and why
    #[arg(long, conflicts_with_all = ["session", "node", "db_user", "database", "application", "client", "listener",
        "cluster", "state"])]
    held: bool,
    /// What to sort by: the oldest sessions, or those with most bytes, come first
    #[arg(long, value_name = "FIELD", default_value = "age", value_parser = PossibleValuesParser::new(SessionOrder::labels()))]
    sort: String,
    /// List at most this number, the first in the order of --sort
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    max: usize,
    #[command(flatten)]
    asked: Asked,
}

/// The arguments of `pgvane close`.
#[derive(Debug, Args)]
pub(super) struct CloseArgs {
    #[command(flatten)]
    filter: SessionFilter,
    /// Close them without asking
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    asked: Asked,
}

impl SessionFilter {
    fn query(&self) -> form_urlencoded::Serializer<'static, String> {
        let session = self.session.map(|id| id.to_string());
        let fields = [
            ("session", &session),
            ("node", &self.node),
            ("user", &self.db_user),
            ("database", &self.database),
            ("application", &self.application),
            ("client", &self.client),
            ("listener", &self.listener),
            ("cluster", &self.cluster),
            ("state", &self.state),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(fields.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))));
        query
    }
}

/// Prints the sessions.
pub(super) async fn list(args: &ListArgs) -> Result<(), CliError> {
    if args.held {
        let query = format!("max={}", args.max);
        let answer = args.asked.api()?.get_with(&["api", "held"], Some(&query)).await?;
        return args.asked.print(&answer, |answer| Ok(held_table(&parse(answer)?)));
    }
    let query = args.filter.query().append_pair("sort", &args.sort).append_pair("max", &args.max.to_string()).finish();
    let answer = args.asked.api()?.get_with(&["api", "sessions"], Some(&query)).await?;
    args.asked.print(&answer, |answer| Ok(table(&parse(answer)?)))
}

/// Closes the sessions, after a question if a person can answer it.
pub(super) async fn close(args: &CloseArgs) -> Result<(), CliError> {
    let api = args.asked.api_for_changes()?;
    let query = args.filter.query().finish();
    if !args.yes {
        if !io::stdin().is_terminal() {
            return Err(CliError::NotConfirmed);
        }
        let total = parse::<Sessions>(&api.get_with(&["api", "sessions"], Some(&query)).await?)?.total;
        eprint!("Close {total} sessions at once, also in the middle of a transaction? [y/N] ");
        let mut answer = String::new();
        if io::stdin().read_line(&mut answer).is_err() || !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(CliError::NotConfirmed);
        }
    }
    let answer = api.post(&["api", "sessions", "close"], Some(&query), "").await?;
    args.asked.print(&answer, |answer| {
        let closed =
            serde_json::from_str::<serde_json::Value>(answer).ok().and_then(|answer| answer["closed"].as_u64());
        let closed = closed.ok_or_else(|| CliError::Unreadable(answer.to_owned()))?;
        Ok(format!("{closed} {} closed\n", if closed == 1 { "session" } else { "sessions" }))
    })
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, CliError> {
    serde_json::from_str(text).map_err(|error| CliError::Unreadable(error.to_string()))
}

fn table(sessions: &Sessions) -> String {
    let header =
        ["ID", "CLIENT", "USER", "DATABASE", "APPLICATION", "NODE", "LISTENER", "AGE", "STATE", "SENT", "RECEIVED"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(sessions.sessions.iter().map(|session| {
        vec![
            session.id.to_string(),
            or_unknown(&session.client),
            or_unknown(&session.user),
            or_unknown(&session.database),
            or_unknown(&session.application_name),
            session.node.clone(),
            session.listener.clone(),
            format!("{} s", session.seconds),
            session.state.clone(),
            size_text(session.bytes_to_server),
            size_text(session.bytes_to_client),
        ]
    }));
    if sessions.sessions.iter().any(|session| session.cannot_log_in_again.is_some()) {
        rows[0].push("CANNOT LOG IN AGAIN".to_owned());
        for (row, session) in rows[1..].iter_mut().zip(&sessions.sessions) {
            row.push(session.cannot_log_in_again.clone().unwrap_or_default());
        }
    }
    aligned(&rows) + &others(sessions.total, sessions.sessions.len())
}

fn held_table(clients: &HeldClients) -> String {
    if clients.held.is_empty() {
        return "no client waits for a node\n".to_owned();
    }
    let mut rows = vec![["CLIENT", "USER", "DATABASE", "LISTENER", "WAITS", "WHY"].map(str::to_owned)];
    rows.extend(clients.held.iter().map(|held| {
        [
            held.client.clone(),
            or_unknown(&held.user),
            or_unknown(&held.database),
            held.listener.clone(),
            format!("{:.1} s", held.seconds),
            held.reason.clone(),
        ]
    }));
    aligned(&rows) + &others(clients.total, clients.held.len())
}

fn or_unknown(name: &str) -> String {
    if name.is_empty() { "?".to_owned() } else { name.to_owned() }
}

/// The line that says how many are not in the table.
fn others(total: usize, shown: usize) -> String {
    match total.saturating_sub(shown) {
        0 => String::new(),
        others => format!("and {others} more\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::Session;

    #[test]
    fn sessions_are_a_table_with_the_number_of_the_others() {
        let session = Session {
            id: 17,
            client: "192.0.2.7:5000".to_owned(),
            user: "app".to_owned(),
            node: "node2".to_owned(),
            listener: "read".to_owned(),
            seconds: 90,
            state: "open".to_owned(),
            bytes_to_server: 5,
            ..Session::default()
        };
        let text = table(&Sessions { total: 3, sessions: vec![session] });
        let expected = "\
ID  CLIENT          USER  DATABASE  APPLICATION  NODE   LISTENER  AGE   STATE  SENT  RECEIVED
17  192.0.2.7:5000  app   ?         ?            node2  read      90 s  open   5 B   0 B
and 2 more
";
        assert_eq!(text, expected);
    }

    #[test]
    fn why_a_session_cannot_log_in_again_is_a_column_if_there_is_one() {
        let session = |why: Option<&str>| Session {
            client: "unix".to_owned(),
            cannot_log_in_again: why.map(str::to_owned),
            ..Session::default()
        };
        let sessions = vec![session(None), session(Some("its server asked for LDAP"))];
        let text = table(&Sessions { total: 2, sessions });
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("  RECEIVED  CANNOT LOG IN AGAIN"), "{text}");
        assert!(lines[1].ends_with("  0 B") && lines[2].ends_with("  0 B       its server asked for LDAP"), "{text}");
    }
}
