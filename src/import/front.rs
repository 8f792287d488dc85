//! Which sections accept connections for PostgreSQL, and from which section each of them gets its servers.

use super::acl::{self, Literal};
use super::address::Bind;
use super::check::Kind as CheckKind;
use super::ledger::Ledger;
use super::proxy::{Listening, Proxy};
use super::role::{self, Meaning, Verdict};

/// A port for PostgreSQL: a future listener.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// Places in the list of sections.
    pub front: usize,
    pub back: usize,
    pub name: String,
    pub binds: Vec<Listening>,
    /// `None` as long as nobody knows the role.
    pub meaning: Option<Meaning>,
    /// The PostgreSQL user of a check without a role.
    pub check_user: Option<String>,
    pub falls_back_to_leader: bool,
}

/// What the sections of a file are for.
#[derive(Debug, Default)]
pub(super) struct Fronts {
    pub routes: Vec<Route>,
    /// Sections with HAProxy's page or its metrics.
    pub pages: Vec<usize>,
    /// Sections whose servers come from `server-template`.
    pub has_templates: bool,
}

/// Sorts the sections. Those that are not imported are reported.
pub(super) fn sort(proxies: &[Proxy], ledger: &mut Ledger) -> Fronts {
    let mut fronts = Fronts::default();
    let mut reached = vec![false; proxies.len()];
    for (place, proxy) in proxies.iter().enumerate().filter(|(_, proxy)| proxy.is_front()) {
        if proxy.is_disabled {
            leave(proxy, ledger, "the section is disabled: HAProxy does not start it");
        } else if proxy.is_http {
            http(place, proxies, &mut fronts, ledger);
        } else {
            tcp(place, proxies, &mut fronts, &mut reached, ledger);
        }
        for back in backs_named(proxy, proxies) {
            reached[back] = true;
        }
    }
    for (place, proxy) in proxies.iter().enumerate().filter(|(_, proxy)| !proxy.is_front()) {
        let is_used = fronts.routes.iter().any(|route| route.back == place);
        if !is_used && reached[place] {
            leave(proxy, ledger, "the sections that lead to it are not imported");
        } else if !is_used {
            leave(proxy, ledger, "no frontend leads to this backend: nothing can be imported from it");
        }
    }
    fronts
}

/// The section is not imported; each of its lines is reported.
fn leave(proxy: &Proxy, ledger: &mut Ledger, why: &str) {
    proxy.findings.enter_faults(ledger);
    ledger.dropped(proxy.line, why);
    for line in &proxy.own_lines {
        ledger.dropped(*line, format!("{} is not imported (line {})", proxy.name, proxy.line));
    }
}

/// Every backend that a section names.
fn backs_named(proxy: &Proxy, proxies: &[Proxy]) -> Vec<usize> {
    let default = proxy.default_backend.iter().map(|(_, name)| name.as_str());
    let names = default.chain(proxy.use_backends.iter().map(|line| line.word(1)));
    names.filter_map(|name| backend(name, proxies)).collect()
}

fn backend(name: &str, proxies: &[Proxy]) -> Option<usize> {
    let is_back = |proxy: &Proxy| proxy.kind != super::section::Kind::Frontend && proxy.name == name;
    proxies.iter().position(is_back)
}

fn http(place: usize, proxies: &[Proxy], fronts: &mut Fronts, ledger: &mut Ledger) {
    let proxy = &proxies[place];
    let backs = backs_named(proxy, proxies);
    let serves_others = !proxy.servers.is_empty() || !proxy.templates.is_empty() || !backs.is_empty();
    let all_servers =
        backs.iter().map(|back| &proxies[*back]).chain(std::iter::once(proxy)).flat_map(|proxy| &proxy.servers);
    let is_postgresql = all_servers.clone().any(|server| is_postgresql_port(server.address.port))
        || matches!(proxy.check.kind, CheckKind::Pgsql { .. });
    if is_postgresql {
        let first = all_servers.map(|server| server.line).next().unwrap_or(proxy.line);
        ledger.refuse(
            proxy.line,
            format!(
                "{} is in mode http (line {}), and its servers are PostgreSQL (line {first}): HAProxy speaks HTTP to them, and \
                 no session works",
                proxy.name, proxy.mode_line
            ),
            "write \"mode tcp\" into the section, or remove it",
        );
        leave(proxy, ledger, "it is in mode http");
    } else if !serves_others && (!proxy.stats.is_empty() || proxy.has_http_service) {
        fronts.pages.push(place);
    } else {
        leave(proxy, ledger, "it is in mode http, not for PostgreSQL: leave it to HAProxy");
    }
}

