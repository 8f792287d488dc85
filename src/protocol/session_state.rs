//! What the server tells of a session's state, and what follows from it: whether the session can be carried to another
//! server, and whether its state is the same there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::sql_prepare;

/// The columns of a row of the answer: what it is, and three values.
pub const COLUMNS: usize = 4;

/// A row of the answer, as the server has sent it.
pub(super) type Row = [Box<[u8]>; COLUMNS];

/// What the server reports by itself (`ParameterStatus`) that tells of the server and not of the session.
const OF_THE_SERVER: [&[u8]; 3] = [b"in_hot_standby", b"scram_iterations", b"server_version"];

/// The select that asks for the state. Every name is qualified, so that no object of the session is called instead; it
/// needs no rights but those that every role has. Its parameter is the array of the custom settings' names.
///
/// 2615 is `pg_namespace`: what depends on the temporary schema is in it. Settings whose `source` is "session" were set
/// by `SET` and `set_config`; the other sources are those that belong to this session, and not to the server. `transaction_…`
/// are set anew by each transaction. The role and the session's user are no settings of `pg_settings`; `usesysid` is the
/// user of the login.
pub(super) const QUESTION: &str = "\
    select 'setting'::pg_catalog.text, name, setting, pg_catalog.concat(pg_catalog.replace(source, ' ', '-'), ' ', reset_val) \
    from pg_catalog.pg_settings where source operator(pg_catalog.=) any \
    (array['session', 'client', 'user', 'database', 'database user', 'global']::pg_catalog.text[]) \
    and name operator(pg_catalog.<>) all \
    (array['transaction_isolation', 'transaction_read_only', 'transaction_deferrable']::pg_catalog.text[]) \
    union all select 'custom', name, pg_catalog.current_setting(name, true), \
    case when pg_catalog.current_setting(name, true) is null then '' else 'set' end \
    from pg_catalog.unnest($1::pg_catalog.text[]) as custom (name) \
    union all select 'reported', name, pg_catalog.current_setting(name, true), '' \
    from pg_catalog.unnest(array['application_name', 'client_encoding', 'DateStyle', \
    'default_transaction_read_only', 'in_hot_standby', 'integer_datetimes', 'IntervalStyle', 'is_superuser', \
    'scram_iterations', 'search_path', 'server_encoding', 'server_version', 'session_authorization', \
    'standard_conforming_strings', 'TimeZone']::pg_catalog.text[]) as reported (name) \
    union all select 'prepared', name, statement, pg_catalog.concat(from_sql::pg_catalog.text, ' ', \
    parameter_types::pg_catalog.oid[]::pg_catalog.text) \
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
    union all select 'login', pg_catalog.pg_get_userbyid(usesysid)::pg_catalog.text, '', '' \
    from pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) \
    union all select 'users', session_user::pg_catalog.text, current_user::pg_catalog.text, \
    pg_catalog.current_setting('role'::pg_catalog.text)";

/// A session's state: the rows of the answer, as the server has sent them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SessionState(Vec<Row>);

impl fmt::Debug for SessionState {
    /// Without values: settings and statements may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|[kind, name, ..]| [text(kind), text(name)])).finish()
    }
}

/// Why a session cannot be carried to another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// So many temporary tables and other objects in its temporary schema.
    Temporary(u64),
    /// So many advisory locks of the session.
    Advisory(u64),
    /// A cursor that outlives its transaction (`WITH HOLD`).
    Cursor(String),
    /// A statement that was prepared by `PREPARE` in a text with other statements, or by a function: its own text is not
    /// known.
    Prepared(String),
    /// It has another user than the one of its login (`SET SESSION AUTHORIZATION`); with both.
    User(String, String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |number: u64| if number == 1 { "" } else { "s" };
        match self {
            Obstacle::Temporary(number) => write!(f, "{number} temporary object{}", plural(*number)),
            Obstacle::Advisory(number) => write!(f, "{number} advisory lock{}", plural(*number)),
            Obstacle::Cursor(name) => write!(f, "a held cursor, {name:?}"),
            Obstacle::Prepared(name) => write!(f, "PREPARE {name:?} together with other statements"),
            Obstacle::User(user, login) => write!(f, "SET SESSION AUTHORIZATION {user:?}, after a login as {login:?}"),
        }
    }
}

/// The first part of a state that is not the same as in another one. Values are not in it: they may be secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    kind: String,
    name: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { kind, name } = self;
        match kind.as_str() {
            "setting" | "custom" | "reported" => write!(f, "setting {name:?}"),
            "prepared" => write!(f, "prepared statement {name:?}"),
            "channel" => write!(f, "LISTEN {name:?}"),
            "users" | "login" => f.write_str("its role"),
            _ => write!(f, "{kind} {name:?}"),
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

/// A prepared statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prepared<'s> {
    pub(super) name: &'s [u8],
    /// Its text; of a statement by `PREPARE` with that.
    pub(super) text: &'s [u8],
    /// Whether it was made by `PREPARE`, and not by the protocol.
    pub(super) is_by_sql: bool,
    /// The type numbers of its parameters, as the server writes arrays: `{23,25}`.
    types: &'s [u8],
}

