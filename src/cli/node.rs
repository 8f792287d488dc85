//! `pgvane drain`, `maint` and `ready`: set the administrative state of a node. `pgvane weight`: sets its weight.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::admin_api::{AdminApi, CliError};
use super::running::{Asked, print};
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
    asked: Asked,
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
    let api = args.target.asked.api_for_changes()?;
    let (cluster, node) = find(&api, &args.target.node, args.target.cluster.as_deref()).await?;
    let answer = api.post(&["api", "nodes", &cluster, &node.name, "weight"], None, &args.weight).await?;
    let (_, now) = find(&api, &node.name, Some(&cluster)).await?;
    let Node { name, weight, weight_configured, .. } = now;
    args.target.asked.print(&answer, |_| {
        Ok(format!("{name}: weight {weight} (was {}, configured {weight_configured})\n", node.weight))
    })
}

/// Sets the state `ready`.
pub(super) async fn ready(target: &NodeArgs) -> Result<(), CliError> {
    target.set_state(AdminState::Ready, None).await?.print(target, None)
}

/// Sets `state`, which is `drain` or `maint`, and waits for the end of the sessions if `--wait` is given.
pub(super) async fn drain(args: &DrainArgs, state: AdminState) -> Result<(), CliError> {
    let change = args.target.set_state(state, args.leader.then_some("leader=yes")).await?;
    let Some(time) = args.wait else { return change.print(&args.target, None) };
    if !args.target.asked.json {
        change.print(&args.target, None)?; // at once: the wait can be long
    }
    let (name, deadline) = (&args.target.node, Instant::now() + time);
    loop {
        let (_, node) = find(&change.api, name, Some(&change.cluster)).await?;
        let is_over = node.sessions == 0 || Instant::now() >= deadline;
        if is_over && args.target.asked.json {
            change.print(&args.target, Some(node.sessions))?;
        }
        match node.sessions {
            0 if args.target.asked.json => return Ok(()),
            0 => {
                print(&format!("{name} has no sessions\n"));
                return Ok(());
            }
            left if is_over => return Err(CliError::SessionsLeft(name.clone(), left, node.left)),
            _ => sleep(POLL_INTERVAL).await,
        }
    }
}

/// A state that has been set.
struct StateChange {
    api: AdminApi,
    cluster: String,
    /// The node as it was before.
    node: Node,
    state: AdminState,
    /// The answer of the API.
    answer: String,
}

impl StateChange {
    /// Prints it, with the number of sessions now, or that before the change.
    fn print(&self, target: &NodeArgs, sessions: Option<u32>) -> Result<(), CliError> {
        let Node { name, state: was, sessions: before, .. } = &self.node;
        let sessions = sessions.unwrap_or(*before);
        if target.asked.json {
            let mut answer: serde_json::Value =
                serde_json::from_str(&self.answer).map_err(|error| CliError::Unreadable(error.to_string()))?;
            answer["sessions"] = sessions.into();
            print(&format!("{answer:#}\n"));
        } else {
            print(&format!("{name}: {} (was {was}), {sessions} sessions\n", self.state.label()));
        }
        Ok(())
    }
}

impl NodeArgs {
    async fn set_state(&self, state: AdminState, query: Option<&str>) -> Result<StateChange, CliError> {
        let api = self.asked.api_for_changes()?;
        let (cluster, node) = find(&api, &self.node, self.cluster.as_deref()).await?;
        let answer = api.post(&["api", "nodes", &cluster, &node.name, "state"], query, state.label()).await?;
        Ok(StateChange { api, cluster, node, state, answer })
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