fn tcp(place: usize, proxies: &[Proxy], fronts: &mut Fronts, reached: &mut [bool], ledger: &mut Ledger) {
    let proxy = &proxies[place];
    let Some(ways) = ways(place, proxies, ledger) else { return };
    if ways.is_empty() {
        let is_page = !proxy.stats.is_empty();
        let why = if is_page {
            "it is in mode tcp, where HAProxy ignores `stats`, and it has no servers"
        } else {
            "no server can be reached through it"
        };
        return leave(proxy, ledger, why);
    }
    let mut is_imported = false;
    let parts = ways.len();
    for way in ways {
        reached[way.back] = true;
        let back = &proxies[way.back];
        let verdict = verdict(back, proxies);
        let evidence = evidence(proxy, back);
        match verdict {
            Verdict::NotPostgresql(why) => leave_pair(proxy, back, ledger, &format!("{why}: leave it to HAProxy")),
            _ if evidence == Evidence::Other => {
                leave_pair(proxy, back, ledger, "its servers are not PostgreSQL, by their ports: leave it to HAProxy");
            }
            Verdict::NoRole { .. } | Verdict::Refused { .. } if evidence == Evidence::None => {
                leave_pair(proxy, back, ledger, "nothing in it says that it is for PostgreSQL: leave it to HAProxy");
            }
            Verdict::Role(meaning) if evidence == Evidence::None && asks_own_port(&meaning, back) => {
                leave_pair(proxy, back, ledger, "nothing in it says that it is for PostgreSQL: leave it to HAProxy");
            }
            verdict => {
                is_imported = true;
                fronts.has_templates |= !back.templates.is_empty();
                let name = if parts == 1 { proxy.name.clone() } else { way.name(&proxy.name) };
                let mut route = Route {
                    front: place,
                    back: way.back,
                    name,
                    binds: way.binds,
                    meaning: None,
                    check_user: None,
                    falls_back_to_leader: way.spare.is_some(),
                };
                take(verdict, back, &mut route, ledger);
                if let Some(spare) = way.spare {
                    check_spare(&route, &proxies[spare], proxies, ledger);
                    enter(&proxies[spare], ledger);
                }
                enter(back, ledger);
                fronts.routes.push(route);
            }
        }
    }
    if is_imported {
        enter(proxy, ledger);
    }
}

fn leave_pair(front: &Proxy, back: &Proxy, ledger: &mut Ledger, why: &str) {
    leave(front, ledger, why);
    if back.line != front.line {
        leave(back, ledger, why);
    }
}

/// Whether the check asks where the sessions go: then it is no REST API beside PostgreSQL.
fn asks_own_port(meaning: &Meaning, back: &Proxy) -> bool {
    let connect = meaning.source.connect();
    back.servers.iter().any(|server| {
        let settings = &server.settings;
        role::checked_address(connect, settings.check_address.as_ref(), settings.port, &server.address).port
            == server.address.port
    })
}

/// The check of a section, or of the one whose servers its servers track.
fn verdict(back: &Proxy, proxies: &[Proxy]) -> Verdict {
    let tracked =
        back.servers.first().and_then(|server| server.settings.track.as_deref()).filter(|_| {
            back.servers.iter().all(|server| server.settings.track.is_some() && !server.settings.is_checked)
        });
    let other = tracked.and_then(|name| backend(name.split('/').next().unwrap_or_default(), proxies));
    if let Some(other) = other {
        let same = back.servers.iter().all(|server| {
            proxies[other].servers.iter().any(|one| one.address.host == server.address.host && one.settings.is_checked)
        });
        if same {
            return role::verdict(&proxies[other].check);
        }
    }
    let unchecked: Vec<&str> =
        back.servers.iter().filter(|server| !server.settings.is_checked).map(|server| server.name.as_str()).collect();
    let verdict = role::verdict(&back.check);
    if unchecked.is_empty() || matches!(verdict, Verdict::NotPostgresql(_)) {
        return verdict;
    }
    Verdict::NoRole {
        why: format!("{} has no \"check\": HAProxy sends sessions to it whatever its role is", unchecked.join(", ")),
        user: None,
    }
}

fn take(verdict: Verdict, back: &Proxy, route: &mut Route, ledger: &mut Ledger) {
    let place = if back.check.line > 0 { back.check.line } else { back.line };
    match verdict {
        Verdict::Role(meaning) => {
            for (line, note) in &meaning.notes {
                ledger.note(*line, note);
            }
            route.meaning = Some(meaning);
        }
        Verdict::NoRole { why, user } => {
            route.check_user = user;
            ledger.no_role(place, format!("{}: the check does not ask for the role: {why}", route.name));
        }
        Verdict::Refused { why, hint } => ledger.refuse(place, format!("{}: {why}", route.name), hint),
        Verdict::NotPostgresql(_) => {}
    }
}

