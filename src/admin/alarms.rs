//! What is wrong now, and what to do about it. The texts contain no running times, so that a screen reader reads each
//! alarm once.

use super::status::{Alarm, Cluster, Lead, Listener, Node, Severity, Status};

/// A listener is almost full from this share of `sessions_max` on, in percent.
const ALMOST_FULL: usize = 90;

/// All alarms, critical ones first.
pub(super) fn of(status: &Status) -> Vec<Alarm> {
    let mut alarms: Vec<Alarm> = status.clusters.iter().flat_map(of_cluster).collect();
    alarms.extend(status.listeners.iter().flat_map(of_listener));
    alarms.extend(status.unresolved_names.iter().map(|name| {
        warning(
            &name.name,
            name.reason.clone(),
            "Check DNS on pgvane's host (getent hosts NAME). The last known addresses are used meanwhile.",
        )
    }));
    alarms.extend(status.reload.refused.iter().map(|refused| {
        warning(
            "configuration",
            format!("the changed configuration was not accepted ({})", refused.by),
            "pgvane goes on with the old one. Correct the file, see below for its faults, and reload again.",
        )
    }));
    alarms.sort_by_key(|alarm| alarm.severity); // stable
    alarms
}

fn critical(subject: &str, what: impl Into<String>, what_to_do: impl Into<String>) -> Alarm {
    Alarm {
        severity: Severity::Critical,
        subject: subject.to_owned(),
        what: what.into(),
        what_to_do: what_to_do.into(),
    }
}

fn warning(subject: &str, what: impl Into<String>, what_to_do: impl Into<String>) -> Alarm {
    Alarm { severity: Severity::Warning, ..critical(subject, what, what_to_do) }
}

fn of_cluster(cluster: &Cluster) -> Vec<Alarm> {
    let mut alarms: Vec<Alarm> = of_lead(cluster).into_iter().collect();
    if let Some(park) = &cluster.park {
        alarms.push(warning(
            &cluster.name,
            format!("the write sessions are parked ({}): their clients and new clients wait", park.reason),
            "This is right in a planned switchover or restart. To let the sessions go on: pgvane unpark.",
        ));
    }
    alarms.extend(cluster.nodes.iter().flat_map(|node| of_node(cluster, node)));
    alarms.extend(
        cluster.notes.iter().map(|note| {
            warning(&cluster.name, note.clone(), "Look at patronictl list; patronictl resume ends a pause.")
        }),
    );
    alarms
}

fn of_lead(cluster: &Cluster) -> Option<Alarm> {
    let why = cluster.writes_wait.clone().unwrap_or_default();
    let leader = cluster.leader.clone().unwrap_or_default();
    Some(match cluster.lead {
        Lead::Led | Lead::Doubted => return None,
        Lead::Contested => critical(
            &cluster.name,
            format!("split brain: {why}; writes are held"),
            "Run patronictl list: which node holds the leader lock? Save what only the other node has, stop its \
             PostgreSQL and reinitialise it (patronictl reinit). Clients that do not use pgvane may write to it now.",
        ),
        Lead::Vacant => critical(
            &cluster.name,
            format!("no leader: {why}; writes wait for hold_max and are then refused"),
            "Run patronictl list. If Patroni shows a leader, pgvane cannot reach its REST API: check network, firewall \
             and the node's patroni URL. If not: is the DCS available (etcdctl endpoint health), is Patroni paused?",
        ),
        Lead::Silent => critical(
            &cluster.name,
            format!("{leader} is the leader and does not answer its checks"),
            format!(
                "If {leader} is down, Patroni promotes another node within its ttl. If it is up, check its Patroni and \
                 the network between it and pgvane: after leader_grace pgvane sends it no new writes."
            ),
        ),
        Lead::OutOfService => critical(
            &cluster.name,
            format!("{why}: new writes wait for another leader"),
            format!("Let another node lead (patronictl switchover), or set {leader} to ready."),
        ),
    })
}

fn of_node(cluster: &Cluster, node: &Node) -> Vec<Alarm> {
    let subject = format!("{}/{}", cluster.name, node.name);
    let mut alarms = Vec::new();
    let is_lead_silent = node.is_leader && cluster.lead == Lead::Silent; // told already
    if matches!(node.health.as_str(), "silent" | "unreachable") && node.state != "maint" && !is_lead_silent {
        let error = node.check_error.as_deref().unwrap_or("no answer");
        alarms.push(warning(
            &subject,
            format!("does not answer its checks: {error}"),
            "Is the host up, and does its Patroni run (systemctl status patroni)? If it is to be down, set it to maint.",
        ));
    }
    if node.role == "out-of-service" && node.health == "up" && node.state != "maint" {
        let state = node.postgresql.as_deref().unwrap_or("not running");
        let what_to_do = "Look at patronictl list, and read the logs of Patroni and PostgreSQL on the node.";
        alarms.push(warning(&subject, format!("serves no clients: its PostgreSQL is {state}"), what_to_do));
    }
    if let Some(why) = &node.foreign {
        let what_to_do = "Its address belongs to a node of another cluster: correct the address or the scope.";
        alarms.push(warning(&subject, format!("its answers are not accepted: {why}"), what_to_do));
    }
    for port in &node.ports {
        if let Some(why) = &port.failure {
            let on_port = port.port.map(|port| format!(" on port {port}")).unwrap_or_default();
            alarms.push(warning(
                &subject,
                format!("clients get no session{on_port}: {why}"),
                "Its checks may be answered and its PostgreSQL or pooler not be reachable: try psql from pgvane's host.",
            ));
        }
    }
    if let Some(error) = node.patroni_error.as_ref().filter(|_| node.health == "up") {
        let what_to_do = "PostgreSQL serves. Patroni does not, so there may be no failover: start it again.";
        alarms.push(warning(&subject, format!("only PostgreSQL answers; Patroni: {error}"), what_to_do));
    }
    alarms
}

