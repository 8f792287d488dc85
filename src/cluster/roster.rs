//! The cluster's members, and what is kept of each between two events.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::admin_state::AdminState;
use super::health::Health;
use super::lag::LagMeter;
use super::moment::Moment;
use super::node::{Claim, Member, NODES_MAX, NodeId};
use super::schedule::Timetable;
use super::topology::NodeView;

/// One member.
pub(super) struct Entry {
    pub(super) view: NodeView,
    pub(super) timetable: Timetable,
    pub(super) lag_meter: LagMeter,
    /// Named by the operator: stays, whatever discovery says.
    is_static: bool,
    /// When the first answer of the present, uninterrupted claim to the lead came in.
    pub(super) claims_since: Option<Moment>,
    /// When its newest answer was asked for in which it led.
    pub(super) last_led_at: Option<Moment>,
    /// The newest `asked_at` of any check that has ended; a silence that is older comes too late.
    pub(super) newest_asked_at: Option<Moment>,
    /// What it was when its service was last looked at.
    served_as: Option<Claim>,
    /// When a client last failed to get a session on it.
    failed_at: Option<Moment>,
}

impl Entry {
    fn new(member: Member, is_static: bool, now: Moment, seed: u64) -> Entry {
        Entry {
            view: NodeView::unchecked(Arc::new(member)),
            timetable: Timetable::starting(now, seed),
            lag_meter: LagMeter::default(),
            is_static,
            claims_since: None,
            last_led_at: None,
            newest_asked_at: None,
            served_as: None,
            failed_at: None,
        }
    }

    /// Notes that a client could get no session. True if that is new.
    pub(super) fn fails_client(&mut self, now: Moment) -> bool {
        self.failed_at = Some(now);
        !mem::replace(&mut self.view.fails_clients, true)
    }

    /// Forgets that clients have failed, if this good answer was asked for long enough after the last one that did: the
    /// answer need not come from where they failed, and each failure costs a client its patience.
    pub(super) fn forget_failures(&mut self, asked_at: Moment, penalty: Duration) {
        if self.failed_at.is_some_and(|failed_at| asked_at >= failed_at + penalty) {
            (self.failed_at, self.view.fails_clients) = (None, false);
        }
    }

    /// Brings up to date what follows from the node's claim alone.
    pub(super) fn review(&mut self, now: Moment) {
        let claim = self.view.claim();
        self.claims_since = (claim == Some(Claim::Leader)).then(|| self.claims_since.unwrap_or(now));
        if self.claims_since.is_some() {
            self.last_led_at = self.view.health.answer_asked_at();
        }
        let serves_as = claim.filter(|_| matches!(self.view.health, Health::Answering { .. }));
        if serves_as != self.served_as {
            self.served_as = serves_as;
            self.view.serving_since = serves_as.map(|_| now);
        }
    }
}

/// All members, past and present. Numbers are never given to another node.
pub(super) struct Roster {
    entries: Vec<Entry>,
    seed: u64,
}

impl Roster {
    /// The members that the operator has named.
    pub(super) fn new(static_members: Vec<Member>, seed: u64, now: Moment) -> Roster {
        let mut roster = Roster { entries: Vec::new(), seed };
        for member in static_members {
            roster.admit(member, true, now);
        }
        roster
    }

    pub(super) fn entry(&self, id: NodeId) -> &Entry {
        &self.entries[id.index()]
    }

    pub(super) fn entry_mut(&mut self, id: NodeId) -> &mut Entry {
        &mut self.entries[id.index()]
    }

    /// Notes what an operator has made of a node. True if that is new. A node that is ready again has just come back.
    pub(super) fn administer(&mut self, id: NodeId, state: AdminState, now: Moment) -> bool {
        let view = &mut self.entry_mut(id).view;
        let is_news = view.admin != state;
        if is_news && state == AdminState::Ready {
            view.serving_since = view.serving_since.map(|_| now);
        }
        view.admin = state;
        is_news
    }

