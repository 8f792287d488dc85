//! What the server tells of a session's state, and what follows from it: whether the session could be carried to another
//! server, and what that would have to restore.

use std::fmt;

/// The columns of a row of the answer: what it is, and three values.
pub const COLUMNS: usize = 4;

/// The select that asks for the state. Every name is qualified, so that no object of the session is called instead; it
/// needs no rights but those that every role has.
///
/// 2615 is `pg_namespace`: what depends on the temporary schema is in it. `source` is "session" for what `SET` and
/// `set_config` have set. The role and the session's user are no settings of `pg_settings`.
pub(super) const QUESTION: &str = "\
    select 'setting'::pg_catalog.text, name, setting, ''::pg_catalog.text from pg_catalog.pg_settings \
    where source operator(pg_catalog.=) 'session'::pg_catalog.text \
    union all select 'prepared', name, statement, \
    pg_catalog.concat(from_sql::pg_catalog.text, ' ', parameter_types::pg_catalog.text) \
    from pg_catalog.pg_prepared_statements where name operator(pg_catalog.<>) '_pgvane_question'::pg_catalog.text \
    union all select 'channel', channel, '', '' from pg_catalog.pg_listening_channels() as listened (channel) \
    union all select 'cursor', name, '', '' from pg_catalog.pg_cursors where is_holdable \
    union all select 'advisory', pg_catalog.count(*)::pg_catalog.text, '', '' from pg_catalog.pg_locks \
    where locktype operator(pg_catalog.=) 'advisory'::pg_catalog.text \
    and pid operator(pg_catalog.=) pg_catalog.pg_backend_pid() \
    union all select 'temporary', pg_catalog.count(*)::pg_catalog.text, '', '' from pg_catalog.pg_depend \
    where refclassid operator(pg_catalog.=) 2615::pg_catalog.oid \
    and refobjid operator(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
    union all select 'process', pg_catalog.pg_backend_pid()::pg_catalog.text, '', '' \
    union all select 'users', session_user::pg_catalog.text, current_user::pg_catalog.text, \
    pg_catalog.current_setting('role'::pg_catalog.text)";

/// A session's state: the rows of the answer, as the server has sent them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionState(Vec<[Box<[u8]>; COLUMNS]>);

/// Why a session cannot be carried to another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// So many temporary tables and other objects in its temporary schema.
    Temporary(u64),
    /// So many advisory locks of the session.
    Advisory(u64),
    /// A cursor that outlives its transaction (`WITH HOLD`).
    Cursor(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |number: u64| if number == 1 { "" } else { "s" };
        match self {
            Obstacle::Temporary(number) => write!(f, "{number} temporary object{}", plural(*number)),
            Obstacle::Advisory(number) => write!(f, "{number} advisory lock{}", plural(*number)),
            Obstacle::Cursor(name) => write!(f, "a held cursor, {name:?}"),
        }
    }
}

/// How much of each kind would have to be restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restorable {
    /// Settings of the session.
    pub settings: usize,
    /// Prepared statements of the protocol.
    pub prepared: usize,
    /// Prepared statements of `PREPARE`.
    pub prepared_by_sql: usize,
    /// Channels that it listens on.
    pub channels: usize,
    /// Whether its role is not the one that it has logged in with.
    pub role: bool,
}

impl SessionState {
    /// Adds a row. False if it is none that the question asks for.
    pub(super) fn add(&mut self, columns: [Box<[u8]>; COLUMNS]) -> bool {
        const KINDS: [&[u8]; 8] =
            [b"setting", b"prepared", b"channel", b"cursor", b"advisory", b"temporary", b"process", b"users"];
        let is_known = KINDS.contains(&&*columns[0]);
        self.0.push(columns);
        is_known
    }

    /// Whether it has the rows that every answer has.
    pub(super) fn is_complete(&self) -> bool {
        [&b"advisory"[..], b"temporary", b"process", b"users"].iter().all(|kind| self.rows(kind).count() == 1)
    }

    /// The process that serves the session.
    pub fn process_id(&self) -> Option<i32> {
        text(&self.rows(b"process").next()?[1]).parse().ok()
    }

    /// Why it cannot be carried to another server; empty if it can, as far as the server tells.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let count = |kind: &[u8]| self.rows(kind).next().map_or(u64::MAX, |row| number(&row[1]));
        let mut obstacles = Vec::new();
        match count(b"temporary") {
            0 => {}
            number => obstacles.push(Obstacle::Temporary(number)),
        }
        match count(b"advisory") {
            0 => {}
            number => obstacles.push(Obstacle::Advisory(number)),
        }
        obstacles.extend(self.rows(b"cursor").map(|row| Obstacle::Cursor(text(&row[1]))));
        obstacles
    }

    /// What would have to be restored.
    pub fn restorable(&self) -> Restorable {
        let by_sql = self.rows(b"prepared").filter(|row| row[3].starts_with(b"t")).count();
        Restorable {
            settings: self.rows(b"setting").count(),
            prepared: self.rows(b"prepared").count() - by_sql,
            prepared_by_sql: by_sql,
            channels: self.rows(b"channel").count(),
            role: self.rows(b"users").any(|row| row[1] != row[2] || &*row[3] != b"none"),
        }
    }

    fn rows<'a>(&'a self, kind: &'a [u8]) -> impl Iterator<Item = &'a [Box<[u8]>; COLUMNS]> {
        self.0.iter().filter(move |row| &*row[0] == kind)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A number that cannot be read counts as one: something is there.
fn number(bytes: &[u8]) -> u64 {
    text(bytes).parse().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(rows: &[[&str; COLUMNS]]) -> SessionState {
        let mut state = SessionState::default();
        rows.iter().for_each(|row| assert!(state.add(row.map(|text| text.as_bytes().into()))));
        state
    }

    const FREE: [[&str; COLUMNS]; 4] = [
        ["advisory", "0", "", ""],
        ["temporary", "0", "", ""],
        ["process", "77", "", ""],
        ["users", "app", "app", "none"],
    ];

    #[test]
    fn what_cannot_be_carried_is_named() {
        assert_eq!(state(&FREE).obstacles(), []);
        let bound = [["advisory", "2", "", ""], ["temporary", "1", "", ""], ["cursor", "c", "", ""]];
        let told: Vec<String> = state(&bound).obstacles().iter().map(ToString::to_string).collect();
        assert_eq!(told, ["1 temporary object", "2 advisory locks", "a held cursor, \"c\""]);
    }

    #[test]
    fn an_answer_without_the_rows_that_every_answer_has_is_not_complete() {
        assert!(state(&FREE).is_complete());
        assert_eq!(state(&FREE).process_id(), Some(77));
        assert!(!state(&FREE[1..]).is_complete());
        assert_eq!(state(&[]).obstacles().len(), 2, "nothing is known of locks and temporary objects");
    }

    #[test]
    fn what_would_be_restored_is_counted() {
        let rows = [
            ["setting", "work_mem", "5120", ""],
            ["prepared", "a", "select 1", "false {}"],
            ["prepared", "b", "prepare b as select 1", "true {}"],
            ["channel", "news", "", ""],
            ["users", "app", "other", "other"],
        ];
        let expected = Restorable { settings: 1, prepared: 1, prepared_by_sql: 1, channels: 1, role: true };
        assert_eq!(state(&rows).restorable(), expected);
    }
}
