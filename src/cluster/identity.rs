//! Which cluster this is, and which of the nodes belong to it.
//!
//! A node list that is kept by hand, or a copied DCS prefix, can name a node of another cluster. The role of that node
//! does not matter here, and a write that is sent to it would be lost to this cluster.

use std::sync::Arc;

use super::node::{Claim, Report};

/// What is known of the cluster's identity.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Patroni's scope, if the operator has named it.
    pub scope: Option<String>,
    /// The system identifier that the nodes have agreed on.
    system_identifier: Option<String>,
    /// The scope of the nodes that have agreed on it.
    agreed_scope: Option<String>,
}

/// The vote of one node, which the operator has named, on which cluster this is.
#[derive(Debug, Clone)]
pub struct Vote {
    /// Whether a check of it has ended, answered or not.
    pub is_checked: bool,
    /// Its report, if it answers.
    pub report: Option<Arc<Report>>,
    /// It has belonged to the agreed cluster before.
    pub has_belonged: bool,
}

impl Vote {
    /// The vote of a node that has answered and that the operator has named.
    pub fn answered(report: Arc<Report>) -> Vote {
        Vote { is_checked: true, report: Some(report), has_belonged: true }
    }
}

impl Identity {
    /// An identity of which nothing is known, or only the scope.
    pub fn new(scope: Option<String>) -> Identity {
        Identity { scope, ..Identity::default() }
    }

    /// The system identifier that the nodes have agreed on, if they have.
    pub fn system_identifier(&self) -> Option<&str> {
        self.system_identifier.as_deref()
    }

    /// Decides again, from the present answers of the nodes that have a vote.
    ///
    /// The system identifier is the one that more than half of all voters state. If it was never settled, the one that
    /// is stated most often is taken once all voters have been checked. After that it changes only when every voter
    /// that answers states the same other one, and one of them has belonged to the cluster: the cluster was created
    /// again, for example by `pg_upgrade`, and its other nodes are down.
    pub fn reconsider(&mut self, votes: &[Vote]) {
        let stated = self.stated(votes);
        let mut tally: Vec<(&str, usize)> = Vec::new();
        for identifier in &stated {
            match tally.iter_mut().find(|(known, _)| known == identifier) {
                Some((_, count)) => *count += 1,
                None => tally.push((identifier, 1)),
            }
        }
        tally.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let is_made_again = |identifier: &str| self.is_of_agreed_scope(votes, identifier);
        let settled = match tally.as_slice() {
            [(first, count), ..] if *count * 2 > votes.len() => Some(*first),
            [(only, _)] if all_checked(votes) && is_made_again(only) => Some(*only),
            _ if self.system_identifier.is_some() => return,
            [(first, most), (_, next), ..] if most > next && all_checked(votes) => Some(*first),
            _ => None,
        };
        let Some(settled) = settled.map(str::to_owned) else { return };
        self.agreed_scope = scope_of(votes, &settled).or(self.agreed_scope.take());
        self.system_identifier = Some(settled);
    }

    /// Whether the nodes that state this identifier are of the cluster that was agreed before, if there was one.
    fn is_of_agreed_scope(&self, votes: &[Vote], identifier: &str) -> bool {
        let scope = scope_of(votes, identifier);
        let is_same_scope = self.agreed_scope.is_none() || scope.is_none() || scope == self.agreed_scope;
        let states_it = |vote: &&Vote| {
            vote.report.as_ref().is_some_and(|report| report.system_identifier.as_deref() == Some(identifier))
        };
        self.system_identifier.is_none()
            || (is_same_scope && votes.iter().filter(states_it).any(|vote| vote.has_belonged))
    }

    fn stated<'v>(&self, votes: &'v [Vote]) -> Vec<&'v str> {
        let of_scope = votes.iter().filter_map(|vote| {
            let report = vote.report.as_deref()?;
            self.why_other_scope(report).is_none().then_some(report)
        });
        of_scope.filter_map(|report| report.system_identifier.as_deref()).collect()
    }

    /// Whether claims count: the identifier is settled, or all voters have been checked and none states one.
    pub fn is_settled(&self, votes: &[Vote]) -> bool {
        let nobody_states_one =
            || votes.iter().all(|vote| vote.report.as_ref().is_none_or(|report| report.system_identifier.is_none()));
        self.system_identifier.is_some() || (all_checked(votes) && nobody_states_one())
    }

    /// Why a node with this report does not belong to the cluster; `None` if it does, as far as known.
    pub fn why_foreign(&self, report: &Report, votes: &[Vote]) -> Option<String> {
        if let Some(why) = self.why_other_scope(report) {
            return Some(why);
        }
        match (&self.system_identifier, &report.system_identifier) {
            (Some(ours), Some(its)) if ours != its => {
                Some(format!("has system identifier {its}, but the cluster has {ours}"))
            }
            (None, Some(its)) if all_checked(votes) => {
                Some(format!("has system identifier {its}, but the nodes do not agree on one"))
            }
            _ => None,
        }
    }

    /// Why a node that was discovered, and not named by the operator, is not taken for one of the cluster: it serves and
    /// does not state which cluster it belongs to. Patroni states that for every PostgreSQL that runs.
    pub fn why_unproven(&self, report: &Report) -> Option<String> {
        let is_unproven = report.system_identifier.is_none() && report.claim != Claim::OutOfService;
        (is_unproven && self.system_identifier.is_some())
            .then(|| "is not named in the configuration, and states no system identifier".to_owned())
    }

    fn why_other_scope(&self, report: &Report) -> Option<String> {
        match (&self.scope, &report.scope) {
            (Some(ours), Some(its)) if ours != its => {
                Some(format!("belongs to Patroni scope \"{its}\", not \"{ours}\""))
            }
            _ => None,
        }
    }
}

