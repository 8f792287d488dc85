//! What differs between two configurations, for the log and for people: each key, its value before and after.

use std::collections::BTreeMap;
use std::fmt;

use super::Config;
use super::settings::{self, Effect, Settings};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A listener, a cluster, a node or a user that the old configuration does not have: `listener "read"`.
    Added(String),
    /// One that the new configuration does not have.
    Removed(String),
    /// A key with another value.
    Changed {
        /// The key, with its table: `listener "read": hold_max`.
        key: String,
        /// The value before, for people to read.
        from: String,
        /// The value now.
        to: String,
        /// When it takes effect.
        effect: Effect,
    },
}

impl Difference {
    /// Whether it takes effect only with the next start of pgvane.
    pub fn needs_restart(&self) -> bool {
        matches!(self, Difference::Changed { effect: Effect::Restart, .. })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Added(what) => write!(f, "{what} added"),
            Difference::Removed(what) => write!(f, "{what} removed"),
            Difference::Changed { key, from, to, .. } if from == to => write!(f, "{key} changed"), // a secret
            Difference::Changed { key, from, to, .. } => write!(f, "{key}: {from} → {to}"),
        }
    }
}

/// Everything that differs, in the order of the tables' names.
pub fn between(old: &Config, new: &Config) -> Vec<Difference> {
    let (old, new) = (settings::of(old), settings::of(new));
    let mut all = Vec::new();
    for (table, before) in &old {
        match new.get(table) {
            Some(now) => all.extend(within(table, before, now)),
            None if is_part_of_missing(table, &new) => {}
            None => all.push(Difference::Removed(table.clone())),
        }
    }
    let added = new.keys().filter(|table| !old.contains_key(*table) && !is_part_of_missing(table, &old));
    all.extend(added.cloned().map(Difference::Added));
    all
}

/// Whether a table belongs to one that is missing too, such as the node of a cluster: then that says enough.
fn is_part_of_missing(table: &str, tables: &BTreeMap<String, Settings>) -> bool {
    let whole = table.split_once(" node \"").map(|(cluster, _)| cluster);
    whole.is_some_and(|whole| !tables.contains_key(whole))
}

fn within(table: &str, before: &Settings, now: &Settings) -> Vec<Difference> {
    let not_set = (settings::Value::Text(None), Effect::Reload);
    let keys: std::collections::BTreeSet<&&str> = before.keys().chain(now.keys()).collect();
    let changed = keys.into_iter().filter_map(|key| {
        let (from, _) = before.get(*key).unwrap_or(&not_set);
        let (to, effect) = now.get(*key).unwrap_or(&not_set);
        let differs = from != to && !(is_unset(from) && is_unset(to));
        differs.then(|| Difference::Changed {
            key: named(table, key),
            from: from.shown().to_owned(),
            to: to.shown().to_owned(),
            effect: *effect,
        })
    });
    changed.collect()
}

fn is_unset(value: &settings::Value) -> bool {
    matches!(value, settings::Value::Text(None) | settings::Value::Secret(None))
}

/// `listener "read": hold_max`, and `log.level` for a key of the whole file.
fn named(table: &str, key: &str) -> String {
    if table.is_empty() {
        return key.to_owned();
    }
    let prefixes = ["admin.users.", "admin.sockets.", "admin.", "cluster.node.", "cluster.", "listener."];
    let short = prefixes.iter().find_map(|prefix| key.strip_prefix(prefix)).unwrap_or(key);
    format!("{table}: {short}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
        drain_timeout = "5s"
        threads = 2
        [admin]
        users = [{ name = "ops", password = "hunter2" }]
        [[cluster]]
        [[cluster.node]]
        name = "a"
        address = "10.0.0.1:5432"
        [[cluster.node]]
        name = "b"
        address = "10.0.0.2:5432"
        [[listener]]
        bind = "0.0.0.0:6432"
        target = "leader"
        [[listener]]
        name = "read"
        bind = "0.0.0.0:6433"
        target = "replica"
    "#;

    fn told(changes: &[(&str, &str)]) -> Vec<String> {
        let now = changes.iter().fold(BEFORE.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        let read = |text: &str| Config::from_toml("test.toml", text).unwrap_or_else(|faults| panic!("{faults}"));
        between(&read(BEFORE), &read(&now)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_configuration_does_not_differ_from_itself() {
        assert_eq!(told(&[]), Vec::<String>::new());
    }

    #[test]
    fn a_changed_key_is_told_with_its_table_and_both_values() {
        assert_eq!(told(&[("\"5s\"", "\"1min\"")]), ["drain_timeout: 5s → 60s"]);
        assert_eq!(
            told(&[("\"10.0.0.2:5432\"", "\"10.0.0.2:5432\"\nweight = 7")]),
            ["cluster \"main\" node \"b\": weight: 100 → 7"]
        );
        let read = "target = \"replica\"\nlag_max_time = \"3s\"";
        assert_eq!(told(&[("target = \"replica\"", read)]), ["listener \"read\": lag_max_time: (not set) → 3s"]);
    }

    #[test]
    fn a_secret_is_never_told() {
        let told = told(&[("hunter2", "hunter3")]);
        assert_eq!(told, ["admin user \"ops\": password changed"]);
    }

    #[test]
    fn what_is_added_or_removed_is_told_once() {
        assert_eq!(
            told(&[("name = \"b\"", "name = \"c\"")]),
            ["cluster \"main\" node \"b\" removed", "cluster \"main\" node \"c\" added"]
        );
        assert_eq!(
            told(&[("name = \"read\"", "name = \"reports\"")]),
            ["listener \"read\" removed", "listener \"reports\" added"]
        );
        assert_eq!(
            told(&[("[[cluster]]", "[[cluster]]\nname = \"other\"")]),
            [
                "cluster \"main\" removed",
                "listener \"leader\": cluster: main → other",
                "listener \"read\": cluster: main → other",
                "cluster \"other\" added",
            ]
        );
    }

    #[test]
    fn what_takes_a_restart_is_marked() {
        let read = |text: &str| Config::from_toml("test.toml", text).expect("is valid");
        let differences = between(&read(BEFORE), &read(&BEFORE.replace("threads = 2", "threads = 3")));
        assert!(differences.len() == 1 && differences[0].needs_restart(), "{differences:?}");
    }
}
