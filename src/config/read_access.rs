//! Reads where a listener listens, which clients it accepts, and how it learns and passes on their addresses.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::section::{Section, set};
use super::{Access, ConnectionRate, Listener, ProxyProtocol, account, duration};
use crate::net::{Bind, Binds, Ipv6Prefix, Networks, UnixBind};

/// The time that a rate may be given for.
const RATE_WITHIN: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

const NETWORKS: &str = "write networks or addresses, for example [\"10.0.0.0/8\", \"192.0.2.7\"]; on a Unix socket \
                        \"unix\" stands for its clients";

/// Where it listens. For Unix sockets also the permissions, owner and group of their files.
pub(super) fn binds(section: &Section<'_>) -> Option<Binds> {
    let binds = section.binds("bind");
    let mode = section.string("unix_socket_mode").and_then(|text| mode(section, "unix_socket_mode", &text));
    let owner = account(section, "unix_socket_owner", account::user);
    let group = account(section, "unix_socket_group", account::group);
    let binds = Binds::new(binds)?;
    if !binds.has_unix() {
        for key in ["unix_socket_mode", "unix_socket_owner", "unix_socket_group"] {
            if section.has(key) {
                let message = format!("{key} has no effect: this listener is not on a Unix socket");
                section.fault_at(key, message, "remove it, or write bind = \"unix:/PATH\"");
            }
        }
    }
    let with_owner = |bind: &Bind| match bind {
        Bind::Unix(unix) => {
            Bind::Unix(UnixBind { mode: mode.unwrap_or(unix.mode), owner, group, path: unix.path.clone() })
        }
        Bind::Tcp(_) => bind.clone(),
    };
    Binds::new(binds.iter().map(with_owner).collect())
}

/// The permissions of a file, in octal. Reports a fault of the key if they are not.
pub(super) fn mode(section: &Section<'_>, key: &str, text: &str) -> Option<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        let message = format!("{key}: \"{text}\" is not a file mode");
        section.fault_at(key, message, "write the permissions in octal, as for chmod, for example \"0770\"");
    }
    mode
}

/// The number of a user or a group. Reports a fault of the key if there is none.
pub(super) fn account(section: &Section<'_>, key: &'static str, find: fn(&str) -> Result<u32, String>) -> Option<u32> {
    let name = section.string(key)?;
    let found = find(&name);
    let report = |error| section.fault_at(key, format!("{key}: {error}"), "write a name or a number that exists");
    found.map_err(report).ok()
}

/// Which clients it accepts, and how it learns and passes on their addresses. `listener.binds` must be set already.
pub(super) fn listener(section: &Section<'_>, listener: &mut Listener) {
    let count = |key, most| section.integer(key, 1..most).map(|count| count as usize);
    set(&mut listener.sessions_max_per_client, count("sessions_max_per_client", 10_000_001));
    listener.connection_rate_max_per_client = rate(section, "connection_rate_max_per_client", "connections");
    let prefix = section.integer("client_ipv6_prefix", 1..129).and_then(|bits| Ipv6Prefix::new(bits as u8));
    set(&mut listener.client_ipv6_prefix, prefix);
    set(&mut listener.pending_connections_max, count("pending_connections_max", 1_000_001));
    set(&mut listener.application_name_add_host, section.boolean("application_name_add_host"));
    listener.proxy_protocol = section.section("proxy_protocol").map(|table| proxy_protocol(table, &listener.binds));
    listener.access = Access {
        allow: networks(section, "allow"),
        users: section.names("users", "name the users that may connect, or remove the key: then all users may"),
        databases: section.names(
            "databases",
            "name the databases that clients may connect to, or remove the key: then all are allowed",
        ),
    };
    check_applicable(section, listener);
}

