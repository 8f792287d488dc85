//! The cluster's members, and the state of each.

use std::sync::Arc;
use std::time::Duration;

use super::admin_state::AdminState;
use super::health::Health;
use super::lag::LagMeter;
use super::leadership::LockSeen;
use super::moment::Moment;
use super::node::{Claim, Member, NODES_MAX, NodeId, NodeSet};
use super::ports::SessionPort;
use super::schedule::Timetable;
use super::suspicion::SuspicionRates;
use super::topology::NodeView;

/// The minimum time for which the number of a node that has left is not used again: a session that was routed there has
/// arrived long before.
const NUMBER_KEPT_FOR: Duration = Duration::from_secs(60);

/// One member.
pub(super) struct Entry {
    pub(super) view: NodeView,
    pub(super) timetable: Timetable,
    pub(super) lag_meter: LagMeter,
    /// Named by the operator: stays even if discovery does not list it.
    pub(super) is_static: bool,
    /// When the first answer of its present, uninterrupted claim to lead arrived.
    pub(super) claims_since: Option<Moment>,
    /// When the newest check was sent in which it led.
    pub(super) last_led_at: Option<Moment>,
    /// Its claim at the last review.
    served_as: Option<Claim>,
    /// It has belonged to the cluster on which the nodes have agreed.
    pub(super) has_belonged: bool,
    /// When it left, if it has.
    departed_at: Option<Moment>,
    /// How often suspicions may cause a check of it.
    pub(super) suspicions: SuspicionRates,
    /// The last login hint that contradicted its checks.
    pub(super) login_hint: Option<LoginHint>,
}

/// What a node said at a login about recovery.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoginHint {
    pub(super) came_at: Moment,
    /// The port at which it was said.
    pub(super) port: SessionPort,
    pub(super) in_recovery: bool,
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
            served_as: None,
            has_belonged: false,
            departed_at: None,
            suspicions: SuspicionRates::default(),
            login_hint: None,
        }
    }

    /// Compares the login hint with the answer to a check that was sent after it.
    pub(super) fn settle_login_hint(&mut self, asked_at: Moment, now: Moment) {
        let Some(hint) = self.login_hint.filter(|hint| asked_at >= hint.came_at) else { return };
        self.login_hint = None;
        let is_refuted = self.view.believed_in_recovery() == Some(!hint.in_recovery);
        self.view.ports.settle_login_hint(hint.port, is_refuted, now);
    }

    fn departs(&mut self, now: Moment) {
        self.view.departed = true;
        self.claims_since = None;
        self.view.lock = None;
        self.departed_at = Some(now);
    }

    /// Updates what follows from the node's claim alone.
    pub(super) fn review(&mut self, now: Moment) {
        let claim = self.view.claim();
        self.claims_since = (claim == Some(Claim::Leader)).then(|| self.claims_since.unwrap_or(now));
        if self.claims_since.is_some() {
            self.last_led_at = self.view.health.answer_asked_at();
        }
        self.view.lock = self.lock_seen(now).filter(|_| self.view.foreign.is_none());
        let serves_as = claim.filter(|_| matches!(self.view.health, Health::Answering { .. }));
        if serves_as != self.served_as {
            self.served_as = serves_as;
            self.view.serving_since = serves_as.map(|_| now);
        }
    }
}

impl Entry {
    /// What is known of the leader lock after the newest answer. PostgreSQL's answer says nothing about it, unless the
    /// server is not a primary any more.
    fn lock_seen(&self, now: Moment) -> Option<LockSeen> {
        let (report, asked_at) = (self.view.health.report()?, self.view.health.answer_asked_at()?);
        let known = self.view.lock;
        if report.holds_lock {
            return Some(LockSeen { since: known.map_or(now, |known| known.since), asked_at });
        }
        let is_unchanged = report.patroni_error.is_some() && matches!(report.claim, Claim::Leader | Claim::LockHolder);
        known.filter(|_| is_unchanged)
    }
}

/// All members, past and present. A number is given to another node only when nothing refers to it any more.
pub(super) struct Roster {
    entries: Vec<Entry>,
    seed: u64,
}

