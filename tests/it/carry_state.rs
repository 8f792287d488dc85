//! The state of a session is asked for, restored on another connection to the same PostgreSQL, and compared: by cases, and
//! by random statements beside a twin session that is never carried. Without pgvane's process: the same code is called.

use pgvane::protocol::restoring::{Restored, Restoring};
use pgvane::protocol::session_question::{Answer, Question, Step};
use pgvane::protocol::session_state::SessionState;
use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::messages::{PROTOCOL_3_0, message, query, startup};
use pgvane_loadtest::programs::Postgresql;

use crate::stage::{PATRONI_WITHIN, sound_cluster_of};
use crate::wire::{Message, SOON, Session, Wire, in_time};

/// The settings with a dot that the statements of these tests set: one that nothing has defined, and one of a library that
/// may be loaded or not.
const CUSTOM: [&str; 2] = ["app.tenant", "plpgsql.check_asserts"];

fn custom_settings() -> Vec<String> {
    CUSTOM.map(str::to_owned).into()
}

/// A role that the test's role is a member of.
const ROLE: &str = "carried_role";

/// PostgreSQL, and the startup packet of every session.
struct Server {
    address: std::net::SocketAddr,
    startup: Vec<u8>,
}

/// Why a session was not carried.
#[derive(Debug)]
enum NotCarried {
    /// Known before.
    Obstacles(Vec<String>),
    /// Found out on the other server.
    Refused(String),
}

impl Server {
    async fn of(lab: &Lab) -> Server {
        let leader = lab.wait_for_leader(PATRONI_WITHIN).await.expect("a leader");
        let server = Server {
            address: lab.nodes()[leader].pg,
            startup: startup(
                PROTOCOL_3_0,
                &[("user", "trusting"), ("database", "app"), ("options", "-c search_path=public -c work_mem=5MB")],
            ),
        };
        server
            .superuser(&format!(
                "do $$ begin create role {ROLE}; exception when duplicate_object then null; end $$; \
                 grant {ROLE} to trusting; alter role trusting reset all"
            ))
            .await;
        let owner = Login::App.connect(server.address, SOON).await.expect("a session");
        let table = "create table if not exists carried_once (number integer); grant all on carried_once to trusting; \
                     grant create on schema public to trusting";
        in_time("a table", owner.batch_execute(table)).await.expect("is created");
        server
    }

    async fn superuser(&self, statements: &str) {
        let client = Login::Superuser.connect(self.address, SOON).await.expect("a session");
        in_time("statements of a superuser", client.batch_execute(statements)).await.expect("no error");
    }

    async fn session(&self) -> Session {
        Wire::to(self.address).await.log_in(&self.startup).await
    }

    /// Another session with the same state; the old one ends.
    async fn carry(&self, mut session: Session) -> Result<Session, NotCarried> {
        let names = custom_settings();
        let state = ask(&mut session, &names).await.map_err(|why| NotCarried::Refused(why.to_string()))?;
        let obstacles: Vec<String> = state.obstacles().iter().map(ToString::to_string).collect();
        if !obstacles.is_empty() {
            return Err(NotCarried::Obstacles(obstacles));
        }
        let mut other = self.session().await;
        restore(&state, &mut other).await.map_err(NotCarried::Refused)?;
        let names = [names, state.custom_settings()].concat();
        let restored = ask(&mut other, &names).await.map_err(|why| NotCarried::Refused(why.to_string()))?;
        match state.difference(&restored) {
            None => Ok(other),
            Some(difference) => Err(NotCarried::Refused(format!("not the same: {difference}"))),
        }
    }
}

async fn ask(session: &mut Session, names: &[String]) -> Answer {
    session.wire.send(&Question::request(names)).await;
    let (mut question, mut for_client) = (Question::default(), Vec::new());
    loop {
        let Message { kind, body } = session.wire.message().await.expect("the session is open");
        match question.take(&message(kind, &body), &mut for_client) {
            Step::Wait => {}
            Step::Send(request) => session.wire.send(&request).await,
            Step::Done(answer) => return answer,
        }
    }
}

async fn restore(state: &SessionState, session: &mut Session) -> Result<(), String> {
    let mut restoring = Restoring::new(state).map_err(|why| why.to_string())?;
    session.wire.send(restoring.request()).await;
    loop {
        let Message { kind, body } = session.wire.message().await.expect("the session is open");
        if let Restored::Done(outcome) = restoring.take(&message(kind, &body), &mut Vec::new()) {
            return outcome.map_err(|why| why.to_string());
        }
    }
}

