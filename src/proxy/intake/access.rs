//! A listener's allow-lists: addresses, users and databases.

use crate::config::Access;
use crate::net::Peer;
use crate::protocol::startup::{Replication, StartupParameters};
use crate::proxy::end::End;

/// The entry in `databases` for physical replication, which uses no database; the same keyword as in `pg_hba.conf`.
const REPLICATION: &str = "replication";

impl Access {
    /// Whether connections from this peer are allowed.
    pub fn allows_peer(&self, peer: Peer) -> bool {
        self.allow.is_empty() || self.allow.contain(peer)
    }

    /// Whether user or database are restricted, so that pgvane has to read them from the startup packet.
    pub fn restricts_names(&self) -> bool {
        !self.users.is_empty() || !self.databases.is_empty()
    }

    /// Checks user and database against the allow-lists.
    pub fn check_names(&self, who: &StartupParameters) -> Result<(), End> {
        let lists = |list: &[String], name: &str| list.iter().any(|listed| listed == name);
        if !self.users.is_empty() && !lists(&self.users, who.user()) {
            return Err(End::UserNotAllowed(who.user().to_owned()));
        }
        let streams_wal = who.replication == Replication::Physical;
        let is_allowed = match streams_wal {
            true => lists(&self.databases, REPLICATION),
            // a database can have this name too: as in pg_hba.conf, the keyword does not match it
            false => who.database() != REPLICATION && lists(&self.databases, who.database()),
        };
        if self.databases.is_empty() || is_allowed {
            return Ok(());
        }
        let wanted = if streams_wal { REPLICATION } else { who.database() };
        Err(End::DatabaseNotAllowed(wanted.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(user: &str, database: &str) -> StartupParameters {
        StartupParameters::new(user, database, "")
    }

    fn access(users: &[&str], databases: &[&str]) -> Access {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Access { users: list(users), databases: list(databases), ..Access::default() }
    }

    #[test]
    fn an_empty_list_allows_everybody() {
        assert!(access(&[], &[]).check_names(&who("anybody", "anywhere")).is_ok());
        assert!(!access(&[], &[]).restricts_names());
    }

    #[test]
    fn names_are_compared_exactly_with_both_lists() {
        let access = access(&["app"], &["shop"]);
        assert!(access.restricts_names());
        assert!(access.check_names(&who("app", "shop")).is_ok());
        for user in ["root", "APP", "app ", ""] {
            assert!(matches!(access.check_names(&who(user, "shop")), Err(End::UserNotAllowed(name)) if name == user));
        }
        assert!(
            matches!(access.check_names(&who("app", "vault")), Err(End::DatabaseNotAllowed(name)) if name == "vault")
        );
    }

    #[test]
    fn physical_replication_has_a_keyword_of_its_own() {
        let mut wal = who("standby", "standby");
        wal.replication = Replication::Physical;
        assert!(access(&[], &["replication"]).check_names(&wal).is_ok());
        assert!(access(&["standby"], &[]).check_names(&wal).is_ok());
        let mut changes = who("subscriber", "shop");
        changes.replication = Replication::Logical;
        assert!(
            access(&[], &["shop"]).check_names(&changes).is_ok()
                && access(&[], &["replication"]).check_names(&changes).is_err()
        );
        assert!(access(&[], &["standby"]).check_names(&wal).is_err(), "it uses no database");
        assert!(
            access(&[], &["replication"]).check_names(&who("app", "replication")).is_err(),
            "a database of that name"
        );
    }
}
