//! The shared part of a running session: its node, its counters and its orders.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::order_state::OrderState;
pub use super::order_state::SessionOrder;
use super::origin::Origin;
use super::owner::Owner;
use super::park_state::ParkState;
use crate::cluster::NodeId;
use crate::config::{ClusterIndex, ListenerIndex};
use crate::proxy::byte_counters::ByteCounters;
use crate::routing::{SessionPark, SessionParkEvent};

/// Whether a session is to move to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Moving {
    /// It is not.
    No,
    /// As soon as it can.
    Asked,
    /// The other process did not take it.
    Refused,
    /// The other process has it, with the bytes that it has moved.
    Done,
}

/// The part of a session on a node that other tasks read and change.
#[derive(Debug)]
pub struct SessionControl {
    /// The listener that accepted the client, its cluster and its rule.
    pub(super) origin: Arc<Origin>,
    /// The number of its node: it changes when the session is carried to another one.
    node: AtomicU8,
    /// Since when it has been on the node, in seconds of the registry's clock.
    since_seconds: AtomicU32,
    /// Whose session it is. Known once the client has been admitted.
    owner: OnceLock<Owner>,
    order: OrderState,
    /// pgvane can see when no transaction is open.
    shows_transactions: AtomicBool,
    /// Whether it is parked.
    park: ParkState,
    /// Somebody wants to know its state.
    is_asked: AtomicBool,
    /// The bytes that it had moved when it was last looked at, the lower half of the number.
    swept_bytes: AtomicU32,
    /// Its peers are to be asked whether they still acknowledge.
    is_due_for_peer_check: AtomicBool,
    /// A peer had not acknowledged everything when it was last asked.
    is_unconfirmed: AtomicBool,
    /// Whether it is to move to another process, see [`Moving`].
    moving: AtomicU8,
    /// Wakes the session's task after a new order.
    waker: Mutex<Option<Waker>>,
    bytes: ByteCounters,
}

impl SessionControl {
    /// The control of a session without orders.
    pub(super) fn new(origin: Arc<Origin>, node: NodeId, since_seconds: u32) -> SessionControl {
        SessionControl {
            origin,
            node: AtomicU8::new(node.to_byte()),
            since_seconds: AtomicU32::new(since_seconds),
            owner: OnceLock::new(),
            order: OrderState::default(),
            shows_transactions: AtomicBool::new(false),
            park: ParkState::default(),
            is_asked: AtomicBool::new(false),
            swept_bytes: AtomicU32::new(0),
            is_due_for_peer_check: AtomicBool::new(false),
            is_unconfirmed: AtomicBool::new(false),
            moving: AtomicU8::new(Moving::No as u8),
            waker: Mutex::new(None),
            bytes: ByteCounters::default(),
        }
    }

    /// The listener that accepted the client.
    pub(super) fn listener(&self) -> ListenerIndex {
        self.origin.listener
    }

    /// The cluster of the node.
    pub(super) fn cluster(&self) -> ClusterIndex {
        self.origin.cluster
    }

    /// The session's node.
    pub(super) fn node(&self) -> NodeId {
        NodeId::from_byte(self.node.load(SeqCst))
    }

    /// Since when it has been on the node, in seconds of the registry's clock.
    pub(super) fn since_seconds(&self) -> u32 {
        self.since_seconds.load(Relaxed)
    }

    /// It is on this node from now on: what it was ordered because of the node before is of no account any more. To be
    /// called while the registry's list is locked, so that no order for the node before follows.
    pub(super) fn is_now_on(&self, node: NodeId, since_seconds: u32) {
        self.node.store(node.to_byte(), SeqCst);
        self.since_seconds.store(since_seconds, Relaxed);
        self.withdraw_orders_of_node();
    }

    /// Withdraws an order that its node is the reason of. Other orders stay in force, also those that it has hidden.
    pub(super) fn withdraw_orders_of_node(&self) {
        self.withdraw(|_| true);
    }

    /// The bytes that the session has moved.
    pub fn bytes(&self) -> &ByteCounters {
        &self.bytes
    }

    /// Records whose session it is.
    pub fn set_owner(&self, owner: Owner) {
        let _ = self.owner.set(owner); // it is set once
    }

