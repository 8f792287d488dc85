//! The header of the PROXY protocol, versions 1 and 2. With it a proxy states for which client it has connected.
//!
//! Specification: `doc/proxy-protocol.txt` of HAProxy. No PostgreSQL client begins with the same first byte as such a
//! header.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use proxy_header::{Error, ParseConfig, Protocol, ProxiedAddress, ProxyHeader};

/// The signature of version 1.
const V1: &[u8] = b"PROXY ";

/// The signature of version 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length.
const V2_FIXED_LENGTH: usize = V2.len() + 4;

/// Version 2 and the command LOCAL: the proxy connects for itself, for a health check.
const V2_LOCAL: u8 = 0x20;

/// "A 108-byte buffer is always enough" for version 1, a terminating zero included.
const V1_LENGTH_MAX: usize = 107;

/// The longest header of version 2 that is accepted. Addresses take 52 bytes; a client's whole certificate, which
/// HAProxy may attach, takes a few thousand.
const V2_LENGTH_MAX: usize = 8 * 1024;

/// Both ends of the connection that a proxy forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Where the client connected to.
    pub destination: SocketAddr,
}

/// What a connection begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// Too few bytes to decide. If there is a header, all of them belong to it.
    Incomplete,
    /// No header.
    Other,
    /// A whole header.
    Header {
        /// The connection that the proxy forwards. `None` if the proxy connects for itself, or for a client without a
        /// TCP address: then the connection's own addresses count.
        ends: Option<Ends>,
        /// How many bytes the header takes.
        length: usize,
    },
}

/// Bytes that begin like a header and are not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Longer than allowed.
    TooLong,
    /// Its content is malformed.
    Invalid,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::TooLong => "PROXY protocol header too long",
            Malformed::Invalid => "malformed PROXY protocol header",
        })
    }
}

/// Reads the beginning of a connection. What follows the header is not read.
pub fn read(received: &[u8]) -> Result<Beginning, Malformed> {
    let may_be = |signature: &[u8]| received.iter().zip(signature).all(|(byte, wanted)| byte == wanted);
    if may_be(V1) {
        read_v1(received)
    } else if may_be(V2) {
        read_v2(received)
    } else {
        Ok(Beginning::Other)
    }
}

fn read_v1(received: &[u8]) -> Result<Beginning, Malformed> {
    match parse(received) {
        Ok((_, length)) if length > V1_LENGTH_MAX => Err(Malformed::TooLong),
        Ok((ends, length)) => Ok(Beginning::Header { ends, length }),
        Err(Error::BufferTooShort) if received.len() < V1_LENGTH_MAX => Ok(Beginning::Incomplete),
        Err(_) if received.len() >= V1_LENGTH_MAX && !received[..V1_LENGTH_MAX].contains(&b'\r') => {
            Err(Malformed::TooLong)
        }
        Err(_) => Err(Malformed::Invalid),
    }
}

fn read_v2(received: &[u8]) -> Result<Beginning, Malformed> {
    let Some(fixed) = received.first_chunk::<V2_FIXED_LENGTH>() else { return Ok(Beginning::Incomplete) };
    let [.., high, low] = *fixed;
    let length = V2_FIXED_LENGTH + usize::from(u16::from_be_bytes([high, low]));
    if length > V2_LENGTH_MAX {
        return Err(Malformed::TooLong);
    }
    let Some(header) = received.get(..length) else { return Ok(Beginning::Incomplete) };
    let ends = match fixed[V2.len()] {
        V2_LOCAL => None, // the rest of the header has to be ignored
        _ => parse(header).map_err(|_| Malformed::Invalid)?.0,
    };
    Ok(Beginning::Header { ends, length })
}

fn parse(received: &[u8]) -> Result<(Option<Ends>, usize), Error> {
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (header, length) = ProxyHeader::parse(received, config)?;
    let of_tcp = header.proxied_address().filter(|stated| stated.protocol == Protocol::Stream);
    Ok((of_tcp.map(|stated| Ends { source: stated.source, destination: stated.destination }), length))
}

/// A header of version 2 for the client of `ends`, or, if `None`, for the proxy itself.
pub fn encode(ends: Option<Ends>) -> Vec<u8> {
    let header = match ends {
        Some(Ends { source, destination }) => {
            let (source, destination) = of_one_family(source, destination);
            ProxyHeader::with_address(ProxiedAddress::stream(source, destination))
        }
        None => ProxyHeader::with_local(),
    };
    let mut bytes = Vec::new();
    header.encode_v2(&mut bytes).expect("two addresses of one family and nothing else fit into a header");
    bytes
}

