//! A login that pgvane makes for a client, with the client's own startup packet and without its password: the client has
//! logged in to another server of the cluster before.
//!
//! A server that asks nothing is enough where the other one asked nothing (`trust`, or pgvane's own client certificate).
//! Where the other one asked for SCRAM-SHA-256, so must this one, and it must prove that it has the same verifier: a
//! session must not go on at a server that is less sure of its client, or a client at one that it is less sure of.
//!
//! The client's flag for channel binding is `n`, "not supported": PostgreSQL accepts it on every connection, also where it
//! offers `SCRAM-SHA-256-PLUS` (`read_client_first_message` in `src/backend/libpq/auth-scram.c`).
//!
//! Formats: PostgreSQL's documentation, "SASL Authentication" and "Message Formats"; RFC 5802, section 7.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::authentication::{SASL, SASL_CONTINUE, SASL_FINAL, SCRAM, mechanisms, method, sasl_method};
use super::cancel::CancelKey;
use super::error_response::{ServerError, read_message};
use super::login::{Next, ServerMessage, next};
use super::message::HEADER_LENGTH;
use super::message::from_server::{NEGOTIATE_PROTOCOL_VERSION, NOTICE, PARAMETER_STATUS};
use super::scram::{self, RoleKey, ServerFirst};

/// The beginning of the client's first message: no channel binding, no other user. Its base64 is in the final message.
const NO_BINDING: &str = "n,,";
const NO_BINDING_BASE64: &str = "biws";

/// The maximum that a server may send before the session is ready, in bytes: many times what any server sends.
const RECEIVED_MAX: usize = 256 * 1024;

/// Random bytes for the client's part of the nonce, as many as libpq takes (`SCRAM_RAW_NONCE_LEN`). They must be of a
/// generator for cryptography, and new for every login.
pub type Nonce = [u8; 18];

/// What a login can be made with.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Nothing: the server asks nothing, or has asked TLS for pgvane's certificate.
    Nothing,
    /// The key of the role.
    Scram(Arc<RoleKey>),
}

/// Name and value of a parameter that a server reports (`ParameterStatus`).
pub type Parameter = (Box<[u8]>, Box<[u8]>);

/// What is to be done after some bytes of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for more.
    Wait,
    /// Send this to the server, and wait for more.
    Send(Vec<u8>),
    /// The session is ready.
    Done(LoggedIn),
    /// There will be no session. The connection has to be closed.
    Refused(LoginRefused),
}

/// A session that is ready.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LoggedIn {
    /// Names and values of all `ParameterStatus` that the server has sent, in its order.
    pub parameters: Vec<Parameter>,
    /// The key that cancels the session's queries, if the server has sent one.
    pub key: Option<CancelKey>,
    /// What the server has sent after `ReadyForQuery`.
    pub rest: Vec<u8>,
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginRefused {
    /// The server has answered with an error; with its text, where it has one.
    Error(ServerError, String),
    /// The server is in recovery: it is not a leader.
    InRecovery,
    /// The server asks for an authentication that pgvane cannot answer; with its name.
    Method(String),
    /// The server asks for SCRAM, and the server before did not.
    NoKey,
    /// The server asks nothing, and the server before asked for SCRAM.
    NotAsked,
    /// The server announces another verifier than the key's.
    PasswordChanged,
    /// The server could not prove that it has the verifier.
    Unproven,
    /// The server does not use the protocol as pgvane knows it.
    Unexpected,
}

impl LoginRefused {
    /// Whether the same server may accept the login a moment later: it starts, it stops, or it has no connection left.
    pub fn is_passing(&self) -> bool {
        match self {
            LoginRefused::Error(error, _) => error.is_shutting_down() || error.sqlstate == *b"53300",
            _ => false,
        }
    }
}

impl fmt::Display for LoginRefused {
    /// Follows "could not log in again: ".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoginRefused::Error(_, text) => f.write_str(text),
            LoginRefused::InRecovery => f.write_str("the server is in recovery"),
            LoginRefused::Method(name) => write!(f, "the server asks for {name}, which pgvane cannot answer"),
            LoginRefused::NoKey => f.write_str("the server asks for a password, and the server before did not"),
            LoginRefused::NotAsked => f.write_str("the server does not ask for a password, and the server before did"),
            LoginRefused::PasswordChanged => f.write_str("the password of the role has been changed or removed"),
            LoginRefused::Unproven => f.write_str("the server could not prove that it knows the role's password"),
            LoginRefused::Unexpected => f.write_str("the server does not answer as PostgreSQL does"),
        }
    }
}

