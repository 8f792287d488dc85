//! The server says at login whether it is in recovery (`in_hot_standby`): whether it is the right node for the session.

use super::{Following, Login, LoginOutcome};
use crate::cluster::Suspicion;
use crate::cluster::node::ServerKind;
use crate::proxy::admission::failure::NodeFailure;
use crate::proxy::end::End;
use crate::routing::Cause;

/// What is to be thought of the role that a server says at login.
enum Hint {
    /// The node's checks say the same.
    Confirmed,
    /// It may be the role of another server.
    Ignored,
    /// The node's checks say the opposite, or nothing.
    New,
}

impl Login<'_> {
    /// Why a node that is in recovery, or is not, cannot take the session; `None` if it can.
    ///
    /// If the node's checks say the opposite, a check that is sent now decides: what is said at a login may come from a
    /// pooler that remembers another server, and then it never changes.
    pub(super) async fn why_wrong_role(&mut self, in_recovery: bool) -> Option<Cause> {
        let cause = self.listener.rule.why_wrong(in_recovery);
        match self.hint(in_recovery) {
            Hint::Confirmed => cause,
            Hint::Ignored => None,
            Hint::New => {
                let Some(cause) = cause else {
                    self.cluster.suspect(self.guard.node(), Suspicion::HotStandby);
                    return None;
                };
                // in a box, because few logins need it
                let is_true = Box::pin(self.check_hint(in_recovery)).await?;
                is_true.then_some(cause)
            }
        }
    }

    fn hint(&self, in_recovery: bool) -> Hint {
        let (topology, port) = (self.cluster.topology(), self.listener.rule.port);
        let view = topology.node(self.guard.node());
        if self.listener.server_kind_on(&view.member) == ServerKind::Pooler {
            return Hint::Ignored;
        }
        if view.known_in_recovery() == Some(in_recovery) {
            return Hint::Confirmed;
        }
        if view.ports.login_hints_are_stale(port, self.cluster.now()) {
            self.metrics.login_hints_ignored.inc();
            return Hint::Ignored;
        }
        Hint::New
    }

    /// Whether the node is in recovery, or is not, as it says at logins. `None` if no check has settled it in time.
    async fn check_hint(&self, in_recovery: bool) -> Option<bool> {
        let node = self.guard.node();
        let settled = self.cluster.check_login_hint(node, self.listener.rule.port, in_recovery);
        let (hinted_at, topology) = tokio::time::timeout(self.listener.login_timeout, settled).await.ok()?;
        let view = topology.node(node);
        let is_answered = view.health.answer_asked_at().is_some_and(|asked_at| asked_at >= hinted_at);
        let is_refuted = is_answered && view.known_in_recovery() == Some(!in_recovery);
        if is_refuted {
            self.metrics.login_hints_ignored.inc();
        }
        Some(!is_refuted)
    }

    /// The node does not have the role that the client needs.
    pub(super) async fn wrong_role(&mut self, login: &mut Following, cause: Cause) -> LoginOutcome {
        if self.client.authentication().is_none() {
            return NodeFailure::new(format!("reported at login that {}", cause.reason()), None).into();
        }
        // the client gets the rest of its authentication, and then the reason
        login.received.truncate(login.examined);
        match self.send_to_client(login).await {
            Ok(()) => LoginOutcome::End(End::WrongNode(cause)),
            Err(error) => LoginOutcome::End(End::ClientFailed(error)),
        }
    }
}
