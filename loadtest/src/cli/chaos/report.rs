//! The output of a run: a line for each fault, and tables at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use pgvane_loadtest::failure::Failure;

use super::judge::Port;
use super::watch::{Usage, growth};

const LOG_LINES: usize = 30;

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
    /// pgvane's largest usage during the step, and its usage at the end of it.
    pub(super) peak: Usage,
    pub(super) after: Usage,
}

/// The results of all steps with one fault.
#[derive(Debug, Default)]
struct Row {
    times: usize,
    refused: usize,
    ended: usize,
    peak: Usage,
    violations: usize,
}

/// The whole run.
#[derive(Debug)]
pub(super) struct Table {
    title: String,
    rows: BTreeMap<&'static str, Row>,
    /// How many, by port, cause and message.
    told: BTreeMap<(Port, &'static str, String), usize>,
    after_steps: Vec<Usage>,
    violations: usize,
}

impl Table {
    pub(super) fn new(title: String) -> Table {
        Table { title, rows: BTreeMap::new(), told: BTreeMap::new(), after_steps: Vec::new(), violations: 0 }
    }

    /// Adds one step and prints its line. `log` is what pgvane has logged during it.
    pub(super) fn add(&mut self, fault: &'static str, took: Duration, report: StepReport, log: &str) {
        self.after_steps.push(report.after);
        let row = self.rows.entry(fault).or_default();
        row.times += 1;
        row.refused += usize::from(report.refused.is_some());
        row.ended += report.seen.len();
        row.peak = row.peak.max(report.peak);
        row.violations += report.violations.len();
        self.violations += report.violations.len();
        let (number, ended) = (self.after_steps.len(), report.seen.len());
        println!("{number:3}  {fault:<55} {:5.1} s  {ended:2} ended  {}", took.as_secs_f64(), report.after);
        if let Some(reason) = &report.refused {
            println!("     refused by Patroni: {reason}");
        }
        for Seen { port, failure, cause } in report.seen {
            *self.told.entry((port, cause, told(&failure))).or_default() += 1;
        }
        print_violations(&report.violations, log);
    }

    /// Prints the tables and returns the number of violations in the whole run.
    pub(super) fn finish(&self) -> usize {
        println!("\n{}", self.title);
        println!("\n| fault | times | refused by Patroni | sessions and logins ended | pgvane's peak | violations |");
        println!("|---|--:|--:|--:|---|--:|");
        for (name, Row { times, refused, ended, peak, violations }) in &self.rows {
            println!("| {name} | {times} | {refused} | {ended} | {peak} | {violations} |");
        }
        println!("\n| port | event in the cluster | error that the client got | times |\n|---|---|---|--:|");
        for ((port, cause, told), times) in &self.told {
            println!("| {} | {cause} | {told} | {times} |", port.name());
        }
        if let (Some(first), Some(last)) = (self.after_steps.first(), self.after_steps.last()) {
            println!("\npgvane after the first step: {first}; after the last: {last}");
        }
        let growth = growth(&self.after_steps);
        if let Some(growth) = &growth {
            println!("VIOLATION: {growth}");
        }
        let violations = self.violations + usize::from(growth.is_some());
        println!("{} faults, {violations} violations", self.after_steps.len());
        violations
    }
}

fn print_violations(violations: &[String], log: &str) {
    for violation in violations {
        println!("     VIOLATION: {violation}");
    }
    if !violations.is_empty() {
        let lines: Vec<&str> = log.lines().collect();
        println!("     pgvane's log since the fault began, its last lines:");
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            println!("       {line}");
        }
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
