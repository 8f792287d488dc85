//! `pgvane check --explain`: what each listener does, in one sentence.

use std::time::Duration;

use crate::config::{Config, Listener, size_text};
use crate::routing::{Balance, Cause, Reaction, Rule, Target};
use crate::tls::ClientTls;

/// What a listener does: which node it gives sessions to, where, how long clients wait, and what ends a session.
pub(super) fn sentence(config: &Config, listener: &Listener) -> String {
    let cluster = &config.clusters[listener.cluster.0].name;
    let parts = [
        format!(
            "listener \"{}\" takes {} on {}{}",
            listener.name,
            clients(listener),
            listener.binds,
            encryption(&listener.tls)
        ),
        format!("gives each new session {}{}", nodes(&listener.rule, cluster), fallback(&listener.rule)),
        waiting(listener),
        running(&listener.rule, config.drain_timeout),
    ];
    parts.join(", ") + "."
}

/// Which clients it takes, and how many.
fn clients(listener: &Listener) -> String {
    let access = &listener.access;
    let mut who = format!("up to {} connections", listener.sessions_max);
    if listener.sessions_max_per_client < usize::MAX {
        who += &format!(" ({} from one client)", listener.sessions_max_per_client);
    }
    let allow = access.allow.to_string();
    if !allow.is_empty() {
        who += &format!(" from {allow}");
    }
    for (what, names) in [("user", &access.users), ("database", &access.databases)] {
        if !names.is_empty() {
            who += &format!(" for {what} {}", names.join(" or "));
        }
    }
    who
}

fn encryption(tls: &ClientTls) -> &'static str {
    match tls {
        ClientTls::Passthrough => "",
        ClientTls::Disable => " without TLS",
        ClientTls::Terminate(terminate) if terminate.is_required => " with TLS only",
        ClientTls::Terminate(_) => " with or without TLS",
    }
}

/// The nodes that get its sessions.
fn nodes(rule: &Rule, cluster: &str) -> String {
    let kind = match rule.target {
        Target::Leader => "to the leader",
        Target::Replica => "to a replica",
        Target::Sync => "to a synchronous replica",
        Target::SyncOnly => "to a synchronous replica that is not in a quorum",
        Target::Quorum => "to a replica in the quorum",
        Target::Async => "to an asynchronous replica",
        Target::Any => "to the leader or a replica",
        Target::StandbyLeader => "to the standby leader",
    };
    let mut text = format!("{kind} of cluster \"{cluster}\"");
    if rule.includes_leader {
        text += " or to the leader";
    }
    let mut conditions: Vec<String> =
        rule.tags.iter().map(|(name, value)| format!("is tagged {name} = {value}")).collect();
    if rule.requires_streaming {
        conditions.push("streams".to_owned());
    }
    let lag = [rule.lag_bytes_max.map(size_text), rule.lag_time_max.map(time)];
    let lag: Vec<String> = lag.into_iter().flatten().collect();
    if !lag.is_empty() {
        conditions.push(format!("lags by at most {}", lag.join(" and ")));
    }
    if !conditions.is_empty() {
        text += &format!(" that {}", conditions.join(" and "));
    }
    let preferred = rule.prefer_tags.iter().map(|(name, value)| format!("{name} = {value}"));
    let preferred: Vec<String> = preferred.chain(rule.prefer_nodes.iter().cloned()).collect();
    if !preferred.is_empty() {
        text += &format!(", first of all {}", preferred.join(" or "));
    }
    if rule.target != Target::Leader {
        text += match rule.balance {
            Balance::LeastConnections => " with the fewest sessions",
            Balance::RoundRobin => " in turn",
            Balance::Random => " at random",
        };
    }
    if let Some(port) = rule.port {
        text += &format!(", at port {port}");
    }
    text
}

fn fallback(rule: &Rule) -> &'static str {
    if rule.target.is_standbys() && rule.falls_back_to_leader {
        ", or to the leader while no replica can serve"
    } else {
        ""
    }
}

/// What happens while there is no node.
fn waiting(listener: &Listener) -> String {
    match listener.hold_max {
        Duration::ZERO => "refuses clients while there is no such node".to_owned(),
        hold_max => format!(
            "lets up to {} clients wait for at most {} while there is none",
            listener.hold_sessions_max,
            time(hold_max)
        ),
    }
}

