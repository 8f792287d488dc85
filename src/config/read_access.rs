//! Reads of a listener where it listens, whom it lets in, and how it learns and tells who that is.

use super::document::{Section, set};
use super::{Access, Listener, ProxyProtocol, account};
use crate::net::{Bind, Networks, UnixBind};

const NETWORKS: &str = "write networks or addresses, for example [\"10.0.0.0/8\", \"192.0.2.7\"], and \"unix\" for those \
                        who come by a Unix socket";

/// Where it listens, and to whom the file belongs if it is one.
pub(super) fn bind(section: &Section<'_>) -> Option<Bind> {
    let bind = section.bind("bind");
    let mode = section.string("unix_socket_mode").and_then(|text| mode(section, &text));
    let owner = account(section, "unix_socket_owner", account::user);
    let group = account(section, "unix_socket_group", account::group);
    match bind {
        Some(Bind::Unix(unix)) => {
            Some(Bind::Unix(UnixBind { mode: mode.unwrap_or(unix.mode), owner, group, path: unix.path }))
        }
        Some(Bind::Tcp(_)) => {
            for key in ["unix_socket_mode", "unix_socket_owner", "unix_socket_group"] {
                if section.has(key) {
                    let message = format!("{key} means nothing on a listener of TCP");
                    section.fault_at(key, message, "remove it, or listen on a file: bind = \"unix:/PATH\"");
                }
            }
            bind
        }
        None => None,
    }
}

fn mode(section: &Section<'_>, text: &str) -> Option<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        let message = format!("unix_socket_mode: \"{text}\" are no permissions");
        section.fault_at("unix_socket_mode", message, "write them in octal, as chmod takes them, for example \"0770\"");
    }
    mode
}

fn account(section: &Section<'_>, key: &'static str, find: fn(&str) -> Result<u32, String>) -> Option<u32> {
    let name = section.string(key)?;
    let found = find(&name);
    found.map_err(|error| section.fault_at(key, format!("{key}: {error}"), "give a name, or a number")).ok()
}

/// Whom it lets in, and how it learns and tells who that is. The listener must know where it listens.
pub(super) fn listener(section: &Section<'_>, listener: &mut Listener) {
    let count = |key, most| section.integer(key, 1..most).map(|count| count as usize);
    set(&mut listener.sessions_max_per_client, count("sessions_max_per_client", 10_000_001));
    set(&mut listener.pending_connections_max, count("pending_connections_max", 1_000_001));
    set(&mut listener.application_name_add_host, section.boolean("application_name_add_host"));
    listener.proxy_protocol = section.section("proxy_protocol").map(|table| proxy_protocol(table, &listener.bind));
    listener.access = Access {
        allow: networks(section, "allow"),
        users: section.names("users", "name who may, or remove it"),
        databases: section.names("databases", "name those that may be connected to, or remove it"),
    };
    is_of_use(section, listener);
}

fn networks(section: &Section<'_>, key: &'static str) -> Networks {
    Networks::parse(&section.names(key, NETWORKS)).unwrap_or_else(|strange| {
        for text in strange {
            section.fault_at(key, format!("{}: \"{text}\" is not a network", section.named(key)), NETWORKS);
        }
        Networks::default()
    })
}

fn proxy_protocol(section: Section<'_>, bind: &Bind) -> ProxyProtocol {
    let before = section.fault_count();
    let trusted = networks(&section, "trusted");
    if !section.has("trusted") {
        section.fault(
            "proxy_protocol.trusted is missing",
            "name the proxies: whoever is believed can pass for anybody, for example trusted = [\"10.0.0.5\"]",
        );
    } else if section.fault_count() == before {
        can_come(&section, "trusted", &trusted, bind);
    }
    let is_required = section.boolean("required").unwrap_or(true);
    section.finish();
    ProxyProtocol { trusted, is_required }
}

/// By TCP nobody comes as `unix`, and to a file nobody from a network.
fn can_come(section: &Section<'_>, key: &str, wanted: &Networks, bind: &Bind) {
    let hint = match bind {
        Bind::Tcp(_) if wanted.has_unix() => "remove \"unix\"",
        Bind::Unix(_) if wanted.has_networks() => "write [\"unix\"]: the permissions of the file say who that is",
        _ => return,
    };
    section.fault_at(key, format!("{}: nobody comes to {bind} in that way", section.named(key)), hint);
}