/// A header has room for two addresses of the same family only.
fn of_one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    match source.is_ipv4() == destination.is_ipv4() {
        true => (source, destination),
        false => (mapped(source), mapped(destination)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::message::SSL_REQUEST;

    fn ends(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().expect("an address"), destination: destination.parse().expect("an address") }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [V2, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    const ADDRESSES_V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x19, 0x20];

    /// Reads `header` with an opening behind it, and byte by byte.
    fn whole(header: &[u8]) -> Option<Ends> {
        for end in 0..header.len() {
            assert_eq!(read(&header[..end]), Ok(Beginning::Incomplete), "of {} bytes {end}", header.len());
        }
        match read(&[header, SSL_REQUEST].concat()) {
            Ok(Beginning::Header { ends, length }) if length == header.len() => ends,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_versions_name_the_client() {
        let stated = ends("192.0.2.7:12345", "10.0.0.1:6432");
        assert_eq!(whole(b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 6432\r\n"), Some(stated));
        assert_eq!(whole(&v2(0x21, 0x11, &ADDRESSES_V4)), Some(stated));
        let stated = ends("[2001:db8::7]:12345", "[2001:db8::1]:6432");
        assert_eq!(whole(b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 6432\r\n"), Some(stated));
        assert_eq!(whole(&encode(Some(stated))), Some(stated));
    }

    #[test]
    fn further_fields_are_passed_over() {
        let authority = [&[0x02, 0, 11][..], b"db.example."].concat();
        let body = [&ADDRESSES_V4[..], &authority, &[0x04, 0, 3, 0, 0, 0]].concat();
        assert_eq!(whole(&v2(0x21, 0x11, &body)), Some(ends("192.0.2.7:12345", "10.0.0.1:6432")));
        // malformed fields do no harm either: they are not read
        assert!(whole(&v2(0x21, 0x11, &[&ADDRESSES_V4[..], &[0x02, 0xff]].concat())).is_some());
    }

    #[test]
    fn a_proxy_that_connects_for_itself_or_without_tcp_addresses_names_no_client() {
        assert_eq!(whole(&encode(None)), None);
        // LOCAL: family and addresses are to be ignored, sensible or not
        for (family, body) in [(0x11, &ADDRESSES_V4[..]), (0x11, &[]), (0x55, &[1, 2, 3])] {
            assert_eq!(whole(&v2(0x20, family, body)), None);
        }
        assert_eq!(whole(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(whole(b"PROXY UNKNOWN 192.0.2.7 10.0.0.1 12345 6432\r\n"), None);
        assert_eq!(whole(&v2(0x21, 0x00, b"whatever")), None, "UNSPEC");
        assert_eq!(whole(&v2(0x21, 0x31, &[b'/'; 216])), None, "AF_UNIX");
        assert_eq!(whole(&v2(0x21, 0x12, &ADDRESSES_V4)), None, "UDP");
    }

    #[test]
    fn other_protocols_are_recognised_by_their_first_bytes() {
        for other in [&[0, 0, 0, 8][..], &[0x16, 3, 1], b"PROXIES", b"\r\n\r\nHTTP", b"GET / HTTP/1.1"] {
            assert_eq!(read(other), Ok(Beginning::Other), "{other:?}");
        }
    }

    #[test]
    fn malformed_headers_are_refused() {
        let family_0 = v2(0x21, 0x01, &ADDRESSES_V4);
        let version_3 = v2(0x31, 0x11, &ADDRESSES_V4);
        let cut_short = v2(0x21, 0x11, &ADDRESSES_V4[..11]);
        for bad in [
            &b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 66000\r\n"[..],
            b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 12345 6432\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 6432\rx",
            &family_0,
            &version_3,
            &cut_short,
        ] {
            assert_eq!(read(bad), Err(Malformed::Invalid), "{}", bad.escape_ascii());
        }
        assert_eq!(read(&[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat()), Err(Malformed::TooLong));
        assert_eq!(read(&[b"PROXY UNKNOWN ", &[b'x'; 200][..], b"\r\n"].concat()), Err(Malformed::TooLong));
        assert_eq!(read(&v2(0x20, 0x00, &[0; V2_LENGTH_MAX])[..20]), Err(Malformed::TooLong));
        assert_eq!(read(&v2(0x21, 0x11, &[0; V2_LENGTH_MAX])[..V2_LENGTH_MAX]), Err(Malformed::TooLong));
    }

    #[test]
    fn addresses_of_two_families_are_mapped_to_one() {
        let mixed = ends("[2001:db8::7]:12345", "10.0.0.1:6432");
        assert_eq!(whole(&encode(Some(mixed))), Some(ends("[2001:db8::7]:12345", "[::ffff:10.0.0.1]:6432")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_overrun(
            signature in prop_oneof![Just(V1), Just(V2), Just(&b""[..])],
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let received = [signature, &bytes].concat();
            if let Ok(Beginning::Header { length, .. }) = read(&received) {
                prop_assert!(length <= received.len());
            }
        }
    }
}
