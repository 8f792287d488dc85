//! Reads how parked sessions are carried to another leader: the keys `carry…` of `[[cluster]]`.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use super::section::{Section, set};
use super::{AuthQuerySettings, CarrySettings, ConnectionRate, read_access};

/// The maximum number of custom settings: each is asked for in every session.
const CUSTOM_SETTINGS_MAX: usize = 100;

/// PostgreSQL cuts longer names of settings nowhere, and nobody writes them.
const NAME_LENGTH_MAX: usize = 200;

/// A server starts a process for each login, which takes a few milliseconds.
const RATE: ConnectionRate = match NonZeroU32::new(500) {
    Some(count) => ConnectionRate { count, within: Duration::from_secs(1) },
    None => unreachable!(),
};

pub(super) fn carry(section: &Section<'_>) -> Option<CarrySettings> {
    let is_on = section.boolean("carry").unwrap_or(false);
    let mut settings =
        CarrySettings { custom_settings: custom_settings(section), rate: RATE, auth_query: auth_query(section) };
    set(&mut settings.rate, read_access::rate(section, "carry_rate", "logins"));
    let keys = ["carry_settings", "carry_rate", "carry_auth_query", "carry_auth_database"];
    for key in keys.into_iter().filter(|key| section.has(key) && !section.has("carry")) {
        section.fault_at(key, format!("{key} has no effect without carry = true"), "add carry = true, or remove it");
    }
    if !is_on {
        return None;
    }
    if section.boolean("park") != Some(true) {
        section.fault_at("carry", "carry = true needs park = true: sessions are parked first", "add park = true");
    }
    if !section.has("carry_settings") {
        section.missing(
            "carry_settings",
            "carry = true needs carry_settings, which is missing",
            "name the settings with a dot that your applications SET, for example [\"app.tenant\"]: PostgreSQL shows them to \
             nobody who does not ask for them by name. Write [] if there are none",
        );
    }
    Some(settings)
}

fn auth_query(section: &Section<'_>) -> Option<AuthQuerySettings> {
    const KEY: &str = "carry_auth_query";
    let (text, database) = (section.string(KEY), section.string("carry_auth_database"));
    let Some(text) = text else {
        if database.is_some() {
            let message = "carry_auth_database has no effect without carry_auth_query";
            section.fault_at("carry_auth_database", message, "add carry_auth_query, or remove it");
        }
        return None;
    };
    if !text.contains("$1") {
        let hint = "write $1 for the role, for example \"select rolname, verifier from pgvane.verifier($1)\"";
        section.fault_at(KEY, format!("{KEY} has no parameter $1"), hint);
    }
    if !section.has("sql") {
        section.fault_at(
            KEY,
            format!("{KEY} needs [cluster.sql], which is missing"),
            "add [cluster.sql] with the user that may execute it, and its password or password_file",
        );
    }
    Some(AuthQuerySettings { text, database })
}

/// The names in `carry_settings`, each once.
fn custom_settings(section: &Section<'_>) -> Vec<String> {
    const KEY: &str = "carry_settings";
    let names: BTreeSet<String> = section.strings(KEY).into_iter().collect();
    for name in names.iter().filter(|name| !is_custom(name)) {
        section.fault_at(
            KEY,
            format!("{KEY}: \"{name}\" is not the name of a custom setting"),
            "write names with a dot, for example \"app.tenant\"; pgvane finds all other settings by itself",
        );
    }
    if names.len() > CUSTOM_SETTINGS_MAX {
        let hint = "remove those that no application sets";
        section.fault_at(KEY, format!("{KEY} has more than {CUSTOM_SETTINGS_MAX} names"), hint);
    }
    names.into_iter().collect()
}

