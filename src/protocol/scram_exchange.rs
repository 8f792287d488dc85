//! Watches how a server authenticates a client, between the two, and keeps what a client's SCRAM proof is worth: together
//! with the role's verifier it is the key of the role ([`super::scram::Verifier::role_key`]).
//!
//! Formats: PostgreSQL's documentation, "SASL Authentication"; RFC 5802, sections 5 and 7.

use std::fmt;

use zeroize::Zeroizing;

use super::authentication::{AuthenticatedBy, SASL, SASL_CONTINUE, SASL_FINAL, SCRAM, SCRAM_PLUS, method, sasl_method};
use super::message::HEADER_LENGTH;
use super::message::from_client::RESPONSE;
use super::scram::{self, KEY_LENGTH, RoleKey, ServerFirst, Verifier};

/// A proof of a client that a server has accepted, and what it was for.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof {
    auth_message: Zeroizing<Vec<u8>>,
    proof: Zeroizing<[u8; KEY_LENGTH]>,
    salt: Vec<u8>,
    iterations: u32,
}

impl Proof {
    /// Whether it was made for a server that has this verifier, as far as the server has told.
    pub fn fits(&self, verifier: &Verifier) -> bool {
        verifier.is_announced_by(&self.salt, self.iterations)
    }

    /// The key of the role, by the role's verifier. `None` if the verifier is of another password.
    pub fn role_key(&self, verifier: &Verifier) -> Option<RoleKey> {
        if self.fits(verifier) { verifier.role_key(&self.auth_message, &self.proof) } else { None }
    }
}

impl fmt::Debug for Proof {
    /// Never shows the proof: with the verifier it is as good as the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof")
    }
}

/// The authentication of one client at one server.
#[derive(Debug, Default)]
pub struct Exchange(Progress);

#[derive(Default)]
enum Progress {
    /// The server has asked nothing.
    #[default]
    NotAsked,
    /// The server has offered mechanisms of SASL.
    Offered,
    /// The client has begun SCRAM; its message without what concerns channel binding.
    Begun { client_first: Vec<u8> },
    /// The server has answered.
    Answered { client_first: Vec<u8>, server_first: Vec<u8> },
    /// The client has sent its proof.
    Proved(Proof),
    /// It is SCRAM, and cannot be read.
    Unreadable,
    /// It is another method.
    Other(String),
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

impl Exchange {
    /// The server has sent this authentication request, a whole message, other than `AuthenticationOk`.
    pub fn server_asks(&mut self, request: &[u8]) {
        let Some((code, content)) = request.get(HEADER_LENGTH..).and_then(|body| body.split_first_chunk::<4>()) else {
            self.0 = Progress::Unreadable;
            return;
        };
        self.0 = match (u32::from_be_bytes(*code), std::mem::take(&mut self.0)) {
            (SASL, Progress::NotAsked) => Progress::Offered,
            (SASL_CONTINUE, Progress::Begun { client_first }) => {
                Progress::Answered { client_first, server_first: content.to_vec() }
            }
            (SASL_FINAL, proved @ Progress::Proved(_)) => proved,
            (_, other @ Progress::Other(_)) => other, // several requests of one method
            (code, Progress::NotAsked) => Progress::Other(method(code)),
            _ => Progress::Unreadable,
        };
    }

    /// The client has sent these whole messages.
    pub fn client_sends(&mut self, mut messages: &[u8]) {
        while let Some((&[kind, ref length @ ..], _)) = messages.split_first_chunk::<HEADER_LENGTH>() {
            let length = u32::from_be_bytes(*length) as usize + 1;
            let Some((message, rest)) = messages.split_at_checked(length.max(HEADER_LENGTH)) else {
                self.0 = Progress::Unreadable;
                return;
            };
            if kind == RESPONSE {
                self.client_answers(&message[HEADER_LENGTH..]);
            }
            messages = rest;
        }
    }

    fn client_answers(&mut self, body: &[u8]) {
        self.0 = match std::mem::take(&mut self.0) {
            Progress::Offered => begun(body),
            Progress::Answered { client_first, server_first } => {
                proof(&client_first, &server_first, body).map_or(Progress::Unreadable, Progress::Proved)
            }
            other @ (Progress::Other(_) | Progress::NotAsked) => other,
            Progress::Begun { .. } | Progress::Proved(_) | Progress::Unreadable => Progress::Unreadable,
        };
    }

