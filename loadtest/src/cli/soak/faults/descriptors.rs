//! pgvane without file descriptors: because its limit is lowered, or because clients have taken them all.

use std::time::Duration;

use pgvane_loadtest::bench::usage;
use pgvane_loadtest::{Error, Result};
use rustix::process::{Resource, Rlimit, prlimit};
use tokio::time::sleep;

use super::super::world::{DESCRIPTORS_MAX, World, io_error};
use super::{clients, pid};

/// How many descriptors are left for the crowd: fewer than it has connections.
const LEFT_FOR_CROWD: u64 = 250;
/// Sessions come and go meanwhile.
const NEARLY: u64 = 40;

/// Lowers pgvane's limit so that it cannot open anything until it closes something.
pub(super) async fn none_left(world: &World, lasts: Duration) -> Result<()> {
    let process = world.pgvane.newest_process_id();
    // The kernel gives the lowest free number to what is opened, and the limit is for these numbers.
    let open = usage::open_descriptors(process)?;
    let lowest_free = (0..).find(|number| !open.contains(number)).unwrap_or_default();
    limit(process, lowest_free)?;
    sleep(lasts).await;
    limit(process, DESCRIPTORS_MAX.into())
}

/// A crowd opens connections until pgvane has no descriptors for more, and stays.
pub(super) async fn crowd_to_the_limit(world: &World, size: usize, lasts: Duration) -> Result<()> {
    let process = world.pgvane.newest_process_id();
    let open = usage::open_descriptors(process)?;
    let max = open.iter().max().copied().unwrap_or_default() + LEFT_FOR_CROWD;
    limit(process, max)?;
    let write = world.ports().write.address;
    let connections = clients::connect_many(world.second_client(), write, size, b"\0").await;
    sleep(lasts).await;
    let used = usage::descriptors(process);
    limit(process, DESCRIPTORS_MAX.into())?;
    drop(connections?);
    let used = used?;
    match u64::try_from(used).unwrap_or_default() + NEARLY >= max {
        true => Ok(()),
        false => Err(Error::Missing { program: format!("a crowd to the limit: {used} of {max} descriptors are used") }),
    }
}

fn limit(process: u32, current: u64) -> Result<()> {
    let limits = Rlimit { current: Some(current), maximum: Some(DESCRIPTORS_MAX.into()) };
    prlimit(Some(pid(process)), Resource::Nofile, limits)
        .map_err(|error| io_error("changing pgvane's limit of descriptors", error.into()))
        .map(drop)
}
