//! Finds a cluster's members by asking its Patronis, and decides which of them to believe in.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::warn;

use super::patroni::Patroni;
use crate::cluster::Member;
use crate::cluster::machine::Discovery;
use crate::cluster::node::{CheckError, Report};
use crate::config;

/// Asks `/cluster`, maps the addresses that it tells, and leaves out those that are not allowed.
#[derive(Debug, Clone)]
pub struct Discoverer {
    settings: config::Discovery,
    patroni: Patroni,
}

impl Discoverer {
    /// A discoverer that asks by `patroni`.
    pub fn new(settings: config::Discovery, patroni: Patroni) -> Discoverer {
        Discoverer { settings, patroni }
    }

    /// Asks the known nodes' URLs and the configured ones in turn until one answers.
    ///
    /// The error is that of the last one asked.
    pub async fn look(&self, known_urls: Vec<String>) -> Result<Discovery, CheckError> {
        let mut newest_failure = CheckError::TimedOut;
        let configured = self.settings.urls.iter().filter(|url| !known_urls.contains(url)).cloned();
        for url in known_urls.iter().cloned().chain(configured) {
            match self.patroni.cluster(&url).await {
                Ok(found) => {
                    let named = self.named().await;
                    return Ok(Discovery { named, ..self.admissible(found).await });
                }
                Err(silence) => newest_failure = silence,
            }
        }
        Err(newest_failure)
    }

    /// What the REST APIs that the operator has named say of themselves, where that decides which cluster is meant: what one
    /// of them says of others is a claim, which those others confirm or do not.
    async fn named(&self) -> Vec<Arc<Report>> {
        if !self.settings.urls_say_which_cluster {
            return Vec::new();
        }
        let mut asked = JoinSet::new();
        for url in self.settings.urls.clone() {
            let patroni = self.patroni.clone();
            asked.spawn(async move { patroni.check(&url).await.ok() });
        }
        let mut reports = Vec::new();
        while let Some(answered) = asked.join_next().await {
            reports.extend(answered.ok().flatten().map(Arc::new));
        }
        reports
    }

    async fn admissible(&self, found: Discovery) -> Discovery {
        let mut members = Vec::with_capacity(found.members.len());
        for member in found.members {
            let member = self.mapped(member);
            match self.why_not_allowed(&member).await {
                None => members.push(member),
                Some(why) => warn!(node = member.name, address = member.address, reason = why, "member left out"),
            }
        }
        Discovery { members, ..found }
    }

    /// Puts the addresses by which we reach a node in place of those by which the cluster knows it.
    fn mapped(&self, member: Member) -> Member {
        let map = &self.settings.address_map;
        let address = map.get(&member.address).cloned().unwrap_or(member.address);
        let authority = member.patroni_url.split_once("://").map(|(scheme, rest)| (scheme.to_owned(), rest.to_owned()));
        let patroni_url = match authority.and_then(|(scheme, rest)| Some((scheme, map.get(&rest)?))) {
            Some((scheme, reachable)) => format!("{scheme}://{reachable}"),
            None => member.patroni_url,
        };
        Member { address, patroni_url, ..member }
    }

    /// Every address that PostgreSQL's and the REST API's host stand for has to be allowed: both are connected to.
    async fn why_not_allowed(&self, member: &Member) -> Option<String> {
        if self.settings.allow.is_empty() {
            return None;
        }
        let Some(rest) = authority(&member.patroni_url) else {
            return Some("the host of its api_url cannot be read".to_owned());
        };
        for address in [&member.address, &rest] {
            if let Some(why) = self.why_address_not_allowed(address).await {
                return Some(why);
            }
        }
        None
    }

    /// `address` is `host:port`.
    async fn why_address_not_allowed(&self, address: &str) -> Option<String> {
        let allows = |ip: IpAddr| self.settings.allow.iter().any(|net| net.contains(&ip));
        match tokio::net::lookup_host(address).await {
            Ok(mut addresses) => {
                let stranger = addresses.find(|address| !allows(address.ip()))?;
                Some(format!("{} is not within discover_allow", stranger.ip()))
            }
            Err(error) => Some(format!("{address} cannot be resolved: {error}")),
        }
    }
}

/// The `host:port` that a REST API's URL is connected to.
fn authority(url: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).ok()?;
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::cluster::fixtures::member;
    use crate::config::PatroniTls;

    fn discoverer(allow: &[&str], map: &[(&str, &str)]) -> Discoverer {
        let settings = config::Discovery {
            urls: Vec::new(),
            urls_say_which_cluster: false,
            allow: allow.iter().map(|net| net.parse().expect("is a network")).collect(),
            address_map: map
                .iter()
                .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()))
                .collect::<BTreeMap<_, _>>(),
        };
        let patroni = Patroni::new(Duration::from_secs(1), false, &PatroniTls::default()).expect("needs no files");
        Discoverer::new(settings, patroni)
    }

    fn at(address: &str) -> Member {
        Member { address: address.into(), patroni_url: "http://172.18.0.2:8008".into(), ..member("a") }
    }

    fn with_rest_at(patroni_url: &str) -> Member {
        Member { address: "10.1.2.3:5432".into(), patroni_url: patroni_url.into(), ..member("a") }
    }

    #[test]
    fn addresses_are_mapped_both_ways_or_left_alone() {
        let map = [("172.18.0.2:5432", "127.0.0.1:15432"), ("172.18.0.2:8008", "127.0.0.1:18008")];
        let mapped = discoverer(&[], &map).mapped(at("172.18.0.2:5432"));
        assert_eq!(
            (mapped.address.as_str(), mapped.patroni_url.as_str()),
            ("127.0.0.1:15432", "http://127.0.0.1:18008")
        );
        let other = discoverer(&[], &map[..1]).mapped(at("172.18.0.9:5432"));
        assert_eq!((other.address.as_str(), other.patroni_url.as_str()), ("172.18.0.9:5432", "http://172.18.0.2:8008"));
    }

    #[tokio::test]
    async fn members_outside_the_allowed_networks_are_left_out() {
        let found = Discovery {
            members: vec![at("10.1.2.3:5432"), at("192.168.0.1:5432")],
            named: Vec::new(),
            scheduled_switchover: None,
        };
        let kept = discoverer(&["10.0.0.0/8", "172.18.0.0/16"], &[]).admissible(found.clone()).await;
        assert_eq!(kept.members, [at("10.1.2.3:5432")]);
        assert_eq!(discoverer(&[], &[]).admissible(found).await.members.len(), 2, "no list allows everyone");
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
