//! The other side of an accepted connection.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The bits of an IPv6 address that name the network. A network is one client: its machines choose the other bits.
const IPV6_NETWORK: u128 = !(u64::MAX as u128);

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

    /// What counts as one client where each may have so much: an IPv4 address, or an IPv6 network of 64 bits.
    pub fn source(self) -> Option<IpAddr> {
        Some(match self.ip()? {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & IPV6_NETWORK).into(),
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
    fn an_address_of_ipv4_is_written_as_one() {
        let peer = |text: &str| Peer::from(text.parse::<SocketAddr>().expect("an address"));
        assert_eq!(peer("[::ffff:192.0.2.7]:12345"), peer("192.0.2.7:12345"));
        assert_eq!(peer("[::ffff:192.0.2.7]:12345").to_string(), "192.0.2.7:12345");
        assert_eq!(peer("[2001:db8::7]:12345").to_string(), "[2001:db8::7]:12345");
        assert_eq!(peer("[fe80::7%3]:12345").to_string(), "[fe80::7%3]:12345");
        assert_eq!((Peer::Unix.to_string().as_str(), Peer::Unix.ip()), ("unix", None));
    }
}
