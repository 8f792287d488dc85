//! What a check means: which nodes it says yes to, and so which `target` a listener has. Every kind of node is held
//! against all requests of the check; the target follows from those that pass.

use std::collections::BTreeMap;

use regex_lite::Regex;

use super::address::Target as Address;
use super::check::{Check, Connect, Expect, Kind, Pattern, Request, Sent};
use super::patroni::{Ask, Node, Role};
use super::sql::{self, Question};

/// The meaning of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Role(Meaning),
    /// It does not ask for the role. Holds the reason, and the PostgreSQL user of the check.
    NoRole {
        why: String,
        user: Option<String>,
    },
    /// It cannot be imported for another reason.
    Refused {
        why: String,
        hint: String,
    },
    /// The section is not for PostgreSQL.
    NotPostgresql(String),
}

/// A check that asks for a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meaning {
    pub target: &'static str,
    pub include_leader: bool,
    pub lag_bytes: Option<u64>,
    pub tags: BTreeMap<String, String>,
    pub is_streaming: bool,
    pub source: Source,
    /// Notes, by line.
    pub notes: Vec<(usize, String)>,
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Patroni(Connect),
    Sql { user: String, database: String, connect: Connect },
}

/// The kinds of nodes that checks can tell apart.
struct Accepted {
    leader: bool,
    master: bool,
    standby_leader: bool,
    sync: bool,
    quorum: bool,
    async_: bool,
    noloadbalance: bool,
    stopped: bool,
}

/// What a check means.
pub(super) fn verdict(check: &Check) -> Verdict {
    match &check.kind {
        Kind::NotPostgresql(name) => Verdict::NotPostgresql(format!("option {name} is for another program")),
        Kind::Connect => no_role("HAProxy only looks whether a connection opens", None),
        Kind::External => no_role("a program outside of HAProxy decides (external-check), and pgvane runs none", None),
        Kind::Pgsql { user } => no_role("option pgsql-check only looks whether PostgreSQL answers a login", Some(user)),
        Kind::Http => of_requests(&check.requests()),
        Kind::Tcp => {
            let requests: Vec<Request> = check
                .requests()
                .into_iter()
                .filter(|request| !request.sent.is_empty() || !request.expects.is_empty())
                .collect();
            if requests.is_empty() {
                return no_role("option tcp-check only looks whether a connection opens", None);
            }
            let bytes = sent_bytes(&requests[0]);
            if sql::is_startup(&bytes) {
                return of_dialogue(&requests, &bytes);
            }
            if as_http(&bytes).is_none() {
                let is_other = [&b"PING"[..], b"INFO", b"AUTH", b"*1\r\n"].iter().any(|start| bytes.starts_with(start));
                if is_other || bytes.starts_with(b"info replication") {
                    return Verdict::NotPostgresql("its check speaks to another program".to_owned());
                }
                return no_role("what its tcp-check rules send is neither HTTP nor PostgreSQL's protocol", None);
            }
            of_requests(&requests)
        }
    }
}

fn no_role(why: &str, user: Option<&str>) -> Verdict {
    Verdict::NoRole { why: why.to_owned(), user: user.filter(|user| !user.is_empty()).map(str::to_owned) }
}

fn refused(why: impl Into<String>, hint: &str) -> Verdict {
    Verdict::Refused { why: why.into(), hint: hint.to_owned() }
}

/// An HTTP request with what is accepted as its answer.
struct Asked<'r> {
    line: usize,
    ask: Ask,
    expects: Vec<&'r Expect>,
    is_raw: bool,
}

fn of_requests(requests: &[Request]) -> Verdict {
    let mut asked = Vec::new();
    for request in requests.iter().filter(|request| !request.sent.is_empty() || !request.expects.is_empty()) {
        match ask_of(request) {
            Ok(one) => asked.push(one),
            Err(verdict) => return *verdict,
        }
    }
    let Some(first) = requests.iter().find(|request| !request.sent.is_empty()) else {
        return refused("the check sends nothing", "write `option httpchk` into the section");
    };
    let place = |request: &Request| (request.connect.port, request.connect.address.clone(), request.connect.ssl);
    if requests.iter().any(|request| !request.sent.is_empty() && place(request) != place(first)) {
        return refused("the check asks at several ports, and Patroni has one", "leave only the requests to Patroni");
    }
    let accepts = |node: Node| asked.iter().try_fold(true, |all, one| Ok::<_, String>(all && one.accepts(node)?));
    let of = |role| accepts(Node::of(role));
    let any = |nodes: &[Node]| -> Result<bool, String> {
        nodes.iter().try_fold(false, |any, node| Ok(any || accepts(*node)?))
    };
    let found = (|| {
        let tagged =
            [Role::Sync, Role::Quorum, Role::Async].map(|role| Node { is_noloadbalance: true, ..Node::of(role) });
        let stopped = [Role::Leader, Role::Async].map(|role| Node { is_running: false, ..Node::of(role) });
        Ok::<_, String>(Accepted {
            leader: of(Role::Leader)?,
            master: accepts(Node { says_master: true, ..Node::of(Role::Leader) })?,
            standby_leader: of(Role::StandbyLeader)?,
            sync: of(Role::Sync)?,
            quorum: of(Role::Quorum)?,
            async_: of(Role::Async)?,
            noloadbalance: any(&tagged)?,
            // a leader that is stopped keeps the lock for a moment; a replica that is stopped has no role
            stopped: accepts(stopped[1])?,
        })
    })();
    match found {
        Ok(accepted) => meaning(&accepted, &asked, first),
        Err(why) => refused(why, "write the check with `http-check expect status 200`"),
    }
}

