//! The only change that pgvane makes to a client's startup packet, if it is configured: it adds the client's address
//! after the `application_name`, so that PostgreSQL's views and log show it. Like PgBouncer's
//! `application_name_add_host`.

use super::opening::PACKET_LENGTH_MAX;
use super::startup::{NAME_LENGTH_MAX, parameters};

const PARAMETER: &[u8] = b"application_name";

/// The name that PgBouncer uses for a client without `application_name`.
const NAMELESS: &[u8] = b"app";

const SEPARATOR: &[u8] = b" - ";

/// The length of one byte that is not printable ASCII, as PostgreSQL stores it: `\xc3` since 16, `?` before.
const ESCAPED_LENGTH: usize = 4;

/// A startup packet like `packet`, in which ` - ` and `host` follow the client's `application_name`. The name is
/// truncated so that PostgreSQL keeps the host. If there is no name, `app` is added as the last parameter. All other
/// bytes are those of `packet`.
///
/// `None` if `packet` is malformed, or would become longer than PostgreSQL accepts.
pub fn add_host(packet: &[u8], host: &str) -> Option<Vec<u8>> {
    let (value, terminator) = find(packet)?;
    let (before, client_name, after) = match value {
        Some((start, end)) => (&packet[..start], &packet[start..end], &packet[end..]),
        None => (&packet[..terminator], &b""[..], &packet[terminator..]),
    };
    let mut longer = before.to_vec();
    if value.is_none() {
        longer.extend([PARAMETER, b"\0"].concat());
    }
    let client_name = if client_name.is_empty() { NAMELESS } else { client_name };
    longer.extend([cut(client_name, host.len()), SEPARATOR, host.as_bytes()].concat());
    if value.is_none() {
        longer.push(0);
    }
    longer.extend(after);
    let length = u32::try_from(longer.len()).ok().filter(|_| longer.len() <= PACKET_LENGTH_MAX)?;
    longer[..4].copy_from_slice(&length.to_be_bytes());
    Some(longer)
}

/// The position of the value of the last `application_name`, which is the one that counts, and of the end of the list
/// of parameters. `None` if the packet is malformed.
fn find(packet: &[u8]) -> Option<(Option<(usize, usize)>, usize)> {
    let mut found = None;
    for parameter in parameters(packet) {
        let (name, value) = parameter.ok()?;
        if name == PARAMETER {
            found = Some((value.start, value.end));
        }
    }
    Some((found, packet.len() - 1))
}

/// The part of a name that has room before a host of this length, in whole characters of UTF-8.
fn cut(name: &[u8], host_length: usize) -> &[u8] {
    let mut room = NAME_LENGTH_MAX.saturating_sub(SEPARATOR.len() + host_length);
    let fits = |byte: &&u8| {
        let takes = if matches!(**byte, b' '..=b'~') { 1 } else { ESCAPED_LENGTH };
        let fits = takes <= room;
        room = room.saturating_sub(takes);
        fits
    };
    let mut end = name.iter().take_while(fits).count();
    let is_inside_a_character = |at: usize| name.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    while end > 0 && is_inside_a_character(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::message::SSL_REQUEST;
    use crate::protocol::opening::{Opening, Progress, read};
    use crate::protocol::startup::HEADER_LENGTH;

    const HOST: &str = "192.0.2.7:12345";

    fn packet(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
        let listed: String = parameters.iter().map(|(name, value)| format!("{name}\0{value}\0")).collect();
        let length = (HEADER_LENGTH + listed.len() + 1) as u32;
        [&length.to_be_bytes()[..], &version.to_be_bytes(), listed.as_bytes(), b"\0"].concat()
    }

    fn name_in(packet: &[u8]) -> String {
        match read(packet) {
            Ok(Progress::Complete { opening: Opening::Startup(who), length }) if length == packet.len() => {
                who.application_name().to_owned()
            }
            other => panic!("{other:?}"),
        }
    }

    fn name_after(parameters: &[(&str, &str)]) -> String {
        name_in(&add_host(&packet(3 << 16, parameters), HOST).expect("a startup packet"))
    }

    #[test]
    fn the_host_follows_the_name() {
        assert_eq!(name_after(&[("application_name", "psql"), ("user", "app")]), "psql - 192.0.2.7:12345");
        assert_eq!(name_after(&[("user", "app")]), "app - 192.0.2.7:12345");
        assert_eq!(name_after(&[("user", "app"), ("application_name", "")]), "app - 192.0.2.7:12345");
        let twice = [("application_name", "one"), ("user", "app"), ("application_name", "two")];
        assert_eq!(name_after(&twice), "two - 192.0.2.7:12345", "the last one counts");
    }

    #[test]
    fn the_host_is_never_cut_off() {
        let long = "x".repeat(100);
        let name = name_after(&[("user", "app"), ("application_name", &long)]);
        assert_eq!((name.len(), name.ends_with(" - 192.0.2.7:12345")), (63, true), "{name}");
        let longest = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        let packet = packet(3 << 16, &[("user", "app"), ("application_name", &long)]);
        let name = name_in(&add_host(&packet, longest).expect("a startup packet"));
        assert_eq!((name.len(), name.ends_with(longest)), (63, true), "{name}");
        // 45 bytes are left, and each of the two of "ü" is written as four
        assert_eq!(name_after(&[("user", "app"), ("application_name", &"ü".repeat(40))]), format!("üüüüü - {HOST}"));
    }

    #[test]
    fn what_is_no_startup_packet_stays_unchanged() {
        let good = packet(3 << 16, &[("user", "app")]);
        for bad in [&good[..good.len() - 1], &good[..8], &[&good[..], b"x\0"].concat(), SSL_REQUEST] {
            assert_eq!(add_host(bad, HOST), None, "{}", bad.escape_ascii());
        }
        let full = "x".repeat(PACKET_LENGTH_MAX - 40);
        assert_eq!(add_host(&packet(3 << 16, &[("user", "app"), ("options", &full)]), HOST), None);
    }

    fn parameters() -> impl Strategy<Value = Vec<(String, String)>> {
        let name = prop_oneof![
            Just("user".to_owned()),
            Just("application_name".to_owned()),
            Just("_pq_.option".to_owned()),
            "[a-z_.]{1,20}"
        ];
        proptest::collection::vec((name, "[^\0]{0,80}"), 0..12)
    }

    proptest! {
        /// All other bytes of the packet stay as they were, in the same order.
        #[test]
        fn only_the_name_is_changed(version in prop_oneof![Just(3u32 << 16), Just((3 << 16) | 2)], sent in parameters()) {
            let borrowed: Vec<(&str, &str)> = sent.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            let before = packet(version, &borrowed);
            let after = add_host(&before, HOST).expect("it is short");
            prop_assert_eq!(&after[..4], &(after.len() as u32).to_be_bytes());
            let mut expected = borrowed.clone();
            let named = expected.iter_mut().rfind(|(name, _)| *name == "application_name");
            let own = named.as_ref().map_or("", |(_, value)| *value);
            let kept = match own {
                "" => "app",
                own => std::str::from_utf8(cut(own.as_bytes(), HOST.len())).expect("whole characters"),
            };
            let appended = format!("{kept} - {HOST}");
            match named {
                Some(named) => named.1 = &appended,
                None => expected.push(("application_name", &appended)),
            }
            prop_assert_eq!(after, packet(version, &expected));
        }

        #[test]
        fn no_bytes_make_it_panic(packet in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = add_host(&packet, HOST);
        }
    }
}
