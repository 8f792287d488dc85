//! The rules for code that reads untrusted bytes, one for each reader. The fuzz targets search for bytes that break a
//! rule; the tests check the same rules with the seeds and with variations of them.

use pgvane::import::{Request, import};
use pgvane::protocol::framing::Framing;
use pgvane::protocol::login::{self, Next, ServerMessage};
use pgvane::protocol::login_again::{Credential, LoginAgain, Step};
use pgvane::protocol::message::{HEADER_LENGTH, TERMINATE};
use pgvane::protocol::opening::{self, Opening, PACKET_LENGTH_MAX, Progress};
use pgvane::protocol::proxy_header::{self, Beginning};
use pgvane::protocol::sasl::{self, Choice};
use pgvane::protocol::{CancelKey, application_name};

const CANCEL_REQUEST: u32 = 80_877_102;

/// A client's first packet: the reader does not read beyond its end and decides nothing before it. Adding the client's
/// address to its name changes nothing else.
pub fn opening(data: &[u8]) {
    let (opening, length) = match opening::read(data) {
        Ok(Progress::Complete { opening, length }) => (opening, length),
        Ok(Progress::Incomplete) => return,
        Ok(Progress::Left) => return assert!(data.starts_with(TERMINATE)),
        Err(why) => return assert!(!why.to_string().is_empty()),
    };
    assert!(length <= data.len().min(PACKET_LENGTH_MAX));
    let packet = &data[..length];
    let Opening::Startup(who) = opening else { return };
    assert_eq!(opening::read(packet), opening::read(data), "what follows a packet is not read");
    assert_eq!(opening::read(&packet[..length - 1]), Ok(Progress::Incomplete));

    const HOST: &str = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
    let Some(longer) = application_name::add_host(packet, HOST) else { return };
    let Ok(Progress::Complete { opening: Opening::Startup(named), length }) = opening::read(&longer) else {
        panic!("no longer a startup packet: {}", longer.escape_ascii());
    };
    assert_eq!(length, longer.len());
    assert_eq!((named.user(), named.database()), (who.user(), who.database()));
    assert_eq!(named.replication, who.replication);
    assert!(named.application_name().ends_with(HOST), "{named:?}");
}

/// A PROXY header: the reader does not read beyond its end and decides nothing before it. The header that pgvane writes
/// for the same client states the same addresses.
pub fn proxy_header(data: &[u8]) {
    let Ok(Beginning::Header { ends, length }) = proxy_header::read(data) else { return };
    assert!(length <= data.len());
    assert_eq!(proxy_header::read(&data[..length]), Ok(Beginning::Header { ends, length }));
    for end in 0..length {
        assert_eq!(proxy_header::read(&data[..end]), Ok(Beginning::Incomplete), "{end} of {length} bytes");
    }
    let ours = proxy_header::encode(ends);
    assert_eq!(proxy_header::read(&ours), Ok(Beginning::Header { ends, length: ours.len() }));
}

/// A cancel key: the one in a client's request equals the one that the server sent.
pub fn cancel(data: &[u8]) {
    let given = CancelKey::from_backend_key_data(data);
    let length = u32::try_from(data.len() + 8).expect("inputs are short");
    let request = [&length.to_be_bytes()[..], &CANCEL_REQUEST.to_be_bytes(), data].concat();
    match (given, opening::read(&request)) {
        (Some(given), Ok(Progress::Complete { opening: Opening::Cancel(brought), length })) => {
            assert_eq!((given, length), (brought, request.len()));
        }
        (Some(given), other) => panic!("{given:?} is not read from a request: {other:?}"),
        // a key that no server sent finds no session
        (None, _) => {}
    }
}

