//! Logging in again without a password: with PostgreSQL itself, the key of a role is learnt in passing and is good for a
//! login of pgvane's own, until the password changes.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pgvane::protocol::login_again::{Credential, LoggedIn, LoginAgain, LoginRefused, Step};
use pgvane::protocol::scram::{KEY_LENGTH, RoleKey, Verifier};
use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::messages::{PROTOCOL_3_0, startup};
use pgvane_loadtest::pgvane::{Pgvane, PgvaneBuilder};
use pgvane_loadtest::programs::Postgresql;
use pgvane_loadtest::wait;
use ring::{digest, hmac, pbkdf2};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, Config, NoTls};

use crate::certificates::Certificates;
use crate::command_line::OK;
use crate::metrics;
use crate::operators::Operator;
use crate::stage::pgvane_before;
use crate::wire::SOON;

/// What docs/switchover.md tells to put into PostgreSQL.
const FUNCTION: &str = include_str!("../../../config/carry-verifier.sql");

/// The answer of a server to a login with this key.
async fn log_in(server: SocketAddr, user: &str, credential: Credential) -> Result<LoggedIn, LoginRefused> {
    let mut stream = TcpStream::connect(server).await.expect("it listens");
    let packet = startup(PROTOCOL_3_0, &[("user", user), ("database", "app"), ("application_name", "again")]);
    stream.write_all(&packet).await.expect("is open");
    let mut login = LoginAgain::new(credential, b"eighteen of random");
    let mut bytes = [0; 4096];
    loop {
        let length = tokio::time::timeout(SOON, stream.read(&mut bytes)).await.expect("an answer").expect("is open");
        assert!(length > 0, "the server closed without a reason");
        match login.take(&bytes[..length]) {
            Step::Wait => {}
            Step::Send(answer) => stream.write_all(&answer).await.expect("is open"),
            Step::Done(session) => return Ok(session),
            Step::Refused(why) => return Err(why),
        }
    }
}

/// The key of a role, made of its password as its clients do, and of its verifier.
async fn key_of(superuser: &Client, role: &str, password: &str) -> RoleKey {
    let text = verifier_of(superuser, role).await;
    let [iterations, salt] = text.split(['$', ':']).skip(1).take(2).collect::<Vec<_>>()[..] else { panic!("{text}") };
    let mut salted = [0; KEY_LENGTH];
    let rounds: NonZeroU32 = iterations.parse().expect("a number");
    let salt = BASE64.decode(salt).expect("base64");
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.as_bytes(), &mut salted);
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let client_key = sign(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let mut proof: [u8; KEY_LENGTH] = client_key.as_ref().try_into().expect("32 bytes");
    proof.iter_mut().zip(sign(stored_key.as_ref(), b"exchange").as_ref()).for_each(|(byte, mask)| *byte ^= mask);
    let verifier = Verifier::parse(&text).expect("is one");
    verifier.role_key(b"exchange", &proof).expect("the password is right")
}

async fn verifier_of(superuser: &Client, role: &str) -> String {
    let row = superuser.query_one("select rolpassword from pg_authid where rolname = $1", &[&role]).await;
    row.expect("the role is there").get(0)
}

async fn lab_of(postgresql: Postgresql, nodes: usize) -> Lab {
    let lab = Lab::builder().postgresql(postgresql).nodes(nodes).hba("host all plain 127.0.0.1/32 password");
    lab.start().await.expect("a cluster")
}

