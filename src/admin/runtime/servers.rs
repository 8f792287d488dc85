//! `show servers state` and `show servers conn`.

use std::net::IpAddr;

use super::place;
use crate::admin::haproxy::FIRST_PROXY;
use crate::admin::servers::Server;
use crate::admin::status::{Listener, Node, Status};
use crate::cluster::HostPort;

/// The version of the format, and the names of its columns.
const STATE_HEADER: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
     srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state \
     bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr \
     srv_agent_port\n";

/// `show servers state [<backend>]`. Errors: HAProxy's text.
pub(super) fn state(status: &Status, backend: Option<&String>) -> Result<String, &'static str> {
    let mut text = STATE_HEADER.to_owned();
    for (proxy, listener, server, node) in servers(status, backend)? {
        let (op_state, admin_state) = states(server);
        let (check_status, check_result) = check(&server.check);
        let (address, fqdn, port) = address(server);
        let Node { weight, weight_configured, health_seconds, role_seconds, .. } = node;
        let since = health_seconds.min(*role_seconds) as u64;
        let (be_name, number, name, health) = (&listener.name, server.number, &server.node, server.check_health);
        text += &format!(
            "{proxy} {be_name} {number} {name} {address} {op_state} {admin_state} {weight} {weight_configured} {since} \
             {check_status} {check_result} {health} 6 0 0 0 {fqdn} {port} - 0 0 - - 0\n"
        );
    }
    Ok(text)
}

/// `show servers conn [<backend>]`. Errors: HAProxy's text.
pub(super) fn conn(status: &Status, backend: Option<&String>) -> Result<String, &'static str> {
    let threads = status.process.threads.max(1);
    let mut text = format!(
        "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb safe_nb idle_lim idle_cur \
         idle_per_thr[{threads}]\n"
    );
    let idle = vec!["0"; threads].join(" ");
    for (proxy, listener, server, _) in servers(status, backend)? {
        let (address, _, port) = address(server);
        let Server { number, node, sessions, sessions_highest, .. } = server;
        let name = &listener.name;
        text += &format!(
            "{name}/{node} {proxy}/{number} {address} {port} - 0 {sessions} {sessions_highest} {sessions} 0 0 0 0 {idle}\n"
        );
    }
    Ok(text)
}

type Line<'s> = (u32, &'s Listener, &'s Server, &'s Node);

/// The servers of one backend, or of all.
fn servers<'s>(status: &'s Status, backend: Option<&String>) -> Result<Vec<Line<'s>>, &'static str> {
    let wanted = match backend {
        Some(name) => Some(&place::listener(status, name).ok_or("Can't find backend.\n")?.name),
        None => None,
    };
    let listeners = (FIRST_PROXY..).zip(&status.listeners);
    let listeners = listeners.filter(|(_, listener)| wanted.is_none_or(|name| *name == listener.name));
    let of_listener = |(proxy, listener): (u32, &'s Listener)| {
        let cluster = status.clusters.iter().find(|cluster| cluster.name == listener.cluster);
        let nodes = cluster.map_or(&[][..], |cluster| &cluster.nodes);
        listener.servers.iter().filter_map(move |server| {
            let node = nodes.iter().find(|node| node.name == server.node)?;
            Some((proxy, listener, server, node))
        })
    };
    Ok(listeners.flat_map(of_listener).collect())
}

/// HAProxy's numbers: 2 if the server runs, 0 if it does not; 1 in maintenance, 8 drained.
fn states(server: &Server) -> (u32, u32) {
    match server.state.as_str() {
        "up" | "silent" => (2, 0),
        "drain" if matches!(server.check.as_str(), "L7OK" | "L7STS") => (2, 8),
        "drain" => (0, 8),
        "maint" => (0, 1),
        _ => (0, 0),
    }
}

/// HAProxy's numbers for the result of the newest check: its status, and whether it has passed (3) or failed (2).
fn check(result: &str) -> (u32, u32) {
    match result {
        "L7OK" => (15, 3),
        "L7STS" => (17, 2),
        "L4CON" => (8, 2),
        "L7TOUT" => (12, 2),
        "L7RSP" => (13, 2),
        _ => (1, 0),
    }
}

/// The IP address, the name, and the port; a dash for what is not known.
fn address(server: &Server) -> (String, String, u16) {
    let dash = || "-".to_owned();
    let Ok(address) = server.address.parse::<HostPort>() else { return (dash(), dash(), 0) };
    match address.host().parse::<IpAddr>() {
        Ok(ip) => (ip.to_string(), dash(), address.port()),
        Err(_) => (dash(), address.host().to_owned(), address.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::Cluster;

    fn status() -> Status {
        let server = |node: &str, number, state: &str, check: &str, address: &str| Server {
            node: node.to_owned(),
            number,
            state: state.to_owned(),
            check: check.to_owned(),
            address: address.to_owned(),
            check_health: 4,
            sessions: 2,
            sessions_highest: 7,
            ..Server::default()
        };
        let node = |name: &str| Node {
            name: name.to_owned(),
            weight: 50,
            weight_configured: 100,
            health_seconds: 9.9,
            role_seconds: 20.0,
            ..Node::default()
        };
        let listener = |name: &str| Listener {
            name: name.to_owned(),
            cluster: "main".to_owned(),
            servers: vec![
                server("a", 1, "up", "L7OK", "10.0.0.1:5432"),
                server("b", 2, "drain", "L7OK", "[::1]:5433"),
                server("c", 3, "down", "L4CON", "db3:5432"),
            ],
            ..Listener::default()
        };
        Status {
            clusters: vec![Cluster {
                name: "main".to_owned(),
                nodes: vec![node("a"), node("b"), node("c")],
                ..Cluster::default()
            }],
            listeners: vec![listener("write"), listener("read")],
            ..Status::default()
        }
    }

    #[test]
    fn the_state_of_servers_has_haproxys_columns() {
        let text = state(&status(), Some(&"read".to_owned())).expect("is there");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "1");
        assert_eq!(lines[2], "3 read 1 a 10.0.0.1 2 0 50 100 9 15 3 4 6 0 0 0 - 5432 - 0 0 - - 0");
        assert_eq!(lines[3], "3 read 2 b ::1 2 8 50 100 9 15 3 4 6 0 0 0 - 5433 - 0 0 - - 0");
        assert_eq!(lines[4], "3 read 3 c - 0 0 50 100 9 8 2 4 6 0 0 0 db3 5432 - 0 0 - - 0");
        for line in &lines[2..] {
            assert_eq!(line.split(' ').count(), lines[1].split(' ').count() - 1, "{line}");
        }
        assert_eq!(state(&status(), None).expect("is there").lines().count(), 8);
        assert_eq!(state(&status(), Some(&"other".to_owned())), Err("Can't find backend.\n"));
    }

    #[test]
    fn the_connections_of_servers_have_haproxys_columns() {
        let text = conn(&status(), Some(&"#2".to_owned())).expect("is there");
        assert_eq!(text.lines().nth(1), Some("write/a 2/1 10.0.0.1 5432 - 0 2 7 2 0 0 0 0 0"));
    }
}
