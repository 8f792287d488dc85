//! Who is let in by a listener: as which user, and into which database.

use crate::config::Access;
use crate::net::Peer;
use crate::protocol::startup::{Replication, Who};
use crate::proxy::end::End;

/// What `databases` calls the stream of WAL, which belongs to no database; the word of `pg_hba.conf`.
const REPLICATION: &str = "replication";

impl Access {
    /// Whether connections of this peer are taken.
    pub fn lets_in_from(&self, peer: Peer) -> bool {
        self.allow.is_empty() || self.allow.contain(peer)
    }

    /// Whether one has to know who wants a session before it can be let in.
    pub fn asks_for_names(&self) -> bool {
        !self.users.is_empty() || !self.databases.is_empty()
    }

    /// Holds who wants a session against the lists of users and databases.
    pub fn admit(&self, who: &Who) -> Result<(), End> {
        let lists = |list: &[String], name: &str| list.iter().any(|listed| listed == name);
        if !self.users.is_empty() && !lists(&self.users, who.user()) {
            return Err(End::UserNotAllowed(who.user().to_owned()));
        }
        let streams_wal = who.replication == Replication::Physical;
        let may_enter = match streams_wal {
            true => lists(&self.databases, REPLICATION),
            // a database may be called so, too: as in pg_hba.conf, the word does not mean it
            false => who.database() != REPLICATION && lists(&self.databases, who.database()),
        };
        if self.databases.is_empty() || may_enter {
            return Ok(());
        }
        let wanted = if streams_wal { REPLICATION } else { who.database() };
        Err(End::DatabaseNotAllowed(wanted.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(user: &str, database: &str) -> Who {
        Who::new(user, database, "")
    }

    fn access(users: &[&str], databases: &[&str]) -> Access {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Access { users: list(users), databases: list(databases), ..Access::default() }
    }

    #[test]
    fn a_list_that_is_empty_lets_everybody_in() {
        assert!(access(&[], &[]).admit(&who("anybody", "anywhere")).is_ok());
        assert!(!access(&[], &[]).asks_for_names());
    }

    #[test]
    fn both_lists_must_have_the_name_as_it_is_written() {
        let access = access(&["app"], &["shop"]);
        assert!(access.asks_for_names());
        assert!(access.admit(&who("app", "shop")).is_ok());
        for user in ["root", "APP", "app ", ""] {
            assert!(matches!(access.admit(&who(user, "shop")), Err(End::UserNotAllowed(name)) if name == user));
        }
        assert!(matches!(access.admit(&who("app", "vault")), Err(End::DatabaseNotAllowed(name)) if name == "vault"));
    }

    #[test]
    fn the_stream_of_wal_has_a_word_of_its_own() {
        let mut wal = who("standby", "standby");
        wal.replication = Replication::Physical;
        assert!(access(&[], &["replication"]).admit(&wal).is_ok());
        assert!(access(&["standby"], &[]).admit(&wal).is_ok());
        let mut changes = who("subscriber", "shop");
        changes.replication = Replication::Logical;
        assert!(
            access(&[], &["shop"]).admit(&changes).is_ok() && access(&[], &["replication"]).admit(&changes).is_err()
        );
        assert!(access(&[], &["standby"]).admit(&wal).is_err(), "it is in no database");
        assert!(access(&[], &["replication"]).admit(&who("app", "replication")).is_err(), "a database of that name");
    }
}