impl Roster {
    /// The members that the operator has named.
    pub(super) fn new(static_members: Vec<Member>, seed: u64, now: Moment) -> Roster {
        let mut roster = Roster { entries: Vec::new(), seed };
        for member in static_members {
            roster.admit(member, true, NodeSet::default(), now);
        }
        roster
    }

    pub(super) fn entry(&self, id: NodeId) -> &Entry {
        &self.entries[id.index()]
    }

    pub(super) fn entry_mut(&mut self, id: NodeId) -> &mut Entry {
        &mut self.entries[id.index()]
    }

    /// Sets the administrative state of a node. True if that is new. A node that is ready again has just come back.
    pub(super) fn administer(&mut self, id: NodeId, state: AdminState, now: Moment) -> bool {
        let view = &mut self.entry_mut(id).view;
        let is_news = view.admin != state;
        if is_news && state == AdminState::Ready {
            view.serving_since = view.serving_since.map(|_| now);
        }
        view.admin = state;
        is_news
    }

    /// Sets the weight of a node, or takes the configured one again. True if that is new.
    pub(super) fn weigh(&mut self, id: NodeId, weight: Option<u32>) -> bool {
        let view = &mut self.entry_mut(id).view;
        std::mem::replace(&mut view.weight_set, weight) != weight
    }

    /// All entries, those of departed nodes included, in the order of their numbers.
    pub(super) fn all(&self) -> &[Entry] {
        &self.entries
    }

