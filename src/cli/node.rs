//! `pgvane drain`, `maint` and `ready`: what is to become of a node.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::admin_api::{AdminApi, AdminUrl, CliError, Identity};
use crate::admin::status::Node;
use crate::cluster::AdminState;
use crate::config::duration;

/// Time between two looks at the sessions that are left.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Which node is meant, and who says so.
#[derive(Debug, Args)]
pub(super) struct Order {
    /// The node, by its name on the stats page
    node: String,
    /// Its cluster; needed if several have a node of this name
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    admin_url: AdminUrl,
    #[command(flatten)]
    identity: Identity,
}

/// The same for a node that is to be taken out of service.
#[derive(Debug, Args)]
pub(super) struct Leave {
    #[command(flatten)]
    order: Order,
    /// Though the node leads: its writers are ended, and new ones wait for another leader, for hold_max at the most
    #[arg(long)]
    leader: bool,
    /// Wait until no session is left on the node, and fail if some are after this time, such as 60s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    wait: Option<Duration>,
}

/// Gives the node back its sessions.
pub(super) async fn ready(order: &Order) -> Result<(), CliError> {
    order.give(AdminState::Ready, None).await.map(drop)
}

/// Takes the node out of service, by this state.
pub(super) async fn leave(leave: &Leave, state: AdminState) -> Result<(), CliError> {
    let (api, cluster) = leave.order.give(state, leave.leader.then_some("leader=yes")).await?;
    let Some(patience) = leave.wait else { return Ok(()) };
    let (name, deadline) = (&leave.order.node, Instant::now() + patience);
    loop {
        let (_, node) = find(&api, name, Some(&cluster)).await?;
        if node.sessions == 0 {
            println!("{name}: no session is left");
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(CliError::SessionsLeft(name.clone(), node.sessions));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

impl Order {
    /// Gives the order. Returns to whom, and in which cluster the node is.
    async fn give(&self, state: AdminState, query: Option<&str>) -> Result<(AdminApi, String), CliError> {
        let api = AdminApi::at(&self.admin_url)?;
        let (cluster, node) = find(&api, &self.node, self.cluster.as_deref()).await?;
        let path = ["api", "nodes", &cluster, &node.name, "state"];
        api.post(&path, query, state.label(), &self.identity).await?;
        println!("{}: {} (was {}), {} sessions", node.name, state.label(), node.state, node.sessions);
        Ok((api, cluster))
    }
}

/// The node of this name, and its cluster's name.
async fn find(api: &AdminApi, name: &str, cluster: Option<&str>) -> Result<(String, Node), CliError> {
    let clusters =
        api.status().await?.clusters.into_iter().filter(|one| cluster.is_none_or(|wanted| one.name == wanted));
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for cluster in clusters {
        for node in cluster.nodes {
            if node.name == name {
                found.push((cluster.name.clone(), node));
            } else {
                others.push(node.name);
            }
        }
    }
    match found.len() {
        0 => Err(CliError::UnknownNode(name.to_owned(), others)),
        1 => Ok(found.remove(0)),
        _ => Err(CliError::AmbiguousNode(name.to_owned(), found.into_iter().map(|(cluster, _)| cluster).collect())),
    }
}
