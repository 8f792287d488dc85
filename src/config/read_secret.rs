//! Reads a password: from the configuration file or, which is better, from a separate file.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::Secret;
use super::section::Section;
use crate::tls::is_open_to_others;

/// The password of a table: the value of its key `password`, or the content of its `password_file`. `path` is the
/// table's name for messages. `None` if both keys are absent, or if the file cannot be used, which is reported as a
/// fault.
pub(super) fn password(section: &Section<'_>, path: &str) -> Option<Secret> {
    let given = section.string("password").map(Secret::new);
    let Some(file) = section.string("password_file") else { return given };
    if given.is_some() {
        section.fault_at(
            "password_file",
            format!("{path} has both password and password_file"),
            "remove password: with password_file the configuration file contains no secret",
        );
    }
    match fs::read_to_string(&file).map(|text| text.trim().to_owned()) {
        Ok(text) if text.is_empty() => {
            section.fault_at(
                "password_file",
                format!("{path}.password_file: {file} is empty"),
                "write only the password into the file, or remove password_file if no password is needed",
            );
            None
        }
        Ok(text) => {
            warn_if_open_to_others(section, path, &file);
            Some(Secret::new(text))
        }
        Err(error) => {
            section.fault_at(
                "password_file",
                format!("{path}.password_file: cannot read {file}: {error}"),
                "write the path of a file that the user that runs pgvane can read",
            );
            None
        }
    }
}

/// Warns of a password file that other users can read. For files of root the rule is that of private keys: pgvane's own
/// group may read them. libpq ignores such a file with a warning (`.pgpass`). Here it is
/// used: secrets of containers are often readable by all users inside the container.
fn warn_if_open_to_others(section: &Section<'_>, path: &str, file: &str) {
    let Ok(metadata) = fs::metadata(file) else { return };
    let mode = metadata.permissions().mode() & 0o7777;
    if is_open_to_others(&metadata) {
        section.warn_at(
            "password_file",
            format!(
                "{path}.password_file: other users can read {file}, which has mode {mode:04o}: run chmod 0600 {file} if it \
                 belongs to pgvane's user, or chmod 0640 if it belongs to root and to pgvane's group"
            ),
        );
    }
}
