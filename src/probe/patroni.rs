//! Asks one node's Patroni: a single `GET /primary`, from which everything is derived.
//!
//! What the answer means was read in Patroni's source (`patroni/api.py`, versions 3 and 4): the status code says
//! whether the node holds the leader lock, *even if PostgreSQL is not running*; the JSON says what PostgreSQL does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::DATE;
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use tracing::warn;

use super::rest_client::{PatroniTlsError, PostError, RestClient};
use super::rest_error::{check_error, not_patroni};
use crate::cluster::event::Discovery;
use crate::cluster::node::{CheckError, Claim, Lsn, Report, SyncStanding};
use crate::cluster::{HostPort, Member};
use crate::config;
use crate::net::Resolver;

/// The longest answer that is read. A node's status has one to a few kilobytes, more with many replicas; a
/// `/cluster` answer some hundred bytes per member.
const ANSWER_LENGTH_MAX: usize = 64 << 10;

/// A client for Patroni's REST APIs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Patroni {
    /// For the APIs that the configuration names.
    configured: RestClient,
    /// For those of nodes that discovery has found.
    discovered: RestClient,
    timeout: Duration,
}

/// A node's REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestApi {
    /// Its base URL, without a trailing slash.
    pub url: String,
    /// Discovery has found it, so that it has to be within `discover_allow`.
    pub is_discovered: bool,
}

impl From<&Member> for RestApi {
    fn from(member: &Member) -> RestApi {
        RestApi { url: member.patroni_url.clone(), is_discovered: member.is_discovered }
    }
}

impl Patroni {
    /// A client for a cluster, which waits for a complete answer as long as a check may take. Certificates are read
    /// only if an API may use HTTPS.
    ///
    /// Errors: certificates that cannot be read.
    pub fn new(cluster: &config::Cluster, names: &Arc<Resolver>) -> Result<Patroni, PatroniTlsError> {
        let tls = &cluster.patroni_tls;
        let speaks_https = cluster.may_speak_https();
        let client = |within| RestClient::new(cluster.timeout, speaks_https, tls, Arc::clone(names), within);
        if tls.verifies_nothing {
            warn!("patroni_tls.verify = \"none\": a host between pgvane and a REST API can say which node leads");
        }
        let configured = client(Arc::default())?;
        let allow = cluster.discover_allow();
        let discovered = if allow.is_empty() { configured.clone() } else { client(allow)? };
        Ok(Patroni { configured, discovered, timeout: cluster.timeout })
    }

    /// Asks a node for its report. Ends within the client's timeout. Should not be cancelled: an answer that is not
    /// read to its end leaves a traceback in Patroni's log.
    pub async fn check(&self, api: &RestApi) -> Result<Report, CheckError> {
        let Answer { status, body, date } = self.get(api, "/primary").await?;
        let answer: StatusAnswer = parse(status, &body)?;
        match status {
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => {
                // by the clock of the node, which the time stamps in the answer are of, too
                Ok(answer.report(status == StatusCode::OK, date.unwrap_or_else(Timestamp::now)))
            }
            other => Err(CheckError::Garbled(format!("HTTP status {other}"))),
        }
    }

    /// Asks a node for the cluster's members, as the DCS has them. Patroni reads the DCS for this: ask rarely.
    pub async fn cluster(&self, api: &RestApi) -> Result<Discovery, CheckError> {
        let Answer { status, body, .. } = self.get(api, "/cluster").await?;
        if status != StatusCode::OK {
            return Err(CheckError::Garbled(format!("HTTP status {status} for /cluster")));
        }
        let answer: ClusterAnswer = parse(status, &body)?;
        Ok(answer.discovery())
    }

