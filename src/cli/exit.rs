//! Exit codes, from `sysexits.h`.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// Something went wrong that no other code names.
pub(super) const FAILURE: u8 = 1;
/// The command line makes no sense.
pub(super) const USAGE: u8 = 64;
/// A file cannot be read.
pub(super) const NO_INPUT: u8 = 66;
/// A defect of pgvane: the service manager should start it again.
pub(super) const SOFTWARE: u8 = 70;
/// Whoever asks may not.
pub(super) const NO_PERMISSION: u8 = 77;
/// The configuration is faulty.
pub(super) const CONFIG: u8 = 78;

/// Says what is wrong, and gives the code to end with.
pub(super) fn failed(code: u8, why: impl Display) -> ExitCode {
    // standard error may be closed or full, and the code must be given all the same
    let _ = writeln!(io::stderr(), "pgvane: {why}");
    ExitCode::from(code)
}
