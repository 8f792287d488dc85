//! Who may connect: `tcp-request … accept` and `reject` with sources, and with rates of one client.

use std::net::IpAddr;

use ipnet::IpNet;

use super::acl::{self, Condition, Test};
use super::address::Time;
use super::ledger::Ledger;
use super::lexer::Line;
use super::proxy::Proxy;

/// What a listener says about its clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Access {
    /// Networks; empty if everybody may connect.
    pub allow: Vec<IpNet>,
    /// `50/3s`.
    pub rate: Option<String>,
    pub sessions_per_client: Option<u64>,
}

/// What access rules are read with.
pub(super) struct Around<'a> {
    /// All sections, for their `stick-table` lines.
    pub proxies: &'a [Proxy],
    /// Reads a file of an `acl … -f FILE`.
    pub read_file: &'a dyn Fn(&str) -> Result<String, String>,
}

/// A set of addresses: these networks, or all others.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Set {
    These(Vec<IpNet>),
    Others(Vec<IpNet>),
}

const STAGES: [&str; 3] = ["connection", "session", "content"];
const WRITE_ALLOW: &str =
    "write the networks that may connect, as allow = [\"10.0.0.0/8\"], or leave the section to HAProxy";

/// Reads the rules of a section.
pub(super) fn read(proxy: &Proxy, around: &Around<'_>, ledger: &mut Ledger) -> Access {
    let mut access = Access::default();
    let mut allowed = Set::everybody();
    for stage in STAGES {
        let mut rules = Vec::new();
        for line in proxy.rules.iter().filter(|line| line.word(1) == stage) {
            match rule(line, proxy, around, &mut access, ledger) {
                Ok(Effect::Decides(accepts, set)) => {
                    ledger.used(line.number);
                    rules.push((line.number, accepts, set));
                }
                Ok(Effect::Limits) => ledger.used(line.number),
                Ok(Effect::None(why)) => ledger.dropped(line.number, why),
                Err((why, hint)) => {
                    ledger.used(line.number);
                    ledger.refuse(line.number, format!("tcp-request {stage}: {why}"), hint);
                }
            }
        }
        let decided = rules.iter().rev().try_fold(Set::everybody(), |rest, (line, accepts, set)| {
            let next = if *accepts { set.or(&rest) } else { set.clone().complement().and(&rest) };
            next.map_err(|()| *line)
        });
        let first = rules.first().map_or(proxy.line, |(line, ..)| *line);
        match decided.map(|decided| allowed.and(&decided)) {
            Ok(Ok(both)) => allowed = both,
            Ok(Err(())) => ledger.refuse(first, "pgvane cannot say in one list who may connect", WRITE_ALLOW),
            Err(line) => ledger.refuse(line, "pgvane cannot say in one list who may connect", WRITE_ALLOW),
        }
    }
    for line in &proxy.rules {
        match line.word(1) {
            "inspect-delay" => {
                ledger.dropped(line.number, "pgvane checks the address at once, and the rest within startup_timeout");
            }
            stage if !STAGES.contains(&stage) => ledger.refuse(
                line.number,
                format!("tcp-request {stage}: HAProxy does not know it, and refuses the file"),
                "write connection, session or content",
            ),
            _ => {}
        }
    }
    let place = proxy.rules.iter().find(|line| STAGES.contains(&line.word(1))).map_or(proxy.line, |line| line.number);
    match allowed {
        Set::Others(denied) if denied.is_empty() => {}
        Set::Others(denied) => {
            let denied: Vec<String> = denied.iter().map(text).collect();
            ledger.refuse(
                place,
                format!(
                    "these clients are refused: {}. pgvane has a list of those who may connect, not of those who may not; \
                     without the rule they would get in",
                    denied.join(", ")
                ),
                WRITE_ALLOW,
            );
        }
        Set::These(networks) if networks.is_empty() => ledger.refuse(
            place,
            "no client is in all the lists at once: HAProxy lets nobody in",
            "if clients of each list shall get in, write one rule: reject if !FIRST !SECOND",
        ),
        Set::These(networks) => access.allow = networks,
    }
    for line in proxy.acls.iter().map(|line| line.number) {
        ledger.dropped(line, "no rule that is imported uses it");
    }
    access
}

