//! What operators are told: the leader has changed, or a node's role or health has.

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

    pub(super) fn standings(&self) -> Vec<String> {
        self.members.all().iter().map(|entry| entry.view.standing().to_string()).collect()
    }

    pub(super) fn changes_since(&self, before: &[String]) -> Vec<Action> {
        let now = self.standings().into_iter().enumerate();
        let unchecked = NodeView::unchecked_standing();
        now.filter_map(|(id, to)| {
            let from = before.get(id).map_or(unchecked, String::as_str);
            (from != to).then(|| Action::Tell(Change::Node { node: NodeId::new(id), from: from.to_owned(), to }))
        })
        .collect()
    }

    /// Whether operators have to be told that the leadership is another one than this.
    pub(super) fn leadership_differs_from(&self, previous: &Leadership) -> bool {
        let is_same_kind = match (previous, &self.leadership) {
            (Leadership::Vacant { why: a, .. }, Leadership::Vacant { why: b, .. }) => a == b,
            (a, b) => mem::discriminant(a) == mem::discriminant(b),
        };
        previous.leader() != self.leadership.leader() || !is_same_kind
    }
}
