//! `config/three-node`: three nodes and a web machine with pgvane, installed by the Ansible playbook of the folder.
//!
//! Each machine runs the playbook for itself: between these machines there is no SSH.

use std::fs;
use std::process::Command;
use std::time::Duration;

use pgvane_loadtest::machine::Machine;
use pgvane_loadtest::programs::{self, Postgresql};

use super::php::PhpWriter;
use super::readme::Readme;
use super::{machines, patroni_is_downloaded, postgresql_is_downloaded, typed, typed_until};
use crate::binary;

const SOON: Duration = Duration::from_secs(60);
const SWITCHOVER_WITHIN: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "four machines: two minutes"]
async fn the_playbook_installs_three_nodes_and_pgvane_beside_an_application() {
    let wanted = [("db1", "10.0.0.11"), ("db2", "10.0.0.12"), ("db3", "10.0.0.13"), ("web1", "10.0.0.21")];
    let Some((_switch, [db1, db2, db3, web1])) = machines(wanted).await else { return };
    let readme = Readme::of("three-node");
    let [_needs_the_internet] = readme.commands("1.");
    for machine in [&db1, &db2, &db3, &web1] {
        has_the_source_and_ansible(machine);
    }
    for node in [&db1, &db2, &db3] {
        patroni_is_downloaded(node);
        postgresql_is_downloaded(node, 16, Postgresql::Packaged);
    }
    let [install] = readme.commands("2.");
    // as Ansible does: first all databases, then the web machines
    play_on(&[&db1, &db2, &db3], install);
    play_on(&[&web1], install);
    let [list, connect] = readme.commands("3.");
    typed_until(&db1, list, |list| list.contains(" Leader ") && list.matches(" streaming ").count() == 2).await;
    typed_until(&web1, connect, |answers| answers.contains(" | f\n") && answers.contains(" | t\n")).await;
    let again = play_on(&[&db1, &db2, &db3, &web1], install);
    assert!(again.iter().all(|recap| recap.contains("changed=0")), "a second run changes something: {again:?}");
    for (host, port) in [("10.0.0.11", 2379), ("10.0.0.12", 8008), ("10.0.0.21", 8404), ("10.0.0.21", 6432)] {
        let stranger = if host == "10.0.0.21" { &db3 } else { &web1 };
        let is_open = stranger.run(&format!("timeout 1 bash -c '</dev/tcp/{host}/{port}'")).is_ok();
        assert_eq!(is_open, port == 8008, "{host}:{port} from {}", stranger.name());
    }

    let dsn = "pgsql:host=127.0.0.1;port=6432;dbname=postgres";
    let php = PhpWriter::start(&web1, dsn, "postgres", "change-me-postgres");
    php.goes_on(SOON).await;
    let moment = php.now();
    let [change, switch_over] = readme.commands("4.");
    let recap = play_on(&[&web1], &change.replace("site.yml", "site.yml -e pgvane_read_port=6533"));
    assert!(recap[0].contains("changed=2"), "the file and the reload: {recap:?}");
    typed(&web1, "PGPASSWORD=change-me-postgres psql -h 127.0.0.1 -p 6533 -U postgres -d postgres -c 'select 1'");
    let faulty = web1.run(&as_typed_on(&web1, &change.replace("site.yml", "site.yml -e pgvane_read_port=none")));
    let faulty = faulty.expect_err("a file with a fault is not installed").to_string();
    assert!(faulty.contains("hint:"), "{faulty}");
    php.goes_on(SOON).await;
    assert!(php.seen_since(moment).errors.is_empty(), "{:?}", php.seen_since(moment));

    let said = typed(&db1, switch_over);
    assert!(said.contains("Successfully switched over"), "{said}");
    php.goes_on(SWITCHOVER_WITHIN).await;
    let seen = php.seen_since(moment);
    println!("switchover: {seen:?}"); // with --nocapture
    assert!(seen.errors.len() <= 1, "{seen:?}");
    readme.assert_all_is_used();
}

#[test]
fn ansible_lint_accepts_the_playbook() {
    let lint = programs::in_venv_of_tools("ansible-lint").unwrap_or_else(|error| panic!("{error}"));
    // it writes into the directory in which it runs
    let directory = tempfile::tempdir().expect("a directory");
    let folder = Readme::of("three-node").folder().display().to_string();
    let copied = Command::new("cp").args(["-r", &format!("{folder}/."), "."]).current_dir(directory.path()).status();
    assert!(copied.expect("cp is there").success());
    let path =
        format!("{}:{}", lint.parent().expect("a directory").display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(&lint);
    command.args(["--offline", "--nocolor", "--profile", "production", "site.yml"]).env("PATH", path);
    let output = command.current_dir(directory.path()).output().expect("starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
}

/// pgvane's source, as far as the playbook needs it, and the lab's Ansible where the README installs it.
fn has_the_source_and_ansible(machine: &Machine) {
    let source = tempfile::tempdir().expect("a directory");
    let [config, release] = ["source/config", "source/target/release"].map(|path| source.path().join(path));
    for directory in [&config, &release] {
        fs::create_dir_all(directory).expect("is ours");
    }
    fs::copy(binary::pgvane(), release.join("pgvane")).expect("is built");
    machine.copy(&source.path().join("source")).expect("is copied");
    let folder = Readme::of("three-node").folder().to_owned();
    for file in [folder.clone(), folder.with_file_name("pgvane.service")] {
        machine.copy(&file).expect("is copied");
    }
    let tools = programs::in_venv_of_tools("ansible-playbook").unwrap_or_else(|error| panic!("{error}"));
    let bin = tools.parent().expect("is in a directory of programs").display();
    typed(machine, &format!("mv three-node pgvane.service source/config/; mkdir ansible; ln -s {bin} ansible/bin"));
}

fn as_typed_on(machine: &Machine, commands: &str) -> String {
    let local = format!("site.yml --connection local --limit {}", machine.name());
    format!("cd source/config/three-node; {}", commands.replace("--limit web", "").replace("site.yml", &local))
}

/// Runs the playbook on these machines at the same time, and returns the last line of each.
fn play_on(machines: &[&Machine], commands: &str) -> Vec<String> {
    let play = |machine: &Machine| {
        let said = typed(machine, &as_typed_on(machine, commands));
        said.lines().rfind(|line| line.contains("changed=")).unwrap_or_default().to_owned()
    };
    std::thread::scope(|scope| {
        let plays: Vec<_> = machines.iter().map(|machine| scope.spawn(|| play(machine))).collect();
        plays.into_iter().map(|play| play.join().expect("the playbook has run")).collect()
    })
}
