//! A certificate for one node's PostgreSQL, self-signed.

use std::path::Path;

use crate::error::Doing;
use crate::process::Account;
use crate::{Error, Result, programs};

/// PostgreSQL's parameters, and the files in the node's directory that they name.
pub(super) const FILES: [(&str, &str); 2] = [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")];

/// Makes certificate and key for `name` on this host, in `directory`, for `account` alone to read.
pub(super) fn make(account: Account, name: &str, directory: &Path) -> Result<()> {
    let mut openssl = account.command(&programs::on_path("openssl")?);
    openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '));
    openssl.args(["-subj", &format!("/CN={name}"), "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]);
    openssl.args(["-out", "server.crt", "-keyout", "server.key"]).current_dir(directory);
    let output = openssl.output().doing(|| "starting openssl".to_owned())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Command {
            command: format!("openssl req … in {}", directory.display()),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
    }
}
