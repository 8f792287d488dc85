//! Whether the sessions of one cluster are carried to another leader, and with what they can log in there again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::cluster_parking::is_parkable;
use super::openings::Opening;
use super::role_keys::{NoKey, RoleKeyCensus, RoleKeys};
use crate::probe::sql::AuthQuery;
use crate::protocol::authentication::AuthenticatedBy;
use crate::protocol::login_again::Credential;
use crate::protocol::opening::{self, Progress};
use crate::protocol::scram::RoleKey;
use crate::protocol::scram_exchange::Proof;
use crate::protocol::startup::cut_to_name_length;
use crate::routing::Rule;

/// Why a session cannot log in again at another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAgain {
    /// Its login is not known: it was before `carry` was switched on.
    Unknown,
    /// Client and server encrypt end to end.
    Encrypted,
    /// Its server has asked for something that only its client can answer; what, for people.
    Method(String),
    /// The key of its role is not known.
    NoKey(NoKey),
}

impl fmt::Display for NotAgain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotAgain::Encrypted => f.write_str("client and server encrypt end to end"),
            NotAgain::Unknown => f.write_str("its login is not known: it was before carry = true"),
            NotAgain::Method(what) => write!(f, "its server asked for {what}, which pgvane cannot answer"),
            NotAgain::NoKey(why) => write!(f, "{why}"),
        }
    }
}

/// What concerns the sessions of one cluster that are carried.
#[derive(Debug, Default)]
pub struct ClusterCarrying {
    is_on: AtomicBool,
    /// How to ask for verifiers.
    pub(super) query: Mutex<Option<Arc<AuthQuery>>>,
    pub(super) keys: RoleKeys,
    /// A verifier is to be asked for, or by another query.
    pub(super) wanted: Notify,
}

impl ClusterCarrying {
    /// Sets whether the sessions are carried, and how to ask for the verifiers of their roles.
    pub fn set(&self, is_on: bool, query: Option<Arc<AuthQuery>>) {
        self.is_on.store(is_on, Relaxed);
        *self.query.lock() = query;
        match is_on {
            true => self.keys.ask_again(),
            false => self.keys.forget(),
        }
        self.wanted.notify_one();
    }

    /// Whether sessions of this rule are carried.
    pub fn concerns(&self, rule: &Rule) -> bool {
        self.is_on.load(Relaxed) && is_parkable(rule)
    }

    /// The roles that have logged in by SCRAM; `None` if no sessions are carried.
    pub fn role_keys(&self) -> Option<RoleKeyCensus> {
        self.is_on.load(Relaxed).then(|| self.keys.census())
    }

    /// The keys that are known, by role.
    pub fn known_keys(&self) -> Vec<(String, Arc<RoleKey>)> {
        self.keys.known()
    }

    /// Takes over a key that another process has learnt.
    pub fn take_over_key(&self, role: &str, key: RoleKey) {
        if self.is_on.load(Relaxed) {
            self.keys.take_over(role, key);
        }
    }

    /// A client has logged in with this proof; its startup packet was this one.
    pub(super) fn has_logged_in(&self, packet: &[u8], proof: Proof) {
        if self.is_on.load(Relaxed) && user(packet).is_some_and(|user| self.keys.has_logged_in(&user, proof)) {
            self.wanted.notify_one();
        }
    }

    /// With what a session that has begun so can log in again. Errors: why it cannot.
    pub fn credential(&self, opening: Option<&Opening>) -> Result<Credential, NotAgain> {
        let opening = opening.ok_or(NotAgain::Unknown)?;
        match &opening.authenticated_by {
            AuthenticatedBy::Nothing => Ok(Credential::Nothing),
            AuthenticatedBy::Other(what) => Err(NotAgain::Method(what.clone())),
            AuthenticatedBy::Scram { salt, iterations } => {
                let user = user(&opening.packet).ok_or(NotAgain::Unknown)?;
                let key = self.keys.key(&user, salt, *iterations).map_err(|why| match why {
                    NoKey::NotYet | NoKey::NoLogin if self.query.lock().is_none() => NotAgain::NoKey(NoKey::NoQuery),
                    why => NotAgain::NoKey(why),
                })?;
                Ok(Credential::Scram(key))
            }
        }
    }
}

/// The role in a startup packet, as PostgreSQL takes it.
fn user(packet: &[u8]) -> Option<String> {
    match opening::read(packet) {
        Ok(Progress::Complete { opening: opening::Opening::Startup(parameters), .. }) => {
            Some(cut_to_name_length(parameters.user()).to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use pgvane_loadtest::messages::{PROTOCOL_3_0, startup};

    use super::*;
    use crate::protocol::scram::for_tests::password;
    use crate::protocol::scram_exchange::for_tests::proof_of;
    use crate::routing::Target;

    const SALT: &[u8] = b"0123456789abcdef";

    fn opening(authenticated_by: AuthenticatedBy) -> Opening {
        Opening { packet: startup(PROTOCOL_3_0, &[("user", "app"), ("database", "shop")]).into(), authenticated_by }
    }

    fn by_scram() -> Opening {
        opening(AuthenticatedBy::Scram { salt: SALT.to_vec(), iterations: 4096 })
    }

    #[test]
    fn what_a_session_can_log_in_again_with_follows_from_how_it_has_begun() {
        let carrying = ClusterCarrying::default();
        carrying.set(true, None);
        let credential = |opening: Option<&Opening>| carrying.credential(opening).map_err(|why| why.to_string());
        let told = |why: &str| Err(why.to_owned());
        let none =
            |credential: Result<Credential, String>| credential.map(|found| matches!(found, Credential::Nothing));
        assert_eq!(none(credential(Some(&opening(AuthenticatedBy::Nothing)))), Ok(true));
        assert_eq!(none(credential(None)), told("its login is not known: it was before carry = true"));
        let other = opening(AuthenticatedBy::Other("GSSAPI".to_owned()));
        assert_eq!(none(credential(Some(&other))), told("its server asked for GSSAPI, which pgvane cannot answer"));
        let no_query = "it has logged in with a password, and carry_auth_query is not set";
        assert_eq!(none(credential(Some(&by_scram()))), told(no_query));

        let opening = by_scram();
        carrying.has_logged_in(&opening.packet, proof_of("pencil", SALT));
        carrying.keys.learn("app", Ok(Some(&password("pencil", SALT, 4096).0)));
        assert_eq!(none(credential(Some(&opening))), Ok(false));
        carrying.set(false, None);
        assert_eq!(none(credential(Some(&opening))), told(no_query), "it is forgotten");
    }

    #[test]
    fn nothing_is_kept_while_it_is_off_and_reading_sessions_are_not_concerned() {
        let carrying = ClusterCarrying::default();
        carrying.has_logged_in(&by_scram().packet, proof_of("pencil", SALT));
        assert!(carrying.keys.wanted().is_empty());
        assert!(!carrying.concerns(&Rule::new(Target::Leader)));
        carrying.set(true, None);
        assert!(carrying.concerns(&Rule::new(Target::Leader)) && !carrying.concerns(&Rule::new(Target::Any)));
    }
}
