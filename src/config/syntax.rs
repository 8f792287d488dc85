//! The faults of a file that is not valid TOML: one for each mistake, with what to write instead.

use toml::de::Error;

use super::fault::Fault;
use super::{foreign_words, units};

const COMMENT: &str = "a comment begins with #";
const QUOTES: [char; 5] = ['“', '”', '„', '‘', '’'];

/// The faults for these errors, in the order of their lines. What follows from a fault is left out: the keys below a
/// faulty header, and the rest of a list that is not closed.
pub(super) fn faults(text: &str, errors: &[Error]) -> Vec<Fault> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let line_of = |error: &Error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        text[..start].matches('\n').count().min(lines.len().saturating_sub(1))
    };
    let mut errors: Vec<(usize, String)> =
        errors.iter().map(|error| (line_of(error), error.message().replace('\n', ", "))).collect();
    errors.sort_by_key(|(at, _)| *at); // stable: the first error of a line stays the first
    let mut faults: Vec<Fault> = Vec::new();
    let mut last: Option<(usize, bool)> = None;
    for (at, message) in errors {
        let is_consequence = last.is_some_and(|(before, spoils_table)| {
            at == before || (spoils_table && !lines[before + 1..=at].iter().any(|line| line.starts_with('[')))
        });
        if is_consequence {
            continue;
        }
        let line = lines.get(at).copied().unwrap_or_default();
        last = Some((at, line.starts_with('[') || message.contains("array")));
        let (message, hint) = if line.starts_with('[') {
            (message.clone(), header(line, &message))
        } else {
            entry(table_of(&lines[..at]), line, message)
        };
        faults.push(Fault { line: Some(at + 1), message: format!("syntax error: {message}"), hint: Some(hint) });
    }
    faults
}

/// The name in a header, which may be faulty.
fn header_name(line: &str) -> &str {
    let name = line.trim_start_matches(['[', ' ']);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    &name[..name.find(|c| !is_name(c)).unwrap_or(name.len())]
}

/// The table that the last of these lines belongs to.
fn table_of<'text>(lines: &[&'text str]) -> &'text str {
    lines.iter().rev().find(|line| line.starts_with('[')).map_or("", |line| header_name(line))
}

fn header(line: &str, message: &str) -> String {
    let name = header_name(line);
    let correct = foreign_words::header(name);
    match message.starts_with("duplicate key") {
        true if correct.starts_with("[[") => format!("write {correct}, with two brackets, for each {name}"),
        true => format!("{correct} is in the file twice: write all its keys below one {correct}"),
        false if line.starts_with("[[") => format!("write [[{name}]], and nothing else on this line"),
        false => format!("write {correct}, and nothing else on this line"),
    }
}

/// The message and the hint for a line that should be `key = value`.
fn entry(table: &str, line: &str, message: String) -> (String, String) {
    if [";", "//", "--", "/*"].iter().any(|start| line.starts_with(start)) {
        return (message, COMMENT.to_owned());
    }
    // a list or a table that begins in a line above is not closed
    if message.contains("array") {
        return (message, "write a list as [\"a\", \"b\"]: commas between its items, and ] at its end".to_owned());
    }
    let Some((key, value)) = line.split_once('=') else {
        return (message, without_equals_sign(table, line));
    };
    let (key, value) = (key.trim(), value.trim());
    if let Some((_, hint)) = foreign_words::key(table, key) {
        return (message, hint);
    }
    if message.starts_with("duplicate key") {
        return (message, format!("{key} is in this table twice: remove one of the two lines"));
    }
    if value.is_empty() {
        return (format!("the value of {key} is missing"), format!("write a value after {key} ="));
    }
    let hint = value_hint(key, value, &message);
    let message = [", expected literal string", ", expected nothing"]
        .iter()
        .find_map(|library| message.strip_suffix(library))
        .unwrap_or(&message)
        .to_owned();
    (message, hint)
}

/// `maxconn 100`, `timeout connect 3s`, `bind: "…"`.
fn without_equals_sign(table: &str, line: &str) -> String {
    let line = line.trim_start_matches("- ");
    let words: Vec<&str> = line.split([' ', '\t', ':']).filter(|word| !word.is_empty()).collect();
    let foreign = [2, 1].iter().find_map(|count| foreign_words::key(table, &words.get(..*count)?.join(" ")));
    match foreign {
        Some((_, hint)) => hint,
        None => "write key = value, for example bind = \"0.0.0.0:6432\"".to_owned(),
    }
}

