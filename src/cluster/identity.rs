//! Which cluster this is, and which of the nodes belong to it.
//!
//! A node list kept by hand, or a copied DCS prefix, can name a node of another cluster. Its role is none of our
//! business, and a write sent to it would be lost to ours.

use super::node::Report;

/// What is known of the cluster's identity.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Patroni's scope, if the operator has named it.
    pub scope: Option<String>,
    /// The system identifier that the nodes have agreed on.
    system_identifier: Option<String>,
}

/// One node's vote.
#[derive(Debug, Clone, Copy)]
pub struct Vote<'a> {
    /// Whether a check of it has come to its end, answered or not.
    pub is_checked: bool,
    /// Its newest answer.
    pub report: Option<&'a Report>,
}

impl Identity {
    /// An identity of which only the scope is known, or nothing.
    pub fn new(scope: Option<String>) -> Identity {
        Identity { scope, system_identifier: None }
    }

    /// Takes the nodes' newest answers into account.
    ///
    /// The system identifier is the one that more than half of the nodes state. Without such a majority it stays what
    /// it was; if it has never been settled, the one stated most often will do, once every node has been checked.
    pub fn reconsider(&mut self, votes: &[Vote<'_>]) {
        let mut tally: Vec<(&str, usize)> = Vec::new();
        let stated = votes.iter().filter_map(|vote| {
            let report = vote.report.filter(|report| self.why_other_scope(report).is_none())?;
            report.system_identifier.as_deref()
        });
        for identifier in stated {
            match tally.iter_mut().find(|(known, _)| *known == identifier) {
                Some((_, count)) => *count += 1,
                None => tally.push((identifier, 1)),
            }
        }
        tally.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let settled = match tally.as_slice() {
            [(first, count), ..] if *count * 2 > votes.len() => Some(*first),
            _ if self.system_identifier.is_some() => return,
            [(first, _)] if all_checked(votes) => Some(*first),
            [(first, most), (_, next), ..] if most > next && all_checked(votes) => Some(*first),
            _ => None,
        };
        self.system_identifier = settled.map(str::to_owned);
    }

    /// Whether claims may be believed: the identifier is settled, or nobody states one and all have been asked.
    pub fn is_settled(&self, votes: &[Vote<'_>]) -> bool {
        let nobody_states_one = || votes.iter().all(|vote| vote.report.is_none_or(|r| r.system_identifier.is_none()));
        self.system_identifier.is_some() || (all_checked(votes) && nobody_states_one())
    }

    /// Why a node that says this does not belong to the cluster; `None` if it does, as far as is known.
    pub fn why_foreign(&self, report: &Report, votes: &[Vote<'_>]) -> Option<String> {
        if let Some(why) = self.why_other_scope(report) {
            return Some(why);
        }
        match (&self.system_identifier, &report.system_identifier) {
            (Some(ours), Some(its)) if ours != its => {
                Some(format!("has system identifier {its}, the cluster's is {ours}"))
            }
            (None, Some(its)) if all_checked(votes) => {
                Some(format!("has system identifier {its}, and the nodes do not agree on one"))
            }
            _ => None,
        }
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

fn all_checked(votes: &[Vote<'_>]) -> bool {
    votes.iter().all(|vote| vote.is_checked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::report;
    use crate::cluster::node::Claim;

    fn of(identifier: &str) -> Report {
        Report { system_identifier: Some(identifier.to_owned()), ..report(Claim::Replica, 1) }
    }

    fn vote(report: &Report) -> Vote<'_> {
        Vote { is_checked: true, report: Some(report) }
    }

    const UNREACHABLE: Vote<'static> = Vote { is_checked: true, report: None };
    const UNCHECKED: Vote<'static> = Vote { is_checked: false, report: None };

    fn settled(votes: &[Vote<'_>]) -> Option<String> {
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
    fn a_lone_voice_waits_until_all_have_been_checked() {
        let a = of("1");
        assert_eq!(settled(&[vote(&a), UNCHECKED, UNCHECKED]), None);
        assert_eq!(settled(&[vote(&a), UNREACHABLE, UNREACHABLE]).as_deref(), Some("1"));
    }

    #[test]
    fn the_odd_one_out_is_foreign_even_if_it_answers_first() {
        let (odd, a, b) = (of("9"), of("1"), of("1"));
        let mut identity = Identity::default();
        identity.reconsider(&[vote(&odd), UNCHECKED, UNCHECKED]);
        assert!(!identity.is_settled(&[vote(&odd), UNCHECKED, UNCHECKED]));
        let votes = [vote(&odd), vote(&a), vote(&b)];
        identity.reconsider(&votes);
        assert_eq!(identity.why_foreign(&odd, &votes).as_deref(), Some("has system identifier 9, the cluster's is 1"));
        assert_eq!(identity.why_foreign(&a, &votes), None);
    }

    #[test]
    fn a_draw_is_nobodys_cluster() {
        let (a, b) = (of("1"), of("2"));
        let votes = [vote(&a), vote(&b)];
        let mut identity = Identity::default();
        identity.reconsider(&votes);
        assert!(!identity.is_settled(&votes));
        assert!(identity.why_foreign(&a, &votes).is_some() && identity.why_foreign(&b, &votes).is_some());
    }

    #[test]
    fn once_settled_it_takes_a_majority_to_change_it() {
        let (old, new) = (of("1"), of("2"));
        let mut identity = Identity::default();
        identity.reconsider(&[vote(&old), vote(&old), vote(&old)]);
        identity.reconsider(&[vote(&new), UNREACHABLE, UNREACHABLE]);
        assert_eq!(identity.system_identifier.as_deref(), Some("1"));
        identity.reconsider(&[vote(&new), vote(&new), UNREACHABLE]);
        assert_eq!(identity.system_identifier.as_deref(), Some("2"), "the cluster was made anew");
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
    fn nodes_that_state_no_identifier_are_taken_at_their_word() {
        let silent = Report { system_identifier: None, ..of("") };
        let votes = [vote(&silent), UNREACHABLE];
        let mut identity = Identity::default();
        identity.reconsider(&votes);
        assert!(identity.is_settled(&votes));
        assert_eq!(identity.why_foreign(&silent, &votes), None);
    }
}