/// `"50/3s"`; the number of the unit may be left out if it is one: `"50/s"`.
pub(super) fn rate(section: &Section<'_>, key: &'static str, of: &str) -> Option<ConnectionRate> {
    let text = section.string(key)?;
    let parse = |text: &str| {
        let (count, within) = text.split_once('/')?;
        let within = within.trim();
        let within =
            if within.starts_with(|c: char| c.is_ascii_digit()) { within.to_owned() } else { format!("1{within}") };
        let within = duration(&within).ok().filter(|time| RATE_WITHIN.contains(time))?;
        let count = count.trim().parse().ok().filter(|count: &NonZeroU32| count.get() <= 1_000_000)?;
        Some(ConnectionRate { count, within })
    };
    let rate = parse(&text);
    if rate.is_none() {
        section.fault_at(
            key,
            format!("{}: \"{text}\" is not a rate", section.named(key)),
            format!(
                "write a number of {of} from 1 to 1000000 and a time from 1ms to 1h, for example \"50/s\" or \"50/3s\""
            ),
        );
    }
    rate
}

fn networks(section: &Section<'_>, key: &'static str) -> Networks {
    Networks::parse(&section.names(key, NETWORKS)).unwrap_or_else(|unparsed| {
        for text in unparsed {
            section.fault_at(key, format!("{}: \"{text}\" is not a network", section.named(key)), NETWORKS);
        }
        Networks::default()
    })
}

fn proxy_protocol(section: Section<'_>, binds: &Binds) -> ProxyProtocol {
    let before = section.fault_count();
    let trusted = networks(&section, "trusted");
    if !section.has("trusted") {
        section.fault(
            "proxy_protocol.trusted is missing",
            "name only your proxies, for example trusted = [\"10.0.0.5\"]: a trusted host can state any client address",
        );
    } else if section.fault_count() == before {
        check_reachable(&section, "trusted", &trusted, binds);
    }
    let is_required = section.boolean("required").unwrap_or(true);
    section.finish();
    ProxyProtocol { trusted, is_required }
}

/// `unix` never matches on a TCP listener, and a network never matches on a Unix socket: both are faults.
fn check_reachable(section: &Section<'_>, key: &str, listed: &Networks, binds: &Binds) {
    let hint = match (binds.has_tcp(), binds.has_unix()) {
        (_, false) if listed.has_unix() => "remove \"unix\": it stands for the clients of a Unix socket",
        (false, _) if listed.has_networks() => {
            "write [\"unix\"]: clients of a Unix socket have no address; unix_socket_mode restricts them"
        }
        _ => return,
    };
    section.fault_at(key, format!("{}: no client of {binds} can match this list", section.named(key)), hint);
}

