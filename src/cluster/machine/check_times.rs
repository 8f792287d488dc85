//! When to check which node: at the regular interval while the leader answers and nothing has changed, fast otherwise.

use std::time::Duration;

use super::Machine;
use crate::cluster::event::Action;
use crate::cluster::health::Health;
use crate::cluster::moment::Moment;
use crate::cluster::node::Claim;
use crate::cluster::node_state::NodeState;

/// A lock holder that is being promoted is checked this many times per fast interval: its next answer ends the outage.
const CHECKS_DURING_PROMOTION: u32 = 4;

impl Machine {
    /// The latest moment at which to call [`Machine::handle`] again, if no event comes before.
    pub fn next_wakeup(&self) -> Option<Moment> {
        let next_check = self.members.present().filter_map(|(_, entry)| entry.schedule.next_due()).min();
        let lapse = self.leadership.leader().and_then(|leader| {
            let asked_at = self.members.entry(leader).view.health.answer_asked_at()?;
            Some(asked_at + self.settings.leader_grace + Duration::from_millis(1))
        });
        next_check.into_iter().chain(lapse).min()
    }

    /// The time from one check of this node to the next.
    pub(super) fn check_interval(&self, entry: &NodeState, now: Moment) -> Duration {
        let leader_answers = self.leadership.leader().is_some_and(|leader| {
            matches!(self.members.entry(leader).view.health, Health::Answering { missed: 0, .. })
        });
        if entry.view.claim() == Some(Claim::LockHolder) {
            self.settings.fast_interval / CHECKS_DURING_PROMOTION
        } else if leader_answers && self.doubted_at.is_none() && self.settled_at <= now {
            self.settings.interval
        } else {
            self.settings.fast_interval
        }
    }

    /// Moves checks to an earlier time where they have become urgent since they were planned.
    pub(super) fn bring_checks_forward(&mut self, now: Moment) {
        let intervals: Vec<Duration> =
            self.members.present().map(|(_, entry)| self.check_interval(entry, now)).collect();
        for ((_, entry), interval) in self.members.present_mut().zip(intervals) {
            if interval < self.settings.interval {
                entry.schedule.bring_forward(interval);
            }
        }
    }

    /// Requests the checks whose time has come.
    pub(super) fn send_due_checks(&mut self, now: Moment, actions: &mut Vec<Action>) {
        for (node, entry) in self.members.present_mut() {
            if entry.schedule.next_due().is_some_and(|due| due <= now) {
                entry.schedule.sent(now);
                actions.push(Action::Check { node, asked_at: now });
            }
        }
    }
}
