//! Reads a password: from the configuration file or, which is better, from a separate file.

use std::fs;

use super::Secret;
use super::document::Section;

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
        Ok(text) => Some(Secret::new(text)),
        Err(error) => {
            section.fault_at(
                "password_file",
                format!("{path}.password_file: cannot read {file}: {error}"),
                "write the path of a file that pgvane can read",
            );
            None
        }
    }
}