/// The scope of the nodes that state this system identifier.
fn scope_of(votes: &[Vote], identifier: &str) -> Option<String> {
    let mut reports = votes.iter().filter_map(|vote| vote.report.as_deref());
    reports.find(|report| report.system_identifier.as_deref() == Some(identifier))?.scope.clone()
}

fn all_checked(votes: &[Vote]) -> bool {
    votes.iter().all(|vote| vote.is_checked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::report;

    fn of(identifier: &str) -> Report {
        Report { system_identifier: Some(identifier.to_owned()), ..report(Claim::Replica, 1) }
    }

    fn vote(report: &Report) -> Vote {
        Vote::answered(Arc::new(report.clone()))
    }

    const UNREACHABLE: Vote = Vote { is_checked: true, report: None, has_belonged: false };
    const UNCHECKED: Vote = Vote { is_checked: false, report: None, has_belonged: false };

    fn settled(votes: &[Vote]) -> Option<String> {
        let mut identity = Identity::default();
        identity.reconsider(votes);
        identity.system_identifier
    }

    #[test]
    fn a_majority_settles_it_at_once() {
        let (a, b) = (of("1"), of("1"));
        assert_eq!(settled(&[vote(&a), vote(&b), UNCHECKED]).as_deref(), Some("1"));
    }

    #[test]
    fn a_single_vote_counts_once_all_have_been_checked() {
        let a = of("1");
        assert_eq!(settled(&[vote(&a), UNCHECKED, UNCHECKED]), None);
        assert_eq!(settled(&[vote(&a), UNREACHABLE, UNREACHABLE]).as_deref(), Some("1"));
    }

    #[test]
    fn a_node_that_differs_from_the_majority_is_foreign_even_if_it_answers_first() {
        let (odd, a, b) = (of("9"), of("1"), of("1"));
        let mut identity = Identity::default();
        identity.reconsider(&[vote(&odd), UNCHECKED, UNCHECKED]);
        assert!(!identity.is_settled(&[vote(&odd), UNCHECKED, UNCHECKED]));
        let votes = [vote(&odd), vote(&a), vote(&b)];
        identity.reconsider(&votes);
        assert_eq!(
            identity.why_foreign(&odd, &votes).as_deref(),
            Some("has system identifier 9, but the cluster has 1")
        );
        assert_eq!(identity.why_foreign(&a, &votes), None);
    }

    #[test]
    fn a_discovered_node_that_serves_has_to_state_the_identifier() {
        let unstated = Report { system_identifier: None, ..of("1") };
        let mut identity = Identity::default();
        assert_eq!(identity.why_unproven(&unstated), None, "nothing is known of any node yet");
        identity.reconsider(&[vote(&of("1"))]);
        assert!(identity.why_unproven(&unstated).is_some());
        assert_eq!(identity.why_unproven(&of("1")), None);
        let being_created = Report { claim: Claim::OutOfService, ..unstated };
        assert_eq!(identity.why_unproven(&being_created), None, "there is no PostgreSQL yet");
    }

    #[test]
    fn two_identifiers_with_the_same_number_of_votes_settle_nothing() {
        let (a, b) = (of("1"), of("2"));
        let votes = [vote(&a), vote(&b)];
        let mut identity = Identity::default();
        identity.reconsider(&votes);
        assert!(!identity.is_settled(&votes));
        assert!(identity.why_foreign(&a, &votes).is_some() && identity.why_foreign(&b, &votes).is_some());
    }

    #[test]
    fn once_settled_it_changes_only_when_no_voter_that_answers_still_states_it() {
        let (old, new) = (of("1"), of("2"));
        let mut identity = Identity::default();
        identity.reconsider(&[vote(&old), vote(&old), vote(&old)]);
        identity.reconsider(&[vote(&new), vote(&old), UNREACHABLE]);
        assert_eq!(identity.system_identifier(), Some("1"), "one still says so");
        let of_another = Report { scope: Some("another".into()), ..of("2") };
        identity.reconsider(&[vote(&of_another), UNREACHABLE, UNREACHABLE]);
        assert_eq!(identity.system_identifier(), Some("1"), "that is another cluster");
        let stranger = Vote { has_belonged: false, ..vote(&new) };
        identity.reconsider(&[stranger, UNREACHABLE, UNREACHABLE]);
        assert_eq!(identity.system_identifier(), Some("1"), "that has never been one of them");
        identity.reconsider(&[vote(&new), UNREACHABLE, UNREACHABLE]);
        assert_eq!(identity.system_identifier(), Some("2"), "it was made again, and its other nodes are down");
    }

    #[test]
    fn another_scope_is_foreign_and_has_no_vote() {
        let mut identity = Identity::new(Some("demo".into()));
        let stranger = Report { scope: Some("prod".into()), ..of("9") };
        let votes = [vote(&stranger), vote(&stranger)];
        identity.reconsider(&votes);
        assert_eq!(identity.system_identifier, None);
        let why = identity.why_foreign(&stranger, &votes).expect("is foreign");
        assert_eq!(why, "belongs to Patroni scope \"prod\", not \"demo\"");
    }

    #[test]
    fn nodes_that_report_no_identifier_are_accepted() {
        let silent = Report { system_identifier: None, ..of("") };
        let votes = [vote(&silent), UNREACHABLE];
        let mut identity = Identity::default();
        identity.reconsider(&votes);
        assert!(identity.is_settled(&votes));
        assert_eq!(identity.why_foreign(&silent, &votes), None);
    }
}
