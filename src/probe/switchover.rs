//! Asks Patroni for a switchover: `POST /switchover`, as `patronictl switchover` does.
//!
//! What the answers mean was read in Patroni's source (`patroni/api.py`, `do_POST_failover` and `poll_failover_result`,
//! versions 3 and 4): Patroni writes the request into the DCS and then waits for its outcome, for twice `loop_wait`
//! seconds and at least 20.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use tokio::time::timeout;

use super::patroni::{Patroni, RestApi};
use super::rest_client::PostError;
use crate::config;
use crate::net::Resolver;

/// How long Patroni may take to answer: longer than it waits with a `loop_wait` of a minute.
const ANSWER_WITHIN: Duration = Duration::from_secs(180);

/// The longest text of an answer that is shown, in characters.
const TEXT_LENGTH_MAX: usize = 300;

/// What Patroni answers to a request that it still may fulfil.
const STATUS_UNKNOWN: &str = "status unknown";

/// A request for a switchover, by the names that the nodes have in Patroni.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchoverRequest {
    /// The node that leads.
    pub leader: String,
    /// The node that is to lead; Patroni chooses if `None`.
    pub candidate: Option<String>,
}

/// Why there is no switchover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoSwitchover {
    /// There will be none: Patroni has refused or given up, or no API has got the request. Holds the reason.
    Refused(String),
    /// It is not known: there may still be one. Holds the reason.
    Unknown(String),
}

impl fmt::Display for NoSwitchover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (NoSwitchover::Refused(why) | NoSwitchover::Unknown(why)) = self;
        f.write_str(why)
    }
}

/// Asks one of these APIs, in this order, for a switchover; the next one only if the one before has not got the request.
/// Returns Patroni's answer in words. Ends within three minutes.
///
/// Cancelled, the switchover may take place or not.
pub async fn switch_over(
    cluster: &config::Cluster,
    names: &Arc<Resolver>,
    apis: &[RestApi],
    request: &SwitchoverRequest,
) -> Result<String, NoSwitchover> {
    let patroni = Patroni::new(cluster, names).map_err(|error| NoSwitchover::Refused(error.to_string()))?;
    let json = match &request.candidate {
        Some(candidate) => serde_json::json!({ "leader": request.leader, "candidate": candidate }),
        None => serde_json::json!({ "leader": request.leader }),
    };
    let login = cluster.patroni_login.as_ref();
    let mut failures = Vec::new();
    for api in apis {
        let answered = patroni.post(api, "/switchover", login, json.to_string());
        match timeout(ANSWER_WITHIN, answered).await {
            Ok(Ok((status, text))) => return outcome(status, &text, login.is_some()),
            Ok(Err(PostError::NotSent(why))) => failures.push(format!("{}: {why}", api.url)),
            Ok(Err(PostError::NoAnswer(why))) => return Err(NoSwitchover::Unknown(format!("{}: {why}", api.url))),
            Err(_) => {
                let seconds = ANSWER_WITHIN.as_secs();
                return Err(NoSwitchover::Unknown(format!("{}: no answer within {seconds} s", api.url)));
            }
        }
    }
    Err(NoSwitchover::Refused(format!("no REST API of the cluster can be connected to: {}", failures.join("; "))))
}

fn outcome(status: StatusCode, text: &str, has_login: bool) -> Result<String, NoSwitchover> {
    let said: String = text.trim().chars().filter(|c| !c.is_control()).take(TEXT_LENGTH_MAX).collect();
    match status {
        StatusCode::OK => Ok(said),
        StatusCode::UNAUTHORIZED if has_login => Err(NoSwitchover::Refused(
            "Patroni refuses user or password of [cluster.patroni_login]: they must be those of restapi.authentication \
             in patroni.yml"
                .to_owned(),
        )),
        StatusCode::UNAUTHORIZED => Err(NoSwitchover::Refused(
            "Patroni requires a login: add [cluster.patroni_login] with user and password of restapi.authentication in \
             patroni.yml"
                .to_owned(),
        )),
        StatusCode::FORBIDDEN => Err(NoSwitchover::Refused(format!(
            "Patroni refuses pgvane's address or certificate (restapi.allowlist, restapi.verify_client): {said}"
        ))),
        _ if said.ends_with(STATUS_UNKNOWN) => Err(NoSwitchover::Unknown(format!("Patroni says: {said}"))),
        _ if said.is_empty() => Err(NoSwitchover::Refused(format!("Patroni answers with HTTP status {status}"))),
        _ => Err(NoSwitchover::Refused(format!("Patroni says: {said}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_there_may_still_be_a_switchover() {
        let of = |status: u16, text: &str| outcome(StatusCode::from_u16(status).expect("is one"), text, false);
        assert_eq!(
            of(200, "Successfully switched over to \"b\"\n"),
            Ok("Successfully switched over to \"b\"".to_owned())
        );
        let refused = |text: &str| Err(NoSwitchover::Refused(text.to_owned()));
        assert_eq!(of(412, "leader name does not match"), refused("Patroni says: leader name does not match"));
        assert_eq!(of(503, "Switchover failed"), refused("Patroni says: Switchover failed"));
        assert_eq!(of(502, ""), refused("Patroni answers with HTTP status 502 Bad Gateway"));
        let unknown = NoSwitchover::Unknown("Patroni says: Switchover status unknown".to_owned());
        assert_eq!(of(503, "Switchover status unknown"), Err(unknown));
    }

    #[test]
    fn a_missing_login_is_told_apart_from_a_wrong_one() {
        for (has_login, word) in [(false, "requires a login"), (true, "refuses user or password")] {
            let error =
                outcome(StatusCode::UNAUTHORIZED, "no auth header received", has_login).expect_err("is refused");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