fn ask_of(request: &Request) -> Result<Asked<'_>, Box<Verdict>> {
    let expects = request.expects.iter().map(|(_, expect)| expect).collect();
    let line = request.sent.first().map_or(request.connect.line, |(line, _)| *line);
    match request.sent.first() {
        Some((_, Sent::Http { method, path, .. })) => {
            let method = method.as_deref().unwrap_or("OPTIONS");
            Ok(Asked { line, ask: Ask::read(method, path.as_deref().unwrap_or("/")), expects, is_raw: false })
        }
        Some(_) => {
            let bytes = sent_bytes(request);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some(ask) = as_http(&bytes) else {
                return Err(Box::new(refused(
                    "a part of the check is neither HTTP nor PostgreSQL's protocol",
                    "leave only the request to Patroni",
                )));
            };
            if !(text.contains("\r\n\r\n") || text.contains("\n\n")) {
                return Err(Box::new(never(
                    line,
                    "the request has no empty line at its end, and Patroni waits for it",
                )));
            }
            Ok(Asked { line, ask, expects, is_raw: true })
        }
        None => Err(Box::new(refused(
            "HAProxy sends no request, so the servers are never up: `option httpchk` of a defaults section does not count for \
             a section with http-check rules of its own",
            "write `option httpchk` into the section that has the http-check rules",
        ))),
    }
}

fn sent_bytes(request: &Request) -> Vec<u8> {
    let parts = request.sent.iter().filter_map(|(_, sent)| match sent {
        Sent::Bytes(bytes) => Some(&bytes[..]),
        Sent::Http { .. } => None,
    });
    parts.collect::<Vec<_>>().concat()
}

/// HTTP that is written by hand.
fn as_http(bytes: &[u8]) -> Option<Ask> {
    let text = String::from_utf8_lossy(bytes);
    let mut words = text.lines().next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let is_http = version.starts_with("HTTP/") && method.chars().all(|c| c.is_ascii_uppercase());
    is_http.then(|| Ask::read(method, target))
}

impl Asked<'_> {
    /// Whether a node passes. Errors: why pgvane cannot tell.
    fn accepts(&self, node: Node) -> Result<bool, String> {
        let Some((status, body)) = self.ask.answer(node) else { return Ok(false) };
        let reason = match status {
            200 => "OK",
            501 => "Unsupported method",
            _ => "Service Unavailable",
        };
        let raw = if self.ask.method == "GET" {
            format!(
                "HTTP/1.0 {status} {reason}\r\nServer: BaseHTTP/0.6 Python/3.11.2\r\nContent-Type: application/json\r\n\r\n{body}"
            )
        } else {
            format!("HTTP/1.0 {status} {reason}\r\n\r\n")
        };
        for expect in &self.expects {
            let matches = match &expect.pattern {
                Pattern::Status(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&status)),
                Pattern::StatusRegex(pattern) => regex(pattern)?.is_match(&status.to_string()),
                Pattern::Text(text) => if self.is_raw { &raw } else { &body }.contains(text),
                Pattern::TextRegex(pattern) => regex(pattern)?.is_match(if self.is_raw { &raw } else { &body }),
                Pattern::Binary(bytes) => contains(raw.as_bytes(), bytes),
                Pattern::BinaryRegex(pattern) => regex(pattern)?.is_match(&hex_text(raw.as_bytes())),
            };
            if matches == expect.is_negated {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|_| format!("pgvane cannot read the pattern \"{pattern}\""))
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    part.is_empty() || all.windows(part.len()).any(|window| window == part)
}

fn hex_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn never(line: usize, why: &str) -> Verdict {
    refused(
        format!("the check at line {line} never says yes: {why}, so the servers are never up"),
        "correct the check, then import again",
    )
}

