//! The other side of an accepted connection.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::NonZeroU8;

/// The number of leading bits of an IPv6 address that name one client, 1 to 128. A client's machines choose the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Prefix(NonZeroU8);

impl Ipv6Prefix {
    /// This number of bits. `None` if it is out of range.
    pub fn new(bits: u8) -> Option<Ipv6Prefix> {
        NonZeroU8::new(bits).filter(|bits| bits.get() <= 128).map(Ipv6Prefix)
    }

    fn mask(self) -> u128 {
        u128::MAX << (128 - self.0.get())
    }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Default for Ipv6Prefix {
    /// 64: one machine can use every address of such a network.
    fn default() -> Ipv6Prefix {
        Ipv6Prefix(NonZeroU8::MIN.saturating_add(63))
    }
}

/// The other side of an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A TCP address. IPv4 addresses are stored as IPv4, also on a socket for both families. Without IPv6's flow label,
    /// which says nothing about the peer: a [`SocketAddr`] would make each session larger by eight bytes.
    Tcp {
        /// The IP address.
        ip: IpAddr,
        /// The port.
        port: u16,
        /// The zone of a link-local IPv6 address, otherwise 0.
        zone: u32,
    },
    /// A process on this host, on a Unix socket.
    Unix,
}

impl Peer {
    /// The IP address, if there is one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Peer::Tcp { ip, .. } => Some(ip),
            Peer::Unix => None,
        }
    }

    /// IP address and port, if there are any.
    pub fn socket_address(self) -> Option<SocketAddr> {
        Some(match self {
            Peer::Tcp { ip: IpAddr::V4(ip), port, .. } => SocketAddrV4::new(ip, port).into(),
            Peer::Tcp { ip: IpAddr::V6(ip), port, zone } => SocketAddrV6::new(ip, port, 0, zone).into(),
            Peer::Unix => return None,
        })
    }

    /// What counts as one client where each may have so much: an IPv4 address, or an IPv6 network of this prefix.
    pub fn source(self, prefix: Ipv6Prefix) -> Option<IpAddr> {
        Some(match self.ip()? {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & prefix.mask()).into(),
            ip @ IpAddr::V4(_) => ip,
        })
    }

    /// The address without its port, as text; `unix` for a Unix socket.
    pub fn host(self) -> String {
        self.ip().map_or_else(|| self.to_string(), |ip| ip.to_string())
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Peer {
        let ip = address.ip().to_canonical();
        let zone = match address {
            SocketAddr::V6(address) if ip.is_ipv6() => address.scope_id(),
            _ => 0,
        };
        Peer::Tcp { ip, port: address.port(), zone }
    }
}

impl fmt::Display for Peer {
    /// `192.0.2.7:12345`, `[2001:db8::7]:12345` or `unix`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.socket_address() {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_client() {
        let source = |text: &str, bits| {
            let peer = Peer::from(text.parse::<SocketAddr>().expect("an address"));
            peer.source(Ipv6Prefix::new(bits).expect("is one")).expect("by TCP").to_string()
        };
        assert_eq!(Ipv6Prefix::new(64), Some(Ipv6Prefix::default()));
        assert_eq!(source("[2001:db8:1:2:3:4:5:6]:1", 64), "2001:db8:1:2::");
        assert_eq!(source("[2001:db8:1:2:3:4:5:6]:1", 48), "2001:db8:1::");
        assert_eq!(source("[2001:db8:1:2:3:4:5:6]:1", 128), "2001:db8:1:2:3:4:5:6");
        assert_eq!(source("[ffff::1]:1", 1), "8000::");
        assert_eq!(source("192.0.2.7:1", 1), "192.0.2.7", "an IPv4 address is always one client");
        assert_eq!([0, 129].map(Ipv6Prefix::new), [None, None]);
        assert_eq!(Peer::Unix.source(Ipv6Prefix::default()), None);
    }

    #[test]
    fn an_ipv4_address_is_written_as_ipv4() {
        let peer = |text: &str| Peer::from(text.parse::<SocketAddr>().expect("an address"));
        assert_eq!(peer("[::ffff:192.0.2.7]:12345"), peer("192.0.2.7:12345"));
        assert_eq!(peer("[::ffff:192.0.2.7]:12345").to_string(), "192.0.2.7:12345");
        assert_eq!(peer("[2001:db8::7]:12345").to_string(), "[2001:db8::7]:12345");
        assert_eq!(peer("[fe80::7%3]:12345").to_string(), "[fe80::7%3]:12345");
        assert_eq!((Peer::Unix.to_string().as_str(), Peer::Unix.ip()), ("unix", None));
    }
}
