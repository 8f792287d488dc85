//! The login of a carried session at the node that will probably lead: while there is no leader, there is time for it. When
//! the node leads, little is left to do.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::Pin;

use tracing::debug;

use crate::cluster::NodeId;
use crate::cluster::node::NodeSet;
use crate::proxy::admission::carried::{Early, NotArrived};

/// A login in advance.
pub(super) type EarlyLogin<'j> = Pin<Box<dyn Future<Output = Result<Early, NotArrived>> + Send + 'j>>;

/// The logins of one session in advance, one at a time.
#[derive(Default)]
pub(super) struct EarlyLogins<'j> {
    current: Option<(NodeId, Progress<'j>)>,
    /// Where it has failed. It is not tried there again before the node leads.
    failed: NodeSet,
}

/// What there is of a login in advance.
pub(super) enum Progress<'j> {
    Running(EarlyLogin<'j>),
    Ready(Early),
}

impl Progress<'_> {
    /// The login, when it is ready.
    pub(super) async fn finish(self) -> Result<Early, NotArrived> {
        match self {
            Progress::Running(login) => login.await,
            Progress::Ready(early) => Ok(early),
        }
    }
}

impl<'j> EarlyLogins<'j> {
    /// The node at which it has logged in, or is about to.
    pub(super) fn node(&self) -> Option<NodeId> {
        self.current.as_ref().map(|(node, _)| *node)
    }

    /// Begins one at this node, and gives up the one at another node.
    pub(super) fn aim_at(&mut self, node: NodeId, begin: impl FnOnce() -> EarlyLogin<'j>) {
        if self.node() != Some(node) && !self.failed.contains(node) {
            self.current = Some((node, Progress::Running(begin())));
        }
    }

    /// Goes on with it. Never returns. Cancel safe: what has been begun stays.
    pub(super) async fn go_on(&mut self) -> Infallible {
        if let Some((node, Progress::Running(login))) = &mut self.current {
            let (node, outcome) = (*node, login.await);
            match outcome {
                Ok(early) => self.current = Some((node, Progress::Ready(early))),
                Err(failure) => {
                    debug!(reason = failure.why, "no login in advance");
                    self.current = None;
                    self.failed.insert(node);
                }
            }
        }
        pending().await
    }

    /// What there is of a login at this node, which leads now. One at another node is given up: it may have a place among
    /// those that log in at the same time, and would keep it while nobody goes on with it.
    pub(super) fn take(&mut self, node: NodeId) -> Option<Progress<'j>> {
        self.current.take().filter(|(at, _)| *at == node).map(|(_, progress)| progress)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;
    use crate::proxy::end::NotCarriedReason;

    const FIRST: NodeId = NodeId::new(1);
    const SECOND: NodeId = NodeId::new(2);

    fn refused() -> NotArrived {
        NotArrived { why: "refused".to_owned(), reason: NotCarriedReason::Login, may_pass: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_has_failed_is_not_tried_again_at_the_same_node() {
        let begun = Cell::new(0);
        let begin = || -> EarlyLogin<'_> {
            begun.set(begun.get() + 1);
            Box::pin(async { Err(refused()) })
        };
        let mut logins = EarlyLogins::default();
        for _ in 0..3 {
            logins.aim_at(FIRST, begin);
            assert!(timeout(Duration::from_secs(1), logins.go_on()).await.is_err(), "it never returns");
        }
        assert_eq!((begun.get(), logins.node()), (1, None));
        assert!(logins.take(FIRST).is_none());
        logins.aim_at(SECOND, begin);
        assert_eq!((begun.get(), logins.node()), (2, Some(SECOND)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_is_under_way_goes_on_at_the_node_that_leads_and_is_dropped_for_another_one() {
        let begin = || -> EarlyLogin<'static> {
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Err(refused())
            })
        };
        let mut logins = EarlyLogins::default();
        logins.aim_at(FIRST, begin);
        assert!(timeout(Duration::from_secs(1), logins.go_on()).await.is_err());
        logins.aim_at(FIRST, || unreachable!("it is under way there"));
        let progress = logins.take(FIRST).expect("is under way");
        let left = timeout(Duration::from_millis(1001), progress.finish()).await;
        assert!(left.expect("only a second is left").is_err());
        assert_eq!(logins.node(), None);
        logins.aim_at(FIRST, begin);
        logins.aim_at(SECOND, begin);
        assert_eq!(logins.node(), Some(SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn when_another_node_leads_a_login_gives_its_place_back() {
        let places = Semaphore::new(1);
        let begin = || -> EarlyLogin<'_> {
            Box::pin(async {
                let _place = places.acquire().await;
                pending().await
            })
        };
        let mut logins = EarlyLogins::default();
        logins.aim_at(FIRST, begin);
        assert!(timeout(Duration::from_secs(1), logins.go_on()).await.is_err());
        assert_eq!(places.available_permits(), 0);
        assert!(logins.take(SECOND).is_none());
        assert_eq!(places.available_permits(), 1);
    }
}
