//! `pgvane switchover --dry-run`: which write sessions could be carried to another server, and which not, and why.

use std::io::{self, Write};

use clap::Args;

use super::admin_api::{AdminApi, AdminUrl, CliError, Identity};
use super::status::aligned;
use crate::admin::switchover::{DryRun, Restore};

/// The arguments of `pgvane switchover`.
#[derive(Debug, Args)]
pub(super) struct SwitchoverArgs {
    /// The cluster; not needed if there is only one
    cluster: Option<String>,
    /// Only say what would become of the sessions. Needed: the switchover itself is for patronictl
    #[arg(long, required = true)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin_url: AdminUrl,
    #[command(flatten)]
    identity: Identity,
}

/// Asks for the state of the sessions, and prints what would become of them.
pub(super) async fn dry_run(args: &SwitchoverArgs) -> Result<(), CliError> {
    let api = AdminApi::at(&args.admin_url, Some(&args.identity))?.for_changes()?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("dry_run", if args.dry_run { "yes" } else { "no" });
    args.cluster.iter().for_each(|cluster| _ = query.append_pair("cluster", cluster));
    let text = api.post(&["api", "switchover"], Some(&query.finish()), "").await?;
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
