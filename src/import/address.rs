//! Addresses as HAProxy writes them: of `bind` lines, of servers, and the times and numbers beside them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One place where HAProxy listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bind {
    Tcp(SocketAddr),
    Unix(String),
}

impl Bind {
    /// As pgvane writes it.
    pub fn text(&self) -> String {
        match self {
            Bind::Tcp(address) => address.to_string(),
            Bind::Unix(path) => format!("unix:{path}"),
        }
    }

    pub fn port(&self) -> Option<u16> {
        match self {
            Bind::Tcp(address) => Some(address.port()),
            Bind::Unix(_) => None,
        }
    }
}

/// The most ports that a range may have.
const RANGE_MAX: u16 = 64;

/// Reads one address of a `bind` line (without commas, variables expanded). A range of ports gives several.
pub(super) fn binds(text: &str) -> Result<Vec<Bind>, String> {
    if let Some(path) = text.strip_prefix("unix@").or_else(|| text.starts_with('/').then_some(text)) {
        return Ok(vec![Bind::Unix(path.to_owned())]);
    }
    for family in [
        "abns@",
        "abnsz@",
        "fd@",
        "sockpair@",
        "quic4@",
        "quic6@",
        "udp@",
        "udp4@",
        "udp6@",
        "rhttp@",
        "mptcp@",
        "mptcp4@",
        "mptcp6@",
    ] {
        if text.starts_with(family) {
            return Err(format!("pgvane cannot listen at \"{text}\""));
        }
    }
    let (family, text) = match text.split_once('@') {
        Some(("ipv4" | "tcp4", rest)) => (Some(4), rest),
        Some(("ipv6" | "tcp6", rest)) => (Some(6), rest),
        Some(("tcp" | "stream+ipv4" | "stream+ipv6", rest)) => (None, rest),
        Some(_) => return Err(format!("pgvane cannot listen at \"{text}\"")),
        None => (None, text),
    };
    let (host, ports) = text.rsplit_once(':').ok_or_else(|| format!("\"{text}\" has no port"))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address: IpAddr = match host {
        "" | "*" if family == Some(6) => Ipv6Addr::UNSPECIFIED.into(),
        "" | "*" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => host.parse().map_err(|_| format!("pgvane listens at IP addresses only, and \"{host}\" is a name"))?,
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (Some(first), Some(last)) = (port(first), port(last)) else {
        return Err(format!("\"{ports}\" is not a port"));
    };
    if last < first || last - first >= RANGE_MAX {
        return Err(format!("\"{ports}\" is not a range of at most {RANGE_MAX} ports"));
    }
    Ok((first..=last).map(|port| Bind::Tcp(SocketAddr::new(address, port))).collect())
}

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

impl Target {
    /// The host as it stands in a URL and before a port.
    pub fn url_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    pub fn text(&self) -> String {
        format!("{}:{}", self.url_host(), self.port)
    }
}

/// Reads the address of a server, with variables expanded.
pub(super) fn server(text: &str) -> Result<Target, String> {
    if text.starts_with('/') || text.starts_with("unix@") || text.starts_with("abns@") {
        return Err(format!("\"{text}\" is a Unix socket: pgvane reaches nodes by TCP"));
    }
    let bare = match text.split_once('@') {
        Some(("ipv4" | "ipv6" | "tcp" | "tcp4" | "tcp6", rest)) => rest,
        Some(_) => return Err(format!("\"{text}\" is not the address of a node")),
        None => text,
    };
    // as HAProxy: the port is behind the last colon, brackets are not needed
    let (host, port) = match bare.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None => return Err(format!("\"{text}\" has no port: HAProxy would use the port that the client connected to")),
    };
    let port = if port.starts_with(['+', '-']) {
        return Err(format!("\"{text}\": the port is relative to the client's, which pgvane does not have"));
    } else {
        port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| format!("\"{text}\": {port} is not a port"))?
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host == "*" || host == "0.0.0.0" {
        return Err(format!("\"{text}\" has no host"));
    }
    let is_name = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    if host.parse::<IpAddr>().is_err() && !is_name(host) {
        return Err(format!("\"{host}\" is neither an IP address nor a name"));
    }
    Ok(Target { host: host.to_owned(), port })
}