async fn pgvane_logs_in_where_a_client_did(postgresql: Postgresql) {
    let lab = lab_of(postgresql, 2).await;
    let leader = lab.wait_for_leader(SOON).await.expect("a leader");
    let [leads, follows] = [leader, 1 - leader].map(|node| lab.nodes()[node].pg);
    let superuser = lab.connect_direct(leader).await.expect("a superuser's session");
    superuser.batch_execute("create role plain login password 'plain'").await.expect("a role");
    let scram = |key: RoleKey| Credential::Scram(Arc::new(key));
    let app = async || scram(key_of(&superuser, "app", "app").await);

    let session = log_in(leads, "app", app().await).await.expect("is let in");
    let reported = |name: &str| session.parameters.iter().any(|(reported, _)| **reported == *name.as_bytes());
    assert!(reported("server_version") && reported("in_hot_standby") && session.key.is_some(), "{session:?}");
    log_in(leads, Login::Trusting.user(), Credential::Nothing).await.expect("nothing is asked");

    let refused = async |server, user, credential| log_in(server, user, credential).await.expect_err("is refused");
    assert_eq!(refused(follows, "app", app().await).await, LoginRefused::InRecovery);
    assert_eq!(refused(leads, "app", Credential::Nothing).await, LoginRefused::NoKey);
    assert_eq!(refused(leads, Login::Trusting.user(), app().await).await, LoginRefused::NotAsked);
    let plaintext = LoginRefused::Method("the password in plaintext".to_owned());
    assert_eq!(refused(leads, "plain", Credential::Nothing).await, plaintext);
    // also the same password again: it gets another salt
    for password in ["app", "other"] {
        let old = app_key_before(&superuser, password).await;
        assert_eq!(refused(leads, "app", scram(old)).await, LoginRefused::PasswordChanged);
    }
    superuser.batch_execute("alter role app password null").await.expect("no password");
    let key = key_of(&superuser, "plain", "plain").await;
    assert_eq!(refused(leads, "app", scram(key)).await, LoginRefused::PasswordChanged, "an invented salt");
}

