//! How many words HAProxy wants on a line. With too few or too many it refuses the file.

/// The directive (one word or two), and the least and the greatest number of words behind it.
const ARITIES: &[(&str, usize, usize)] = &[
    ("mode", 1, 1),
    ("maxconn", 1, 1),
    ("retries", 1, 1),
    ("nbthread", 1, 1),
    ("default_backend", 1, 1),
    ("ca-base", 1, 1),
    ("crt-base", 1, 1),
    ("chroot", 1, 1),
    ("user", 1, 1),
    ("group", 1, 1),
    ("uid", 1, 1),
    ("gid", 1, 1),
    ("pidfile", 1, 1),
    ("daemon", 0, 0),
    ("presetenv", 2, 2),
    ("setenv", 2, 2),
    ("errorfile", 2, 2),
    ("bind", 1, usize::MAX),
    ("acl", 2, usize::MAX),
    ("use_backend", 1, usize::MAX),
    ("server", 2, usize::MAX),
    ("timeout connect", 1, 1),
    ("timeout client", 1, 1),
    ("timeout server", 1, 1),
    ("timeout check", 1, 1),
    ("timeout queue", 1, 1),
    ("timeout tunnel", 1, 1),
    ("timeout client-fin", 1, 1),
    ("timeout server-fin", 1, 1),
    ("timeout http-request", 1, 1),
    ("timeout http-keep-alive", 1, 1),
    ("stats enable", 0, 0),
    ("stats uri", 1, 1),
    ("stats auth", 1, 1),
    ("stats realm", 1, usize::MAX),
    ("stats refresh", 1, 1),
    ("option httpchk", 0, 3),
    ("option tcp-check", 0, 0),
    ("option tcpka", 0, 0),
    ("option redispatch", 0, 1),
    ("ssl-default-server-options", 1, usize::MAX),
    ("ssl-default-bind-options", 1, usize::MAX),
];

/// The facilities of `log`.
const FACILITIES: &[&str] = &[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "auth2", "ftp", "ntp", "audit",
    "alert", "cron2", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

/// Why HAProxy refuses the line; `None` if the number of its words is right.
pub(super) fn fault(words: &[String], is_global: bool) -> Option<String> {
    let word = |place: usize| words.get(place).map_or("", String::as_str);
    if word(0) == "log" {
        return log(words, is_global);
    }
    let one = ARITIES.iter().find(|(name, ..)| *name == word(0));
    let two = format!("{} {}", word(0), word(1));
    let (found, behind) = match one {
        Some(found) => (found, words.len() - 1),
        None => (ARITIES.iter().find(|(name, ..)| *name == two)?, words.len() - 2),
    };
    let (name, least, most) = *found;
    let extra = words.len() - behind + most.min(behind);
    if behind < least || (least > 0 && word(words.len() - behind).is_empty()) {
        Some(format!("\"{name}\" has no value: HAProxy refuses the file"))
    } else if behind > most {
        Some(format!("\"{}\" is too much behind \"{name}\": HAProxy refuses the file", word(extra)))
    } else {
        None
    }
}

/// `log global`, or an address, words with values, and a facility.
fn log(words: &[String], is_global: bool) -> Option<String> {
    if words.len() == 2 && words[1] == "global" && !is_global {
        return None;
    }
    let mut place = 2;
    let has_value = |word: &String| matches!(word.as_str(), "len" | "format" | "sample" | "profile" | "ring");
    while words.get(place).is_some_and(has_value) {
        place += 2;
    }
    match words.get(place) {
        Some(facility) if FACILITIES.contains(&facility.as_str()) => None,
        Some(other) => Some(format!("log: unknown facility \"{other}\": HAProxy refuses the file")),
        None => Some("log: an address and a facility are expected: HAProxy refuses the file".to_owned()),
    }
}