/// Settings by address mean nothing where there are none. A Unix socket's clients have one if a proxy states it.
fn is_of_use(section: &Section<'_>, listener: &Listener) {
    let is_unix = listener.bind.unix().is_some();
    if is_unix && listener.proxy_protocol.is_some() {
        return;
    }
    can_come(section, "allow", &listener.access.allow, &listener.bind);
    if is_unix && section.has("sessions_max_per_client") {
        section.fault_at(
            "sessions_max_per_client",
            "sessions_max_per_client means nothing on a Unix socket: its clients have no address",
            "remove it; sessions_max bounds them all",
        );
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::{Config, Faults};
    use crate::net::Peer;

    fn read(lines: &str) -> Result<Listener, Faults> {
        let text = format!(
            "[[cluster]]\n[[cluster.node]]\naddress = \"10.0.0.1:5432\"\n[[listener]]\ntarget = \"leader\"\n{lines}\n"
        );
        Config::from_toml("test.toml", &text).map(|mut config| config.listeners.remove(0))
    }

    fn listener(lines: &str) -> Listener {
        read(lines).unwrap_or_else(|faults| panic!("{faults}"))
    }

    fn fault(lines: &str) -> String {
        let Err(faults) = read(lines) else { panic!("has a fault:\n{lines}") };
        assert_eq!(faults.list.len(), 1, "{faults}");
        assert!(faults.list[0].hint.is_some() && faults.list[0].line.is_some(), "{faults}");
        faults.list[0].message.clone()
    }

    const TCP: &str = "bind = \"0.0.0.0:6432\"\n";
    const UNIX: &str = "bind = \"unix:/run/pgvane/.s.PGSQL.6432\"\n";

    fn peer(text: &str) -> Peer {
        text.parse::<SocketAddr>().expect("an address").into()
    }

    #[test]
    fn nothing_is_restricted_unless_it_is_said() {
        let listener = listener(TCP);
        assert_eq!((listener.access, listener.proxy_protocol), (Access::default(), None));
        assert_eq!((listener.sessions_max_per_client, listener.pending_connections_max), (usize::MAX, 1000));
        assert!(!listener.application_name_add_host);
    }

    #[test]
    fn every_key_is_read() {
        let listener = listener(&format!(
            "{TCP}proxy_protocol = {{ trusted = [\"10.0.0.5\", \"2001:db8::/64\"], required = false }}\n\
             allow = [\"10.0.0.0/8\"]\nusers = [\"app\", \"report\"]\ndatabases = [\"shop\", \"replication\"]\n\
             sessions_max_per_client = 20\npending_connections_max = 50\napplication_name_add_host = true"
        ));
        let proxy_protocol = listener.proxy_protocol.expect("is given");
        assert!(!proxy_protocol.is_required);
        assert!(
            proxy_protocol.trusted.contain(peer("10.0.0.5:1")) && !proxy_protocol.trusted.contain(peer("10.0.0.6:1"))
        );
        assert!(listener.access.allow.contain(peer("10.9.9.9:1")));
        assert_eq!(listener.access.users, ["app", "report"]);
        assert_eq!(listener.access.databases, ["shop", "replication"]);
        assert_eq!((listener.sessions_max_per_client, listener.pending_connections_max), (20, 50));
        assert!(listener.application_name_add_host);
    }

    #[test]
    fn a_unix_socket_has_permissions_and_belongs_to_somebody() {
        let unix = |lines: &str| listener(&format!("{UNIX}{lines}")).bind.unix().cloned().expect("is one");
        assert_eq!((unix("").mode, unix("").owner, unix("").group), (0o777, None, None));
        let owned = unix("unix_socket_mode = \"0770\"\nunix_socket_owner = \"root\"\nunix_socket_group = \"4711\"");
        assert_eq!((owned.mode, owned.owner, owned.group), (0o770, Some(0), Some(4711)));
        let proxied = listener(&format!("{UNIX}proxy_protocol = {{ trusted = [\"unix\"] }}\nallow = [\"10.0.0.0/8\"]"));
        assert!(proxied.proxy_protocol.expect("is given").trusted.contain(Peer::Unix));
    }

    #[test]
    fn what_nobody_can_mean_is_a_fault() {
        for (lines, word) in [
            ("allow = []", "nobody could connect"),
            ("users = []", "nobody could connect"),
            ("allow = [\"10.0.0.0/33\"]", "is not a network"),
            ("proxy_protocol = {}", "trusted is missing"),
            ("proxy_protocol = { trusted = [] }", "nobody could connect"),
            ("proxy_protocol = { trusted = [\"unix\"] }", "nobody comes to"),
            ("proxy_protocol = { trusted = [\"10.0.0.5\"], require = true }", "unknown key \"require\""),
            ("allow = [\"unix\"]", "nobody comes to"),
            ("unix_socket_mode = \"0770\"", "means nothing on a listener of TCP"),
            ("sessions_max_per_client = 0", "out of bounds"),
        ] {
            let fault = fault(&format!("{TCP}{lines}"));
            assert!(fault.contains(word), "{lines}: {fault}");
        }
        for (lines, word) in [
            ("unix_socket_mode = \"0999\"", "are no permissions"),
            ("unix_socket_mode = \"7777\"", "are no permissions"),
            ("unix_socket_owner = \"no such user\"", "there is no user"),
            ("allow = [\"10.0.0.0/8\"]", "nobody comes to"),
            ("sessions_max_per_client = 5", "have no address"),
            ("proxy_protocol = { trusted = [\"10.0.0.5\"] }", "nobody comes to"),
        ] {
            let fault = fault(&format!("{UNIX}{lines}"));
            assert!(fault.contains(word), "{lines}: {fault}");
        }
    }
}