/// A login of which the startup packet has been sent.
#[derive(Debug)]
pub struct LoginAgain {
    credential: Credential,
    /// The server may be in recovery: it will probably lead soon.
    in_recovery_too: bool,
    progress: Progress,
    /// The beginning of a message.
    partial: Vec<u8>,
    received: usize,
    session: LoggedIn,
}

/// How far the authentication is.
#[derive(Debug)]
enum Progress {
    /// The server has asked nothing.
    Begun {
        /// Our part of the nonce.
        nonce: String,
    },
    /// The client's first message has been sent.
    FirstSent { nonce: String },
    /// The proof has been sent.
    ProofSent { auth_message: Vec<u8> },
    /// The server has proved that it has the verifier.
    Proven,
    /// The server has let the client in.
    Authenticated,
    /// There will be no session.
    Over,
}

impl LoginAgain {
    /// A login with this credential, whose startup packet has been sent to the server.
    pub fn new(credential: Credential, nonce: &Nonce) -> LoginAgain {
        LoginAgain {
            credential,
            in_recovery_too: false,
            progress: Progress::Begun { nonce: BASE64.encode(nonce) },
            partial: Vec::new(),
            received: 0,
            session: LoggedIn::default(),
        }
    }

    /// The same, also if the server is in recovery.
    #[must_use]
    pub fn in_recovery_too(self) -> LoginAgain {
        LoginAgain { in_recovery_too: true, ..self }
    }

    /// Takes the next bytes that the server has sent. After [`Step::Done`] and [`Step::Refused`] it must not be called
    /// again.
    pub fn take(&mut self, bytes: &[u8]) -> Step {
        self.received += bytes.len();
        if self.received > RECEIVED_MAX {
            return Step::Refused(LoginRefused::Unexpected);
        }
        self.partial.extend_from_slice(bytes);
        let received = std::mem::take(&mut self.partial);
        let mut rest = &received[..];
        loop {
            let (message, length) = match next(rest) {
                Next::Message(message, length) => (message, length),
                Next::Incomplete => {
                    self.partial = rest.to_vec();
                    return Step::Wait;
                }
                Next::Unreadable => return Step::Refused(LoginRefused::Unexpected),
            };
            let whole = &rest[..length];
            rest = &rest[length..];
            match self.take_message(message, whole) {
                Ok(None) => {}
                // nothing follows a request until it has been answered
                Ok(Some(_)) if !rest.is_empty() => return Step::Refused(LoginRefused::Unexpected),
                Ok(Some(answer)) => return Step::Send(answer),
                Err(Stop::Ready) => {
                    let rest = rest.to_vec();
                    return Step::Done(LoggedIn { rest, ..std::mem::take(&mut self.session) });
                }
                Err(Stop::Refused(why)) => return Step::Refused(why),
            }
        }
    }

    /// Takes one message, and returns what has to be sent to the server.
    fn take_message(&mut self, message: ServerMessage, whole: &[u8]) -> Result<Option<Vec<u8>>, Stop> {
        let (kind, body) = (whole[0], &whole[HEADER_LENGTH..]);
        let is_authenticated = matches!(self.progress, Progress::Authenticated);
        match message {
            ServerMessage::Error(error) => {
                let text = read_message(body).unwrap_or_else(|| "the server refuses without a reason".to_owned());
                Err(LoginRefused::Error(error, text).into())
            }
            ServerMessage::AuthenticationOk => self.let_in(),
            ServerMessage::AuthenticationRequest => self.authenticate(body),
            ServerMessage::InHotStandby(true) if !self.in_recovery_too => Err(LoginRefused::InRecovery.into()),
            ServerMessage::Key(key) if is_authenticated => {
                self.session.key = Some(key);
                Ok(None)
            }
            ServerMessage::Ready if is_authenticated && body == b"I" => Err(Stop::Ready),
            ServerMessage::InHotStandby(_) | ServerMessage::Other if kind == PARAMETER_STATUS && is_authenticated => {
                self.session.parameters.push(parameter(body).ok_or(LoginRefused::Unexpected)?);
                Ok(None)
            }
            // notices, and the version of the protocol: the same startup packet has been answered so before
            ServerMessage::Other if kind == NOTICE || kind == NEGOTIATE_PROTOCOL_VERSION => Ok(None),
            _ => Err(LoginRefused::Unexpected.into()),
        }
    }

    /// `AuthenticationOk`.
    fn let_in(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        let why = match (&self.progress, &self.credential) {
            (Progress::Begun { .. }, Credential::Nothing) | (Progress::Proven, _) => {
                self.progress = Progress::Authenticated;
                return Ok(None);
            }
            (Progress::Begun { .. }, Credential::Scram(_)) => LoginRefused::NotAsked,
            (Progress::FirstSent { .. } | Progress::ProofSent { .. }, _) => LoginRefused::Unproven,
            (Progress::Authenticated | Progress::Over, _) => LoginRefused::Unexpected,
        };
        Err(why.into())
    }

