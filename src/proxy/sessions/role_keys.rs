//! The keys by which pgvane logs in again in place of its clients, by role. A key is known once a client of the role has
//! logged in by SCRAM and the role's verifier has been asked for (`carry_auth_query`). Keys are in memory only, and are
//! overwritten when they are forgotten: when a client has logged in with another password, and when `carry` is switched
//! off.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::protocol::scram::{RoleKey, Verifier};
use crate::protocol::scram_exchange::Proof;

/// The number of roles whose keys are kept: more than clusters have that log in by themselves.
const ROLES_MAX: usize = 10_000;

/// Why the key of a role is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoKey {
    /// There is no query for verifiers.
    NoQuery,
    /// No client of the role has logged in by SCRAM since this process was started.
    NoLogin,
    /// The verifier has not been asked for yet.
    NotYet,
    /// The query gives no row, or NULL: there is no such role, or it has no password.
    NoRole,
    /// What the query gives is not a SCRAM verifier.
    NoVerifier,
    /// The verifier is not the one with which the client has logged in.
    Changed,
    /// The query has failed; with the reason.
    Failed(String),
}

impl fmt::Display for NoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoKey::NoQuery => f.write_str("it has logged in with a password, and carry_auth_query is not set"),
            NoKey::NoLogin => f.write_str("no client of its role has logged in since this process was started"),
            NoKey::NotYet => f.write_str("carry_auth_query has not been asked for its role yet"),
            NoKey::NoRole => f.write_str("carry_auth_query gives no password for its role"),
            NoKey::NoVerifier => f.write_str("carry_auth_query gives no SCRAM-SHA-256 verifier for its role"),
            NoKey::Changed => f.write_str("the password of its role has been changed since its login"),
            NoKey::Failed(why) => write!(f, "carry_auth_query has failed: {why}"),
        }
    }
}

/// The roles that have logged in by SCRAM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoleKeyCensus {
    /// Their sessions can log in again.
    pub known: usize,
    /// The query gives nothing for them.
    pub not_given: usize,
    /// They are to be asked for, or there is no query.
    pub not_yet: usize,
    /// The query has failed, or has given something that is of no use.
    pub failed: usize,
}

/// The keys of the roles of one cluster.
#[derive(Debug, Default)]
pub(super) struct RoleKeys(Mutex<HashMap<String, Role>>);

#[derive(Debug)]
enum Role {
    /// The key that the newest login has proved.
    Known(Arc<RoleKey>),
    /// A client has logged in, and the verifier is not known.
    Unknown(Unknown),
}

#[derive(Debug)]
struct Unknown {
    /// Of the newest login.
    proof: Proof,
    why: NoKey,
    /// The verifier is to be asked for: another answer than the last one is possible.
    is_wanted: bool,
}

/// What an answer to the query for a verifier was good for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Learned {
    /// The key is known now.
    Key,
    /// It is not, for the same reason as before.
    NothingNew,
    /// It is not, for this reason.
    NoKey(NoKey),
}

impl RoleKeys {
    /// A client of this role has logged in with this proof. Returns whether its verifier is to be asked for.
    pub(super) fn has_logged_in(&self, role: &str, proof: Proof) -> bool {
        let mut roles = self.0.lock();
        let why = match roles.get(role) {
            Some(Role::Known(key)) if proof.fits(key.verifier()) => return false,
            Some(Role::Known(_)) => NoKey::NotYet, // that key is of an old password
            Some(Role::Unknown(unknown)) => unknown.why.clone(),
            None if roles.len() < ROLES_MAX => NoKey::NotYet,
            None => return false,
        };
        roles.insert(role.to_owned(), Role::Unknown(Unknown { proof, why, is_wanted: true }));
        true
    }

    /// The keys that are known, by role.
    pub(super) fn known(&self) -> Vec<(String, Arc<RoleKey>)> {
        let roles = self.0.lock();
        let known = roles.iter().filter_map(|(name, role)| match role {
            Role::Known(key) => Some((name.clone(), Arc::clone(key))),
            Role::Unknown(_) => None,
        });
        known.collect()
    }

    /// Takes over a key that another process has learnt. What is known of the role here is newer.
    pub(super) fn take_over(&self, role: &str, key: RoleKey) {
        let mut roles = self.0.lock();
        if roles.len() < ROLES_MAX {
            roles.entry(role.to_owned()).or_insert_with(|| Role::Known(Arc::new(key)));
        }
    }

