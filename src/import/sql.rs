//! PostgreSQL's protocol in `tcp-check send-binary`: who logs in, what is asked, and which answer is accepted.

/// What the bytes of a check say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dialogue {
    pub user: String,
    pub database: String,
    /// The text of the query, where there is one.
    pub query: Option<String>,
}

/// What a query asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// "t" for a standby.
    IsStandby,
    /// "t" for the primary.
    IsPrimary,
    /// "off" for the primary, "on" for a standby.
    ReadOnly,
}

const PROTOCOL_3: [u8; 2] = [0, 3];
const HEADER: usize = 8;

/// Whether these bytes begin as a startup packet of protocol 3.
pub(super) fn is_startup(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER && bytes[0] == 0 && bytes[4..6] == PROTOCOL_3
}

/// Reads everything that a check sends. `None` if it is not what a client of PostgreSQL sends.
pub(super) fn read(bytes: &[u8]) -> Option<Dialogue> {
    let length = length_at(bytes, 0)?;
    let startup = bytes.get(HEADER..length).filter(|_| is_startup(bytes))?;
    let mut parts = startup.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    let (mut user, mut database) = (String::new(), None);
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        match name.as_str() {
            "user" => user = value,
            "database" => database = Some(value),
            _ => {}
        }
    }
    let mut dialogue = Dialogue { database: database.unwrap_or_else(|| user.clone()), user, query: None };
    let mut rest = &bytes[length..];
    while let Some((kind, behind)) = rest.split_first() {
        let length = length_at(behind, 0)?;
        let body = behind.get(4..length)?;
        if *kind == b'Q' && dialogue.query.is_none() {
            let text = body.strip_suffix(&[0]).unwrap_or(body);
            dialogue.query = Some(String::from_utf8_lossy(text).into_owned());
        } else if *kind != b'X' && *kind != b'p' {
            return None;
        }
        rest = &behind[length..];
    }
    Some(dialogue)
}

/// The length that stands at this place, itself included.
fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at + 4)?;
    let length = u32::from_be_bytes(field.try_into().ok()?) as usize;
    (length >= 4 && length <= bytes.len()).then_some(length)
}

/// What a query asks; `None` for one that pgvane does not know.
pub(super) fn question(query: &str) -> Option<Question> {
    let words: String = query.trim().trim_end_matches(';').to_ascii_lowercase();
    let words = words.replace('(', " ( ").replace(')', " ) ").replace("pg_catalog.", "");
    let words: Vec<&str> = words.split_whitespace().collect();
    let words = match &words[..] {
        [front @ .., "as", _] => front,
        all => all,
    };
    match words.join(" ").as_str() {
        "select pg_is_in_recovery ( )" => Some(Question::IsStandby),
        "select not pg_is_in_recovery ( )"
        | "select not ( pg_is_in_recovery ( ) )"
        | "select pg_is_in_recovery ( ) = false"
        | "select pg_is_in_recovery ( ) is false" => Some(Question::IsPrimary),
        "show transaction_read_only" | "show in_hot_standby" => Some(Question::ReadOnly),
        _ => None,
    }
}

/// What a server sends to a client that needs no password and asks one question, with this answer.
pub(super) fn answer(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut message = |kind: u8, body: &[u8]| {
        bytes.push(kind);
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
    };
    message(b'R', &[0, 0, 0, 0]);
    for (name, value) in [("server_version", "15.0"), ("client_encoding", "UTF8"), ("is_superuser", "off")] {
        message(b'S', &[name.as_bytes(), &[0], value.as_bytes(), &[0]].concat());
    }
    message(b'K', &[0, 0, 1, 1, 2, 2, 3, 3]);
    message(b'Z', b"I");
    message(b'T', &[&[0, 1][..], b"pg_is_in_recovery\0", &[0; 18]].concat());
    message(b'D', &[&[0, 1][..], &(text.len() as u32).to_be_bytes(), text.as_bytes()].concat());
    message(b'C', b"SELECT 1\0");
    message(b'Z', b"I");
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::check::hex;
    use super::*;

    #[test]
    fn a_check_in_pieces_is_read_as_a_whole() {
        let bytes = hex(concat!(
            "0000002600030000",
            "7573657200",
            "70726f626500",
            "646174616261736500",
            "706f73746772657300",
            "00",
            "5100000024",
            "53454c454354204e4f5420",
            "70675f69735f696e5f7265636f7665727928293b",
            "00",
            "5800000004"
        ));
        let dialogue = read(&bytes.expect("is read")).expect("is read");
        assert_eq!((dialogue.user.as_str(), dialogue.database.as_str()), ("probe", "postgres"));
        assert_eq!(dialogue.query.as_deref(), Some("SELECT NOT pg_is_in_recovery();"));
        assert_eq!(question("SELECT NOT pg_is_in_recovery();"), Some(Question::IsPrimary));
        assert_eq!(question("select pg_catalog.pg_is_in_recovery() AS x"), Some(Question::IsStandby));
        assert_eq!(question("select 1"), None);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for bytes in [&[][..], &[0; 8], &[0, 0, 0, 8, 0, 3, 0, 0], &[0, 0, 0, 8, 0, 3, 0, 0, b'Q', 255, 255, 255, 255]]
        {
            let _ = read(bytes);
        }
        assert_eq!(read(&[0, 0, 0, 9, 0, 3, 0, 0, 0]).map(|dialogue| dialogue.query), Some(None));
    }
}
