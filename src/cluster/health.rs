//! Three-valued health of one node: what follows from its answers, and from its silence.
//!
//! An answer is authoritative at once. Silence is not an answer: it makes a node *unknown*, never "down", and
//! what is unknown keeps its sessions.

use std::sync::Arc;

use super::moment::Moment;
use super::node::{CheckError, Report};

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Not checked yet, or no check was ever answered. Serves no clients.
    ///
    /// Exits: an answer → `Answering`.
    Unchecked {
        /// Why the last check failed, if there was one.
        error: Option<CheckError>,
    },
    /// It answers its checks: the newest answer counts.
    ///
    /// Exits: `fall` checks in a row without an answer → `Silent`.
    Answering {
        /// The newest answer.
        report: Arc<Report>,
        /// When that answer was asked for.
        asked_at: Moment,
        /// Since when the node has answered without becoming silent.
        since: Moment,
        /// Checks without an answer since the newest one.
        missed: u32,
    },
    /// Answered before, and no longer does. Keeps its sessions; gets new ones only if no other node can serve them.
    ///
    /// Exits: an answer that claims to lead, or that says out of service → `Answering` at once;
    /// `rise` answers in a row → `Answering`.
    Silent {
        /// The last answer before the node became silent, or the newest of those that are still fewer than `rise`.
        report: Arc<Report>,
        /// When that answer was asked for.
        asked_at: Moment,
        /// Since when it is silent.
        since: Moment,
        /// Why the last check failed.
        error: CheckError,
        /// Answers in a row since then.
        risen: u32,
    },
}

/// How many checks it takes until a node counts as silent, or as answering again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Answers in a row until a silent node serves again.
    pub rise: u32,
    /// Checks in a row without an answer until a node counts as silent.
    pub fall: u32,
}

impl Health {
    /// The health of a node of which nothing is known.
    pub const UNKNOWN: Health = Health::Unchecked { error: None };

    /// The health after a check that was sent at `asked_at` and ended with `outcome` at `now`.
    ///
    /// The caller passes checks in the order in which they were sent.
    #[must_use]
    pub fn after(
        self,
        outcome: Result<Arc<Report>, CheckError>,
        asked_at: Moment,
        now: Moment,
        thresholds: Thresholds,
    ) -> Health {
        match outcome {
            Ok(report) => self.answered(report, asked_at, now, thresholds.rise),
            Err(error) => self.missed(error, now, thresholds.fall),
        }
    }

    fn answered(self, report: Arc<Report>, asked_at: Moment, now: Moment, rise: u32) -> Health {
        match self {
            Health::Unchecked { .. } => Health::Answering { report, asked_at, since: now, missed: 0 },
            Health::Answering { since, .. } => Health::Answering { report, asked_at, since, missed: 0 },
            Health::Silent { since, error, risen, .. } => {
                let is_plain_replica = report.claim == super::node::Claim::Replica;
                if is_plain_replica && risen + 1 < rise {
                    Health::Silent { report, asked_at, since, error, risen: risen + 1 }
                } else {
                    Health::Answering { report, asked_at, since: now, missed: 0 }
                }
            }
        }
    }

    fn missed(self, error: CheckError, now: Moment, fall: u32) -> Health {
        match self {
            Health::Unchecked { .. } => Health::Unchecked { error: Some(error) },
            Health::Answering { report, asked_at, missed, .. } if missed + 1 >= fall => {
                Health::Silent { report, asked_at, since: now, error, risen: 0 }
            }
            Health::Answering { report, asked_at, since, missed } => {
                Health::Answering { report, asked_at, since, missed: missed + 1 }
            }
            Health::Silent { report, asked_at, since, .. } => {
                Health::Silent { report, asked_at, since, error, risen: 0 }
            }
        }
    }

    /// The newest answer, of any age.
    pub fn report(&self) -> Option<&Arc<Report>> {
        match self {
            Health::Unchecked { .. } => None,
            Health::Answering { report, .. } | Health::Silent { report, .. } => Some(report),
        }
    }