    /// Has a node do something. Returns status and text of the answer, for which it waits as long as it takes.
    pub(super) async fn post(
        &self,
        api: &RestApi,
        path: &str,
        login: Option<&config::PatroniLogin>,
        json: String,
    ) -> Result<(StatusCode, String), PostError> {
        let mut response = self.client(api).post(&format!("{}{path}", api.url), login, json).await?;
        let status = response.status();
        let body = body(&mut response).await.map_err(|error| PostError::NoAnswer(error.to_string()))?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn client(&self, api: &RestApi) -> &RestClient {
        if api.is_discovered { &self.discovered } else { &self.configured }
    }

    async fn get(&self, api: &RestApi, path: &str) -> Result<Answer, CheckError> {
        let url = format!("{}{path}", api.url);
        let complete_answer = async {
            let mut response = self.client(api).get(&url).await?;
            let body = body(&mut response).await?;
            let date = response.headers().get(DATE).and_then(|date| rfc2822::parse(date.to_str().ok()?).ok());
            Ok(Answer { status: response.status(), body, date: date.map(|date| date.timestamp()) })
        };
        tokio::time::timeout(self.timeout, complete_answer).await.unwrap_or(Err(CheckError::TimedOut))
    }
}

async fn body(response: &mut Response) -> Result<Vec<u8>, CheckError> {
    let mut body = Vec::with_capacity(2048);
    while let Some(chunk) = response.chunk().await.map_err(|error| check_error(&error, true))? {
        if body.len() + chunk.len() > ANSWER_LENGTH_MAX {
            return Err(CheckError::Garbled(format!("answer longer than {ANSWER_LENGTH_MAX} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A complete answer.
struct Answer {
    status: StatusCode,
    body: Vec<u8>,
    /// When it was sent, by the clock of the node, to the second.
    date: Option<Timestamp>,
}

fn parse<'body, T: Deserialize<'body>>(status: StatusCode, body: &'body [u8]) -> Result<T, CheckError> {
    serde_json::from_slice(body).map_err(|error| not_patroni(status, body, &error))
}

/// `GET /primary`, the parts of it that we use. Numbers may be missing or null in any of Patroni's states.
#[derive(Debug, Deserialize)]
struct StatusAnswer {
    state: String,
    role: Option<String>,
    timeline: Option<u32>,
    server_version: Option<u32>,
    #[serde(default)]
    xlog: XlogAnswer,
    replication_state: Option<String>,
    #[serde(default)]
    sync_standby: bool,
    #[serde(default)]
    quorum_standby: bool,
    #[serde(default)]
    pause: bool,
    #[serde(default)]
    failsafe_mode_is_active: bool,
    #[serde(default)]
    pending_restart: bool,
    database_system_identifier: Option<String>,
    postmaster_start_time: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, serde_json::Value>,
    patroni: Option<PatroniAnswer>,
}

#[derive(Debug, Default, Deserialize)]
struct XlogAnswer {
    location: Option<u64>,
    received_location: Option<u64>,
    replayed_location: Option<u64>,
    /// As Python prints a datetime with a time zone: `2026-11-21 03:34:45.449670+00:00`.
    replayed_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct PatroniAnswer {
    version: Option<String>,
    scope: Option<String>,
    name: Option<String>,
}

impl StatusAnswer {
    fn report(self, holds_lock: bool, now: Timestamp) -> Report {
        let PatroniAnswer { version, scope, name } = self.patroni.unwrap_or_default();
        Report {
            holds_lock,
            noloadbalance: self.tags.get("noloadbalance").is_some_and(is_true),
            postmaster_start: self.postmaster_start_time,
            claim: claim(holds_lock, self.role.as_deref().unwrap_or_default(), &self.state),
            state: self.state,
            timeline: self.timeline.filter(|timeline| *timeline > 0),
            position: self.xlog.location.or(self.xlog.replayed_location).map(Lsn),
            received: self.xlog.received_location.map(Lsn),
            replay_delay: self.xlog.replayed_timestamp.as_deref().and_then(|at| time_since(at, now)),
            replication_state: self.replication_state,
            sync: match (self.sync_standby, self.quorum_standby) {
                (true, _) => SyncStanding::Sync,
                (false, true) => SyncStanding::Quorum,
                (false, false) => SyncStanding::Async,
            },
            tags: self.tags.into_iter().map(|(name, value)| (name, tag_text(&value))).collect(),
            name,
            scope,
            system_identifier: self.database_system_identifier,
            server_version: self.server_version,
            patroni_version: version,
            paused: self.pause,
            failsafe: self.failsafe_mode_is_active,
            pending_restart: self.pending_restart,
            patroni_error: None,
        }
    }
}

/// The claim that follows from lock, role and state. Patroni 3 says `master` where Patroni 4 says `primary`.
///
/// The state "unknown" means that PostgreSQL runs but did not answer Patroni's own query, because Patroni's connection
/// was terminated or no connection was free. Then the role is the last one that Patroni knew.
fn claim(holds_lock: bool, role: &str, state: &str) -> Claim {
    match (holds_lock, role, state) {
        (true, "primary" | "master", "running" | "unknown") => Claim::Leader,
        (true, ..) => Claim::LockHolder,
        (false, "standby_leader", "running" | "unknown") => Claim::StandbyLeader,
        (false, "replica", "running" | "unknown") => Claim::Replica,
        (false, "primary" | "master", "running" | "unknown") => Claim::UnlockedPrimary,
        _ => Claim::OutOfService,
    }
}

/// Whether Python, in which Patroni is written, takes a tag's value for true: every text but the empty one, "false" and
/// "no" among them, and every number but zero.
fn is_true(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => false,
        serde_json::Value::Bool(value) => *value,
        serde_json::Value::Number(number) => number.as_f64() != Some(0.0),
        serde_json::Value::String(text) => !text.is_empty(),
        serde_json::Value::Array(items) => !items.is_empty(),
        serde_json::Value::Object(fields) => !fields.is_empty(),
    }
}

/// The time from `then` to `now`; zero if the server's clock is ahead of ours, nothing if it is no time.
fn time_since(then: &str, now: Timestamp) -> Option<Duration> {
    let then: Timestamp = then.parse().ok()?;
    Some(Duration::try_from(now.duration_since(then)).unwrap_or_default())
}

fn tag_text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[derive(Debug, Deserialize)]
struct ClusterAnswer {
    members: Vec<MemberAnswer>,
    scheduled_switchover: Option<SwitchoverAnswer>,
}

#[derive(Debug, Deserialize)]
struct SwitchoverAnswer {
    at: String,
    from: Option<String>,
    to: Option<String>,
}

impl ClusterAnswer {
    fn discovery(self) -> Discovery {
        let scheduled_switchover = self.scheduled_switchover.map(|planned| {
            let to = planned.to.as_deref().unwrap_or("any replica");
            let from = planned.from.as_deref().unwrap_or("the leader");
            format!("switchover from {from} to {to} planned for {}", planned.at)
        });
        let members = self.members.into_iter().filter_map(MemberAnswer::member).collect();
        Discovery { members, named: Vec::new(), scheduled_switchover }
    }
}

/// A member in `GET /cluster`. One that has just been added may have no address yet.
#[derive(Debug, Deserialize)]
struct MemberAnswer {
    name: String,
    host: Option<String>,
    port: Option<u16>,
    api_url: Option<String>,
}

impl MemberAnswer {
    fn member(self) -> Option<Member> {
        let (host, port, api_url) = (self.host?, self.port?, self.api_url?);
        // api_url is the health check's path too: http://10.0.0.1:8008/patroni
        let base = reqwest::Url::parse(&api_url).ok()?.join("/").ok()?;
        let (address, patroni_url) = (HostPort::new(&host, port).ok()?, base.as_str().trim_end_matches('/').to_owned());
        Some(Member { is_discovered: true, ..Member::new(self.name, address, patroni_url) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a Patroni 4.1.5 leader with one streaming replica.
    const LEADER: &str = r#"{"state": "running", "postmaster_start_time": "2026-11-21 02:00:00.1+00:00",
        "role": "primary", "server_version": 150018, "xlog": {"location": 67110128}, "timeline": 1,
        "replication": [{"usename": "replicator", "application_name": "node2", "client_addr": "127.0.0.1",
        "state": "streaming", "sync_state": "async", "sync_priority": 0}], "dcs_last_seen": 1795226400,
        "database_system_identifier": "7574897023459823469", "patroni": {"version": "4.1.5", "scope": "demo",
        "name": "node1"}}"#;

    /// From a Patroni 4.1.5 replica.
    const REPLICA: &str = r#"{"state": "running", "role": "replica", "server_version": 150018,
        "xlog": {"received_location": 67110128, "replayed_location": 67110000, "replayed_timestamp": "2026-11-21 04:34:45.500000+01:00",
        "paused": false}, "sync_standby": true, "timeline": 1, "replication_state": "streaming", "pause": true,
        "tags": {"noloadbalance": true, "dc": "east"}, "database_system_identifier": "7574897023459823469",
        "patroni": {"version": "4.1.5", "scope": "demo", "name": "node2"}}"#;

    fn report(json: &str, holds_lock: bool) -> Report {
        parse::<StatusAnswer>(StatusCode::OK, json.as_bytes())
            .expect("is a status")
            .report(holds_lock, "2026-11-21 03:34:50Z".parse().expect("is a time"))
    }

    #[test]
    fn all_of_a_leaders_answer_is_read() {
        let leader = report(LEADER, true);
        assert_eq!(leader.claim, Claim::Leader);
        assert_eq!((leader.timeline, leader.position), (Some(1), Some(Lsn(67_110_128))));
        assert_eq!(leader.scope.as_deref(), Some("demo"));
        assert_eq!(leader.system_identifier.as_deref(), Some("7574897023459823469"));
    }

    #[test]
    fn all_of_a_replicas_answer_is_read() {
        let replica = report(REPLICA, false);
        assert_eq!(replica.claim, Claim::Replica);
        assert_eq!((replica.position, replica.received), (Some(Lsn(67_110_000)), Some(Lsn(67_110_128))));
        assert_eq!(replica.replay_delay, Some(Duration::from_millis(4_500)));
        assert_eq!(replica.sync, SyncStanding::Sync);
        assert!(replica.noloadbalance && replica.paused);
        assert_eq!(replica.tags["dc"], "east");
    }

    #[test]
    fn the_lock_alone_does_not_make_a_leader() {
        assert_eq!(claim(true, "master", "running"), Claim::Leader, "Patroni 3");
        assert_eq!(claim(true, "primary", "stopping"), Claim::LockHolder);
        assert_eq!(claim(true, "primary", "unknown"), Claim::Leader, "Patroni could not ask");
        assert_eq!(claim(true, "replica", "running"), Claim::LockHolder, "being promoted");
        assert_eq!(claim(false, "primary", "running"), Claim::UnlockedPrimary, "its Patroni has just started");
        assert_eq!(claim(false, "standby_leader", "running"), Claim::StandbyLeader);
        assert_eq!(claim(false, "replica", "starting"), Claim::OutOfService);
    }

    #[test]
    fn the_short_answer_of_a_stopped_node_is_enough() {
        let stopped = report(r#"{"state": "stopped", "role": "demoted", "timeline": 0}"#, false);
        assert_eq!((stopped.claim, stopped.timeline), (Claim::OutOfService, None));
    }

    #[test]
    fn members_have_both_addresses() {
        let answer: ClusterAnswer = parse(
            StatusCode::OK,
            br#"{"members": [{"name": "node1", "role": "leader", "state": "running", "host": "10.0.0.1",
            "port": 5432, "api_url": "http://10.0.0.1:8008/patroni", "timeline": 1},
            {"name": "node2", "role": "replica", "state": "running", "host": "fd00::2", "port": 5432,
            "api_url": "https://[fd00::2]:8008/patroni", "lag": "unknown"}, {"name": "new"}], "scope": "demo",
            "scheduled_switchover": {"at": "2026-11-22T03:00:00+00:00", "from": "node1"}}"#,
        )
        .expect("is a cluster");
        let Discovery { members, scheduled_switchover, .. } = answer.discovery();
        let planned = "switchover from node1 to any replica planned for 2026-11-22T03:00:00+00:00";
        assert_eq!(scheduled_switchover.as_deref(), Some(planned));
        assert_eq!(members[0].patroni_url, "http://10.0.0.1:8008");
        assert_eq!(members[1].address.to_string(), "[fd00::2]:5432");
        assert_eq!(members.len(), 2, "the one without an address is left out");
    }

    #[test]
    fn an_answer_that_is_not_patronis_is_an_error() {
        assert!(matches!(parse::<StatusAnswer>(StatusCode::OK, b"<html>"), Err(CheckError::Garbled(_))));
        assert!(matches!(parse::<StatusAnswer>(StatusCode::OK, b"{}"), Err(CheckError::Garbled(_))));
    }
}
