//! Sections that balance over the leaders of several clusters, as in front of Citus: a listener of pgvane has one
//! leader, so these are refused.

use std::collections::{BTreeMap, BTreeSet};

use super::front::Route;
use super::ledger::Ledger;
use super::members::Members;
use super::proxy::Proxy;

/// Refuses sections whose servers seem to belong to several clusters. `one_cluster` has the names of sections of which
/// the user has said that they do not.
pub(super) fn refuse(
    routes: &[Route],
    members: &Members,
    proxies: &[Proxy],
    one_cluster: &[String],
    ledger: &mut Ledger,
) -> BTreeSet<usize> {
    let mut refused = BTreeSet::new();
    for (place, route) in routes.iter().enumerate() {
        let is_leader = route.meaning.as_ref().is_some_and(|meaning| meaning.target == "leader");
        if !is_leader || one_cluster.contains(&route.name) {
            continue;
        }
        let nodes: BTreeSet<usize> = members.of_routes[place].iter().copied().collect();
        let is_in_others = |others: fn(&Route) -> bool| {
            let mut rest = routes.iter().enumerate().filter(|(other, route)| *other != place && others(route));
            rest.any(|(other, _)| members.of_routes[other].iter().any(|node| nodes.contains(node)))
        };
        let back = &proxies[route.back];
        let groups = groups(back.servers.iter().map(|server| server.name.as_str()));
        let balance = back.balance.as_ref().filter(|balance| balance.is_own && balance.name != "first");
        let is_alone = !is_in_others(|_| true);
        let is_one_of_many = routes.iter().enumerate().any(|(other, route)| {
            let leads = route.meaning.as_ref().is_some_and(|meaning| meaning.target == "leader");
            other != place && leads && members.of_routes[other].iter().all(|node| !nodes.contains(node))
        });
        let seems_many = match groups.len() {
            0 | 1 => balance.is_some() && is_alone && is_one_of_many && nodes.len() > 2,
            _ => balance.is_some() || is_alone,
        };
        if !seems_many {
            continue;
        }
        refused.insert(place);
        let mut signs = Vec::new();
        if groups.len() > 1 {
            let groups: Vec<String> = groups.iter().map(|group| format!("{group}…")).collect();
            signs.push(format!("their names are in groups ({})", groups.join(", ")));
        }
        if let Some(balance) = balance {
            signs.push(format!("line {} balances over leaders", balance.line));
        }
        if is_alone {
            signs.push("they are in no other section".to_owned());
        }
        ledger.propose(
            proxies[route.front].line,
            format!(
                "{}: its servers seem to belong to several clusters, and of each the leader serves: {}. A listener of pgvane has \
                 one leader; as one cluster, two leaders would be two claims, and nobody would get writes",
                route.name,
                signs.join("; ")
            ),
            format!(
                "write a cluster and a listener for each group, or leave {} to HAProxy. If the servers are one cluster, import \
                 with --one-cluster {}",
                route.name, route.name
            ),
        );
    }
    refused
}

/// The groups that names form: `group1-pg1, group1-pg2, group2-pg1` are in `group1` and `group2`. Empty if each name
/// stands alone.
fn groups<'n>(names: impl Iterator<Item = &'n str>) -> BTreeSet<String> {
    let mut members: BTreeMap<String, usize> = BTreeMap::new();
    let mut total = 0;
    for name in names {
        total += 1;
        if let Some(group) = group_of(name) {
            *members.entry(group).or_default() += 1;
        }
    }
    let is_word = |group: &String| {
        let word = group.trim_end_matches(|c: char| c.is_ascii_digit());
        let word = word.trim_end_matches(['-', '_', '.']).to_ascii_lowercase();
        word != group.as_str()
            && ["group", "shard", "worker", "citus", "w", "g", "grp"].iter().any(|known| word.ends_with(known))
    };
    let in_groups: usize = members.values().sum();
    let is_complete = in_groups == total && members.len() > 1;
    let is_grouped = members.values().all(|count| *count > 1) || members.keys().all(is_word);
    if is_complete && is_grouped { members.into_keys().collect() } else { BTreeSet::new() }
}

/// What stands before the last part of a name, or before the letters behind its number.
fn group_of(name: &str) -> Option<String> {
    if let Some((group, _)) = name.rsplit_once(['-', '_', '.']) {
        return (!group.is_empty()).then(|| group.to_owned());
    }
    let group = name.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    (group.len() < name.len() && group.ends_with(|c: char| c.is_ascii_digit())).then(|| group.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_names_and_plain_names_have_none() {
        let found = |names: &[&str]| groups(names.iter().copied()).into_iter().collect::<Vec<_>>();
        assert_eq!(found(&["group1-pg1", "group1-pg2", "group2-pg1", "group2-pg2"]), ["group1", "group2"]);
        assert_eq!(found(&["w1a", "w1b", "w2a", "w2b"]), ["w1", "w2"]);
        assert_eq!(found(&["shard_1_a", "shard_2_a"]), ["shard_1", "shard_2"]);
        for names in [
            &["pg1", "pg2", "pg3", "pg4"][..],
            &["pg-1", "pg-2", "pg-3", "pg-4"],
            &["group0-pg1", "group0-pg2", "group0-pg3"],
            &["pg1.example.org", "pg2.example.org"],
            &["node1-east", "node2-east", "node3-west"],
            &["a", "b"],
            &[],
        ] {
            assert!(found(names).is_empty(), "{names:?}");
        }
    }
}