/// `Parse` of a statement with a name, and `Sync`.
fn parse(name: &str, text: &str, types: &[u32]) -> Vec<u8> {
    let mut body = format!("{name}\0{text}\0").into_bytes();
    body.extend((types.len() as u16).to_be_bytes());
    types.iter().for_each(|number| body.extend(number.to_be_bytes()));
    [message(b'P', &body), message(b'S', b"")].concat()
}

/// What the client sees of an answer: not what tells of the process, or comes by itself.
fn seen(answer: Vec<Message>) -> Vec<Message> {
    answer.into_iter().filter(|message| !b"AS".contains(&message.kind)).collect()
}

// ---- cases ----------------------------------------------------------------------------------------------------------

async fn every_kind_is_restored(postgresql: Postgresql) {
    let lab = sound_cluster_of(postgresql).await;
    let server = Server::of(&lab).await;
    let mut session = server.session().await;
    for statement in [
        "set application_name = 'a \"quoted\" name'",
        "set work_mem = '7MB'",
        "set search_path = \"$user\", public, \"odd \"\" name\"",
        "set datestyle = 'German'",
        "set time zone interval '+02:00' hour to minute",
        "set intervalstyle = 'sql_standard'",
        "set default_transaction_isolation = 'serializable'",
        "set app.tenant = 'it''s \\ mine'",
        "set client_encoding = 'latin1'",
        "-- its own\nprepare /* by sql */ mine (integer, text) as select $1 + 1, $2 || ';'",
        "listen \"odd \"\" channel\"",
        "listen news",
    ] {
        session.ask(statement).await;
    }
    session.ask(&format!("set role {ROLE}")).await;
    session.wire.send(&parse("theirs", "select $1 || 'x', $2", &[0, 20])).await;
    session.wire.messages_until(b'Z').await;
    // bytes of LATIN1, which are not of UTF-8
    let latin = [b"prepare latin as select '\xe4\xf6'".as_slice(), b"\0"].concat();
    session.wire.send(&message(b'Q', &latin)).await;
    session.wire.messages_until(b'Z').await;

    let before = ask(&mut session, &custom_settings()).await.expect("is answered");
    let restorable = before.restorable();
    assert_eq!((restorable.settings, restorable.prepared, restorable.prepared_by_sql), (9, 1, 2), "{before:?}");
    assert_eq!((restorable.channels, restorable.role), (2, true));
    let mut carried = server.carry(session).await.expect("can be carried");
    for (question, expected) in [
        ("show application_name", "a \"quoted\" name"),
        ("show work_mem", "7MB"),
        ("show search_path", "\"$user\", public, \"odd \"\" name\""),
        ("show datestyle", "German, DMY"),
        ("show default_transaction_isolation", "serializable"),
        ("show app.tenant", "it's \\ mine"),
        ("show client_encoding", "LATIN1"),
        ("execute mine (41, 'a')", "42"),
        ("select current_user", ROLE),
        ("select session_user", "trusting"),
    ] {
        let answer = carried.ask(question).await;
        let row =
            answer.iter().find(|message| message.kind == b'D').unwrap_or_else(|| panic!("{question}: {answer:?}"));
        let length = u32::from_be_bytes(row.body[2..6].try_into().expect("four bytes")) as usize;
        assert_eq!(String::from_utf8_lossy(&row.body[6..6 + length]), expected, "{question}");
    }
    let answer = carried.ask("execute latin").await;
    assert!(answer.iter().any(|message| message.kind == b'D' && message.body.ends_with(b"\xe4\xf6")), "{answer:?}");
    let bound =
        [message(b'B', b"\0theirs\0\0\0\0\x02\0\0\0\x01a\0\0\0\x017\0\0"), message(b'E', b"\0\0\0\0\0")].concat();
    carried.wire.send(&[bound, message(b'S', b"")].concat()).await;
    let answer = carried.wire.messages_until(b'Z').await;
    assert!(answer.iter().any(|message| message.kind == b'D' && message.body.ends_with(b"\x017")), "{answer:?}");
    carried.ask("reset role").await;
    carried.ask("reset work_mem").await;
    assert_eq!(carried.value("show work_mem").await, "5MB", "of the startup packet");
    carried.ask("notify \"odd \"\" channel\", 'all is well'").await;
    let mut another = server.session().await;
    another.ask("notify news").await;
    assert_eq!(carried.wire.message().await.expect("it listens").kind, b'A');

    // nothing of pgvane's is left, and no unnamed statement
    let names = carried.value("select string_agg(name, ' ' order by name) from pg_prepared_statements").await;
    assert_eq!(names, "latin mine theirs");
    carried.wire.send(&[message(b'B', b"\0\0\0\0\0\0\0\0"), message(b'S', b"")].concat()).await;
    let refused = carried.wire.messages_until(b'Z').await;
    assert_eq!(refused[0].sqlstate().as_deref(), Some("26000"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_state_is_restored_and_works() {
    every_kind_is_restored(Postgresql::Packaged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_state_is_restored_and_works_with_postgresql_18() {
    every_kind_is_restored(Postgresql::Eighteen).await;
}

/// `pg_prepared_statements` has the whole text of the client: sent again, it would insert again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stood_beside_a_prepare_is_never_executed_again() {
    let lab = sound_cluster_of(Postgresql::Packaged).await;
    let server = Server::of(&lab).await;
    for text in [
        "insert into carried_once values (1); prepare mine as select 1",
        "prepare mine as select 1; insert into carried_once values (1)",
        "do $$ begin execute 'prepare mine as select 1; insert into carried_once values (1)'; end $$",
    ] {
        let mut session = server.session().await;
        session.ask("truncate carried_once").await;
        session.ask(text).await;
        let state = ask(&mut session, &[]).await.expect("is answered");
        assert_eq!(state.restorable().prepared_by_sql, 1, "{text}");
        // also without the look before: the server itself refuses two statements
        let mut other = server.session().await;
        let forced = restore(&state, &mut other).await.expect_err(text);
        assert!(forced.contains("prepared statement \"mine\"") || forced.contains("multiple commands"), "{forced}");
        let refused = server.carry(session).await.err();
        assert!(matches!(&refused, Some(NotCarried::Obstacles(_))), "{text}: {refused:?}");
        assert_eq!(other.value("select count(*) from carried_once").await, "1", "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_made_the_same_is_refused_with_its_reason() {
    let lab = sound_cluster_of(Postgresql::Packaged).await;
    let server = Server::of(&lab).await;
    // a table that is there no more
    let mut session = server.session().await;
    session.ask("create table carried_gone (number integer); ").await;
    session.wire.send(&parse("mine", "select number from carried_gone", &[])).await;
    session.wire.messages_until(b'Z').await;
    session.ask("drop table carried_gone").await;
    let refused = format!("{:?}", server.carry(session).await.err());
    assert!(refused.contains("mine") && refused.contains("does not exist"), "{refused}");
    // a setting of the role that has been changed since the login: RESET would give another value
    for (before, change) in [
        ("select 1", "alter role trusting set statement_timeout = '1h'"),
        ("set statement_timeout = '2h'", "alter role trusting set statement_timeout = '3h'"),
    ] {
        let mut session = server.session().await;
        session.ask(before).await;
        server.superuser(change).await;
        let refused = format!("{:?}", server.carry(session).await.err());
        server.superuser("alter role trusting reset all").await;
        assert!(refused.contains("setting") && refused.contains("statement_timeout"), "{refused}");
    }
    for (state, why) in [
        ("create temporary table mine (number integer)", "1 temporary object"),
        ("select pg_advisory_lock(7)", "1 advisory lock"),
        ("begin; declare mine cursor with hold for select 1; commit", "a held cursor"),
    ] {
        let mut session = server.session().await;
        session.ask(state).await;
        let refused = format!("{:?}", server.carry(session).await.err());
        assert!(refused.contains(why), "{state}: {refused}");
    }
}

// ---- the model ------------------------------------------------------------------------------------------------------

/// Number of seeds, and of statements for each.
const SEEDS: u64 = 40;
const STATEMENTS: usize = 60;

const SETTINGS: [(&str, &[&str]); 14] = [
    ("work_mem", &["'6MB'", "'7MB'", "default"]),
    ("search_path", &["public", "\"$user\", public", "pg_catalog", "'', public"]),
    ("app.tenant", &["'a'", "'b''c'", "''"]),
    ("datestyle", &["'German'", "'ISO, DMY'"]),
    ("timezone", &["'UTC'", "'Europe/Berlin'", "-3.5"]),
    ("intervalstyle", &["'iso_8601'", "'postgres'"]),
    ("application_name", &["'one'", "'two words'"]),
    ("client_encoding", &["'latin1'", "'utf8'"]),
    ("default_transaction_isolation", &["'repeatable read'", "'read committed'"]),
    ("default_transaction_read_only", &["on", "off"]),
    ("extra_float_digits", &["3", "0"]),
    ("statement_timeout", &["'1h'", "0"]),
    ("standard_conforming_strings", &["off", "on"]),
    ("plpgsql.check_asserts", &["off", "on"]),
];

/// A statement of which neither the effect nor the answer depends on chance.
fn statement(chance: &mut fastrand::Rng) -> Vec<u8> {
    let (setting, values) = SETTINGS[chance.usize(..SETTINGS.len())];
    let (value, name, channel) = (values[chance.usize(..values.len())], chance.u32(0..4), chance.u32(0..3));
    query(&match chance.u32(0..34) {
        0..=5 => format!("set {setting} = {value}"),
        6 => format!("set local {setting} = {value}"),
        7 => format!("reset {setting}"),
        8 => format!("show {setting}"),
        9 => "reset all".to_owned(),
        10 => "discard all".to_owned(),
        11 => ["discard plans", "discard sequences", "discard temp"][name as usize % 3].to_owned(),
        12 | 13 => format!("prepare s{name} (integer) as select $1 + {name}, 'a;b'"),
        14 => format!("prepare s{name} as select current_setting('work_mem'); -- {name}"),
        15 => format!("set extra_float_digits = 1; prepare s{name} as select 1"),
        16 => format!("deallocate s{name}"),
        17 => "deallocate all".to_owned(),
        18 => return parse(&format!("s{name}"), "select $1, $2 || 'x' from pg_class limit $3", &[23]),
        19 => return parse(&format!("s{name}"), "show work_mem", &[]),
        20 => return [message(b'C', format!("Ss{name}\0").as_bytes()), message(b'S', b"")].concat(),
        21 => format!("execute s{name} (7)"),
        22 => format!("execute s{name}"),
        23 => format!("listen c{channel}"),
        24 => format!("unlisten c{channel}"),
        25 => "unlisten *".to_owned(),
        26 => format!("set role {ROLE}"),
        27 => ["reset role", "set role none", "set session authorization default"][name as usize % 3].to_owned(),
        28 | 29 => "begin".to_owned(),
        30 => "commit".to_owned(),
        31 => ["rollback", "savepoint here", "rollback to here", "release here"][name as usize].to_owned(),
        32 => "select 1 / 0".to_owned(),
        _ => "select current_user, session_user, count(*) from pg_prepared_statements".to_owned(),
    })
}

/// What became of one seed.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    CarriedTimes(usize),
    /// Known before, or found out.
    Refused(String),
}

async fn beside_a_twin(server: &Server, seed: u64) -> Fate {
    let mut chance = fastrand::Rng::with_seed(seed);
    let (mut session, mut twin) = (server.session().await, server.session().await);
    let (mut times, mut history) = (0, Vec::new());
    for _ in 0..STATEMENTS {
        let statement = statement(&mut chance);
        history.push(String::from_utf8_lossy(&statement).into_owned());
        let mut answers = Vec::new();
        for one in [&mut session, &mut twin] {
            one.wire.send(&statement).await;
            answers.push(seen(one.wire.messages_until(b'Z').await));
        }
        assert_eq!(answers[0], answers[1], "seed {seed}: {history:#?}");
        let is_idle = answers[0].last().is_some_and(|ready| ready.body == b"I");
        if is_idle && chance.u32(0..5) == 0 {
            history.push("carried".to_owned());
            session = match server.carry(session).await {
                Ok(carried) => carried,
                Err(NotCarried::Obstacles(obstacles)) => {
                    assert!(obstacles.iter().all(|why| why.starts_with("PREPARE")), "seed {seed}: {obstacles:?}");
                    return Fate::Refused(obstacles.join(", "));
                }
                Err(NotCarried::Refused(why)) => panic!("seed {seed}: {why}: {history:#?}"),
            };
            times += 1;
            let names = custom_settings();
            let [mine, theirs] = [ask(&mut session, &names).await, ask(&mut twin, &names).await];
            let [mine, theirs] = [mine, theirs].map(|answer| answer.expect("is answered"));
            assert_eq!(mine.difference(&theirs), None, "seed {seed}: {history:#?}\n{mine:?}\n{theirs:?}");
        }
    }
    Fate::CarriedTimes(times)
}

/// `PGVANE_CARRY_SEED=4711` runs one seed again, `PGVANE_CARRY_SEEDS=1000` more of them.
async fn seeds_beside_a_twin(postgresql: Postgresql) {
    let lab = sound_cluster_of(postgresql).await;
    let server = Server::of(&lab).await;
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("PGVANE_CARRY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PGVANE_CARRY_SEEDS").unwrap_or(SEEDS),
    };
    let (mut carried, mut refused) = (0, 0);
    for seed in seeds {
        match beside_a_twin(&server, seed).await {
            Fate::CarriedTimes(times) => carried += times,
            Fate::Refused(_) => refused += 1,
        }
    }
    println!("carried {carried} times, {refused} seeds ended with a refusal");
    assert!(carried > refused, "the statements leave too little to carry: {carried}, {refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_carried_again_and_again_is_the_same_as_its_twin() {
    seeds_beside_a_twin(Postgresql::Packaged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: make test-long"]
async fn a_session_that_is_carried_again_and_again_is_the_same_as_its_twin_with_postgresql_18() {
    seeds_beside_a_twin(Postgresql::Eighteen).await;
}
