//! SCRAM-SHA-256 without the password: what a server keeps of it (the verifier), the key that a client's proof shows to
//! those who know the verifier, and the proof that this key makes for another login.
//!
//! Names and formulas: RFC 5802, section 3. The verifier's text: PostgreSQL's documentation, `pg_authid`, `rolpassword`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest::{SHA256, digest};
use ring::hmac::{self, HMAC_SHA256};
use zeroize::Zeroizing;

/// The length of SHA-256's hashes, of the keys, the proof and the signature.
pub const KEY_LENGTH: usize = 32;

/// A key of SCRAM-SHA-256. It is overwritten when it is dropped.
type Key = Zeroizing<[u8; KEY_LENGTH]>;

/// What a server keeps of a role's password. Who has it can check a proof, and cannot make one.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    salt: Box<[u8]>,
    iterations: u32,
    stored_key: Key,
    server_key: Key,
}

impl Verifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `rolpassword`. `None` if it is no such
    /// text: the hash of an MD5 password, for example.
    pub fn parse(text: &str) -> Option<Verifier> {
        let (iterations, rest) = text.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let salt = BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?.into();
        let iterations = iterations.parse().ok().filter(|iterations| *iterations > 0)?;
        Some(Verifier { salt, iterations, stored_key: key(stored_key)?, server_key: key(server_key)? })
    }

    /// Whether a server that has this verifier sends this salt and this number of iterations.
    pub fn is_announced_by(&self, salt: &[u8], iterations: u32) -> bool {
        *self.salt == *salt && self.iterations == iterations
    }

    /// The key of the client that has sent this proof for this exchange. `None` if the proof is not of this verifier's
    /// password.
    pub fn role_key(&self, auth_message: &[u8], proof: &[u8; KEY_LENGTH]) -> Option<RoleKey> {
        let client_key = self.masked(auth_message, proof);
        self.is_proved_by(&client_key).then(|| RoleKey { verifier: self.clone(), client_key })
    }

    /// Whether the key is of this verifier's password.
    fn is_proved_by(&self, client_key: &Key) -> bool {
        digest(&SHA256, &**client_key).as_ref() == *self.stored_key
    }

    /// XOR of these bytes with the signature of an exchange by StoredKey. It turns the client's key into the proof, and
    /// the proof into the client's key.
    fn masked(&self, auth_message: &[u8], bytes: &[u8; KEY_LENGTH]) -> Key {
        let signature = hmac::sign(&hmac::Key::new(HMAC_SHA256, &*self.stored_key), auth_message);
        let mut masked = Zeroizing::new(*bytes);
        masked.iter_mut().zip(signature.as_ref()).for_each(|(byte, mask)| *byte ^= mask);
        masked
    }
}

impl fmt::Debug for Verifier {
    /// Never shows a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

/// What a client of the role can prove its password by, for as long as the verifier does not change. As good as the
/// password at the servers that have this verifier: it is kept in memory only, and overwritten when it is dropped.
#[derive(PartialEq, Eq)]
pub struct RoleKey {
    verifier: Verifier,
    client_key: Key,
}

impl RoleKey {
    /// The verifier that it belongs to.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// All of it as a text, for another process that takes over from this one. A secret like the key.
    pub fn to_secret(&self) -> Zeroizing<String> {
        let Verifier { salt, iterations, stored_key, server_key } = &self.verifier;
        // with room for all: a text that grows leaves copies behind
        let mut text = Zeroizing::new(String::with_capacity(4 * salt.len() + 8 * KEY_LENGTH));
        text.push_str("SCRAM-SHA-256$");
        text.push_str(&iterations.to_string());
        for (separator, bytes) in [(':', &**salt), ('$', &**stored_key), (':', &**server_key), (' ', &*self.client_key)]
        {
            text.push(separator);
            BASE64.encode_string(bytes, &mut text);
        }
        text
    }

    /// The key that [`RoleKey::to_secret`] has made this text of. `None` if it is no such text.
    pub fn from_secret(text: &str) -> Option<RoleKey> {
        let (verifier, client_key) = text.split_once(' ')?;
        let (verifier, client_key) = (Verifier::parse(verifier)?, key(client_key)?);
        verifier.is_proved_by(&client_key).then_some(RoleKey { verifier, client_key })
    }

