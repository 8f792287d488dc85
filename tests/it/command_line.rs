//! What users type, and what they get: exit codes and words.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pgvane_loadtest::process::Process;
use pgvane_loadtest::{http, ports, wait};
use serde_json::json;

use crate::binary;
use crate::certificates::Certificates;
use crate::fake::FakeCluster;
use crate::wire::{SOON, Session};

// From `sysexits.h`.
pub const OK: i32 = 0;
pub const FAILURE: i32 = 1;
pub const USAGE: i32 = 64;
pub const NO_INPUT: i32 = 66;
pub const NO_PERMISSION: i32 = 77;
const CONFIG: i32 = 78;

/// What `run --patroni` opens.
const DEFAULT_PORTS: [u16; 3] = [6432, 6433, 8404];

#[test]
fn help_and_version_are_no_failures() {
    let version = pgvane(&["--version"]);
    version.ended_with(OK);
    assert_eq!(version.out, format!("pgvane {}\n", env!("CARGO_PKG_VERSION")));
    let help = pgvane(&["--help"]);
    help.ended_with(OK);
    for command in ["run", "check", "import", "healthcheck", "status", "reload", "drain", "maint", "ready"] {
        assert!(help.out.contains(&format!("\n  {command} ")), "the command {command} is not in\n{}", help.out);
        pgvane(&[command, "--help"]).ended_with(OK);
    }
}

#[test]
fn a_command_line_without_sense_is_a_usage_error() {
    for arguments in [
        &[][..],
        &["--no-such-flag"],
        &["no-such-command"],
        &["run"],
        &["run", "--config", "a.toml", "--patroni", "http://10.0.0.1:8008"],
        &["run", "--patroni", "10.0.0.1:8008"],
        &["check"],
        &["drain"],
        &["drain", "node1"],
        &["status", "--admin", "nowhere"],
    ] {
        let answer = pgvane(arguments);
        answer.ended_with(USAGE);
        assert!(!answer.err.is_empty(), "{arguments:?} must not fail in silence");
    }
}

#[test]
fn check_reports_every_fault_with_its_line_and_a_hint() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("faulty.toml");
    let text = "[[cluster]]\nintervall = \"1s\"\n[[cluster.node]]\naddress = \"10.0.0.1\"\n\
                [[listener]]\nbind = \"0.0.0.0:6432\"\ntarget = \"leder\"\nhold_max = 10\n";
    fs::write(&file, text).expect("a writable directory");
    let name = file.display().to_string();

    let answer = pgvane(&["check", &name]);
    answer.ended_with(CONFIG);
    for (line, word) in [(2, "intervall"), (4, "HOST:PORT"), (7, "leder"), (8, "unit")] {
        let found = answer.err.lines().any(|said| said.contains(&format!("{name}:{line}: ")) && said.contains(word));
        assert!(found, "no fault in line {line} about {word}:\n{}", answer.err);
    }
    assert_eq!(answer.err.matches("\n  hint: ").count(), 4, "each with a hint:\n{}", answer.err);
    assert!(answer.err.contains("did you mean \"interval\"?"), "{}", answer.err);

    let run = pgvane(&["run", "--config", &name]);
    run.ended_with(CONFIG);
    assert_eq!(run.err, answer.err, "run says what check says, and starts nothing");
}

#[test]
fn check_of_a_good_file_is_content_and_opens_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("good.toml");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let text = format!(
        "[[cluster]]\n[[cluster.node]]\naddress = \"10.0.0.1:5432\"\n[[listener]]\nbind = \"{}\"\ntarget = \"leader\"\n",
        taken.local_addr().expect("it is bound"),
    );
    fs::write(&file, text).expect("a writable directory");
    pgvane(&["check", &file.display().to_string()]).ended_with(OK);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    for command in [&["check", "no-such.toml"][..], &["run", "--config", "no-such.toml"]] {
        let answer = pgvane(command);
        answer.ended_with(NO_INPUT);
        assert!(answer.err.contains("no-such.toml"), "{}", answer.err);
    }
}

