//! Parks the write sessions of a cluster: does what [`Park`](crate::routing::Park) says, and keeps the time for it.
//!
//! A park concerns the listeners whose target is the leader: their new clients wait, as without a leader, and each of
//! their sessions is asked to stop between two transactions. A session that registers during a park is asked too: the
//! state of the park changes only while the registry's list is locked.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tracing::{info, warn};

use super::cluster_parking::{CarryLimits, ClusterParking, ParkTotals, is_parkable};
use super::control::SessionControl;
use super::registry::Registry;
use crate::cluster::topology::Topology;
use crate::cluster::{Moment, NodeId};
use crate::config::ClusterIndex;
use crate::probe::ClusterHandle;
use crate::routing::{ParkAction, ParkEvent, ParkOver, ParkSettings, SessionPark, SessionParkEvent};

/// The sessions of a cluster during a park.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ParkCensus {
    /// Nothing is read from their clients.
    pub parked: usize,
    /// They were asked to park and have not ended their transaction, their request or their login.
    pub finishing: usize,
    /// They did not end their transaction within `park_grace`, and go on.
    pub late: usize,
    /// They cannot be parked: client and server encrypt end to end, so that pgvane does not see their transactions.
    pub encrypted: usize,
}

/// A park as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkInfo {
    /// When it was asked for.
    pub since: Moment,
    /// When it ends at the latest, if the same node leads until then, or none does.
    pub ends_at: Moment,
    /// Who has asked for it, and why.
    pub reason: String,
    /// The sessions.
    pub census: ParkCensus,
}

impl Registry {
    /// The park of a cluster.
    pub fn parking(&self, cluster: ClusterIndex) -> &ClusterParking {
        self.parkings.get_or_init(cluster.0, ClusterParking::default)
    }

    /// Asks the write sessions of a cluster to park, for this reason; `leader` leads now. They are carried to another leader
    /// if there are limits for that.
    pub fn park(
        &self,
        cluster: ClusterIndex,
        settings: ParkSettings,
        carry: Option<CarryLimits>,
        reason: &str,
        (leader, now): (Option<NodeId>, Moment),
    ) {
        let parking = self.parking(cluster);
        if parking.why_parked().is_none() {
            reason.clone_into(&mut parking.reason.lock());
            *parking.carry.lock() = carry.map(Arc::new);
        }
        self.take_park_event(cluster, ParkEvent::Asked(settings), leader, now);
        parking.changed.notify_one();
    }

    /// Lets the sessions of a cluster go on. Returns false if they were not parked.
    pub fn unpark(&self, cluster: ClusterIndex, (leader, now): (Option<NodeId>, Moment)) -> bool {
        let action = self.take_park_event(cluster, ParkEvent::Unparked, leader, now);
        self.parking(cluster).changed.notify_one();
        action.is_some()
    }

    /// The park of a cluster, if there is one.
    pub fn park_info(&self, cluster: ClusterIndex) -> Option<ParkInfo> {
        let cluster_parking = self.parkings.get(cluster.0)?;
        let parking = *cluster_parking.park.lock().parking()?;
        let reason = cluster_parking.reason.lock().clone();
        Some(ParkInfo { since: parking.since(), ends_at: parking.ends_at(), reason, census: self.park_census(cluster) })
    }

    /// What became of a cluster's sessions that were asked to park.
    pub fn park_totals(&self, cluster: ClusterIndex) -> ParkTotals {
        self.parkings.get(cluster.0).map(ClusterParking::totals).unwrap_or_default()
    }

    fn park_census(&self, cluster: ClusterIndex) -> ParkCensus {
        let mut census = ParkCensus::default();
        for control in self.controls.lock().values().filter(|control| is_concerned(control, cluster)) {
            match (control.park(), control.is_visible()) {
                (SessionPark::Parked | SessionPark::Carrying, _) => census.parked += 1,
                (_, Some(false)) => census.encrypted += 1,
                (SessionPark::Finishing, _) => census.finishing += 1,
                (SessionPark::Late, _) => census.late += 1,
                (SessionPark::Free | SessionPark::NoLeader | SessionPark::NewLeader, _) => {}
            }
        }
        census
    }