    /// The present members.
    pub(super) fn present(&self) -> impl Iterator<Item = (NodeId, &Entry)> {
        self.entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| !entry.view.departed)
            .map(|(id, entry)| (NodeId::new(id), entry))
    }

    /// The present members, mutable.
    pub(super) fn present_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut Entry)> {
        let present = self.entries.iter_mut().enumerate().filter(|(_, entry)| !entry.view.departed);
        present.map(|(id, entry)| (NodeId::new(id), entry))
    }

    /// Applies the list from discovery; `busy` nodes have sessions.
    ///
    /// A member with the same name is the same node, even at another address: it takes the new address, and keeps its
    /// number and its sessions. A discovered node that is no longer listed leaves once it no longer answers: the list
    /// may be stale, an answer is not.
    pub(super) fn take_list(&mut self, members: Vec<Member>, busy: NodeSet, now: Moment) -> ListTaken {
        let mut taken = ListTaken::default();
        for (_, entry) in self.present_mut().filter(|(_, entry)| !entry.is_static) {
            let listed = members.iter().find(|member| has_name(&entry.view, &member.name));
            let answers = matches!(entry.view.health, Health::Answering { .. });
            match listed {
                Some(member) if !is_same_place(member, &entry.view.member) => {
                    let name = entry.view.member.name.clone();
                    entry.view.member = Arc::new(Member { name, ..member.clone() });
                    entry.timetable.hurry(now);
                    taken.is_news = true;
                }
                None if !answers => {
                    entry.departs(now);
                    taken.is_news = true;
                }
                Some(_) | None => {}
            }
        }
        for member in members {
            match self.admit(member, false, busy, now) {
                Admitted::New => taken.is_news = true,
                Admitted::Known => {}
                Admitted::NoRoom(member) => taken.left_out.push(member.name),
            }
        }
        taken
    }

    /// Applies a changed list of the nodes that the operator names; `busy` nodes have sessions.
    ///
    /// A node with the same name is the same node, even at another address, and so is a node at the same address or with
    /// the same REST API under another name: it keeps its number, its sessions and its administrative state. A node that
    /// is not named any more leaves, unless members are discovered: then it is one of those.
    pub(super) fn take_named(
        &mut self,
        members: Vec<Member>,
        discovers: bool,
        busy: NodeSet,
        now: Moment,
    ) -> NamedTaken {
        let mut taken = NamedTaken::default();
        let mut unmatched = Vec::new();
        self.present_mut().for_each(|(_, entry)| entry.is_static = false);
        for member in members {
            match self.entry_named(&member) {
                Some(id) => taken.moved.extend(self.rename(id, member, now).then_some(id)),
                None => unmatched.push(member),
            }
        }
        let mut new = Vec::new();
        for member in unmatched {
            let known = self.present().find(|(_, entry)| !entry.is_static && is_same_node(&entry.view, &member));
            match known.map(|(id, _)| id) {
                Some(id) => taken.moved.extend(self.rename(id, member, now).then_some(id)),
                None => new.push(member),
            }
        }
        if !discovers {
            let unnamed = self.present_mut().filter(|(_, entry)| !entry.is_static);
            unnamed.for_each(|(_, entry)| entry.departs(now));
        }
        let named_before = |entry: &&mut Entry| !entry.is_static && !entry.view.member.is_discovered;
        for entry in self.present_mut().map(|(_, entry)| entry).filter(named_before) {
            entry.view.member = Arc::new(Member { is_discovered: true, ..Member::clone(&entry.view.member) });
        }
        for member in new {
            if let Admitted::NoRoom(member) = self.admit(member, true, busy, now) {
                taken.left_out.push(member.name);
            }
        }
        taken
    }

    fn entry_named(&self, member: &Member) -> Option<NodeId> {
        let named = self.present().find(|(_, entry)| entry.view.member.name == member.name);
        named.map(|(id, _)| id)
    }

    /// Gives a node the name and the addresses by which the operator names it. True if it has other addresses now.
    fn rename(&mut self, id: NodeId, member: Member, now: Moment) -> bool {
        let entry = self.entry_mut(id);
        entry.is_static = true;
        let moves = !is_same_place(&member, &entry.view.member);
        if moves {
            entry.timetable.hurry(now);
        }
        entry.view.member = Arc::new(member);
        moves
    }

    /// Removes discovered members that are the same as a known node: by the name that a node reports, or because both
    /// report the same system identifier and the same postmaster start.
    pub(super) fn remove_duplicates(&mut self, now: Moment) {
        let known: Vec<(usize, NodeView, bool)> =
            self.present().map(|(id, entry)| (id.index(), entry.view.clone(), entry.is_static)).collect();
        for (id, entry) in self.present_mut().filter(|(_, entry)| !entry.is_static) {
            let comes_first = |other: usize, is_static: bool| is_static || other < id.index();
            let is_duplicate = known.iter().any(|(other, view, is_static)| {
                *other != id.index()
                    && comes_first(*other, *is_static)
                    && ((*is_static && is_same_node(view, &entry.view.member)) || is_same_server(view, &entry.view))
            });
            if is_duplicate {
                entry.departs(now);
            }
        }
    }

    /// The nodes that the operator has named with a wrong address, and why: the Patroni there reports the name of
    /// another node, or the server is the same as that of another node.
    pub(super) fn wrong_addresses(&self) -> Vec<(NodeId, String)> {
        let named: Vec<(NodeId, &NodeView)> =
            self.present().filter(|(_, entry)| entry.is_static).map(|(id, entry)| (id, &entry.view)).collect();
        let why_wrong = |id: NodeId, view: &NodeView| {
            let stated = view.health.report()?.name.as_deref();
            let others = || named.iter().filter(|(other, _)| *other != id);
            if let Some(stated) = stated
                && stated != view.member.name
                && others().any(|(_, other)| other.member.name == stated)
            {
                return Some(format!("{} answers as {stated}, not as {}", view.member.patroni_url, view.member.name));
            }
            let is_first = |other: NodeId| stated != Some(view.member.name.as_str()) && other < id;
            let double = others().find(|(other, of)| {
                is_same_server(of, view) && (is_first(*other) || stated_name(of) == Some(of.member.name.as_str()))
            });
            double.map(|(_, other)| format!("it is the same server as {}", other.member.name))
        };
        named.iter().filter_map(|(id, view)| Some((*id, why_wrong(*id, view)?))).collect()
    }

    /// Adds a member, or adds it again. If all numbers are in use, it gets the number of a node that has left and has
    /// no sessions any more.
    fn admit(&mut self, member: Member, is_static: bool, busy: NodeSet, now: Moment) -> Admitted {
        let is_known = |entry: &Entry| match entry.is_static || is_static {
            true => is_same_node(&entry.view, &member),
            false => has_name(&entry.view, &member.name) || is_same_place(&entry.view.member, &member),
        };
        if self.present().any(|(_, entry)| is_known(entry) && !(is_static && entry.is_static)) {
            return Admitted::Known;
        }
        let came_back = self
            .entries
            .iter()
            .position(|entry| entry.view.departed && !entry.is_static && entry.view.member.name == member.name);
        let next = || Some(self.entries.len()).filter(|id| *id < NODES_MAX);
        let Some(id) = came_back.or_else(next).or_else(|| self.free_number(busy, now)) else {
            return Admitted::NoRoom(member);
        };
        let seed = self.seed.wrapping_add(id as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut entry = Entry::new(member, is_static, now, seed);
        match self.entries.get_mut(id) {
            Some(departed) => {
                if departed.view.member.name == entry.view.member.name {
                    entry.view.admin = departed.view.admin; // it was not the operator who removed it
                }
                *departed = entry;
            }
            None => self.entries.push(entry),
        }
        Admitted::New
    }

    /// The number of the node that left first, among those that left long enough ago and have no sessions.
    fn free_number(&self, busy: NodeSet, now: Moment) -> Option<usize> {
        let left = self.entries.iter().enumerate().filter_map(|(id, entry)| Some((entry.departed_at?, id)));
        let is_free =
            |(left_at, id): &(Moment, usize)| now - *left_at >= NUMBER_KEPT_FOR && !busy.contains(NodeId::new(*id));
        left.filter(is_free).min().map(|(_, id)| id)
    }
}

