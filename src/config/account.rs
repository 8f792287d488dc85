//! Users and groups of this host, given by name or number.

use nix::unistd::{Group, User};

/// The uid of a user. Errors: what is wrong.
pub(super) fn user(text: &str) -> Result<u32, String> {
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => text.parse().map_err(|_| format!("user \"{text}\" does not exist on this host")),
    }
}

/// The gid of a group. Errors: what is wrong.
pub(super) fn group(text: &str) -> Result<u32, String> {
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => text.parse().map_err(|_| format!("group \"{text}\" does not exist on this host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        assert_eq!((user("root"), group("root")), (Ok(0), Ok(0)));
        assert_eq!((user("4711"), group("4711")), (Ok(4711), Ok(4711)));
        assert!(user("nobody of this name").is_err() && group("no group of this name").is_err());
    }
}