    /// Passes an event to the park of a cluster, and does what follows from it.
    fn take_park_event(
        &self,
        cluster: ClusterIndex,
        event: ParkEvent,
        leader: Option<NodeId>,
        now: Moment,
    ) -> Option<ParkAction> {
        let parking = self.parking(cluster);
        let controls = self.controls.lock();
        let action = parking.park.lock().handle(event, leader, now)?;
        let concerned = controls.values().filter(|control| is_concerned(control, cluster));
        match action {
            ParkAction::Ask => {
                parking.is_parked.send_replace(true);
                concerned.for_each(|control| _ = control.note_park(SessionParkEvent::Asked));
            }
            ParkAction::EndGrace => {
                for control in concerned {
                    let is_late = control.note_park(SessionParkEvent::GraceOver)[1] == SessionPark::Late;
                    let count = if control.is_visible() == Some(false) { &parking.encrypted } else { &parking.late };
                    count.fetch_add(u64::from(is_late), Relaxed);
                }
            }
            ParkAction::End(over) => {
                for control in concerned {
                    let [before, after] = control.note_park(SessionParkEvent::Over(over));
                    let is_let_go = before == SessionPark::Parked && after == SessionPark::Free;
                    parking.let_go.fetch_add(u64::from(is_let_go), Relaxed);
                }
                let reason = ParkOver::LABELS.iter().position(|label| *label == over.label());
                reason.iter().for_each(|reason| _ = parking.parks[*reason].fetch_add(1, Relaxed));
                parking.is_parked.send_replace(false);
            }
        }
        Some(action)
    }
}

fn is_concerned(control: &SessionControl, cluster: ClusterIndex) -> bool {
    control.cluster() == cluster && is_parkable(&control.origin.rule)
}

/// Ends the graces and the parks of a cluster in time, and logs what becomes of them. Runs until it is dropped.
pub async fn keep_time(cluster: ClusterIndex, view: ClusterHandle, registry: Arc<Registry>) {
    let parking = registry.parking(cluster);
    let mut last_leader = None;
    loop {
        let topology = view.topology_full();
        let before = registry.park_info(cluster);
        if let (Some(_), Some(leader)) = (&before, leader_since(&topology)) {
            let has_restarted = last_leader.as_ref().is_some_and(|last| has_restarted(last, &leader));
            last_leader = Some(leader);
            if has_restarted {
                // quicker than it is checked: for a moment it did not lead
                registry.take_park_event(cluster, ParkEvent::Looked, None, view.now());
            }
        } else if before.is_none() {
            last_leader = None;
        }
        let action = registry.take_park_event(cluster, ParkEvent::Looked, topology.leader(), view.now());
        if let (Some(action), Some(before)) = (action, before) {
            log(action, &before, view.name());
        }
        let due = parking.park.lock().parking().map(|parking| parking.due() - view.now());
        match due {
            None => parking.changed.notified().await,
            Some(due) => tokio::select! {
                () = parking.changed.notified() => {}
                () = view.newer_than(topology.generation) => {}
                () = tokio::time::sleep(due) => {}
            },
        }
    }
}

/// The leader, and since when its PostgreSQL has run, as Patroni tells it.
type LeaderSince = (NodeId, Option<String>);

fn leader_since(topology: &Topology) -> Option<LeaderSince> {
    let leader = topology.leader()?;
    let report = topology.node(leader).health.report();
    Some((leader, report.and_then(|report| report.postmaster_start.clone())))
}

/// Whether the same node leads with another postmaster: the sessions on the one before have lost their server.
fn has_restarted((node, since): &LeaderSince, (node_now, since_now): &LeaderSince) -> bool {
    node == node_now && since.is_some() && since_now.is_some() && since != since_now
}

/// Logs what happens to a park by itself. What operators do is logged where they do it.
fn log(action: ParkAction, before: &ParkInfo, cluster: &str) {
    let ParkCensus { parked, finishing, late, encrypted } = before.census;
    match action {
        ParkAction::Ask => {}
        ParkAction::EndGrace => {
            info!(cluster, parked, late = finishing, encrypted, "park_grace is over: the sessions are parked");
        }
        ParkAction::End(ParkOver::NoLeader) => {
            warn!(cluster, parked, late, "no node has led for park_max: the parked sessions are ended");
        }
        ParkAction::End(over) => {
            let reason = over.label();
            info!(cluster, parked, late, reason, "the park is over: the sessions of the leader go on");
        }
    }
}