/// A network as pgvane reads it: a single address without a length.
pub(super) fn text(network: &IpNet) -> String {
    let is_host = network.prefix_len() == network.max_prefix_len();
    if is_host { network.addr().to_string() } else { network.to_string() }
}

enum Effect {
    Decides(bool, Set),
    /// It became a limit of one client.
    Limits,
    None(&'static str),
}

type Fault = (String, String);

fn rule(
    line: &Line,
    proxy: &Proxy,
    around: &Around<'_>,
    access: &mut Access,
    ledger: &mut Ledger,
) -> Result<Effect, Fault> {
    let fault = |why: String| (why, WRITE_ALLOW.to_owned());
    let action = line.word(2);
    let accepts = match action {
        "accept" | "reject" | "silent-drop" if !matches!(line.word(3), "" | "if" | "unless") => {
            return Err(fault(format!("\"{}\" behind {action}: HAProxy refuses the file", line.word(3))));
        }
        "accept" => true,
        "reject" | "silent-drop" => false,
        _ if action.starts_with("track-sc") => {
            return Ok(Effect::None("pgvane counts clients by itself where there is a limit"));
        }
        _ if ["set-", "unset-", "sc-", "capture", "do-log"].iter().any(|start| action.starts_with(start)) => {
            return Ok(Effect::None("it decides nothing about who may connect"));
        }
        _ => return Err(fault(format!("pgvane cannot tell what \"{action}\" does with a connection"))),
    };
    let (_, condition) = acl::split(line.rest(3), &proxy.acls).map_err(fault)?;
    condition.tests().filter(|test| test.line > 0).for_each(|test| ledger.used(test.line));
    if let Some(test) = condition.single().filter(|literal| !literal.is_negated && literal.tests.len() == 1) {
        if !accepts && limit(&test.tests[0], proxy, around, access)? {
            return Ok(Effect::Limits);
        }
    }
    Ok(Effect::Decides(accepts, set_of(&condition, around).map_err(fault)?))
}

/// `conn_rate` and `conn_cur` of one client. Returns whether it is one of these.
fn limit(test: &Test, proxy: &Proxy, around: &Around<'_>, access: &mut Access) -> Result<bool, Fault> {
    let name = test.criterion.trim_start_matches("src_");
    let name = name
        .strip_prefix("sc")
        .map_or(name, |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('_'));
    if !matches!(name, "conn_rate" | "conn_cur") {
        return Ok(false);
    }
    let fault = |why: &str| {
        (
            format!("{}: {why}", test.criterion),
            "write connection_rate_max_per_client or sessions_max_per_client by hand".to_owned(),
        )
    };
    let most = test.at_least().and_then(|least| least.checked_sub(1)).filter(|most| *most > 0);
    let most = most.ok_or_else(|| fault("pgvane reads \"gt NUMBER\" and \"ge NUMBER\" only"))?;
    if name == "conn_cur" {
        access.sessions_per_client = Some(access.sessions_per_client.map_or(most, |least| least.min(most)));
        return Ok(true);
    }
    let tracked = proxy.rules.iter().find(|rule| rule.word(2).starts_with("track-sc"));
    let key = tracked.map_or("src", |rule| rule.word(3));
    if test.criterion.starts_with("sc") && (tracked.is_none() || key != "src") {
        return Err(fault("what is counted is not the client's address"));
    }
    let by_rule = tracked.and_then(|rule| {
        let place = rule.words.iter().position(|word| word == "table")?;
        rule.words.get(place + 1).cloned()
    });
    let named = if test.criterion.starts_with("src_") && !test.argument.is_empty() {
        Some(test.argument.clone())
    } else {
        by_rule
    };
    let table = match &named {
        Some(name) => around.proxies.iter().find(|proxy| proxy.name == *name && proxy.stick_table.is_some()),
        None => Some(proxy),
    };
    let table = table.and_then(|proxy| proxy.stick_table.as_ref());
    let period = table.and_then(period_of).ok_or_else(|| fault("no stick-table says for which time the rate is"))?;
    access.rate = Some(format!("{most}/{}", period.text()));
    Ok(true)
}

/// The time in `store conn_rate(3s)`.
fn period_of(table: &Line) -> Option<Time> {
    let stored =
        table.words.iter().flat_map(|word| word.split(',')).find_map(|word| word.strip_prefix("conn_rate("))?;
    Time::read(stored.trim_end_matches(')'))
}

fn set_of(condition: &Condition, around: &Around<'_>) -> Result<Set, String> {
    let mut any = Set::nobody();
    for parts in &condition.0 {
        let mut all = Set::everybody();
        for part in parts {
            let mut tests = Set::nobody();
            for test in &part.tests {
                tests = tests.or(&networks(test, around)?).map_err(|()| "the lists of networks overlap".to_owned())?;
            }
            let set = if part.is_negated { tests.complement() } else { tests };
            all = all.and(&set).map_err(|()| "the lists of networks overlap".to_owned())?;
        }
        any = any.or(&all).map_err(|()| "the lists of networks overlap".to_owned())?;
    }
    Ok(any)
}

fn networks(test: &Test, around: &Around<'_>) -> Result<Set, String> {
    match test.criterion.as_str() {
        "always_true" => return Ok(Set::everybody()),
        "always_false" => return Ok(Set::nobody()),
        "src" if test.argument.is_empty() => {}
        other => return Err(format!("pgvane cannot ask for \"{other}\"")),
    }
    let mut networks = Vec::new();
    for value in &test.values {
        networks.push(network(value).ok_or_else(|| format!("\"{value}\" is not a network"))?);
    }
    for file in test.files() {
        let text = (around.read_file)(file)
            .map_err(|why| format!("the file with the networks cannot be read: {file}: {why}"))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let value = line.split_whitespace().next().unwrap_or_default();
            networks.push(network(value).ok_or_else(|| format!("{file}: \"{value}\" is not a network"))?);
        }
    }
    Ok(Set::These(networks))
}

