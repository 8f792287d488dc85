//! A temporary directory and the processes that run in it: both end with this program, even if it is killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::error::Doing;

/// A temporary directory, removed on drop together with every process whose working directory lies in it.
///
/// A small shell script, the keeper, does that in a process of its own. It waits until a pipe is closed, so it also
/// works if this program panics, is killed by a signal, or forgets to drop this value. If `PGVANE_KEEP_LAB` is set, the
/// processes end but the directory stays.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
    keeper: Child,
}

static SCRATCHES_MADE: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    /// Creates the directory in `PGVANE_LAB_TMP`, or in `/tmp`: the account `postgres` must be able to read it.
    pub fn new() -> Result<Self> {
        let parent = std::env::var_os("PGVANE_LAB_TMP").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let parent = parent.canonicalize().doing(|| format!("looking up {}", parent.display()))?;
        let directory = loop {
            let number = SCRATCHES_MADE.fetch_add(1, Ordering::Relaxed);
            let candidate = parent.join(format!("pgvane-lab-{}-{number}", std::process::id()));
            match fs::create_dir(&candidate) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => {
                    break made.doing(|| format!("making {}", candidate.display())).map(|()| candidate)?;
                }
            }
        };
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))
            .doing(|| format!("opening {} to other accounts", directory.display()))?;
        let keeper = start_keeper(&directory)?;
        Ok(Self { directory, keeper })
    }

    /// The directory, as an absolute path without symbolic links.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        match self.keeper.wait() {
            Ok(status) if status.success() => {}
            other => eprintln!("files or processes may be left in {}: {other:?}", self.directory.display()),
        }
        if kept() {
            eprintln!("PGVANE_KEEP_LAB is set: {} is not removed", self.directory.display());
        }
    }
}

/// The processes whose working directory is `directory` or lies below it.
pub(crate) fn processes_in(directory: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let runs_there = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(runs_there)
        .filter_map(Pid::from_raw)
        .collect()
}

/// Sends `signal` to every process in `directory`. It is no error if one has just ended.
pub(crate) fn signal_all_in(directory: &Path, signal: Signal) {
    for pid in processes_in(directory) {
        let _ended_meanwhile = kill_process(pid, signal);
    }
}

fn kept() -> bool {
    std::env::var_os("PGVANE_KEEP_LAB").is_some_and(|value| !value.is_empty() && value != "0")
}

fn start_keeper(directory: &Path) -> Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", include_str!("keeper.sh"), "pgvane-lab-keeper"])
        .arg(directory)
        .arg(if kept() { "keep" } else { "" })
        .current_dir("/")
        .process_group(0) // so that Ctrl-C at the terminal does not reach the keeper
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .doing(|| "starting /bin/sh".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_in_it_ends_with_it() {
        let scratch = Scratch::new().expect("a writable /tmp");
        let directory = scratch.directory().to_owned();
        let mut sleeper = Command::new("sleep").arg("600").current_dir(&directory).spawn().expect("sleep exists");
        assert_eq!(processes_in(&directory).len(), 1);
        drop(scratch);
        assert!(!sleeper.wait().expect("our child").success());
        assert!(!directory.exists());
    }
}
