//! Which nodes Patroni's REST API says yes to, for a method, a path and a query: as `do_GET` and `parse_request` of
//! patroni/api.py (3.3 to 4.1) decide it. Paths are searched for words, in this order.

/// What a node can be. The check's target follows from the nodes that it says yes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node {
    pub role: Role,
    pub is_noloadbalance: bool,
    /// More than any limit.
    pub lags: bool,
    /// Has all tags that are asked for.
    pub has_tags: bool,
    pub is_running: bool,
    /// Patroni before version 4 says "master" in place of "primary".
    pub says_master: bool,
}

/// The role of a node and its part in synchronous replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Leader,
    StandbyLeader,
    Sync,
    Quorum,
    Async,
}

impl Node {
    /// A running node that meets every condition.
    pub const fn of(role: Role) -> Node {
        Node { role, is_noloadbalance: false, lags: false, has_tags: true, is_running: true, says_master: false }
    }

    fn replica(self) -> bool {
        matches!(self.role, Role::Sync | Role::Quorum | Role::Async)
    }
}

/// A request for the REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    pub method: String,
    /// The path alone.
    pub path: String,
    /// Names and values of the query, decoded.
    pub query: Vec<(String, String)>,
}

/// Where `GET /word` goes in place of the search for words.
const OWN_GETS: [&str; 8] = ["patroni", "cluster", "history", "config", "metrics", "liveness", "readiness", "failsafe"];

impl Ask {
    /// From what a check sends: `/replica?lag=16MB`, or a whole URL.
    pub fn read(method: &str, target: &str) -> Ask {
        let target = target.split('#').next().unwrap_or_default();
        let target = match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
            None => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pair = |text: &str| {
            let (name, value) = text.split_once('=')?;
            // parse_qs leaves names without a value away
            (!value.is_empty()).then(|| (decoded(name), decoded(value)))
        };
        let query = query.split('&').filter_map(pair).collect();
        Ask { method: method.to_owned(), path: path.to_owned(), query }
    }

    /// The first value of a name in the query.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// `lag`, in bytes, where Patroni can read it.
    pub fn lag_bytes(&self) -> Option<u64> {
        self.value("lag").and_then(bytes)
    }

    /// The tags that are asked for; the first value of each counts.
    pub fn tags(&self) -> Vec<(&str, &str)> {
        let mut tags: Vec<(&str, &str)> = Vec::new();
        for (name, value) in &self.query {
            let Some(tag) = name.strip_prefix("tag_") else { continue };
            if tags.iter().all(|(known, _)| *known != tag) {
                tags.push((tag, value));
            }
        }
        tags
    }

    /// The word of the path that `GET` sends elsewhere.
    pub fn own_get(&self) -> Option<&'static str> {
        let first = self.path.trim_start_matches('/').split('/').next().unwrap_or_default();
        OWN_GETS.into_iter().find(|own| self.method == "GET" && *own == first)
    }

    /// Patroni's answer: status and body; `None` if the request is none that it can answer.
    pub fn answer(&self, node: Node) -> Option<(u16, String)> {
        if !matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS") {
            return Some((501, String::new()));
        }
        if let Some(own) = self.own_get() {
            return match own {
                "patroni" => Some((200, body(node))),
                "readiness" => {
                    Some((if node.is_running || node.role == Role::Leader { 200 } else { 503 }, String::new()))
                }
                "liveness" => Some((200, String::new())),
                _ => Some((200, String::new())),
            };
        }
        let status = if self.says_yes(node) { 200 } else { 503 };
        Some((status, if self.method == "GET" { body(node) } else { String::new() }))
    }

    fn says_yes(&self, node: Node) -> bool {
        let path = if self.path == "/" { "/primary" } else { &self.path };
        let has = |word: &str| path.contains(word);
        let is_lagging = node.lags && self.lag_bytes().is_some();
        let replica = node.replica() && node.is_running && !node.is_noloadbalance && !is_lagging;
        let leads_standbys = node.role == Role::StandbyLeader;
        let primary = node.role == Role::Leader;
        if has("standby_leader") || has("standby-leader") {
            return leads_standbys;
        }
        if has("leader") {
            return primary || leads_standbys;
        }
        if has("master") || has("primary") || has("read-write") {
            return primary;
        }
        let yes = if has("replica") {
            replica
        } else if has("read-only") && !has("sync") && !has("quorum") {
            primary || leads_standbys || replica
        } else if has("health") {
            node.is_running
        } else {
            match path {
                "/sync" | "/synchronous" => replica && node.role == Role::Sync,
                "/quorum" => replica && node.role == Role::Quorum,
                "/async" | "/asynchronous" => replica && node.role == Role::Async,
                "/read-only-quorum" => primary || leads_standbys || (replica && node.role == Role::Quorum),
                "/read-only-sync" | "/read-only-synchronous" => {
                    primary || leads_standbys || (replica && node.role == Role::Sync)
                }
                _ => false,
            }
        };
        yes && (node.has_tags || self.tags().is_empty())
    }

    /// The part of the path in front of the one word that Patroni looks for, where there is one: `/pg` of `/pg/master`.
    pub fn word_in_front(&self) -> Option<&str> {
        let trimmed = self.path.trim_end_matches('/');
        let (front, _) = trimmed.rsplit_once('/')?;
        (!front.trim_matches('/').is_empty()).then_some(front)
    }
}

