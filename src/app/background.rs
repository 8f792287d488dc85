//! The tasks that run in the background. If one ends that was not ended by us, pgvane stops.

use std::collections::HashMap;
use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, Id, JoinSet};

use super::error::TaskEnded;

/// The running tasks, with their names.
#[derive(Default)]
pub(super) struct Background {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Background {
    /// Runs a task until the handle aborts it.
    pub(super) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
        handle
    }

    /// The same in another runtime.
    pub(super) fn spawn_on(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
        runtime: &Handle,
    ) -> AbortHandle {
        let handle = self.tasks.spawn_on(task, runtime);
        self.names.insert(handle.id(), name);
        handle
    }

    /// Waits until one of them ends that was not aborted. Cancel safe.
    pub(super) async fn any_ends(&mut self) -> TaskEnded {
        loop {
            let (id, was_aborted) = match self.tasks.join_next_with_id().await {
                Some(Ok((id, ()))) => (id, false),
                Some(Err(error)) => (error.id(), error.is_cancelled()),
                None => return std::future::pending().await,
            };
            let task = self.names.remove(&id).unwrap_or("unknown");
            if !was_aborted {
                return TaskEnded { task };
            }
        }
    }

    /// Ends all of them.
    pub(super) async fn shut_down(&mut self) {
        self.tasks.shutdown().await;
    }
}
