//! The stats page: what an operator needs in an incident, on one screen. It shows a [`Status`] in words and colours.

use std::collections::BTreeMap;
use std::time::Duration;

use askama::Template;

use super::frame::Frame;
use super::plot::Plot;
use super::query::Query;
use super::reloads::ReloadRecord;
use super::rows::{self, Column, LISTENER_COLUMNS, NODE_COLUMNS};
use super::status::{self, Alarm, Lead, OperatorAction, Status};
use super::upgrades::Predecessor;
use super::words::span;
use crate::probe::history::Record;

/// How many leader changes the page shows for each cluster; `/api/events` has more.
const CHANGES_SHOWN: usize = 10;

/// The data of the page.
#[derive(Template)]
#[template(path = "stats.html")]
pub(super) struct Page {
    frame: Frame,
    uptime: String,
    is_stopping: bool,
    predecessor: Option<Predecessor>,
    reload: ReloadRecord,
    /// The configuration has users, so operators may change something.
    has_actions: bool,
    alarms: Vec<Alarm>,
    /// The CSS class of the alarms' title.
    alarms_severity: &'static str,
    alarms_summary: String,
    node_columns: &'static [Column],
    listener_columns: &'static [Column],
    clusters: Vec<Cluster>,
    listeners: Vec<rows::Listener>,
    plots: Vec<Plot>,
    operators: Vec<OperatorAction>,
}

struct Cluster {
    name: String,
    /// The CSS class of the title: `led`, `doubted`, `vacant` or `contested`.
    severity: &'static str,
    headline: String,
    notes: Vec<String>,
    /// The page of its park, if it can be parked; and the park in words, if there is one.
    park_link: Option<String>,
    park: Option<String>,
    nodes: Vec<rows::Node>,
    changes: Vec<Change>,
}

/// One row of the table of leader changes.
struct Change {
    at: String,
    from: String,
    to: String,
    timeline: String,
    leaderless: String,
    held_max: usize,
    first_session: String,
    /// Parked sessions that were carried, and the longest time that one had no server.
    carried: String,
    /// Parked sessions that were not, by reason.
    not_carried: String,
    reason: String,
}

impl Page {
    pub(super) fn of(status: Status, plots: Vec<Plot>, has_actions: bool) -> Page {
        let (alarms_severity, alarms_summary) = summary(&status.alarms);
        Page {
            frame: Frame::of("stats"),
            uptime: span(Duration::from_secs(status.uptime_seconds)),
            is_stopping: status.is_stopping,
            predecessor: status.predecessor,
            reload: status.reload,
            has_actions,
            alarms: status.alarms,
            alarms_severity,
            alarms_summary,
            node_columns: NODE_COLUMNS,
            listener_columns: LISTENER_COLUMNS,
            clusters: status.clusters.into_iter().map(cluster).collect(),
            listeners: status.listeners.into_iter().map(rows::listener).collect(),
            plots,
            operators: status.operators,
        }
    }
}

/// The alarms in one line, which screen readers read when it changes.
fn summary(alarms: &[Alarm]) -> (&'static str, String) {
    let critical = alarms.iter().filter(|alarm| alarm.is_critical()).count();
    let subjects = |max: usize| {
        let mut names: Vec<&str> = Vec::new();
        for alarm in alarms {
            if !names.contains(&alarm.subject.as_str()) {
                names.push(&alarm.subject);
            }
        }
        match names.len().saturating_sub(max) {
            0 => names.join(", "),
            more => format!("{} and {more} more", names[..max].join(", ")),
        }
    };
    match (critical, alarms.len() - critical) {
        (0, 0) => ("led", "none".to_owned()),
        (0, warnings) => ("doubted", format!("{warnings} to look at: {}", subjects(5))),
        (critical, 0) => ("contested", format!("{critical} critical: {}", subjects(5))),
        (critical, warnings) => ("contested", format!("{critical} critical, {warnings} to look at: {}", subjects(5))),
    }
}

fn cluster(cluster: status::Cluster) -> Cluster {
    let severity = match cluster.lead {
        Lead::Led => "led",
        Lead::Doubted => "doubted",
        Lead::Silent | Lead::OutOfService | Lead::Vacant => "vacant",
        Lead::Contested => "contested",
    };
    Cluster {
        severity,
        headline: cluster.headline,
        notes: cluster.notes,
        park_link: cluster.can_park.then(|| Query::of([("cluster", cluster.name.as_str())]).link("/stats/park")),
        park: cluster.park.map(|park| park.to_string()),
        nodes: cluster.nodes.into_iter().map(|node| rows::node(&cluster.name, node)).collect(),
        changes: cluster.changes.into_iter().take(CHANGES_SHOWN).map(change).collect(),
        name: cluster.name,
    }
}

fn change(record: Record) -> Change {
    let ms = |value: Option<u64>| value.map_or_else(|| "–".to_owned(), |ms| format!("{ms} ms"));
    Change {
        at: record.noticed_at.to_string(),
        from: record.from,
        to: record.to.unwrap_or_else(|| "none yet".to_owned()),
        timeline: record.timeline.map_or_else(|| "–".to_owned(), |timeline| timeline.to_string()),
        leaderless: ms(record.leaderless_ms),
        held_max: record.held_max,
        first_session: ms(record.first_session_ms),
        carried: match record.sessions.carried_longest_ms {
            None => "–".to_owned(),
            Some(longest) => format!("{}, in {longest} ms", record.sessions.carried),
        },
        not_carried: not_carried(&record.sessions.not_carried),
        reason: record.reason,
    }
}

/// `3 (2 state, 1 login)`; a dash if there are none.
pub(super) fn not_carried(by_reason: &BTreeMap<String, usize>) -> String {
    let parts: Vec<String> = by_reason.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    match by_reason.values().sum::<usize>() {
        0 => "–".to_owned(),
        all => format!("{all} ({})", parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::Severity;

    #[test]
    fn the_alarms_are_summed_up_in_one_line() {
        let alarm = |severity, subject: &str| Alarm { severity, subject: subject.to_owned(), ..Alarm::default() };
        assert_eq!(summary(&[]), ("led", "none".to_owned()));
        let several = [
            alarm(Severity::Critical, "main"),
            alarm(Severity::Warning, "main/node2"),
            alarm(Severity::Warning, "main/node2"),
        ];
        assert_eq!(summary(&several), ("contested", "1 critical, 2 to look at: main, main/node2".to_owned()));
        assert_eq!(summary(&several[1..]), ("doubted", "2 to look at: main/node2".to_owned()));
    }
}
