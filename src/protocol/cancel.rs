//! The key that identifies a session in a cancel request.

use std::fmt;

use pgwire::messages::startup::SecretKey;

/// The code of a `CancelRequest`: 1234 and 5678 (`CANCEL_REQUEST_CODE` in `src/include/libpq/pqcomm.h`).
const CANCEL_REQUEST: u32 = 80_877_102;

/// Process id and secret, as sent in `BackendKeyData` and returned in a `CancelRequest`.
///
/// Since protocol 3.2 the secret has up to 256 bytes; before it had four.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CancelKey(Key);

/// Most sessions have a secret of four bytes, and there may be thousands of sessions. These keys need no allocation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Short(i32, [u8; 4]),
    Long(Box<(i32, Box<[u8]>)>),
}

impl CancelKey {
    /// A key from its two parts.
    pub fn new(process_id: i32, secret: &SecretKey) -> CancelKey {
        CancelKey::of(process_id, &secret.to_bytes())
    }

    fn of(process_id: i32, secret: &[u8]) -> CancelKey {
        CancelKey(match secret.try_into() {
            Ok(secret) => Key::Short(process_id, secret),
            Err(_) => Key::Long(Box::new((process_id, secret.into()))),
        })
    }

    /// The server process that runs the session; unique on its node only.
    pub fn process_id(&self) -> i32 {
        match &self.0 {
            Key::Short(process_id, _) => *process_id,
            Key::Long(key) => key.0,
        }
    }

    /// The body of a `BackendKeyData` message with this key.
    pub fn to_backend_key_data(&self) -> Vec<u8> {
        let (process_id, secret): (i32, &[u8]) = match &self.0 {
            Key::Short(process_id, secret) => (*process_id, secret),
            Key::Long(key) => (key.0, &key.1),
        };
        [&process_id.to_be_bytes()[..], secret].concat()
    }

    /// A whole `CancelRequest` with this key.
    pub fn to_cancel_request(&self) -> Vec<u8> {
        let key = self.to_backend_key_data();
        let length = (key.len() + 8) as u32; // at most 268
        [&length.to_be_bytes()[..], &CANCEL_REQUEST.to_be_bytes(), &key].concat()
    }

    /// Reads the body of a `BackendKeyData` message. `None` if it is malformed.
    pub fn from_backend_key_data(body: &[u8]) -> Option<CancelKey> {
        let (process_id, secret) = body.split_first_chunk::<4>()?;
        // PostgreSQL's protocol documentation bounds the secret: 4 bytes at least, 256 at most
        (4..=256).contains(&secret.len()).then(|| CancelKey::of(i32::from_be_bytes(*process_id), secret))
    }
}

impl fmt::Debug for CancelKey {
    /// Never shows the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelKey({})", self.process_id())
    }
}

#[cfg(test)]
mod tests {
    use super::super::opening::{self, Opening};
    use super::*;

    #[test]
    fn the_key_in_a_request_equals_the_key_that_was_given_out() {
        let given = CancelKey::from_backend_key_data(&[0, 0, 0, 7, 1, 2, 3, 4]).expect("a key");
        assert_eq!(given, CancelKey::new(7, &SecretKey::I32(0x0102_0304)));
        assert_eq!(given, CancelKey::new(7, &SecretKey::Bytes(vec![1, 2, 3, 4].into())));
    }

    #[test]
    fn a_request_with_a_key_is_read_as_one_with_this_key() {
        for secret in [4, 32, 256] {
            let key = CancelKey::from_backend_key_data(&vec![7; 4 + secret]).expect("a key");
            let request = key.to_cancel_request();
            let expected = opening::Progress::Complete { opening: Opening::Cancel(key), length: request.len() };
            assert_eq!(opening::read(&request), Ok(expected));
        }
    }

    #[test]
    fn secrets_out_of_bounds_are_no_keys() {
        assert_eq!(CancelKey::from_backend_key_data(&[0, 0, 0, 7, 1, 2, 3]), None);
        assert_eq!(CancelKey::from_backend_key_data(&[0; 4 + 257]), None);
    }

    #[test]
    fn the_secret_is_not_shown() {
        let key = CancelKey::new(7, &SecretKey::I32(99));
        assert_eq!(format!("{key:?}"), "CancelKey(7)");
    }
}