    /// All entries, those of departed nodes included, in the order of their numbers.
    pub(super) fn all(&self) -> &[Entry] {
        &self.entries
    }

    /// The members of today.
    pub(super) fn present(&self) -> impl Iterator<Item = (NodeId, &Entry)> {
        self.entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| !entry.view.departed)
            .map(|(id, entry)| (NodeId::new(id), entry))
    }

    /// The members of today, to be changed.
    pub(super) fn present_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut Entry)> {
        let present = self.entries.iter_mut().enumerate().filter(|(_, entry)| !entry.view.departed);
        present.map(|(id, entry)| (NodeId::new(id), entry))
    }

    /// Takes over the list that discovery has found. True if anything changes.
    ///
    /// A discovered node that is not listed any more leaves once it has stopped answering: the list may be stale, an
    /// answer is not. One that is listed at another address leaves at once.
    pub(super) fn take_list(&mut self, members: Vec<Member>, now: Moment) -> bool {
        let mut changed = false;
        for (_, entry) in self.present_mut().filter(|(_, entry)| !entry.is_static) {
            let is_listed = members.iter().any(|member| is_same_place(member, &entry.view.member));
            let has_moved = !is_listed && members.iter().any(|member| member.name == entry.view.member.name);
            let answers = matches!(entry.view.health, Health::Answering { .. });
            if !is_listed && (has_moved || !answers) {
                entry.view.departed = true;
                entry.claims_since = None;
                changed = true;
            }
        }
        for member in members {
            changed |= self.admit(member, false, now);
        }
        changed
    }

    /// Lets discovered members go that an operator's node has turned out to be, by the name that it states.
    pub(super) fn remove_duplicates(&mut self) {
        let known: Vec<NodeView> =
            self.present().filter(|(_, entry)| entry.is_static).map(|(_, entry)| entry.view.clone()).collect();
        for (_, entry) in self.present_mut().filter(|(_, entry)| !entry.is_static) {
            if known.iter().any(|known| is_same_node(known, &entry.view.member)) {
                entry.view.departed = true;
                entry.claims_since = None;
            }
        }
    }

    /// Takes a member in, or back in. False if it is known already, or if there is no place left.
    fn admit(&mut self, member: Member, is_static: bool, now: Moment) -> bool {
        let place = self.entries.iter().position(|entry| is_same_place(&entry.view.member, &member));
        if place.is_some_and(|id| !self.entries[id].view.departed) {
            return false;
        }
        let is_taken = self.present().any(|(_, entry)| entry.is_static && is_same_node(&entry.view, &member));
        if is_taken || (place.is_none() && self.entries.len() == NODES_MAX) {
            return false;
        }
        let id = place.unwrap_or(self.entries.len());
        let seed = self.seed.wrapping_add(id as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut entry = Entry::new(member, is_static, now, seed);
        match self.entries.get_mut(id) {
            Some(departed) => {
                entry.view.admin = departed.view.admin; // it was not the operator who let it go
                *departed = entry;
            }
            None => self.entries.push(entry),
        }
        true
    }
}

/// Whether a discovered member is a node that is known already, under another name or at another address.
fn is_same_node(known: &NodeView, found: &Member) -> bool {
    let own_name = known.health.report().and_then(|report| report.name.as_deref());
    let member = &known.member;
    [Some(member.name.as_str()), own_name].contains(&Some(found.name.as_str()))
        || member.address == found.address
        || member.patroni_url == found.patroni_url
}

