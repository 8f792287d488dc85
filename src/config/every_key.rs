//! Tests that `config/pgvane.toml` and the table in README.md name every key that the reader asks for, no other key,
//! and the same defaults as the reader.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::document::Document;
use super::{Config, read};
use crate::tls::world::World;

/// Tables that the README names too: the file may have them or not, or they may be a string instead.
const OPTIONAL_TABLES: [&str; 10] = [
    "admin.sockets",
    "admin.users",
    "cluster.patroni_login",
    "cluster.patroni_tls",
    "cluster.sql",
    "listener.on",
    "listener.proxy_protocol",
    "listener.rebalance",
    "listener.server_tls",
    "listener.tls",
];

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One line of the reference file.
enum Line {
    /// `[table]` or `[[table]]`, or the same behind a `#`.
    Table,
    /// `key = value`, or the same behind a `#`; the key with its table's name.
    Key { path: String },
    /// Anything else.
    Other,
}

/// The reference file, with the `#` taken from the keys and tables for which `wanted` is true.
fn reference(text: &str, wanted: impl Fn(&str) -> bool) -> String {
    let mut table = String::new();
    let mut changed = String::new();
    for line in text.lines() {
        let is_wanted = match parse(line, &mut table) {
            Line::Table => wanted(&table),
            Line::Key { path } => wanted(&path),
            Line::Other => false,
        };
        changed += if is_wanted { line.strip_prefix('#').unwrap_or(line) } else { line };
        changed += "\n";
    }
    changed
}

/// `table` is the table that the lines before belong to.
fn parse(line: &str, table: &mut String) -> Line {
    let line = line.strip_prefix('#').unwrap_or(line);
    if let Some(name) = line.strip_prefix('[') {
        *table = name.trim_matches(['[', ']']).to_owned();
        return Line::Table;
    }
    match line.split_once(" = ") {
        Some((key, _))
            if key.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit()) =>
        {
            let path = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
            Line::Key { path }
        }
        _ => Line::Other,
    }
}

/// The value of every key in a document, with the table's name in front of the key.
fn values(text: &str) -> BTreeMap<String, String> {
    fn collect(prefix: &str, table: &DeTable<'_>, found: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            let path =
                if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            let shown = match value.get_ref() {
                DeValue::Table(table) => {
                    collect(&path, table, found);
                    String::new()
                }
                DeValue::Array(items) => {
                    let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                    tables.for_each(|table| collect(&path, table, found));
                    String::new()
                }
                DeValue::String(text) => text.to_string(),
                DeValue::Boolean(truth) => truth.to_string(),
                DeValue::Integer(number) => number.as_str().to_owned(),
                _ => panic!("{path}: no key has such a value"),
            };
            found.entry(path).or_insert(shown);
        }
    }
    let document = DeTable::parse(text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    let mut found = BTreeMap::new();
    collect("", document.get_ref(), &mut found);
    found
}

/// All keys that exist, each with its table's name in front.
pub(super) fn keys_asked_for() -> BTreeSet<String> {
    asked_for(&file("config/pgvane.toml"))
}

/// The keys that the reader asks for when it is given every key of the reference file.
fn asked_for(reference_text: &str) -> BTreeSet<String> {
    // with another mode the keys for "terminate" are not asked for
    let all = reference(reference_text, |_| true).replace("mode = \"passthrough\"", "mode = \"terminate\"");
    let document = Document::parse("pgvane.toml", &all);
    let _ = read::read(&document);
    document.keys_asked_for()
}

/// A row of the README's table. `default` is `None` where the cell has no value in backticks.
struct Row {
    key: String,
    default: Option<String>,
}

fn readme_rows() -> Vec<Row> {
    let readme = file("README.md");
    let (_, after) = readme.split_once("<!-- keys -->").expect("README.md has <!-- keys -->");
    let (table, _) = after.split_once("<!-- /keys -->").expect("README.md has <!-- /keys -->");
    let quoted = |cell: &str| Some(cell.trim().strip_prefix('`')?.strip_suffix('`')?.to_owned());
    let rows = table.trim().lines().skip(2).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let [key, default, meaning] = cells[..] else { panic!("needs three cells: {line}") };
        assert!(meaning.trim().ends_with('.'), "needs a sentence: {line}");
        Row { key: quoted(key).unwrap_or_else(|| panic!("needs a key in backticks: {line}")), default: quoted(default) }
    });
    rows.collect()
}