/// `use_backend replicas if { nbsrv(replicas) gt 0 }` with the leader as the default: pgvane's `fallback`.
fn check_spare(route: &Route, spare: &Proxy, proxies: &[Proxy], ledger: &mut Ledger) {
    let leads = matches!(verdict(spare, proxies), Verdict::Role(meaning) if meaning.target == "leader");
    let reads = route.meaning.as_ref().is_some_and(|meaning| {
        matches!(meaning.target, "replica" | "sync" | "sync-only" | "quorum" | "async") && !meaning.include_leader
    });
    if !(leads && reads) {
        ledger.refuse(
            spare.line,
            format!(
                "{}: {} serves while there are no other servers, and pgvane can do this with the leader only",
                route.name, spare.name
            ),
            "write a listener for each backend",
        );
    }
}

/// The section is imported: what was found in it holds.
fn enter(proxy: &Proxy, ledger: &mut Ledger) {
    proxy.findings.enter(ledger);
    ledger.used(proxy.line);
    for (line, note) in &proxy.check.notes {
        ledger.note(*line, note);
    }
    for line in proxy.servers.iter().flat_map(|server| server.settings.lines.iter().chain([&server.line])) {
        ledger.used(*line);
    }
    for line in proxy.check.lines() {
        ledger.used(line);
    }
    for line in &proxy.check.all_lines {
        ledger.dropped(*line, "HAProxy does not use it here: another line about the check takes its place");
    }
    for line in &proxy.stats {
        ledger.dropped(line.number, "HAProxy ignores it in mode tcp");
    }
    for line in &proxy.use_backends {
        ledger.used(line.number);
    }
}

/// One way from a front to its servers.
struct Way {
    back: usize,
    binds: Vec<Listening>,
    /// The backend that serves while the first has no servers.
    spare: Option<usize>,
}

impl Way {
    fn name(&self, front: &str) -> String {
        let ports = self.binds.iter().flat_map(|listening| &listening.binds).filter_map(Bind::port);
        ports.take(1).fold(front.to_owned(), |name, port| format!("{name}_{port}"))
    }
}

/// Where connections go. `None` if this cannot be told; then the file is refused.
fn ways(place: usize, proxies: &[Proxy], ledger: &mut Ledger) -> Option<Vec<Way>> {
    let proxy = &proxies[place];
    let mut left = proxy.binds.clone();
    let mut ways: Vec<Way> = Vec::new();
    let mut first_choice = None;
    let has_own = !proxy.servers.is_empty() || !proxy.templates.is_empty();
    let mut last = proxy.default_backend.clone();
    for line in &proxy.use_backends {
        let found = backend(line.word(1), proxies);
        let Some(back) = found else {
            missing(line.number, line.word(1), ledger);
            return None;
        };
        let condition = match acl::split(line.rest(2), &proxy.acls) {
            Ok((_, condition)) => condition,
            Err(why) => {
                ledger.refuse(line.number, format!("use_backend: {why}"), "write a frontend for each backend");
                return None;
            }
        };
        for test in condition.tests().filter(|test| test.line > 0) {
            ledger.used(test.line);
        }
        if condition.0.iter().any(Vec::is_empty) {
            last = Some((line.number, line.word(1).to_owned()));
            break;
        }
        match condition.single().map(|literal| decides(literal, line.word(1))) {
            Some(Decision::Ports(ports)) => {
                let binds = split_ports(&mut left, &ports);
                if !binds.is_empty() {
                    ways.push(Way { back, binds, spare: None });
                }
            }
            Some(Decision::WhileItHasServers) if first_choice.is_none() => first_choice = Some(back),
            Some(Decision::WhileOtherHasNone(other))
                if first_choice.is_none() && backend(&other, proxies).is_some() =>
            {
                first_choice = backend(&other, proxies);
                last = Some((line.number, line.word(1).to_owned()));
                break;
            }
            _ => {
                ledger.refuse(
                    line.number,
                    format!(
                        "use_backend {}: which backend serves depends on a condition that pgvane does not have",
                        line.word(1)
                    ),
                    "write a frontend with an address of its own for each backend",
                );
                return None;
            }
        }
    }
    let default = match last {
        Some((line, name)) => match backend(&name, proxies) {
            Some(back) => Some(back),
            None => {
                missing(line, &name, ledger);
                return None;
            }
        },
        None => has_own.then_some(place),
    };
    let is_left = left.iter().any(|listening| !listening.binds.is_empty()) || proxy.binds.is_empty();
    if let (true, Some(back)) = (is_left, first_choice.or(default)) {
        let spare = first_choice.and(default).filter(|spare| *spare != back);
        ways.push(Way { back, binds: left, spare });
    }
    if proxy.binds.is_empty() && !ways.is_empty() {
        leave(proxy, ledger, "it has no bind line: nobody can connect");
        return None;
    }
    Some(
        ways.into_iter()
            .filter(|way| !proxies[way.back].servers.is_empty() || has_servers(&proxies[way.back]))
            .collect(),
    )
}