    /// Any other authentication request.
    fn authenticate(&mut self, body: &[u8]) -> Result<Option<Vec<u8>>, Stop> {
        let (code, content) = body.split_first_chunk::<4>().ok_or(LoginRefused::Unexpected)?;
        let code = u32::from_be_bytes(*code);
        let answer = match (code, std::mem::replace(&mut self.progress, Progress::Over)) {
            (SASL, Progress::Begun { nonce }) => Some(self.first_message(content, nonce)?),
            (SASL_CONTINUE, Progress::FirstSent { nonce }) => Some(self.final_message(content, &nonce)?),
            (SASL_FINAL, Progress::ProofSent { auth_message }) => {
                self.check_signature(content, &auth_message)?;
                self.progress = Progress::Proven;
                None
            }
            (_, Progress::Begun { .. }) => return Err(LoginRefused::Method(method(code)).into()),
            _ => return Err(LoginRefused::Unexpected.into()),
        };
        Ok(answer)
    }

    /// The server offers mechanisms: the client's first message.
    fn first_message(&mut self, offer: &[u8], nonce: String) -> Result<Vec<u8>, LoginRefused> {
        let offered = mechanisms(offer);
        if !offered.contains(&SCRAM) {
            return Err(LoginRefused::Method(sasl_method(&offered)));
        }
        if matches!(self.credential, Credential::Nothing) {
            return Err(LoginRefused::NoKey);
        }
        let first = [NO_BINDING, &first_bare(&nonce)].concat();
        let length = u32::try_from(first.len()).map_err(|_| LoginRefused::Unexpected)?;
        self.progress = Progress::FirstSent { nonce };
        response(&[SCRAM, &[0], &length.to_be_bytes(), first.as_bytes()])
    }

    /// The server's first message: the client's final one.
    fn final_message(&mut self, server_first: &[u8], nonce: &str) -> Result<Vec<u8>, LoginRefused> {
        let Credential::Scram(key) = &self.credential else { return Err(LoginRefused::Unexpected) };
        let server = ServerFirst::read(server_first).ok_or(LoginRefused::Unexpected)?;
        // a nonce that is only ours would make an old exchange valid again
        if !server.nonce.starts_with(nonce) || server.nonce.len() == nonce.len() {
            return Err(LoginRefused::Unexpected);
        }
        if !key.verifier().is_announced_by(&server.salt, server.iterations) {
            return Err(LoginRefused::PasswordChanged);
        }
        let without_proof = format!("c={NO_BINDING_BASE64},r={}", server.nonce);
        let auth_message = [first_bare(nonce).as_bytes(), server_first, without_proof.as_bytes()].join(&b',');
        let proof = BASE64.encode(key.proof(&auth_message));
        self.progress = Progress::ProofSent { auth_message };
        response(&[without_proof.as_bytes(), b",p=", proof.as_bytes()])
    }

    /// The server's final message.
    fn check_signature(&self, server_final: &[u8], auth_message: &[u8]) -> Result<(), LoginRefused> {
        let Credential::Scram(key) = &self.credential else { return Err(LoginRefused::Unexpected) };
        let text = server_final.strip_prefix(b"v=").and_then(|text| std::str::from_utf8(text).ok());
        let signature = text.and_then(scram::key).ok_or(LoginRefused::Unproven)?;
        if key.is_signed(auth_message, &*signature) { Ok(()) } else { Err(LoginRefused::Unproven) }
    }
}

/// Why no more messages are read.
enum Stop {
    Ready,
    Refused(LoginRefused),
}

impl From<LoginRefused> for Stop {
    fn from(why: LoginRefused) -> Stop {
        Stop::Refused(why)
    }
}

/// The client's first message without its beginning. PostgreSQL takes the user from the startup packet.
fn first_bare(nonce: &str) -> String {
    format!("n=,r={nonce}")
}

/// `SASLInitialResponse` or `SASLResponse`.
fn response(parts: &[&[u8]]) -> Result<Vec<u8>, LoginRefused> {
    let body = parts.concat();
    let length = u32::try_from(body.len() + 4).map_err(|_| LoginRefused::Unexpected)?;
    Ok([&b"p"[..], &length.to_be_bytes(), &body].concat())
}

/// Name and value of a `ParameterStatus`.
fn parameter(body: &[u8]) -> Option<Parameter> {
    let mut parts = body.strip_suffix(b"\0")?.split(|byte| *byte == 0);
    let parameter = (parts.next()?.into(), parts.next()?.into());
    parts.next().is_none().then_some(parameter)
}
