//! The error that a client gets when it cannot be served, in PostgreSQL's form.

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::response::ErrorResponse;

/// The SQLSTATEs that pgvane sends; names and meanings from PostgreSQL's "Error Codes" appendix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SqlState {
    /// 57P03 `cannot_connect_now`: no node in time.
    CannotConnectNow,
    /// 53300 `too_many_connections`: a session limit was reached.
    TooManyConnections,
    /// 57P01 `admin_shutdown`: the session's node lost its role, or is drained.
    AdminShutdown,
    /// 08P01 `protocol_violation`: the first packet is not one of PostgreSQL's protocol.
    ProtocolViolation,
    /// 0A000 `feature_not_supported`: no server supports this protocol version.
    FeatureNotSupported,
    /// 28000 `invalid_authorization_specification`: the listener does not admit this connection.
    InvalidAuthorization,
    /// 08006 `connection_failure`: the connection to the node was lost during the session.
    ConnectionFailure,
}

impl SqlState {
    /// The five characters.
    pub fn code(self) -> &'static str {
        match self {
            SqlState::CannotConnectNow => "57P03",
            SqlState::TooManyConnections => "53300",
            SqlState::AdminShutdown => "57P01",
            SqlState::ProtocolViolation => "08P01",
            SqlState::FeatureNotSupported => "0A000",
            SqlState::InvalidAuthorization => "28000",
            SqlState::ConnectionFailure => "08006",
        }
    }
}

/// A fatal error for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal {
    /// Its SQLSTATE.
    pub sqlstate: SqlState,
    /// One line that says what happened.
    pub message: String,
    /// What is known of the reason.
    pub detail: Option<String>,
    /// What the user can do.
    pub hint: Option<String>,
}

impl Fatal {
    /// The bytes of the `ErrorResponse` message.
    pub fn encode(&self) -> BytesMut {
        let field = |code: u8, text: &str| (code, text.replace('\0', " "));
        let mut fields = vec![
            field(b'S', "FATAL"),
            field(b'V', "FATAL"),
            field(b'C', self.sqlstate.code()),
            field(b'M', &self.message),
        ];
        fields.extend(self.detail.iter().map(|text| field(b'D', text)));
        fields.extend(self.hint.iter().map(|text| field(b'H', text)));
        let mut bytes = BytesMut::with_capacity(256);
        ErrorResponse::new(fields).encode(&mut bytes).expect("an error text is far below the protocol's length limit");
        bytes
    }
}

/// The part of a server's `ErrorResponse` that a proxy needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerError {
    /// Its SQLSTATE.
    pub sqlstate: [u8; 5],
    /// The server ends the session with it (FATAL or PANIC). A client can raise any SQLSTATE with a lower severity.
    pub is_fatal: bool,
}

impl ServerError {
    /// Whether the server ends or refuses the session because it shuts down (57P01), crashed (57P02) or starts (57P03).
    pub fn is_shutting_down(&self) -> bool {
        self.is_fatal && matches!(&self.sqlstate, b"57P01" | b"57P02" | b"57P03")
    }
}

/// Reads the body of an `ErrorResponse`; `None` if there is no SQLSTATE within these bytes.
///
/// A truncated body is fine: PostgreSQL writes the code right after the severity. The severity is in field `V`, and for
/// servers before 9.6 in field `S`, where it may be translated.
pub fn read_error(body: &[u8]) -> Option<ServerError> {
    let fields = || body.split(|byte| *byte == 0).take_while(|field| !field.is_empty());
    let sqlstate = fields().find_map(|field| field.strip_prefix(b"C")?.try_into().ok())?;
    let severity = |name: &[u8]| fields().find_map(|field| field.strip_prefix(name));
    let severity = severity(b"V").or_else(|| severity(b"S")).unwrap_or_default();
    Some(ServerError { sqlstate, is_fatal: severity == b"FATAL" || severity == b"PANIC" })
}

/// The text of an `ErrorResponse` for people, with its SQLSTATE; `None` if it has none.
pub(super) fn read_message(body: &[u8]) -> Option<String> {
    let mut fields = body.split(|byte| *byte == 0).take_while(|field| !field.is_empty());
    let message = String::from_utf8_lossy(fields.find_map(|field| field.strip_prefix(b"M"))?).into_owned();
    let sqlstate = read_error(body).map(|error| error.sqlstate.escape_ascii().to_string());
    Some(sqlstate.map_or(message.clone(), |code| format!("{message} (SQLSTATE {code})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_can_be_read_back() {
        let fatal = Fatal {
            sqlstate: SqlState::CannotConnectNow,
            message: "no leader".into(),
            detail: Some("node1 is\0stopping".into()),
            hint: None,
        };
        let bytes = fatal.encode();
        assert_eq!(bytes[0], b'E');
        assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes")) as usize, bytes.len() - 1);
        assert_eq!(read_error(&bytes[5..]), Some(ServerError { sqlstate: *b"57P03", is_fatal: true }));
        assert!(bytes.windows(17).any(|window| window == b"node1 is stopping"));
    }

    #[test]
    fn a_code_is_found_after_a_translated_severity_and_in_a_truncated_body() {
        let fatal = |sqlstate| Some(ServerError { sqlstate, is_fatal: true });
        assert_eq!(read_error("SFATALE\0VFATAL\0C57P01\0Mdas".as_bytes()), fatal(*b"57P01"));
        assert_eq!(read_error(b"SFATAL\0C57P01\0Mold"), fatal(*b"57P01"), "before PostgreSQL 9.6");
        let raised = ServerError { sqlstate: *b"57P01", is_fatal: false };
        assert_eq!(read_error(b"SERROR\0VERROR\0C57P01\0Mby a function"), Some(raised));
        assert_eq!(read_error(b"SFATAL\0VFATAL\0C57"), None);
        assert_eq!(read_error(b"SFATAL\0\0C57P01\0"), None);
    }
}