fn of_listener(listener: &Listener) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let Listener { name, sessions, sessions_max, .. } = listener;
    if *sessions_max > 0 && sessions >= sessions_max {
        let what = format!("has reached sessions_max ({sessions_max}): new clients are refused");
        alarms.push(critical(name, what, "Find who has the sessions (page “sessions”), or raise sessions_max."));
    } else if *sessions_max > 0 && sessions * 100 >= sessions_max * ALMOST_FULL {
        let what = format!("has more than {ALMOST_FULL} % of its sessions_max ({sessions_max})");
        alarms.push(warning(name, what, "Find who has the sessions (page “sessions”), or raise sessions_max."));
    }
    if listener.held_max > 0 && listener.held >= listener.held_max {
        let what = format!("has reached hold_sessions_max ({}): new clients are refused", listener.held_max);
        alarms.push(critical(name, what, "No node can serve these clients: see the alarms of the cluster."));
    }
    if let Some(leader) = &listener.fallback {
        let what = format!("no {} can serve: new sessions go to the leader, {leader}", listener.target);
        alarms.push(warning(
            name,
            what,
            "See the remarks of the replicas: silent, lagging, drained, or of another role.",
        ));
    }
    alarms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::NodePort;

    fn led() -> Cluster {
        let node = |name: &str, is_leader| Node {
            name: name.to_owned(),
            health: "up".to_owned(),
            state: "ready".to_owned(),
            is_leader,
            ports: vec![NodePort::default()],
            ..Node::default()
        };
        Cluster {
            name: "main".to_owned(),
            leader: Some("node1".to_owned()),
            lead: Lead::Led,
            nodes: vec![node("node1", true), node("node2", false)],
            ..Cluster::default()
        }
    }

    fn alarms(cluster: Cluster, listener: Listener) -> Vec<(Severity, String)> {
        let status = Status { clusters: vec![cluster], listeners: vec![listener], ..Status::default() };
        let alarms = of(&status);
        assert!(alarms.iter().all(|alarm| !alarm.what_to_do.is_empty()), "every alarm says what to do");
        alarms.into_iter().map(|alarm| (alarm.severity, format!("{}: {}", alarm.subject, alarm.what))).collect()
    }

    #[test]
    fn a_calm_cluster_has_no_alarm() {
        let listener = Listener { sessions: 10, sessions_max: 100, held_max: 50, ..Listener::default() };
        assert_eq!(alarms(led(), listener), []);
    }

    #[test]
    fn every_state_of_the_lead_that_holds_writes_is_critical() {
        for (lead, words) in [
            (Lead::Contested, "split brain"),
            (Lead::Vacant, "no leader"),
            (Lead::Silent, "node1 is the leader and does not answer"),
            (Lead::OutOfService, "new writes wait for another leader"),
        ] {
            let seen = alarms(Cluster { lead, ..led() }, Listener::default());
            assert!(seen[0].0 == Severity::Critical && seen[0].1.contains(words), "{seen:?}");
        }
    }

    #[test]
    fn a_silent_node_is_a_warning_unless_it_is_in_maintenance_and_a_silent_leader_is_told_once() {
        let silent = |node: &Node| Node { health: "silent".to_owned(), ..node.clone() };
        let mut cluster = led();
        cluster.nodes[1] = silent(&cluster.nodes[1]);
        assert_eq!(
            alarms(cluster.clone(), Listener::default()),
            [(Severity::Warning, "main/node2: does not answer its checks: no answer".to_owned())]
        );
        cluster.nodes[1].state = "maint".to_owned();
        assert_eq!(alarms(cluster.clone(), Listener::default()), []);
        cluster.nodes[0] = silent(&cluster.nodes[0]);
        assert_eq!(alarms(Cluster { lead: Lead::Silent, ..cluster }, Listener::default()).len(), 1);
    }

    #[test]
    fn full_listeners_come_before_warnings() {
        let almost = Listener { name: "read".to_owned(), sessions: 90, sessions_max: 100, ..Listener::default() };
        assert_eq!(alarms(led(), almost.clone())[0].0, Severity::Warning);
        let mut cluster = led();
        cluster.nodes[1].health = "silent".to_owned();
        let seen = alarms(cluster, Listener { sessions: 100, ..almost });
        assert_eq!(
            seen.iter().map(|(severity, _)| *severity).collect::<Vec<_>>(),
            [Severity::Critical, Severity::Warning]
        );
    }
}
