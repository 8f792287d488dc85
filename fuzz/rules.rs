//! What must hold whatever a stranger sends: one rule for everything that reads such bytes. The fuzz targets look for
//! bytes that break one; the tests hold the seeds and what grows from them against the same rules.

use pgvane::protocol::framing::Framing;
use pgvane::protocol::login::{self, Next, Said};
use pgvane::protocol::opening::{self, Opening, PACKET_LENGTH_MAX, Progress};
use pgvane::protocol::proxy_header::{self, Beginning};
use pgvane::protocol::sasl::{self, Choice};
use pgvane::protocol::{CancelKey, application_name};

const CANCEL_REQUEST: u32 = 80_877_102;

/// A client's first packet: nothing is read beyond its end, nor concluded before it; and the client's address behind its
/// name leaves all else as it is.
pub fn opening(data: &[u8]) {
    let (opening, length) = match opening::read(data) {
        Ok(Progress::Complete { opening, length }) => (opening, length),
        Ok(Progress::Incomplete) => return,
        Ok(Progress::Left) => return assert!(data.starts_with(b"X\0\0\0\x04")),
        Err(why) => return assert!(!why.to_string().is_empty()),
    };
    assert!(length <= data.len().min(PACKET_LENGTH_MAX));
    let packet = &data[..length];
    let Opening::Startup(who) = opening else { return };
    assert_eq!(opening::read(packet), opening::read(data), "what follows a packet is not looked at");
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

/// A proxy's header: nothing is read beyond its end, nor concluded before it; and who is named in it is named in ours.
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

/// A cancel key: the one that a client brings is the one that the server gave out, whichever message it comes in.
pub fn cancel(data: &[u8]) {
    let given = CancelKey::from_backend_key_data(data);
    let length = u32::try_from(data.len() + 8).expect("inputs are short");
    let request = [&length.to_be_bytes()[..], &CANCEL_REQUEST.to_be_bytes(), data].concat();
    match (given, opening::read(&request)) {
        (Some(given), Ok(Progress::Complete { opening: Opening::Cancel(brought), length })) => {
            assert_eq!((given, length), (brought, request.len()));
        }
        (Some(given), other) => panic!("{given:?} is not read from a request: {other:?}"),
        // a key that nobody gave out finds nobody
        (None, _) => {}
    }
}

/// What a server says at login: message by message, each whole, to the end or to where it makes no sense; and an offer
/// from which channel binding was taken is an offer. What a client answers to it, is known once and for all.
pub fn login(data: &[u8]) {
    let mut rest = data;
    while let Next::Message(said, length) = login::next(rest) {
        assert!((5..=rest.len()).contains(&length));
        let (message, behind) = rest.split_at(length);
        if let Some(without) = sasl::without_plus(message) {
            assert_eq!(login::next(&without), Next::Message(Said::Challenge, without.len()));
            assert_eq!(sasl::without_plus(&without), None);
        }
        assert_eq!(login::next(message), Next::Message(said, length), "what follows is not looked at");
        assert_eq!(login::next(&message[..length - 1]), Next::Incomplete);
        rest = behind;
    }
    let choices = (0..data.len().min(100)).map(|end| sasl::choice(&data[..end]));
    for choice in choices.filter(|choice| *choice != Choice::Incomplete) {
        assert_eq!(choice, sasl::choice(data));
    }
}

/// What a server and a client say after that: however their streams are cut up, they stand in the same place. The first
/// bytes say how.
pub fn framing(data: &[u8]) {
    let (cuts, stream) = data.split_at(data.len().min(4));
    let in_portions = |take: &mut dyn FnMut(&[u8])| {
        let (mut rest, mut cuts) = (stream, cuts.iter().cycle());
        while !rest.is_empty() {
            let length = cuts.next().map_or(1, |cut| usize::from(*cut).clamp(1, rest.len()));
            take(&rest[..length]);
            rest = &rest[length..];
        }
    };
    let (mut whole, mut cut_up) = (Framing::default(), Framing::default());
    whole.follow(stream);
    let mut newest_error = None;
    in_portions(&mut |portion| {
        cut_up.follow(portion);
        newest_error = cut_up.take_error().or(newest_error);
    });
    assert_eq!(whole.is_at_boundary(), cut_up.is_at_boundary());
    // what was said before it stopped making sense is of no account
    if whole.is_at_boundary() {
        assert_eq!(whole.take_error(), newest_error);
    }
    let state = |framing: &Framing| [framing.rests(), framing.is_between_transactions(), framing.awaits_answer()];
    assert_eq!(state(&whole), state(&cut_up));
    whole.ask(stream);
    in_portions(&mut |portion| cut_up.ask(portion));
    assert_eq!(state(&whole), state(&cut_up));

    let (mut asked, mut asked_one_by_one) = (Framing::default(), Framing::default());
    let passed = asked_one_by_one.ask_up_to_next(stream);
    asked.ask(&stream[..passed]);
    assert_eq!(state(&asked), state(&asked_one_by_one));
    assert!(passed == stream.len() || asked.awaits_answer(), "it is held back for nothing");
}