impl Prepared<'_> {
    /// The type numbers of its parameters. `None` if they cannot be read.
    pub(super) fn parameter_types(&self) -> Option<Vec<u32>> {
        let list = std::str::from_utf8(self.types).ok()?.strip_prefix('{')?.strip_suffix('}')?;
        let types = list.split(',').filter(|number| !number.is_empty()).map(|number| number.parse().ok());
        types.collect()
    }
}

impl SessionState {
    /// Adds a row. False if it is none that the question asks for.
    pub(super) fn add(&mut self, columns: Row) -> bool {
        const KINDS: [&[u8]; 11] = [
            b"setting",
            b"custom",
            b"reported",
            b"prepared",
            b"channel",
            b"cursor",
            b"advisory",
            b"temporary",
            b"process",
            b"login",
            b"users",
        ];
        let is_known = KINDS.contains(&&*columns[0]);
        self.0.push(columns);
        is_known
    }

    /// Whether it has the rows that every answer has.
    pub(super) fn is_complete(&self) -> bool {
        let once = [&b"advisory"[..], b"temporary", b"process", b"login", b"users"];
        once.iter().all(|kind| self.rows(kind).count() == 1)
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
        let is_unknown = |prepared: &Prepared<'_>| prepared.is_by_sql && !sql_prepare::is_one_prepare(prepared.text);
        let unknown = self.prepared().filter(is_unknown);
        obstacles.extend(unknown.map(|prepared| Obstacle::Prepared(text(prepared.name))));
        if let (Some(users), Some(login)) = (self.rows(b"users").next(), self.rows(b"login").next())
            && users[1] != login[1]
        {
            obstacles.push(Obstacle::User(text(&users[1]), text(&login[1])));
        }
        obstacles
    }

    /// What would have to be restored.
    pub fn restorable(&self) -> Restorable {
        let by_sql = self.prepared().filter(|prepared| prepared.is_by_sql).count();
        Restorable {
            settings: self.settings().len(),
            prepared: self.prepared().count() - by_sql,
            prepared_by_sql: by_sql,
            channels: self.channels().count(),
            role: self.rows(b"users").any(|row| row[1] != row[2] || &*row[3] != b"none"),
        }
    }

    /// The settings of the session with their values, in the order of their names.
    pub(super) fn settings(&self) -> BTreeMap<&[u8], &[u8]> {
        let custom = self.rows(b"custom").filter(|row| &*row[3] == b"set");
        let of_session = self.rows(b"setting").filter(|row| row[3].starts_with(b"session "));
        custom.chain(of_session).map(|row| (&*row[1], &*row[2])).collect()
    }

    /// The role of `SET ROLE`, or `none`.
    pub(super) fn role(&self) -> &[u8] {
        self.rows(b"users").next().map_or(b"none", |row| &row[3])
    }

    /// The prepared statements.
    pub(super) fn prepared(&self) -> impl Iterator<Item = Prepared<'_>> {
        self.rows(b"prepared").map(|[_, name, text, more]| {
            let at = more.iter().position(|byte| *byte == b' ').unwrap_or(more.len());
            let is_by_sql = more.starts_with(b"t");
            Prepared { name, text, is_by_sql, types: more[at..].trim_ascii() }
        })
    }

    /// The channels that it listens on.
    pub(super) fn channels(&self) -> impl Iterator<Item = &[u8]> {
        self.rows(b"channel").map(|row| &*row[1])
    }

    /// The names of the settings with a dot that it has. Where the library that has defined one is not loaded, the server
    /// tells it only to those who ask for it by its name.
    pub fn custom_settings(&self) -> Vec<String> {
        self.settings().keys().filter(|name| name.contains(&b'.')).map(|name| text(name)).collect()
    }

    /// Whether the client has to be told that another server reports this value (`ParameterStatus`): it tells of the server
    /// and is another one than before, or it was not reported before. What belongs to the session is compared instead.
    pub fn is_news(&self, name: &[u8], value: &[u8]) -> bool {
        match self.rows(b"reported").find(|row| &*row[1] == name) {
            Some(row) => OF_THE_SERVER.contains(&name) && &*row[2] != value,
            None => true,
        }
    }

    /// Compares it with the state of another session, which has been made like it. `None` if they are the same: all but
    /// the process, and what tells of the server and not of the session.
    pub fn difference(&self, other: &SessionState) -> Option<Difference> {
        difference([self, other].map(SessionState::comparable))
    }

    /// The same without the channels on which they listen.
    pub fn difference_but_channels(&self, other: &SessionState) -> Option<Difference> {
        let mut both = [self, other].map(SessionState::comparable);
        both.iter_mut().for_each(|rows| rows.retain(|row| row[0] != b"channel"));
        difference(both)
    }

    fn comparable(&self) -> Rows<'_> {
        let is_compared = |row: &&Row| match &*row[0] {
            b"process" | b"custom" => false,
            b"setting" => !row[1].contains(&b'.'),
            b"reported" => !OF_THE_SERVER.contains(&&*row[1]),
            _ => true,
        };
        let compared = self.0.iter().filter(is_compared).map(|row| row.each_ref().map(|column| &**column));
        let dotted = self.settings().into_iter().filter(|(name, _)| name.contains(&b'.'));
        compared.chain(dotted.map(|(name, value)| [&b"custom"[..], name, value, b"set"])).collect()
    }

    fn rows<'a>(&'a self, kind: &'a [u8]) -> impl Iterator<Item = &'a Row> {
        self.0.iter().filter(move |row| &*row[0] == kind)
    }
}

