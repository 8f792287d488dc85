//! The results of `loadtest failover`, as numbers, as Markdown and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use pgvane_loadtest::crowd::CrowdReport;
use pgvane_loadtest::failure::FailureClass;
use pgvane_loadtest::writer::WriterReport;
use serde::Serialize;

/// How many different error texts are shown per proxy.
const TEXTS_SHOWN: usize = 4;

/// A proxy that is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) write: SocketAddr,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) rounds: Vec<Round>,
    pub(crate) crash: Option<CrashResult>,
}

/// One change of leader.
#[derive(Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) new_leader: String,
    /// Time without writes in the cluster: from the old leader's last to the new leader's first.
    pub(crate) direct_gap_ms: u128,
    /// From the request until every writer writes again.
    pub(crate) took_ms: u128,
    pub(crate) through: Vec<Measured>,
}

/// What the writer through one proxy saw.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    proxy: String,
    gap_ms: u128,
    /// What the proxy adds to the cluster's own gap. It can be slightly negative, because different writers measure the
    /// two.
    added_ms: i128,
    read_only_errors: usize,
    failed_connects: usize,
    broken_sessions: usize,
    unanswered: usize,
    other_errors: usize,
    /// Error texts, and how often each came.
    texts: BTreeMap<String, usize>,
}

/// A crash, and the clients that connected while there was no leader.
#[derive(Debug, Serialize)]
pub(crate) struct CrashResult {
    pub(crate) round: Round,
    pub(crate) crowds: Vec<CrowdResult>,
}

#[derive(Debug, Serialize)]
pub(crate) struct CrowdResult {
    proxy: String,
    clients: usize,
    served: usize,
    failed: usize,
    longest_wait_ms: u128,
    texts: BTreeMap<String, usize>,
}

impl Measured {
    pub(crate) fn new(report: &WriterReport, direct_gap: Duration) -> Self {
        let gap = report.longest_gap().map(|gap| gap.length()).unwrap_or_default();
        let signed = |duration: Duration| i128::try_from(duration.as_millis()).unwrap_or(i128::MAX);
        Self {
            proxy: report.name.clone(),
            gap_ms: gap.as_millis(),
            added_ms: signed(gap) - signed(direct_gap),
            read_only_errors: report.count(FailureClass::ReadOnly),
            failed_connects: report.count(FailureClass::ConnectFailed),
            broken_sessions: report.count(FailureClass::SessionBroken),
            unanswered: report.count(FailureClass::Unanswered),
            other_errors: report.count(FailureClass::Other),
            texts: counted(report.failures.iter().map(|failure| failure.message.as_str())),
        }
    }
}

impl CrashResult {
    pub(crate) fn new(round: Round, crowds: &[(&str, CrowdReport)]) -> Self {
        let crowds = crowds.iter().map(|(name, crowd)| CrowdResult {
            proxy: (*name).to_owned(),
            clients: crowd.served.len() + crowd.failures.len(),
            served: crowd.served.len(),
            failed: crowd.failures.len(),
            longest_wait_ms: crowd.longest_wait().as_millis(),
            texts: counted(crowd.failures.iter().map(|failure| failure.message.as_str())),
        });
        Self { round, crowds: crowds.collect() }
    }
}

impl Report {
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        self.write_markdown(&mut text).expect("writing to a string cannot fail");
        text
    }

    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        let rounds = self.rounds.iter().enumerate().map(|(index, round)| (format!("switchover {}", index + 1), round));
        let crash = self.crash.iter().map(|crash| ("crash".to_owned(), &crash.round));
        let all: Vec<_> = rounds.chain(crash).collect();
        writeln!(
            out,
            "| leader change | direct gap, ms | through | gap, ms | added, ms | read-only errors | failed connects | broken sessions | unanswered | other |"
        )?;
        writeln!(out, "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|")?;
        for (name, round) in &all {
            for seen in &round.through {
                let Measured { proxy, gap_ms, added_ms, read_only_errors, failed_connects, broken_sessions, .. } = seen;
                let Measured { unanswered, other_errors, .. } = seen;
                write!(out, "| {name} | {} | {proxy} | {gap_ms} | {added_ms} ", round.direct_gap_ms)?;
                writeln!(
                    out,
                    "| {read_only_errors} | {failed_connects} | {broken_sessions} | {unanswered} | {other_errors} |"
                )?;
            }
        }
        writeln!(out, "\nErrors that the writers got:\n")?;
        for (name, round) in &all {
            for seen in &round.through {
                write_texts(out, &format!("{name}, {}", seen.proxy), &seen.texts)?;
            }
        }
        if let Some(crash) = &self.crash {
            crash.write_crowds(out)?;
        }
        Ok(())
    }
}

impl CrashResult {
    fn write_crowds(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nClients that connected while there was no leader:\n")?;
        writeln!(out, "| through | clients | served | failed | longest wait, ms |")?;
        writeln!(out, "|---|--:|--:|--:|--:|")?;
        for CrowdResult { proxy, clients, served, failed, longest_wait_ms, .. } in &self.crowds {
            writeln!(out, "| {proxy} | {clients} | {served} | {failed} | {longest_wait_ms} |")?;
        }
        writeln!(out, "\nErrors that the clients got:\n")?;
        for crowd in &self.crowds {
            write_texts(out, &crowd.proxy, &crowd.texts)?;
        }
        Ok(())
    }
}

fn write_texts(out: &mut String, who: &str, texts: &BTreeMap<String, usize>) -> std::fmt::Result {
    let mut texts: Vec<_> = texts.iter().collect();
    texts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (text, count) in texts.iter().take(TEXTS_SHOWN) {
        writeln!(out, "- {who}: {count} × {text}")?;
    }
    Ok(())
}

fn counted<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for text in texts {
        *counts.entry(text.to_owned()).or_default() += 1;
    }
    counts
}
