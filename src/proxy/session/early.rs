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

    /// What there is of a login at this node, which leads now.
    pub(super) fn take(&mut self, node: NodeId) -> Option<Progress<'j>> {
        self.current.take_if(|(at, _)| *at == node).map(|(_, progress)| progress)
    }
}