/// What ends running sessions.
fn running(rule: &Rule, drain_timeout: Duration) -> String {
    let causes: &[(Cause, &str)] = match rule.target {
        Target::Leader => &[(Cause::LostLead, "loses the lead")],
        _ => &[
            (Cause::Promotion, "gets another role"),
            (Cause::Lag, "lags too far behind"),
            (Cause::Standing, "no longer meets these conditions"),
        ],
    };
    let common = [
        (Cause::Silence, "does not answer its checks"),
        (Cause::Departure, "leaves the cluster"),
        (Cause::Operator, "is drained"),
    ];
    let all: Vec<(Cause, &str)> = causes.iter().copied().chain(common).collect();
    let of = |reaction: Reaction| {
        let which = all.iter().filter(|(cause, _)| rule.reactions.to(*cause) == reaction);
        let which: Vec<&str> = which.map(|(_, when)| *when).collect();
        (!which.is_empty()).then(|| which.join(" or "))
    };
    let cut = of(Reaction::Cut).map(|when| format!("ends its sessions at once if their node {when}"));
    let drain = of(Reaction::Drain).map(|when| {
        let whose = if cut.is_some() { "them" } else { "its sessions" };
        format!("ends {whose} between two transactions, at the latest after {}, if it {when}", time(drain_timeout))
    });
    let told: Vec<String> = cut.clone().into_iter().chain(drain).collect();
    if told.is_empty() {
        "and never ends a running session for what its node does".to_owned()
    } else {
        format!("and {}", told.join(", and "))
    }
}

/// A time in the units of the configuration file.
fn time(time: Duration) -> String {
    const UNITS: [(u128, &str); 5] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms")];
    let ms = time.as_millis();
    let (factor, unit) = UNITS.into_iter().find(|(factor, _)| ms >= *factor && ms % factor == 0).unwrap_or((1, "ms"));
    format!("{} {unit}", ms / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(listeners: &str) -> String {
        let text = format!("[[cluster]]\n[[cluster.node]]\naddress = \"10.0.0.1:5432\"\n{listeners}");
        let config = Config::from_toml("test.toml", &text).expect("is valid");
        config.listeners.iter().map(|listener| sentence(&config, listener) + "\n").collect()
    }

    #[test]
    fn a_listener_for_writes_is_explained_in_one_sentence() {
        let write = explained("[[listener]]\nname = \"write\"\nbind = \"0.0.0.0:6432\"\ntarget = \"leader\"\n");
        assert_eq!(
            write,
            "listener \"write\" takes up to 10000 connections on 0.0.0.0:6432, gives each new session to the leader of \
             cluster \"main\", lets up to 1000 clients wait for at most 40 s while there is none, and ends its sessions \
             at once if their node loses the lead, and ends them between two transactions, at the latest after 30 s, if \
             it is drained.\n"
        );
    }

    #[test]
    fn a_listener_for_reads_tells_its_conditions_and_what_replaces_replicas() {
        let read = explained(
            "[[listener]]\nname = \"read\"\nbind = [\"10.0.0.9:6433\", \"10.0.0.8:6433\"]\ntarget = \"replica\"\n\
             fallback = \"leader\"\nlag_max = \"64MB\"\nlag_max_time = \"90s\"\ntags = { dc = \"east\" }\n\
             balance = \"round-robin\"\nallow = [\"10.0.0.0/8\"]\nusers = [\"app\", \"web\"]\nhold_max = \"0s\"\n\
             port = 6432\nsessions_max = 50\non = { operator = \"keep\", promotion = \"keep\" }\n",
        );
        for part in [
            "takes up to 50 connections from 10.0.0.0/8 for user app or web on ",
            "10.0.0.9:6433",
            "to a replica of cluster \"main\" that is tagged dc = east and lags by at most 64.0 MB and 90 s in turn, at port \
             6432, or to the leader while no replica can serve, ",
            "refuses clients while there is no such node",
            "and never ends a running session for what its node does.",
        ] {
            assert!(read.contains(part), "{part:?} is not in {read}");
        }
        assert_eq!(read.lines().count(), 1);
    }
}
