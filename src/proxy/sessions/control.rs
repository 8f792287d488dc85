//! A running session as others see it, and the orders by which they move it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::cluster::NodeId;
use crate::config::{ClusterIndex, ListenerIndex};
use crate::proxy::byte_counters::ByteCounters;
use crate::routing::Cause;

/// Something that a running session has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionOrder {
    /// End as soon as no transaction is open, for the sake of balance; stay if that does not come to be.
    Move,
    /// End as soon as no transaction is open, or at the deadline.
    Drain(Cause),
    /// End now: pgvane stops.
    Stop,
    /// End now.
    Cut(Cause),
}

impl SessionOrder {
    /// As one byte. A higher one outranks a lower one; zero is no order.
    fn to_byte(self) -> u8 {
        match self {
            SessionOrder::Move => 0x10,
            SessionOrder::Drain(cause) => 0x20 | cause.rank(),
            SessionOrder::Stop => 0x30,
            SessionOrder::Cut(cause) => 0x40 | cause.rank(),
        }
    }

    fn from_byte(byte: u8) -> Option<SessionOrder> {
        let cause = Cause::ALL.into_iter().find(|cause| cause.rank() == byte & 0x0f);
        match byte & 0xf0 {
            0x10 => Some(SessionOrder::Move),
            0x20 => cause.map(SessionOrder::Drain),
            0x30 => Some(SessionOrder::Stop),
            0x40 => cause.map(SessionOrder::Cut),
            _ => None,
        }
    }
}

/// What others may know and change of a session that is on a node.
#[derive(Debug)]
pub struct SessionControl {
    /// Index into the configuration's listeners.
    pub(super) listener: ListenerIndex,
    /// Index into the configuration's clusters.
    pub(super) cluster: ClusterIndex,
    pub(super) node: NodeId,
    order: AtomicU8,
    /// It can be seen when no transaction is open.
    shows_transactions: AtomicBool,
    /// The bytes that it had moved when it was last looked at, the lower half of the number.
    swept_bytes: AtomicU32,
    /// Its peers are to be asked whether they still acknowledge.
    is_due_for_peering: AtomicBool,
    /// A peer had not acknowledged everything when it was last asked.
    is_unconfirmed: AtomicBool,
    /// The session's, to be told of an order.
    waker: Mutex<Option<Waker>>,
    bytes: ByteCounters,
}

impl SessionControl {
    /// The control of a session without orders.
    pub(super) fn new(listener: ListenerIndex, cluster: ClusterIndex, node: NodeId) -> SessionControl {
        SessionControl {
            listener,
            cluster,
            node,
            order: AtomicU8::new(0),
            shows_transactions: AtomicBool::new(false),
            swept_bytes: AtomicU32::new(0),
            is_due_for_peering: AtomicBool::new(false),
            is_unconfirmed: AtomicBool::new(false),
            waker: Mutex::new(None),
            bytes: ByteCounters::default(),
        }
    }

    /// The bytes that it has moved.
    pub fn bytes(&self) -> &ByteCounters {
        &self.bytes
    }

