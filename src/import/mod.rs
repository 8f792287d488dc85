//! `pgvane import`: from a haproxy.cfg to pgvane's configuration, with a report.
//!
//! Pure: the text of the file and the environment go in, the outcome comes out. What cannot be said in pgvane's words is
//! refused rather than guessed. The way of a file:
//!
//! `lexer` (words of a line) → `section` (sections, `.if`) → `proxy` (a section with what it inherits) →
//! `front` (which sections are for PostgreSQL, and where they lead) → `role` (what a check means) → `members` (which
//! servers are one node, which nodes one cluster) → `listeners`, `clusters`, `pages` → `write`.
//!
//! `ledger` holds what becomes of each line, so that none is lost in silence.

mod access;
mod acl;
mod address;
mod arity;
mod check;
mod clusters;
mod condition;
mod drops;
mod findings;
mod front;
mod keywords;
mod ledger;
mod lexer;
mod listeners;
mod members;
mod pages;
mod patroni;
mod plan;
mod proxy;
mod question;
mod role;
#[cfg(test)]
mod samples;
mod section;
mod server;
mod shards;
mod sockets;
mod sql;
mod templates;
mod write;

use std::collections::BTreeMap;

pub use question::RoleSource;

use self::access::Around;
use self::clusters::{Bases, Lane};
use self::front::{Fronts, Route};
use self::ledger::Ledger;
use self::listeners::GlobalMax;
use self::plan::Plan;
use self::proxy::Proxy;
use self::section::{File, Kind};
use crate::config::Config;

/// A file that is to be imported, and what is needed beside it.
pub struct Request<'a> {
    /// Its name, for messages.
    pub file: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The environment variables, as HAProxy has them.
    pub environment: &'a BTreeMap<String, String>,
    /// Reads a file of networks (`acl … -f FILE`). The error says why it cannot be read.
    pub read_file: &'a dyn Fn(&str) -> Result<String, String>,
    /// Who knows the roles, where the checks of the file do not ask for them.
    pub role_source: Option<RoleSource>,
    /// Sections whose servers are members of one cluster, whatever their names look like.
    pub one_cluster: &'a [String],
}

/// What an import gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The configuration; `None` if the file is refused.
    pub toml: Option<String>,
    /// What was dropped and what means something else; or why the file is refused, and what to do.
    pub report: String,
}

/// Imports a file.
pub fn import(request: &Request<'_>) -> Outcome {
    let (file, mut ledger) = section::read(request.file, request.bytes, request.environment);
    let (outcome, _) = run(request, &file, &mut ledger);
    outcome
}

fn run(request: &Request<'_>, file: &File, ledger: &mut Ledger) -> (Outcome, Option<Plan>) {
    let (global, bases) = global(file, ledger);
    let sockets = sockets::read(file, ledger);
    let is_proxy = |kind: Kind| matches!(kind, Kind::Listen | Kind::Frontend | Kind::Backend);
    let sections = file.sections.iter().filter(|section| is_proxy(section.kind));
    let mut proxies: Vec<Proxy> = sections.map(|section| Proxy::read(file, section)).collect();
    templates::stand_in(&mut proxies, &file.environment);
    let fronts = front::sort(&proxies, ledger);
    let import = Import { request, proxies: &proxies, fronts: &fronts, global, bases: &bases, sockets: &sockets };
    templates::refuse(&fronts.routes, &proxies, ledger);
    drop_the_rest(file, ledger);
    if fronts.routes.is_empty() && !ledger.is_refused() {
        ledger.refuse(
            0,
            "no section of the file sends connections to PostgreSQL",
            "pgvane needs a listen section, or a frontend with a backend, in mode tcp and with server lines",
        );
    }
    let mut proposals = Vec::new();
    let plan = if ledger.has_checks_without_role() {
        import.without_roles(ledger, &mut proposals)
    } else {
        import.plan(&fronts.routes, ledger, &mut proposals)
    };
    ledger.check_variables();
    let toml = write::toml(&plan, request.file);
    if !ledger.is_refused() {
        hold_against_the_reader(request.file, &toml, ledger);
    }
    if ledger.is_refused() {
        let mut report = ledger.refusal();
        if ledger.has_proposals_only() {
            proposals.iter().for_each(|(title, text)| report.push_str(&format!("\n{title}\n\n{text}")));
        }
        return (Outcome { toml: None, report }, None);
    }
    (Outcome { toml: Some(toml), report: ledger.report() }, Some(plan))
}

