//! Who may change things: HTTP's basic authentication against the users of the configuration.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SystemRandom;

use crate::config::AdminUser;

/// What whoever fails to log in has to wait for the answer: guessing is slow, and a typo is not.
pub(super) const PENALTY: Duration = Duration::from_secs(1);

/// The users, and what their passwords are compared by.
pub(super) struct Users {
    users: Vec<AdminUser>,
    key: hmac::Key,
}

/// Why somebody may not change anything.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// There are no users: nobody may.
    Nobody,
    /// No name and password were given.
    Unnamed,
    /// The name or the password is wrong; the name as it was given.
    Wrong(String),
}

impl Users {
    /// The users of the configuration.
    pub(super) fn new(users: Vec<AdminUser>) -> Users {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Users { users, key: key.expect("the kernel has 32 random bytes to give") }
    }

    /// The name of the user that a request comes from.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<&str, Denied> {
        if self.users.is_empty() {
            return Err(Denied::Nobody);
        }
        let (name, password) = credentials(headers).ok_or(Denied::Unnamed)?;
        // every user is compared with, so that the time it takes tells nothing
        let found = self.users.iter().fold(None, |found, user| {
            let (is_named, is_known) = (self.same(&user.name, &name), self.same(user.password.reveal(), &password));
            if is_named & is_known { Some(user) } else { found }
        });
        found.map(|user| user.name.as_str()).ok_or(Denied::Wrong(name))
    }

    /// Compares in a time that tells nothing about the texts: what is compared are their hashes under a key that nobody
    /// knows.
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

/// Name and password of a request: RFC 7617.
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
        headers.insert(header::AUTHORIZATION, authorization.parse().expect("is a header"));
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
            let name = wrong.split(':').next().expect("has one").to_owned();
            assert_eq!(users.authenticate(&basic(wrong)), Err(Denied::Wrong(name)), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_name_and_password_is_none() {
        let users = users(&[("ops", "a")]);
        assert_eq!(users.authenticate(&HeaderMap::new()), Err(Denied::Unnamed));
        for odd in ["Basic", "Basic !!!", "Bearer b3BzOmE=", "Basic b3Bz"] {
            assert_eq!(users.authenticate(&with(odd)), Err(Denied::Unnamed), "{odd}");
        }
        assert_eq!(users.authenticate(&with("basic b3BzOmE=")), Ok("ops"));
    }

    #[test]
    fn without_users_nobody_may() {
        assert_eq!(users(&[]).authenticate(&basic("ops:a")), Err(Denied::Nobody));
    }

    #[test]
    fn passwords_are_not_shown() {
        assert!(!format!("{:?}", users(&[("ops", "hush")])).contains("hush"));
    }
}
