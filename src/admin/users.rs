//! Authentication for the admin API: HTTP Basic, against the users of the configuration.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SystemRandom;

use crate::config::AdminUser;

/// How long the answer to a wrong user name or password is delayed. This makes guessing slow; a typo costs one second.
pub(super) const PENALTY: Duration = Duration::from_secs(1);

/// The users, and the key under which names and passwords are compared.
pub(super) struct Users {
    users: Vec<AdminUser>,
    key: hmac::Key,
}

/// Why a request may not change anything.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// The configuration has no users.
    NoUsers,
    /// The request has no user name and password.
    NoCredentials,
    /// The user name or the password is wrong. Holds the user name of the request.
    WrongCredentials(String),
}

impl Users {
    /// The users of the configuration.
    pub(super) fn new(users: Vec<AdminUser>) -> Users {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Users { users, key: key.expect("the kernel gives 32 random bytes") }
    }

    /// The name of the user who sent the request.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<&str, Denied> {
        if self.users.is_empty() {
            return Err(Denied::NoUsers);
        }
        let (name, password) = credentials(headers).ok_or(Denied::NoCredentials)?;
        // compares with all users, so that the time does not show whether the user exists
        let found = self.users.iter().fold(None, |found, user| {
            let (is_named, is_known) = (self.same(&user.name, &name), self.same(user.password.reveal(), &password));
            if is_named & is_known { Some(user) } else { found }
        });
        found.map(|user| user.name.as_str()).ok_or(Denied::WrongCredentials(name))
    }

    /// Compares two texts. Compares their hashes under a random key, so that the time shows nothing about the texts.
    fn same(&self, one: &str, other: &str) -> bool {
        let tag = hmac::sign(&self.key, one.as_bytes());
        hmac::verify(&self.key, other.as_bytes(), tag.as_ref()).is_ok()
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.users).finish()
    }
}

/// User name and password of a request (RFC 7617).
fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let header = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = header.split_once(' ')?;
    let decoded = STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(name, password)| (name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn users(names: &[(&str, &str)]) -> Users {
        let user =
            |(name, password): &(&str, &str)| AdminUser { name: (*name).to_owned(), password: Secret::new(*password) };
        Users::new(names.iter().map(user).collect())
    }

    fn with(authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization.parse().expect("a header"));
        headers
    }

    fn basic(text: &str) -> HeaderMap {
        with(&format!("Basic {}", STANDARD.encode(text)))
    }

    #[test]
    fn a_user_is_known_by_name_and_password_together() {
        let users = users(&[("ops", "a:b"), ("bot", "c")]);
        assert_eq!(users.authenticate(&basic("ops:a:b")), Ok("ops"));
        assert_eq!(users.authenticate(&basic("bot:c")), Ok("bot"));
        for wrong in ["ops:c", "bot:a:b", "ops:", "ops:a:bc", "OPS:a:b", ":a:b", "eve:a:b"] {
            let name = wrong.split(':').next().expect("a name").to_owned();
            assert_eq!(users.authenticate(&basic(wrong)), Err(Denied::WrongCredentials(name)), "{wrong}");
        }
    }

    #[test]
    fn a_malformed_authorization_header_is_no_credentials() {
        let users = users(&[("ops", "a")]);
        assert_eq!(users.authenticate(&HeaderMap::new()), Err(Denied::NoCredentials));
        for malformed in ["Basic", "Basic !!!", "Bearer b3BzOmE=", "Basic b3Bz"] {
            assert_eq!(users.authenticate(&with(malformed)), Err(Denied::NoCredentials), "{malformed}");
        }
        assert_eq!(users.authenticate(&with("basic b3BzOmE=")), Ok("ops"));
    }

    #[test]
    fn without_users_every_request_is_denied() {
        assert_eq!(users(&[]).authenticate(&basic("ops:a")), Err(Denied::NoUsers));
    }

    #[test]
    fn passwords_are_not_shown() {
        assert!(!format!("{:?}", users(&[("ops", "hunter2")])).contains("hunter2"));
    }
}
