//! Checks under which name a request reached the admin port (`Host`).
//!
//! A web page of another site can make a browser resolve the site's own name to pgvane's address (DNS rebinding). The
//! browser then takes the stats page for a part of that site, and the site's scripts can read it. Such a request names
//! the other site. A request that names an IP address cannot come about in this way, because no name was resolved: so
//! every IP address is accepted, also that of a port forwarding which pgvane does not know.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderMap, Uri, header, uri::Authority};

/// In `hosts`, accepts every name.
pub const ANY_HOST: &str = "*";

/// The names under which the stats page and the API are served.
#[derive(Debug)]
pub(super) struct Hosts {
    /// In lower case, without a dot at the end.
    names: Vec<String>,
    accepts_any: bool,
}

impl Hosts {
    /// The configured names, besides `localhost` and the name of this machine.
    pub(super) fn new(configured: &[String]) -> Hosts {
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let names = configured.iter().chain([&machine]).map(|name| normal(name)).collect();
        Hosts { names, accepts_any: configured.iter().any(|name| name == ANY_HOST) }
    }

    /// The name for which a request is refused; `None` if it is accepted. Requests without `Host` are accepted: simple
    /// health checks send none, and browsers always send one.
    pub(super) fn wrong_name(&self, uri: &Uri, headers: &HeaderMap) -> Option<String> {
        let in_headers = headers.get_all(header::HOST).iter().map(|host| String::from_utf8_lossy(host.as_bytes()));
        let in_uri = uri.authority().map(|authority| authority.as_str().into());
        let mut given = in_headers.chain(in_uri).filter(|host| !host.trim().is_empty());
        given.find(|host| !self.accepts(host.trim())).map(|host| host.trim().to_owned())
    }

    fn accepts(&self, given: &str) -> bool {
        let Ok(authority) = given.parse::<Authority>() else { return false };
        let host = normal(authority.host());
        let ipv6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_address = host.parse::<Ipv4Addr>().is_ok() || ipv6.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
        let is_loopback = host == "localhost" || host.ends_with(".localhost");
        self.accepts_any || is_address || is_loopback || self.names.contains(&host)
    }
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong_name(hosts: &Hosts, given: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for host in given {
            headers.append(header::HOST, host.parse().expect("a value"));
        }
        hosts.wrong_name(&Uri::from_static("/"), &headers)
    }

    #[test]
    fn addresses_and_own_names_are_accepted_and_other_names_are_not() {
        let hosts = Hosts::new(&["pgvane.example.com".to_owned()]);
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        for own in [
            "127.0.0.1",
            "192.0.2.7:8404",
            "[::1]:8404",
            "[2001:db8::1]",
            "localhost:8404",
            "LocalHost.",
            "pgvane.example.com",
            "PGVANE.example.com.:80",
            machine.as_str(),
        ] {
            assert_eq!(wrong_name(&hosts, &[own]), None, "{own}");
        }
        assert_eq!(wrong_name(&hosts, &[]), None, "HTTP/1.0 without Host");
        assert_eq!(wrong_name(&hosts, &[""]), None);
        for other in [
            "evil.example",
            "evil.example:8404",
            "pgvane.example.com.evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "[::1",
            "user@evil.example",
            "a b",
            "1.2.3",
        ] {
            assert_eq!(wrong_name(&hosts, &[other]).as_deref(), Some(other));
        }
    }

    #[test]
    fn every_name_of_a_request_counts() {
        let hosts = Hosts::new(&[]);
        assert_eq!(wrong_name(&hosts, &["localhost", "evil.example"]).as_deref(), Some("evil.example"));
        let uri = Uri::from_static("http://evil.example/stats");
        assert_eq!(hosts.wrong_name(&uri, &HeaderMap::new()).as_deref(), Some("evil.example"));
    }

    #[test]
    fn an_asterisk_accepts_every_name() {
        assert_eq!(wrong_name(&Hosts::new(&[ANY_HOST.to_owned()]), &["evil.example"]), None);
    }
}
