//! Loads a value from files, and loads it again when the files change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::TlsError;

/// A value that is made from settings and from the files that the settings name.
pub trait FromFiles: Sized {
    /// The settings.
    type Settings;

    /// Reads the files.
    fn read(settings: &Self::Settings) -> Result<Self, TlsError>;

    /// The files.
    fn files(settings: &Self::Settings) -> Vec<PathBuf>;
}

/// A value that was loaded from files, and can be loaded again while it is in use.
#[derive(Debug)]
pub struct Reloading<T: FromFiles> {
    settings: T::Settings,
    current: ArcSwap<T>,
    seen: Mutex<Seen>,
}

/// The result of a check of the files.
#[derive(Debug)]
pub enum FileCheck {
    /// The files have not changed.
    Unchanged,
    /// The files have changed, and the new value is in use.
    Reloaded,
    /// The files have changed and cannot be loaded; the previous value stays in use. Reported once for each change.
    Failed(TlsError),
}

/// The files' states at two moments.
#[derive(Debug)]
struct Seen {
    /// At the last load, also if that failed.
    loaded: Vec<Option<State>>,
    /// At the last check.
    checked: Vec<Option<State>>,
}

/// What shows that a file was changed or replaced. Symbolic links are followed: Kubernetes replaces secrets by changing
/// a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl<T: FromFiles> Reloading<T> {
    /// Loads the files for the first time. Errors: those of [`FromFiles::read`].
    pub fn new(settings: T::Settings) -> Result<Reloading<T>, TlsError> {
        let before = states(&T::files(&settings)); // taken first: if the files change during the load, they load again
        let current = ArcSwap::from_pointee(T::read(&settings)?);
        Ok(Reloading { settings, current, seen: Mutex::new(Seen { loaded: before.clone(), checked: before }) })
    }

    /// The value in use.
    pub fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Whether there are no files, so that the value never changes.
    pub fn is_constant(&self) -> bool {
        T::files(&self.settings).is_empty()
    }

    /// Loads the files again if they have changed since the last load and have not changed since the last check: a
    /// certificate and its key are written one after the other. With `at_once`, loads them in any case.
    ///
    /// Blocks while it reads the files.
    pub fn check(&self, at_once: bool) -> FileCheck {
        let mut seen = self.seen.lock();
        let now = states(&T::files(&self.settings));
        let is_stable = now == seen.checked;
        seen.checked = now.clone();
        let is_due = at_once || (is_stable && now != seen.loaded);
        if !is_due || now.is_empty() {
            return FileCheck::Unchanged;
        }
        seen.loaded = now;
        match T::read(&self.settings) {
            Ok(loaded) => {
                self.current.store(Arc::new(loaded));
                FileCheck::Reloaded
            }
            Err(error) => FileCheck::Failed(error),
        }
    }
}

fn states(files: &[PathBuf]) -> Vec<Option<State>> {
    files.iter().map(|file| state(file)).collect()
}

fn state(file: &Path) -> Option<State> {
    let metadata = fs::metadata(file).ok()?;
    Some(State {
        device: metadata.dev(),
        inode: metadata.ino(),
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}