fn config(text: &str) -> Config {
    Config::from_toml("pgvane.toml", text).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

#[test]
fn the_reference_file_names_every_key_and_no_other() {
    let text = file("config/pgvane.toml");
    let asked = asked_for(&text);
    let all = reference(&text, |_| true);
    let named = values(&all);
    let missing: Vec<&String> = asked.iter().filter(|key| !named.contains_key(*key)).collect();
    assert!(missing.is_empty(), "config/pgvane.toml does not name {missing:?}");
    let faults = Config::from_toml("pgvane.toml", &all).expect_err("it names files that do not exist").to_string();
    assert!(!faults.contains("unknown key"), "{faults}");
}

#[test]
fn the_table_in_the_readme_names_every_key_and_no_other() {
    let asked = asked_for(&file("config/pgvane.toml"));
    let is_table =
        |key: &str| asked.iter().any(|other| other.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')));
    let expected: BTreeSet<&str> =
        asked.iter().map(String::as_str).filter(|key| !is_table(key) || OPTIONAL_TABLES.contains(key)).collect();
    let rows = readme_rows();
    let named: BTreeSet<&str> = rows.iter().map(|row| row.key.as_str()).collect();
    assert_eq!(rows.len(), named.len(), "a key is in the table twice");
    let missing: Vec<_> = expected.difference(&named).collect();
    let unknown: Vec<_> = named.difference(&expected).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:?}, unknown: {unknown:?}");
}

#[test]
fn the_table_in_the_readme_and_the_reference_file_have_the_same_defaults() {
    let values = values(&reference(&file("config/pgvane.toml"), |_| true));
    for Row { key, default } in readme_rows() {
        let Some(default) = default else { continue };
        // a table in the file that may be a string too; the string is the default of the key that is named here
        let key = match key.as_str() {
            "listener.tls" => "listener.tls.mode",
            "listener.server_tls" => "listener.server_tls.sslmode",
            key => key,
        };
        assert_eq!(values.get(key), Some(&default), "{key} in config/pgvane.toml and in README.md");
    }
}

/// Taking the `#` from the keys that have a default changes nothing.
#[test]
fn the_defaults_in_the_reference_file_are_those_of_the_reader() {
    let text = file("config/pgvane.toml");
    let rows = readme_rows();
    let world = World::new();
    let identity = world.identity("pgvane", "localhost");
    // tables and keys without which other keys have no effect
    let with_tables = |text: &str| {
        text.replace("mode = \"passthrough\"", "mode = \"terminate\"")
            .replace("/etc/pgvane/server.crt", &identity.cert_file.display().to_string())
            .replace("/etc/pgvane/server.key", &identity.key_file.display().to_string())
    };
    let needed = [
        "admin.sockets",
        "admin.sockets.path",
        "cluster.sql",
        "cluster.sql.user",
        "listener.tls.cert_file",
        "listener.tls.key_file",
    ]
    .map(str::to_owned);
    let inline = ["listener.proxy_protocol", "listener.rebalance"];
    let shortest = |text: String| {
        text.replace("#rebalance = {", "rebalance = {} #")
            .replace("#proxy_protocol = { trusted = [\"10.0.0.5\"]", "proxy_protocol = { trusted = [\"10.0.0.5\"] } #")
    };
    let without = with_tables(&shortest(reference(&text, |key| needed.iter().any(|needed| needed == key))));
    let has_default = |key: &str| rows.iter().any(|row| row.key == key && row.default.is_some());
    // unix_socket_mode has no effect on the addresses of the reference file, and is an error there
    let is_default = |key: &str| has_default(key) && key != "listener.unix_socket_mode";
    let wanted = |key: &str| {
        needed.iter().any(|needed| needed == key) || inline.contains(&key) || key == "listener.on" || is_default(key)
    };
    let with = with_tables(&reference(&text, wanted));
    assert_ne!(without, with);
    assert_eq!(config(&without), config(&with));
}

/// Without its comments the reference file has the default of every setting.
#[test]
fn the_reference_file_as_it_is_has_every_default() {
    let nodes: String =
        (1..=3).map(|n| format!("[[cluster.node]]\nname = \"node{n}\"\naddress = \"10.0.0.{n}:5432\"\n")).collect();
    let listeners = "[[listener]]\nname = \"write\"\nbind = \"0.0.0.0:6432\"\ntarget = \"leader\"\n\
                     [[listener]]\nname = \"read\"\nbind = \"0.0.0.0:6433\"\ntarget = \"replica\"\n";
    let shortest = format!("[[cluster]]\n{nodes}{listeners}");
    assert_eq!(config(&file("config/pgvane.toml")), config(&shortest));
}

/// Every key that the reader asks for has a place in `settings`, where it is said what a reload does with it.
#[test]
fn for_every_key_it_is_said_what_a_reload_does_with_it() {
    let source = file("src/config/settings.rs");
    // tables, and keys whose values are those of another key
    let elsewhere = ["cluster.sql.password_file", "cluster.patroni_login.password_file", "admin.users.password_file"];
    let asked = asked_for(&file("config/pgvane.toml"));
    let is_table = |key: &str| {
        let inside = |other: &String| other.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        asked.iter().any(inside)
    };
    let untold: Vec<&String> = asked
        .iter()
        .filter(|key| !is_table(key) && !elsewhere.contains(&key.as_str()))
        .filter(|key| !source.contains(&format!("\"{key}\"")))
        .collect();
    assert!(untold.is_empty(), "src/config/settings.rs does not say what a reload does with {untold:?}");
}