/// A server's messages at login: each is whole, up to the end or to the first that is not readable. An offer without
/// channel binding is still an offer. Once a client's choice is known, more bytes do not change it.
pub fn login(data: &[u8]) {
    let mut rest = data;
    while let Next::Message(message, length) = login::next(rest) {
        assert!((HEADER_LENGTH..=rest.len()).contains(&length));
        let (bytes, behind) = rest.split_at(length);
        if let Some(without) = sasl::without_plus(bytes) {
            assert_eq!(login::next(&without), Next::Message(ServerMessage::AuthenticationRequest, without.len()));
            assert_eq!(sasl::without_plus(&without), None);
        }
        assert_eq!(login::next(bytes), Next::Message(message, length), "what follows is not read");
        assert_eq!(login::next(&bytes[..length - 1]), Next::Incomplete);
        rest = behind;
    }
    login_again(data);
    let choices = (0..data.len().min(100)).map(|end| sasl::choice(&data[..end]));
    for choice in choices.filter(|choice| *choice != Choice::Incomplete) {
        assert_eq!(choice, sasl::choice(data));
    }
}

/// A login of pgvane's own: in whatever pieces the server's messages come, the result is the same.
fn login_again(data: &[u8]) {
    let begun = || LoginAgain::new(Credential::Nothing, &[0; 18]);
    let (mut in_bytes, data) = (begun(), &data[..data.len().min(4096)]);
    let mut steps = data.iter().map(|byte| in_bytes.take(&[*byte]));
    let in_bytes = steps.find(|step| *step != Step::Wait).unwrap_or(Step::Wait);
    match (begun().take(data), in_bytes) {
        (Step::Done(whole), Step::Done(in_bytes)) => {
            assert_eq!((whole.parameters, whole.key), (in_bytes.parameters, in_bytes.key));
            assert!(data.ends_with(&whole.rest));
        }
        (whole, in_bytes) => assert_eq!(whole, in_bytes),
    }
}

/// The streams of a server and a client after the login: every division into chunks gives the same state. The first
/// bytes define the division.
pub fn framing(data: &[u8]) {
    let (cuts, stream) = data.split_at(data.len().min(4));
    let in_chunks = |take: &mut dyn FnMut(&[u8])| {
        let (mut rest, mut cuts) = (stream, cuts.iter().cycle());
        while !rest.is_empty() {
            let length = cuts.next().map_or(1, |cut| usize::from(*cut).clamp(1, rest.len()));
            take(&rest[..length]);
            rest = &rest[length..];
        }
    };
    let (mut whole, mut cut_up) = (Framing::default(), Framing::default());
    whole.server_sent(stream);
    let mut newest_error = None;
    in_chunks(&mut |chunk| {
        cut_up.server_sent(chunk);
        newest_error = cut_up.take_error().or(newest_error);
    });
    assert_eq!(whole.is_server_at_boundary(), cut_up.is_server_at_boundary());
    // errors before the stream became unparseable do not count
    if whole.is_server_at_boundary() {
        assert_eq!(whole.take_error(), newest_error);
    }
    let state = |framing: &Framing| [framing.is_idle(), framing.is_between_transactions(), framing.awaits_answer()];
    assert_eq!(state(&whole), state(&cut_up));
    whole.client_sent(stream);
    in_chunks(&mut |chunk| cut_up.client_sent(chunk));
    assert_eq!(state(&whole), state(&cut_up));

    let (mut at_once, mut one_by_one) = (Framing::default(), Framing::default());
    let passed = one_by_one.client_sent_up_to_next_request(stream);
    at_once.client_sent(&stream[..passed]);
    assert_eq!(state(&at_once), state(&one_by_one));
    assert!(passed == stream.len() || at_once.awaits_answer(), "it is held back without a reason");
}

/// A haproxy.cfg: it is imported or refused, never both, and always with a report.
pub fn import_file(data: &[u8]) {
    let environment = std::collections::BTreeMap::new();
    let outcome = import(&Request {
        file: "haproxy.cfg",
        bytes: data,
        environment: &environment,
        read_file: &|_| Err("no such file".to_owned()),
        role_source: None,
        one_cluster: &[],
    });
    assert!(outcome.report.lines().all(|line| !line.contains('\r')));
    assert_eq!(outcome.toml.is_none(), outcome.report.contains(": not imported ("), "{}", outcome.report);
}
