//! The commands that change something: the same actions as over HTTP, and recorded as these are.

use super::place::Place;
use super::session_lines;
use crate::admin::actions::{Target, close_sessions};
use crate::admin::context::AdminContext;
use crate::admin::operator_log::Operator;
use crate::admin::query::Query;
use crate::admin::refusal::{CONFIGURED, Refusal};
use crate::admin::sessions::Wanted;
use crate::admin::status::Status;
use crate::cluster::AdminState;
use crate::cluster::node::WEIGHT_MAX;

/// The word behind a command that does it also if the node is the leader.
const ALLOW_LEADER: &str = "leader";

/// `set server <b>/<s> state|weight …`. Errors: HAProxy's text, or why the action was refused.
pub(super) async fn server(context: &AdminContext, by: Operator<'_>, words: &[String]) -> Result<(), String> {
    let status = Status::of(context);
    let place = Place::find(&status, words.first())?;
    let rest = words.get(2..).unwrap_or_default();
    match words.get(1).map(String::as_str) {
        Some("state") => match rest.first().and_then(|word| AdminState::from_label(word)) {
            Some(state) => set_state(context, by, place, state, &rest[1..]).await,
            None => Err("'set server <srv> state' expects 'ready', 'drain' and 'maint'.\n".to_owned()),
        },
        Some("weight") => set_weight(context, by, place, rest.first()).await,
        _ => Err("usage: set server <backend>/<server> state | weight\n".to_owned()),
    }
}

/// `disable server`, `enable server`. Errors: as for `set server`.
pub(super) async fn state(
    context: &AdminContext,
    by: Operator<'_>,
    state: AdminState,
    words: &[String],
) -> Result<(), String> {
    let status = Status::of(context);
    let place = Place::find(&status, words.first())?;
    set_state(context, by, place, state, &words[1..]).await
}

/// `set weight <b>/<s> <weight>`. Errors: as for `set server`.
pub(super) async fn weight(context: &AdminContext, by: Operator<'_>, words: &[String]) -> Result<(), String> {
    let status = Status::of(context);
    let place = Place::find(&status, words.first())?;
    set_weight(context, by, place, words.get(1)).await
}

/// `get weight <b>/<s>`. Errors: HAProxy's text.
pub(super) fn weight_of(status: &Status, words: &[String]) -> Result<String, &'static str> {
    let node = Place::find(status, words.first())?.node;
    Ok(format!("{} (initial {})\n", node.weight, node.weight_configured))
}

/// `shutdown session <id>`. Errors: HAProxy's text.
pub(super) fn shut_down_session(context: &AdminContext, by: Operator<'_>, words: &[String]) -> Result<(), String> {
    let id = words.first().and_then(|word| session_lines::id(word));
    let id = id.ok_or("Session pointer expected (use 'show sess').\n")?.to_string();
    match close_sessions(context, by, &Wanted::of(&Query::of([("session", id.as_str())]))) {
        Err(Refusal::UnknownSession(_)) => Err("No such session (use 'show sess').\n".to_owned()),
        outcome => outcome.map(drop).map_err(|refusal| text(&refusal)),
    }
}

/// `shutdown sessions server <b>/<s>`: those of this listener on this node. Errors: HAProxy's text.
pub(super) fn shut_down_sessions(context: &AdminContext, by: Operator<'_>, words: &[String]) -> Result<(), String> {
    let status = Status::of(context);
    let Place { listener, cluster, node } = Place::find(&status, words.first())?;
    let listener = listener.map_or("", |listener| listener.name.as_str());
    let fields = [("node", node.name.as_str()), ("listener", listener), ("cluster", cluster.name.as_str())];
    close_sessions(context, by, &Wanted::of(&Query::of(fields))).map(drop).map_err(|refusal| text(&refusal))
}

async fn set_state(
    context: &AdminContext,
    by: Operator<'_>,
    place: Place<'_>,
    state: AdminState,
    options: &[String],
) -> Result<(), String> {
    let allows_leader = options.iter().any(|word| word == ALLOW_LEADER);
    let outcome = target(place).set_state(context, by, state.label(), allows_leader).await;
    outcome.map(drop).map_err(|refusal| text(&refusal))
}

async fn set_weight(
    context: &AdminContext,
    by: Operator<'_>,
    place: Place<'_>,
    given: Option<&String>,
) -> Result<(), String> {
    let weight = weight_to_set(given.map_or("", String::as_str), place.node.weight_configured)?;
    let outcome = target(place).set_weight(context, by, &weight).await;
    outcome.map(drop).map_err(|refusal| text(&refusal))
}

fn target(place: Place<'_>) -> Target<'_> {
    Target { cluster: &place.cluster.name, node: &place.node.name }
}

/// The weight that is meant by a number, or by a percentage of the configured weight. Errors: what is wrong with it.
fn weight_to_set(given: &str, configured: u32) -> Result<String, String> {
    if given.is_empty() {
        return Err("Require <weight> or <weight%>.\n".to_owned());
    }
    let (digits, is_percentage) = given.strip_suffix('%').map_or((given, false), |digits| (digits, true));
    let number = digits.parse::<i64>().map_err(|_| match digits.starts_with(|first: char| first.is_ascii_digit()) {
        true => "Trailing garbage in weight string", // as in HAProxy, without an empty line behind it
        false => "Empty weight string empty or preceded by garbage",
    })?;
    if number == 0 {
        return Err(
            "A weight of 0 is not possible: to send the server no new sessions, use 'set server <b>/<s> state \
                    drain'.\n"
                .to_owned(),
        );
    }
    match is_percentage {
        true if number < 0 => Err("Relative weight must be positive.\n".to_owned()),
        true if number == 100 => Ok(CONFIGURED.to_owned()),
        true => {
            let weight = i64::from(configured).saturating_mul(number) / 100;
            Ok(weight.clamp(1, WEIGHT_MAX.into()).to_string())
        }
        false if (1..=i64::from(WEIGHT_MAX)).contains(&number) => Ok(number.to_string()),
        false => Err(format!("Absolute weight can only be between 1 and {WEIGHT_MAX} inclusive.\n")),
    }
}

fn text(refusal: &Refusal) -> String {
    match refusal {
        Refusal::UnknownCluster(_) => "No such backend.\n".to_owned(),
        Refusal::UnknownNode(_) => "No such server.\n".to_owned(),
        Refusal::IsLeader(name) => format!(
            "{name} is the leader: its write sessions would be closed, and new ones would wait for another leader, at most \
             for hold_max; to do it, add the word '{ALLOW_LEADER}' to the command.\n"
        ),
        other => format!("{}.\n", other.why()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_number_or_a_percentage_of_the_configured_one() {
        let weight = |given| weight_to_set(given, 50);
        for (given, expected) in
            [("7", "7"), ("10000", "10000"), ("50%", "25"), ("200%", "100"), ("1%", "1"), ("100%", CONFIGURED)]
        {
            assert_eq!(weight(given).as_deref(), Ok(expected), "{given}");
        }
        for (given, error) in [
            ("", "Require <weight>"),
            ("x", "preceded by garbage"),
            ("7x", "Trailing garbage"),
            ("0", "state drain"),
            ("0%", "state drain"),
            ("-1", "between 1 and 10000"),
            ("10001", "between 1 and 10000"),
            ("-5%", "must be positive"),
            ("99999999999999999999", "Trailing garbage"),
        ] {
            let answer = weight(given).expect_err(given);
            assert!(answer.contains(error), "{given}: {answer}");
        }
    }
}
