//! Which authentication method a server may ask for, and how much it may send. This is checked before tokio-postgres
//! reads it, which would send the password to any server that asks for it.
//!
//! Formats: PostgreSQL's documentation, "Message Formats", `AuthenticationCleartextPassword` and its neighbours.

use std::io;

use crate::config::RequireAuth;

/// Type, length, and the code of the authentication method.
const REQUEST_LENGTH: usize = 9;

/// The number of bytes that a server may send between two requests. An answer has a few hundred.
const ANSWER_LENGTH_MAX: usize = 1 << 20;

/// Watches one connection.
#[derive(Debug)]
pub(super) struct AuthGuard {
    required: RequireAuth,
    /// TLS has verified the server.
    is_verified: bool,
    /// The first bytes from the server.
    first: Vec<u8>,
    /// The number of bytes from the server since the last request.
    received: usize,
}

impl AuthGuard {
    pub(super) fn new(required: RequireAuth, is_verified: bool) -> AuthGuard {
        AuthGuard { required, is_verified, first: Vec::new(), received: 0 }
    }

    /// A request is sent to the server.
    pub(super) fn request_sent(&mut self) {
        self.received = 0;
    }

    /// Checks bytes from the server. Errors: it asks for a weaker method than is allowed, or sends too much.
    pub(super) fn check(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.received += bytes.len();
        if self.received > ANSWER_LENGTH_MAX {
            return Err(io::Error::other(format!("the server sent more than {ANSWER_LENGTH_MAX} bytes")));
        }
        if self.first.len() >= REQUEST_LENGTH {
            return Ok(());
        }
        self.first.extend(bytes.iter().take(REQUEST_LENGTH - self.first.len()));
        match self.first[..] {
            [b'R', _, _, _, _, 0, 0, 0, 3] => self.take_plaintext(),
            [b'R', _, _, _, _, 0, 0, 0, 5] if self.required == RequireAuth::ScramSha256 => Err(refused("an MD5 hash")),
            _ => Ok(()),
        }
    }

    fn take_plaintext(&self) -> io::Result<()> {
        match (self.required, self.is_verified) {
            (RequireAuth::Password, true) => Ok(()),
            (RequireAuth::Password, false) => Err(io::Error::other(
                "the server asks for the password in plaintext, and TLS has not verified who it is",
            )),
            _ => Err(refused("the password in plaintext")),
        }
    }
}

fn refused(what: &str) -> io::Error {
    io::Error::other(format!("the server asks for {what}, which require_auth does not allow"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAINTEXT: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
    const MD5: &[u8] = b"R\0\0\0\x0c\0\0\0\x05salt";
    const SASL: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";

    fn takes(required: RequireAuth, is_verified: bool, asked: &[u8]) -> bool {
        let in_one = AuthGuard::new(required, is_verified).check(asked).is_ok();
        let mut guard = AuthGuard::new(required, is_verified);
        let in_bytes = asked.iter().all(|byte| guard.check(&[*byte]).is_ok());
        assert_eq!(in_one, in_bytes, "however it is cut");
        in_one
    }

    #[test]
    fn a_password_is_not_sent_to_a_server_that_asks_for_a_weaker_method_than_is_allowed() {
        use RequireAuth::{Md5, Password, ScramSha256};
        assert!(
            takes(ScramSha256, false, SASL) && !takes(ScramSha256, true, PLAINTEXT) && !takes(ScramSha256, true, MD5)
        );
        assert!(takes(Md5, false, SASL) && takes(Md5, false, MD5) && !takes(Md5, true, PLAINTEXT));
        assert!(takes(Password, true, PLAINTEXT) && !takes(Password, false, PLAINTEXT), "never to a stranger");
    }

    #[test]
    fn an_answer_without_end_is_cut_short_and_many_answers_are_not() {
        let mut guard = AuthGuard::new(RequireAuth::ScramSha256, false);
        for _ in 0..10_000 {
            guard.request_sent();
            guard.check(&[0; 1000]).expect("is an answer");
        }
        guard.request_sent();
        assert!((0..2000).any(|_| guard.check(&[0; 1000]).is_err()));
    }
}