    /// When the newest answer was asked for.
    pub fn answer_asked_at(&self) -> Option<Moment> {
        match self {
            Health::Unchecked { .. } => None,
            Health::Answering { asked_at, .. } | Health::Silent { asked_at, .. } => Some(*asked_at),
        }
    }

    /// Since when the node has been silent, if it is.
    pub fn silent_since(&self) -> Option<Moment> {
        match self {
            Health::Silent { since, .. } => Some(*since),
            _ => None,
        }
    }

    /// Why the last check failed, if the node is silent or has never answered.
    pub fn last_error(&self) -> Option<&CheckError> {
        match self {
            Health::Unchecked { error } => error.as_ref(),
            Health::Silent { error, .. } => Some(error),
            Health::Answering { .. } => None,
        }
    }

    /// Its label in metrics and on the stats page.
    pub fn label(&self) -> &'static str {
        match self {
            Health::Unchecked { error: None } => "unchecked",
            Health::Unchecked { error: Some(_) } => "unreachable",
            Health::Answering { .. } => "up",
            Health::Silent { .. } => "silent",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::fixtures::{leader, replica};
    use crate::cluster::node::Claim;

    const THRESHOLDS: Thresholds = Thresholds { rise: 2, fall: 3 };

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    /// Feeds one check per second and returns the health after the last.
    fn fed(outcomes: Vec<Result<Arc<Report>, CheckError>>) -> Health {
        outcomes.into_iter().enumerate().fold(Health::UNKNOWN, |health, (second, outcome)| {
            let now = at(second as u64);
            health.after(outcome, now, now, THRESHOLDS)
        })
    }

    #[test]
    fn the_first_answer_counts_at_once() {
        let health = fed(vec![Err(CheckError::Refused), Ok(replica(1))]);
        assert!(matches!(health, Health::Answering { since, missed: 0, .. } if since == at(1)));
    }

    #[test]
    fn a_node_that_never_answered_stays_unchecked() {
        let health = fed(vec![Err(CheckError::Refused); 10]);
        assert_eq!(health, Health::Unchecked { error: Some(CheckError::Refused) });
    }

    #[test]
    fn a_node_is_silent_after_fall_checks_without_an_answer() {
        let two = fed(vec![Ok(leader(1)), Err(CheckError::TimedOut), Err(CheckError::TimedOut)]);
        assert!(matches!(two, Health::Answering { missed: 2, .. }));
        let three = two.after(Err(CheckError::TimedOut), at(3), at(3), THRESHOLDS);
        assert_eq!(three.silent_since(), Some(at(3)));
        assert_eq!(three.report().expect("keeps its last answer").claim, Claim::Leader);
    }

    #[test]
    fn a_silent_replica_needs_rise_answers() {
        let mut outcomes = vec![Ok(replica(1))];
        outcomes.extend(vec![Err(CheckError::TimedOut); 3]);
        outcomes.push(Ok(replica(1)));
        let once = fed(outcomes);
        assert!(matches!(once, Health::Silent { risen: 1, .. }));
        let twice = once.clone().after(Ok(replica(1)), at(9), at(9), THRESHOLDS);
        assert!(matches!(twice, Health::Answering { .. }));
        let relapsed = once.after(Err(CheckError::TimedOut), at(9), at(9), THRESHOLDS);
        assert!(matches!(relapsed, Health::Silent { risen: 0, .. }), "answers must come in a row");
    }

    #[test]
    fn a_silent_node_that_says_that_it_leads_answers_again_at_once() {
        let mut outcomes = vec![Ok(replica(1))];
        outcomes.extend(vec![Err(CheckError::TimedOut); 3]);
        outcomes.push(Ok(leader(2)));
        assert!(matches!(fed(outcomes), Health::Answering { .. }));
    }
}