    /// The proof for an exchange.
    pub(super) fn proof(&self, auth_message: &[u8]) -> [u8; KEY_LENGTH] {
        *self.verifier.masked(auth_message, &self.client_key)
    }

    /// Whether the server that has signed an exchange so has the verifier. The comparison takes the same time for every
    /// wrong signature.
    pub(super) fn is_signed(&self, auth_message: &[u8], signature: &[u8]) -> bool {
        let key = hmac::Key::new(HMAC_SHA256, &*self.verifier.server_key);
        hmac::verify(&key, auth_message, signature).is_ok()
    }
}

impl fmt::Debug for RoleKey {
    /// Never shows a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoleKey")
    }
}

/// The server's first message, `r=<nonce>,s=<salt>,i=<iterations>`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerFirst<'a> {
    /// The client's nonce and the server's behind it.
    pub(super) nonce: &'a str,
    /// The salt, decoded.
    pub(super) salt: Vec<u8>,
    /// The number of iterations.
    pub(super) iterations: u32,
}

impl ServerFirst<'_> {
    /// `None` if it is malformed, or demands an extension.
    pub(super) fn read(message: &[u8]) -> Option<ServerFirst<'_>> {
        let mut attributes = std::str::from_utf8(message).ok()?.split(',');
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let salt = BASE64.decode(attributes.next()?.strip_prefix("s=")?).ok()?;
        let iterations = attributes.next()?.strip_prefix("i=")?.parse().ok()?;
        Some(ServerFirst { nonce, salt, iterations })
    }
}

/// Reads a proof or a signature: the base64 of 32 bytes.
pub(super) fn key(text: &str) -> Option<Key> {
    let decoded = Zeroizing::new(BASE64.decode(text).ok()?);
    decoded.as_slice().try_into().ok().map(Zeroizing::new)
}

/// Keys of one password, for tests.
#[cfg(test)]
pub(crate) mod for_tests {
    use std::num::NonZeroU32;

    use ring::pbkdf2;

    use super::*;

