//! Exit codes, from `sysexits.h`.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// A failure for which there is no other code.
pub(super) const FAILURE: u8 = 1;
/// The command line is wrong.
pub(super) const USAGE: u8 = 64;
/// A file cannot be read.
pub(super) const NO_INPUT: u8 = 66;
/// An internal error of pgvane: the service manager should start it again.
pub(super) const SOFTWARE: u8 = 70;
/// The user is not allowed to do this.
pub(super) const NO_PERMISSION: u8 = 77;
/// The configuration is faulty.
pub(super) const CONFIG: u8 = 78;

/// Prints why the command failed, and returns the exit code.
pub(super) fn failed(code: u8, why: impl Display) -> ExitCode {
    // standard error may be closed or full; the exit code must be returned in any case
    let _ = writeln!(io::stderr(), "pgvane: {why}");
    ExitCode::from(code)
}
