//! `pgvane drain`, `maint` and `ready`: set the administrative state of a node. `pgvane weight`: sets its weight.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::admin_api::{AdminApi, AdminUrl, CliError, Identity};
use crate::admin::status::Node;
use crate::cluster::AdminState;
use crate::config::duration;

/// How often `--wait` reads the number of sessions on the node.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The node, and the user who changes its state.
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// Name of the node, as on the stats page
    node: String,
    /// Its cluster; needed if several clusters have a node of this name
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    admin_url: AdminUrl,
    #[command(flatten)]
    identity: Identity,
}

/// The same for `drain` and `maint`.
#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    target: NodeArgs,
    /// Do it also if the node is the leader: its write sessions are closed, and new ones wait for another leader, at
    /// most for hold_max
    #[arg(long)]
    leader: bool,
    /// Wait until the node has no sessions, and fail if it still has some after this time, for example 60s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    wait: Option<Duration>,
}

/// The same for `weight`.
#[derive(Debug, Args)]
pub(super) struct WeightArgs {
    #[command(flatten)]
    target: NodeArgs,
    /// 1 to 10000, relative to the weights of the other nodes; or "configured" for the weight in the configuration
    weight: String,
}

/// Sets the weight.
pub(super) async fn weight(args: &WeightArgs) -> Result<(), CliError> {
    let api = AdminApi::at(&args.target.admin_url, Some(&args.target.identity))?.for_changes()?;
    let (cluster, node) = find(&api, &args.target.node, args.target.cluster.as_deref()).await?;
    api.post(&["api", "nodes", &cluster, &node.name, "weight"], None, &args.weight).await?;
    let (_, now) = find(&api, &node.name, Some(&cluster)).await?;
    println!("{}: weight {} (was {}, configured {})", node.name, now.weight, node.weight, now.weight_configured);
    Ok(())
}

/// Sets the state `ready`.
pub(super) async fn ready(target: &NodeArgs) -> Result<(), CliError> {
    target.set_state(AdminState::Ready, None).await.map(drop)
}

/// Sets `state`, which is `drain` or `maint`, and waits for the end of the sessions if `--wait` is given.
pub(super) async fn drain(args: &DrainArgs, state: AdminState) -> Result<(), CliError> {
    let (api, cluster) = args.target.set_state(state, args.leader.then_some("leader=yes")).await?;
    let Some(time) = args.wait else { return Ok(()) };
    let (name, deadline) = (&args.target.node, Instant::now() + time);
    loop {
        let (_, node) = find(&api, name, Some(&cluster)).await?;
        if node.sessions == 0 {
            println!("{name} has no sessions");
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(CliError::SessionsLeft(name.clone(), node.sessions, node.left));
        }
        sleep(POLL_INTERVAL).await;
    }
}

impl NodeArgs {
    /// Sets the state. Returns the API client, and the name of the node's cluster.
    async fn set_state(&self, state: AdminState, query: Option<&str>) -> Result<(AdminApi, String), CliError> {
        let api = AdminApi::at(&self.admin_url, Some(&self.identity))?.for_changes()?;
        let (cluster, node) = find(&api, &self.node, self.cluster.as_deref()).await?;
        let path = ["api", "nodes", &cluster, &node.name, "state"];
        api.post(&path, query, state.label()).await?;
        println!("{}: {} (was {}), {} sessions", node.name, state.label(), node.state, node.sessions);
        Ok((api, cluster))
    }
}

/// Finds the node of this name. Returns its cluster's name too.
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
