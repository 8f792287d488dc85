//! `pgvane status`: prints the nodes and listeners of a running pgvane as tables.

use super::admin_api::CliError;
use super::running::Asked;
use crate::admin::status::{Cluster, Lead, Node, Status};
use crate::config::size_text;

/// Prints the tables, or with `--json` more details.
pub(super) async fn show(asked: &Asked) -> Result<(), CliError> {
    let answer = asked.api()?.get(&["api", "status"]).await?;
    asked.print(&answer, |answer| {
        let status = serde_json::from_str(answer).map_err(|error| CliError::Unreadable(error.to_string()))?;
        Ok(tables(&status))
    })
}

fn tables(status: &Status) -> String {
    let mut text = String::new();
    if status.is_stopping {
        text.push_str("stopping: new connections are not accepted\n\n");
    }
    if let Some(before) = &status.predecessor {
        let (version, sessions) = (&before.version, before.sessions);
        text.push_str(&format!("upgraded: the process before (version {version}) still has {sessions} sessions\n\n"));
    }
    for name in &status.unresolved_names {
        text.push_str(&format!("cannot resolve {name}\n\n"));
    }
    for cluster in &status.clusters {
        text.push_str(&nodes(cluster));
        text.push('\n');
    }
    let mut rows = vec![["LISTENER", "ADDRESS", "ROUTES TO", "SESSIONS", "HELD"].map(str::to_owned)];
    rows.extend(status.listeners.iter().map(|listener| {
        [
            listener.name.clone(),
            listener.bind.clone(),
            match &listener.fallback {
                Some(leader) => format!("{leader}, no {} can serve", listener.target),
                None => format!("{} of {}", listener.target, listener.cluster),
            },
            format!("{} of {}", listener.sessions, listener.sessions_max),
            listener.held.to_string(),
        ]
    }));
    text + &aligned(&rows)
}

fn nodes(cluster: &Cluster) -> String {
    let mut rows =
        vec![["NODE", "ROLE", "STATE", "CHECK", "TIMELINE", "LAG", "SESSIONS", "ADDRESS"].map(str::to_owned)];
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    rows.extend(cluster.nodes.iter().map(|node| {
        [
            node.name.clone(),
            node.role.clone(),
            node.state.clone(),
            check(node),
            or_dash(node.timeline.map(|timeline| timeline.to_string())),
            or_dash(node.lag_bytes.map(size_text)),
            node.sessions.to_string(),
            node.address.clone(),
        ]
    }));
    let headline = match (&cluster.writes_wait, &cluster.leader) {
        (Some(why), _) => format!("writes wait: {why}"),
        (None, Some(leader)) if matches!(cluster.lead, Lead::Led | Lead::Doubted) => format!("{leader} is the leader"),
        (None, _) => cluster.headline.clone(),
    };
    let left = cluster
        .nodes
        .iter()
        .flat_map(|node| node.left.iter().map(|session| format!("left on {}: {session}\n", node.name)));
    let park = cluster.park.as_ref().map(|park| format!("{park}\n")).unwrap_or_default();
    format!("cluster {}: {headline}\n{park}{}{}", cluster.name, aligned(&rows), left.collect::<String>())
}

/// Whether the node answers its checks, and if not, for how long and why.
fn check(node: &Node) -> String {
    match (node.silent_seconds, &node.check_error) {
        (Some(silent), Some(error)) => format!("{} for {silent:.0} s: {error}", node.health),
        (None, Some(error)) => node.health_because(error),
        (_, None) => node.health.clone(),
    }
}

/// Makes each column as wide as its longest text, with two spaces between columns.
pub(super) fn aligned(rows: &[impl AsRef<[String]>]) -> String {
    let columns = rows.first().map_or(0, |row| row.as_ref().len());
    let width = |column: usize| rows.iter().map(|row| row.as_ref()[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(|row| line(row.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::{Listener, UnresolvedName};

    #[test]
    fn a_node_that_cannot_be_reached_is_called_unreachable_once() {
        let never = |error: &str| Node {
            health: "unreachable".to_owned(),
            check_error: Some(error.to_owned()),
            ..Node::default()
        };
        assert_eq!(check(&never("no answer in time")), "unreachable: no answer in time");
        assert_eq!(check(&never("unreachable: no route to host")), "unreachable: no route to host");
    }

    #[test]
    fn the_tables_line_up_and_say_why_writes_wait_and_who_is_silent() {
        let node = |name: &str, role: &str, state: &str, lag_bytes| Node {
            name: name.to_owned(),
            address: "10.0.0.1:5432".to_owned(),
            role: role.to_owned(),
            health: "up".to_owned(),
            state: state.to_owned(),
            timeline: Some(7),
            lag_bytes,
            sessions: 12,
            ..Node::default()
        };
        let silent = Node {
            health: "silent".to_owned(),
            silent_seconds: Some(13.2),
            check_error: Some("connection refused".to_owned()),
            ..node("other", "replica", "ready", Some(65_536))
        };
        let status = Status {
            unresolved_names: vec![UnresolvedName {
                name: "pg1".to_owned(),
                reason: "its name cannot be resolved: Temporary failure in name resolution".to_owned(),
                seconds: 70,
                addresses: vec![[10, 0, 0, 1].into()],
            }],
            clusters: vec![Cluster {
                name: "main".to_owned(),
                leader: Some("node1".to_owned()),
                writes_wait: Some("node1 is the leader and is drained by an operator".to_owned()),
                nodes: vec![node("node1", "leader", "drain", None), silent],
                ..Cluster::default()
            }],
            listeners: vec![Listener {
                name: "write".to_owned(),
                bind: "0.0.0.0:6432".to_owned(),
                cluster: "main".to_owned(),
                target: "leader".to_owned(),
                sessions: 3,
                sessions_max: 100,
                held: 2,
                ..Listener::default()
            }],
            ..Status::default()
        };
        let expected = "\
cannot resolve pg1: its name cannot be resolved: Temporary failure in name resolution, for 70 s; \
the last known addresses are used: 10.0.0.1

cluster main: writes wait: node1 is the leader and is drained by an operator
NODE   ROLE     STATE  CHECK                                TIMELINE  LAG      SESSIONS  ADDRESS
node1  leader   drain  up                                   7         -        12        10.0.0.1:5432
other  replica  ready  silent for 13 s: connection refused  7         64.0 kB  12        10.0.0.1:5432

LISTENER  ADDRESS       ROUTES TO       SESSIONS  HELD
write     0.0.0.0:6432  leader of main  3 of 100  2
";
        assert_eq!(tables(&status), expected);
    }
}