    /// The server has let the client in: how it has authenticated it, and its proof, if it was one by SCRAM.
    pub fn accepted(self) -> (AuthenticatedBy, Option<Proof>) {
        match self.0 {
            Progress::NotAsked => (AuthenticatedBy::Nothing, None),
            Progress::Proved(proof) => {
                let by = AuthenticatedBy::Scram { salt: proof.salt.clone(), iterations: proof.iterations };
                (by, Some(proof))
            }
            Progress::Other(what) => (AuthenticatedBy::Other(what), None),
            Progress::Offered | Progress::Begun { .. } | Progress::Answered { .. } | Progress::Unreadable => {
                (AuthenticatedBy::Other("an authentication that pgvane could not read".to_owned()), None)
            }
        }
    }
}

/// `SASLInitialResponse`: the name of the mechanism, a length, the client's first message.
fn begun(body: &[u8]) -> Progress {
    let Some(end) = body.iter().position(|byte| *byte == 0) else { return Progress::Unreadable };
    let (mechanism, rest) = (&body[..end], &body[end + 1..]);
    if ![SCRAM, SCRAM_PLUS].contains(&mechanism) {
        return Progress::Other(sasl_method(&[mechanism]));
    }
    // the flag of channel binding and the other user's name end with a comma each
    let first = rest.get(4..).and_then(|message| message.splitn(3, |byte| *byte == b',').nth(2));
    first.map_or(Progress::Unreadable, |first| Progress::Begun { client_first: first.to_vec() })
}

/// The proof in the client's final message, `c=<binding>,r=<nonce>,p=<proof>`.
fn proof(client_first: &[u8], server_first: &[u8], client_final: &[u8]) -> Option<Proof> {
    let text = std::str::from_utf8(client_final).ok()?;
    let (without_proof, proof) = text.rsplit_once(",p=")?;
    let server = ServerFirst::read(server_first)?;
    Some(Proof {
        auth_message: [client_first, server_first, without_proof.as_bytes()].join(&b',').into(),
        proof: scram::key(proof)?,
        salt: server.salt,
        iterations: server.iterations,
    })
}

/// Exchanges, for tests.
#[cfg(test)]
pub(crate) mod for_tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use pgvane_loadtest::messages::message;

    use super::super::scram::for_tests::role_key;
    use super::*;

    const CLIENT_FIRST: &str = "n=,r=client";

    pub(super) fn request(code: u32, content: &[u8]) -> Vec<u8> {
        message(b'R', &[&code.to_be_bytes()[..], content].concat())
    }

    pub(super) fn offer() -> Vec<u8> {
        request(SASL, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
    }

    pub(super) fn chooses(mechanism: &[u8], first: &str) -> Vec<u8> {
        let length = u32::try_from(first.len()).expect("is short").to_be_bytes();
        message(b'p', &[mechanism, &[0], &length, first.as_bytes()].concat())
    }

    /// The exchange of a client that knows the password, with this mechanism and these fields of channel binding.
    pub(super) fn exchange(mechanism: &[u8], [flag, binding]: [&str; 2], password: &str, salt: &[u8]) -> Exchange {
        let server_first = format!("r=client+server,s={},i=4096", BASE64.encode(salt));
        let mut exchange = Exchange::default();
        exchange.server_asks(&offer());
        exchange.client_sends(&chooses(mechanism, &format!("{flag}{CLIENT_FIRST}")));
        exchange.server_asks(&request(SASL_CONTINUE, server_first.as_bytes()));
        let without_proof = format!("c={binding},r=client+server");
        let auth_message = [CLIENT_FIRST, &server_first, &without_proof].join(",");
        let proof = BASE64.encode(role_key(password, salt, 4096).proof(auth_message.as_bytes()));
        exchange.client_sends(&message(b'p', format!("{without_proof},p={proof}").as_bytes()));
        exchange.server_asks(&request(SASL_FINAL, b"v=signature"));
        exchange
    }

    /// The proof of a client that knows the password, at a server with this salt and 4096 iterations.
    pub(crate) fn proof_of(password: &str, salt: &[u8]) -> Proof {
        exchange(SCRAM, ["n,,", "biws"], password, salt).accepted().1.expect("has one")
    }
}

#[cfg(test)]
mod tests {
    use pgvane_loadtest::messages::{message, query};
    use proptest::prelude::*;

    use super::super::scram::for_tests::role_key;
    use super::for_tests::{chooses, exchange, offer, request};
    use super::*;

