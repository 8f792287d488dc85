//! Members that come, go, move and are listed twice.

use std::sync::Arc;

use super::*;
use crate::cluster::HostPort;
use crate::cluster::fixtures::{at_ms, member, replica};
use crate::cluster::health::Health;
use crate::cluster::node::Report;

fn members(names: &[&str]) -> Members {
    Members::new(names.iter().map(|name| member(name)).collect(), 7, at_ms(0))
}

fn present(members: &Members) -> Vec<&str> {
    members.present().map(|(_, entry)| entry.view.member.name.as_str()).collect()
}

#[test]
fn static_members_stay_and_discovered_ones_come_and_go() {
    let mut members = members(&["a"]);
    assert!(members.apply_list(vec![member("b"), member("c")], NodeSet::default(), at_ms(1)).is_change);
    assert_eq!(present(&members), ["a", "b", "c"]);
    assert!(members.apply_list(vec![member("c")], NodeSet::default(), at_ms(2)).is_change);
    assert_eq!(present(&members), ["a", "c"]);
    assert!(
        members.apply_list(vec![member("b"), member("c")], NodeSet::default(), at_ms(3)).is_change,
        "b comes back to its number"
    );
    assert_eq!(members.present().map(|(id, _)| id.index()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(!members.apply_list(vec![member("b"), member("c")], NodeSet::default(), at_ms(4)).is_change);
}

#[test]
fn a_node_that_still_answers_stays_although_a_stale_list_lacks_it() {
    let mut members = members(&[]);
    members.apply_list(vec![member("a"), member("b")], NodeSet::default(), at_ms(1));
    members.entry_mut(NodeId::new(0)).view.health =
        Health::Answering { report: replica(1), asked_at: at_ms(2), since: at_ms(2), missed: 0 };
    members.apply_list(vec![member("b")], NodeSet::default(), at_ms(3));
    assert_eq!(present(&members), ["a", "b"]);
}

#[test]
fn a_node_at_a_new_address_is_the_same_node() {
    let mut members = members(&[]);
    members.apply_list(vec![member("a")], NodeSet::default(), at_ms(1));
    let moved = Member { address: "elsewhere:5432".parse().expect("is one"), ..member("a") };
    assert!(members.apply_list(vec![moved.clone()], NodeSet::default(), at_ms(2)).is_change);
    assert_eq!(members.present().map(|(id, _)| id.index()).collect::<Vec<_>>(), [0], "it keeps its sessions");
    assert_eq!(members.entry(NodeId::new(0)).view.member.address.host(), "elsewhere");
    assert!(!members.apply_list(vec![moved], NodeSet::default(), at_ms(3)).is_change);
}

#[test]
fn a_number_is_used_again_once_its_node_has_no_sessions_and_a_full_list_is_reported() {
    let mut members = members(&[]);
    let name = |number: usize| format!("pod-{number}");
    let mut busy = NodeSet::default();
    busy.insert(NodeId::new(0));
    for number in 0..NODES_MAX {
        let taken = members.apply_list(vec![member(&name(number))], busy, at_ms(number as u64));
        assert!(taken.is_change && taken.left_out.is_empty(), "{number}");
    }
    let soon = members.apply_list(vec![member(&name(NODES_MAX))], busy, at_ms(1000));
    assert_eq!(soon.left_out, [name(NODES_MAX)], "a session may still be on its way to the first ones");
    let later = at_ms(1000) + NUMBER_KEPT_FOR;
    assert!(members.apply_list(vec![member(&name(NODES_MAX))], busy, later).left_out.is_empty());
    let (id, _) = members.present().next().expect("it is there");
    assert_eq!(id.index(), 1, "the first one still has a session");
}

#[test]
fn one_server_under_two_names_is_one_node() {
    let mut members = members(&["pg1.example.org"]);
    members.apply_list(vec![member("10.0.0.1")], NodeSet::default(), at_ms(1));
    let mut stated = (*replica(1)).clone();
    stated.postmaster_start = Some("2026-11-25 19:00:00.123456+00:00".into());
    for id in [0, 1] {
        let report = Arc::new(stated.clone());
        members.entry_mut(NodeId::new(id)).view.health =
            Health::Answering { report, asked_at: at_ms(2), since: at_ms(2), missed: 0 };
    }
    members.remove_duplicates(at_ms(3));
    assert_eq!(present(&members), ["pg1.example.org"]);
}

#[test]
fn nodes_whose_patronis_report_each_others_names_are_at_the_wrong_addresses() {
    let mut members = members(&["a", "b", "c"]);
    let mut states = |id: usize, name: &str| {
        let report = Arc::new(Report { name: Some(name.into()), ..(*replica(1)).clone() });
        members.entry_mut(NodeId::new(id)).view.health =
            Health::Answering { report, asked_at: at_ms(2), since: at_ms(2), missed: 0 };
    };
    states(0, "b");
    states(1, "a");
    states(2, "another-name-for-c");
    let wrong: Vec<usize> = members.wrong_addresses().iter().map(|(id, _)| id.index()).collect();
    assert_eq!(wrong, [0, 1]);
}

#[test]
fn an_administrative_state_outlives_the_absence_of_its_node() {
    let mut members = members(&[]);
    members.apply_list(vec![member("a")], NodeSet::default(), at_ms(1));
    assert!(members.administer(NodeId::new(0), AdminState::Drain, at_ms(2)));
    assert!(!members.administer(NodeId::new(0), AdminState::Drain, at_ms(3)), "nothing is new");
    members.apply_list(Vec::new(), NodeSet::default(), at_ms(4));
    members.apply_list(vec![member("a")], NodeSet::default(), at_ms(5));
    assert_eq!(members.entry(NodeId::new(0)).view.admin, AdminState::Drain);
}

#[test]
fn a_node_that_is_ready_again_has_just_come_back() {
    let mut members = members(&["a"]);
    members.entry_mut(NodeId::new(0)).view.serving_since = Some(at_ms(1));
    members.administer(NodeId::new(0), AdminState::Maint, at_ms(2));
    assert_eq!(members.entry(NodeId::new(0)).view.serving_since, Some(at_ms(1)));
    members.administer(NodeId::new(0), AdminState::Ready, at_ms(3));
    assert_eq!(members.entry(NodeId::new(0)).view.serving_since, Some(at_ms(3)));
}

#[test]
fn a_static_node_is_not_discovered_a_second_time() {
    let mut members = members(&["a"]);
    let same_name = Member { address: "10.0.0.1:5432".parse().expect("is one"), ..member("a") };
    let same_address = Member { name: "other".into(), ..member("a") };
    assert!(!members.apply_list(vec![same_name, same_address], NodeSet::default(), at_ms(1)).is_change);
}

#[test]
fn a_static_node_under_another_name_is_recognised_by_the_name_that_it_states() {
    let mut members = members(&["pg1.example.org"]);
    assert!(
        members.apply_list(vec![member("node1")], NodeSet::default(), at_ms(1)).is_change,
        "it has not answered yet"
    );
    let mut stated = (*replica(1)).clone();
    stated.name = Some("node1".into());
    members.entry_mut(NodeId::new(0)).view.health =
        Health::Answering { report: stated.into(), asked_at: at_ms(2), since: at_ms(2), missed: 0 };
    members.remove_duplicates(at_ms(3));
    assert_eq!(present(&members), ["pg1.example.org"]);
    assert!(
        !members.apply_list(vec![member("node1")], NodeSet::default(), at_ms(3)).is_change,
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

fn names(known: &mut Members, members: &[Member], discovers: bool) -> Vec<NodeId> {
    known.take_named(members.to_vec(), discovers, NodeSet::default(), at_ms(100)).moved
}

#[test]
fn a_changed_list_keeps_what_is_known_of_nodes_that_stay_and_removes_the_others() {
    let mut members = members(&["a", "b"]);
    members.administer(NodeId::new(1), AdminState::Maint, at_ms(1));
    let heavier = Member { weight: 7, ..member("b") };
    assert_eq!(names(&mut members, &[heavier, member("c")], false), []);
    assert_eq!(present(&members), ["b", "c"]);
    let entry = members.entry(NodeId::new(1));
    assert_eq!((entry.view.member.weight, entry.view.admin), (7, AdminState::Maint));
    names(&mut members, &[member("a"), member("b"), member("c")], false);
    assert_eq!(present(&members), ["a", "b", "c"], "it is back, under its own number");
}

#[test]
fn a_node_at_another_address_or_with_another_name_is_the_same_node() {
    let mut members = members(&["a", "b"]);
    assert_eq!(names(&mut members, &[named_at("a", "other"), member("b")], false), [NodeId::new(0)]);
    assert_eq!(names(&mut members, &[named_at("renamed", "other"), member("b")], false), []);
    assert_eq!(present(&members), ["renamed", "b"]);
    assert_eq!(members.all().len(), 2);
}

#[test]
fn a_node_that_is_not_named_any_more_stays_where_members_are_discovered() {
    let mut members = members(&["a", "b"]);
    names(&mut members, &[member("a")], true);
    assert_eq!(present(&members), ["a", "b"]);
    members.apply_list(vec![member("a")], NodeSet::default(), at_ms(200));
    assert_eq!(present(&members), ["a"], "discovery does not list it, and it does not answer");
    names(&mut members, &[member("a"), member("c")], true);
    members.apply_list(vec![member("a"), member("c"), member("d")], NodeSet::default(), at_ms(300));
    names(&mut members, &[member("d")], false);
    assert_eq!(present(&members), ["d"], "without discovery only the named ones stay");
}