/// The result of applying a list of members.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListTaken {
    /// Something has changed.
    pub(super) is_news: bool,
    /// The names of members for which there is no room.
    pub(super) left_out: Vec<String>,
}

/// The result of applying a list of nodes that the operator names.
#[derive(Debug, Default)]
pub(super) struct NamedTaken {
    /// Nodes that have other addresses now.
    pub(super) moved: Vec<NodeId>,
    /// The names of nodes for which there is no room.
    pub(super) left_out: Vec<String>,
}

enum Admitted {
    New,
    Known,
    NoRoom(Member),
}

/// The name that a node's Patroni reports.
fn stated_name(view: &NodeView) -> Option<&str> {
    view.health.report()?.name.as_deref()
}

fn has_name(view: &NodeView, name: &str) -> bool {
    view.member.name == name || stated_name(view) == Some(name)
}

/// Whether a discovered member is a node that is known already, under another name or at another address.
fn is_same_node(known: &NodeView, found: &Member) -> bool {
    has_name(known, &found.name)
        || known.member.address == found.address
        || known.member.patroni_url == found.patroni_url
}

/// Whether two nodes are the same server, according to their reports.
fn is_same_server(a: &NodeView, b: &NodeView) -> bool {
    let facts = |view: &NodeView| {
        let report = view.health.report()?;
        Some((report.system_identifier.clone()?, report.postmaster_start.clone()?))
    };
    facts(a).is_some_and(|stated| facts(b) == Some(stated))
}

