//! A server that runs as our child: its account, its log, its end.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::error::{Doing, last_lines};
use crate::{Error, Result, wait};

/// A running child process; killed on drop, with its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in `directory` with both outputs appended to `log`, in a process group of its own.
    pub fn start(name: &str, command: Command, directory: &Path, log: &Path) -> Result<Self> {
        let output = open_log(log)?;
        let errors = output.try_clone().doing(|| format!("opening {} twice", log.display()))?;
        Process::start_with(name, command, directory, log, errors)
    }

    /// The same with another standard error.
    pub fn start_with(name: &str, mut command: Command, directory: &Path, log: &Path, errors: File) -> Result<Self> {
        let output = open_log(log)?;
        let child = command
            .current_dir(directory)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .doing(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal` to this process alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid(), signal).map_err(Into::into).doing(|| format!("sending {signal:?} to {}", self.name))
    }

    /// Sends SIGKILL to the process and its group, and waits for its end.
    pub fn kill(&mut self) {
        // Until it is waited for, no other process can get its id.
        let _no_group_left = kill_process_group(self.pid(), Signal::KILL);
        let _waited_for_already = self.child.wait();
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait::until(&what, within, || {
            let status = self.ended();
            async move { status.ok_or_else(|| "still running".to_owned()) }
        })
        .await
    }

    /// An error with the end of the log if the process has ended: it was meant to run.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => Err(Error::Ended {
                program: self.name.clone(),
                status: status.to_string(),
                log_tail: last_lines(&self.log_text()),
            }),
        }
    }

    /// Everything it has written so far.
    pub fn log_text(&self) -> String {
        read_log(&self.log)
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn open_log(log: &Path) -> Result<File> {
    File::options().create(true).append(true).open(log).doing(|| format!("opening {}", log.display()))
}

/// The account that database servers run under: PostgreSQL refuses to run as root.
#[derive(Debug, Clone, Copy)]
pub enum Account {
    /// This program's own.
    Own,
    /// `postgres`, because this program is root.
    Postgres {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

impl Account {
    /// `postgres` if this program runs as root, its own account otherwise.
    pub fn for_servers() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        let accounts = fs::read_to_string("/etc/passwd").doing(|| "reading /etc/passwd".to_owned())?;
        let missing =
            || Error::Missing { program: "the account postgres (PostgreSQL does not run as root)".to_owned() };
        let (uid, gid) = accounts.lines().find_map(ids_of_postgres).ok_or_else(missing)?;
        Ok(Self::Postgres { uid, gid })
    }

    /// A command that runs `program` under this account, without our environment variables that would change what it
    /// does.
    pub fn command(self, program: &Path) -> Command {
        let mut command = match self {
            Self::Own => Command::new(program),
            Self::Postgres { uid, gid } => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).args(["--clear-groups", "--"]);
                command.arg(program);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            let is_used = ["PG", "PATRONI", "ETCD"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix));
            if is_used {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C.UTF-8");
        command
    }

    /// Makes a directory that belongs to this account.
    pub fn make_directory(self, path: &Path) -> Result<()> {
        fs::create_dir_all(path).doing(|| format!("making {}", path.display()))?;
        if let Self::Postgres { uid, gid } = self {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .doing(|| format!("giving {} to postgres", path.display()))?;
        }
        Ok(())
    }
}

/// A log's text; empty while there is none.
pub(crate) fn read_log(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// A log's text after its first `from` bytes.
pub fn read_log_from(path: &Path, from: usize) -> String {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(u64::try_from(from).unwrap_or(u64::MAX)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// User and group id from a line of `passwd(5)`, if it is that of `postgres`.
fn ids_of_postgres(line: &str) -> Option<(u32, u32)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    (name == "postgres").then_some((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_passwd() {
        assert_eq!(ids_of_postgres("postgres:x:105:110:PostgreSQL:/var/lib/postgresql:/bin/bash"), Some((105, 110)));
        assert_eq!(ids_of_postgres("daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin"), None);
        assert_eq!(ids_of_postgres("garbage"), None);
    }
}