/// A time of HAProxy in microseconds: a whole number and `us`, `ms`, `s`, `m`, `h` or `d`. Without a unit it is
/// milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time {
    us: u64,
}

impl Time {
    pub fn read(text: &str) -> Option<Time> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor = match unit {
            "us" => 1,
            "" | "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return None,
        };
        Some(Time { us: number.parse::<u64>().ok()?.checked_mul(factor)? })
    }

    pub fn ms(self) -> u64 {
        self.us / 1_000
    }

    /// In pgvane's notation, in the unit that needs the fewest digits: `3s`, `4500ms`.
    pub fn text(self) -> String {
        const UNITS: [(&str, u64); 4] = [("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000)];
        let unit = UNITS.iter().find(|(_, factor)| self.us >= *factor && self.us % factor == 0);
        unit.map_or_else(|| format!("{}us", self.us), |(name, factor)| format!("{}{name}", self.us / factor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Option<Vec<String>> {
        binds(text).ok().map(|all| all.iter().map(Bind::text).collect())
    }

    #[test]
    fn binds_are_read_in_every_form() {
        for (text, expected) in [
            ("*:5000", &["0.0.0.0:5000"][..]),
            (":5000", &["0.0.0.0:5000"]),
            ("0.0.0.0:5000", &["0.0.0.0:5000"]),
            ("ipv4@10.0.0.1:5000", &["10.0.0.1:5000"]),
            ("ipv4@:5000", &["0.0.0.0:5000"]),
            ("ipv6@:5000", &["[::]:5000"]),
            ("[::]:5000", &["[::]:5000"]),
            (":::5000", &["[::]:5000"]),
            ("::1:5000", &["[::1]:5000"]),
            ("ipv6@::1:5000", &["[::1]:5000"]),
            ("/run/haproxy/pg.sock", &["unix:/run/haproxy/pg.sock"]),
            ("unix@/run/pg.sock", &["unix:/run/pg.sock"]),
            ("10.0.0.1:5432-5434", &["10.0.0.1:5432", "10.0.0.1:5433", "10.0.0.1:5434"]),
        ] {
            assert_eq!(
                texts(text).as_deref(),
                Some(&expected.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..]),
                "{text}"
            );
        }
        for text in ["", "5000", "*:0", "*:x", "abns@x", "fd@3", "*:1-65000", "*:9-3", "pg.example.org:5432", "udp@:53"]
        {
            assert_eq!(texts(text), None, "{text}");
        }
    }

    #[test]
    fn servers_are_read_in_every_form() {
        for (text, expected) in [
            ("10.0.0.11:5432", "10.0.0.11:5432"),
            ("pg1.example.org:5432", "pg1.example.org:5432"),
            ("ipv4@10.0.0.11:5432", "10.0.0.11:5432"),
            ("ipv6@[2001:db8::1]:5432", "[2001:db8::1]:5432"),
            ("[2001:db8::1]:5432", "[2001:db8::1]:5432"),
            ("2001:db8::1:5432", "[2001:db8::1]:5432"),
        ] {
            assert_eq!(server(text).map(|target| target.text()).as_deref(), Ok(expected), "{text}");
        }
        for text in
            ["", "pg1", "10.0.0.11:", "10.0.0.1:+1", "10.0.0.12:${PG_PORT-5432}", ":5432", "/run/pg", "unix@/run/pg"]
        {
            assert!(server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_keep_their_value() {
        for (text, expected) in [
            ("3s", "3s"),
            ("4500", "4500ms"),
            ("1500ms", "1500ms"),
            ("90m", "90min"),
            ("2000", "2s"),
            ("1d", "24h"),
            ("500us", "500us"),
        ] {
            assert_eq!(Time::read(text).map(Time::text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "s", "3 s", "1.5s", "3min", "-1", "99999999999999999999"] {
            assert_eq!(Time::read(text), None, "{text}");
        }
    }
}
