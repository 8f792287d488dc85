//! Asks for the verifiers of the roles whose sessions are carried, away from their logins, which never wait for that.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::cluster_carrying::{ClusterCarrying, NotAgain};
use super::registry::Registry;
use super::role_keys::{Learned, NoKey};
use super::session_info::SessionInfo;
use crate::config::ClusterIndex;
use crate::probe::ClusterHandle;
use crate::probe::sql::Verifiers;
use crate::routing::Rule;

/// How long the verifiers of all roles may take that are asked for together.
const QUERY_MAX: Duration = Duration::from_secs(20);

/// After verifiers have been asked for, none are for this long, however many clients log in.
const QUERY_PAUSE: Duration = Duration::from_secs(1);

/// The same if some of them could not be had.
const FAILED_PAUSE: Duration = Duration::from_secs(10);

impl Registry {
    /// What concerns the sessions of a cluster that are carried.
    pub fn carrying(&self, cluster: ClusterIndex) -> &ClusterCarrying {
        self.carryings.get_or_init(cluster.0, ClusterCarrying::default)
    }

    /// Why a session of a cluster cannot log in again; `None` if it can, or if it is not carried anyway.
    pub fn why_not_again(&self, cluster: ClusterIndex, rule: &Rule, session: u64) -> Option<NotAgain> {
        let carrying = self.carrying(cluster);
        let opening = || self.openings.of(session);
        if carrying.concerns(rule) { carrying.credential(opening().as_deref()).err() } else { None }
    }

    /// The same of a session that runs; `None` also while it logs in.
    pub fn why_not_again_of(&self, session: &SessionInfo) -> Option<NotAgain> {
        let origin = &session.origin;
        match (&session.owner, session.is_encrypted) {
            (None, _) => None,
            (Some(_), true) => self.carrying(origin.cluster).concerns(&origin.rule).then_some(NotAgain::Encrypted),
            (Some(_), false) => self.why_not_again(origin.cluster, &origin.rule, session.id),
        }
    }

    /// The number of sessions of a cluster that cannot log in again until a client of their role has logged in here: they
    /// were logged in when another process had them.
    pub fn sessions_before_keys(&self, cluster: ClusterIndex) -> usize {
        let sessions = self.select(|control| control.cluster() == cluster);
        let lacks_key = |session: &SessionInfo| self.why_not_again_of(session) == Some(NotAgain::NoKey(NoKey::NoLogin));
        sessions.iter().filter(|(session, _)| lacks_key(session)).count()
    }
}

/// Asks the leader for the verifiers of the roles that have logged in, when there are such. Runs until it is dropped.
pub async fn learn_keys(cluster: ClusterIndex, view: ClusterHandle, registry: Arc<Registry>) {
    let carrying = registry.carrying(cluster);
    loop {
        let topology = view.topology_full();
        let (query, wanted) = (carrying.query.lock().clone(), carrying.keys.wanted());
        let (Some(query), false) = (query, wanted.is_empty()) else {
            carrying.wanted.notified().await;
            continue;
        };
        let Some(leader) = topology.leader() else {
            view.newer_than(topology.generation).await;
            continue;
        };
        let member = Arc::clone(&topology.node(leader).member);
        let asked = timeout(QUERY_MAX, query.verifiers(&member, &wanted)).await;
        let answers = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let pause = if take_answers(carrying, view.name(), &wanted, answers) { QUERY_PAUSE } else { FAILED_PAUSE };
        sleep(pause).await;
    }
}

/// Takes what the query has given. Returns whether the keys of all these roles are known now.
fn take_answers(
    carrying: &ClusterCarrying,
    cluster: &str,
    wanted: &[String],
    answers: Result<Verifiers, String>,
) -> bool {
    let answers = answers.unwrap_or_else(|why| wanted.iter().map(|role| (role.clone(), Err(why.clone()))).collect());
    let mut all_known = true;
    for (role, verifier) in answers {
        let verifier = verifier.as_ref().map(|verifier| verifier.as_deref().map(String::as_str));
        let learned = carrying.keys.learn(&role, verifier.map_err(Clone::clone));
        all_known &= learned == Learned::Key;
        match learned {
            Learned::Key => debug!(cluster, role, "sessions of this role can log in again at another server"),
            Learned::NothingNew => {}
            Learned::NoKey(why) => {
                let reason = why.to_string();
                warn!(cluster, role, reason, "sessions of this role cannot log in again at another server");
            }
        }
    }
    all_known
}

#[cfg(test)]
mod tests {
    use pgvane_loadtest::messages::{PROTOCOL_3_0, startup};

    use super::super::openings::Opening;
    use super::*;
    use crate::protocol::authentication::AuthenticatedBy;
    use crate::protocol::scram::for_tests::password;
    use crate::protocol::scram_exchange::for_tests::proof_of;

    const SALT: &[u8] = b"0123456789abcdef";

    #[test]
    fn what_a_query_gives_or_why_it_fails_is_known_of_every_role_that_was_asked_for() {
        let carrying = ClusterCarrying::default();
        carrying.set(true, None);
        let authenticated_by = AuthenticatedBy::Scram { salt: SALT.to_vec(), iterations: 4096 };
        let opening = Opening { packet: startup(PROTOCOL_3_0, &[("user", "app")]).into(), authenticated_by };
        carrying.has_logged_in(&opening.packet, proof_of("pencil", SALT));
        let wanted = ["app".to_owned()];
        assert!(!take_answers(&carrying, "main", &wanted, Err("connection refused".to_owned())));
        let why = carrying.credential(Some(&opening)).map(drop).expect_err("is not known");
        assert_eq!(why.to_string(), "carry_auth_query has failed: connection refused");
        let answer = vec![("app".to_owned(), Ok(Some(password("pencil", SALT, 4096).0.into())))];
        assert!(take_answers(&carrying, "main", &wanted, Ok(answer)));
        assert!(carrying.credential(Some(&opening)).is_ok());
    }
}
