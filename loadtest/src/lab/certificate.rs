//! A certificate for one server, self-signed.

use std::path::{Path, PathBuf};

use crate::error::Doing;
use crate::process::Account;
use crate::{Error, Result, programs};

/// PostgreSQL's parameters, and the files in the node's directory that they name.
pub(super) const FILES: [(&str, &str); 2] = [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")];

/// A certificate's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// On the curve P-256.
    Ecdsa,
    /// Of 2048 bits.
    Rsa,
}

/// Makes certificate and key for `name` on this host, in `directory`, for `account` alone to read. Returns their files in
/// this order.
pub fn make(account: Account, key: Key, name: &str, directory: &Path) -> Result<[PathBuf; 2]> {
    let mut openssl = account.command(&programs::on_path("openssl")?);
    let kind = match key {
        Key::Ecdsa => "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1",
        Key::Rsa => "-newkey rsa:2048",
    };
    openssl.args("req -x509 -nodes -days 2".split(' ')).args(kind.split(' '));
    openssl.args(["-subj", &format!("/CN={name}"), "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]);
    openssl.args(["-out", "server.crt", "-keyout", "server.key"]).current_dir(directory);
    let output = openssl.output().doing(|| "starting openssl".to_owned())?;
    match output.status.success() {
        true => Ok(FILES.map(|(_, file)| directory.join(file))),
        false => Err(Error::Command {
            command: format!("openssl req … in {}", directory.display()),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
    }
}
