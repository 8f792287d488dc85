//! What a seed chooses: faults in random order, each once before any comes again.

use std::time::Duration;

use fastrand::Rng;

/// On which node a fault falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Leader,
    Replica,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Switchover,
    KillNode(On),
    FreezePatroni(On),
    FreezePostmaster(On),
    FreezePgvane,
    KillPatroni,
    RestartPatroniInPause,
    CarelessClient,
    SilentAdminConnections,
    OneByteConnections,
    DeafClients,
}

impl Fault {
    pub(super) const ALL: [Fault; 14] = [
        Fault::Switchover,
        Fault::KillNode(On::Leader),
        Fault::KillNode(On::Replica),
        Fault::FreezePatroni(On::Leader),
        Fault::FreezePatroni(On::Replica),
        Fault::FreezePostmaster(On::Leader),
        Fault::FreezePostmaster(On::Replica),
        Fault::FreezePgvane,
        Fault::KillPatroni,
        Fault::RestartPatroniInPause,
        Fault::CarelessClient,
        Fault::SilentAdminConnections,
        Fault::OneByteConnections,
        Fault::DeafClients,
    ];

    /// Whether it is done by clients of pgvane alone, so that a failure in doing it is pgvane's.
    pub(super) fn is_on_ports(self) -> bool {
        self.connections() > 0
    }

    /// How many connections it opens to pgvane, at most.
    pub(super) fn connections(self) -> usize {
        match self {
            Fault::CarelessClient => 3,
            Fault::SilentAdminConnections => 200,
            Fault::OneByteConnections => 1000,
            Fault::DeafClients => 10,
            _ => 0,
        }
    }

    /// What is printed for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::Switchover => "switchover by REST",
            Fault::KillNode(On::Leader) => "SIGKILL of the leader's node",
            Fault::KillNode(On::Replica) => "SIGKILL of a replica's node",
            Fault::FreezePatroni(On::Leader) => "SIGSTOP of the leader's Patroni",
            Fault::FreezePatroni(On::Replica) => "SIGSTOP of a replica's Patroni",
            Fault::FreezePostmaster(On::Leader) => "SIGSTOP of the leader's postmaster",
            Fault::FreezePostmaster(On::Replica) => "SIGSTOP of a replica's postmaster",
            Fault::FreezePgvane => "SIGSTOP of pgvane",
            Fault::KillPatroni => "SIGKILL and restart of Patroni alone, leader",
            Fault::RestartPatroniInPause => "SIGTERM and restart of Patroni alone, leader, in pause",
            Fault::CarelessClient => "a client that causes 25006",
            Fault::SilentAdminConnections => "silent connections to the admin port",
            Fault::OneByteConnections => "1000 connections of one byte",
            Fault::DeafClients => "clients that do not read",
        }
    }
}

/// A fault with its particulars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) fault: Fault,
    /// How long it lasts. Shorter than Patroni's ttl less its loop_wait, so that no lead lapses by it.
    pub(super) lasts: Duration,
    /// Which of the replicas.
    pub(super) replica: usize,
}

/// The steps of one seed, without end.
#[derive(Debug)]
pub(super) struct Plan {
    rng: Rng,
    left: Vec<Fault>,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), left: Vec::new() }
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.left.is_empty() {
            self.left = Fault::ALL.to_vec();
            self.rng.shuffle(&mut self.left);
        }
        let fault = self.left.pop()?;
        let lasts = Duration::from_millis(self.rng.u64(1_000..8_000));
        Some(Step { fault, lasts, replica: self.rng.usize(..64) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_steps_again_and_each_fault_comes() {
        let steps = |seed| Plan::new(seed).take(Fault::ALL.len()).collect::<Vec<_>>();
        assert_eq!(steps(1), steps(1));
        assert_ne!(steps(1), steps(2));
        assert!(Fault::ALL.iter().all(|fault| steps(3).iter().any(|step| step.fault == *fault)));
    }
}
