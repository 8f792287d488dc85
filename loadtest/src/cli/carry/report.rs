//! What the clients of each way saw, as a table.

use std::fmt;
use std::time::Duration;

use super::crowd::Seen;

/// How many texts of failures are shown for each way.
const TEXTS_SHOWN: usize = 4;

/// All switchovers through one way.
#[derive(Debug)]
pub(crate) struct WayReport {
    name: &'static str,
    rounds: Vec<Round>,
    /// What the drivers of applications saw.
    problems: Vec<String>,
}

/// One switchover.
#[derive(Debug)]
pub(crate) struct Round {
    /// How it was asked for.
    pub(crate) by: &'static str,
    /// Time without writes in the cluster.
    pub(crate) gap: Duration,
    pub(crate) seen: Seen,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Round { by, gap, seen } = self;
        let ms = |time: Duration| time.as_millis();
        write!(
            f,
            "{by}: cluster's gap {} ms; {} requests met it, p50 {} ms, p99 {} ms, longest {} ms; {} sessions broken, {} \
             errors, {} wrong states",
            ms(*gap),
            seen.pauses.len(),
            ms(seen.pause(0.5)),
            ms(seen.pause(0.99)),
            ms(seen.pause(1.0)),
            seen.broken,
            seen.errors,
            seen.wrong.len()
        )
    }
}

impl WayReport {
    pub(crate) fn of(name: &'static str) -> WayReport {
        WayReport { name, rounds: Vec::new(), problems: Vec::new() }
    }

    pub(crate) fn add(&mut self, round: Round) {
        println!("{} {}, {round}", self.name, self.rounds.len() + 1);
        round.seen.wrong.iter().take(TEXTS_SHOWN).for_each(|wrong| println!("     {wrong}"));
        let texts = round.seen.texts.iter().take(TEXTS_SHOWN);
        texts.for_each(|(text, count)| println!("     {count} × {text}"));
        self.rounds.push(round);
    }

    /// Adds what the drivers of applications saw.
    pub(crate) fn add_problems(&mut self, problems: Vec<String>) {
        println!("     {} problems of these drivers and of pgbench", problems.len());
        problems.iter().take(4 * TEXTS_SHOWN).for_each(|problem| println!("     {problem}"));
        self.problems.extend(problems);
    }

    /// Whether something happened that must not.
    pub(crate) fn has_failures(&self) -> bool {
        let is_bad = |Round { seen, .. }: &Round| seen.broken + seen.errors + seen.wrong.len() > 0;
        !self.problems.is_empty() || self.rounds.iter().any(is_bad)
    }
}

/// The table, as Markdown.
pub(crate) fn table(ways: &[WayReport]) -> String {
    let mut text =
        "| through | switchovers | sessions broken | errors | wrong states | pause p50, ms | p99, ms | longest, ms \
                    | p99 above the cluster's gap, ms |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
            .to_owned();
    for WayReport { name, rounds, .. } in ways {
        let sum = |of: fn(&Seen) -> usize| rounds.iter().map(|round| of(&round.seen)).sum::<usize>();
        let mut all = Seen::default();
        rounds.iter().for_each(|round| all.pauses.extend(&round.seen.pauses));
        all.pauses.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let mut above: Vec<f64> = rounds.iter().map(|round| ms(round.seen.pause(0.99)) - ms(round.gap)).collect();
        above.sort_unstable_by(f64::total_cmp);
        let (least, median, most) = match above.as_slice() {
            [] => (0.0, 0.0, 0.0),
            all => (all[0], all[all.len() / 2], all[all.len() - 1]),
        };
        let pauses = match all.pauses.len() {
            0 => "– | – | – | –".to_owned(), // every request that met it was an error
            _ => {
                let [half, most_of_all, longest] = [0.5, 0.99, 1.0].map(|share| ms(all.pause(share)));
                format!("{half:.0} | {most_of_all:.0} | {longest:.0} | {median:.0} ({least:.0} to {most:.0})")
            }
        };
        text += &format!(
            "| {name} | {} | {} | {} | {} | {pauses} |\n",
            rounds.len(),
            sum(|seen| seen.broken),
            sum(|seen| seen.errors),
            sum(|seen| seen.wrong.len()),
        );
    }
    text
}
