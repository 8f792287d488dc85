//! Whose session it is: the client's address, and the names that the client gave. In one small allocation, because there
//! may be thousands of sessions.

use std::fmt;
use std::net::IpAddr;
use std::str;

use serde::{Deserialize, Serialize};

use crate::net::Peer;
use crate::protocol::startup::{StartupParameters, cut_to_name_length};

/// Separates the names. A name in a startup packet ends with a zero byte, so it contains none.
const SEPARATOR: u8 = 0;

/// The kind of address, in the first byte.
const UNIX: u8 = 0;
const IPV4: u8 = 4;
const IPV6: u8 = 6;

/// The owner of a session, as bytes: the kind of address, the address (IP address, port, for IPv6 also the zone), user,
/// database, application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner(Box<[u8]>);

impl Owner {
    /// The client at this address that gave these names.
    pub fn new(client: Peer, parameters: &StartupParameters) -> Owner {
        let [user, database, application_name] =
            [parameters.user(), parameters.database(), parameters.application_name()]
                .map(|name| cut_to_name_length(name).as_bytes());
        let names = [user, &[SEPARATOR], database, &[SEPARATOR], application_name];
        let address_length = match client {
            Peer::Unix => 1,
            Peer::Tcp { ip: IpAddr::V4(_), .. } => 1 + 4 + 2,
            Peer::Tcp { ip: IpAddr::V6(_), .. } => 1 + 16 + 2 + 4,
        };
        let length = address_length + names.iter().map(|part| part.len()).sum::<usize>();
        let mut bytes = Vec::with_capacity(length); // the exact length: then it is the only allocation
        match client {
            Peer::Unix => bytes.push(UNIX),
            Peer::Tcp { ip: IpAddr::V4(ip), port, .. } => {
                bytes.push(IPV4);
                bytes.extend(ip.octets());
                bytes.extend(port.to_be_bytes());
            }
            Peer::Tcp { ip: IpAddr::V6(ip), port, zone } => {
                bytes.push(IPV6);
                bytes.extend(ip.octets());
                bytes.extend(port.to_be_bytes());
                bytes.extend(zone.to_be_bytes());
            }
        }
        names.iter().for_each(|part| bytes.extend_from_slice(part));
        Owner(bytes.into())
    }

    /// The address of the client.
    pub fn client(&self) -> Peer {
        self.read().map_or(Peer::Unix, |(client, _)| client)
    }

    /// User, database and application. They are empty where encryption hides them.
    pub fn names(&self) -> [&str; 3] {
        let mut names = self.read().map_or(&[][..], |(_, names)| names).splitn(3, |byte| *byte == SEPARATOR);
        std::array::from_fn(|_| names.next().and_then(|name| str::from_utf8(name).ok()).unwrap_or_default())
    }

    /// The names, as the log has them.
    pub fn parameters(&self) -> StartupParameters {
        let [user, database, application_name] = self.names();
        StartupParameters::new(user, database, application_name)
    }

    /// The address, and the bytes of the names. Never `None`: [`Owner::new`] wrote it.
    fn read(&self) -> Option<(Peer, &[u8])> {
        let (kind, rest) = self.0.split_first()?;
        let (ip, rest): (IpAddr, _) = match *kind {
            UNIX => return Some((Peer::Unix, rest)),
            IPV4 => rest.split_first_chunk::<4>().map(|(ip, rest)| ((*ip).into(), rest))?,
            _ => rest.split_first_chunk::<16>().map(|(ip, rest)| ((*ip).into(), rest))?,
        };
        let (port, rest) = rest.split_first_chunk().map(|(port, rest)| (u16::from_be_bytes(*port), rest))?;
        let (zone, names) = match *kind {
            IPV4 => (0, rest),
            _ => rest.split_first_chunk().map(|(zone, rest)| (u32::from_be_bytes(*zone), rest))?,
        };
        Some((Peer::Tcp { ip, port, zone }, names))
    }
}

impl fmt::Display for Owner {
    /// `192.0.2.7:12345 user "app" database "shop" application "psql"`; a question mark for what is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.client())?;
        for (what, name) in ["user", "database", "application"].into_iter().zip(self.names()) {
            if name.is_empty() { write!(f, " {what} ?")? } else { write!(f, " {what} {name:?}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn address_and_names_come_out_as_they_went_in() {
        let parameters = StartupParameters::new("app", "", "psql");
        let address = |text: &str| Peer::from(text.parse::<SocketAddr>().expect("an address"));
        for client in [Peer::Unix, address("192.0.2.7:12345"), address("[fe80::7%3]:12345")] {
            let owner = Owner::new(client, &parameters);
            assert_eq!((owner.client(), owner.names()), (client, ["app", "", "psql"]));
            assert_eq!(owner.parameters(), parameters);
            assert_eq!(owner.to_string(), format!("{client} user \"app\" database ? application \"psql\""));
        }
        assert_eq!(Owner::new(Peer::Unix, &StartupParameters::default()).names(), ["", "", ""]);
    }
}
