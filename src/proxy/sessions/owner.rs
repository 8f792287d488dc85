//! Whose session it is: the client's address, and the names that the client gave. In one allocation, because there may
//! be thousands of sessions.

use std::fmt;

use crate::net::Peer;
use crate::protocol::startup::{Who, cut_to_name_length};

/// Separates the parts: names in a startup packet end with a zero byte, so that they contain none.
const SEPARATOR: char = '\0';

/// The owner of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner(Box<str>);

impl Owner {
    /// The client at this address that gave these names.
    pub fn new(client: Peer, who: &Who) -> Owner {
        let client = client.to_string();
        let names = [who.user(), who.database(), who.application_name()].map(cut_to_name_length);
        let [user, database, application_name] = names;
        Owner([&client, user, database, application_name].join(&SEPARATOR.to_string()).into())
    }

    /// Address, user, database and application. The names are empty where encryption hides them.
    pub fn parts(&self) -> [&str; 4] {
        let mut parts = self.0.splitn(4, SEPARATOR);
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }

    /// The names.
    pub fn who(&self) -> Who {
        let [_, user, database, application_name] = self.parts();
        Who::new(user, database, application_name)
    }
}

impl fmt::Display for Owner {
    /// `192.0.2.7:12345 user "app" database "shop" application "psql"`; a question mark for what is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [client, names @ ..] = self.parts();
        f.write_str(client)?;
        for (what, name) in ["user", "database", "application"].into_iter().zip(names) {
            if name.is_empty() { write!(f, " {what} ?")? } else { write!(f, " {what} {name:?}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_and_names_come_out_as_they_went_in() {
        let who = Who::new("app", "", "psql");
        let owner = Owner::new(Peer::Unix, &who);
        assert_eq!(owner.parts(), ["unix", "app", "", "psql"]);
        assert_eq!(owner.who(), who);
        assert_eq!(owner.to_string(), "unix user \"app\" database ? application \"psql\"");
        assert_eq!(Owner::new(Peer::Unix, &Who::default()).parts(), ["unix", "", "", ""]);
    }
}
