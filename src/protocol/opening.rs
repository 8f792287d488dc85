//! The first packet of a connection: what the client wants, read from its bytes without changing them.
//!
//! Formats and codes: PostgreSQL's documentation, "Message Formats", and `src/include/libpq/pqcomm.h`.

use std::fmt;

use bytes::BytesMut;
use pgwire::messages::cancel::CancelRequest;
use pgwire::messages::startup::{GssEncRequest, SslRequest, Startup};
use pgwire::messages::{DecodeContext, Message, ProtocolVersion};

use super::cancel::CancelKey;
use super::message::TERMINATE;
use super::proxy_header::{self, Beginning};
use super::startup::{StartupError, StartupParameters};

/// `MAX_STARTUP_PACKET_LENGTH` of PostgreSQL's `pqcomm.h`: longer first packets are refused by the server as well.
pub const PACKET_LENGTH_MAX: usize = 10_000;

/// Length and code: the minimum length of a first packet.
const PACKET_LENGTH_MIN: usize = 8;

/// First byte of a TLS handshake record; no startup packet of a legal length begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a client's first packet asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// A session.
    Startup(StartupParameters),
    /// TLS encryption (`SSLRequest`).
    Ssl,
    /// GSSAPI encryption (`GSSENCRequest`).
    Gss,
    /// TLS at once, without a request (PostgreSQL 17's `sslnegotiation=direct`).
    DirectTls,
    /// The cancellation of another session's query.
    Cancel(CancelKey),
}

/// The result of reading a first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Incomplete,
    /// The client sends `Terminate` before any request.
    Left,
    /// A whole packet, `length` bytes long; what follows belongs to the next one.
    Complete {
        /// What it asks for.
        opening: Opening,
        /// How many bytes it takes.
        length: usize,
    },
}

/// Why bytes are not the opening of a PostgreSQL connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotPostgres {
    /// The length is out of bounds.
    Length(u32),
    /// A PROXY protocol header where none is allowed.
    ProxyHeader,
    /// A major protocol version that no supported server has.
    Version {
        /// The protocol's major version.
        major: u16,
        /// The protocol's minor version.
        minor: u16,
    },
    /// The startup packet is malformed; with what is wrong.
    Malformed(String),
    /// The startup packet names no user.
    NoUser,
    /// The cancel request is malformed.
    Cancel,
    /// A request for encryption after another one was already granted or refused.
    AskedAgain,
    /// Plaintext bytes after a request for TLS that is granted.
    DataBeforeTls,
}

impl NotPostgres {
    /// Whether the client gets an error message. PostgreSQL closes the connection without a message if the length is
    /// wrong or a cancel request is malformed. So a client of another protocol gets no message that it cannot
    /// understand.
    pub fn gets_error_message(&self) -> bool {
        !matches!(self, NotPostgres::Length(_) | NotPostgres::Cancel)
    }
}

impl fmt::Display for NotPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotPostgres::Length(length) => write!(f, "invalid length of startup packet: {length}"),
            NotPostgres::ProxyHeader => f.write_str("received a PROXY protocol header from an address that is not trusted"),
            NotPostgres::Version { major, minor } => {
                write!(f, "unsupported frontend protocol {major}.{minor}: server supports 3.0 and later")
            }
            NotPostgres::Malformed(cause) => write!(f, "invalid startup packet layout: {cause}"),
            NotPostgres::NoUser => f.write_str("no PostgreSQL user name specified in startup packet"),
            NotPostgres::Cancel => f.write_str("invalid length of cancel request packet"),
            NotPostgres::AskedAgain => f.write_str("received another request for encryption after the first one was answered"),
            NotPostgres::DataBeforeTls => f.write_str(
                "received unencrypted data after SSL request: this may be a client-software bug or a man-in-the-middle attack",
            ),
        }
    }
}

/// Looks at the beginning of a client's stream.
///
/// A TLS handshake is complete with its first byte and has length 0: all its bytes go to the TLS implementation.
pub fn read(received: &[u8]) -> Result<Progress, NotPostgres> {
    if received.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Progress::Complete { opening: Opening::DirectTls, length: 0 });
    }
    // sent by a client library that closes before it has sent a startup packet
    if received.starts_with(TERMINATE) {
        return Ok(Progress::Left);
    }
    let Some((length_word, _)) = received.split_first_chunk::<4>() else { return Ok(Progress::Incomplete) };
    let announced = u32::from_be_bytes(*length_word);
    let length = usize::try_from(announced)
        .ok()
        .filter(|length| (PACKET_LENGTH_MIN..=PACKET_LENGTH_MAX).contains(length))
        .ok_or_else(|| match proxy_header::read(received) {
            Ok(Beginning::Other) => NotPostgres::Length(announced),
            _ => NotPostgres::ProxyHeader,
        })?;
    match received.get(..length) {
        Some(packet) => Ok(Progress::Complete { opening: decode(packet)?, length }),
        None => Ok(Progress::Incomplete),
    }
}

