//! Where a listener listens: TCP addresses and the files of Unix sockets.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The prefix of `bind` for a Unix socket.
const UNIX_PREFIX: &str = "unix:";

/// `sun_path` has 108 bytes (`unix(7)`), including a terminating zero; a new socket is created next to the old one,
/// under a name that is longer by a process id.
const PATH_LENGTH_MAX: usize = 96;

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bind {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(UnixBind),
}

/// All the places where one listener listens: one or more, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binds(Vec<Bind>);

impl Binds {
    /// These places; `None` if there are none.
    pub fn new(all: Vec<Bind>) -> Option<Binds> {
        (!all.is_empty()).then_some(Binds(all))
    }

    /// Each of them, in the order of the configuration.
    pub fn iter(&self) -> std::slice::Iter<'_, Bind> {
        self.0.iter()
    }

    /// Whether one of them is a TCP address.
    pub fn has_tcp(&self) -> bool {
        self.iter().any(|bind| bind.unix().is_none())
    }

    /// Whether one of them is a Unix socket.
    pub fn has_unix(&self) -> bool {
        self.iter().any(|bind| bind.unix().is_some())
    }
}

impl<B: Into<Bind>> From<B> for Binds {
    fn from(bind: B) -> Binds {
        Binds(vec![bind.into()])
    }
}

impl fmt::Display for Binds {
    /// `0.0.0.0:6432`, or several of these with commas between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, bind) in self.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{bind}")?;
        }
        Ok(())
    }
}

/// The file of a Unix socket, with its permissions and owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnixBind {
    /// Its path. libpq connects to `.s.PGSQL.PORT` in the directory that is given as the host.
    pub path: PathBuf,
    /// Its permissions. Users that may write to it can connect.
    pub mode: u32,
    /// The user that owns it; the user of the pgvane process if `None`.
    pub owner: Option<u32>,
    /// The group that owns it; the group of the pgvane process if `None`.
    pub group: Option<u32>,
}

impl Bind {
    /// Parses `IP:PORT`, `*:PORT` for all IPv4 and IPv6 addresses, or `unix:/PATH`. The error says how to write it.
    pub fn parse(text: &str) -> Result<Bind, String> {
        if let Some(path) = text.strip_prefix(UNIX_PREFIX) {
            return UnixBind::parse(path).map(Bind::Unix);
        }
        let all_addresses = text.strip_prefix('*').map(|port| format!("[::]{port}"));
        all_addresses.as_deref().unwrap_or(text).parse().map(Bind::Tcp).map_err(|_| {
            "write IP:PORT, for example \"0.0.0.0:6432\", \"[::]:6432\" or \"*:6432\", or \
             \"unix:/run/pgvane/.s.PGSQL.6432\""
                .to_owned()
        })
    }

    /// Whether the kernel gives only one of the two: they are the same, or one is all addresses with the other's port.
    /// `[::]` takes IPv4 connections too. Port 0 overlaps with nothing: the kernel chooses a free port.
    pub fn overlaps(&self, other: &Bind) -> bool {
        match (self, other) {
            (Bind::Tcp(one), Bind::Tcp(other)) => {
                let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
                one.port() != 0 && one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
            }
            (Bind::Unix(one), Bind::Unix(other)) => one.path == other.path,
            _ => false,
        }
    }

    /// The Unix socket, if it is one.
    pub fn unix(&self) -> Option<&UnixBind> {
        match self {
            Bind::Tcp(_) => None,
            Bind::Unix(unix) => Some(unix),
        }
    }
}

/// Whether a socket that is bound to `all` takes connections to `one` too.
fn covers(all: IpAddr, one: IpAddr) -> bool {
    all.is_unspecified() && (all.is_ipv6() || one.is_ipv4())
}

impl UnixBind {
    /// The default of PostgreSQL and PgBouncer: every user of this host can connect.
    pub const MODE_DEFAULT: u32 = 0o777;

    fn parse(path: &str) -> Result<UnixBind, String> {
        let path = Path::new(path);
        if !path.is_absolute() || path.file_name().is_none() {
            return Err("write an absolute path, for example \"unix:/run/pgvane/.s.PGSQL.6432\"".to_owned());
        }
        if path.as_os_str().len() > PATH_LENGTH_MAX {
            return Err(format!("the path of a socket can have at most {PATH_LENGTH_MAX} bytes"));
        }
        Ok(UnixBind { path: path.to_owned(), mode: UnixBind::MODE_DEFAULT, owner: None, group: None })
    }
}

impl From<SocketAddr> for Bind {
    fn from(address: SocketAddr) -> Bind {
        Bind::Tcp(address)
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => write!(f, "{address}"),
            Bind::Unix(unix) => write!(f, "{UNIX_PREFIX}{}", unix.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_files_are_read_and_written_alike() {
        for text in ["0.0.0.0:6432", "[::]:6432", "unix:/run/pgvane/.s.PGSQL.6432"] {
            assert_eq!(Bind::parse(text).expect("is one").to_string(), text);
        }
        assert_eq!(Bind::parse("*:6432"), Bind::parse("[::]:6432"));
    }

    #[test]
    fn all_addresses_overlap_with_one_address_at_the_same_port() {
        let overlap = |one: &str, other: &str| {
            let (one, other) = (Bind::parse(one).expect("is one"), Bind::parse(other).expect("is one"));
            assert_eq!(one.overlaps(&other), other.overlaps(&one), "{one} {other}");
            one.overlaps(&other)
        };
        for (one, other) in [
            ("10.0.0.1:5432", "10.0.0.1:5432"),
            ("0.0.0.0:5432", "10.0.0.1:5432"),
            ("[::]:5432", "10.0.0.1:5432"),
            ("[::]:5432", "0.0.0.0:5432"),
            ("*:5432", "[2001:db8::1]:5432"),
            ("10.0.0.1:5432", "[::ffff:10.0.0.1]:5432"),
            ("unix:/run/a", "unix:/run/a"),
        ] {
            assert!(overlap(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("0.0.0.0:5432", "10.0.0.1:5433"),
            ("0.0.0.0:5432", "[2001:db8::1]:5432"),
            ("10.0.0.1:5432", "10.0.0.2:5432"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("unix:/run/a", "unix:/run/b"),
            ("unix:/run/a", "0.0.0.0:5432"),
        ] {
            assert!(!overlap(one, other), "{one} {other}");
        }
    }

    #[test]
    fn an_invalid_address_is_refused() {
        let long = format!("unix:/{}", "x".repeat(PATH_LENGTH_MAX));
        for text in ["6432", "localhost:6432", "unix:run/pgvane", "unix:", "unix:/", "unix:/run/..", &long] {
            assert!(Bind::parse(text).is_err(), "{text}");
        }
    }
}
