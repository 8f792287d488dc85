//! `docs/migration.md`: the file of pgvane beside that of HAProxy is what `pgvane import` makes of it.

use std::fs;
use std::process::Command;

use super::readme::Readme;
use crate::binary;

#[test]
fn the_two_files_side_by_side_are_what_import_reads_and_writes() {
    let page = Readme::at("docs/migration.md");
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("haproxy.cfg"), page.excerpt("1.", "haproxy")).expect("is ours");
    let mut import = Command::new(binary::pgvane());
    let output = import.args(["import", "haproxy.cfg"]).current_dir(directory.path()).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), page.excerpt("1.", "toml"));

    // on the way, it runs beside HAProxy on other ports
    let [import, check, beside, ..] = page.commands::<6>("");
    for command in [import, check, beside] {
        assert!(command.contains("pgvane.toml"), "{command}");
    }
    fs::write(directory.path().join("pgvane.toml"), &output.stdout).expect("is ours");
    let sed = beside.lines().find(|line| line.starts_with("sed ")).expect("writes other ports");
    let run = Command::new("sh").args(["-ec", sed]).current_dir(directory.path()).status().expect("sh is there");
    assert!(run.success());
    let text = fs::read_to_string(directory.path().join("beside.toml")).expect("is written");
    let ports: Vec<&str> = text.lines().filter(|line| line.starts_with("bind")).collect();
    assert_eq!(ports, [17000, 15000, 15001].map(|port| format!("bind = \"0.0.0.0:{port}\"")));
    let mut check = Command::new(binary::pgvane());
    let output = check.args(["check", "beside.toml"]).current_dir(directory.path()).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
