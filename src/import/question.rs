//! Checks that do not ask for the role: the one question of an import is who knows the roles. What each port is for is
//! read from names, `backup` and `balance`, and shown.

use std::collections::BTreeMap;

use super::check::Connect;
use super::front::Route;
use super::ledger::Ledger;
use super::proxy::Proxy;
use super::role::{Meaning, Source};

/// Who knows the roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleSource {
    /// Patroni's REST API on each node, at port 8008.
    Patroni,
    /// PostgreSQL itself.
    Sql,
}

/// The port of Patroni's REST API.
const REST_PORT: u16 = 8008;
/// The role of the SQL check where the file names none.
const USER: &str = "pgvane";

/// The routes with a meaning for all, if the roles come from `source`.
pub(super) fn answered(routes: &[Route], proxies: &[Proxy], source: RoleSource) -> Vec<Route> {
    let user = routes.iter().find_map(|route| route.check_user.clone()).unwrap_or_else(|| USER.to_owned());
    let mut answered = routes.to_vec();
    for route in answered.iter_mut().filter(|route| route.meaning.is_none()) {
        let connect = Connect { port: Some(REST_PORT), ..Connect::default() };
        let source = match source {
            RoleSource::Patroni => Source::Patroni(connect),
            RoleSource::Sql => {
                Source::Sql { user: user.clone(), database: "postgres".to_owned(), connect: Connect::default() }
            }
        };
        route.meaning = Some(Meaning {
            target: target(route, &proxies[route.back]),
            include_leader: false,
            lag_bytes: None,
            tags: BTreeMap::new(),
            is_streaming: false,
            source,
            notes: Vec::new(),
        });
    }
    answered
}

/// Which sources fit to the checks that do ask for a role.
pub(super) fn possible(routes: &[Route]) -> Vec<RoleSource> {
    let known = routes.iter().filter_map(|route| route.meaning.as_ref()).map(|meaning| &meaning.source);
    let mut possible = vec![RoleSource::Patroni, RoleSource::Sql];
    for source in known {
        possible.retain(|one| match source {
            Source::Patroni(_) => *one == RoleSource::Patroni,
            Source::Sql { .. } => *one == RoleSource::Sql,
        });
    }
    possible
}

/// Says what happens as the file stands, and that roles are guessed.
pub(super) fn explain(routes: &[Route], proxies: &[Proxy], ledger: &mut Ledger) {
    for route in routes.iter().filter(|route| route.meaning.is_none()) {
        let back = &proxies[route.back];
        let of = |is_backup: bool| {
            let servers = back.servers.iter().filter(|server| server.settings.is_backup == is_backup);
            servers.map(|server| server.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let (first, backups) = (of(false), of(true));
        let what = match target(route, back) {
            "leader" if !backups.is_empty() => {
                format!(
                    "as it stands, {} goes to {backups} whenever {first} is silent, be it a standby or not",
                    route.name
                )
            }
            "leader" => format!("as it stands, {} goes to a server that answers, be it a standby or not", route.name),
            _ => format!("as it stands, {} goes to the leader too", route.name),
        };
        let line = if back.check.line > 0 { back.check.line } else { back.line };
        ledger.explain_role(line, &what);
    }
}

/// What a port is for.
fn target(route: &Route, back: &Proxy) -> &'static str {
    const LEADER: [&str; 7] = ["write", "primary", "master", "leader", "rw", "writer", "writes"];
    const REPLICA: [&str; 12] = [
        "read",
        "replica",
        "replicas",
        "standby",
        "standbys",
        "slave",
        "slaves",
        "ro",
        "secondary",
        "readonly",
        "reader",
        "reads",
    ];
    let names = format!("{} {}", route.name, back.name).to_ascii_lowercase();
    let says = |words: &[&str]| names.split(|c: char| !c.is_ascii_alphabetic()).any(|word| words.contains(&word));
    match (says(&LEADER), says(&REPLICA)) {
        (true, false) => return "leader",
        (false, true) => return "replica",
        _ => {}
    }
    let is_first = back.balance.as_ref().is_some_and(|balance| balance.name == "first");
    let active = back.servers.iter().filter(|server| !server.settings.is_backup).count();
    if is_first || active <= 1 { "leader" } else { "replica" }
}
