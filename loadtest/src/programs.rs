//! Where the lab's programs are: PostgreSQL, etcd, Patroni and HAProxy.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The directory with `postgres` and `initdb`: `PGVANE_PG_BIN`, or the newest that Debian's packages have installed.
pub fn postgresql_bin() -> Result<PathBuf> {
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

/// `patroni` or `patronictl` in the lab's Python environment, `${PGVANE_LAB_HOME:-/var/tmp/pgvane-lab}/venv`.
pub fn in_venv(program: &str) -> Result<PathBuf> {
    let home = std::env::var_os("PGVANE_LAB_HOME").map_or_else(|| PathBuf::from("/var/tmp/pgvane-lab"), PathBuf::from);
    let path = home.join("venv/bin").join(program);
    match path.exists() {
        true => Ok(path),
        false => Err(Error::Missing { program: path.display().to_string() }),
    }
}

/// A program on the path, or where Debian puts servers.
pub fn on_path(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    directories
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Error::Missing { program: program.to_owned() })
}
