//! The orders to one session, shared between its task and those that give them. One byte, because every session has it.
//!
//! A session may have two orders at the same time: one for its node's sake, and one for its own. They are kept apart,
//! because the first is of no account any more when the session is carried to another node, and the second is.

use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use crate::routing::Cause;

/// An order to a running session. A later one in this list overrides those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionOrder {
    /// End as soon as no transaction is open, for rebalancing. There is no deadline.
    Move,
    /// End as soon as no transaction is open, at the latest at the deadline.
    Drain(Cause),
    /// End now: an operator has closed the session.
    Close,
    /// End now: a reload has removed the listener, and its `drain_timeout` is over.
    ListenerRemoved,
    /// End now: pgvane is stopping.
    Stop,
    /// End now.
    Cut(Cause),
}

/// The bits of the order for the session's own sake.
const OWN: u8 = 0xc0;

/// The bits of the order for its node's sake: its kind, and the rank of its cause.
const OF_NODE: u8 = 0x3f;
const KIND_OF_NODE: u8 = 0x30;
const CAUSE: u8 = 0x0f;

impl SessionOrder {
    /// The order as one byte. Of two for the node's sake the higher byte overrides the lower one, and so it is with two
    /// for the session's own sake.
    fn to_byte(self) -> u8 {
        match self {
            SessionOrder::Move => 0x10,
            SessionOrder::Drain(cause) => 0x20 | cause.rank(),
            SessionOrder::Cut(cause) => 0x30 | cause.rank(),
            SessionOrder::Close => 0x40,
            SessionOrder::ListenerRemoved => 0x80,
            SessionOrder::Stop => 0xc0,
        }
    }

    /// The order that is followed if these are in force.
    fn from_byte(byte: u8) -> Option<SessionOrder> {
        let cause = Cause::ALL.into_iter().find(|cause| cause.rank() == byte & CAUSE);
        let of_node = match byte & KIND_OF_NODE {
            0x10 => Some(SessionOrder::Move),
            0x20 => cause.map(SessionOrder::Drain),
            0x30 => cause.map(SessionOrder::Cut),
            _ => None,
        };
        match byte & OWN {
            _ if matches!(of_node, Some(SessionOrder::Cut(_))) => of_node,
            0x40 => Some(SessionOrder::Close),
            0x80 => Some(SessionOrder::ListenerRemoved),
            0xc0 => Some(SessionOrder::Stop),
            _ => of_node,
        }
    }
}

/// The orders to a session.
#[derive(Debug, Default)]
pub(super) struct OrderState(AtomicU8);

impl OrderState {
    /// The order that is followed now.
    pub(super) fn now(&self) -> Option<SessionOrder> {
        SessionOrder::from_byte(self.0.load(SeqCst))
    }

    /// Adds an order, unless a higher one of its kind is in force. Returns whether it was added.
    pub(super) fn add(&self, order: SessionOrder) -> bool {
        let added = order.to_byte();
        self.change(|byte| (byte & OWN).max(added & OWN) | (byte & OF_NODE).max(added & OF_NODE))
    }

    /// Withdraws the order for the node's sake if it is one of these. Returns whether it was.
    pub(super) fn withdraw_of_node(&self, is_one: impl Fn(SessionOrder) -> bool) -> bool {
        self.change(|byte| match SessionOrder::from_byte(byte & OF_NODE) {
            Some(order) if is_one(order) => byte & OWN,
            _ => byte,
        })
    }

    fn change(&self, changed: impl Fn(u8) -> u8) -> bool {
        let before = self.0.fetch_update(SeqCst, SeqCst, |byte| Some(changed(byte)));
        before.is_ok_and(|before| changed(before) != before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All orders with this cause, in their rank.
    fn by_rank(cause: Cause) -> [SessionOrder; 6] {
        [
            SessionOrder::Move,
            SessionOrder::Drain(cause),
            SessionOrder::Close,
            SessionOrder::ListenerRemoved,
            SessionOrder::Stop,
            SessionOrder::Cut(cause),
        ]
    }

    fn with(orders: &[SessionOrder]) -> OrderState {
        let state = OrderState::default();
        orders.iter().for_each(|order| _ = state.add(*order));
        state
    }

    #[test]
    fn of_several_orders_the_highest_is_followed_in_whatever_sequence_they_come() {
        assert_eq!(OrderState::default().now(), None);
        for cause in Cause::ALL {
            let orders = by_rank(cause);
            for (rank, higher) in orders.iter().enumerate() {
                assert_eq!(with(&[*higher]).now(), Some(*higher));
                for lower in &orders[..rank] {
                    for both in [[*lower, *higher], [*higher, *lower]] {
                        assert_eq!(with(&both).now(), Some(*higher), "{both:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_node_is_the_reason_of_can_be_withdrawn_and_what_it_hides_or_is_hidden_by_stays() {
        for own in [SessionOrder::Close, SessionOrder::ListenerRemoved, SessionOrder::Stop] {
            for of_node in [SessionOrder::Move, SessionOrder::Drain(Cause::Lag), SessionOrder::Cut(Cause::LostLead)] {
                let state = with(&[own, of_node]);
                assert!(!state.withdraw_of_node(|order| order == SessionOrder::Drain(Cause::Operator)));
                assert!(state.withdraw_of_node(|order| order == of_node), "{of_node:?}");
                assert_eq!(state.now(), Some(own), "{of_node:?}");
                assert!(!state.withdraw_of_node(|_| true), "once");
                assert_eq!(state.now(), Some(own));
            }
        }
    }

    #[test]
    fn an_order_that_changes_nothing_is_not_added() {
        let state = with(&[SessionOrder::Cut(Cause::LostLead), SessionOrder::Stop]);
        assert!(!state.add(SessionOrder::Drain(Cause::LostLead)) && !state.add(SessionOrder::Close));
        assert!(with(&[SessionOrder::Cut(Cause::LostLead)]).add(SessionOrder::Close), "it is only hidden");
    }
}