/// Rows of a state, without their order.
type Rows<'a> = BTreeSet<[&'a [u8]; COLUMNS]>;

fn difference([mine, theirs]: [Rows<'_>; 2]) -> Option<Difference> {
    let row = mine.symmetric_difference(&theirs).next()?;
    Some(Difference { kind: text(row[0]), name: text(row[1]) })
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

    const FREE: [[&str; COLUMNS]; 5] = [
        ["advisory", "0", "", ""],
        ["temporary", "0", "", ""],
        ["process", "77", "", ""],
        ["login", "app", "", ""],
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
            ["setting", "work_mem", "5120", "session 4096"],
            ["setting", "search_path", "public", "user public"],
            ["custom", "app.tenant", "a", "set"],
            ["custom", "app.other", "", ""],
            ["prepared", "a", "select 1", "false {}"],
            ["prepared", "b", "prepare b as select 1", "true {}"],
            ["channel", "news", "", ""],
            ["users", "app", "other", "other"],
        ];
        let expected = Restorable { settings: 2, prepared: 1, prepared_by_sql: 1, channels: 1, role: true };
        assert_eq!(state(&rows).restorable(), expected);
    }

    #[test]
    fn a_statement_whose_text_is_not_its_own_and_another_user_are_obstacles() {
        let bound = [
            ["prepared", "a", "prepare a as select 1;", "true {}"],
            ["prepared", "b", "select 1; prepare b as select 1", "true {}"],
            ["prepared", "c", "select 1; this is the protocol's", "false {}"],
            ["login", "postgres", "", ""],
            ["users", "app", "app", "none"],
        ];
        let told: Vec<String> =
            state(&[&FREE[..3], &bound].concat()).obstacles().iter().map(ToString::to_string).collect();
        let expected = [
            "PREPARE \"b\" together with other statements",
            "SET SESSION AUTHORIZATION \"app\", after a login as \"postgres\"",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn states_are_compared_but_for_the_process_and_the_server() {
        let mine = [["setting", "work_mem", "7", "session 4"], ["reported", "server_version", "15", ""]];
        let of = |more: &[[&str; COLUMNS]]| state(&[&FREE[..], more].concat());
        let same = [["reported", "server_version", "18", ""], mine[0]];
        assert_eq!(of(&mine).difference(&of(&same)), None);
        for (other, told) in [
            (["setting", "work_mem", "8", "session 4"], "setting \"work_mem\""),
            (["setting", "work_mem", "7", "session 5"], "setting \"work_mem\""),
            (["reported", "TimeZone", "UTC", ""], "setting \"TimeZone\""),
        ] {
            let difference = of(&mine[..1]).difference(&of(&[other])).map(|difference| difference.to_string());
            assert!(difference.is_some_and(|difference| difference.starts_with("setting")), "{told}");
        }
        assert!(of(&mine).difference(&of(&[])).is_some(), "a setting that is missing");
        assert!(of(&[]).difference(&of(&mine)).is_some(), "a setting too many");
    }

    /// The same setting is told of in one way where a library has defined it, and in another where it is not loaded.
    #[test]
    fn a_setting_with_a_dot_is_the_same_whether_its_library_is_loaded_or_not() {
        let loaded = state(&[&FREE[..], &[["setting", "plpgsql.check_asserts", "off", "session on"]]].concat());
        let unloaded = state(&[&FREE[..], &[["custom", "plpgsql.check_asserts", "off", "set"]]].concat());
        assert_eq!(loaded.custom_settings(), ["plpgsql.check_asserts"]);
        assert_eq!(loaded.difference(&unloaded), None);
        let other = state(&[&FREE[..], &[["custom", "plpgsql.check_asserts", "on", "set"]]].concat());
        let difference = loaded.difference(&other).map(|difference| difference.to_string());
        assert_eq!(difference.as_deref(), Some("setting \"plpgsql.check_asserts\""));
    }
}
