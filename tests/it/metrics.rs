//! What a running pgvane counts, read from its `/metrics`.

use std::collections::BTreeMap;

use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::wait;

use crate::wire::SOON;

/// Every series with its value, as printed: `pgvane_sessions{listener="read"}`.
pub async fn all(pgvane: &Pgvane) -> BTreeMap<String, f64> {
    parse(&pgvane.admin_get("/metrics").await.expect("the metrics are served").body)
}

/// One series; it must exist.
pub async fn value(pgvane: &Pgvane, series: &str) -> f64 {
    let all = all(pgvane).await;
    *all.get(series).unwrap_or_else(|| panic!("{series} is not among {:?}", all.keys()))
}

/// Waits until a series has this value.
pub async fn wait_for(pgvane: &Pgvane, series: &str, wanted: f64) {
    wait_until(pgvane, series, &format!("{wanted}"), |seen| (seen - wanted).abs() < f64::EPSILON).await;
}

/// Waits until a series has grown beyond this value.
pub async fn wait_for_more(pgvane: &Pgvane, series: &str, than: f64) {
    wait_until(pgvane, series, &format!("above {than}"), |seen| seen > than).await;
}

async fn wait_until(pgvane: &Pgvane, series: &str, wanted: &str, is_wanted: impl Fn(f64) -> bool) {
    let look = || async {
        let seen = value(pgvane, series).await;
        if is_wanted(seen) { Ok(()) } else { Err(format!("it is {seen}")) }
    };
    let waited = wait::until(&format!("{series} {wanted}"), SOON, look).await;
    waited.unwrap_or_else(|error| panic!("{error}\npgvane's log:\n{}", pgvane.log_text()));
}

/// Waits until so many connections of a listener have ended for this reason.
pub async fn wait_for_ends(pgvane: &Pgvane, listener: &str, reason: &str, wanted: u32) {
    let series = format!("pgvane_session_ends_total{{listener=\"{listener}\",reason=\"{reason}\"}}");
    wait_for(pgvane, &series, wanted.into()).await;
}

/// Reads Prometheus' text format strictly: a line that is none of it fails the test, as does a series without a type.
pub fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    let mut typed = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            typed.extend(comment.strip_prefix("TYPE ").and_then(|rest| rest.split(' ').next()));
            continue;
        }
        let (name, number) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no series: {line:?}"));
        let family = name.split('{').next().unwrap_or(name);
        assert!(typed.iter().any(|known| family.starts_with(known)), "{line:?} has no # TYPE line before it");
        let value = number.parse().unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert!(series.insert(name.to_owned(), value).is_none(), "{name} is there twice");
    }
    series
}