/// `10.0.0.0/8`, `10.0.0.0/255.0.0.0`, `10.0.0.1`.
fn network(text: &str) -> Option<IpNet> {
    let network = match text.split_once('/') {
        None => IpNet::from(text.parse::<IpAddr>().ok()?),
        Some((address, mask)) => {
            let address: IpAddr = address.parse().ok()?;
            match mask.parse::<u8>() {
                Ok(length) => IpNet::new(address, length).ok()?,
                Err(_) => IpNet::with_netmask(address, mask.parse().ok()?).ok()?,
            }
        }
    };
    Some(network.trunc())
}

impl Set {
    fn everybody() -> Set {
        Set::Others(Vec::new())
    }

    fn nobody() -> Set {
        Set::These(Vec::new())
    }

    fn complement(self) -> Set {
        match self {
            Set::These(networks) => Set::Others(networks),
            Set::Others(networks) => Set::These(networks),
        }
    }

    /// Errors: it is neither a list nor everybody but a list.
    fn and(&self, other: &Set) -> Result<Set, ()> {
        match (self, other) {
            (Set::Others(a), Set::Others(b)) => Ok(Set::Others(union(a, b))),
            (Set::These(a), Set::These(b)) => {
                let pairs = a.iter().flat_map(|a| b.iter().filter_map(|b| common(a, b)));
                Ok(Set::These(union(&pairs.collect::<Vec<_>>(), &[])))
            }
            (Set::These(these), Set::Others(others)) | (Set::Others(others), Set::These(these)) => {
                let mut left = Vec::new();
                for network in these {
                    if others.iter().any(|other| other.contains(network)) {
                        continue;
                    }
                    if others.iter().any(|other| network.contains(other)) {
                        return Err(());
                    }
                    left.push(*network);
                }
                Ok(Set::These(left))
            }
        }
    }

    fn or(&self, other: &Set) -> Result<Set, ()> {
        Ok(self.clone().complement().and(&other.clone().complement())?.complement())
    }
}

fn common(a: &IpNet, b: &IpNet) -> Option<IpNet> {
    if a.contains(b) { Some(*b) } else { b.contains(a).then_some(*a) }
}

/// Both lists in their order, each network once.
fn union(a: &[IpNet], b: &[IpNet]) -> Vec<IpNet> {
    let mut all: Vec<IpNet> = Vec::new();
    for network in a.iter().chain(b) {
        if !all.contains(network) {
            all.push(*network);
        }
    }
    all
}