    /// The roles whose verifiers are to be asked for.
    pub(super) fn wanted(&self) -> Vec<String> {
        let roles = self.0.lock();
        let wanted = roles.iter().filter(|(_, role)| matches!(role, Role::Unknown(Unknown { is_wanted: true, .. })));
        wanted.map(|(name, _)| name.clone()).collect()
    }

    /// There is another query for verifiers, which may know more.
    pub(super) fn ask_again(&self) {
        for role in self.0.lock().values_mut() {
            if let Role::Unknown(unknown) = role {
                unknown.is_wanted = true;
            }
        }
    }

    /// What the query for the verifier of a role has given. If it has failed, it is to be asked again; if it has given
    /// something of no use, not before the next client of the role logs in.
    pub(super) fn learn(&self, name: &str, verifier: Result<Option<&str>, String>) -> Learned {
        let mut roles = self.0.lock();
        let Some(role) = roles.get_mut(name) else { return Learned::NothingNew };
        let Role::Unknown(unknown) = role else { return Learned::NothingNew };
        let key = match verifier {
            Err(failure) => Err(NoKey::Failed(failure)),
            Ok(None) => Err(NoKey::NoRole),
            Ok(Some(text)) => Verifier::parse(text)
                .ok_or(NoKey::NoVerifier)
                .and_then(|verifier| unknown.proof.role_key(&verifier).ok_or(NoKey::Changed)),
        };
        match key {
            Ok(key) => {
                *role = Role::Known(Arc::new(key));
                Learned::Key
            }
            Err(why) => {
                unknown.is_wanted = matches!(why, NoKey::Failed(_));
                let before = std::mem::replace(&mut unknown.why, why.clone());
                if before == why { Learned::NothingNew } else { Learned::NoKey(why) }
            }
        }
    }

    /// The key by which a session of this role can log in again that has logged in by a verifier with this salt and this
    /// number of iterations. Errors: why there is none.
    pub(super) fn key(&self, role: &str, salt: &[u8], iterations: u32) -> Result<Arc<RoleKey>, NoKey> {
        match self.0.lock().get(role) {
            // a session of an old password must not go on by a new one: its client does not know that
            Some(Role::Known(key)) if !key.verifier().is_announced_by(salt, iterations) => Err(NoKey::Changed),
            Some(Role::Known(key)) => Ok(Arc::clone(key)),
            Some(Role::Unknown(unknown)) => Err(unknown.why.clone()),
            None => Err(NoKey::NoLogin),
        }
    }

    /// How many roles there are of each kind.
    pub(super) fn census(&self) -> RoleKeyCensus {
        let mut census = RoleKeyCensus::default();
        for role in self.0.lock().values() {
            match role {
                Role::Known(_) => census.known += 1,
                Role::Unknown(Unknown { why: NoKey::NoRole, .. }) => census.not_given += 1,
                Role::Unknown(Unknown { why: NoKey::NotYet | NoKey::NoQuery | NoKey::NoLogin, .. }) => {
                    census.not_yet += 1;
                }
                Role::Unknown(Unknown { why: NoKey::NoVerifier | NoKey::Changed | NoKey::Failed(_), .. }) => {
                    census.failed += 1;
                }
            }
        }
        census
    }

    /// Forgets all keys and proofs.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::scram::for_tests::password;
    use crate::protocol::scram_exchange::for_tests::proof_of;

    const SALT: &[u8] = b"0123456789abcdef";
    const OTHER_SALT: &[u8] = b"another salt";

    fn verifier(text: &str, salt: &[u8]) -> String {
        password(text, salt, 4096).0
    }

    fn key(keys: &RoleKeys, salt: &[u8]) -> Result<(), NoKey> {
        keys.key("app", salt, 4096).map(|_| ())
    }

    #[test]
    fn a_key_is_known_once_a_client_has_logged_in_and_the_verifier_has_been_asked_for() {
        let keys = RoleKeys::default();
        assert_eq!(key(&keys, SALT), Err(NoKey::NoLogin));
        assert!(keys.has_logged_in("app", proof_of("pencil", SALT)));
        assert_eq!((keys.wanted(), key(&keys, SALT)), (vec!["app".to_owned()], Err(NoKey::NotYet)));
        assert_eq!(keys.learn("app", Ok(Some(&verifier("pencil", SALT)))), Learned::Key);
        assert_eq!((keys.wanted(), key(&keys, SALT)), (vec![], Ok(())));
        assert!(!keys.has_logged_in("app", proof_of("pencil", SALT)), "nothing is to be asked again");
        keys.forget();
        assert_eq!(key(&keys, SALT), Err(NoKey::NoLogin));
    }

