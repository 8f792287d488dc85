//! Reads pgvane's memory and descriptors several times a second.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pgvane_loadtest::bench::usage;
use pgvane_loadtest::pgvane::Processes;
use tokio::task::JoinHandle;

const READS_EVERY: Duration = Duration::from_millis(200);
const REST_READS: usize = 30;
const REST_READS_EVERY: Duration = Duration::from_millis(100);
/// With fewer steps there is no trend to see.
const TREND_STEPS_MIN: usize = 12;
/// The allocator keeps some of what a crowd has used; a leak of one session's memory in each step is more than this.
const GROWTH_BYTES_MAX: u64 = 8 * 1024 * 1024;
const GROWTH_DESCRIPTORS_MAX: usize = 10;

/// What pgvane uses at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Resident memory.
    pub(super) bytes: u64,
    pub(super) descriptors: usize,
}

impl Usage {
    /// Of all processes together.
    pub(super) fn of(processes: Processes) -> Usage {
        let each = processes.ids().into_iter().filter_map(|process| {
            let bytes = usage::resident_bytes(process).ok()?; // it may have ended just now
            Some(Usage { bytes, descriptors: usage::descriptors(process).ok()? })
        });
        each.fold(Usage::default(), Usage::plus)
    }

    pub(super) fn plus(self, other: Usage) -> Usage {
        Usage { bytes: self.bytes + other.bytes, descriptors: self.descriptors + other.descriptors }
    }

    /// The smallest values of some seconds: what is in use at every moment, without the sessions that come and go.
    pub(super) async fn at_rest(processes: Processes) -> Usage {
        let mut least = Usage::of(processes);
        for _ in 0..REST_READS {
            tokio::time::sleep(REST_READS_EVERY).await;
            let usage = Usage::of(processes);
            least.bytes = least.bytes.min(usage.bytes);
            least.descriptors = least.descriptors.min(usage.descriptors);
        }
        least
    }

    pub(super) fn max(self, other: Usage) -> Usage {
        Usage { bytes: self.bytes.max(other.bytes), descriptors: self.descriptors.max(other.descriptors) }
    }

    pub(super) fn is_within(self, limit: Usage) -> bool {
        self.bytes <= limit.bytes && self.descriptors <= limit.descriptors
    }

    /// In megabytes.
    pub(super) fn memory(self) -> String {
        let tenths = self.bytes * 10 / (1024 * 1024);
        format!("{}.{} MB", tenths / 10, tenths % 10)
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} descriptors", self.memory(), self.descriptors)
    }
}

/// Reads the usage of the processes until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    peak: Arc<Mutex<Usage>>,
    task: JoinHandle<()>,
}

impl Watch {
    pub(super) fn start(processes: Processes) -> Watch {
        let peak = Arc::new(Mutex::new(Usage::default()));
        let shared = Arc::clone(&peak);
        let task = tokio::spawn(async move {
            loop {
                let usage = Usage::of(processes);
                {
                    let mut peak = locked(&shared);
                    *peak = peak.max(usage);
                }
                tokio::time::sleep(READS_EVERY).await;
            }
        });
        Watch { peak, task }
    }

    /// The largest values since the last call.
    pub(super) fn take_peak(&self) -> Usage {
        std::mem::take(&mut *locked(&self.peak))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked(peak: &Mutex<Usage>) -> MutexGuard<'_, Usage> {
    peak.lock().expect("nobody panics with this lock")
}

/// Why the usage after each step, in order, is not flat; `None` if it is.
///
/// Compares the medians of the first and the last third, so that a single step does not count.
pub(super) fn growth(after_steps: &[Usage]) -> Option<String> {
    if after_steps.len() < TREND_STEPS_MIN {
        return None;
    }
    let third = after_steps.len() / 3;
    let (first, last) = (median(&after_steps[..third]), median(&after_steps[after_steps.len() - third..]));
    let is_flat =
        last.bytes <= first.bytes + GROWTH_BYTES_MAX && last.descriptors <= first.descriptors + GROWTH_DESCRIPTORS_MAX;
    (!is_flat).then(|| format!("pgvane has grown: {first} in the first third of the run, {last} in the last"))
}

fn median(usages: &[Usage]) -> Usage {
    let mut bytes: Vec<u64> = usages.iter().map(|usage| usage.bytes).collect();
    let mut descriptors: Vec<usize> = usages.iter().map(|usage| usage.descriptors).collect();
    bytes.sort_unstable();
    descriptors.sort_unstable();
    Usage { bytes: bytes[bytes.len() / 2], descriptors: descriptors[descriptors.len() / 2] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_in_each_step_is_seen_and_one_large_step_is_not_one() {
        let usage = |bytes: u64, descriptors| Usage { bytes, descriptors };
        let mut flat = vec![usage(20 << 20, 40); 30];
        flat[25] = usage(60 << 20, 400);
        assert_eq!(growth(&flat), None);
        let leaks_descriptors: Vec<Usage> = (0..30).map(|step| usage(20 << 20, 40 + step)).collect();
        assert!(growth(&leaks_descriptors).is_some());
        let leaks_memory: Vec<Usage> = (0..30).map(|step| usage((20 + step) << 20, 40)).collect();
        assert!(growth(&leaks_memory).is_some());
    }
}
