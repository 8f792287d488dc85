//! HAProxy's runtime API on a UNIX socket: what scripts ask, and the answers held beside HAProxy's own.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgvane_loadtest::pgvane::{Pgvane, PgvaneBuilder};
use pgvane_loadtest::process::Process;
use pgvane_loadtest::{ports, programs, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::fake::FakeCluster;
use crate::figures::{status, wait_for_status};
use crate::metrics;
use crate::operators::session_on;
use crate::reload::{REFUSED, RELOADED, hangup, text_of, write};
use crate::wire::{SOON, Session, in_time};

/// The line for `[admin]` with a socket of this level.
fn line(path: &Path, level: &str) -> String {
    format!("sockets = [{{ path = \"{}\", level = \"{level}\" }}]", path.display())
}

fn socket_in(cluster: &FakeCluster) -> PathBuf {
    cluster.directory().join("admin.sock")
}

/// A pgvane with a socket of this level, whose readers have replicas only.
async fn with_socket(cluster: &FakeCluster, level: &str) -> (Pgvane, PathBuf) {
    let path = socket_in(cluster);
    let configured = |pgvane: PgvaneBuilder| pgvane.admin(&line(&path, level)).read_listener("fallback = \"none\"");
    (cluster.pgvane(configured).await, path)
}

/// Sends text, and returns everything that comes until the socket is closed.
async fn ask(path: &Path, text: &str) -> String {
    in_time("an answer", try_to_ask(path, text)).await.unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

async fn try_to_ask(path: &Path, text: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(text.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The answer to one command, without the empty line behind it.
async fn command(path: &Path, command: &str) -> String {
    let answer = ask(path, &format!("{command}\n")).await;
    answer.strip_suffix('\n').unwrap_or_else(|| panic!("no empty line behind {command:?}: {answer:?}")).to_owned()
}

// ---- beside HAProxy -------------------------------------------------------------------------------------------------

/// HAProxy with a socket, and the same listeners and nodes as pgvane, which do not exist.
async fn haproxy(directory: &Path) -> (Process, PathBuf) {
    let (socket, [write, read]) = (directory.join("haproxy.sock"), [ports::free(), ports::free()]);
    let [write, read] = [write, read].map(|port| port.expect("a port"));
    let nodes = "    server node1 127.0.0.1:1 weight 100\n    server node2 127.0.0.1:2 weight 100\n";
    let text = format!(
        "global\n    stats socket {} level admin\n    maxconn 100\ndefaults\n    mode tcp\n    timeout client 30m\n    \
         timeout connect 4s\n    timeout server 30m\nlisten write\n    bind {write}\n{nodes}listen read\n    bind \
         {read}\n{nodes}",
        socket.display()
    );
    let file = directory.join("haproxy.cfg");
    std::fs::write(&file, text).expect("is writable");
    let mut start = Command::new(programs::on_path("haproxy").expect("HAProxy is installed"));
    start.arg("-db").arg("-f").arg(&file);
    let process = Process::start("haproxy", start, directory, &file.with_extension("log")).expect("starts");
    let answers = || async { UnixStream::connect(&socket).await.map(drop).map_err(|error| error.to_string()) };
    wait::until("HAProxy to answer", SOON, answers).await.unwrap_or_else(|error| panic!("{error}"));
    (process, socket)
}

#[tokio::test]
async fn answers_are_those_of_haproxy_itself() {
    let cluster = FakeCluster::of(2).await;
    let (_pgvane, own) = with_socket(&cluster, "admin").await;
    let (_process, other) = haproxy(cluster.directory()).await;
    for text in [
        "get weight write/node2\n",
        "get weight #3/#2\n",
        "get weight write\n",
        "get weight\n",
        "get weight x/node1\n",
        "get weight write/x\n",
        "set weight write/node2\n",
        "set weight write/node2 x\n",
        "set weight write/node2 7x\n",
        "set weight x/y 5\n",
        "set weight read/node2 50%;get weight read/node2\n",
        "set weight read/node2 7;get weight read/node2\n",
        "set server read/node2 weight 200;get weight read/node2\n",
        "set weight read/node2 100%;get weight read/node2\n",
        "set server\n",
        "set server x/y state drain\n",
        "set server read/node2 state\n",
        "set server read/node2 state down\n",
        "set server read/node2 state drain; set server read/node2 state ready\n",
        "disable server read/node2; enable server read/node2\n",
        "disable server\n",
        "disable server read\n",
        "disable server read/x\n",
        "enable server x/node2\n",
        "shutdown session\n",
        "shutdown session zz\n",
        "shutdown session 0xfffffff\n",
        "shutdown sessions server read/node2\n",
        "shutdown sessions server x/node2\n",
        "shutdown sessions server\n",
        "show stat nope 4 -1\n",
        "show servers state nope\n",
        "show servers conn nope\n",
        "show sess 0xfffffff\n",
        "show cli level\n",
        "show backend\n",
        "  show \t backend\n",
        "show cli level;show backend\n",
        "show cli level\nshow backend\n",
        "show cli level\r\n",
        "operator;show cli level;disable server read/node2\n",
        "user;show cli level;show sess\n",
        "user;operator\n",
        "prompt;show cli level;quit\n",
        "prompt\nshow cli level\nprompt\nshow cli level\n",
        "set timeout cli\n",
        "set timeout cli x\n",
        "set timeout cli 5\n",
        "quit\n",
    ] {
        assert_eq!(ask(&own, text).await, ask(&other, text).await, "{text:?}");
    }
}

#[tokio::test]
async fn statistics_have_haproxys_columns_and_their_values() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, own) = with_socket(&cluster, "user").await;
    let (_process, other) = haproxy(cluster.directory()).await;
    let _session = session_on(pgvane.read_addr, "node2").await;
    wait_for_status(&pgvane, "a session", |status| status["listeners"][1]["sessions"] == 1).await;
    let first_lines = async |command_line: &str| {
        let [own, other] = [command(&own, command_line).await, command(&other, command_line).await];
        (own.lines().next().expect("a line").to_owned(), other.lines().next().expect("a line").to_owned())
    };
    // behind the column `-` HAProxy has columns of its modules
    let (own_head, other_head) = first_lines("show stat").await;
    assert!(own_head.starts_with("# pxname,svname,") && other_head.starts_with(&own_head), "{own_head}\n{other_head}");
    assert_eq!(command(&own, "show stat").await, pgvane.admin_get("/stats;csv").await.expect("is served").body);
    for (command_line, lines) in [
        ("show stat read 4 -1", &["read,node1,", "read,node2,"][..]),
        ("show stat 3 4 2", &["read,node2,"]),
        ("show stat -1 3 -1", &["write,FRONTEND,", "write,BACKEND,", "read,FRONTEND,", "read,BACKEND,"]),
        ("show stat 9 -1 -1", &[]),
    ] {
        for socket in [&own, &other] {
            let answer = command(socket, command_line).await;
            let seen: Vec<&str> = answer.lines().skip(1).collect();
            assert_eq!(seen.len(), lines.len(), "{command_line}: {answer}");
            assert!(seen.iter().zip(lines).all(|(seen, line)| seen.starts_with(line)), "{command_line}: {answer}");
        }
    }
    let state = command(&own, "show servers state read").await;
    let states: Vec<&str> = state.lines().collect();
    let other_state = command(&other, "show servers state read").await;
    let other_states: Vec<&str> = other_state.lines().collect();
    assert_eq!(states[..2], other_states[..2], "the version and the names of the columns");
    assert_eq!(states[3].split(' ').count(), other_states[3].split(' ').count(), "{}\n{}", states[3], other_states[3]);
    let postgres = cluster[1].postgres.address();
    let begin = format!("3 read 2 node2 {} 2 0 100 100 ", postgres.ip());
    assert!(states[3].starts_with(&begin), "{state}");
    assert!(states[3].ends_with(&format!(" 15 3 4 6 0 0 0 - {} - 0 0 - - 0", postgres.port())), "{state}");
    let conn = command(&own, "show servers conn read").await;
    let begin = format!("read/node2 3/2 {} {} - 0 1 1 1 ", postgres.ip(), postgres.port());
    assert!(conn.lines().any(|line| line.starts_with(&begin)), "{conn}");
    let (own_head, other_head) = first_lines("show servers conn").await;
    let columns = |head: &str| head.split(" idle_per_thr").next().unwrap_or_default().to_owned();
    assert_eq!(columns(&own_head), columns(&other_head));

    // every field of `show info` is at HAProxy's place, with HAProxy's tags and type
    let places = |typed: &str| {
        let place = |line: &str| line.splitn(4, ':').take(3).collect::<Vec<_>>().join(":");
        typed.lines().map(place).collect::<Vec<String>>()
    };
    let known = places(&command(&other, "show info typed").await);
    let typed = places(&command(&own, "show info typed").await);
    let wrong: Vec<&String> = typed.iter().filter(|place| !known.contains(place)).collect();
    assert!(wrong.is_empty() && typed.len() > 20, "{wrong:?}");
    let info = command(&own, "show info").await;
    assert!(info.contains(&format!("\nPid: {}\n", pgvane.process_id())) && info.contains("\nCurrConns: 1\n"), "{info}");
    let json: serde_json::Value = serde_json::from_str(&command(&own, "show stat json").await).expect("is JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(8), "two listeners with a frontend, two servers and a backend");
}

#[tokio::test]
async fn socat_shows_the_answer_of_a_script() {
    let socat = programs::on_path("socat").expect("socat is installed");
    let cluster = FakeCluster::of(1).await;
    let (_pgvane, path) = with_socket(&cluster, "user").await;
    for (text, expected) in [("show cli level\n", "user\n\n"), ("show cli level", "user\n\n")] {
        let script = format!("printf '{text}' | {} stdio unix-connect:{}", socat.display(), path.display());
        let output = tokio::process::Command::new("sh").args(["-c", &script]).output().await.expect("runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
    }
}

// ---- changes --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_script_drains_a_node_and_the_record_says_who_did_it() {
    let cluster = FakeCluster::of(3).await;
    let (pgvane, path) = with_socket(&cluster, "admin").await;
    let idle = session_on(pgvane.read_addr, "node2").await;
    assert_eq!(command(&path, "set server read/node2 state drain").await, "");
    assert_eq!(idle.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
    for _ in 0..4 {
        assert_eq!(Session::through(pgvane.read_addr).await.value("who").await, "node3");
    }
    let changed = &status(&pgvane).await["operators"][0];
    assert_eq!(changed["what"], "node2 of main: drain (was ready)");
    assert_eq!(changed["from"], format!("unix:{}", path.display()));
    let user = changed["user"].as_str().expect("a name");
    assert!(!user.is_empty() && user != "?", "{changed}");
    assert!(command(&path, "show servers state read").await.contains(" node2 127.0.0.1 2 8 "));
    assert_eq!(command(&path, "enable server main/node2").await, "", "the name of the cluster is good too");
    session_on(pgvane.read_addr, "node2").await;
    assert_eq!(command(&path, "set weight read/node2 50%").await, "");
    assert_eq!(metrics::value(&pgvane, "pgvane_node_weight{cluster=\"main\",node=\"node2\"}").await, 50.0);
    assert!(command(&path, "set weight read/node2 0").await.contains("state drain"));
    assert!(command(&path, "set weight read/node2 10001").await.contains("between 1 and 10000"));
}

#[tokio::test]
async fn the_leader_is_taken_out_of_service_only_if_the_script_says_so() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, path) = with_socket(&cluster, "admin").await;
    let state = "pgvane_node_admin_state{cluster=\"main\",node=\"node1\",state=\"maint\"}";
    for careless in ["disable server write/node1", "set server write/node1 state maint"] {
        let answer = command(&path, careless).await;
        assert!(answer.contains("node1 is the leader") && answer.contains("the word 'leader'"), "{answer}");
        assert_eq!(metrics::value(&pgvane, state).await, 0.0, "{careless}");
    }
    assert_eq!(command(&path, "set server write/node1 state maint leader").await, "");
    assert_eq!(metrics::value(&pgvane, state).await, 1.0);
    assert_eq!(command(&path, "enable server write/node1").await, "");
    assert_eq!(command(&path, "disable server write/node1 leader").await, "");
    assert_eq!(metrics::value(&pgvane, state).await, 1.0);
}

#[tokio::test]
async fn sessions_are_listed_and_ended_one_by_one_and_by_server() {
    let cluster = FakeCluster::of(2).await;
    let path = socket_in(&cluster);
    let other = ports::free().expect("a port");
    let more =
        format!("[[listener]]\nname = \"reports\"\nbind = \"{other}\"\ntarget = \"replica\"\nfallback = \"none\"\n");
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(&line(&path, "admin")).more(&more)).await;
    let first = session_on(pgvane.read_addr, "node2").await;
    let second = session_on(pgvane.read_addr, "node2").await;
    let mut elsewhere = session_on(other, "node2").await;
    wait_for_status(&pgvane, "three sessions", |status| status["clusters"][0]["nodes"][1]["sessions"] == 3).await;

    let listed = command(&path, "show sess").await;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    let (id, rest) = lines[0].split_once(": ").expect("a number");
    assert!(rest.starts_with("proto=tcpv4 src=127.0.0.1:"), "{listed}");
    assert!(rest.contains(" fe=read be=read srv=node2 ts=00 epoch=0 age="), "{listed}");
    assert!(rest.contains("user=\"trusting\" database=\"app\""), "{listed}");
    assert_eq!(command(&path, &format!("show sess {id}")).await.lines().count(), 1);

    assert_eq!(command(&path, &format!("shutdown session {id}")).await, "");
    assert_eq!(first.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
    wait_for_status(&pgvane, "two sessions", |status| status["clusters"][0]["nodes"][1]["sessions"] == 2).await;
    assert_eq!(command(&path, &format!("shutdown session {id}")).await, "No such session (use 'show sess').\n");
    assert_eq!(command(&path, "shutdown sessions server read/node2").await, "");
    assert_eq!(second.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
    assert_eq!(elsewhere.value("who").await, "node2", "the sessions of another listener stay");
    assert_eq!(command(&path, "shutdown sessions server main/node2").await, "");
    assert_eq!(elsewhere.wire.fatal().await.sqlstate().as_deref(), Some("57P01"), "a cluster's name means all of them");
}

#[tokio::test]
async fn a_socket_allows_what_its_level_allows() {
    let cluster = FakeCluster::of(2).await;
    for (level, shows_sessions) in [("user", false), ("operator", true)] {
        let (pgvane, path) = with_socket(&cluster, level).await;
        assert_eq!(command(&path, "show cli level").await, format!("{level}\n"));
        for change in [
            "set server read/node2 state maint",
            "set weight read/node2 5",
            "disable server read/node2",
            "enable server read/node2",
            "shutdown session 0x1",
            "shutdown sessions server read/node2",
        ] {
            assert_eq!(command(&path, change).await, "Permission denied\n", "{level}: {change}");
        }
        let sessions = command(&path, "show sess").await;
        assert_eq!(sessions, if shows_sessions { "" } else { "Permission denied\n" });
        assert_eq!(status(&pgvane).await["operators"].as_array().map(Vec::len), Some(0), "nothing has changed");
    }
}

// ---- the socket itself ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn input_and_idle_time_are_bounded() {
    let cluster = FakeCluster::of(1).await;
    let path = socket_in(&cluster);
    let short = line(&path, "user").replace(" }]", ", idle_timeout = \"300ms\" }]");
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(&short)).await;
    let endless = ask(&path, &"x".repeat(16_384)).await;
    assert_eq!(endless, "The command is too long.\n\n");
    assert_eq!(ask(&path, "prompt\n").await, "\n> ", "who sends nothing is disconnected");
    assert_eq!(ask(&path, "show").await, "", "also in the middle of a line");
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(UnixStream::connect(&path).await.expect("is accepted"));
    }
    let answers = || async {
        match try_to_ask(&path, "show cli level\n").await {
            Ok(answer) if answer == "user\n\n" => Ok(()),
            other => Err(format!("{other:?}")), // a connection too many is closed
        }
    };
    wait::until("an answer beside thirty silent clients", SOON, answers)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(pgvane.admin_get("/healthz").await.expect("is served").status, 200);
}