    #[test]
    fn after_a_change_of_the_password_the_old_key_is_forgotten_and_serves_no_session() {
        let keys = RoleKeys::default();
        keys.has_logged_in("app", proof_of("pencil", SALT));
        keys.learn("app", Ok(Some(&verifier("pencil", SALT))));
        assert!(keys.has_logged_in("app", proof_of("eraser", OTHER_SALT)));
        assert_eq!([key(&keys, SALT), key(&keys, OTHER_SALT)], [Err(NoKey::NotYet), Err(NoKey::NotYet)]);
        assert_eq!(keys.learn("app", Ok(Some(&verifier("eraser", OTHER_SALT)))), Learned::Key);
        assert_eq!([key(&keys, SALT), key(&keys, OTHER_SALT)], [Err(NoKey::Changed), Ok(())]);
    }

    #[test]
    fn why_a_key_is_not_known_is_told_and_it_is_asked_for_again() {
        let keys = RoleKeys::default();
        keys.has_logged_in("app", proof_of("pencil", SALT));
        let newer = verifier("eraser", OTHER_SALT);
        let wrong = verifier("eraser", SALT);
        for (answer, expected) in [
            (Err("permission denied".to_owned()), NoKey::Failed("permission denied".to_owned())),
            (Ok(None), NoKey::NoRole),
            (Ok(Some("md5b6d4bd5fb2bbf0e1bfbd1a2bc0b1ac49")), NoKey::NoVerifier),
            (Ok(Some(newer.as_str())), NoKey::Changed),
            (Err("no leader".to_owned()), NoKey::Failed("no leader".to_owned())),
            (Ok(Some(wrong.as_str())), NoKey::Changed),
        ] {
            assert_eq!(keys.learn("app", answer.clone()), Learned::NoKey(expected.clone()));
            let census = keys.census();
            assert_eq!(census.not_given + census.failed, 1, "{census:?}");
            assert_eq!(census.not_given == 1, expected == NoKey::NoRole, "{census:?}");
            assert_eq!(keys.learn("app", answer.clone()), Learned::NothingNew);
            assert_eq!(key(&keys, SALT), Err(expected));
            assert_eq!(!keys.wanted().is_empty(), answer.is_err(), "only what has failed is asked again by itself");
            assert!(keys.has_logged_in("app", proof_of("pencil", SALT)), "the next login asks again");
            assert_eq!(keys.wanted(), ["app"]);
        }
        keys.learn("app", Ok(None));
        assert!(keys.wanted().is_empty());
        keys.ask_again();
        assert_eq!(keys.wanted(), ["app"]);
        assert_eq!(keys.learn("app", Ok(Some(&verifier("pencil", SALT)))), Learned::Key);
        assert_eq!(keys.census(), RoleKeyCensus { known: 1, ..RoleKeyCensus::default() });
    }

    #[test]
    fn keys_are_taken_over_and_what_is_known_of_a_role_already_stays() {
        let (old, new) = (RoleKeys::default(), RoleKeys::default());
        for role in ["app", "other"] {
            old.has_logged_in(role, proof_of("pencil", SALT));
            old.learn(role, Ok(Some(&verifier("pencil", SALT))));
        }
        old.has_logged_in("third", proof_of("pencil", SALT));
        new.has_logged_in("other", proof_of("eraser", OTHER_SALT));
        assert_eq!(old.known().len(), 2);
        for (role, known) in old.known() {
            new.take_over(&role, RoleKey::from_secret(&known.to_secret()).expect("is one"));
        }
        assert_eq!(key(&new, SALT), Ok(()));
        assert_eq!((new.known().len(), new.wanted()), (1, vec!["other".to_owned()]), "it has logged in since then");
    }

    #[test]
    fn the_number_of_roles_is_bounded() {
        let (keys, proof) = (RoleKeys::default(), proof_of("pencil", SALT));
        (0..ROLES_MAX).for_each(|number| assert!(keys.has_logged_in(&number.to_string(), proof.clone())));
        assert!(!keys.has_logged_in("one more", proof));
        assert_eq!(keys.wanted().len(), ROLES_MAX);
    }

    #[test]
    fn neither_keys_nor_proofs_are_shown() {
        let keys = RoleKeys::default();
        for role in ["app", "other"] {
            keys.has_logged_in(role, proof_of("pencil", SALT));
        }
        keys.learn("app", Ok(Some(&verifier("pencil", SALT))));
        let shown = format!("{keys:?}");
        assert!(shown.contains("Known(RoleKey)") && shown.contains("proof: Proof,"), "{shown}");
    }
}