/// The JSON of `GET`, as far as checks look into it.
fn body(node: Node) -> String {
    let role = match node.role {
        Role::Leader if node.says_master => "master",
        Role::Leader => "primary",
        Role::StandbyLeader => "standby_leader",
        _ => "replica",
    };
    let state = if node.is_running { "running" } else { "stopped" };
    let standing = match node.role {
        Role::Sync => "\"sync_standby\": true, ",
        Role::Quorum => "\"quorum_standby\": true, ",
        _ => "",
    };
    let xlog = if node.replica() {
        "{\"received_location\": 67108864, \"replayed_location\": 67108864, \"replayed_timestamp\": null, \"paused\": false}"
    } else {
        "{\"location\": 67108864}"
    };
    let tags = if node.is_noloadbalance { "\"tags\": {\"noloadbalance\": true}, " } else { "" };
    let version = if node.says_master { "3.3.0" } else { "4.1.0" };
    format!(
        "{{\"state\": \"{state}\", \"postmaster_start_time\": \"2026-01-01 00:00:00.000000+00:00\", \"role\": \"{role}\", \
         \"server_version\": 150000, \"xlog\": {xlog}, {standing}\"timeline\": 1, \"dcs_last_seen\": 1767225600, {tags}\
         \"database_system_identifier\": \"7000000000000000000\", \"patroni\": {{\"version\": \"{version}\", \
         \"scope\": \"demo\", \"name\": \"pg\"}}}}"
    )
}

/// `lag` as Patroni's `parse_int(value, 'B')` reads it. `None`: Patroni cannot, and checks no lag.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(rest) => (rest, 16),
        None => (text, 10),
    };
    let is_fraction = |c: char| radix == 10 && (c == '.' || c.is_ascii_digit());
    let end = digits.find(|c: char| !(c.is_digit(radix) || is_fraction(c))).unwrap_or(digits.len());
    let (number, unit) = digits.split_at(end);
    let number = if radix == 16 { u64::from_str_radix(number, 16).ok()? as f64 } else { number.parse::<f64>().ok()? };
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    Some((number * factor as f64).round() as u64)
}

/// Decodes `%41` and `+`.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let hex = |ahead: usize| bytes.get(at + ahead).and_then(|byte| (*byte as char).to_digit(16));
        match (bytes[at], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_read_as_patroni_reads_it() {
        for (text, expected) in [
            ("16MB", Some(16 << 20)),
            ("33554432", Some(33_554_432)),
            ("1kB", Some(1024)),
            ("0x10", Some(16)),
            ("1.5MB", Some(3 << 19)),
            (" 10 MB ", Some(10 << 20)),
            ("2gb", None),
            ("16mb", None),
            ("10M", None),
            ("{{max_lag}}", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn paths_are_searched_in_patronis_order() {
        let yes = |method: &str, path: &str| {
            let ask = Ask::read(method, path);
            let roles = [Role::Leader, Role::StandbyLeader, Role::Sync, Role::Quorum, Role::Async];
            let letters = ["L", "l", "S", "Q", "A"];
            let accepted = |role: &Role| ask.answer(Node::of(*role)).is_some_and(|(status, _)| status == 200);
            roles.iter().zip(letters).filter(|(role, _)| accepted(role)).map(|(_, letter)| letter).collect::<String>()
        };
        for (path, expected) in [
            ("/", "L"),
            ("/primary", "L"),
            ("/pg/master", "L"),
            ("/read-write", "L"),
            ("/leader", "Ll"),
            ("/my-leader-check", "Ll"),
            ("/standby-leader", "l"),
            ("/standby_leader", "l"),
            ("/replica", "SQA"),
            ("/replicas/", "SQA"),
            ("/replica?tag_zone=a&lag=1MB", "SQA"),
            ("/read-only", "LlSQA"),
            ("/read-only-sync", "LlS"),
            ("/read-only-quorum", "LlQ"),
            ("/health", "LlSQA"),
            ("/sync", "S"),
            ("/synchronous", "S"),
            ("/async", "A"),
            ("/quorum", "Q"),
            ("/async/", ""),
            ("/synced", ""),
            ("/standby", ""),
            ("", ""),
            ("/patroni", ""),
            ("http://pg1:8008/replica", "SQA"),
        ] {
            assert_eq!(yes("OPTIONS", path), expected, "{path}");
        }
        assert_eq!(yes("GET", "/patroni/replica"), "LlSQA", "GET /patroni goes elsewhere before words are looked for");
        assert_eq!(yes("OPTIONS", "/patroni/replica"), "SQA");
        assert_eq!(yes("get", "/replica"), "");
    }
}
