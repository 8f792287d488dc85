//! The pgvane that is tested.

use std::path::PathBuf;

/// The program that was built with these tests, or the one that the environment variable `PGVANE_PROGRAM` names: with
/// it, the same tests show what an older build did.
pub fn pgvane() -> PathBuf {
    std::env::var_os("PGVANE_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_pgvane").into(), PathBuf::from)
}
