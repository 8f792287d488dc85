//! `show stat` and `show backend`: HAProxy's statistics, as CSV, JSON or one value a line.

use crate::admin::haproxy::{FIRST_PROXY, Filter, Form, Selection, statistics};
use crate::admin::status::Status;

use super::place;

/// `show stat [{<iid>|<proxy>} <type> <sid>] [json|typed] [up] [no-maint]`. Errors: HAProxy's text.
pub(super) fn stat(status: &Status, words: &[String]) -> Result<String, &'static str> {
    let words = match words {
        [domain, name, rest @ ..] if domain == "domain" => match name.as_str() {
            "proxy" => rest,
            _ => return Err("Invalid statistics domain.\n"),
        },
        words => words,
    };
    let (selection, options) = match words {
        [proxy, kinds, server, rest @ ..] if number(kinds).is_some() => {
            let proxy = match place::listener(status, proxy) {
                Some(found) => status.listeners.iter().position(|one| one.name == found.name).and_then(iid),
                None => number(proxy).filter(|proxy| *proxy != 0),
            };
            let proxy = proxy.ok_or("No such proxy.\n")?;
            let [kinds, server] = [kinds, server].map(|word| number(word).unwrap_or(0));
            (Selection { proxy, kinds, server }, rest)
        }
        words => (Selection::ALL, words),
    };
    let has = |option: &str| options.iter().any(|word| word == option);
    let form = match () {
        () if has("json") => Form::Json,
        () if has("typed") => Form::Typed,
        () => Form::Csv,
    };
    Ok(statistics(status, Filter { hides_down: has("up"), hides_maint: has("no-maint") }, selection, form))
}

/// The number of the listener at this position.
fn iid(position: usize) -> Option<i64> {
    i64::try_from(position).ok().map(|position| position + i64::from(FIRST_PROXY))
}

fn number(word: &str) -> Option<i64> {
    word.parse().ok()
}

/// `show backend`.
pub(super) fn backends(status: &Status) -> String {
    let names = status.listeners.iter().map(|listener| format!("{}\n", listener.name));
    format!("# name\n{}", names.collect::<String>())
}