/// What PostgreSQL accepts as the name of a setting that nothing has defined (`valid_custom_variable_name` of `guc.c`), but
/// for letters that are not in every encoding.
fn is_custom(name: &str) -> bool {
    let is_word = |word: &str| {
        let may_begin = |c: char| c.is_ascii_alphabetic() || c == '_';
        word.starts_with(may_begin) && word.chars().all(|c| may_begin(c) || c.is_ascii_digit() || c == '$')
    };
    name.contains('.') && name.len() <= NAME_LENGTH_MAX && name.split('.').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn read(lines: &str) -> Result<Option<CarrySettings>, String> {
        let rest = "[[cluster.node]]\nname = \"a\"\naddress = \"10.0.0.1:5432\"\n\
                    [[listener]]\nname = \"l\"\nbind = \"0.0.0.0:6432\"\ntarget = \"leader\"\n";
        let config = Config::from_toml("pgvane.toml", &format!("[[cluster]]\n{lines}\n{rest}"));
        config.map(|config| config.clusters[0].carry.clone()).map_err(|faults| faults.to_string())
    }

    #[test]
    fn sessions_are_carried_only_if_the_file_says_which_custom_settings_they_have() {
        assert_eq!(read("park = true"), Ok(None));
        let none = CarrySettings { custom_settings: Vec::new(), rate: RATE, auth_query: None };
        assert_eq!(read("park = true\ncarry = true\ncarry_settings = []"), Ok(Some(none)));
        let some =
            read("park = true\ncarry = true\ncarry_settings = [\"b.c\", \"a.b\", \"b.c\"]\ncarry_rate = \"50/3s\"");
        let some = some.expect("is valid").expect("is on");
        assert_eq!(
            (some.custom_settings.join(" "), some.rate.to_string()),
            ("a.b b.c".to_owned(), "50 in 3s".to_owned())
        );
        for (lines, fault) in [
            ("carry = true\ncarry_settings = []", "carry = true needs park = true"),
            ("park = true\ncarry = true", "carry = true needs carry_settings, which is missing"),
            ("carry_settings = []", "carry_settings has no effect without carry = true"),
            ("carry_rate = \"7/s\"", "carry_rate has no effect without carry = true"),
            ("park = true\ncarry = true\ncarry_settings = [\"tenant\"]", "is not the name of a custom setting"),
            ("park = true\ncarry = true\ncarry_settings = []\ncarry_rate = \"7\"", "is not a rate"),
        ] {
            let told = read(lines).expect_err(lines);
            assert!(told.contains(fault), "{lines}: {told}");
        }
    }

    #[test]
    fn the_query_for_verifiers_has_a_parameter_and_a_role_to_ask_it_as() {
        let on = "park = true\ncarry = true\ncarry_settings = []";
        let sql = "sql = { user = \"pgvane\" }";
        let query = "carry_auth_query = \"select * from pgvane.verifier($1)\"";
        let read_query = |lines: &str| read(lines).map(|carry| carry.and_then(|carry| carry.auth_query));
        let text = "select * from pgvane.verifier($1)".to_owned();
        let expected = AuthQuerySettings { text, database: Some("shop".to_owned()) };
        let whole = format!("{on}\n{query}\ncarry_auth_database = \"shop\"\n{sql}");
        assert_eq!(read_query(&whole), Ok(Some(expected)));
        for (lines, fault) in [
            (format!("{on}\n{query}"), "carry_auth_query needs [cluster.sql], which is missing"),
            (format!("{on}\n{}\n{sql}", query.replace("$1", "'x'")), "carry_auth_query has no parameter $1"),
            (format!("park = true\n{query}\n{sql}"), "carry_auth_query has no effect without carry = true"),
            (format!("{on}\ncarry_auth_database = \"x\""), "has no effect without carry_auth_query"),
        ] {
            let told = read(&lines).expect_err(&lines);
            assert!(told.contains(fault), "{lines}: {told}");
        }
    }

    #[test]
    fn names_with_a_dot_are_custom_settings() {
        for name in ["app.tenant", "a.b.c", "_a.b$1"] {
            assert!(is_custom(name), "{name}");
        }
        for name in ["tenant", "app.", ".tenant", "app.1", "app.te nant", "app;x.y", "Ünal.x", ""] {
            assert!(!is_custom(name), "{name}");
        }
    }
}
