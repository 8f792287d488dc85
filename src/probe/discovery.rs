//! Finds a cluster's members by asking its Patronis, and decides which of them to believe in.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use super::patroni::{Patroni, RestApi};
use crate::cluster::event::Discovery;
use crate::cluster::node::{CheckError, Report};
use crate::cluster::{HostPort, Member};
use crate::config;
use crate::net::Resolver;
use crate::net::dial::is_within;

/// How long a new member's name is looked up before the member is left out, until the next time.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks `/cluster`, maps the addresses in the answer, and leaves out members that are not allowed.
#[derive(Debug, Clone)]
pub struct Discoverer {
    settings: config::Discovery,
    patroni: Patroni,
    names: Arc<Resolver>,
}

impl Discoverer {
    /// A discoverer that asks by `patroni`, and looks up names in `names`.
    pub fn new(settings: config::Discovery, patroni: Patroni, names: Arc<Resolver>) -> Discoverer {
        Discoverer { settings, patroni, names }
    }

    /// Asks the REST APIs of the known nodes and the configured ones in turn, until one answers.
    ///
    /// The error is that of the last one asked.
    pub async fn look(&self, known: Vec<RestApi>) -> Result<Discovery, CheckError> {
        let mut newest_error = CheckError::TimedOut;
        let configured = self.configured().filter(|api| !known.iter().any(|other| other.url == api.url));
        for api in known.iter().cloned().chain(configured) {
            match self.patroni.cluster(&api).await {
                Ok(found) => {
                    let named = self.ask_configured().await;
                    return Ok(Discovery { named, ..self.without_strangers(found).await });
                }
                Err(error) => newest_error = error,
            }
        }
        Err(newest_error)
    }

    fn configured(&self) -> impl Iterator<Item = RestApi> {
        self.settings.urls.iter().map(|url| RestApi { url: url.clone(), is_discovered: false })
    }

    /// The reports of the REST APIs that the operator has named, if they decide which cluster is used. What one of them
    /// says about other nodes is only a claim; those nodes confirm it or not.
    async fn ask_configured(&self) -> Vec<Arc<Report>> {
        if !self.settings.urls_say_which_cluster {
            return Vec::new();
        }
        let mut asked = JoinSet::new();
        for api in self.configured() {
            let patroni = self.patroni.clone();
            asked.spawn(async move { patroni.check(&api).await.ok() });
        }
        let mut reports = Vec::new();
        while let Some(answered) = asked.join_next().await {
            reports.extend(answered.ok().flatten().map(Arc::new));
        }
        reports
    }

    async fn without_strangers(&self, found: Discovery) -> Discovery {
        let mut members = Vec::with_capacity(found.members.len());
        for member in found.members {
            let member = self.mapped(member);
            match self.why_not_allowed(&member).await {
                None => members.push(member),
                Some(why) => warn!(node = member.name, address = %member.address, reason = why, "member left out"),
            }
        }
        Discovery { members, ..found }
    }

    /// Replaces the addresses that the cluster uses by those at which pgvane reaches the node (`discover_map`).
    fn mapped(&self, member: Member) -> Member {
        let map = &self.settings.address_map;
        let address = map.get(&member.address).cloned().unwrap_or(member.address);
        let mapped_api = || {
            let (scheme, rest_api) = member.patroni_url.split_once("://")?;
            Some(format!("{scheme}://{}", map.get(&rest_api.parse().ok()?)?))
        };
        let patroni_url = mapped_api().unwrap_or_else(|| member.patroni_url.clone());
        Member { address, patroni_url, ..member }
    }

    /// Why a member may not be used; `None` if it may. Every address of the hosts of its PostgreSQL and of its REST API
    /// has to be allowed, because pgvane connects to both. Names may get other addresses later, so each connection is
    /// checked as well.
    async fn why_not_allowed(&self, member: &Member) -> Option<String> {
        if self.settings.allow.is_empty() {
            return None;
        }
        let Some(rest_api) = host_and_port(&member.patroni_url) else {
            return Some("the host of its api_url cannot be read".to_owned());
        };
        for address in [&member.address, &rest_api] {
            if let Some(why) = self.why_address_not_allowed(address).await {
                return Some(why);
            }
        }
        None
    }

