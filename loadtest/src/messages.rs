//! PostgreSQL's protocol as bytes, for clients and servers that are made by hand. Formats: PostgreSQL's documentation,
//! "Message Formats".

/// A protocol version as the startup packet carries it: major in the upper half, minor in the lower.
pub const PROTOCOL_3_0: u32 = 3 << 16;
/// The version that allows cancel keys of more than four bytes.
pub const PROTOCOL_3_2: u32 = PROTOCOL_3_0 | 2;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// A message of this type.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &with_length(body)[..]].concat()
}

/// A simple `Query`.
pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

/// An `ErrorResponse` after which the server closes the connection.
pub fn fatal(sqlstate: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("SFATAL\0VFATAL\0C{sqlstate}\0M{text}\0\0").as_bytes())
}

/// An `ErrorResponse` after which the session continues.
pub fn error(sqlstate: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0VERROR\0C{sqlstate}\0M{text}\0\0").as_bytes())
}

/// A `ParameterStatus`.
pub fn parameter_status(name: &str, value: &str) -> Vec<u8> {
    message(b'S', format!("{name}\0{value}\0").as_bytes())
}

/// `ReadyForQuery` with this transaction status: `I`, `T` or `E`.
pub fn ready(transaction: u8) -> Vec<u8> {
    message(b'Z', &[transaction])
}

/// A `RowDescription` of one column of text.
pub fn one_column(name: &str) -> Vec<u8> {
    message(b'T', &[b"\0\x01", name.as_bytes(), &[0; 19]].concat())
}

/// A `DataRow` with one column.
pub fn row(value: &[u8]) -> Vec<u8> {
    message(b'D', &[&1u16.to_be_bytes()[..], &length(value.len()), value].concat())
}

/// A startup packet with these parameters.
pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let listed: String = parameters.iter().map(|(name, value)| format!("{name}\0{value}\0")).collect();
    opening(version, &[listed.as_bytes(), b"\0"].concat())
}

/// The first packet of a client that wants TLS.
pub fn ssl_request() -> Vec<u8> {
    opening(SSL_REQUEST, b"")
}

/// The first packet of a client that wants GSSAPI encryption.
pub fn gss_request() -> Vec<u8> {
    opening(GSS_REQUEST, b"")
}

/// A request to cancel what the session with this key does.
pub fn cancel_request(key: &[u8]) -> Vec<u8> {
    opening(CANCEL_REQUEST, key)
}

fn opening(code: u32, body: &[u8]) -> Vec<u8> {
    with_length(&[&code.to_be_bytes(), body].concat())
}

fn with_length(body: &[u8]) -> Vec<u8> {
    [&length(body.len() + 4)[..], body].concat()
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("no test sends gigabytes").to_be_bytes()
}
