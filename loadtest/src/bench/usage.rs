//! What a process has used so far.

use std::collections::HashSet;
use std::time::Duration;
use std::{fs, io};

use nix::errno::Errno;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

use crate::error::Doing;
use crate::{Error, Result};

/// User and system time of all threads, those that have ended among them: to the nanosecond, where `/proc/PID/stat`
/// counts hundredths of a second.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let number = pid.try_into().map_or(Err(Errno::ESRCH), |pid| Ok(Pid::from_raw(pid)));
    let time = number.and_then(clock_getcpuclockid).and_then(ClockId::now);
    let time = time.map_err(io::Error::from).doing(|| format!("reading the CPU time of process {pid}"))?;
    Ok(time.into())
}

/// Memory in RAM, bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// The most memory in RAM so far, bytes.
pub fn resident_bytes_max(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, label: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).doing(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    let kilobytes: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kilobytes.map(|kilobytes| kilobytes * 1024).ok_or_else(|| unreadable(&path, &text))
}

/// Number of open file descriptors.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(open_descriptors(pid)?.len())
}

/// The open file descriptors.
pub fn open_descriptors(pid: u32) -> Result<HashSet<u64>> {
    let path = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&path).doing(|| format!("reading {path}"))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

fn unreadable(path: &str, text: &str) -> Error {
    Error::Command { command: format!("reading {path}"), output: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_usage_can_be_read() {
        let pid = std::process::id();
        assert!(resident_bytes(pid).expect("readable") > 100_000);
        assert!(cpu_time(pid).expect("readable") > Duration::ZERO);
        assert!(open_descriptors(pid).expect("readable").contains(&0));
        assert!(cpu_time(u32::MAX).is_err());
    }
}
