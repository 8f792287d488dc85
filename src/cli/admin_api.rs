//! How the commands speak to the admin API of a running pgvane.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::{RequestBuilder, StatusCode, Url};

use super::exit;
use crate::admin::status::Status;
use crate::config::default_port;
use crate::probe::patroni::http_client;

/// Docker's default for a health check is 30 s; an answer from the same machine takes milliseconds, and a second more
/// for whoever has mistyped a password.
const PATIENCE: Duration = Duration::from_secs(3);

/// Holds the password where no file does.
const PASSWORD_VARIABLE: &str = "PGVANE_ADMIN_PASSWORD";

/// Where a running pgvane is to be found.
#[derive(Debug, Args)]
pub(super) struct AdminUrl {
    /// Its admin address
    #[arg(long, visible_alias = "url", value_name = "URL", default_value_t = format!("http://127.0.0.1:{}", default_port::ADMIN))]
    admin: String,
}

/// Who asks for something to be changed.
#[derive(Debug, Args)]
pub(super) struct Identity {
    /// A user of [admin] in its configuration
    #[arg(long, value_name = "NAME")]
    user: String,
    /// File with the user's password; without it, the variable PGVANE_ADMIN_PASSWORD holds it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Why it did not do what it was asked for.
#[derive(Debug)]
pub(super) enum CliError {
    /// The address is none.
    NoAddress(String),
    /// The file with the password cannot be read.
    PasswordFile(PathBuf, io::Error),
    /// There is no password.
    NoPassword,
    /// There is no answer; from whom, and why.
    Silent(String, reqwest::Error),
    /// The answer is no; in pgvane's own words.
    Refused(StatusCode, String),
    /// The answer is not one of a pgvane that this one knows.
    Garbled(String),
    /// No HTTP at all: no runtime, no client.
    Unable(String),
    /// No cluster has this node; the nodes that there are.
    UnknownNode(String, Vec<String>),
    /// Several clusters have a node of this name.
    AmbiguousNode(String, Vec<String>),
    /// So many sessions are left on the node.
    SessionsLeft(String, u32),
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CliError::NoAddress(given) => {
                write!(
                    f,
                    "\"{given}\" is not the URL of an admin port, such as http://127.0.0.1:{}",
                    default_port::ADMIN
                )
            }
            CliError::PasswordFile(file, error) => write!(f, "cannot read {}: {error}", file.display()),
            CliError::NoPassword => write!(f, "no password: give --password-file, or set {PASSWORD_VARIABLE}"),
            CliError::Silent(url, error) => write!(f, "{url} does not answer: {error}"),
            CliError::Refused(_, why) => f.write_str(why.trim_end()),
            CliError::Garbled(why) => write!(f, "the answer is not understood; is it an older pgvane? {why}"),
            CliError::Unable(why) => f.write_str(why),
            CliError::UnknownNode(node, known) => {
                write!(f, "there is no node \"{node}\"; there are: {}", known.join(", "))
            }
            CliError::AmbiguousNode(node, clusters) => {
                write!(f, "several clusters have a node \"{node}\": say --cluster with one of {}", clusters.join(", "))
            }
            CliError::SessionsLeft(node, left) => write!(f, "{node}: {left} sessions are left"),
        }
    }
}

impl CliError {
    /// The code to end with.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            CliError::NoAddress(_) | CliError::NoPassword | CliError::UnknownNode(..) | CliError::AmbiguousNode(..) => {
                exit::USAGE
            }
            CliError::PasswordFile(..) => exit::NO_INPUT,
            CliError::Refused(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => exit::NO_PERMISSION,
            CliError::Silent(..)
            | CliError::Refused(..)
            | CliError::Garbled(_)
            | CliError::Unable(_)
            | CliError::SessionsLeft(..) => exit::FAILURE,
        }
    }
}

/// A running pgvane, as seen from the command line.
pub(super) struct AdminApi {
    base: Url,
    client: reqwest::Client,
}

impl AdminApi {
    /// The one at this URL.
    pub(super) fn at(admin_url: &AdminUrl) -> Result<AdminApi, CliError> {
        let base = Url::parse(&admin_url.admin).ok().filter(|url| url.has_host() && !url.cannot_be_a_base());
        let base = base.ok_or_else(|| CliError::NoAddress(admin_url.admin.clone()))?;
        let client = if base.scheme() == "https" { http_client() } else { http_client().tls_certs_only([]) };
        let client = client.timeout(PATIENCE).build().map_err(|error| CliError::Unable(error.to_string()))?;
        Ok(AdminApi { base, client })
    }

    /// GET; the body of a good answer.
    pub(super) async fn get(&self, path: &[&str]) -> Result<String, CliError> {
        answered(self.client.get(self.url(path))).await
    }

    /// POST; the body of a good answer.
    pub(super) async fn post(
        &self,
        path: &[&str],
        query: Option<&str>,
        body: &str,
        identity: &Identity,
    ) -> Result<String, CliError> {
        let mut url = self.url(path);
        url.set_query(query);
        let request = self.client.post(url).body(body.to_owned());
        answered(request.basic_auth(&identity.user, Some(identity.password()?))).await
    }

    /// How it is.
    pub(super) async fn status(&self) -> Result<Status, CliError> {
        let text = self.get(&["api", "status"]).await?;
        serde_json::from_str(&text).map_err(|error| CliError::Garbled(error.to_string()))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

impl Identity {
    fn password(&self) -> Result<String, CliError> {
        match &self.password_file {
            Some(file) => match fs::read_to_string(file) {
                Ok(text) => Ok(text.trim().to_owned()),
                Err(error) => Err(CliError::PasswordFile(file.clone(), error)),
            },
            None => std::env::var(PASSWORD_VARIABLE).map_err(|_| CliError::NoPassword),
        }
    }
}

async fn answered(request: RequestBuilder) -> Result<String, CliError> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| CliError::Unable(error.to_string()))?;
    let url = request.url().to_string();
    let exchange = async {
        let answer = client.execute(request).await?;
        Ok((answer.status(), answer.text().await?))
    };
    match exchange.await {
        Ok((status, text)) if status.is_success() => Ok(text),
        Ok((status, text)) => Err(CliError::Refused(status, text)),
        Err(error) => Err(CliError::Silent(url, error)),
    }
}
