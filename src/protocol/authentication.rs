//! How a server authenticates a client, by the requests that it sends: the methods' names, for people, and what is known
//! of it after the login.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The codes of `AuthenticationSASL` and of what follows it.
pub(super) const SASL: u32 = 10;
pub(super) const SASL_CONTINUE: u32 = 11;
pub(super) const SASL_FINAL: u32 = 12;

/// The mechanism SCRAM-SHA-256, and the same bound to the server's certificate.
pub(super) const SCRAM: &[u8] = b"SCRAM-SHA-256";
pub(super) const SCRAM_PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// How a server has authenticated a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AuthenticatedBy {
    /// It has asked the client nothing: `trust`, `peer`, or a certificate of the connection.
    Nothing,
    /// By SCRAM-SHA-256, with a verifier that has this salt and this number of iterations. A changed password has another
    /// salt.
    Scram {
        /// The salt.
        salt: Vec<u8>,
        /// The number of iterations.
        iterations: u32,
    },
    /// By a method that only the client can answer; what the server has asked for, for people.
    Other(String),
}

impl fmt::Display for AuthenticatedBy {
    /// Follows "its server asked for ".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthenticatedBy::Nothing => f.write_str("nothing"),
            AuthenticatedBy::Scram { .. } => f.write_str("SCRAM-SHA-256"),
            AuthenticatedBy::Other(what) => f.write_str(what),
        }
    }
}

/// What a server asks for by an authentication request with this code, for people. LDAP, PAM and RADIUS ask for the
/// password in plaintext.
pub(super) fn method(code: u32) -> String {
    match code {
        2 => "Kerberos V5".to_owned(),
        3 => "the password in plaintext".to_owned(),
        5 => "an MD5 hash".to_owned(),
        7 => "GSSAPI".to_owned(),
        9 => "SSPI".to_owned(),
        other => format!("authentication {other}"),
    }
}

/// The same for SASL with these mechanisms.
pub(super) fn sasl_method(mechanisms: &[&[u8]]) -> String {
    let names: Vec<String> = mechanisms.iter().map(|name| name.escape_ascii().to_string()).collect();
    format!("SASL with {}", names.join(", "))
}

/// The mechanisms that `AuthenticationSASL` offers; `offer` is what follows the code.
pub(super) fn mechanisms(offer: &[u8]) -> Vec<&[u8]> {
    offer.split(|byte| *byte == 0).take_while(|name| !name.is_empty()).collect()
}
