//! Causes one fault: in the cluster, in the network, in pgvane, or by clients of its ports.

mod clients;
mod descriptors;
mod operations;

use std::time::{Duration, Instant};

use pgvane_loadtest::lab::{Frozen, Lab, Switchover};
use pgvane_loadtest::name_server::Behaviour;
use pgvane_loadtest::namespace::Cut;
use pgvane_loadtest::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use super::load::Load;
use super::plan::{Fault, On, Step};
use super::world::{World, io_error};

/// After a crash, Patroni's ttl of 20 s has to pass, and a busy machine needs more.
const NEW_LEADER_WITHIN: Duration = Duration::from_secs(120);
const PATRONI_ENDS_WITHIN: Duration = Duration::from_secs(60);
const SERVED_WITHIN: Duration = Duration::from_secs(60);
const RELOADS_EVERY: Duration = Duration::from_millis(500);
/// Patroni's ttl in a lab, and some more.
const LONGER_THAN_TTL: Duration = Duration::from_secs(25);
/// pgvane asks for a name again when its answer is a second old, and takes an answer as missing after three.
const NAMES_ARE_OLD: Duration = Duration::from_secs(5);
/// pgvane uses the addresses of a name that has none any more for 30 seconds.
const ADDRESSES_ARE_KEPT: Duration = Duration::from_secs(20);

/// Whether the fault happened.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    /// Patroni has refused it, for this reason. The cluster has to continue as before.
    Refused(String),
}

/// What a fault is caused in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) world: &'a World,
    pub(super) load: &'a Load,
    /// The node that leads.
    pub(super) leader: usize,
}

/// Causes the fault and ends it: a stopped process continues, a killed node starts again.
pub(super) async fn inflict(step: Step, target: Target<'_>) -> Result<Outcome> {
    let lab = &target.world.lab;
    match step.fault {
        Fault::Switchover => return switchover(lab).await,
        Fault::ParkedSwitchover => {
            let parked = operations::park(target.world).await;
            let outcome = switchover(lab).await?;
            // If Patroni has refused, they go on; after a switchover the park is over already.
            target.world.operator(&["unpark"]).await?;
            return parked.map(|()| outcome);
        }
        fault if fault.is_borne_by_pgvane() || fault.takes_descriptors() || fault == Fault::Reload => {
            inflict_on_pgvane(step, target).await?;
        }
        fault if fault.is_partition() => cut_off(step, target).await?,
        Fault::FreezePgvane => {
            signal(target.world, Signal::STOP)?;
            sleep(step.lasts).await;
            signal(target.world, Signal::CONT)?;
        }
        _ => inflict_on_cluster(step, lab, target.leader).await?,
    }
    Ok(Outcome::Done)
}

async fn switchover(lab: &Lab) -> Result<Outcome> {
    Ok(match lab.ask_for_switchover().await? {
        Switchover::To(_) => Outcome::Done,
        Switchover::Refused(reason) => Outcome::Refused(reason),
    })
}

async fn inflict_on_cluster(step: Step, lab: &Lab, leader: usize) -> Result<()> {
    let node = step.node(leader, lab.nodes().len()).unwrap_or(leader);
    match step.fault {
        Fault::KillLeader => kill_node(lab, node, On::Leader, step.lasts).await,
        Fault::KillReplica => kill_node(lab, node, On::Replica, step.lasts).await,
        Fault::FreezeLeadersPatroni | Fault::FreezeReplicasPatroni => {
            lab.freeze_patroni(node)?;
            sleep(step.lasts).await;
            lab.thaw_patroni(node)
        }
        Fault::FreezeLeadersPostmaster | Fault::FreezeReplicasPostmaster => {
            freeze_postgres(lab, node, Frozen::Postmaster, step.lasts).await
        }
        Fault::FreezeLeadersPostgres | Fault::FreezeReplicasPostgres => {
            freeze_postgres(lab, node, Frozen::Everything, step.lasts).await
        }
        Fault::KillPatroni => {
            lab.kill_patroni(node);
            sleep(step.lasts / 2).await;
            lab.start_node(node)
        }
        Fault::RestartPatroniInPause => {
            lab.pause().await?;
            lab.terminate_patroni(node, PATRONI_ENDS_WITHIN).await?;
            sleep(step.lasts).await;
            lab.start_node(node)?;
            lab.wait_for_leader(NEW_LEADER_WITHIN).await?;
            lab.resume().await
        }
        Fault::StopEtcd => stop_etcd(lab, step.lasts).await,
        Fault::LoseEtcd => stop_etcd(lab, LONGER_THAN_TTL + step.lasts).await,
        other => unreachable!("{other:?} is no fault of the cluster"),
    }
}

async fn kill_node(lab: &Lab, node: usize, on: On, lasts: Duration) -> Result<()> {
    lab.kill_node(node)?;
    match on {
        On::Leader => lab.wait_for_leader_other_than(node, NEW_LEADER_WITHIN).await.map(drop)?,
        On::Replica => sleep(lasts).await,
    }
    lab.start_node(node)
}

