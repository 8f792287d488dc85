//! The output of a run: a line for each fault, and tables at the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgvane_loadtest::failure::Failure;

use super::judge::Port;
use super::watch::{Usage, growth};

/// Of one step: the later ones follow from the first.
const VIOLATIONS_PRINTED_MAX: usize = 20;

/// A session or login that ended for a reason in the cluster.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) port: Port,
    pub(super) failure: Failure,
    /// What happened in the cluster.
    pub(super) cause: &'static str,
}

/// The results of one step.
#[derive(Debug, Default)]
pub(super) struct StepReport {
    /// Why Patroni refused the fault, if it did.
    pub(super) refused: Option<String>,
    pub(super) seen: Vec<Seen>,
    pub(super) violations: Vec<String>,
    /// pgvane's largest usage during the step, and its usage at rest after it.
    pub(super) peak: Usage,
    pub(super) after: Usage,
}

/// The results of all steps with one fault.
#[derive(Debug)]
struct Row {
    times: usize,
    took: Duration,
    refused: usize,
    ended: usize,
    peak: Usage,
    /// At rest: before the first of these steps, and after the last one.
    before: Usage,
    after: Usage,
    violations: usize,
}

/// The whole run.
#[derive(Debug)]
pub(super) struct Table {
    title: String,
    began: Instant,
    start: Usage,
    rows: BTreeMap<&'static str, Row>,
    /// How many, by port, cause and message.
    told: BTreeMap<(Port, &'static str, String), usize>,
    after_steps: Vec<Usage>,
    violations: usize,
}

impl Table {
    /// `start` is pgvane's usage before the first step.
    pub(super) fn new(title: String, start: Usage) -> Table {
        let (rows, told, after_steps) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Table { title, began: Instant::now(), start, rows, told, after_steps, violations: 0 }
    }

    /// The number of the next step.
    pub(super) fn next(&self) -> usize {
        self.after_steps.len() + 1
    }

    /// Adds one step and prints its line, and its violations.
    pub(super) fn add(&mut self, fault: &'static str, took: Duration, report: StepReport) {
        let before = self.after_steps.last().copied().unwrap_or(self.start);
        self.after_steps.push(report.after);
        let row = self.rows.entry(fault).or_insert_with(|| Row::before(before));
        row.times += 1;
        row.took += took;
        row.refused += usize::from(report.refused.is_some());
        row.ended += report.seen.len();
        row.peak = row.peak.max(report.peak);
        row.after = report.after;
        row.violations += report.violations.len();
        self.violations += report.violations.len();
        let (number, ended) = (self.after_steps.len(), report.seen.len());
        println!("{number:3}  {fault:<58} {:5.1} s  {ended:2} ended  {}", took.as_secs_f64(), report.after);
        if let Some(reason) = &report.refused {
            println!("     refused by Patroni: {reason}");
        }
        for Seen { port, failure, cause } in report.seen {
            *self.told.entry((port, cause, told(&failure))).or_default() += 1;
        }
        for violation in report.violations.iter().take(VIOLATIONS_PRINTED_MAX) {
            println!("     VIOLATION: {violation}");
        }
        let others = report.violations.len().saturating_sub(VIOLATIONS_PRINTED_MAX);
        if others > 0 {
            println!("     VIOLATION: {others} others");
        }
    }

    /// Prints the tables and returns the number of violations in the whole run.
    pub(super) fn finish(&self) -> usize {
        println!("\n{}", self.title);
        println!(
            "\n| fault | times | refused by Patroni | duration | sessions and logins ended | memory at rest | most memory | descriptors at rest | violations |"
        );
        println!("|---|--:|--:|--:|--:|---|--:|---|--:|");
        for (name, row) in &self.rows {
            let Row { times, took, refused, ended, peak, before, after, violations } = row;
            let took = took.as_secs();
            let (memory, memory_after, most) = (before.memory(), after.memory(), peak.memory());
            let (descriptors, descriptors_after) = (before.descriptors, after.descriptors);
            println!(
                "| {name} | {times} | {refused} | {took} s | {ended} | {memory} → {memory_after} | {most} \
                 | {descriptors} → {descriptors_after} | {violations} |"
            );
        }
        println!("\n| port | cause | error that the client got | times |\n|---|---|---|--:|");
        for ((port, cause, told), times) in &self.told {
            println!("| {} | {cause} | {told} | {times} |", port.name());
        }
        let last = self.after_steps.last().copied().unwrap_or(self.start);
        let growth = growth(&self.after_steps);
        if let Some(growth) = &growth {
            println!("\nVIOLATION: {growth}");
        }
        let violations = self.violations + usize::from(growth.is_some());
        println!("\npgvane at rest at the start: {}; at the end: {last}", self.start);
        let (faults, minutes) = (self.after_steps.len(), self.began.elapsed().as_secs() / 60);
        println!("{faults} faults in {minutes} minutes, {violations} violations");
        violations
    }
}

impl Row {
    fn before(before: Usage) -> Row {
        let (took, nothing) = (Duration::ZERO, Usage::default());
        Row { times: 0, took, refused: 0, ended: 0, peak: nothing, before, after: nothing, violations: 0 }
    }
}

/// The error that a client got: the SQLSTATE, if there was one, and the text.
fn told(failure: &Failure) -> String {
    let text = failure.message.split(" (SQLSTATE ").next().unwrap_or_default();
    let text = without_numbers(&text.replace("db error: ", ""));
    match &failure.sqlstate {
        Some(code) => format!("{code} {text}"),
        None => text,
    }
}

/// `text` on one line, with N for each number, so that messages which differ in a port or a node are counted together.
fn without_numbers(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '0'..='9' if line.ends_with('N') => {}
            '0'..='9' => line.push('N'),
            '\n' | '|' => line.push(' '),
            other => line.push(other),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_differ_in_a_number_are_counted_together() {
        assert_eq!(without_numbers("127.0.0.1:6432 is\nnode12"), "N.N.N.N:N is nodeN");
    }
}
