//! `show sess`: a line for each session, in HAProxy's form as far as pgvane knows what HAProxy shows.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::admin::context::AdminContext;
use crate::admin::query::Query;
use crate::admin::session_order::SessionOrder;
use crate::admin::sessions::Wanted;
use crate::admin::status::Session;

/// `show sess [all|<id>]`. Errors: HAProxy's text.
pub(super) fn sessions(context: &AdminContext, words: &[String]) -> Result<String, &'static str> {
    let id = words.first().and_then(|word| id(word)).map(|id| id.to_string());
    let wanted = Wanted::of(&Query::of(id.iter().map(|id| ("session", id.as_str()))));
    let found = wanted.finder(context).list(SessionOrder::Age, usize::MAX).sessions;
    match (id, found.is_empty()) {
        (Some(_), true) => Err("Session not found.\n"),
        _ => Ok(found.iter().map(line).collect()),
    }
}

/// The number of a session, as HAProxy reads it: decimal, or hexadecimal after `0x`.
pub(super) fn id(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

fn line(session: &Session) -> String {
    let (protocol, source) = match session.client.parse::<SocketAddr>() {
        Ok(address) if address.is_ipv6() => ("tcpv6", session.client.as_str()),
        Ok(_) => ("tcpv4", session.client.as_str()),
        Err(_) if session.client.is_empty() => ("?", "?"), // it is logging in
        Err(_) => ("unix_stream", "unix:1"),
    };
    let Session { id, listener, node, state, bytes_to_server, bytes_to_client, .. } = session;
    let server = if node.is_empty() { "<none>" } else { node };
    let age = age(session.seconds);
    let mut line = format!(
        "{id:#x}: proto={protocol} src={source} fe={listener} be={listener} srv={server} ts=00 epoch=0 age={age} calls=0 \
         rate=0 cpu=0 lat=0 rq[tot={bytes_to_server}] rp[tot={bytes_to_client}] exp= rc=0 c_exp= state={state}"
    );
    for (name, value) in
        [("user", &session.user), ("database", &session.database), ("application", &session.application_name)]
    {
        let _ = write!(line, " {name}={value:?}");
    }
    line + "\n"
}

/// HAProxy's form of an age: its two largest units.
fn age(seconds: u32) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_a_line_with_haproxys_names_and_then_pgvanes() {
        let session = Session {
            id: 42,
            listener: "read".to_owned(),
            node: "node2".to_owned(),
            client: "192.0.2.7:5000".to_owned(),
            user: "a b".to_owned(),
            seconds: 3725,
            state: "open".to_owned(),
            bytes_to_server: 5,
            ..Session::default()
        };
        let expected = "0x2a: proto=tcpv4 src=192.0.2.7:5000 fe=read be=read srv=node2 ts=00 epoch=0 age=1h2m calls=0 rate=0 \
                        cpu=0 lat=0 rq[tot=5] rp[tot=0] exp= rc=0 c_exp= state=open user=\"a b\" database=\"\" \
                        application=\"\"\n";
        assert_eq!(line(&session), expected);
        assert!(line(&Session { client: "[::1]:5000".to_owned(), ..session }).contains("proto=tcpv6 src=[::1]:5000 "));
    }

    #[test]
    fn a_number_is_read_in_both_forms() {
        assert_eq!((id("0x2a"), id("42"), id("0x"), id("zz"), id("-1")), (Some(42), Some(42), None, None, None));
    }
}