    /// Whose session it is; `None` during the login.
    pub fn owner(&self) -> Option<&Owner> {
        self.owner.get()
    }

    /// Whether it has an order to end between two transactions.
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.order(), Some(SessionOrder::Drain(_) | SessionOrder::Move))
    }

    /// Records that pgvane can see when the session has no open transaction.
    pub fn show_transactions(&self) {
        self.shows_transactions.store(true, Relaxed);
    }

    /// Has the session ask whether its peers still acknowledge, if bytes have moved since the last time, or some were not
    /// acknowledged then. A session at rest is left alone: keepalive sees to that.
    pub(super) fn sweep(&self) {
        let [to_server, to_client] = self.bytes.read();
        let moved = to_server.wrapping_add(to_client) as u32;
        let has_moved = self.swept_bytes.swap(moved, Relaxed) != moved;
        if has_moved || self.is_unconfirmed.load(Relaxed) {
            self.is_due_for_peer_check.store(true, Relaxed);
            self.wake();
        }
    }

    /// Whether the session is to ask its peers now.
    pub fn take_peer_check(&self) -> bool {
        self.is_due_for_peer_check.load(Relaxed) && self.is_due_for_peer_check.swap(false, Relaxed)
    }

    /// Notes whether both peers have acknowledged everything.
    pub fn note_peers(&self, is_confirmed: bool) {
        self.is_unconfirmed.store(!is_confirmed, Relaxed);
    }

    /// Whether it is to move to another process as soon as it can.
    pub fn is_to_move_out(&self) -> bool {
        self.moving.load(Relaxed) == Moving::Asked as u8
    }

    /// Notes that the other process did not take it. It is not asked again.
    pub fn stays_here(&self) {
        self.moving.store(Moving::Refused as u8, Relaxed);
    }

    /// Notes that the other process has it.
    pub(super) fn has_moved_out(&self) {
        self.moving.store(Moving::Done as u8, Relaxed);
    }

    /// Whether another process has it.
    pub(super) fn is_moved_out(&self) -> bool {
        self.moving.load(Relaxed) == Moving::Done as u8
    }

    /// Asks it to move to another process, if it has not been asked yet. Returns whether it was asked now.
    pub(super) fn ask_to_move_out(&self) -> bool {
        let asked = self.moving.compare_exchange(Moving::No as u8, Moving::Asked as u8, Relaxed, Relaxed).is_ok();
        if asked {
            self.wake();
        }
        asked
    }

    /// Takes that back: there is no other process any more.
    pub(super) fn need_not_move_out(&self) {
        let take_back = |moving| (moving != Moving::Done as u8).then_some(Moving::No as u8);
        let _ = self.moving.fetch_update(Relaxed, Relaxed, take_back); // one that has moved is gone
    }

    /// Waits until the order differs from `last_order`, and returns the new one; `None` if the order was withdrawn. Only
    /// one task may wait for a control's orders.
    pub fn poll_order(&self, cx: &mut Context<'_>, last_order: Option<SessionOrder>) -> Poll<Option<SessionOrder>> {
        if let Some(order) = self.changed(last_order) {
            return Poll::Ready(order);
        }
        match &mut *self.waker.lock() {
            Some(waker) if waker.will_wake(cx.waker()) => return Poll::Pending, // a newer order wakes it
            waker => *waker = Some(cx.waker().clone()),
        }
        // an order that was sent before the waker was stored has woken no task
        self.changed(last_order).map_or(Poll::Pending, Poll::Ready)
    }

    fn changed(&self, last_order: Option<SessionOrder>) -> Option<Option<SessionOrder>> {
        let order = self.order();
        (order != last_order).then_some(order)
    }

    /// Whether it has an order, followed or not.
    pub fn has_order(&self) -> bool {
        self.order().is_some()
    }

    fn order(&self) -> Option<SessionOrder> {
        self.order.now()
    }

    /// Whether this is its order.
    #[cfg(test)]
    pub(super) fn is_ordered(&self, order: SessionOrder) -> bool {
        self.order() == Some(order)
    }

    /// Sends an order. One that a higher one in force hides is followed when that is withdrawn.
    pub fn send_order(&self, order: SessionOrder) {
        if self.order.add(order) {
            self.wake();
        }
    }

    /// Withdraws an order to drain: the session is on the right node again. Other orders stay in force.
    pub(super) fn withdraw_drain(&self) {
        self.withdraw(|order| matches!(order, SessionOrder::Drain(_)));
    }

    /// Withdraws the order that its node is the reason of if it is one of these.
    fn withdraw(&self, is_one: impl Fn(SessionOrder) -> bool) {
        if self.order.withdraw_of_node(is_one) {
            self.wake();
        }
    }

    /// Whether it has an order to move and has not ended yet.
    pub(super) fn is_about_to_move(&self) -> bool {
        self.order() == Some(SessionOrder::Move)
    }

    /// Whether it can be moved between two transactions: it has no order yet, and pgvane can see its transactions.
    pub(super) fn is_movable(&self) -> bool {
        self.order().is_none() && self.shows_transactions.load(Relaxed)
    }

    /// Whether it is parked.
    pub fn park(&self) -> SessionPark {
        self.park.now()
    }

    /// Records that the session is between two transactions and reads no more from its client.
    pub fn note_at_rest(&self) {
        self.park.note(SessionParkEvent::AtRest, self.node());
    }

    /// Takes notice of what happens to its park, and returns its state before and after.
    pub(super) fn note_park(&self, event: SessionParkEvent) -> [SessionPark; 2] {
        let [before, after] = self.park.note(event, self.node());
        if before != after {
            self.wake();
        }
        [before, after]
    }

    /// Whether somebody wants to know its state.
    pub fn is_asked(&self) -> bool {
        self.is_asked.load(Relaxed)
    }

    /// Sets whether somebody wants to know its state.
    pub(super) fn set_asked(&self, is_asked: bool) {
        if self.is_asked.swap(is_asked, SeqCst) != is_asked {
            self.wake(); // also if nobody wants to know it any more: the session may have stopped for that
        }
    }

    /// Whether pgvane can see its transactions; `None` during the login, when this is not known yet.
    pub(super) fn is_visible(&self) -> Option<bool> {
        self.owner().map(|_| self.shows_transactions.load(Relaxed))
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::routing::Cause;

    #[tokio::test]
    async fn a_session_gets_the_highest_order_once() {
        let control = &SessionControl::new(Origin::of_listener(0), NodeId::new(0), 0);
        control.send_order(SessionOrder::Drain(Cause::Promotion));
        let ordered = |last_order| poll_fn(move |cx| control.poll_order(cx, last_order));
        let drain = Some(SessionOrder::Drain(Cause::Promotion));
        assert_eq!(ordered(None).await, drain);
        let later = async {
            control.send_order(SessionOrder::Cut(Cause::LostLead));
            control.send_order(SessionOrder::Stop);
        };
        let (heard, ()) = tokio::join!(biased; ordered(drain), later);
        assert_eq!(heard, Some(SessionOrder::Cut(Cause::LostLead)));
    }

    #[tokio::test]
    async fn only_a_drain_can_be_withdrawn() {
        let control = &SessionControl::new(Origin::of_listener(0), NodeId::new(0), 0);
        let ordered = |last_order| poll_fn(move |cx| control.poll_order(cx, last_order));
        let drain = SessionOrder::Drain(Cause::Operator);
        control.send_order(drain);
        let (heard, ()) = tokio::join!(biased; ordered(Some(drain)), async { control.withdraw_drain() });
        assert_eq!(heard, None);
        for order in [
            SessionOrder::Move,
            SessionOrder::Close,
            SessionOrder::ListenerRemoved,
            SessionOrder::Stop,
            SessionOrder::Cut(Cause::Operator),
        ] {
            control.send_order(order);
            control.withdraw_drain();
            assert_eq!(ordered(None).await, Some(order));
        }
    }

    /// Each session has one in an `Arc`. The allocator gives 104 bytes and then 120.
    #[test]
    fn the_control_of_a_session_with_its_two_counts_fits_into_104_bytes() {
        assert!(size_of::<SessionControl>() + 2 * size_of::<usize>() <= 104, "{}", size_of::<SessionControl>());
    }
}
