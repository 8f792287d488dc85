//! Reports and moments for the tests of the pure core.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::host_port::HostPort;
use super::moment::Moment;
use super::node::{Claim, Lsn, Member, Report, SyncStanding};

pub(crate) fn at_ms(ms: u64) -> Moment {
    Moment::after_start(Duration::from_millis(ms))
}

pub(crate) fn report(claim: Claim, timeline: u32) -> Report {
    Report {
        claim,
        holds_lock: matches!(claim, Claim::Leader | Claim::LockHolder | Claim::StandbyLeader),
        state: "running".into(),
        timeline: Some(timeline),
        position: Some(Lsn(1000)),
        received: None,
        replay_delay: None,
        replication_state: (claim == Claim::Replica).then(|| "streaming".into()),
        sync: SyncStanding::Async,
        tags: BTreeMap::new(),
        noloadbalance: false,
        name: None,
        scope: Some("demo".into()),
        system_identifier: Some("7000000000000000001".into()),
        postmaster_start: None,
        server_version: Some(150_008),
        patroni_version: Some("4.1.5".into()),
        paused: false,
        failsafe: false,
        pending_restart: false,
        patroni_error: None,
    }
}

pub(crate) fn leader(timeline: u32) -> Arc<Report> {
    Arc::new(report(Claim::Leader, timeline))
}

pub(crate) fn replica(timeline: u32) -> Arc<Report> {
    Arc::new(report(Claim::Replica, timeline))
}

pub(crate) fn member(name: &str) -> Member {
    let address = HostPort::new(name, 5432).expect("is a host");
    Member::new(name.to_owned(), address, format!("http://{name}:8008"))
}
