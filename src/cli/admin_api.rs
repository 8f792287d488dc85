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
pub(super) struct Place {
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
pub(super) enum Trouble {
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

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::NoAddress(given) => {
                write!(
                    f,
                    "\"{given}\" is not the URL of an admin port, such as http://127.0.0.1:{}",
                    default_port::ADMIN
                )
            }
            Trouble::PasswordFile(file, error) => write!(f, "cannot read {}: {error}", file.display()),
            Trouble::NoPassword => write!(f, "no password: give --password-file, or set {PASSWORD_VARIABLE}"),
            Trouble::Silent(url, error) => write!(f, "{url} does not answer: {error}"),
            Trouble::Refused(_, why) => f.write_str(why.trim_end()),
            Trouble::Garbled(why) => write!(f, "the answer is not understood; is it an older pgvane? {why}"),
            Trouble::Unable(why) => f.write_str(why),
            Trouble::UnknownNode(node, known) => {
                write!(f, "there is no node \"{node}\"; there are: {}", known.join(", "))
            }
            Trouble::AmbiguousNode(node, clusters) => {
                write!(f, "several clusters have a node \"{node}\": say --cluster with one of {}", clusters.join(", "))
            }
            Trouble::SessionsLeft(node, left) => write!(f, "{node}: {left} sessions are left"),
        }
    }
}

impl Trouble {
    /// The code to end with.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Trouble::NoAddress(_) | Trouble::NoPassword | Trouble::UnknownNode(..) | Trouble::AmbiguousNode(..) => {
                exit::USAGE
            }
            Trouble::PasswordFile(..) => exit::NO_INPUT,
            Trouble::Refused(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => exit::NO_PERMISSION,
            Trouble::Silent(..)
            | Trouble::Refused(..)
            | Trouble::Garbled(_)
            | Trouble::Unable(_)
            | Trouble::SessionsLeft(..) => exit::FAILURE,
        }
    }
}

/// A running pgvane, as seen from the command line.
pub(super) struct AdminApi {
    base: Url,
    client: reqwest::Client,
}

impl AdminApi {
    /// The one at this place.
    pub(super) fn at(place: &Place) -> Result<AdminApi, Trouble> {
        let base = Url::parse(&place.admin).ok().filter(|url| url.has_host() && !url.cannot_be_a_base());
        let base = base.ok_or_else(|| Trouble::NoAddress(place.admin.clone()))?;
        let client = if base.scheme() == "https" { http_client() } else { http_client().tls_certs_only([]) };
        let client = client.timeout(PATIENCE).build().map_err(|error| Trouble::Unable(error.to_string()))?;
        Ok(AdminApi { base, client })
    }

    /// GET; the body of a good answer.
    pub(super) async fn get(&self, path: &[&str]) -> Result<String, Trouble> {
        answered(self.client.get(self.url(path))).await
    }

    /// POST; the body of a good answer.
    pub(super) async fn post(
        &self,
        path: &[&str],
        query: Option<&str>,
        body: &str,
        identity: &Identity,
    ) -> Result<String, Trouble> {
        let mut url = self.url(path);
        url.set_query(query);
        let request = self.client.post(url).body(body.to_owned());
        answered(request.basic_auth(&identity.user, Some(identity.password()?))).await
    }

    /// How it is.
    pub(super) async fn status(&self) -> Result<Status, Trouble> {
        let text = self.get(&["api", "status"]).await?;
        serde_json::from_str(&text).map_err(|error| Trouble::Garbled(error.to_string()))
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
    fn password(&self) -> Result<String, Trouble> {
        match &self.password_file {
            Some(file) => match fs::read_to_string(file) {
                Ok(text) => Ok(text.trim().to_owned()),
                Err(error) => Err(Trouble::PasswordFile(file.clone(), error)),
            },
            None => std::env::var(PASSWORD_VARIABLE).map_err(|_| Trouble::NoPassword),
        }
    }
}

async fn answered(request: RequestBuilder) -> Result<String, Trouble> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| Trouble::Unable(error.to_string()))?;
    let url = request.url().to_string();
    let exchange = async {
        let answer = client.execute(request).await?;
        Ok((answer.status(), answer.text().await?))
    };
    match exchange.await {
        Ok((status, text)) if status.is_success() => Ok(text),
        Ok((status, text)) => Err(Trouble::Refused(status, text)),
        Err(error) => Err(Trouble::Silent(url, error)),
    }
}
