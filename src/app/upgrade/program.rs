//! How the program was started, so that it can be started again.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use tokio::process::{Child, Command};

/// Tells a process that its standard input is the connection to the process that it takes over from.
const VARIABLE: &str = "PGVANE_TAKES_OVER";

/// The program's file and its arguments.
#[derive(Debug, Clone)]
pub struct Program {
    /// As the shell or the service manager named it: a package may have replaced the file, or a link may name another one now.
    file: OsString,
    arguments: Vec<OsString>,
}

impl Program {
    /// This program.
    pub fn of_this_process() -> Program {
        let mut words = env::args_os();
        Program { file: words.next().unwrap_or_else(|| "pgvane".into()), arguments: words.collect() }
    }

    /// Starts it as the process that takes over, connected by this socket. Errors: the file cannot be run.
    pub(super) fn start(&self, connection: OwnedFd) -> io::Result<Child> {
        Command::new(&self.file)
            .args(&self.arguments)
            .env(VARIABLE, "1")
            .env_remove("WATCHDOG_PID") // it is the number of this process
            .stdin(Stdio::from(connection))
            .spawn()
    }

    /// The name of its file.
    pub(super) fn file(&self) -> String {
        self.file.to_string_lossy().into_owned()
    }
}

/// The connection to the process that this one takes over from, if there is one. Errors: there are no descriptors left.
pub(super) fn connection() -> io::Result<Option<OwnedFd>> {
    if env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let connection = io::stdin().as_fd().try_clone_to_owned()?;
    let nothing = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?; // or the other end would never hear that this process has closed it
    Ok(Some(connection))
}
