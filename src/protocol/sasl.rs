//! The part of SCRAM's channel binding that a proxy between two encrypted connections needs: which mechanisms the
//! server offers, and which one the client chooses.
//!
//! Formats: PostgreSQL's documentation, "SASL Authentication" and `AuthenticationSASL`.

use super::message::HEADER_LENGTH;
use super::message::from_client::RESPONSE;
use super::message::from_server::AUTHENTICATION;

/// The mechanism that binds the client's proof to the certificate that the client received.
const PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// `AuthenticationSASL`: the code after its length.
const SASL: [u8; 4] = 10u32.to_be_bytes();

/// Type, length and code.
const OFFER_HEADER_LENGTH: usize = HEADER_LENGTH + SASL.len();

/// Longer than any mechanism's name (RFC 4422 has 20 characters).
const NAME_LENGTH_MAX: usize = 64;

/// The client's answer to the server's offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// More bytes are needed.
    Incomplete,
    /// `SCRAM-SHA-256-PLUS`.
    Plus,
    /// Any other answer, or a message that is no answer.
    Other,
}

/// The server's offer of mechanisms, a whole message, without `SCRAM-SHA-256-PLUS`. `None` if that mechanism is not in
/// it, or is the only one, or the message is no such offer.
pub fn without_plus(message: &[u8]) -> Option<Vec<u8>> {
    let (header, names) = message.split_at_checked(OFFER_HEADER_LENGTH)?;
    if header[0] != AUTHENTICATION || header[5..] != SASL {
        return None;
    }
    let names: Vec<&[u8]> = names.split(|byte| *byte == 0).take_while(|name| !name.is_empty()).collect();
    let others: Vec<&[u8]> = names.iter().copied().filter(|name| *name != PLUS).collect();
    if others.is_empty() || others.len() == names.len() {
        return None;
    }
    let list = [others.join(&0), vec![0, 0]].concat();
    // do not subtract the name from the server's length: bytes may follow the list, or the name may be in it twice
    let length = u32::try_from(OFFER_HEADER_LENGTH - 1 + list.len()).ok()?;
    Some([&[AUTHENTICATION][..], &length.to_be_bytes(), &SASL, &list].concat())
}

/// Whether an answer to this authentication request fits every server that sends the same one: the offer of SASL
/// mechanisms, to which the client answers with a nonce of its own, and the request for a plain password. All others
/// contain something that only the server which sent it can check.
pub fn fits_any_server(message: &[u8]) -> bool {
    const CLEARTEXT_PASSWORD: [u8; 4] = 3u32.to_be_bytes();
    message.first() == Some(&AUTHENTICATION)
        && message.get(5..9).is_some_and(|code| code == SASL || code == CLEARTEXT_PASSWORD)
}

/// The client's choice. `answer` is what the client has sent since the offer.
pub fn choice(answer: &[u8]) -> Choice {
    match answer.first() {
        None => return Choice::Incomplete,
        Some(&RESPONSE) => {}
        Some(_) => return Choice::Other,
    }
    let name = answer.get(HEADER_LENGTH..).unwrap_or_default();
    match name.iter().position(|byte| *byte == 0) {
        Some(end) if name[..end] == *PLUS => Choice::Plus,
        Some(_) => Choice::Other,
        None if name.len() > NAME_LENGTH_MAX => Choice::Other,
        None => Choice::Incomplete,
    }
}

#[cfg(test)]
mod tests {
    use pgvane_loadtest::messages::message;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::message::TERMINATE;

    fn offer(names: &[&str]) -> Vec<u8> {
        let list: String = names.iter().map(|name| format!("{name}\0")).collect();
        message(b'R', &[&SASL, list.as_bytes(), b"\0"].concat())
    }

    #[test]
    fn only_the_binding_mechanism_is_removed() {
        let both = offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
        assert_eq!(without_plus(&both), Some(offer(&["SCRAM-SHA-256"])));
        let three = offer(&["OAUTHBEARER", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
        assert_eq!(without_plus(&three), Some(offer(&["OAUTHBEARER", "SCRAM-SHA-256"])));
        assert_eq!(without_plus(&offer(&["SCRAM-SHA-256"])), None);
        assert_eq!(without_plus(&offer(&["SCRAM-SHA-256-PLUS"])), None, "an empty offer would be none");
        assert_eq!(without_plus(&message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4])), None, "MD5");
        assert_eq!(without_plus(b"R"), None);
    }

    #[test]
    fn a_choice_is_known_once_its_name_is_whole() {
        let answer = |name: &str| message(b'p', format!("{name}\0\0\0\0\x20p=tls-server-end-point,,n=").as_bytes());
        let plus = answer("SCRAM-SHA-256-PLUS");
        let name_ends = HEADER_LENGTH + PLUS.len() + 1;
        for length in 0..plus.len() {
            let expected = if length < name_ends { Choice::Incomplete } else { Choice::Plus };
            assert_eq!(choice(&plus[..length]), expected, "of {length} bytes");
        }
        assert_eq!(choice(&answer("SCRAM-SHA-256")), Choice::Other);
        assert_eq!(choice(TERMINATE), Choice::Other, "the client closes");
        assert_eq!(choice(&message(b'p', &[b'x'; 100])), Choice::Other, "a password of no mechanism's");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            without_plus(&bytes);
            choice(&bytes);
        }
    }
}
