//! Upgrades of a running pgvane: which processes it has, and which of them accepts connections.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Pgvane;
use crate::Result;
use crate::error::Doing;

/// What pgvane logs when another process has taken over from it.
const UPGRADED: &str = "the new process accepts connections";

/// What it logs when that process has died, so that it serves again itself.
const NOT_UPGRADED: &str = "the new process has ended too early";

impl Pgvane {
    /// Sends SIGUSR2 to the process that accepts connections now, and waits until another one does.
    pub async fn upgrade(&self) -> Result<()> {
        let from = self.log_text().len();
        self.ask_to_upgrade()?;
        self.wait_for_log(UPGRADED, from, Duration::from_secs(60)).await
    }

    /// Sends SIGUSR2 to the process that accepts connections now.
    pub fn ask_to_upgrade(&self) -> Result<()> {
        self.signal_newest(Signal::USR2)
    }

    pub(super) fn signal_newest(&self, signal: Signal) -> Result<()> {
        let process = self.newest_process_id();
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
        let sent = pid.map(|pid| kill_process(pid, signal));
        sent.transpose().map_err(Into::into).doing(|| format!("sending {signal:?} to process {process}")).map(drop)
    }

    /// The process that accepts connections now: after an upgrade it is another one.
    pub fn newest_process_id(&self) -> u32 {
        let mut processes = vec![self.process.id()];
        for line in self.log_text().lines() {
            let number = line.split("process=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
            match number {
                Some(number) if line.contains(UPGRADED) => processes.push(number),
                _ if line.contains(NOT_UPGRADED) => _ = processes.pop(),
                _ => {}
            }
        }
        processes.pop().unwrap_or_else(|| self.process.id())
    }

    /// All its processes.
    pub fn processes(&self) -> Processes {
        Processes { group: self.process.id() }
    }
}

/// The processes of one pgvane: more than one while another process takes over, and for as long as sessions stay in the
/// old one.
#[derive(Debug, Clone, Copy)]
pub struct Processes {
    group: u32,
}

impl Processes {
    /// Those that run now.
    pub fn ids(self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").into_iter().flatten();
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        numbers.filter(|number| runs_in_group(*number, self.group)).collect()
    }
}

/// Whether the process runs and belongs to this process group, from `/proc/PID/stat`.
fn runs_in_group(process: u32, group: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // the name of the program is in parentheses, and may contain any character
    let mut fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).into_iter().flatten();
    let (state, its_group) = (fields.next(), fields.nth(1).and_then(|group| group.parse().ok()));
    its_group == Some(group) && !matches!(state, None | Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_has_ended_is_none_of_its_group_any_more() {
        let own = std::process::id();
        let group = rustix::process::getpgrp().as_raw_nonzero().get().unsigned_abs();
        assert!(runs_in_group(own, group));
        assert!(!runs_in_group(own, group + 1));
        let mut child = Command::new("true").spawn().expect("is on every system");
        let ended = child.id();
        child.wait().expect("it ends");
        assert!(!runs_in_group(ended, group));
    }
}
