//! The `pgvane` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgvane::cli::main()
}
