//! The plots of the last hour, as SVG paths, with their figures as text for readers who do not see them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::trends::{INTERVAL, KEPT_FOR, Sample};
use crate::config::size_text;

/// The plot in units of its `viewBox`: an hour is as wide as this.
const WIDTH: f64 = 360.0;

/// The height of the plot.
const HEIGHT: f64 = 64.0;

/// The room above the highest value, and below zero.
const MARGIN: f64 = 4.0;

/// After such a time without a sample, the line is interrupted.
const GAP: Duration = Duration::from_secs(INTERVAL.as_secs() * 5 / 2);

/// The number of lines of one plot, and of their colours. Of more replicas, those with the highest lag are shown.
const LINES_MAX: usize = 6;

/// A plot.
pub(super) struct Plot {
    /// What it shows.
    pub(super) name: &'static str,
    /// The newest and the highest value.
    pub(super) figures: String,
    /// The same in a sentence, with the lowest value.
    pub(super) summary: String,
    pub(super) lines: Vec<Line>,
}

/// A line of a plot.
pub(super) struct Line {
    /// The number of its colour.
    pub(super) colour: usize,
    /// The path, for SVG.
    pub(super) path: String,
    /// Its name with its newest and its highest value.
    pub(super) legend: String,
}

/// Values with the moments at which they were seen, oldest first.
type Series = Vec<(Instant, f64)>;

/// All plots.
pub(super) fn plots(samples: &[Sample], now: Instant) -> Vec<Plot> {
    let series = |value: fn(&Sample) -> f64| samples.iter().map(|sample| (sample.at, value(sample))).collect();
    let number = |value: f64| if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.1}") };
    let size = |value: f64| size_text(value.round() as u64);
    let mut lags: BTreeMap<&str, Series> = BTreeMap::new();
    for sample in samples {
        for (node, lag) in &sample.lags {
            lags.entry(node).or_default().push((sample.at, *lag));
        }
    }
    let lags = lags.into_iter().map(|(name, series)| (name.to_owned(), series)).collect();
    vec![
        single("sessions", series(|sample| sample.sessions), now, number),
        single("new per second", series(|sample| sample.connects_per_second), now, number),
        single("bytes per second", series(|sample| sample.bytes_per_second), now, size),
        single("held", series(|sample| sample.held), now, number),
        several("lag of the replicas", lags, now, size),
    ]
}

fn single(name: &'static str, series: Series, now: Instant, text: impl Fn(f64) -> String) -> Plot {
    several(name, vec![(name.to_owned(), series)], now, text)
}

fn several(name: &'static str, mut all: Vec<(String, Series)>, now: Instant, text: impl Fn(f64) -> String) -> Plot {
    let total = all.len();
    all.sort_by(|(_, one), (_, other)| highest(other).total_cmp(&highest(one))); // stable: by name among equals
    all.truncate(LINES_MAX);
    let top = all.iter().map(|(_, series)| highest(series)).fold(0.0, f64::max);
    let newest = |series: &Series| series.last().map_or_else(|| "none".to_owned(), |(_, value)| text(*value));
    let lines: Vec<Line> = all
        .iter()
        .enumerate()
        .map(|(colour, (name, series))| Line {
            colour,
            path: path(series, top, now),
            legend: format!("{name}: now {}, highest {}", newest(series), text(highest(series))),
        })
        .collect();
    let (figures, mut summary) = match &all[..] {
        [] => ("no values yet".to_owned(), format!("{name}: no values yet")),
        [(_, series)] => {
            let lowest = series.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
            let lowest = if lowest.is_finite() { lowest } else { 0.0 };
            let figures = format!("now {}, highest {}", newest(series), text(highest(series)));
            let summary = format!("{name} in the last hour: {figures}, lowest {}", text(lowest));
            (figures, summary)
        }
        _ => {
            let legends: Vec<&str> = lines.iter().map(|line| line.legend.as_str()).collect();
            (format!("highest {}", text(top)), format!("{name} in the last hour. {}", legends.join("; ")))
        }
    };
    if total > LINES_MAX {
        summary.push_str(&format!("; {} more with a lower one", total - LINES_MAX));
    }
    Plot { name, figures, summary, lines }
}

fn highest(series: &Series) -> f64 {
    series.iter().map(|(_, value)| *value).fold(0.0, f64::max)
}

/// The path of a line. `top` is the value at the upper edge.
fn path(series: &Series, top: f64, now: Instant) -> String {
    let scale = if top > 0.0 { (HEIGHT - 2.0 * MARGIN) / top } else { 0.0 };
    let mut path = String::new();
    let mut before: Option<Instant> = None;
    for (at, value) in series {
        let age = now.saturating_duration_since(*at).as_secs_f64() / KEPT_FOR.as_secs_f64();
        let (x, y) = (WIDTH * (1.0 - age.min(1.0)), HEIGHT - MARGIN - value * scale);
        let continues = before.is_some_and(|before| *at - before <= GAP);
        path.push_str(&match continues {
            true => format!("L{x:.1} {y:.1}"),
            false => format!("M{x:.1} {y:.1}h.1"), // a sample without neighbours is a dot
        });
        before = Some(*at);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, sessions: f64, lags: &[(&str, f64)]) -> Sample {
        let lags = lags.iter().map(|(name, lag)| ((*name).into(), *lag)).collect();
        Sample { at, sessions, held: 0.0, connects_per_second: 0.5, bytes_per_second: 2048.0, lags }
    }

    #[test]
    fn a_line_ends_at_the_right_edge_and_has_gaps_where_samples_are_missing() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let samples = [sample(at(0), 1.0, &[]), sample(at(10), 4.0, &[]), sample(at(3600), 2.0, &[])];
        let plots = plots(&samples, at(3600));
        assert_eq!(plots[0].lines[0].path, "M0.0 46.0h.1L1.0 4.0M360.0 32.0h.1");
        assert_eq!(plots[0].summary, "sessions in the last hour: now 2, highest 4, lowest 1");
        assert_eq!(plots[1].figures, "now 0.5, highest 0.5");
        assert_eq!(plots[2].figures, "now 2.0 kB, highest 2.0 kB");
        assert_eq!(plots[4].summary, "lag of the replicas: no values yet");
    }

    #[test]
    fn of_many_replicas_those_with_the_highest_lag_are_shown_and_the_others_counted() {
        let now = Instant::now();
        let names: Vec<String> = (0..20).map(|number| format!("node{number:02}")).collect();
        let lags: Vec<(&str, f64)> = names.iter().map(String::as_str).zip((0..20).map(f64::from)).collect();
        let plot = plots(&[sample(now, 0.0, &lags)], now).pop().expect("is there");
        assert_eq!(plot.lines.len(), LINES_MAX);
        assert!(plot.lines[0].legend.starts_with("node19: now 19 B"), "{}", plot.lines[0].legend);
        assert!(plot.summary.ends_with("; 14 more with a lower one"), "{}", plot.summary);
    }
}
