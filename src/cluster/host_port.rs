//! The address of a server as operators and Patroni write it: a host and a port.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

/// `HOST:PORT`. The host is a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Without brackets. IP addresses are in their usual form.
    host: Box<str>,
    port: u16,
    /// The address, if the host is one: then no lookup is needed.
    ip_address: Option<SocketAddr>,
}

/// The text is not `HOST:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not HOST:PORT")]
pub struct NotHostPort;

impl HostPort {
    /// Takes host and port separately. An IPv6 address may be in brackets or not.
    ///
    /// Errors: the host is empty or has characters that no host has, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<HostPort, NotHostPort> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if port == 0 || bare.is_empty() || bare.contains(['/', ' ', '@', '[', ']']) {
            return Err(NotHostPort);
        }
        // a socket address is parsed and not only an IP address: it can have a zone, as in fe80::1%2
        let with_port = if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
        let ip_address = with_port.parse::<SocketAddr>().ok();
        let has_zone = bare.contains('%');
        if ip_address.is_none() && bare.contains(':') && !has_zone {
            return Err(NotHostPort);
        }
        let host = match ip_address {
            Some(address) if !has_zone => address.ip().to_string().into(),
            _ => bare.into(),
        };
        Ok(HostPort { host, port, ip_address })
    }

    /// The host: a name, or an IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, which is not 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket address, if the host is an IP address and not a name.
    pub fn ip_address(&self) -> Option<SocketAddr> {
        self.ip_address
    }
}

impl FromStr for HostPort {
    type Err = NotHostPort;

    fn from_str(text: &str) -> Result<HostPort, NotHostPort> {
        let (host, port) = text.rsplit_once(':').ok_or(NotHostPort)?;
        let has_brackets = host.starts_with('[') && host.ends_with(']');
        // without brackets it is not clear where an IPv6 address ends; nothing else has brackets
        if has_brackets != host.contains(':') || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NotHostPort);
        }
        HostPort::new(host, port.parse().map_err(|_| NotHostPort)?)
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> HostPort {
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => ip.to_string(),
        };
        HostPort { host: host.into(), port: address.port(), ip_address: Some(address) }
    }
}

impl fmt::Display for HostPort {
    /// `pg1.example.org:5432`, `10.0.0.1:5432` or `[2001:db8::1]:5432`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> HostPort {
        text.parse().unwrap_or_else(|_| panic!("{text} is HOST:PORT"))
    }

    #[test]
    fn names_and_ip_addresses_are_told_apart_and_written_as_they_were_read() {
        for name in ["pg1:5432", "pg1.example.org.:5432", "pg_1:1", "[fe80::1%eth0]:5432"] {
            assert_eq!(parsed(name).to_string(), name);
            assert_eq!(parsed(name).ip_address(), None, "{name}");
        }
        for address in ["10.0.0.1:5432", "[2001:db8::1]:5432", "[::1]:65535", "[fe80::1%2]:5432"] {
            assert_eq!(parsed(address).to_string(), address);
            assert_eq!(parsed(address).ip_address(), address.parse().ok(), "{address}");
        }
    }

    #[test]
    fn the_host_has_no_brackets() {
        assert_eq!(parsed("[2001:db8::1]:5432").host(), "2001:db8::1");
        let from_parts = |host| HostPort::new(host, 5432).expect("is a host").to_string();
        assert_eq!([from_parts("fd00::2"), from_parts("[fd00::2]")], ["[fd00::2]:5432", "[fd00::2]:5432"]);
    }

    #[test]
    fn two_spellings_of_an_ip_address_are_equal() {
        assert_eq!(parsed("[2001:DB8:0::1]:5432"), parsed("[2001:db8::1]:5432"));
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in [
            "pg1",
            "pg1:",
            ":5432",
            "::1:5432",
            "http://pg1:5432",
            "pg1:0",
            "pg1:99999",
            "pg1:+5432",
            "[pg1]:5432",
            "[::1]",
            "[]:5432",
            "[::1:5432",
            "[:::1]:5432",
            "pg 1:5432",
            "user@pg1:5432",
            "",
        ] {
            assert_eq!(bad.parse::<HostPort>(), Err(NotHostPort), "{bad}");
        }
    }
}
