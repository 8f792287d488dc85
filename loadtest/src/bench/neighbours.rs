//! Busy neighbours: processes that use as much CPU time as they get, as on a host that a proxy shares with others.

use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::process::Process;

/// The processes; they end when this is dropped. They have the same priority as the proxies.
#[derive(Debug)]
pub struct Neighbours(Vec<Process>);

impl Neighbours {
    /// Starts `count` of them in `directory`, where their logs go too.
    pub fn start(count: usize, directory: &Path) -> Result<Self> {
        let start = |number| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "while :; do :; done"]);
            Process::start("a busy neighbour", command, directory, &directory.join(format!("neighbour-{number}.log")))
        };
        (0..count).map(start).collect::<Result<_>>().map(Self)
    }

    /// Their process ids.
    pub fn ids(&self) -> Vec<u32> {
        self.0.iter().map(Process::id).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::usage;
    use crate::scratch::Scratch;
    use crate::wait;

    #[tokio::test]
    async fn neighbours_use_cpu_time_until_they_are_dropped() {
        let scratch = Scratch::new().expect("a writable /tmp");
        let neighbours = Neighbours::start(2, scratch.directory()).expect("there is a shell");
        let ids = neighbours.ids();
        assert_eq!(ids.len(), 2);
        for id in &ids {
            wait::until("CPU time", Duration::from_secs(60), || async {
                let used = usage::cpu_time(*id).map_err(|error| error.to_string())?;
                if used > Duration::from_millis(100) { Ok(()) } else { Err(format!("{used:?}")) }
            })
            .await
            .expect("it is busy");
        }
        drop(neighbours);
        for id in ids {
            assert!(usage::cpu_time(id).is_err(), "it has ended");
        }
    }
}