#[test]
fn every_example_in_config_is_valid() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    // in the folders of set-ups and packages there are other programs' files too
    let is_example = |path: &PathBuf| match path.parent() == Some(&directory) {
        true => path.extension().is_some_and(|extension| extension == "toml"),
        false => path.file_name().is_some_and(|name| name == "pgvane.toml"),
    };
    let examples: Vec<PathBuf> = files_below(&directory).into_iter().filter(is_example).collect();
    assert!(examples.len() > 5, "{examples:?}");
    for example in examples {
        // what runs in containers has their environment in .env
        let environment = example.parent().and_then(|folder| fs::read_to_string(folder.join(".env")).ok());
        let certified = with_certificates(&example);
        let mut check = Command::new(env!("CARGO_BIN_EXE_pgvane"));
        check
            .arg("check")
            .arg(certified.as_ref().map_or(example.clone(), |directory| directory.path().join("pgvane.toml")));
        if let Some(environment) = environment {
            check.envs(environment.lines().filter_map(|line| line.split_once('=')));
            check.envs([("PGVANE_ADMIN_USER", "admin"), ("PGVANE_ADMIN_PASSWORD", "secret")]);
        }
        let output = check.output().expect("runs");
        assert!(output.status.success(), "{}: {}", example.display(), String::from_utf8_lossy(&output.stderr));
    }
}