fn meaning(accepted: &Accepted, asked: &[Asked<'_>], first: &Request) -> Verdict {
    let Accepted { leader, master, standby_leader, sync, quorum, async_, noloadbalance, stopped } = *accepted;
    let line = asked.first().map_or(0, |one| one.line);
    let shown = asked.first().map_or(String::new(), |one| format!("{} {}", one.ask.method, one.ask.path));
    let leads = leader || master;
    if stopped {
        if leads && standby_leader && sync && quorum && async_ {
            return no_role(
                &format!("{shown} is answered in the same way whatever the node is, even if PostgreSQL is down"),
                None,
            );
        }
        return refused(
            format!("the check at line {line} ({shown}) also says yes to nodes whose PostgreSQL is down"),
            "write a check that says yes to what is wanted, for example /replica in place of \"not /primary\"",
        );
    }
    let mut notes = Vec::new();
    let (target, include_leader) = match (leads, standby_leader, sync, quorum, async_) {
        (true, false, false, false, false) => ("leader", false),
        (true, true, false, false, false) => {
            notes.push((line, format!("{shown} also says yes to the leader of a standby cluster; target = \"leader\" does not (\"standby-leader\" does)")));
            ("leader", false)
        }
        (false, true, false, false, false) => ("standby-leader", false),
        (false, false, true, true, true) => ("replica", false),
        (false, false, true, false, false) => {
            notes.push((line, format!("target = \"sync\" takes members of a quorum too, {shown} does not: target = \"sync-only\" is the same as {shown}")));
            ("sync", false)
        }
        (false, false, false, true, false) => ("quorum", false),
        (false, false, true, true, false) => ("sync", false),
        (false, false, false, false, true) => ("async", false),
        (true, _, true, true, true) => ("any", false),
        (true, _, true, false, false) => ("sync-only", true),
        (true, _, false, true, false) => ("quorum", true),
        (true, _, true, true, false) => ("sync", true),
        (true, _, false, false, true) => ("async", true),
        (false, false, false, false, false) => {
            return never(line, &format!("Patroni has no node for which the answer to {shown} is the expected one"));
        }
        _ => {
            return refused(
                format!("pgvane has no target for the nodes that the check at line {line} ({shown}) says yes to"),
                "change the check",
            );
        }
    };
    if leads && leader != master {
        let (this, other) = if leader { ("4", "3") } else { ("3", "4") };
        notes.push((
            line,
            format!("the text that is expected is Patroni {this}'s; with Patroni {other} no node would be up"),
        ));
    }
    if noloadbalance && target != "leader" {
        notes.push((
            line,
            format!("{shown} counts nodes with the tag noloadbalance too; pgvane gives them no sessions"),
        ));
    }
    let mut found = Meaning {
        target,
        include_leader,
        lag_bytes: None,
        tags: BTreeMap::new(),
        is_streaming: false,
        source: Source::Patroni(first.connect.clone()),
        notes,
    };
    let counts_replicas = !matches!(target, "leader" | "standby-leader");
    for one in asked {
        if let Err(verdict) = conditions(one, counts_replicas, &mut found) {
            return *verdict;
        }
    }
    Verdict::Role(found)
}

/// Lag, tags and the word in front of the path.
fn conditions(one: &Asked<'_>, counts_replicas: bool, found: &mut Meaning) -> Result<(), Box<Verdict>> {
    let mut note = |text: String| found.notes.push((one.line, text));
    if let Some(front) = one.ask.word_in_front() {
        note(format!(
            "{}: Patroni looks for the word in the path, so \"{front}\" has no meaning; pgvane asks for /primary",
            one.ask.path
        ));
    }
    let counts_lag = counts_replicas && !one.ask.path.contains("health");
    match (one.ask.value("lag"), one.ask.lag_bytes()) {
        (None, _) => {}
        (Some(text), _) if !counts_lag => note(format!("lag={text} has no effect: Patroni heeds it for replicas only")),
        (Some(text), None) => note(format!(
            "Patroni cannot read lag={text} (its units are kB, MB, GB and TB) and lets every lag pass; so does the result. {}",
            offered(text)
        )),
        (Some(_), Some(bytes)) => found.lag_bytes = Some(found.lag_bytes.map_or(bytes, |least| least.min(bytes))),
    }
    for (name, value) in one.ask.tags() {
        if !counts_replicas {
            found.notes.push((one.line, format!("tag_{name} has no effect: Patroni heeds tags for replicas only")));
        } else if let Some(other) = found.tags.insert(name.to_owned(), value.to_owned()).filter(|other| other != value)
        {
            return Err(Box::new(never(one.line, &format!("the tag {name} would have to be {other} and {value}"))));
        }
    }
    match one.ask.value("replication_state") {
        Some("streaming") if counts_replicas => {
            found.is_streaming = true;
            found.notes.push((
                one.line,
                "replication_state: older versions of Patroni do not heed it; pgvane does".to_owned(),
            ));
        }
        Some(state) => {
            found.notes.push((one.line, format!("replication_state={state} has no counterpart, and is not imported")));
        }
        None => {}
    }
    Ok(())
}

/// What may have been meant by a size that Patroni cannot read.
fn offered(text: &str) -> String {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => "kB",
        "m" | "mb" | "mib" => "MB",
        "g" | "gb" | "gib" => "GB",
        "t" | "tb" | "tib" => "TB",
        _ => return "Write lag_max where a limit is wanted".to_owned(),
    };
    if number.is_empty() {
        return "Write lag_max where a limit is wanted".to_owned();
    }
    format!("If a limit is wanted, write lag_max = \"{number}{unit}\"")
}

