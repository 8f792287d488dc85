//! The faults that a seed chooses: in random order, each once before any is repeated.

use std::time::Duration;

use clap::ValueEnum;
use fastrand::Rng;

/// The node of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Leader,
    Replica,
}

/// The two kinds of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Some minutes, with simple clients, also through poolers; without root.
    Chaos,
    /// Hours, with clients of every kind; pgvane runs on a host of its own and finds the nodes by name.
    Soak,
}

impl Kind {
    /// The command's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Chaos => "chaos",
            Kind::Soak => "soak",
        }
    }

    /// The faults of such runs.
    pub(super) fn faults(self) -> Vec<Fault> {
        let all = Fault::value_variants().iter().copied();
        all.filter(|fault| self == Kind::Soak || !fault.is_of_soak_alone()).collect()
    }
}

/// One fault. The names are those of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Fault {
    Switchover,
    KillLeader,
    KillReplica,
    FreezeLeadersPatroni,
    FreezeReplicasPatroni,
    FreezeLeadersPostmaster,
    FreezeReplicasPostmaster,
    FreezeLeadersPostgres,
    FreezeReplicasPostgres,
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
    // Of a soak alone, from here on.
    LoseEtcd,
    CutOffLeader,
    CutOffReplica,
    CutOffAll,
    ResetLeader,
    ResetReplica,
    ReloadWeights,
    ReloadLimits,
    ReloadNodes,
    ReloadCertificates,
    ReloadFaultyFile,
    Upgrade,
    UpgradeBySignal,
    UpgradeWithCrowd,
    UpgradeThatFails,
    SilentNameServer,
    FailingNameServer,
    EmptyNameServer,
    CrowdToTheLimit,
    SlowReaders,
    Park,
    ParkedSwitchover,
}

impl Fault {
    /// Whether it needs what only a soak has: a network between pgvane and the nodes, names, an operator.
    fn is_of_soak_alone(self) -> bool {
        self as usize >= Fault::LoseEtcd as usize
    }

    /// Whether only clients, operators or neighbours of pgvane cause it, so that an error during it is one of pgvane.
    pub(super) fn is_borne_by_pgvane(self) -> bool {
        use Fault::*;
        self.connections() > 0
            || matches!(self, ReloadWeights | ReloadLimits | ReloadNodes | ReloadCertificates | ReloadFaultyFile)
            || self.is_upgrade()
            || matches!(self, SilentNameServer | FailingNameServer | EmptyNameServer | Park | ParkedSwitchover)
    }

    /// Whether another process of pgvane is started.
    pub(super) fn is_upgrade(self) -> bool {
        matches!(self, Fault::Upgrade | Fault::UpgradeBySignal | Fault::UpgradeWithCrowd | Fault::UpgradeThatFails)
    }

    /// Whether pgvane cannot reach a node during it.
    pub(super) fn is_partition(self) -> bool {
        matches!(self, Fault::CutOffLeader | Fault::CutOffReplica | Fault::CutOffAll) || self.resets().is_some()
    }

    /// The node that it concerns, if it is one.
    pub(super) fn on(self) -> Option<On> {
        use Fault::*;
        match self {
            KillLeader | FreezeLeadersPatroni | FreezeLeadersPostmaster | FreezeLeadersPostgres => Some(On::Leader),
            KillPatroni | RestartPatroniInPause | CutOffLeader | ResetLeader => Some(On::Leader),
            KillReplica | FreezeReplicasPatroni | FreezeReplicasPostmaster | FreezeReplicasPostgres => {
                Some(On::Replica)
            }
            CutOffReplica | ResetReplica => Some(On::Replica),
            _ => None,
        }
    }

    /// The node to which connections are answered with a reset.
    pub(super) fn resets(self) -> Option<On> {
        match self {
            Fault::ResetLeader => Some(On::Leader),
            Fault::ResetReplica => Some(On::Replica),
            _ => None,
        }
    }

    /// Whether pgvane has no descriptors for further connections during it.
    pub(super) fn takes_descriptors(self) -> bool {
        matches!(self, Fault::NoDescriptors | Fault::CrowdToTheLimit)
    }

    /// How many connections it opens to pgvane, at most.
    pub(super) fn connections(self) -> usize {
        match self {
            Fault::ReadOnlyErrors => 3,
            Fault::SilentAdminConnections => 200,
            Fault::OneByteConnections => 1000,
            Fault::NonReadingClients | Fault::SlowReaders => 10,
            Fault::UpgradeWithCrowd => 300,
            Fault::CrowdToTheLimit => 500,
            _ => 0,
        }
    }

