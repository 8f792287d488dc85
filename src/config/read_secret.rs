//! Reads a password: from the configuration file, or better from a file of its own.

use std::fs;

use super::Secret;
use super::document::Section;

/// The password of a table that is called `path` in messages: its key `password`, or what is in its `password_file`.
/// `None` if there is neither, or the file is of no use; that is a fault then.
pub(super) fn password(section: &Section<'_>, path: &str) -> Option<Secret> {
    let given = section.string("password").map(Secret::new);
    let Some(file) = section.string("password_file") else { return given };
    if given.is_some() {
        section.fault_at(
            "password_file",
            format!("{path} has both a password and a password_file"),
            "keep password_file: the configuration file can then be shown to others",
        );
    }
    match fs::read_to_string(&file).map(|text| text.trim().to_owned()) {
        Ok(text) if text.is_empty() => {
            section.fault_at(
                "password_file",
                format!("{path}.password_file: {file} is empty"),
                "write the password into it, and nothing else; or leave the key out if none is needed",
            );
            None
        }
        Ok(text) => Some(Secret::new(text)),
        Err(error) => {
            section.fault_at(
                "password_file",
                format!("{path}.password_file: cannot read {file}: {error}"),
                "give the path of a file that pgvane may read",
            );
            None
        }
    }
}