async fn freeze_postgres(lab: &Lab, node: usize, what: Frozen, lasts: Duration) -> Result<()> {
    lab.freeze_postgres(node, what)?;
    sleep(lasts).await;
    lab.thaw_postgres(node);
    Ok(())
}

async fn stop_etcd(lab: &Lab, lasts: Duration) -> Result<()> {
    lab.stop_dcs();
    sleep(lasts).await;
    lab.start_dcs().await
}

async fn cut_off(step: Step, target: Target<'_>) -> Result<()> {
    let (lab, namespace) = (&target.world.lab, &target.world.network()?.namespace);
    let cut = if step.fault.resets().is_some() { Cut::Loud } else { Cut::Silent };
    let one = step.node(target.leader, lab.nodes().len());
    for (_, node) in lab.nodes().iter().enumerate().filter(|(node, _)| one.is_none_or(|one| one == *node)) {
        namespace.cut_off(node, cut)?;
    }
    sleep(step.lasts).await;
    namespace.heal()
}

async fn inflict_on_pgvane(step: Step, target: Target<'_>) -> Result<()> {
    let Target { world, .. } = target;
    let connections = step.fault.connections();
    let write = world.ports().write;
    match step.fault {
        Fault::Reload => reload_often(world, step.lasts).await,
        Fault::NoDescriptors => descriptors::none_left(world, step.lasts).await,
        Fault::CrowdToTheLimit => descriptors::crowd_to_the_limit(world, connections, step.lasts).await,
        Fault::ReadOnlyErrors => clients::read_only_writers(write, connections, step.lasts).await,
        Fault::SilentAdminConnections => {
            let from = world.second_client();
            clients::crowd(from, world.pgvane.admin_addr, connections, b"", step.lasts).await
        }
        Fault::OneByteConnections => {
            clients::crowd(world.second_client(), write.address, connections, b"\0", step.lasts).await
        }
        Fault::NonReadingClients => clients::non_reading_clients(write, connections, step.lasts).await,
        Fault::SlowReaders => clients::slow_readers(write, connections, step.lasts).await,
        Fault::ReloadWeights => operations::reload_weights(world, step).await,
        Fault::ReloadLimits => operations::reload_limits(world, step).await,
        Fault::ReloadNodes => operations::reload_nodes(target, step).await,
        Fault::ReloadCertificates => operations::reload_certificates(world).await,
        Fault::ReloadFaultyFile => operations::reload_faulty_file(world).await,
        Fault::Upgrade => operations::upgrade(world).await,
        Fault::UpgradeBySignal => operations::upgrades_by_signal(world, 1 + step.choice % 3).await,
        Fault::UpgradeWithCrowd => operations::upgrade_with_crowd(world, connections).await,
        Fault::UpgradeThatFails => operations::upgrade_that_fails(world).await,
        Fault::SilentNameServer => name_server(target, Behaviour::Silent, step.lasts).await,
        Fault::FailingNameServer => name_server(target, Behaviour::Fails, step.lasts).await,
        Fault::EmptyNameServer => name_server(target, Behaviour::Empty, step.lasts).await,
        Fault::Park => {
            let parked = operations::park(world).await;
            sleep(step.lasts / 2).await;
            world.ordered(&["unpark"]).await?;
            parked
        }
        other => unreachable!("{other:?} is no fault of pgvane's neighbours"),
    }
}

async fn reload_often(world: &World, lasts: Duration) -> Result<()> {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        world.pgvane.reload()?;
        sleep(RELOADS_EVERY).await;
    }
    Ok(())
}

/// Everything must be served meanwhile: pgvane knows the last addresses.
async fn name_server(target: Target<'_>, behaviour: Behaviour, lasts: Duration) -> Result<()> {
    let names = &target.world.network()?.names;
    let questions = names.questions();
    names.behave(behaviour);
    let served = async {
        sleep(NAMES_ARE_OLD + lasts).await;
        target.load.is_served(&target.world.lab, SERVED_WITHIN).await
    };
    let served = match behaviour {
        Behaviour::Empty => timeout(ADDRESSES_ARE_KEPT, served).await.unwrap_or(Ok(())), // it is checked after the step too
        Behaviour::Answers | Behaviour::Silent | Behaviour::Fails => served.await,
    };
    names.behave(Behaviour::Answers);
    served?;
    match names.questions() > questions {
        true => Ok(()),
        false => Err(Error::Missing { program: "questions to the name server: pgvane has sent none".to_owned() }),
    }
}

/// To all its processes.
fn signal(world: &World, signal: Signal) -> Result<()> {
    for process in world.pgvane.processes().ids() {
        kill_process(pid(process), signal).map_err(|error| io_error("sending a signal to pgvane", error.into()))?;
    }
    Ok(())
}

fn pid(process: u32) -> Pid {
    i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process id is a positive i32")
}
