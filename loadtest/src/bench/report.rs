//! What was measured, as medians and as ratios to HAProxy, or to another proxy where HAProxy cannot be measured.

use std::fmt::Write;

use serde::Serialize;

/// The proxy that the others are compared with in most rows.
pub const BASELINE: &str = "HAProxy";

/// All that was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// One entry per measure, in the order of the table.
    pub measures: Vec<Measure>,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Measure {
    /// What was measured.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// Number of sessions, if the plot needs it.
    pub sessions: Option<usize>,
    /// Whether a ratio to the baseline is useful.
    pub is_compared: bool,
    /// The proxy that the others are compared with.
    pub baseline: &'static str,
    /// The values of each proxy.
    pub columns: Vec<Column>,
}

/// The values of one proxy.
#[derive(Debug, Clone, Serialize)]
pub struct Column {
    /// The proxy's name.
    pub proxy: String,
    /// One value per round, in their order.
    pub rounds: Vec<f64>,
    /// The median of the rounds.
    pub median: f64,
    /// The median of the rounds' ratios to the baseline's value of the same round. A difference can be zero or less;
    /// then there is no ratio.
    pub ratio: Option<f64>,
}

impl Measure {
    /// A measure without values.
    pub fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self { name: name.into(), unit, sessions: None, is_compared: true, baseline: BASELINE, columns: Vec::new() }
    }

    /// Marks it as a point of the plot, at this number of sessions.
    #[must_use]
    pub fn at_sessions(mut self, sessions: usize) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// Marks it as one whose ratio would be meaningless.
    #[must_use]
    pub fn not_compared(mut self) -> Self {
        self.is_compared = false;
        self
    }

    /// Compares with another proxy than HAProxy.
    #[must_use]
    pub fn against(mut self, baseline: &'static str) -> Self {
        self.baseline = baseline;
        self
    }

    /// Adds one round's value.
    pub fn add(&mut self, proxy: &str, value: f64) {
        match self.columns.iter_mut().find(|column| column.proxy == proxy) {
            Some(column) => column.rounds.push(value),
            None => self.columns.push(Column {
                proxy: proxy.to_owned(),
                rounds: vec![value],
                median: f64::NAN,
                ratio: None,
            }),
        }
    }

    /// Calculates medians and ratios.
    pub fn finish(&mut self) {
        let baseline =
            self.columns.iter().find(|column| column.proxy == self.baseline).map(|column| column.rounds.clone());
        for column in &mut self.columns {
            column.median = median(column.rounds.clone());
            let pairs = || baseline.iter().flat_map(|base| column.rounds.iter().zip(base));
            let ratios: Vec<f64> = pairs().map(|(own, base)| own / base).collect();
            let are_comparable = pairs().all(|(own, base)| *own > 0.0 && *base > 0.0);
            column.ratio = (self.is_compared && are_comparable && !ratios.is_empty()).then(|| median(ratios));
        }
    }
}

impl Report {
    /// The table, with each proxy's median and, in brackets, its ratio to the baseline.
    pub fn markdown(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for column in self.measures.iter().flat_map(|measure| &measure.columns) {
            if !names.contains(&column.proxy.as_str()) {
                names.push(&column.proxy);
            }
        }
        let mut text = format!("| | {} |\n|---|{}\n", names.join(" | "), "--:|".repeat(names.len()));
        for measure in &self.measures {
            write!(text, "| {}, {} |", measure.name, measure.unit).expect("writing to a string cannot fail");
            for name in &names {
                let column = measure.columns.iter().find(|column| column.proxy == *name);
                text.push_str(&column.map_or_else(|| " – |".to_owned(), |column| cell(column, measure.baseline)));
            }
            text.push('\n');
        }
        text
    }
}

fn cell(column: &Column, baseline: &str) -> String {
    let shown = match column.median.abs() {
        large if large >= 1000.0 => format!("{:.0}", column.median),
        medium if medium >= 20.0 => format!("{:.1}", column.median),
        _ => format!("{:.2}", column.median),
    };
    match column.ratio {
        Some(ratio) if column.proxy != baseline => format!(" {shown} ({ratio:.2}) |"),
        _ => format!(" {shown} |"),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_compare_values_of_the_same_round() {
        let mut measure = Measure::new("cost", "µs");
        for (ours, theirs) in [(1.0, 2.0), (10.0, 40.0), (3.0, 4.0)] {
            measure.add("pgvane", ours);
            measure.add(BASELINE, theirs);
        }
        measure.finish();
        assert_eq!((measure.columns[0].median, measure.columns[0].ratio), (3.0, Some(0.5)));
        let table = Report { measures: vec![measure] }.markdown();
        assert!(table.ends_with("| cost, µs | 3.00 (0.50) | 4.00 |\n"), "{table}");
    }

    #[test]
    fn a_difference_below_zero_has_no_ratio() {
        let mut measure = Measure::new("added latency", "µs");
        for (ours, theirs) in [(5.0, 10.0), (-1.0, 10.0)] {
            measure.add("pgvane", ours);
            measure.add(BASELINE, theirs);
        }
        measure.finish();
        assert_eq!((measure.columns[0].median, measure.columns[0].ratio), (2.0, None));
    }

    #[test]
    fn a_row_without_haproxy_is_compared_with_another_proxy() {
        let mut measure = Measure::new("cost", "µs").against("PgBouncer");
        for (proxy, value) in [("pgvane", 3.0), ("PgBouncer", 4.0), ("stunnel", 6.0)] {
            measure.add(proxy, value);
        }
        measure.finish();
        let table = Report { measures: vec![measure] }.markdown();
        assert!(table.ends_with("| cost, µs | 3.00 (0.75) | 4.00 | 6.00 (1.50) |\n"), "{table}");
    }
}
