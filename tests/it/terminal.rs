//! What the command line offers to people at a terminal: `top`, completions, the manual page, explanations.

use std::fs;
use std::process::{Command, Stdio};

use pgvane_loadtest::programs;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::command_line::{FAILURE, OK, USAGE, pgvane};
use crate::fake::FakeCluster;
use crate::operators::Operator;
use crate::wire::{SOON, Session};

// ---- top ------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn top_shows_nodes_and_listeners_until_q_is_typed_and_restores_the_terminal() {
    let cluster = FakeCluster::of(2).await;
    let running = cluster.pgvane(|pgvane| pgvane).await;
    let _session = Session::through(running.write_addr).await;
    let top =
        format!("stty rows 40 cols 160; {} top --admin http://{}", env!("CARGO_BIN_EXE_pgvane"), running.admin_addr);
    let script = programs::on_path("script").expect("script gives it a terminal");
    let mut command = tokio::process::Command::new(script);
    command.args(["-qec", &top, "/dev/null"]).env("TERM", "xterm").kill_on_drop(true);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let (mut keys, mut screen) = (child.stdin.take().expect("is piped"), child.stdout.take().expect("is piped"));
    let mut seen = Vec::new();
    let has_drawn = |seen: &[u8]| {
        let text = String::from_utf8_lossy(seen).into_owned();
        ["node1", "node2", "LISTENER", "write", "has been the leader"].iter().all(|word| text.contains(word))
    };
    let drawn = async {
        while !has_drawn(&seen) {
            let read = screen.read_buf(&mut seen).await.expect("is read");
            assert!(read > 0, "it ended: {}", String::from_utf8_lossy(&seen));
        }
    };
    tokio::time::timeout(SOON, drawn).await.unwrap_or_else(|_| panic!("nothing is drawn"));
    keys.write_all(b"q").await.expect("is typed");
    let rest = tokio::time::timeout(SOON, screen.read_to_end(&mut seen)).await.expect("it ends");
    rest.expect("is read");
    let status = tokio::time::timeout(SOON, child.wait()).await.expect("it ends").expect("has a status");
    assert!(status.success(), "{status}");
    let text = String::from_utf8_lossy(&seen).into_owned();
    assert!(text.contains("\u{1b}[?1049h") && text.contains("\u{1b}[?1049l"), "the screen before comes back");
}

#[test]
fn top_without_a_terminal_says_what_to_use_instead() {
    let answer = pgvane(&["top"]);
    answer.ended_with(USAGE);
    assert!(answer.err.contains("not a terminal") && answer.err.contains("pgvane status"), "{}", answer.err);
}

// ---- reload ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn reload_prints_json_of_what_has_changed() {
    let cluster = FakeCluster::of(1).await;
    let users = Operator::line(cluster.directory());
    let running = cluster.pgvane(|pgvane| pgvane.admin(&users)).await;
    let operator = Operator::at(&running, cluster.directory());
    let text = fs::read_to_string(running.config_path()).expect("is there");
    let changed = text.replacen("target = \"leader\"", "target = \"leader\"\nhold_max = \"7s\"", 1);
    assert_ne!(changed, text);
    fs::write(running.config_path(), changed).expect("is writable");
    let answer = operator.says(&["reload", "--json"]).await;
    answer.ended_with(OK);
    let reload: Value = serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {}", answer.out));
    let change = reload["changes"][0].as_str().unwrap_or_default();
    assert!(change.contains("hold_max"), "{reload:#}");
}

// ---- completions and the manual page --------------------------------------------------------------------------------

#[test]
fn completions_are_scripts_that_their_shells_accept_and_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let answer = pgvane(&["completions", shell]);
        answer.ended_with(OK);
        for word in ["drain", "status", "healthcheck", "completions", "patroni"] {
            assert!(answer.out.contains(word), "{shell}: {word}");
        }
    }
    pgvane(&["completions", "tcsh"]).ended_with(USAGE);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pgvane.bash");
    fs::write(&file, pgvane(&["completions", "bash"]).out).expect("is writable");
    let ask = "source \"$0\"; COMP_WORDS=(pgvane dr); COMP_CWORD=1; _pgvane pgvane dr pgvane; echo \"${COMPREPLY[*]}\"";
    let output = Command::new("bash").args(["--norc", "-c", ask]).arg(&file).output().expect("bash runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(told.trim(), "drain", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_manual_page_has_every_command_and_its_options() {
    let answer = pgvane(&["man"]);
    answer.ended_with(OK);
    assert!(answer.out.contains(".TH ") && answer.out.contains(".SH COMMANDS"), "{}", answer.out);
    let help = pgvane(&["--help"]).out;
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    let commands = commands.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    let commands: Vec<&str> = commands.filter(|command| *command != "help").collect();
    assert!(commands.len() > 10, "{help}");
    for command in commands {
        assert!(answer.out.contains(&format!(".SS \"pgvane {command}")), "{command} is not in\n{}", answer.out);
    }
    for option in ["\\-\\-connect", "\\-\\-explain", "\\-\\-password\\-file", "EXIT STATUS"] {
        assert!(answer.out.contains(option), "{option}");
    }
}