    async fn why_address_not_allowed(&self, address: &HostPort) -> Option<String> {
        let addresses = match address.ip_address() {
            Some(address) => vec![address],
            None => {
                let deadline = Instant::now() + LOOKUP_TIMEOUT;
                match self.names.addresses(address.host(), address.port(), deadline).await {
                    Ok(addresses) => addresses,
                    Err(error) => return Some(format!("{address}: {error}")),
                }
            }
        };
        let stranger = addresses.iter().find(|address| !is_within(&self.settings.allow, address.ip()))?;
        Some(format!("{} is not within discover_allow", stranger.ip()))
    }
}

/// The server that a REST API's URL is connected to.
fn host_and_port(url: &str) -> Option<HostPort> {
    let url = reqwest::Url::parse(url).ok()?;
    HostPort::new(url.host_str()?, url.port_or_known_default()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::member;
    use crate::config::Config;

    fn host_port(text: &str) -> HostPort {
        text.parse().expect("is HOST:PORT")
    }

    fn discoverer(allow: &[&str], map: &[(&str, &str)]) -> Discoverer {
        let config = Config::from_patroni_urls(&["http://10.0.0.1:8008".to_owned()]).expect("is a URL");
        let mut cluster = config.clusters[0].clone();
        let settings = cluster.discovery.as_mut().expect("is on");
        settings.allow = allow.iter().map(|net| net.parse().expect("is a network")).collect();
        settings.address_map = map.iter().map(|(from, to)| (host_port(from), host_port(to))).collect();
        let names = Resolver::system();
        let patroni = Patroni::new(&cluster, &names).expect("needs no files");
        Discoverer::new(cluster.discovery.expect("is on"), patroni, names)
    }

    fn at(address: &str) -> Member {
        Member { address: host_port(address), patroni_url: "http://172.18.0.2:8008".into(), ..member("a") }
    }

    fn with_rest_at(patroni_url: &str) -> Member {
        Member { address: host_port("10.1.2.3:5432"), patroni_url: patroni_url.into(), ..member("a") }
    }

    #[test]
    fn addresses_are_mapped_in_both_directions_or_stay_as_they_are() {
        let map = [("172.18.0.2:5432", "127.0.0.1:15432"), ("172.18.0.2:8008", "127.0.0.1:18008")];
        let mapped = discoverer(&[], &map).mapped(at("172.18.0.2:5432"));
        assert_eq!(
            (mapped.address.to_string().as_str(), mapped.patroni_url.as_str()),
            ("127.0.0.1:15432", "http://127.0.0.1:18008")
        );
        let other = discoverer(&[], &map[..1]).mapped(at("172.18.0.9:5432"));
        assert_eq!(
            (other.address, other.patroni_url.as_str()),
            (host_port("172.18.0.9:5432"), "http://172.18.0.2:8008")
        );
    }

    #[tokio::test]
    async fn members_outside_the_allowed_networks_are_left_out() {
        let found = Discovery {
            members: vec![at("10.1.2.3:5432"), at("192.168.0.1:5432")],
            named: Vec::new(),
            scheduled_switchover: None,
        };
        let kept = discoverer(&["10.0.0.0/8", "172.18.0.0/16"], &[]).without_strangers(found.clone()).await;
        assert_eq!(kept.members, [at("10.1.2.3:5432")]);
        assert_eq!(discoverer(&[], &[]).without_strangers(found).await.members.len(), 2, "no list allows everyone");
    }

    #[tokio::test]
    async fn members_whose_rest_api_is_outside_the_allowed_networks_are_left_out() {
        let discoverer = discoverer(&["10.0.0.0/8", "fd00::/8"], &[]);
        for inside in ["http://10.1.2.3:8008", "https://10.1.2.3", "http://[fd00::2]:8008"] {
            assert_eq!(discoverer.why_not_allowed(&with_rest_at(inside)).await, None, "{inside}");
        }
        // an URL's numbers may be written in other ways, and a name and a password may stand before the host
        for outside in [
            "http://169.254.169.254:80",
            "http://10.1.2.3@169.254.169.254:8008",
            "http://2852039166:8008",
            "http://[::ffff:169.254.169.254]:8008",
            "http://[fe80::1]:8008",
            "not a URL",
        ] {
            assert!(discoverer.why_not_allowed(&with_rest_at(outside)).await.is_some(), "{outside}");
        }
    }
}
