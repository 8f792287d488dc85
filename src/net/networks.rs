//! A list of networks, for allow-lists; it can include clients on Unix sockets.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Peer;

/// The entry for clients on Unix sockets.
const UNIX: &str = "unix";

/// Networks in CIDR notation; `unix` adds clients on Unix sockets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks {
    networks: Vec<IpNet>,
    unix: bool,
}

impl Networks {
    /// Parses `10.0.0.0/8`, `192.0.2.7`, `2001:db8::/32`, `unix`.
    ///
    /// Errors: the texts that cannot be parsed.
    pub fn parse(texts: &[String]) -> Result<Networks, Vec<String>> {
        let mut parsed = Networks::default();
        let mut invalid = Vec::new();
        for text in texts {
            match network(text) {
                Some(network) => parsed.networks.push(network),
                None if text == UNIX => parsed.unix = true,
                None => invalid.push(text.clone()),
            }
        }
        if invalid.is_empty() { Ok(parsed) } else { Err(invalid) }
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether it has networks; `unix` does not count.
    pub fn has_networks(&self) -> bool {
        !self.networks.is_empty()
    }

    /// Whether it includes clients on Unix sockets.
    pub fn has_unix(&self) -> bool {
        self.unix
    }

    /// Whether it includes `peer`.
    pub fn contain(&self, peer: Peer) -> bool {
        match peer.ip() {
            Some(ip) => self.networks.iter().any(|network| network.contains(&ip)),
            None => self.unix,
        }
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks = self.networks.iter().map(ToString::to_string);
        let all: Vec<String> = networks.chain(self.unix.then(|| UNIX.to_owned())).collect();
        f.write_str(&all.join(", "))
    }
}

/// Parses a network, or a single address as a network of one.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn parse(texts: &[&str]) -> Result<Networks, Vec<String>> {
        Networks::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn peers_are_found_in_their_networks() {
        let networks = parse(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]).expect("are networks");
        let contain = |text: &str| networks.contain(text.parse::<SocketAddr>().expect("an address").into());
        for inside in ["10.1.2.3:5", "192.0.2.7:5", "[::ffff:10.1.2.3]:5", "[2001:db8:1::7]:5"] {
            assert!(contain(inside), "{inside}");
        }
        for outside in ["11.0.0.1:5", "192.0.2.8:5", "[2001:db9::7]:5"] {
            assert!(!contain(outside), "{outside}");
        }
        assert!(!networks.contain(Peer::Unix));
        assert!(parse(&["unix"]).expect("a word").contain(Peer::Unix));
    }

    #[test]
    fn invalid_networks_are_reported() {
        assert_eq!(parse(&["10.0.0.0/33", "unix", "everybody"]), Err(vec!["10.0.0.0/33".into(), "everybody".into()]));
    }
}