#[tokio::test]
async fn a_socket_that_is_in_use_is_left_alone_and_a_stale_one_is_replaced() {
    let cluster = FakeCluster::of(1).await;
    let path = socket_in(&cluster);
    let owner = UnixListener::bind(&path).expect("a socket");
    let mut refused = cluster.spawn_pgvane(|pgvane| pgvane.admin(&line(&path, "user")));
    assert!(!refused.wait(SOON).await.expect("it ends").success());
    let told = format!("[[admin.sockets]] cannot listen on unix:{}", path.display());
    assert!(refused.log_text().contains(&told), "{}", refused.log_text());
    drop(owner); // its file stays

    let (pgvane, path) = with_socket(&cluster, "user").await;
    assert_eq!(command(&path, "show cli level").await, "user\n");
    let file = std::fs::symlink_metadata(&path).expect("is there");
    assert!(file.file_type().is_socket() && file.permissions().mode() & 0o777 == 0o600, "{file:?}");
    let mut pgvane = pgvane;
    pgvane.terminate().expect("it runs");
    assert!(pgvane.wait(SOON).await.expect("it ends").success());
    assert!(!path.exists(), "the file is removed");
}

#[tokio::test]
async fn a_reload_adds_changes_and_removes_sockets() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin("# sockets")).await;
    let (before, path) = (text_of(&pgvane), socket_in(&cluster));
    let with = |lines: &str| before.replace("# sockets", lines);

    write(&pgvane, &with(&line(&path, "user")));
    let log = hangup(&pgvane, RELOADED).await;
    assert!(log.contains(&format!("admin socket {} added", path.display())), "{log}");
    assert_eq!(command(&path, "show cli level").await, "user\n");

    let mut open = UnixStream::connect(&path).await.expect("is open");
    write(&pgvane, &with(&line(&path, "admin").replace(" }]", ", mode = \"0660\" }]")));
    let log = hangup(&pgvane, RELOADED).await;
    assert!(log.contains("level: user → admin") && log.contains("mode: 0600 → 0660"), "{log}");
    assert_eq!(std::fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o660);
    open.write_all(b"show cli level\n").await.expect("it is still connected");
    let mut answer = String::new();
    in_time("an answer", open.read_to_string(&mut answer)).await.expect("an answer");
    assert_eq!(answer, "admin\n\n", "the connection has stayed");

    let taken = cluster.directory().join("taken.sock");
    let _owner = UnixListener::bind(&taken).expect("a socket");
    write(&pgvane, &with(&line(&taken, "user")));
    let log = hangup(&pgvane, REFUSED).await;
    assert!(log.contains("taken.sock"), "{log}");
    assert_eq!(command(&path, "show cli level").await, "admin\n", "nothing has changed");

    write(&pgvane, &before);
    hangup(&pgvane, RELOADED).await;
    let is_gone = || async { if path.exists() { Err("it is there".to_owned()) } else { Ok(()) } };
    wait::until("the socket to go", Duration::from_secs(20), is_gone).await.unwrap_or_else(|error| panic!("{error}"));
}