    /// What it is, in the output.
    pub(super) fn title(self) -> &'static str {
        match self {
            Fault::Switchover => "switchover by REST",
            Fault::KillLeader => "SIGKILL of the leader's node",
            Fault::KillReplica => "SIGKILL of a replica's node",
            Fault::FreezeLeadersPatroni => "SIGSTOP of the leader's Patroni",
            Fault::FreezeReplicasPatroni => "SIGSTOP of a replica's Patroni",
            Fault::FreezeLeadersPostmaster => "SIGSTOP of the leader's postmaster",
            Fault::FreezeReplicasPostmaster => "SIGSTOP of a replica's postmaster",
            Fault::FreezeLeadersPostgres => "SIGSTOP of the leader's whole PostgreSQL",
            Fault::FreezeReplicasPostgres => "SIGSTOP of a replica's whole PostgreSQL",
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
            Fault::LoseEtcd => "etcd is down for longer than Patroni's ttl",
            Fault::CutOffLeader => "packets between pgvane and the leader are lost",
            Fault::CutOffReplica => "packets between pgvane and a replica are lost",
            Fault::CutOffAll => "packets between pgvane and all nodes are lost",
            Fault::ResetLeader => "packets from pgvane to the leader are answered by a reset",
            Fault::ResetReplica => "packets from pgvane to a replica are answered by a reset",
            Fault::ReloadWeights => "reload with other weights",
            Fault::ReloadLimits => "reload with other limits",
            Fault::ReloadNodes => "reload without a node, and with it again",
            Fault::ReloadCertificates => "reload with another certificate",
            Fault::ReloadFaultyFile => "reload of a file with a fault",
            Fault::Upgrade => "pgvane upgrade",
            Fault::UpgradeBySignal => "upgrades by SIGUSR2, one after the other",
            Fault::UpgradeWithCrowd => "pgvane upgrade while 300 clients connect",
            Fault::UpgradeThatFails => "pgvane upgrade to a file with a fault",
            Fault::SilentNameServer => "the name server does not answer",
            Fault::FailingNameServer => "the name server answers SERVFAIL",
            Fault::EmptyNameServer => "the name server answers without addresses",
            Fault::CrowdToTheLimit => "a crowd takes all of pgvane's descriptors",
            Fault::SlowReaders => "clients that read slowly",
            Fault::Park => "pgvane park and unpark",
            Fault::ParkedSwitchover => "pgvane park, then a switchover",
        }
    }
}

/// A fault with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) fault: Fault,
    /// How long it lasts. Shorter than Patroni's ttl minus loop_wait, so that the leader key does not expire.
    pub(super) lasts: Duration,
    /// Chooses one of the replicas, and other details.
    pub(super) choice: usize,
}

impl Step {
    /// The node of the fault, if it is one node's, in a cluster of so many nodes.
    pub(super) fn node(self, leader: usize, nodes: usize) -> Option<usize> {
        let replicas: Vec<usize> = (0..nodes).filter(|node| *node != leader).collect();
        Some(match self.fault.on()? {
            On::Leader => leader,
            On::Replica => replicas[self.choice % replicas.len()],
        })
    }
}

/// The steps of one seed; there are infinitely many.
#[derive(Debug)]
pub(super) struct Plan {
    rng: Rng,
    all: Vec<Fault>,
    left: Vec<Fault>,
}

impl Plan {
    /// Of these faults, of which there must be one at least.
    pub(super) fn new(seed: u64, all: Vec<Fault>) -> Self {
        Self { rng: Rng::with_seed(seed), all, left: Vec::new() }
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
            self.rng.shuffle(&mut self.left);
        }
        let fault = self.left.pop()?;
        let lasts = Duration::from_millis(self.rng.u64(1_000..8_000));
        Some(Step { fault, lasts, choice: self.rng.usize(..64) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_steps_again_and_each_fault_comes() {
        for kind in [Kind::Chaos, Kind::Soak] {
            let all = kind.faults();
            let steps = |seed| Plan::new(seed, kind.faults()).take(all.len()).collect::<Vec<_>>();
            assert_eq!(steps(1), steps(1));
            assert_ne!(steps(1), steps(2));
            assert!(all.iter().all(|fault| steps(3).iter().any(|step| step.fault == *fault)));
        }
        assert_eq!(Kind::Chaos.faults().len(), 19);
        assert_eq!(Kind::Soak.faults().len(), Fault::value_variants().len());
    }
}