/// Everything that a plan is made of.
struct Import<'a> {
    request: &'a Request<'a>,
    proxies: &'a [Proxy],
    fronts: &'a Fronts,
    global: GlobalMax,
    bases: &'a Bases,
    sockets: &'a [plan::Socket],
}

/// A title, and a configuration that may be meant.
type Proposal = (String, String);

impl Import<'_> {
    /// Some checks do not ask for a role: with an answer from the command line the plan, otherwise proposals.
    fn without_roles(&self, ledger: &mut Ledger, proposals: &mut Vec<Proposal>) -> Plan {
        let routes = &self.fronts.routes;
        let possible = question::possible(routes);
        let answer = self.request.role_source.filter(|source| possible.contains(source));
        question::explain(routes, self.proxies, ledger);
        if let Some(source) = answer {
            let (flag, how) = match source {
                RoleSource::Patroni => ("patroni", "Patroni is asked for it (--check patroni)"),
                RoleSource::Sql => ("sql", "PostgreSQL itself is asked for it (--check sql)"),
            };
            ledger.roles_are_known(how);
            ledger.remark(format!(
                "--check {flag}: what each port is for was read from names, backup and balance: look at target in the result"
            ));
            return self.plan(&question::answered(routes, self.proxies, source), ledger, proposals);
        }
        ledger.roles_are_unknown(
            "say who knows the roles: import again with --check patroni (Patroni's REST API runs on the nodes) or --check sql \
             (PostgreSQL itself is asked)",
        );
        for source in possible {
            let mut scratch = ledger.clone();
            let plan = self.plan(&question::answered(routes, self.proxies, source), &mut scratch, &mut Vec::new());
            let title = match source {
                RoleSource::Patroni => {
                    "# (a) --check patroni: Patroni's REST API on port 8008 of each node knows the roles"
                }
                RoleSource::Sql => "# (b) --check sql: PostgreSQL itself knows the roles",
            };
            proposals.push((title.to_owned(), write::toml(&plan, self.request.file)));
        }
        Plan::default()
    }

    fn plan(&self, routes: &[Route], ledger: &mut Ledger, proposals: &mut Vec<Proposal>) -> Plan {
        let found = members::find(routes, self.proxies, ledger);
        let refused = shards::refuse(routes, &found, self.proxies, self.request.one_cluster, ledger);
        if !refused.is_empty() {
            let rest: Vec<Route> = routes
                .iter()
                .enumerate()
                .filter(|(place, _)| !refused.contains(place))
                .map(|(_, route)| route.clone())
                .collect();
            if !rest.is_empty() {
                let plan = self.plan(&rest, &mut ledger.clone(), &mut Vec::new());
                let title = "# What can be imported of the other sections:".to_owned();
                proposals.push((title, write::toml(&plan, self.request.file)));
            }
            return Plan::default();
        }
        let around = Around { proxies: self.proxies, read_file: self.request.read_file };
        let admin = plan::Admin { sockets: self.sockets.to_vec(), ..pages::read(self.fronts, self.proxies, ledger) };
        let mut plan = Plan { admin, ..Plan::default() };
        let mut lanes = Vec::new();
        for (route, nodes) in routes.iter().zip(&found.of_routes) {
            let Some(meaning) = &route.meaning else { continue };
            plan.listeners.push(listeners::listener(route, meaning, nodes, &found, &around, self.global, ledger));
            lanes.push(Lane { route, meaning, back: &self.proxies[route.back], nodes });
        }
        say_what_is_missing(&plan, ledger);
        plan.clusters = clusters::clusters(&lanes, &found, self.bases, &mut plan.listeners, ledger);
        let has_stand_in =
            |cluster: &plan::Cluster| cluster.nodes.iter().any(|node| templates::is_stand_in(&node.address));
        for cluster in plan.clusters.iter_mut().filter(|cluster| has_stand_in(cluster)) {
            cluster.discovers = true;
        }
        if self.fronts.has_templates && !self.fronts.routes.is_empty() {
            proposals.push((templates::TITLE.to_owned(), write::toml(&plan, self.request.file)));
        }
        plan
    }
}