// ---- check ----------------------------------------------------------------------------------------------------------

fn file_of(directory: &std::path::Path, text: &str) -> String {
    let file = directory.join("pgvane.toml");
    fs::write(&file, text).expect("is writable");
    file.display().to_string()
}

const VALID: &str = "[[cluster]]\n[[cluster.node]]\naddress = \"10.0.0.1:5432\"\n[[listener]]\nname = \"write\"\n\
                     bind = \"127.0.0.1:6432\"\ntarget = \"leader\"\n[[listener]]\nname = \"read\"\n\
                     bind = \"127.0.0.1:6433\"\ntarget = \"replica\"\n";

#[test]
fn check_explains_each_listener_in_a_sentence() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = file_of(directory.path(), VALID);
    let answer = pgvane(&["check", "--explain", &file]);
    answer.ended_with(OK);
    let lines: Vec<&str> = answer.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", answer.out);
    assert!(lines[1].starts_with("listener \"write\" takes up to 10000 connections on 127.0.0.1:6432"), "{}", lines[1]);
    assert!(lines[2].contains("gives each new session to a replica of cluster \"main\""), "{}", lines[2]);
    assert_eq!(pgvane(&["check", &file]).out.lines().count(), 1, "only if it is wanted");
}

#[test]
fn check_prints_json_of_valid_and_of_faulty_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let json = |text: &str, code: i32| -> Value {
        let answer = pgvane(&["check", "--json", &file_of(directory.path(), text)]);
        answer.ended_with(code);
        serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {}", answer.out))
    };
    let valid = json(VALID, OK);
    assert_eq!((&valid["is_valid"], &valid["listeners"][1]["name"]), (&true.into(), &"read".into()), "{valid:#}");
    assert!(valid["listeners"][0]["explanation"].as_str().is_some_and(|text| text.contains("to the leader")));
    let faulty = json(&VALID.replace("leader", "leder"), 78);
    assert_eq!((&faulty["is_valid"], &faulty["faults"][0]["line"]), (&false.into(), &7.into()), "{faulty:#}");
}

#[tokio::test]
async fn check_connect_prints_json_of_what_the_nodes_answer() {
    let cluster = FakeCluster::of(2).await;
    let mut text = "[[cluster]]\ntimeout = \"500ms\"\n".to_owned();
    for node in cluster.addresses() {
        let (name, pg, rest) = (node.name, node.pg, node.rest);
        text += &format!("[[cluster.node]]\nname = \"{name}\"\naddress = \"{pg}\"\npatroni = \"http://{rest}\"\n");
    }
    text += VALID
        .split_once("[[listener]]")
        .map(|(_, listeners)| format!("[[listener]]{listeners}"))
        .as_deref()
        .unwrap_or("");
    let file = file_of(cluster.directory(), &text);
    let check = async |code: i32| -> Value {
        let file = file.clone();
        let run = move || pgvane(&["check", "--connect", "--json", &file]);
        let answer = tokio::task::spawn_blocking(run).await.expect("no panic");
        answer.ended_with(code);
        serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {}", answer.out))
    };
    let found = check(OK).await;
    assert_eq!(found["routes"][0]["goes_to"][0], "node1", "{found:#}");
    assert_eq!(
        (&found["routes"][0]["is_leader"], &found["clusters"][0]["nodes"][1]["answers"]),
        (&true.into(), &true.into())
    );
    cluster[0].patroni.follows();
    let found = check(FAILURE).await;
    assert!(
        found["routes"][0]["waits_because"].as_str().is_some_and(|why| why.contains("no node claims")),
        "{found:#}"
    );
}