    /// Notes that the session shows when no transaction is open.
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
            self.is_due_for_peering.store(true, Relaxed);
            self.wake();
        }
    }

    /// Whether the session is to ask its peers now.
    pub fn take_peering(&self) -> bool {
        self.is_due_for_peering.load(Relaxed) && self.is_due_for_peering.swap(false, Relaxed)
    }

    /// Notes whether both peers have acknowledged everything.
    pub fn note_peering(&self, is_confirmed: bool) {
        self.is_unconfirmed.store(!is_confirmed, Relaxed);
    }

    /// Waits until the order is another than `obeyed`, and tells it; `None` if the old one was withdrawn. One task only
    /// may wait for a control's orders.
    pub fn poll_order(&self, cx: &mut Context<'_>, obeyed: Option<SessionOrder>) -> Poll<Option<SessionOrder>> {
        if let Some(order) = self.changed(obeyed) {
            return Poll::Ready(order);
        }
        match &mut *self.waker.lock() {
            Some(waker) if waker.will_wake(cx.waker()) => return Poll::Pending, // whoever gave an order since, woke it
            waker => *waker = Some(cx.waker().clone()),
        }
        // an order that was given before the waker was there has woken nobody
        self.changed(obeyed).map_or(Poll::Pending, Poll::Ready)
    }

    fn changed(&self, obeyed: Option<SessionOrder>) -> Option<Option<SessionOrder>> {
        let order = self.order();
        (order != obeyed).then_some(order)
    }

    fn order(&self) -> Option<SessionOrder> {
        SessionOrder::from_byte(self.order.load(SeqCst))
    }

    /// Gives an order, unless a higher one was given.
    pub(super) fn give(&self, order: SessionOrder) {
        let byte = order.to_byte();
        if self.order.fetch_max(byte, SeqCst) < byte {
            self.wake();
        }
    }

    /// Takes back an order to drain: the session is in the right place again. All other orders stand.
    pub(super) fn withdraw_drain(&self) {
        let byte = self.order.load(SeqCst);
        let is_drain = matches!(SessionOrder::from_byte(byte), Some(SessionOrder::Drain(_)));
        // if another was given meanwhile, that stands
        if is_drain && self.order.compare_exchange(byte, 0, SeqCst, SeqCst).is_ok() {
            self.wake();
        }
    }

    /// Whether it has been told to move, and has not done so yet.
    pub(super) fn is_about_to_move(&self) -> bool {
        self.order() == Some(SessionOrder::Move)
    }

    /// Whether it could be moved between two transactions: nobody has told it to end yet, and it shows them.
    pub(super) fn is_movable(&self) -> bool {
        self.order().is_none() && self.shows_transactions.load(Relaxed)
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

    #[tokio::test]
    async fn a_session_hears_the_highest_order_once() {
        let control = &SessionControl::new(ListenerIndex(0), ClusterIndex(0), NodeId::new(0));
        control.give(SessionOrder::Drain(Cause::Promotion));
        let ordered = |obeyed| poll_fn(move |cx| control.poll_order(cx, obeyed));
        let drain = Some(SessionOrder::Drain(Cause::Promotion));
        assert_eq!(ordered(None).await, drain);
        let later = async {
            control.give(SessionOrder::Cut(Cause::LostLead));
            control.give(SessionOrder::Stop);
        };
        let (heard, ()) = tokio::join!(biased; ordered(drain), later);
        assert_eq!(heard, Some(SessionOrder::Cut(Cause::LostLead)));
    }

    #[tokio::test]
    async fn a_drain_can_be_withdrawn_and_nothing_else() {
        let control = &SessionControl::new(ListenerIndex(0), ClusterIndex(0), NodeId::new(0));
        let ordered = |obeyed| poll_fn(move |cx| control.poll_order(cx, obeyed));
        let drain = SessionOrder::Drain(Cause::Operator);
        control.give(drain);
        let (heard, ()) = tokio::join!(biased; ordered(Some(drain)), async { control.withdraw_drain() });
        assert_eq!(heard, None);
        for order in [SessionOrder::Move, SessionOrder::Stop, SessionOrder::Cut(Cause::Operator)] {
            control.give(order);
            control.withdraw_drain();
            assert_eq!(ordered(None).await, Some(order));
        }
    }

    #[test]
    fn orders_survive_their_byte_and_keep_their_rank() {
        for cause in Cause::ALL {
            let by_rank =
                [SessionOrder::Move, SessionOrder::Drain(cause), SessionOrder::Stop, SessionOrder::Cut(cause)];
            for order in by_rank {
                assert_eq!(SessionOrder::from_byte(order.to_byte()), Some(order));
            }
            assert!(by_rank.is_sorted_by_key(|order| order.to_byte()));
        }
        assert_eq!(SessionOrder::from_byte(0), None);
    }
}
