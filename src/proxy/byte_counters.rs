//! How many bytes a session has moved, each way.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The bytes of one session, counted by the task that moves them and read by others at any time.
#[derive(Debug, Default)]
pub struct ByteCounters {
    to_server: AtomicU64,
    to_client: AtomicU64,
}

impl ByteCounters {
    /// Begins with these numbers, to the server and to the client, before any byte is counted.
    pub fn begin_with(&self, [to_server, to_client]: [u64; 2]) {
        self.to_server.store(to_server, Relaxed);
        self.to_client.store(to_client, Relaxed);
    }

    /// Begins again with none, and returns what there was. No bytes may be counted at this moment.
    pub fn take(&self) -> [u64; 2] {
        [self.to_server.swap(0, Relaxed), self.to_client.swap(0, Relaxed)]
    }

    /// Counts bytes that are sent to the server.
    pub fn add_to_server(&self, length: usize) {
        self.to_server.fetch_add(length as u64, Relaxed);
    }

    /// Counts bytes that are sent to the client.
    pub fn add_to_client(&self, length: usize) {
        self.to_client.fetch_add(length as u64, Relaxed);
    }

    /// Bytes that the server and the client were sent so far.
    pub fn read(&self) -> [u64; 2] {
        [self.to_server.load(Relaxed), self.to_client.load(Relaxed)]
    }
}
