//! What is reported to operators: a change of the leader, or of a node's role or health.

use std::mem;
use std::time::Duration;

use super::Machine;
use crate::cluster::event::{Action, Change};
use crate::cluster::leadership::Leadership;
use crate::cluster::moment::Moment;
use crate::cluster::node::NodeId;
use crate::cluster::topology::NodeView;

impl Machine {
    pub(super) fn change_since(&self, previous: &Leadership, now: Moment) -> Change {
        let why = || self.topology().why_no_leader().unwrap_or_default();
        let is_contested = matches!(self.leadership, Leadership::Contested { .. });
        match (&self.leadership, previous.leader()) {
            (Leadership::Led { leader, timeline, .. }, from) => Change::LeadTaken {
                from: from.or(self.last_leader),
                to: *leader,
                timeline: *timeline,
                leaderless: self.leaderless(previous, now),
            },
            (_, Some(from)) => {
                Change::LeadLost { from, why: why(), last_seen: self.last_good(from, now), is_contested }
            }
            (_, None) => Change::StillLeaderless { why: why(), is_contested },
        }
    }

    /// How long there was no leader, as far as known: since the last good answer of the leader before, which may have
    /// lost the lead right after it.
    fn leaderless(&self, previous: &Leadership, now: Moment) -> Duration {
        let Some(since) = previous.leaderless_since() else { return Duration::ZERO };
        let last_led_at = self.last_leader.and_then(|leader| self.members.entry(leader).last_led_at);
        now - last_led_at.map_or(since, |last_led_at| last_led_at.min(since))
    }

    /// The age of the last check in which this leader still led. It may have lost the lead right after that.
    fn last_good(&self, leader: NodeId, now: Moment) -> Duration {
        let asked_at = self.members.entry(leader).last_led_at;
        asked_at.map_or(Duration::ZERO, |asked_at| now - asked_at)
    }

    pub(super) fn summaries(&self) -> Vec<String> {
        self.members.all().iter().map(|entry| entry.view.summary().to_string()).collect()
    }

    pub(super) fn changes_since(&self, before: &[String]) -> Vec<Action> {
        let now = self.summaries().into_iter().enumerate();
        let unchecked = NodeView::unchecked_summary();
        now.filter_map(|(id, to)| {
            let from = before.get(id).map_or(unchecked, String::as_str);
            (from != to).then(|| Action::Tell(Change::Node { node: NodeId::new(id), from: from.to_owned(), to }))
        })
        .collect()
    }

    /// Whether the leadership differs from this in a way that is reported to operators.
    pub(super) fn leadership_differs_from(&self, previous: &Leadership) -> bool {
        let is_same_kind = match (previous, &self.leadership) {
            (Leadership::Leaderless { why: a, .. }, Leadership::Leaderless { why: b, .. }) => a == b,
            (a, b) => mem::discriminant(a) == mem::discriminant(b),
        };
        previous.leader() != self.leadership.leader() || !is_same_kind
    }
}