/// Decodes one whole packet.
fn decode(packet: &[u8]) -> Result<Opening, NotPostgres> {
    if SslRequest::is_ssl_request_packet(packet) {
        return Ok(Opening::Ssl);
    }
    if GssEncRequest::is_gss_enc_request_packet(packet) {
        return Ok(Opening::Gss);
    }
    if CancelRequest::is_cancel_request_packet(packet) {
        // pgwire's decoder also reads bytes after a packet: it gets a copy of exactly the packet
        let mut exactly = BytesMut::from(packet);
        let request = CancelRequest::decode(&mut exactly, &DecodeContext::new(ProtocolVersion::PROTOCOL3_2))
            .map_err(|_| NotPostgres::Cancel)?
            .ok_or(NotPostgres::Cancel)?;
        return Ok(Opening::Cancel(CancelKey::new(request.pid, &request.secret_key)));
    }
    let version = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (major, minor) = (version(4), version(6));
    if major != Startup::PG_PROTOCOL_LATEST {
        return Err(NotPostgres::Version { major, minor });
    }
    StartupParameters::read(packet).map(Opening::Startup).map_err(|error| match error {
        StartupError::NoUser => NotPostgres::NoUser,
        StartupError::Malformed(why) => NotPostgres::Malformed(why.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
        let mut message = Startup::new();
        message.parameters = parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes).expect("encodes");
        bytes.to_vec()
    }

    fn request(code: u32) -> Vec<u8> {
        [8u32.to_be_bytes(), code.to_be_bytes()].concat()
    }

    fn complete(bytes: &[u8]) -> Opening {
        match read(bytes).expect("is PostgreSQL") {
            Progress::Complete { opening, length } => {
                assert_eq!(length, bytes.len());
                opening
            }
            Progress::Incomplete | Progress::Left => panic!("the packet is whole"),
        }
    }

    #[test]
    fn each_kind_of_opening_is_recognised() {
        assert_eq!(complete(&request(80_877_103)), Opening::Ssl);
        assert_eq!(complete(&request(80_877_104)), Opening::Gss);
        let who = StartupParameters::new("app", "shop", "psql");
        let packet = startup(&[("user", "app"), ("database", "shop"), ("application_name", "psql"), ("_pq_.x", "1")]);
        assert_eq!(complete(&packet), Opening::Startup(who));
        let tls = Progress::Complete { opening: Opening::DirectTls, length: 0 };
        assert_eq!(read(&[0x16, 3, 1]), Ok(tls));
    }

    #[test]
    fn cancel_keys_of_every_length_are_read() {
        for secret_length in [4usize, 32, 256] {
            let mut packet = ((12 + secret_length) as u32).to_be_bytes().to_vec();
            packet.extend(80_877_102u32.to_be_bytes());
            packet.extend(4711u32.to_be_bytes());
            packet.extend(vec![9; secret_length]);
            let Opening::Cancel(key) = complete(&packet) else { panic!("a cancel request") };
            assert_eq!(key.process_id(), 4711);
        }
    }

    #[test]
    fn what_is_not_postgres_is_an_error() {
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Err(NotPostgres::Length(0x4745_5420)));
        assert_eq!(read(&[0, 0, 0, 7]), Err(NotPostgres::Length(7)));
        assert_eq!(read(b"PROXY TCP4 192.0"), Err(NotPostgres::ProxyHeader));
        assert_eq!(read(&proxy_header::encode(None)), Err(NotPostgres::ProxyHeader));
        assert_eq!(read(&request(2 << 16)), Err(NotPostgres::Version { major: 2, minor: 0 }));
        assert_eq!(read(&startup(&[("database", "x")])), Err(NotPostgres::NoUser));
        let short_cancel = [&16u32.to_be_bytes()[..], &80_877_102u32.to_be_bytes(), &[0; 8]].concat();
        assert!(read(&short_cancel).is_ok());
        let too_short = [&12u32.to_be_bytes()[..], &80_877_102u32.to_be_bytes(), &[0; 4]].concat();
        assert!(matches!(read(&too_short), Err(NotPostgres::Cancel)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_overrun(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Progress::Complete { length, .. }) = read(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }

        #[test]
        fn garbage_inside_a_legal_frame_never_panics(
            code in prop_oneof![Just(80_877_102u32), Just(80_877_103), Just(80_877_104), Just(196_608), any::<u32>()],
            body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut packet = ((8 + body.len()) as u32).to_be_bytes().to_vec();
            packet.extend(code.to_be_bytes());
            packet.extend(&body);
            let _ = read(&packet);
        }

        #[test]
        fn a_packet_is_incomplete_until_its_last_byte(cut in 0usize..40) {
            let packet = startup(&[("user", "somebody"), ("database", "some_database")]);
            let cut = cut.min(packet.len() - 1);
            prop_assert_eq!(read(&packet[..cut]), Ok(Progress::Incomplete));
        }
    }
}