/// Settings by client address have no effect on a Unix socket, unless a proxy states the clients' addresses.
fn check_applicable(section: &Section<'_>, listener: &Listener) {
    let is_unix = !listener.binds.has_tcp();
    if is_unix && listener.proxy_protocol.is_some() {
        return;
    }
    check_reachable(section, "allow", &listener.access.allow, &listener.binds);
    let by_address = ["sessions_max_per_client", "connection_rate_max_per_client", "client_ipv6_prefix"];
    for key in by_address.into_iter().filter(|key| is_unix && section.has(key)) {
        section.fault_at(
            key,
            format!("{key} has no effect on a Unix socket: its clients have no address"),
            "remove it; sessions_max limits all clients together",
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
    fn nothing_is_restricted_by_default() {
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
    fn a_unix_socket_has_permissions_an_owner_and_a_group() {
        let unix = |lines: &str| {
            let binds = listener(&format!("{UNIX}{lines}")).binds;
            binds.iter().next().and_then(Bind::unix).cloned().expect("is one")
        };
        assert_eq!((unix("").mode, unix("").owner, unix("").group), (0o777, None, None));
        let owned = unix("unix_socket_mode = \"0770\"\nunix_socket_owner = \"root\"\nunix_socket_group = \"4711\"");
        assert_eq!((owned.mode, owned.owner, owned.group), (0o770, Some(0), Some(4711)));
        let proxied = listener(&format!("{UNIX}proxy_protocol = {{ trusted = [\"unix\"] }}\nallow = [\"10.0.0.0/8\"]"));
        assert!(proxied.proxy_protocol.expect("is given").trusted.contain(Peer::Unix));
    }

    #[test]
    fn a_rate_is_a_number_in_a_time() {
        let rate = |text: &str| {
            let listener = listener(&format!("{TCP}connection_rate_max_per_client = \"{text}\""));
            listener.connection_rate_max_per_client.expect("is given").to_string()
        };
        let shown = ["50/s", "50/3s", "600/min", "5 / 500ms"].map(rate);
        assert_eq!(shown, ["50 in 1s", "50 in 3s", "600 in 60s", "5 in 500ms"]);
        assert_eq!(
            listener(&format!("{TCP}client_ipv6_prefix = 48")).client_ipv6_prefix,
            Ipv6Prefix::new(48).expect("is one")
        );
    }

    #[test]
    fn a_listener_may_be_at_several_addresses() {
        let shown = |bind: &str| listener(&format!("bind = {bind}")).binds.to_string();
        assert_eq!(shown("\"10.0.0.1:6432\""), "10.0.0.1:6432");
        assert_eq!(shown("[\"10.0.0.1:6432\"]"), "10.0.0.1:6432");
        let both = "bind = [\"*:6432\", \"unix:/run/pgvane/.s.PGSQL.6432\"]";
        let mixed = listener(&format!("{both}\nunix_socket_mode = \"0770\"\nallow = [\"unix\", \"10.0.0.0/8\"]"));
        assert_eq!(mixed.binds.to_string(), "[::]:6432, unix:/run/pgvane/.s.PGSQL.6432");
        let modes: Vec<_> = mixed.binds.iter().filter_map(Bind::unix).map(|unix| unix.mode).collect();
        assert_eq!(modes, [0o770]);
        for (bind, word) in [
            ("[]", "the list is empty"),
            ("6432", "must be an address"),
            ("[\"*:6432\", 6433]", "must be an address"),
            ("[\"*:6432\", \"*:6432\"]", "listens on [::]:6432 twice"),
            ("[\"*:6432\", \"localhost:6433\"]", "\"localhost:6433\" is not an address"),
        ] {
            let Err(faults) = read(&format!("bind = {bind}")) else { panic!("has a fault: {bind}") };
            assert!(faults.to_string().contains(word), "{bind}: {faults}");
            assert_eq!(faults.list.len(), 1, "{faults}");
        }
    }

    #[test]
    fn settings_that_can_never_match_are_faults() {
        for (lines, word) in [
            ("allow = []", "no client could connect"),
            ("users = []", "no client could connect"),
            ("allow = [\"10.0.0.0/33\"]", "is not a network"),
            ("proxy_protocol = {}", "trusted is missing"),
            ("proxy_protocol = { trusted = [] }", "no client could connect"),
            ("proxy_protocol = { trusted = [\"unix\"] }", "can match this list"),
            ("proxy_protocol = { trusted = [\"10.0.0.5\"], require = true }", "unknown key \"require\""),
            ("allow = [\"unix\"]", "can match this list"),
            ("unix_socket_mode = \"0770\"", "is not on a Unix socket"),
            ("sessions_max_per_client = 0", "out of range"),
            ("client_ipv6_prefix = 129", "out of range"),
            ("connection_rate_max_per_client = \"50\"", "is not a rate"),
            ("connection_rate_max_per_client = \"0/s\"", "is not a rate"),
            ("connection_rate_max_per_client = \"5/2h\"", "is not a rate"),
        ] {
            let fault = fault(&format!("{TCP}{lines}"));
            assert!(fault.contains(word), "{lines}: {fault}");
        }
        for (lines, word) in [
            ("unix_socket_mode = \"0999\"", "is not a file mode"),
            ("unix_socket_mode = \"7777\"", "is not a file mode"),
            ("unix_socket_owner = \"no such user\"", "does not exist on this host"),
            ("allow = [\"10.0.0.0/8\"]", "can match this list"),
            ("sessions_max_per_client = 5", "have no address"),
            ("connection_rate_max_per_client = \"5/s\"", "have no address"),
            ("proxy_protocol = { trusted = [\"10.0.0.5\"] }", "can match this list"),
        ] {
            let fault = fault(&format!("{UNIX}{lines}"));
            assert!(fault.contains(word), "{lines}: {fault}");
        }
    }
}