fn value_hint(key: &str, value: &str, message: &str) -> String {
    if value.contains(QUOTES) {
        return "write straight quotes: \"…\"".to_owned();
    }
    if value.starts_with('=') {
        return "write one = between the key and its value".to_owned();
    }
    if message.contains("escape") {
        return "write each backslash twice, or the whole value in single quotes: '…'".to_owned();
    }
    if let Some(quote) = value.chars().next().filter(|first| matches!(first, '"' | '\'')) {
        return match value[1..].split_once(quote) {
            None => format!("add {quote} at the end of the value"),
            Some((_, rest)) if rest.trim().starts_with([';', '/']) => COMMENT.to_owned(),
            Some(_) => "write nothing behind the value, and each key on a line of its own".to_owned(),
        };
    }
    if value.starts_with('{') {
        return "write a table on one line as { name = \"value\", other = \"value\" }".to_owned();
    }
    let bare = value.split('#').next().unwrap_or_default().trim();
    match &*bare.to_ascii_lowercase() {
        "true" | "yes" | "on" => return format!("write {key} = true"),
        "false" | "no" | "off" => return format!("write {key} = false"),
        _ => {}
    }
    // a secret must not get into logs
    let shown = match foreign_words::meant_value(key, bare) {
        _ if key.contains("password") => "…",
        Some(own) => own,
        None => bare,
    };
    let with_unit = if key == "lag_max" { units::meant_size(shown) } else { units::meant_duration(shown) };
    let shown = with_unit.unwrap_or_else(|| shown.to_owned());
    format!("write the value in quotes: {key} = \"{shown}\"")
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    const CLUSTER: &str = "[[cluster]]\n[[cluster.node]]\naddress = \"10.0.0.1:5432\"\n";

    fn shown(rest: &str) -> String {
        Config::from_toml("f", &format!("{CLUSTER}{rest}\n")).map(|_| ()).expect_err(rest).to_string()
    }

    #[test]
    fn a_mistake_in_the_syntax_gives_one_fault_and_says_what_to_write() {
        for (text, line, hint) in [
            ("[[listener]\nbind = \"*:1\"\ntarget = \"leader\"", 4, "write [[listener]], and nothing else"),
            ("[listener]]\nbind = \"*:1\"\ntarget = \"leader\"", 4, "write [[listener]], and nothing else"),
            ("[listener\nbind = \"*:1\"\ntarget = \"leader\"", 4, "write [[listener]], and nothing else"),
            ("[log\nlevel = \"info\"", 4, "write [log], and nothing else"),
            ("[[listener]]\nbind = \"*:1\"\ntarget = \"leader\"\n[[listener]\nbind = \"*:2\"", 7, "write [[listener]]"),
            ("[listener]\nbind = \"*:1\"\n[listener]\nbind = \"*:2\"", 6, "two brackets, for each listener"),
            ("[[listener]]\nbind = 0.0.0.0:6432\ntarget = \"leader\"", 5, "bind = \"0.0.0.0:6432\""),
            ("[[listener]]\nbind = *:6432 # all\ntarget = \"leader\"", 5, "in quotes: bind = \"*:6432\"\n"),
            ("[[listener]]\nbind = \"*:1\"\ntarget = primary", 6, "target = \"leader\""),
            ("[[listener]]\nhold_max = 10m", 5, "hold_max = \"10min\""),
            ("[[listener]]\nlag_max = 64M", 5, "lag_max = \"64MB\""),
            ("[[listener]]\nbind = \"*:1\ntarget = \"leader\"", 5, "add \" at the end"),
            ("[[listener]]\nmaxconn 100", 5, "pgvane's key for this is \"sessions_max\"\n"),
            ("[[listener]]\ntimeout connect 3s", 5, "\"connect_timeout\""),
            ("[[listener]]\ntimeout connect = \"3s\"", 5, "\"connect_timeout\""),
            ("[[listener]]\nlisten_addr = *", 5, "pgvane's key for this is \"bind\"\n"),
            ("[[listener]]\nbind: \"*:1\"", 5, "write key = value"),
            ("[[listener]]\nallow = [\"10.0.0.1\"\ntarget = \"leader\"\nbind = \"*:1\"", 6, "write a list as"),
            ("; comment", 4, "a comment begins with #"),
            ("// comment", 4, "a comment begins with #"),
            ("[[listener]]\nbind = \"*:1\" ; comment", 5, "a comment begins with #"),
            ("[[listener]]\nbind = \"*:1\"\nbind = \"*:2\"", 6, "bind is in this table twice"),
            ("[[listener]]\nbind = “*:1”", 5, "write straight quotes"),
            ("[[listener]]\ninclude_leader = True", 5, "write include_leader = true"),
            ("[[listener]]\ninclude_leader = no", 5, "write include_leader = false"),
            ("[[listener]]\nbind =", 5, "write a value after bind ="),
            ("[[listener]]\nbind = \"C:\\d\"", 5, "each backslash twice"),
            ("[[listener]]\nhold_max = = \"3s\"", 5, "write one ="),
            ("[admin]\npassword = hunter2", 5, "password = \"…\""),
        ] {
            let shown = shown(text);
            assert!(shown.contains(hint), "{text:?}: no {hint:?} in\n{shown}");
            assert!(shown.starts_with(&format!("f:{line}: syntax error: ")), "{text:?}: {shown}");
            assert!(shown.ends_with("1 error found: pgvane cannot start until it is corrected"), "{text:?}: {shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn each_mistake_is_reported() {
        let shown = shown("[[listener]]\nbind = *:6432\ntarget = leader\n[log\nlevel = \"info\"\n[admin]\nbind = x:1");
        let lines: Vec<&str> = shown.lines().filter(|line| line.starts_with("f:")).collect();
        let starts = ["f:5: ", "f:6: ", "f:7: ", "f:10: "];
        assert!(lines.len() == 4 && lines.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{shown}");
    }
}
