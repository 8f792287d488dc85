//! Where the lab's programs are: PostgreSQL, etcd, Patroni, HAProxy and the clients of the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Doing;
use crate::{Error, Result};

/// A PostgreSQL that a lab can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Postgresql {
    /// The newest that Debian's packages have installed, at least 15; or that in `PGVANE_PG_BIN`.
    Packaged,
    /// 18, in `${PGVANE_LAB_HOME:-/var/tmp/pgvane-lab}/postgresql-18`.
    Eighteen,
}

impl Postgresql {
    /// The directory of its programs: `postgres`, `initdb`, `psql` and all the others.
    pub fn bin(self) -> Result<PathBuf> {
        match self {
            Postgresql::Packaged => packaged_bin(),
            Postgresql::Eighteen => Ok(home().join("postgresql-18/bin")),
        }
    }

    /// One of its programs.
    pub fn program(self, name: &str) -> Result<PathBuf> {
        existing(self.bin()?.join(name))
    }
}

/// A Patroni that a lab can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patroni {
    /// The newest, in `${PGVANE_LAB_HOME:-/var/tmp/pgvane-lab}/venv`.
    Newest,
    /// 3.3, in `${PGVANE_LAB_HOME:-/var/tmp/pgvane-lab}/venv-patroni-3.3`: it calls a primary "master".
    ThreeThree,
}

impl Patroni {
    /// One of its programs: `patroni` or `patronictl`.
    pub fn program(self, name: &str) -> Result<PathBuf> {
        match self {
            Patroni::Newest => in_venv(name),
            Patroni::ThreeThree => existing(home().join("venv-patroni-3.3/bin").join(name)),
        }
    }
}

/// What a program prints when it is asked for its version: its first line.
pub fn version_of(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output().doing(|| format!("starting {}", program.display()))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(printed.lines().next().unwrap_or("unknown version").to_owned())
}

fn packaged_bin() -> Result<PathBuf> {
    if let Some(bin) = std::env::var_os("PGVANE_PG_BIN") {
        return Ok(PathBuf::from(bin));
    }
    let root = Path::new("/usr/lib/postgresql");
    let versions = root.read_dir().into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut versions: Vec<u32> = versions.filter_map(|version| version.parse().ok()).collect();
    versions.sort_unstable();
    let bins = versions.iter().rev().map(|version| root.join(version.to_string()).join("bin"));
    bins.into_iter()
        .find(|bin| bin.join("initdb").exists())
        .ok_or_else(|| Error::Missing { program: "a PostgreSQL server in /usr/lib/postgresql".to_owned() })
}

/// A program in the lab's Python environment, `${PGVANE_LAB_HOME:-/var/tmp/pgvane-lab}/venv`: `patroni`, `patronictl`,
/// `python` with the client libraries, `node`.
pub fn in_venv(program: &str) -> Result<PathBuf> {
    existing(home().join("venv/bin").join(program))
}

/// A program in the environment of the tools that check set-ups, `${PGVANE_LAB_HOME:-/var/tmp/pgvane-lab}/venv-tools`:
/// `ansible-playbook`, `ansible-lint`, `kubernetes-validate`, `python` with PyYAML.
pub fn in_venv_of_tools(program: &str) -> Result<PathBuf> {
    existing(home().join("venv-tools/bin").join(program))
}

/// Where the packages are that `node` is to find, `${PGVANE_LAB_HOME:-/var/tmp/pgvane-lab}/node/node_modules`.
pub fn node_packages() -> Result<PathBuf> {
    existing(home().join("node/node_modules"))
}

fn home() -> PathBuf {
    std::env::var_os("PGVANE_LAB_HOME").map_or_else(|| PathBuf::from("/var/tmp/pgvane-lab"), PathBuf::from)
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    match path.exists() {
        true => Ok(path),
        false => Err(Error::Missing { program: path.display().to_string() }),
    }
}

/// A program in `PATH`, or in Debian's directories for servers.
pub fn on_path(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    directories
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Error::Missing { program: program.to_owned() })
}
