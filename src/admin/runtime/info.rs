//! `show info` and `show version`: what is true of the process, by HAProxy's names. What pgvane does not have is left out.

use serde_json::{Value as Json, json};

use crate::admin::status::{Listener, Status};

/// A field of `show info`.
struct Field {
    /// Its place in HAProxy.
    place: u32,
    name: &'static str,
    /// HAProxy's tags for it: origin, nature, scope.
    tags: [&'static str; 3],
    /// `str`, `u32` or `u64`.
    kind: &'static str,
    value: String,
}

const PRODUCT: [&str; 3] = ["Product", "Output", "Service"];
const LIMIT: [&str; 3] = ["Config", "Limit", "Process"];
const GAUGE: [&str; 3] = ["Metric", "Gauge", "Process"];
const COUNTER: [&str; 3] = ["Metric", "Counter", "Process"];
const RATE: [&str; 3] = ["Metric", "Rate", "Process"];
const DURATION: [&str; 3] = ["Metric", "Duration", "Process"];

/// `show info [json|typed]`.
pub(super) fn info(status: &Status, words: &[String]) -> String {
    let fields = fields(status);
    let has = |form: &str| words.iter().any(|word| word == form);
    match () {
        () if has("json") => Json::from(fields.iter().map(object).collect::<Vec<Json>>()).to_string() + "\n",
        () if has("typed") => fields.iter().map(typed).collect(),
        () => fields.iter().map(|field| format!("{}: {}\n", field.name, field.value)).collect(),
    }
}

fn fields(status: &Status) -> Vec<Field> {
    let process = &status.process;
    let sum = |of: fn(&Listener) -> u64| status.listeners.iter().map(of).sum::<u64>();
    let connections = sum(|listener| (listener.sessions + listener.pending) as u64);
    let connects = sum(|listener| listener.connects_per_second.into());
    let accepted = sum(|listener| listener.sessions_total);
    let sessions_max = sum(|listener| listener.sessions_max as u64);
    let listeners = status.listeners.len() as u64;
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let text = |place, name, tags, value: String| Field { place, name, tags, kind: "str", value };
    let number = |place, name, tags, value: u64| {
        let kind = if name == "TotalBytesOut" { "u64" } else { "u32" };
        Field { place, name, tags, kind, value: value.to_string() }
    };
    vec![
        text(0, "Name", PRODUCT, "pgvane".to_owned()),
        text(1, "Version", PRODUCT, status.version.clone()),
        number(3, "Nbthread", ["Config", "Gauge", "Service"], process.threads as u64),
        number(4, "Nbproc", ["Config", "Gauge", "Service"], 1),
        number(5, "Process_num", ["Key", "Gauge", "Process"], 1),
        number(6, "Pid", ["Status", "Gauge", "Process"], std::process::id().into()),
        text(7, "Uptime", DURATION, uptime(status.uptime_seconds)),
        number(8, "Uptime_sec", DURATION, status.uptime_seconds),
        number(13, "Ulimit-n", LIMIT, process.descriptors_max as u64),
        number(14, "Maxsock", LIMIT, process.descriptors_max as u64),
        number(15, "Maxconn", LIMIT, sessions_max),
        number(16, "Hard_maxconn", LIMIT, sessions_max),
        number(17, "CurrConns", GAUGE, connections),
        number(18, "CumConns", COUNTER, accepted),
        number(19, "CumReq", COUNTER, accepted),
        number(26, "ConnRate", RATE, connects),
        number(27, "ConnRateLimit", LIMIT, 0),
        number(29, "SessRate", RATE, connects),
        number(30, "SessRateLimit", LIMIT, 0),
        text(50, "node", ["Config", "Output", "Service"], node),
        number(52, "Stopping", GAUGE, status.is_stopping.into()),
        number(53, "Jobs", GAUGE, connections + listeners),
        number(54, "Unstoppable Jobs", GAUGE, 0),
        number(55, "Listeners", GAUGE, listeners),
        number(58, "DroppedLogs", GAUGE, process.log_lines_lost),
        number(60, "FailedResolutions", GAUGE, status.name_lookups.failed),
        number(61, "TotalBytesOut", GAUGE, sum(|listener| listener.bytes_to_client)),
        text(66, "Build info", PRODUCT, format!("pgvane {}", status.version)),
        number(70, "Start_time_sec", DURATION, process.started_at),
    ]
}

/// HAProxy's form: `0d 1h02m03s`.
fn uptime(seconds: u64) -> String {
    format!("{}d {}h{:02}m{:02}s", seconds / 86_400, seconds % 86_400 / 3600, seconds % 3600 / 60, seconds % 60)
}

fn typed(field: &Field) -> String {
    let letters: String = field.tags.iter().map(|tag| &tag[..1]).collect();
    format!("{}.{}.1:{letters}:{}:{}\n", field.place, field.name, field.kind, field.value)
}

fn object(field: &Field) -> Json {
    let Field { place, name, tags: [origin, nature, scope], kind, value } = field;
    let value = if *kind == "str" { json!(value) } else { json!(value.parse::<u64>().unwrap_or_default()) };
    json!({
        "field": {"pos": place, "name": name},
        "processNum": 1,
        "tags": {"origin": origin, "nature": nature, "scope": scope},
        "value": {"type": kind, "value": value},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_have_the_same_values() {
        let listener = Listener { sessions: 3, pending: 1, sessions_max: 100, ..Listener::default() };
        let status = Status {
            version: "1.2".to_owned(),
            uptime_seconds: 93_784,
            listeners: vec![listener.clone(), listener],
            ..Status::default()
        };
        let ask = |form: &str| info(&status, &[form.to_owned()]);
        let (plain, typed) = (ask(""), ask("typed"));
        for line in ["Name: pgvane", "Uptime: 1d 2h03m04s", "Uptime_sec: 93784", "CurrConns: 8", "Maxconn: 200"] {
            assert!(plain.lines().any(|one| one == line), "{line} is not in\n{plain}");
        }
        for line in ["0.Name.1:POS:str:pgvane", "17.CurrConns.1:MGP:u32:8", "15.Maxconn.1:CLP:u32:200"] {
            assert!(typed.lines().any(|one| one == line), "{line} is not in\n{typed}");
        }
        let json: Json = serde_json::from_str(&ask("json")).expect("is JSON");
        assert_eq!(json[0]["value"]["value"], "pgvane");
        assert_eq!(json.as_array().map(Vec::len), Some(plain.lines().count()));
    }
}