/// The key of `app` before its password is changed to this one.
async fn app_key_before(superuser: &Client, password: &str) -> RoleKey {
    let key = key_of(superuser, "app", "app").await;
    let change = format!("alter role app password '{password}'");
    superuser.batch_execute(&change).await.expect("a new password");
    key
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgvane_logs_in_with_a_roles_key_until_the_password_changes() {
    pgvane_logs_in_where_a_client_did(Postgresql::Packaged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "starts a cluster of its own: make test-long"]
async fn pgvane_logs_in_with_a_roles_key_to_postgresql_18() {
    pgvane_logs_in_where_a_client_did(Postgresql::Eighteen).await;
}

/// A session through pgvane; its connection ends with the client.
async fn client(pgvane: &Pgvane, user: &str, password: &str) -> Client {
    let address = pgvane.write_addr;
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(address.port())
        .user(user)
        .password(password)
        .dbname("app")
        .application_name(password);
    let (client, connection) = config.connect(NoTls).await.expect("is let in");
    tokio::spawn(connection);
    client
}

async fn dry_run(operator: &Operator) -> Value {
    let answer = operator.says(&["switchover", "--dry-run", "--json"]).await;
    answer.ended_with(OK);
    serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {}", answer.out))
}

/// The reasons that the dry run gives for a session with this application name; none if it could be carried.
fn why_not(run: &Value, application: &str) -> Vec<String> {
    let all = run["not_carried"].as_array().expect("is a list").iter();
    let found = all.filter(|one| one["session"]["application_name"] == application).flat_map(|one| {
        one["reasons"]
            .as_array()
            .expect("is a list")
            .iter()
            .map(|reason| reason.as_str().unwrap_or_default().to_owned())
    });
    found.collect()
}

/// Waits until the dry run gives these reasons for a session with this application name.
async fn wait_for_reasons(operator: &Operator, application: &str, expected: &[&str]) -> Value {
    let found = || async {
        let run = dry_run(operator).await;
        let reasons = why_not(&run, application);
        if reasons == expected { Ok(run) } else { Err(format!("{reasons:?}")) }
    };
    wait::until(&format!("{expected:?} as the reasons"), SOON, found).await.expect("they come")
}

const CARRY: &str = "park = true\ncarry = true\ncarry_settings = []\n\
                     carry_auth_query = \"select rolname, verifier from pgvane.verifier($1)\"\n\
                     sql = { user = \"vane\", password = \"vane\" }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_learnt_in_passing_and_the_dry_run_says_who_could_not_log_in_again() {
    let lab = lab_of(Postgresql::Packaged, 1).await;
    let superuser = lab.connect_direct(0).await.expect("a superuser's session");
    let roles = "create role plain login password 'plain'; create role vane login password 'vane'";
    superuser.batch_execute(roles).await.expect("the roles");
    let users = Operator::line(lab.directory());
    let configured = |pgvane: PgvaneBuilder| {
        pgvane.admin(&users).cluster(CARRY).top("[log]\nlevel = \"debug\"").read_listener("fallback = \"leader\"")
    };
    let pgvane = pgvane_before(&lab, configured).await;
    let operator = Operator::at(&pgvane, lab.directory());

    // the function is missing
    let first = client(&pgvane, "app", "app").await;
    let missing = "carry_auth_query has failed: schema \"pgvane\" does not exist (SQLSTATE 3F000)";
    wait_for_reasons(&operator, "app", &[missing]).await;
    metrics::wait_for(&pgvane, "pgvane_role_keys{cluster=\"main\",state=\"failed\"}", 1.0).await;
    superuser.batch_execute(&FUNCTION.replace("TO pgvane", "TO vane")).await.expect("the function");
    let _plain = client(&pgvane, "plain", "plain").await;
    let run = wait_for_reasons(&operator, "app", &[]).await;
    let plaintext = "its server asked for the password in plaintext, which pgvane cannot answer";
    assert_eq!((why_not(&run, "plain"), &run["carried"]), (vec![plaintext.to_owned()], &1.into()), "{run:#}");

    metrics::wait_for(&pgvane, "pgvane_role_keys{cluster=\"main\",state=\"known\"}", 1.0).await;

    // superusers are not for the function
    let _superuser = client(&pgvane, "postgres", "postgres").await;
    wait_for_reasons(&operator, "postgres", &["carry_auth_query gives no password for its role"]).await;

    // a changed password: sessions of the old one are not carried by the new one
    let before = verifier_of(&superuser, "app").await;
    superuser.batch_execute("alter role app password 'changed'").await.expect("a new password");
    let _second = client(&pgvane, "app", "changed").await;
    let run = wait_for_reasons(&operator, "changed", &[]).await;
    let changed = "the password of its role has been changed since its login";
    assert_eq!(why_not(&run, "app"), [changed], "{run:#}");

    nothing_secret_is_told(&pgvane, &operator, &[before, verifier_of(&superuser, "app").await]).await;
    let value: i32 = first.query_one("select 1", &[]).await.expect("the session goes on").get(0);
    assert_eq!(value, 1);
}

/// Neither verifiers nor keys are in the log, even at its most talkative, or in anything that pgvane answers.
async fn nothing_secret_is_told(pgvane: &Pgvane, operator: &Operator, verifiers: &[String]) {
    let mut told = vec![("log", pgvane.log_text()), ("dry run", dry_run(operator).await.to_string())];
    for path in ["/metrics", "/stats", "/api/status", "/api/sessions"] {
        told.push((path, pgvane.admin_get(path).await.expect("is served").body));
    }
    assert!(told.iter().all(|(_, text)| !text.is_empty()));
    assert!(told[0].1.contains("sessions of this role can log in again"), "the log is at its most talkative");
    for verifier in verifiers {
        let keys = verifier.split(['$', ':']).skip(2);
        for key in keys {
            let bytes = BASE64.decode(key).expect("is base64");
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            for form in [key.to_owned(), hex, format!("{bytes:?}")] {
                let found: Vec<_> =
                    told.iter().filter(|(_, text)| text.contains(&form)).map(|(what, _)| what).collect();
                assert!(found.is_empty(), "{form} is in {found:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_pgvanes_certificate_and_a_map_nothing_else_is_needed() {
    let files = Certificates::new();
    files.issue("pgvane", "pgvane.example.org");
    let lab = Lab::builder().nodes(1).tls().parameter("ssl_ca_file", &files.path("ca.pem"));
    let lab = lab.hba("hostssl all app 127.0.0.1/32 cert map=pgvane").start().await.expect("a cluster");
    let ident = lab.nodes()[0].data_directory().join("pg_ident.conf");
    std::fs::write(ident, "pgvane pgvane.example.org app\n").expect("is writable");
    let superuser = lab.connect_direct(0).await.expect("a superuser's session");
    superuser.batch_execute("select pg_reload_conf()").await.expect("reads it again");

    let users = Operator::line(lab.directory());
    let [certificate, key] = ["pgvane.pem", "pgvane.key"].map(|name| files.path(name));
    let tls = format!(
        "server_tls = {{ sslmode = \"require\", client_cert_file = \"{certificate}\", client_key_file = \"{key}\" }}"
    );
    let configured = |pgvane: PgvaneBuilder| {
        let carry = "park = true\ncarry = true\ncarry_settings = []";
        pgvane.admin(&users).cluster(carry).write_listener("tls = \"disable\"").write_listener(&tls)
    };
    let pgvane = pgvane_before(&lab, configured).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let app = client(&pgvane, "app", "any").await;
    let is_encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    assert!(app.query_one(is_encrypted, &[]).await.expect("is let in").get::<_, bool>(0));
    let run = dry_run(&operator).await;
    assert_eq!((why_not(&run, "any"), &run["carried"]), (vec![], &1.into()), "{run:#}");
}
