//! When to check which node: at the regular interval while the leader answers and nothing has changed, fast otherwise.

use std::time::Duration;

use super::Machine;
use crate::cluster::event::Action;
use crate::cluster::health::Health;
use crate::cluster::moment::Moment;
use crate::cluster::node::Claim;
use crate::cluster::node_state::NodeState;

/// A lock holder that is being promoted is checked this many times per fast interval: its next answer ends the outage.
const PROMOTION_HASTE: u32 = 4;

impl Machine {
    /// The latest moment at which to call [`Machine::handle`] again, if no event comes before.
    pub fn next_wakeup(&self) -> Option<Moment> {
        let next_check = self.members.present().filter_map(|(_, entry)| entry.timetable.next_due()).min();
        let lapse = self.leadership.leader().and_then(|leader| {
            let asked_at = self.members.entry(leader).view.health.answer_asked_at()?;
            Some(asked_at + self.settings.leader_grace + Duration::from_millis(1))
        });
        next_check.into_iter().chain(lapse).min()
    }

    /// The time between two checks of this node.
    pub(super) fn pace_of(&self, entry: &NodeState, now: Moment) -> Duration {
        let leader_answers = self.leadership.leader().is_some_and(|leader| {
            matches!(self.members.entry(leader).view.health, Health::Answering { missed: 0, .. })
        });
        if entry.view.claim() == Some(Claim::LockHolder) {
            self.settings.fast_interval / PROMOTION_HASTE
        } else if leader_answers && self.doubted_at.is_none() && self.settled_at <= now {
            self.settings.interval
        } else {
            self.settings.fast_interval
        }
    }

    /// Moves checks to an earlier time where they have become urgent since they were planned.
    pub(super) fn hasten(&mut self, now: Moment) {
        let paces: Vec<Duration> = self.members.present().map(|(_, entry)| self.pace_of(entry, now)).collect();
        for ((_, entry), pace) in self.members.present_mut().zip(paces) {
            if pace < self.settings.interval {
                entry.timetable.quicken(pace);
            }
        }
    }

    /// Requests the checks whose time has come.
    pub(super) fn ask_who_is_due(&mut self, now: Moment, actions: &mut Vec<Action>) {
        for (node, entry) in self.members.present_mut() {
            if entry.timetable.next_due().is_some_and(|due| due <= now) {
                entry.timetable.asked(now);
                actions.push(Action::Check { node, asked_at: now });
            }
        }
    }
}
