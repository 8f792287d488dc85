//! The checks of `make soak` can fail: each kind of harm that is done on purpose is a violation, and pgvane has none.

use std::path::Path;
use std::process::Command;

use pgvane_loadtest::namespace;

use crate::binary;

/// The harm, and what the soak has to say of it.
const HARMS: [(&str, &str); 7] = [
    ("lose-writes", "acknowledged rows are lost"),
    ("lose-batches", "acknowledged batches are lost"),
    ("cut-sessions", "terminating connection due to administrator command"),
    ("cancel-statements", "canceling statement due to user request"),
    ("read-only", "read-only transaction"),
    ("lose-notifications", "notification of another client in place of"),
    ("keep-sessions", "memory and descriptors as at the beginning"),
];

/// Runs a soak whose faults harm nobody. Returns whether it ended with success, and what it printed.
fn soak(harms: &[&str]) -> (bool, String) {
    let pgvane = binary::pgvane();
    let loadtest = Path::new(env!("CARGO_BIN_EXE_pgvane")).with_file_name("loadtest");
    assert!(loadtest.exists(), "{} is missing: cargo build --workspace", loadtest.display());
    let logs = std::env::temp_dir().join(format!("pgvane-soak-{}", std::process::id()));
    let steps = harms.len().max(1).to_string();
    let mut command = Command::new(loadtest);
    command.args(["soak", "--minutes", "60", "--tls", "plain", "--fault", "reload", "--steps", &steps]);
    command.arg("--pgvane").arg(pgvane).arg("--logs").arg(&logs);
    if !harms.is_empty() {
        command.arg("--sabotage").arg(harms.join(","));
    }
    let output = command.output().expect("is started");
    _ = std::fs::remove_dir_all(&logs);
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
#[ignore = "takes minutes: make test-long"]
fn each_check_of_the_soak_finds_the_harm_that_it_is_for() {
    if let Some(why) = namespace::unavailable_because() {
        eprintln!("not tested: {why}");
        return;
    }
    let (is_success, printed) = soak(&[]);
    assert!(is_success && printed.contains("1 faults in") && printed.contains(" 0 violations"), "{printed}");

    let (is_success, printed) = soak(&HARMS.map(|(harm, _)| harm));
    assert!(!is_success, "{printed}");
    let lines: Vec<&str> = printed.lines().collect();
    let mut steps = lines.split(|line| line.contains("SIGHUP to pgvane, twice a second  ")).skip(1);
    for (harm, said) in HARMS {
        let step = steps.next().unwrap_or_else(|| panic!("{harm} was not done:\n{printed}"));
        let is_said = step.iter().any(|line| line.contains("VIOLATION: ") && line.contains(said));
        assert!(is_said, "{harm} was not found:\n{}", step.join("\n"));
    }
}