fn is_same_place(a: &Member, b: &Member) -> bool {
    a.name == b.name && a.address == b.address && a.patroni_url == b.patroni_url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::{at_ms, member, replica};

    fn roster(names: &[&str]) -> Roster {
        Roster::new(names.iter().map(|name| member(name)).collect(), 7, at_ms(0))
    }

    fn present(roster: &Roster) -> Vec<&str> {
        roster.present().map(|(_, entry)| entry.view.member.name.as_str()).collect()
    }

    #[test]
    fn static_members_stay_and_discovered_ones_come_and_go() {
        let mut roster = roster(&["a"]);
        assert!(roster.take_list(vec![member("b"), member("c")], at_ms(1)));
        assert_eq!(present(&roster), ["a", "b", "c"]);
        assert!(roster.take_list(vec![member("c")], at_ms(2)));
        assert_eq!(present(&roster), ["a", "c"]);
        assert!(roster.take_list(vec![member("b"), member("c")], at_ms(3)), "b comes back to its number");
        assert_eq!(roster.present().map(|(id, _)| id.index()).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(!roster.take_list(vec![member("b"), member("c")], at_ms(4)));
    }

    #[test]
    fn a_node_that_still_answers_is_not_let_go_for_a_stale_list() {
        let mut roster = roster(&[]);
        roster.take_list(vec![member("a"), member("b")], at_ms(1));
        roster.entry_mut(NodeId::new(0)).view.health =
            Health::Answering { report: replica(1), asked_at: at_ms(2), since: at_ms(2), missed: 0 };
        roster.take_list(vec![member("b")], at_ms(3));
        assert_eq!(present(&roster), ["a", "b"]);
    }

    #[test]
    fn a_node_at_a_new_address_is_a_new_node() {
        let mut roster = roster(&[]);
        roster.take_list(vec![member("a")], at_ms(1));
        let moved = Member { address: "elsewhere:5432".into(), ..member("a") };
        roster.take_list(vec![moved], at_ms(2));
        assert_eq!(roster.present().map(|(id, _)| id.index()).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn what_an_operator_has_said_of_a_node_outlives_its_absence() {
        let mut roster = roster(&[]);
        roster.take_list(vec![member("a")], at_ms(1));
        assert!(roster.administer(NodeId::new(0), AdminState::Drain, at_ms(2)));
        assert!(!roster.administer(NodeId::new(0), AdminState::Drain, at_ms(3)), "no news");
        roster.take_list(Vec::new(), at_ms(4));
        roster.take_list(vec![member("a")], at_ms(5));
        assert_eq!(roster.entry(NodeId::new(0)).view.admin, AdminState::Drain);
    }

    #[test]
    fn a_node_that_is_ready_again_has_just_come_back() {
        let mut roster = roster(&["a"]);
        roster.entry_mut(NodeId::new(0)).view.serving_since = Some(at_ms(1));
        roster.administer(NodeId::new(0), AdminState::Maint, at_ms(2));
        assert_eq!(roster.entry(NodeId::new(0)).view.serving_since, Some(at_ms(1)));
        roster.administer(NodeId::new(0), AdminState::Ready, at_ms(3));
        assert_eq!(roster.entry(NodeId::new(0)).view.serving_since, Some(at_ms(3)));
    }

    #[test]
    fn a_static_node_is_not_discovered_a_second_time() {
        let mut roster = roster(&["a"]);
        let same_name = Member { address: "10.0.0.1:5432".into(), ..member("a") };
        let same_address = Member { name: "other".into(), ..member("a") };
        assert!(!roster.take_list(vec![same_name, same_address], at_ms(1)));
    }

    #[test]
    fn a_static_node_under_another_name_is_recognised_by_the_name_that_it_states() {
        let mut roster = roster(&["pg1.example.org"]);
        assert!(roster.take_list(vec![member("node1")], at_ms(1)), "it has not answered yet");
        let mut said = (*replica(1)).clone();
        said.name = Some("node1".into());
        roster.entry_mut(NodeId::new(0)).view.health =
            Health::Answering { report: said.into(), asked_at: at_ms(2), since: at_ms(2), missed: 0 };
        roster.remove_duplicates();
        assert_eq!(present(&roster), ["pg1.example.org"]);
        assert!(!roster.take_list(vec![member("node1")], at_ms(3)), "and is not taken in again");
    }
}
