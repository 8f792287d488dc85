//! What a process has used so far, by `/proc`.

use std::fs;
use std::time::Duration;

use crate::error::Doing;
use crate::{Error, Result};

/// `USER_HZ`, the unit of times in `/proc`; a constant of Linux' interface on every machine that this runs on.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time of all threads.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).doing(|| format!("reading {path}"))?;
    let ticks = ticks_in(&text).ok_or_else(|| unreadable(&path, &text))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Memory in RAM, bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).doing(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kilobytes.map(|kilobytes| kilobytes * 1024).ok_or_else(|| unreadable(&path, &text))
}

fn unreadable(path: &str, text: &str) -> Error {
    Error::Command { command: format!("reading {path}"), output: text.to_owned() }
}

/// Fields 14 and 15 of `proc_pid_stat(5)`; the second field, the name, may contain anything but ends at the last `)`.
fn ticks_in(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_strange_name() {
        assert_eq!(ticks_in("7 (a) b) S 1 7 7 0 -1 4 1 0 0 0 30 12 0 0 20 0"), Some(42));
    }

    #[test]
    fn our_own_usage_can_be_read() {
        let pid = std::process::id();
        assert!(resident_bytes(pid).expect("readable") > 100_000);
        cpu_time(pid).expect("readable");
    }
}