fn has_servers(back: &Proxy) -> bool {
    // a server line that could not be read is reported by the line; the section is still one with servers
    !back.templates.is_empty() || back.findings.has_obstacles()
}

fn missing(line: usize, name: &str, ledger: &mut Ledger) {
    let is_format = name.contains("%[");
    let why = if is_format {
        format!("the name of the backend is computed for each connection: {name}")
    } else {
        format!("there is no backend \"{name}\": HAProxy refuses the file")
    };
    ledger.refuse(line, why, "write a frontend for each backend");
}

/// What a condition of `use_backend` decides by.
enum Decision {
    Ports(Vec<(u16, u16)>),
    WhileItHasServers,
    WhileOtherHasNone(String),
    Unknown,
}

fn decides(literal: &Literal, name: &str) -> Decision {
    let [test] = &literal.tests[..] else { return Decision::Unknown };
    match test.criterion.as_str() {
        "dst_port" if !literal.is_negated && test.flags.is_empty() => {
            let range = |text: &String| {
                let (first, last) = text.split_once(':').unwrap_or((text, text));
                Some((first.parse().ok()?, last.parse().ok()?))
            };
            let values = test.values.iter().filter(|value| *value != "eq");
            values.map(range).collect::<Option<Vec<_>>>().map_or(Decision::Unknown, Decision::Ports)
        }
        "nbsrv" => {
            let is_one_or_more = test.at_least() == Some(1);
            let values: Vec<&str> = test.values.iter().map(String::as_str).collect();
            let is_none = matches!(&values[..], ["lt", "1"] | ["eq" | "le", "0"] | ["0"]);
            if !is_one_or_more && !is_none {
                Decision::Unknown
            } else if is_one_or_more != literal.is_negated {
                if test.argument == name { Decision::WhileItHasServers } else { Decision::Unknown }
            } else if test.argument != name {
                Decision::WhileOtherHasNone(test.argument.clone())
            } else {
                Decision::Unknown
            }
        }
        _ => Decision::Unknown,
    }
}

/// Takes the binds with these ports out of the list.
fn split_ports(left: &mut [Listening], ports: &[(u16, u16)]) -> Vec<Listening> {
    let is_wanted = |bind: &Bind| {
        bind.port().is_some_and(|port| ports.iter().any(|(first, last)| (*first..=*last).contains(&port)))
    };
    let mut taken = Vec::new();
    for listening in left {
        let (wanted, rest): (Vec<Bind>, Vec<Bind>) = listening.binds.drain(..).partition(is_wanted);
        listening.binds = rest;
        if !wanted.is_empty() {
            taken.push(Listening { binds: wanted, ..listening.clone() });
        }
    }
    taken
}

/// Whether a section is for PostgreSQL, by what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    Postgresql,
    Other,
    None,
}

/// Ports of other programs.
const OTHER_PORTS: [u16; 35] = [
    22, 25, 53, 80, 110, 143, 389, 443, 587, 636, 993, 995, 1433, 1521, 1883, 2181, 2379, 2380, 3000, 3306, 3307, 4444,
    4567, 5672, 6379, 6443, 8080, 8443, 9042, 9092, 9200, 11211, 26379, 27017, 33060,
];

fn is_postgresql_port(port: u16) -> bool {
    matches!(port, 5430..=5499 | 6430..=6439 | 6543 | 15430..=15499 | 25430..=25499)
}

fn evidence(front: &Proxy, back: &Proxy) -> Evidence {
    let ports: Vec<u16> = back.servers.iter().map(|server| server.address.port).collect();
    let is_check = matches!(back.check.kind, CheckKind::Pgsql { .. });
    if is_check || ports.iter().any(|port| is_postgresql_port(*port)) {
        return Evidence::Postgresql;
    }
    if !ports.is_empty() && ports.iter().all(|port| OTHER_PORTS.contains(port)) {
        return Evidence::Other;
    }
    let names = [&front.name, &back.name].into_iter().chain(back.servers.iter().map(|server| &server.name));
    let says = |name: &String| {
        let name = name.to_ascii_lowercase();
        ["postgres", "pgsql", "patroni", "pgbouncer"].iter().any(|word| name.contains(word))
            || name.split(|c: char| !c.is_ascii_alphabetic()).any(|word| word == "pg")
    };
    let templates = back.templates.iter().any(|line| line.words.iter().any(|word| word.contains("5432")));
    let has_port =
        front.binds.iter().flat_map(|listening| &listening.binds).filter_map(Bind::port).any(is_postgresql_port);
    if templates || has_port || names.into_iter().any(says) { Evidence::Postgresql } else { Evidence::None }
}