fn of_dialogue(requests: &[Request], bytes: &[u8]) -> Verdict {
    let request = &requests[0];
    let line = request.sent.first().map_or(0, |(line, _)| *line);
    if requests.len() > 1 {
        return refused("the check connects several times", "leave only the questions to PostgreSQL");
    }
    let Some(dialogue) = sql::read(bytes) else {
        return refused(
            format!("the bytes that the check at line {line} sends are no complete messages of PostgreSQL's protocol"),
            "correct their lengths, or write the configuration with check = \"sql\" by hand",
        );
    };
    let Some(query) = &dialogue.query else {
        return no_role("the check only looks whether PostgreSQL answers a login", Some(&dialogue.user));
    };
    let Some(question) = sql::question(query) else {
        return refused(
            format!(
                "the check at line {line} asks \"{}\", and pgvane cannot tell what this says about the role",
                query.trim()
            ),
            "pgvane's own SQL check asks pg_is_in_recovery(): write the configuration with check = \"sql\" by hand",
        );
    };
    let (yes, no) = match question {
        Question::ReadOnly => ("on", "off"),
        Question::IsStandby | Question::IsPrimary => ("t", "f"),
    };
    let passes = |text: &str| accepts_bytes(request, &sql::answer(text));
    let accepts_yes = match (passes(yes), passes(no)) {
        (Ok(true), Ok(false)) => true,
        (Ok(false), Ok(true)) => false,
        (Ok(true), Ok(true)) => {
            return no_role("the check accepts every answer to its query", Some(&dialogue.user));
        }
        (Ok(false), Ok(false)) => return never(line, "no answer of PostgreSQL is the expected one"),
        (Err(why), _) | (_, Err(why)) => return refused(why, "write the check with `tcp-check expect binary`"),
    };
    let is_standby = (question != Question::IsPrimary) == accepts_yes;
    Verdict::Role(Meaning {
        target: if is_standby { "replica" } else { "leader" },
        include_leader: false,
        lag_bytes: None,
        tags: BTreeMap::new(),
        is_streaming: false,
        source: Source::Sql { user: dialogue.user, database: dialogue.database, connect: request.connect.clone() },
        notes: vec![(
            line,
            "check = \"sql\" asks the same. pg_hba.conf needs no \"trust\" line for it any more: give the role a password \
             (password_file). Where Patroni's REST API can be reached, check = \"patroni\" is better: it knows the leader \
             lock and finds a new leader sooner"
                .to_owned(),
        )],
    })
}

fn accepts_bytes(request: &Request, answer: &[u8]) -> Result<bool, String> {
    for (_, expect) in &request.expects {
        let text = || String::from_utf8_lossy(answer).into_owned();
        let matches = match &expect.pattern {
            Pattern::Text(part) => contains(answer, part.as_bytes()),
            Pattern::TextRegex(pattern) => regex(pattern)?.is_match(&text()),
            Pattern::Binary(part) => contains(answer, part),
            Pattern::BinaryRegex(pattern) => regex(pattern)?.is_match(&hex_text(answer)),
            Pattern::Status(_) | Pattern::StatusRegex(_) => false,
        };
        if matches == expect.is_negated {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Source {
    pub fn connect(&self) -> &Connect {
        match self {
            Source::Patroni(connect) | Source::Sql { connect, .. } => connect,
        }
    }
}

/// The address that a connect rule, then the server line, then the server itself gives.
pub(super) fn checked_address(
    connect: &Connect,
    line_address: Option<&Address>,
    line_port: Option<u16>,
    own: &Address,
) -> Address {
    let named = connect.address.as_ref().or(line_address);
    let host = named.unwrap_or(own).host.clone();
    let of_address = |address: Option<&Address>| address.map(|address| address.port).filter(|port| *port > 1);
    let port = connect.port.or(of_address(connect.address.as_ref())).or(line_port).or(of_address(line_address));
    Address { host, port: port.unwrap_or(own.port) }
}