    const SALT: &[u8] = b"0123456789abcdef";
    #[test]
    fn with_the_verifier_the_key_of_the_role_comes_out_with_and_without_channel_binding() {
        let expected = role_key("pencil", SALT, 4096);
        for (mechanism, flag, binding) in [
            (SCRAM, "n,,", "biws"),
            (SCRAM, "y,,", "eSws"),
            (SCRAM, "n,a=other,", "bixhPW90aGVyLA=="),
            (SCRAM_PLUS, "p=tls-server-end-point,,", "cD10bHMtc2VydmVyLWVuZC1wb2ludCwsaGFzaA=="),
        ] {
            let (by, proof) = exchange(mechanism, [flag, binding], "pencil", SALT).accepted();
            assert_eq!(by, AuthenticatedBy::Scram { salt: SALT.to_vec(), iterations: 4096 });
            let key = proof.expect("has one").role_key(expected.verifier());
            assert_eq!(key.as_ref(), Some(&expected), "{flag}");
        }
    }

    #[test]
    fn a_proof_of_another_password_gives_no_key() {
        let (_, proof) = exchange(SCRAM, ["n,,", "biws"], "pencil", SALT).accepted();
        let proof = proof.expect("has one");
        assert_eq!(proof.role_key(role_key("eraser", SALT, 4096).verifier()), None);
        assert!(!proof.fits(role_key("pencil", b"another", 4096).verifier()));
        assert!(!proof.fits(role_key("pencil", SALT, 8192).verifier()));
    }

    #[test]
    fn what_is_not_scram_has_its_name() {
        let by = |take: &dyn Fn(&mut Exchange)| {
            let mut exchange = Exchange::default();
            take(&mut exchange);
            let (by, proof) = exchange.accepted();
            assert_eq!(proof, None);
            by.to_string()
        };
        assert_eq!(by(&|_| ()), "nothing");
        let password = message(b'p', b"secret\0");
        let asked = |code: u32| {
            move |exchange: &mut Exchange| {
                exchange.server_asks(&request(code, b""));
                exchange.client_sends(&message(b'p', b"secret\0"));
            }
        };
        assert_eq!(by(&asked(3)), "the password in plaintext");
        assert_eq!(by(&asked(5)), "an MD5 hash");
        assert_eq!(
            by(&|exchange| {
                exchange.server_asks(&request(7, b""));
                exchange.client_sends(&password);
                exchange.server_asks(&request(8, b"token"));
                exchange.client_sends(&password);
            }),
            "GSSAPI"
        );
        assert_eq!(
            by(&|exchange| {
                exchange.server_asks(&request(SASL, b"OAUTHBEARER\0\0"));
                exchange.client_sends(&chooses(b"OAUTHBEARER", "n,,\x01auth=\x01\x01"));
            }),
            "SASL with OAUTHBEARER"
        );
    }

    #[test]
    fn an_exchange_that_is_not_complete_proves_nothing() {
        let mut exchange = Exchange::default();
        exchange.server_asks(&offer());
        exchange.client_sends(&chooses(SCRAM, "n,,n=,r=client"));
        let (by, proof) = exchange.accepted();
        assert!(matches!(by, AuthenticatedBy::Other(_)) && proof.is_none());
    }

    #[test]
    fn what_the_client_sends_ahead_is_not_part_of_it() {
        let mut exchange = Exchange::default();
        exchange.client_sends(&[query("select 1"), message(b'p', b"early\0")].concat());
        assert_eq!(exchange.accepted(), (AuthenticatedBy::Nothing, None));
    }

    #[test]
    fn proofs_are_not_shown() {
        let exchange = exchange(SCRAM, ["n,,", "biws"], "pencil", SALT);
        assert_eq!(format!("{exchange:?}"), "Exchange(Progress)");
        let (_, proof) = exchange.accepted();
        assert_eq!(format!("{proof:?}"), "Some(Proof)");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            steps in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..6),
            begins in any::<bool>(),
        ) {
            let mut exchange = Exchange::default();
            if begins {
                exchange.server_asks(&offer());
                exchange.client_sends(&chooses(SCRAM, "n,,n=,r=client"));
            }
            for (is_server, body) in steps {
                match is_server {
                    true => exchange.server_asks(&message(b'R', &body)),
                    false => exchange.client_sends(&message(b'p', &body)),
                }
                exchange.client_sends(&body);
            }
            let _ = exchange.accepted();
        }
    }
}