fn is_same_place(a: &Member, b: &Member) -> bool {
    a.address == b.address && a.patroni_url == b.patroni_url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::HostPort;
    use crate::cluster::fixtures::{at_ms, member, replica};
    use crate::cluster::node::Report;

    fn roster(names: &[&str]) -> Roster {
        Roster::new(names.iter().map(|name| member(name)).collect(), 7, at_ms(0))
    }

    fn present(roster: &Roster) -> Vec<&str> {
        roster.present().map(|(_, entry)| entry.view.member.name.as_str()).collect()
    }

    #[test]
    fn static_members_stay_and_discovered_ones_come_and_go() {
        let mut roster = roster(&["a"]);
        assert!(roster.take_list(vec![member("b"), member("c")], NodeSet::default(), at_ms(1)).is_news);
        assert_eq!(present(&roster), ["a", "b", "c"]);
        assert!(roster.take_list(vec![member("c")], NodeSet::default(), at_ms(2)).is_news);
        assert_eq!(present(&roster), ["a", "c"]);
        assert!(
            roster.take_list(vec![member("b"), member("c")], NodeSet::default(), at_ms(3)).is_news,
            "b comes back to its number"
        );
        assert_eq!(roster.present().map(|(id, _)| id.index()).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(!roster.take_list(vec![member("b"), member("c")], NodeSet::default(), at_ms(4)).is_news);
    }

    #[test]
    fn a_node_that_still_answers_is_not_let_go_for_a_stale_list() {
        let mut roster = roster(&[]);
        roster.take_list(vec![member("a"), member("b")], NodeSet::default(), at_ms(1));
        roster.entry_mut(NodeId::new(0)).view.health =
            Health::Answering { report: replica(1), asked_at: at_ms(2), since: at_ms(2), missed: 0 };
        roster.take_list(vec![member("b")], NodeSet::default(), at_ms(3));
        assert_eq!(present(&roster), ["a", "b"]);
    }

    #[test]
    fn a_node_at_a_new_address_is_the_same_node() {
        let mut roster = roster(&[]);
        roster.take_list(vec![member("a")], NodeSet::default(), at_ms(1));
        let moved = Member { address: "elsewhere:5432".parse().expect("is one"), ..member("a") };
        assert!(roster.take_list(vec![moved.clone()], NodeSet::default(), at_ms(2)).is_news);
        assert_eq!(roster.present().map(|(id, _)| id.index()).collect::<Vec<_>>(), [0], "it keeps its sessions");
        assert_eq!(roster.entry(NodeId::new(0)).view.member.address.host(), "elsewhere");
        assert!(!roster.take_list(vec![moved], NodeSet::default(), at_ms(3)).is_news);
    }

    #[test]
    fn a_number_is_used_again_once_its_node_has_no_sessions_and_a_full_list_is_reported() {
        let mut roster = roster(&[]);
        let name = |number: usize| format!("pod-{number}");
        let mut busy = NodeSet::default();
        busy.insert(NodeId::new(0));
        for number in 0..NODES_MAX {
            let taken = roster.take_list(vec![member(&name(number))], busy, at_ms(number as u64));
            assert!(taken.is_news && taken.left_out.is_empty(), "{number}");
        }
        let soon = roster.take_list(vec![member(&name(NODES_MAX))], busy, at_ms(1000));
        assert_eq!(soon.left_out, [name(NODES_MAX)], "a session may still be on its way to the first ones");
        let later = at_ms(1000) + NUMBER_KEPT_FOR;
        assert!(roster.take_list(vec![member(&name(NODES_MAX))], busy, later).left_out.is_empty());
        let (id, _) = roster.present().next().expect("it is there");
        assert_eq!(id.index(), 1, "the first one still has a session");
    }

    #[test]
    fn one_server_under_two_names_is_one_node() {
        let mut roster = roster(&["pg1.example.org"]);
        roster.take_list(vec![member("10.0.0.1")], NodeSet::default(), at_ms(1));
        let mut stated = (*replica(1)).clone();
        stated.postmaster_start = Some("2026-11-25 19:00:00.123456+00:00".into());
        for id in [0, 1] {
            let report = Arc::new(stated.clone());
            roster.entry_mut(NodeId::new(id)).view.health =
                Health::Answering { report, asked_at: at_ms(2), since: at_ms(2), missed: 0 };
        }
        roster.remove_duplicates(at_ms(3));
        assert_eq!(present(&roster), ["pg1.example.org"]);
    }

    #[test]
    fn nodes_whose_patronis_state_each_others_names_are_at_the_wrong_addresses() {
        let mut roster = roster(&["a", "b", "c"]);
        let mut states = |id: usize, name: &str| {
            let report = Arc::new(Report { name: Some(name.into()), ..(*replica(1)).clone() });
            roster.entry_mut(NodeId::new(id)).view.health =
                Health::Answering { report, asked_at: at_ms(2), since: at_ms(2), missed: 0 };
        };
        states(0, "b");
        states(1, "a");
        states(2, "another-name-for-c");
        let wrong: Vec<usize> = roster.wrong_addresses().iter().map(|(id, _)| id.index()).collect();
        assert_eq!(wrong, [0, 1]);
    }

    #[test]
    fn an_administrative_state_outlives_the_absence_of_its_node() {
        let mut roster = roster(&[]);
        roster.take_list(vec![member("a")], NodeSet::default(), at_ms(1));
        assert!(roster.administer(NodeId::new(0), AdminState::Drain, at_ms(2)));
        assert!(!roster.administer(NodeId::new(0), AdminState::Drain, at_ms(3)), "nothing is new");
        roster.take_list(Vec::new(), NodeSet::default(), at_ms(4));
        roster.take_list(vec![member("a")], NodeSet::default(), at_ms(5));
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
        let same_name = Member { address: "10.0.0.1:5432".parse().expect("is one"), ..member("a") };
        let same_address = Member { name: "other".into(), ..member("a") };
        assert!(!roster.take_list(vec![same_name, same_address], NodeSet::default(), at_ms(1)).is_news);
    }

    #[test]
    fn a_static_node_under_another_name_is_recognised_by_the_name_that_it_states() {
        let mut roster = roster(&["pg1.example.org"]);
        assert!(
            roster.take_list(vec![member("node1")], NodeSet::default(), at_ms(1)).is_news,
            "it has not answered yet"
        );
        let mut stated = (*replica(1)).clone();
        stated.name = Some("node1".into());
        roster.entry_mut(NodeId::new(0)).view.health =
            Health::Answering { report: stated.into(), asked_at: at_ms(2), since: at_ms(2), missed: 0 };
        roster.remove_duplicates(at_ms(3));
        assert_eq!(present(&roster), ["pg1.example.org"]);
        assert!(
            !roster.take_list(vec![member("node1")], NodeSet::default(), at_ms(3)).is_news,
            "and is not taken in again"
        );
    }

    fn named_at(name: &str, host: &str) -> Member {
        Member {
            address: HostPort::new(host, 5432).expect("is a host"),
            patroni_url: format!("http://{host}:8008"),
            ..member(name)
        }
    }

    fn names(roster: &mut Roster, members: &[Member], discovers: bool) -> Vec<NodeId> {
        roster.take_named(members.to_vec(), discovers, NodeSet::default(), at_ms(100)).moved
    }

    #[test]
    fn a_changed_list_keeps_what_is_known_of_nodes_that_stay_and_removes_the_others() {
        let mut roster = roster(&["a", "b"]);
        roster.administer(NodeId::new(1), AdminState::Maint, at_ms(1));
        let heavier = Member { weight: 7, ..member("b") };
        assert_eq!(names(&mut roster, &[heavier, member("c")], false), []);
        assert_eq!(present(&roster), ["b", "c"]);
        let entry = roster.entry(NodeId::new(1));
        assert_eq!((entry.view.member.weight, entry.view.admin), (7, AdminState::Maint));
        names(&mut roster, &[member("a"), member("b"), member("c")], false);
        assert_eq!(present(&roster), ["a", "b", "c"], "it is back, under its own number");
    }

    #[test]
    fn a_node_at_another_address_or_with_another_name_is_the_same_node() {
        let mut roster = roster(&["a", "b"]);
        assert_eq!(names(&mut roster, &[named_at("a", "other"), member("b")], false), [NodeId::new(0)]);
        assert_eq!(names(&mut roster, &[named_at("renamed", "other"), member("b")], false), []);
        assert_eq!(present(&roster), ["renamed", "b"]);
        assert_eq!(roster.all().len(), 2);
    }

    #[test]
    fn a_node_that_is_not_named_any_more_stays_where_members_are_discovered() {
        let mut roster = roster(&["a", "b"]);
        names(&mut roster, &[member("a")], true);
        assert_eq!(present(&roster), ["a", "b"]);
        roster.take_list(vec![member("a")], NodeSet::default(), at_ms(200));
        assert_eq!(present(&roster), ["a"], "discovery does not list it, and it does not answer");
        names(&mut roster, &[member("a"), member("c")], true);
        roster.take_list(vec![member("a"), member("c"), member("d")], NodeSet::default(), at_ms(300));
        names(&mut roster, &[member("d")], false);
        assert_eq!(present(&roster), ["d"], "without discovery only the named ones stay");
    }
}