    /// What the owner of the password knows: the verifier's text and the client's key.
    pub(crate) fn password(password: &str, salt: &[u8], iterations: u32) -> (String, [u8; KEY_LENGTH]) {
        let mut salted = [0; KEY_LENGTH];
        let rounds = NonZeroU32::new(iterations).expect("is not zero");
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, password.as_bytes(), &mut salted);
        let of = |text: &[u8]| hmac::sign(&hmac::Key::new(HMAC_SHA256, &salted), text);
        let (client_key, server_key) = (of(b"Client Key"), of(b"Server Key"));
        let [stored_key, server_key] =
            [digest(&SHA256, client_key.as_ref()).as_ref(), server_key.as_ref()].map(|key| BASE64.encode(key));
        let verifier = format!("SCRAM-SHA-256${iterations}:{}${stored_key}:{server_key}", BASE64.encode(salt));
        (verifier, client_key.as_ref().try_into().expect("32 bytes"))
    }

    /// The role's key, by its password.
    pub(in crate::protocol) fn role_key(text: &str, salt: &[u8], iterations: u32) -> RoleKey {
        let (verifier, client_key) = password(text, salt, iterations);
        let verifier = Verifier::parse(&verifier).expect("is one");
        RoleKey { verifier, client_key: Zeroizing::new(client_key) }
    }

    /// The signature of a server that has the key's verifier.
    pub(in crate::protocol) fn signature(key: &RoleKey, auth_message: &[u8]) -> String {
        BASE64.encode(hmac::sign(&hmac::Key::new(HMAC_SHA256, &*key.verifier.server_key), auth_message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::for_tests::{password, role_key, signature};
    use super::*;

    /// The example of RFC 7677, section 3.
    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    const AUTH_MESSAGE: &[u8] = b"n=user,r=rOprNGfwEbeRWgbNEkqO,\
        r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
        c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const PROOF: &str = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SIGNATURE: &str = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn pencil() -> RoleKey {
        role_key("pencil", &BASE64.decode(SALT).expect("is base64"), 4096)
    }

    #[test]
    fn the_example_of_the_standard_comes_out() {
        let key = pencil();
        assert_eq!(BASE64.encode(key.proof(AUTH_MESSAGE)), PROOF);
        assert!(key.is_signed(AUTH_MESSAGE, &BASE64.decode(SIGNATURE).expect("is base64")));
        assert_eq!(signature(&key, AUTH_MESSAGE), SIGNATURE);
    }

    #[test]
    fn who_knows_the_verifier_learns_the_key_from_a_right_proof_and_from_no_other() {
        let expected = pencil();
        let proof = key(PROOF).expect("is one");
        assert_eq!(expected.verifier().role_key(AUTH_MESSAGE, &proof), Some(pencil()));
        for at in 0..KEY_LENGTH {
            let mut wrong = *proof;
            wrong[at] ^= 1;
            assert_eq!(expected.verifier().role_key(AUTH_MESSAGE, &wrong), None);
        }
        let changed = role_key("eraser", &BASE64.decode(SALT).expect("is base64"), 4096);
        assert_eq!(changed.verifier().role_key(AUTH_MESSAGE, &proof), None, "the password has been changed");
        assert_eq!(expected.verifier().role_key(b"another exchange", &proof), None);
    }

    #[test]
    fn only_texts_of_scram_are_verifiers() {
        let (text, _) = password("pencil", b"salt", 1);
        assert!(Verifier::parse(&text).is_some_and(|verifier| verifier.is_announced_by(b"salt", 1)));
        assert!(Verifier::parse(&text).is_some_and(|verifier| !verifier.is_announced_by(b"salt", 2)));
        assert!(Verifier::parse(&text).is_some_and(|verifier| !verifier.is_announced_by(b"pepper", 1)));
        for end in 0..text.len() {
            assert_eq!(Verifier::parse(&text[..end]), None, "{}", &text[..end]);
        }
        for text in
            ["md5b6d4bd5fb2bbf0e1bfbd1a2bc0b1ac49", "", "SCRAM-SHA-256$0:c2FsdA==$:", "SCRAM-SHA-512$1:c2FsdA==$:"]
        {
            assert_eq!(Verifier::parse(text), None, "{text}");
        }
        assert_eq!(Verifier::parse(&format!("{text}AA==")), None);
    }

    #[test]
    fn a_key_goes_to_another_process_as_a_text_and_comes_out_the_same() {
        let secret = pencil().to_secret();
        assert!(secret.len() < secret.capacity(), "it has not grown");
        assert_eq!(RoleKey::from_secret(&secret), Some(pencil()));
        for end in 0..secret.len() {
            assert_eq!(RoleKey::from_secret(&secret[..end]), None, "{}", &secret[..end]);
        }
        let other = role_key("eraser", &BASE64.decode(SALT).expect("is base64"), 4096).to_secret();
        let [verifier, key] = [&secret, &other].map(|secret| secret.split_once(' ').expect("has two parts"));
        assert_eq!(RoleKey::from_secret(&format!("{} {}", verifier.0, key.1)), None, "of another password");
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?} {:?}", pencil(), pencil().verifier()), "RoleKey Verifier");
    }

    #[test]
    fn the_first_message_of_a_server_is_read() {
        let read = ServerFirst::read(b"r=abc,s=c2FsdA==,i=4096").expect("is one");
        assert_eq!(read, ServerFirst { nonce: "abc", salt: b"salt".to_vec(), iterations: 4096 });
        for wrong in
            [&b"m=x,r=abc,s=c2FsdA==,i=4096"[..], b"r=abc,s=?,i=1", b"r=abc,s=c2FsdA==,i=-1", b"r=abc", b"", b"\xff"]
        {
            assert_eq!(ServerFirst::read(wrong), None, "{}", wrong.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in ".{0,60}") {
            let _ = (ServerFirst::read(&bytes), Verifier::parse(&text), key(&text));
        }
    }
}
