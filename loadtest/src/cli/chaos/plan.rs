//! The faults that a seed chooses: in random order, each once before any is repeated.

use std::time::Duration;

use fastrand::Rng;

/// The node of a fault.
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
    FreezePostgres(On),
    FreezePgvane,
    KillPatroni,
    RestartPatroniInPause,
    StopEtcd,
    Reload,
    NoDescriptors,
    ReadOnlyErrors,
    SilentAdminConnections,
    OneByteConnections,
    NonReadingClients,
}

impl Fault {
    pub(super) const ALL: [Fault; 19] = [
        Fault::Switchover,
        Fault::KillNode(On::Leader),
        Fault::KillNode(On::Replica),
        Fault::FreezePatroni(On::Leader),
        Fault::FreezePatroni(On::Replica),
        Fault::FreezePostmaster(On::Leader),
        Fault::FreezePostmaster(On::Replica),
        Fault::FreezePostgres(On::Leader),
        Fault::FreezePostgres(On::Replica),
        Fault::FreezePgvane,
        Fault::KillPatroni,
        Fault::RestartPatroniInPause,
        Fault::StopEtcd,
        Fault::Reload,
        Fault::NoDescriptors,
        Fault::ReadOnlyErrors,
        Fault::SilentAdminConnections,
        Fault::OneByteConnections,
        Fault::NonReadingClients,
    ];

    /// Whether only clients of pgvane cause it, so that an error of these clients is pgvane's.
    pub(super) fn is_on_ports(self) -> bool {
        self.connections() > 0
    }

    /// How many connections it opens to pgvane, at most.
    pub(super) fn connections(self) -> usize {
        match self {
            Fault::ReadOnlyErrors => 3,
            Fault::SilentAdminConnections => 200,
            Fault::OneByteConnections => 1000,
            Fault::NonReadingClients => 10,
            _ => 0,
        }
    }

    /// Its name in the output.
    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::Switchover => "switchover by REST",
            Fault::KillNode(On::Leader) => "SIGKILL of the leader's node",
            Fault::KillNode(On::Replica) => "SIGKILL of a replica's node",
            Fault::FreezePatroni(On::Leader) => "SIGSTOP of the leader's Patroni",
            Fault::FreezePatroni(On::Replica) => "SIGSTOP of a replica's Patroni",
            Fault::FreezePostmaster(On::Leader) => "SIGSTOP of the leader's postmaster",
            Fault::FreezePostmaster(On::Replica) => "SIGSTOP of a replica's postmaster",
            Fault::FreezePostgres(On::Leader) => "SIGSTOP of the leader's whole PostgreSQL",
            Fault::FreezePostgres(On::Replica) => "SIGSTOP of a replica's whole PostgreSQL",
            Fault::FreezePgvane => "SIGSTOP of pgvane",
            Fault::KillPatroni => "SIGKILL and restart of Patroni alone, leader",
            Fault::RestartPatroniInPause => "SIGTERM and restart of Patroni alone, leader, in pause",
            Fault::StopEtcd => "etcd is down",
            Fault::Reload => "SIGHUP to pgvane, twice a second",
            Fault::NoDescriptors => "pgvane has no descriptors left",
            Fault::ReadOnlyErrors => "a client that causes 25006",
            Fault::SilentAdminConnections => "silent connections to the admin port",
            Fault::OneByteConnections => "1000 connections of one byte",
            Fault::NonReadingClients => "clients that do not read",
        }
    }
}

/// A fault with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) fault: Fault,
    /// How long it lasts. Shorter than Patroni's ttl minus loop_wait, so that the leader key does not expire.
    pub(super) lasts: Duration,
    /// Chooses one of the replicas.
    pub(super) replica: usize,
}

/// The steps of one seed; there are infinitely many.
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