/// A copy of the file that finds its certificates, if its folder has a program that makes them.
fn with_certificates(example: &Path) -> Option<tempfile::TempDir> {
    let program = example.with_file_name("make-certificates");
    if !program.exists() {
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let made = Command::new(program).args(["10.0.0.13", "proxy"]).current_dir(directory.path()).output();
    let made = made.expect("starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = fs::read_to_string(example).expect("is text");
    let text = text.replace("/etc/pgvane-tls/", &format!("{}/", directory.path().join("tls").display()));
    fs::write(directory.path().join("pgvane.toml"), text).expect("is ours");
    Some(directory)
}

/// Every file in `directory`, at any depth.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("is a directory").filter_map(|entry| Some(entry.ok()?.path()));
    let (directories, mut files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.extend(directories.iter().flat_map(|directory| files_below(directory)));
    files
}

/// `config/tls.toml` as it is meant to be used: without the # before its keys, and with the files that they name.
#[test]
fn the_example_for_tls_is_valid_once_its_files_are_there() {
    let files = Certificates::new();
    for (cert, key) in [("server.crt", "server.key"), ("postgresql-client.crt", "postgresql-client.key")] {
        files.issue("issued", "db.example.org");
        fs::rename(files.path("issued.pem"), files.path(cert)).expect("is there");
        fs::rename(files.path("issued.key"), files.path(key)).expect("is there");
    }
    for authority in ["clients-ca.pem", "postgresql-ca.pem"] {
        fs::copy(files.path("ca.pem"), files.path(authority)).expect("is there");
    }
    let example = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/tls.toml")).expect("is there");
    let used = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let text: String = example.lines().map(used).collect();
    let text = text.replace("/etc/pgvane/", &files.path(""));
    assert_eq!(text.matches("[listener.tls]\nmode = \"terminate\"\n").count(), 2, "{text}");
    files.write("tls.toml", &text);
    pgvane(&["check", &files.path("tls.toml")]).ended_with(OK);

    // and each of the files is read
    for file in ["server.crt", "server.key", "clients-ca.pem", "postgresql-ca.pem", "postgresql-client.key"] {
        let kept = fs::read(files.path(file)).expect("is there");
        fs::remove_file(files.path(file)).expect("is there");
        let answer = pgvane(&["check", &files.path("tls.toml")]);
        answer.ended_with(CONFIG);
        assert!(answer.err.contains(&files.path(file)), "{file} is not in:\n{}", answer.err);
        fs::write(files.path(file), kept).expect("is ours");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_nothing_is_left_running() {
    let cluster = FakeCluster::of(1).await;
    let owner = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = owner.local_addr().expect("it is bound");
    let mut running = cluster.spawn_pgvane(|pgvane| {
        pgvane.more(&format!("[[listener]]\nname = \"third\"\nbind = \"{taken}\"\ntarget = \"any\"\n"))
    });
    let status = running.wait(SOON).await.expect("it ends by itself");
    assert_eq!(status.code(), Some(FAILURE), "{}", running.log_text());
    let told = format!("listener \"third\" cannot listen on {taken}: Address already in use");
    assert!(running.log_text().contains(&told), "{told:?} is not in:\n{}", running.log_text());
}

#[tokio::test]
async fn healthcheck_answers_by_its_exit_code() {
    let cluster = FakeCluster::of(1).await;
    let running = cluster.pgvane(|pgvane| pgvane).await;
    let admin = format!("http://{}", running.admin_addr);
    let asked = |arguments: &'static [&str]| {
        let admin = admin.clone();
        tokio::task::spawn_blocking(move || pgvane(&[&["healthcheck", "--admin", &admin], arguments].concat()))
    };
    asked(&[]).await.expect("asked").ended_with(OK);
    asked(&["--ready"]).await.expect("asked").ended_with(OK);

    cluster[0].patroni.closes().await;
    let unready = || async {
        let answer = asked(&["--ready"]).await.expect("asked");
        if answer.code == Some(FAILURE) { Ok(answer) } else { Err(format!("exit code {:?}", answer.code)) }
    };
    let answer = wait::until("an unready pgvane", SOON, unready).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(answer.err.contains("no node of cluster \"main\" answers"), "{}", answer.err);
    asked(&[]).await.expect("asked").ended_with(OK);

    drop(running);
    let answer = asked(&[]).await.expect("asked");
    answer.ended_with(FAILURE);
    assert!(answer.err.contains("does not answer"), "{}", answer.err);
}

#[tokio::test]
async fn a_start_without_a_file_finds_the_nodes_and_opens_the_default_ports() {
    if let Some(taken) = DEFAULT_PORTS.into_iter().find_map(|port| ports::fixed(port).err()) {
        // past the test runner's capture: a test that looks at nothing must not pass in silence
        let told = writeln!(std::io::stderr(), "SKIPPED a_start_without_a_file_…: {taken}");
        return told.expect("standard error is open");
    }
    let cluster = FakeCluster::of(2).await;
    cluster[1].patroni.lists_members(&json!([cluster[0].as_member(), cluster[1].as_member()]));

    let mut command = Command::new(binary::pgvane());
    let nobody = ports::free().expect("a port");
    command.args(["run", "--patroni", &format!("http://{nobody},http://{}", cluster[1].patroni.address())]);
    let log = cluster.directory().join("discovering.log");
    let mut running = Process::start("pgvane", command, cluster.directory(), &log).expect("it starts");

    let [write, read, admin] = DEFAULT_PORTS.map(ports::loopback);
    let found = wait::until("both nodes", SOON, || async {
        let metrics = http::get(admin, "/metrics", SOON).await.map_err(|error| error.to_string())?.body;
        let up = |node: &str| metrics.contains(&format!("pgvane_node_up{{cluster=\"main\",node=\"{node}\"}} 1"));
        if up("node1") && up("node2") { Ok(()) } else { Err(metrics) }
    });
    found.await.unwrap_or_else(|error| panic!("{error}\n{}", running.log_text()));
    running.still_runs().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(Session::through(write).await.value("who").await, "node1");
    assert_eq!(Session::through(read).await.value("who").await, "node2");
}

/// How a run of pgvane has ended.
pub struct Answer {
    code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Answer {
    pub fn ended_with(&self, code: i32) {
        assert_eq!(self.code, Some(code), "it said:\n{}{}", self.out, self.err);
    }
}

/// Runs pgvane to its end.
pub fn pgvane(arguments: &[&str]) -> Answer {
    let mut command = Command::new(binary::pgvane());
    let Output { status, stdout, stderr } = command.args(arguments).stdin(Stdio::null()).output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("pgvane speaks UTF-8");
    Answer { code: status.code(), out: text(stdout), err: text(stderr) }
}
