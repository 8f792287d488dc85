//! What has been read from files, and is read anew when they have changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::TlsError;

/// Something that is made of settings and of the files that these name.
pub trait FromFiles: Sized {
    /// What is wanted.
    type Settings;

    /// Reads the files.
    fn read(settings: &Self::Settings) -> Result<Self, TlsError>;

    /// Which files that are.
    fn files(settings: &Self::Settings) -> Vec<PathBuf>;
}

/// Something that was read from files, and can be read again while it is in use.
#[derive(Debug)]
pub struct Reloading<T: FromFiles> {
    settings: T::Settings,
    current: ArcSwap<T>,
    seen: Mutex<Seen>,
}

/// What a look at the files has come to.
#[derive(Debug)]
pub enum Look {
    /// They are those that are in use.
    Unchanged,
    /// They have changed, and what is in them is in use from now on.
    Renewed,
    /// They have changed, and cannot be used: what was in use stays so. Said once for each change.
    Failed(TlsError),
}

/// The files' states at two moments.
#[derive(Debug)]
struct Seen {
    /// When they were last read, in vain or not.
    read: Vec<Option<State>>,
    /// At the last look.
    newest: Vec<Option<State>>,
}

/// By what a file that was changed or replaced is known. Links are followed: a container's secrets are swapped by a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl<T: FromFiles> Reloading<T> {
    /// Reads the files for the first time. Errors: as [`FromFiles::read`] has them.
    pub fn new(settings: T::Settings) -> Result<Reloading<T>, TlsError> {
        let before = states(&T::files(&settings)); // should they change meanwhile, they are read again
        let current = ArcSwap::from_pointee(T::read(&settings)?);
        Ok(Reloading { settings, current, seen: Mutex::new(Seen { read: before.clone(), newest: before }) })
    }

    /// What is in use now.
    pub fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Whether there are no files at all that could change.
    pub fn is_settled(&self) -> bool {
        T::files(&self.settings).is_empty()
    }

    /// Reads the files anew if they have changed since they were last read and have rested since the look before: a
    /// certificate and its key are written one after the other. With `at_once`, in any case.
    ///
    /// Blocks for as long as the files' disk takes.
    pub fn look(&self, at_once: bool) -> Look {
        let mut seen = self.seen.lock();
        let now = states(&T::files(&self.settings));
        let rests = now == seen.newest;
        seen.newest = now.clone();
        let is_due = at_once || (rests && now != seen.read);
        if !is_due || now.is_empty() {
            return Look::Unchanged;
        }
        seen.read = now;
        match T::read(&self.settings) {
            Ok(renewed) => {
                self.current.store(Arc::new(renewed));
                Look::Renewed
            }
            Err(error) => Look::Failed(error),
        }
    }
}

fn states(files: &[PathBuf]) -> Vec<Option<State>> {
    files.iter().map(|file| state(file)).collect()
}

fn state(file: &Path) -> Option<State> {
    let found = fs::metadata(file).ok()?;
    Some(State {
        device: found.dev(),
        inode: found.ino(),
        length: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}