/// Says once what holds for all listeners, and that a port is missing.
fn say_what_is_missing(plan: &Plan, ledger: &mut Ledger) {
    if plan.listeners.iter().all(|listener| !listener.is_for_reads()) {
        ledger.remark(
            "there is no port for reads: add a [[listener]] with target = \"replica\" if replicas shall serve some",
        );
    }
    ledger.remark(
        "while no node fits, HAProxy refuses connections at once; pgvane lets them wait, up to hold_max (40s), so that a \
         failover is a pause",
    );
}

/// Reads `global`.
fn global(file: &File, ledger: &mut Ledger) -> (GlobalMax, Bases) {
    let (mut max, mut bases) = (None, Bases::default());
    for line in file.sections.iter().filter(|section| section.kind == Kind::Global).flat_map(|section| &section.lines) {
        let value = line.word(1);
        match line.word(0) {
            "maxconn" => match value.parse::<u64>() {
                Ok(number) => {
                    max = Some((line.number, number)).filter(|_| number > 0);
                    ledger.used(line.number);
                    ledger.note(
                        line.number,
                        format!(
                            "maxconn {number} of global: HAProxy counts all sections together; in pgvane it is the sessions_max of \
                             each listener that has no smaller one"
                        ),
                    );
                }
                Err(_) => ledger.refuse(line.number, format!("maxconn {value}: not a number"), "write a whole number"),
            },
            "ca-base" => bases.ca_base = Some(value.to_owned()),
            "crt-base" => bases.crt_base = Some(value.to_owned()),
            "ssl-server-verify" => bases.verifies_nothing = value == "none",
            "presetenv" | "setenv" | "unsetenv" | "resetenv" => {}
            "stats" => continue, // see `sockets`
            word => {
                ledger.dropped(line.number, drops::global(word));
                continue;
            }
        }
        ledger.used(line.number);
    }
    (max, bases)
}

/// Lines of `defaults` that no imported section takes up.
fn drop_the_rest(file: &File, ledger: &mut Ledger) {
    for section in file.sections.iter().filter(|section| section.kind == Kind::Defaults) {
        for line in &section.lines {
            if line.word(0) == "stats" {
                ledger.dropped(line.number, "no page that is imported needs it");
            }
            ledger.dropped_at_last(line.number, "no section that is imported uses it");
        }
    }
}

/// The result must be a configuration that pgvane accepts. Files of certificates may be on another machine.
fn hold_against_the_reader(file: &str, toml: &str, ledger: &mut Ledger) {
    let Err(faults) = Config::from_toml("result", toml) else { return };
    for fault in faults.list {
        if fault.message.contains("cannot read") {
            ledger.remark(format!("{}: the file must exist where pgvane runs", fault.message));
            continue;
        }
        let line = fault.line.and_then(|line| toml.lines().nth(line - 1)).unwrap_or_default();
        ledger.refuse(
            0,
            format!("pgvane would not accept the result: {} ({line})", fault.message),
            format!("change {file} so that this is possible, or write the configuration by hand"),
        );
    }
}
