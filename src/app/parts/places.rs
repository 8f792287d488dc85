//! The places at which connections are accepted. A place that stays in the configuration stays open, whichever listener has
//! it: no connection is lost.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::inherited::{Inherited, overlaps};
use crate::app::error::StartError;
use crate::config::Listener;
use crate::net::Bind;
use crate::net::dial::TcpOptions;
use crate::proxy::context::{ListenerContext, tcp_options};
use crate::proxy::listener::{BindError, OpenPlace, Place};
use crate::proxy::worker::Workers;

/// All places that are open.
pub(super) struct Places {
    open: Vec<Place>,
    /// Those that are about to be closed.
    closing: JoinSet<()>,
    threads: usize,
    is_accepting: bool,
}

/// A place of a configuration that is about to be applied.
pub(super) struct OpenedPlace {
    /// The position of its listener in the configuration.
    listener: usize,
    bind: Bind,
    state: State,
}

enum State {
    /// It is open already: the position in the list.
    Kept(usize),
    New(OpenPlace),
}

impl Places {
    /// None; so many threads will accept at each.
    pub(super) fn new(threads: usize) -> Places {
        Places { open: Vec::new(), closing: JoinSet::new(), threads, is_accepting: true }
    }

    /// Whether connections are accepted from now on. If not, they wait in the kernel.
    pub(super) fn set_accepting(&mut self, is_accepting: bool) {
        self.is_accepting = is_accepting;
        self.open.iter().for_each(|place| place.set_accepting(is_accepting));
    }

    /// Whether connections are accepted.
    pub(super) fn is_accepting(&self) -> bool {
        self.is_accepting
    }

    /// Those that are open.
    pub(super) fn all(&self) -> &[Place] {
        &self.open
    }

    /// Opens the places of a configuration that are not open and were not `inherited` from another process. Errors: one of
    /// them cannot be opened; then none of them stays open.
    pub(super) fn open(
        &self,
        listeners: &[Listener],
        inherited: &mut Inherited,
    ) -> Result<Vec<OpenedPlace>, StartError> {
        let wanted: Vec<(usize, &Bind)> = listeners
            .iter()
            .enumerate()
            .flat_map(|(position, listener)| listener.binds.iter().map(move |bind| (position, bind)))
            .collect();
        let kept = self.kept(listeners, &wanted);
        let stays = |at: &usize| kept.contains(&Some(*at));
        let closing: Vec<&Bind> =
            self.open.iter().enumerate().filter(|(at, _)| !stays(at)).map(|(_, place)| place.bind()).collect();
        let mut open = |((listener, bind), kept): ((usize, &Bind), Option<usize>)| {
            let state = match kept {
                Some(at) => State::Kept(at),
                None => State::New(self.open_one(&listeners[listener], bind, &closing, inherited)?),
            };
            Ok(OpenedPlace { listener, bind: bind.clone(), state })
        };
        wanted.iter().copied().zip(kept.iter().copied()).map(&mut open).collect()
    }

    /// For each wanted place the position of the open one that it is. With port 0 several can be at the same address: then a
    /// listener keeps its own.
    fn kept(&self, listeners: &[Listener], wanted: &[(usize, &Bind)]) -> Vec<Option<usize>> {
        let mut kept = vec![None; wanted.len()];
        for needs_same_name in [true, false] {
            for (number, (listener, bind)) in wanted.iter().enumerate() {
                let is_it = |(at, place): &(usize, &Place)| {
                    is_same(place.bind(), bind)
                        && !kept.contains(&Some(*at))
                        && (!needs_same_name || place.listener() == listeners[*listener].name)
                };
                if kept[number].is_none() {
                    let found = self.open.iter().enumerate().find(is_it).map(|(at, _)| at);
                    kept[number] = found;
                }
            }
        }
        kept
    }

    fn open_one(
        &self,
        listener: &Listener,
        bind: &Bind,
        closing: &[&Bind],
        inherited: &mut Inherited,
    ) -> Result<OpenPlace, StartError> {
        let options: TcpOptions = tcp_options(listener);
        let is_beside_own = closing.iter().any(|other| overlaps(other, bind)) || inherited.overlaps(bind);
        let opened = match inherited.take(&listener.name, bind) {
            Some(sockets) => OpenPlace::inherited(bind, sockets),
            None => OpenPlace::open(bind, options, self.threads, is_beside_own),
        };
        opened.map_err(|BindError { address, error }| StartError::Bind {
            owner: format!("listener \"{}\"", listener.name),
            address,
            error,
        })
    }

    /// Gives each place to its listener; `contexts` are in the order of the configuration. Closes all other places.
    pub(super) fn apply(
        &mut self,
        places: Vec<OpenedPlace>,
        contexts: &[Arc<ListenerContext>],
        workers: &Arc<Workers>,
    ) {
        let mut before: Vec<Option<Place>> = std::mem::take(&mut self.open).into_iter().map(Some).collect();
        for OpenedPlace { listener, bind, state } in places {
            let context = Arc::clone(&contexts[listener]);
            let place = match state {
                State::New(open) => Some(open.accept(context, self.is_accepting, workers)),
                State::Kept(at) => before[at].take().map(|mut place| {
                    place.hand_to(context, &bind);
                    place
                }),
            };
            self.open.extend(place);
        }
        for place in before.into_iter().flatten() {
            self.closing.spawn(place.close());
        }
    }

    /// Closes all of them.
    pub(super) async fn close_all(&mut self) {
        self.open.drain(..).for_each(|place| drop(self.closing.spawn(place.close())));
        self.are_closed().await;
    }

    /// Waits until those are closed that were removed: they may be opened again now.
    pub(super) async fn are_closed(&mut self) {
        while self.closing.join_next().await.is_some() {} // one that has panicked is closed
    }
}

/// Whether two addresses are one place. The permissions of a Unix socket can change while it is open.
fn is_same(open: &Bind, wanted: &Bind) -> bool {
    match (open.unix(), wanted.unix()) {
        (Some(open), Some(wanted)) => open.path == wanted.path,
        _ => open == wanted,
    }
}
