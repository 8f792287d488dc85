//! The client for the admin API of a running pgvane.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::{RequestBuilder, StatusCode, Url};

use super::exit;
use crate::admin::status::{Session, Status};
use crate::config::default_port;
use crate::probe::rest_client::http_client;
use crate::probe::rest_error::last_cause;

/// How long to wait for an answer. An answer from the same machine takes milliseconds, and one second more after a
/// wrong password. Docker's default timeout for a health check is 30 s.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The same for a change: a reload reads files, and their disk can be slow. pgvane itself gives up after ten seconds.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(12);

/// The environment variable with the user's name, if --user is not given.
const USER_VARIABLE: &str = "PGVANE_ADMIN_USER";

/// The environment variable with the password, if --password-file is not given.
const PASSWORD_VARIABLE: &str = "PGVANE_ADMIN_PASSWORD";

/// Where the admin API of a running pgvane listens.
#[derive(Debug, Args)]
pub(super) struct AdminUrl {
    /// URL of its admin address
    #[arg(long, visible_alias = "url", value_name = "URL", default_value_t = format!("http://127.0.0.1:{}", default_port::ADMIN))]
    admin: String,
}

impl AdminUrl {
    /// This URL.
    pub(super) fn new(admin: String) -> AdminUrl {
        AdminUrl { admin }
    }
}

/// The user to log in as.
#[derive(Debug, Args)]
pub(super) struct Identity {
    /// User of `[admin]` in its configuration; the default is the environment variable PGVANE_ADMIN_USER
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// File with the user's password; the default is the environment variable PGVANE_ADMIN_PASSWORD
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Why a command failed.
#[derive(Debug)]
pub(super) enum CliError {
    /// `--admin` is not a URL.
    InvalidUrl(String),
    /// The file with the password cannot be read.
    PasswordFile(PathBuf, io::Error),
    /// No user was named for a command that needs one.
    NoUser,
    /// A command that closes sessions was not confirmed.
    NotConfirmed,
    /// There is no password.
    NoPassword,
    /// No answer came from this URL.
    NoAnswer(String, reqwest::Error),
    /// The answer has an HTTP status of failure; its body is the reason.
    Refused(StatusCode, String),
    /// The body of the answer is not what this version of pgvane expects.
    Unreadable(String),
    /// The runtime or the HTTP client cannot be created.
    NoClient(String),
    /// The command needs a terminal, and there is none.
    NoTerminal,
    /// The terminal failed.
    Terminal(io::Error),
    /// No cluster has this node. Holds the names of the known nodes.
    UnknownNode(String, Vec<String>),
    /// Several clusters have a node of this name. Holds the names of these clusters.
    AmbiguousNode(String, Vec<String>),
    /// Parking failed. Holds an error for each pgvane that has one, with its URL.
    NotParked(Vec<(String, CliError)>),
    /// Transactions did not end within `park_grace`. Holds the state in words.
    SessionsNotParked(String),
    /// Sessions are not parked, or an answer did not come, within `--wait`. Holds the newest state in words.
    ParkTimedOut(String),
    /// There is no switchover, and the sessions go on. Holds the reason.
    NoSwitchover(String),
    /// It is not known what becomes of the switchover. Holds what is known.
    SwitchoverFailed(String),
    /// The node still has sessions at the end of `--wait`. Holds their number, and the oldest of them.
    SessionsLeft(String, u32, Vec<Session>),
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CliError::InvalidUrl(given) => {
                write!(
                    f,
                    "\"{given}\" is not the URL of an admin address: expected one such as http://127.0.0.1:{}",
                    default_port::ADMIN
                )
            }
            CliError::PasswordFile(file, error) => write!(f, "cannot read {}: {error}", file.display()),
            CliError::NoUser => write!(f, "a user is required: use --user or set {USER_VARIABLE}"),
            CliError::NotConfirmed => f.write_str("nothing was closed: confirm the question, or use --yes"),
            CliError::NoPassword => write!(f, "no password: use --password-file or set {PASSWORD_VARIABLE}"),
            CliError::NoAnswer(url, error) => write!(f, "{url} does not answer: {}", last_cause(error)),
            CliError::Refused(_, why) => f.write_str(why.trim_end()),
            CliError::Unreadable(why) => {
                write!(f, "cannot read the answer; it may come from an older version of pgvane: {why}")
            }
            CliError::NoClient(why) => f.write_str(why),
            CliError::NoTerminal => {
                f.write_str("standard input or output is not a terminal: use pgvane status, or pgvane status --json")
            }
            CliError::Terminal(error) => write!(f, "the terminal failed: {error}"),
            CliError::UnknownNode(node, known) => {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                write!(f, "unknown node \"{node}\"; known nodes: {known}")
            }
            CliError::AmbiguousNode(node, clusters) => {
                write!(f, "several clusters have a node \"{node}\": add --cluster with one of {}", clusters.join(", "))
            }
            CliError::NotParked(errors) => {
                let line = |(url, error): &(String, CliError)| match error {
                    CliError::NoAnswer(..) => error.to_string(), // it names the URL
                    _ => format!("{url}: {error}"),
                };
                let lines: Vec<String> = errors.iter().map(line).collect();
                f.write_str(&lines.join("\npgvane: "))
            }
            CliError::SessionsNotParked(text) | CliError::NoSwitchover(text) | CliError::SwitchoverFailed(text) => {
                f.write_str(text)
            }
            CliError::ParkTimedOut(state) => write!(f, "not within --wait: {state}"),
            CliError::SessionsLeft(node, left, sessions) => {
                write!(f, "{node} still has {left} session(s)")?;
                sessions.iter().try_for_each(|session| write!(f, "\n  {session}"))?;
                match usize::try_from(*left).unwrap_or_default().saturating_sub(sessions.len()) {
                    0 => Ok(()),
                    more => write!(f, "\n  and {more} more"),
                }
            }
        }
    }
}

impl CliError {
    /// The exit code.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            CliError::InvalidUrl(_)
            | CliError::NoTerminal
            | CliError::NoUser
            | CliError::NotConfirmed
            | CliError::NoPassword
            | CliError::UnknownNode(..)
            | CliError::AmbiguousNode(..) => exit::USAGE,
            CliError::NotParked(errors) => {
                let mut codes = errors.iter().map(|(_, error)| error.exit_code());
                let first = codes.next().unwrap_or(exit::FAILURE);
                if codes.all(|code| code == first) { first } else { exit::FAILURE }
            }
            CliError::PasswordFile(..) => exit::NO_INPUT,
            CliError::Refused(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => exit::NO_PERMISSION,
            CliError::Refused(StatusCode::UNPROCESSABLE_ENTITY, _) => exit::CONFIG,
            CliError::NoAnswer(..)
            | CliError::Refused(..)
            | CliError::Unreadable(_)
            | CliError::NoClient(_)
            | CliError::Terminal(_)
            | CliError::ParkTimedOut(_)
            | CliError::SessionsNotParked(_)
            | CliError::NoSwitchover(_)
            | CliError::SwitchoverFailed(_)
            | CliError::SessionsLeft(..) => exit::FAILURE,
        }
    }
}

/// A client for the admin API of one pgvane.
pub(super) struct AdminApi {
    base: Url,
    client: reqwest::Client,
    login: Option<Login>,
}

/// A user's name and password.
struct Login {
    user: String,
    password: String,
}

impl AdminApi {
    /// A client for the API at this URL. Logs in with each request if a user is given.
    pub(super) fn at(admin_url: &AdminUrl, identity: Option<&Identity>) -> Result<AdminApi, CliError> {
        let base = Url::parse(&admin_url.admin).ok().filter(|url| url.has_host() && !url.cannot_be_a_base());
        let base = base.ok_or_else(|| CliError::InvalidUrl(admin_url.admin.clone()))?;
        let client = if base.scheme() == "https" { http_client() } else { http_client().tls_certs_only([]) };
        let client = client.timeout(TIMEOUT).build().map_err(|error| CliError::NoClient(error.to_string()))?;
        let login = identity.map(Identity::login).transpose()?.flatten();
        Ok(AdminApi { base, client, login })
    }

    /// Sends GET. Returns the body if the status is success.
    pub(super) async fn get(&self, path: &[&str]) -> Result<String, CliError> {
        self.get_with(path, None).await
    }

    /// The same with a query string.
    pub(super) async fn get_with(&self, path: &[&str], query: Option<&str>) -> Result<String, CliError> {
        let mut url = self.url(path);
        url.set_query(query.filter(|query| !query.is_empty()));
        match send(self.authenticated(self.client.get(url))).await {
            Err(CliError::Refused(StatusCode::UNAUTHORIZED, _)) if self.login.is_none() => Err(CliError::NoUser),
            outcome => outcome,
        }
    }

    /// The same for what is asked again and again: if an answer does not come in time, it is asked once more. So the caller
    /// has to limit the time.
    pub(super) async fn poll(&self, path: &[&str], query: &str) -> Result<String, CliError> {
        loop {
            match self.get_with(path, Some(query)).await {
                Err(CliError::NoAnswer(_, error)) if error.is_timeout() => {}
                outcome => return outcome,
            }
        }
    }

    /// The same client, for changes: a user is required for these.
    pub(super) fn for_changes(self) -> Result<AdminApi, CliError> {
        if self.login.is_some() { Ok(self) } else { Err(CliError::NoUser) }
    }

    /// Sends POST. Returns the body if the status is success.
    pub(super) async fn post(&self, path: &[&str], query: Option<&str>, body: &str) -> Result<String, CliError> {
        let mut url = self.url(path);
        url.set_query(query.filter(|query| !query.is_empty()));
        let request = self.client.post(url).timeout(CHANGE_TIMEOUT).body(body.to_owned());
        send(self.authenticated(request)).await
    }

    fn authenticated(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.login {
            Some(Login { user, password }) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    /// `GET /api/status`.
    pub(super) async fn status(&self) -> Result<Status, CliError> {
        let text = self.get(&["api", "status"]).await?;
        serde_json::from_str(&text).map_err(|error| CliError::Unreadable(error.to_string()))
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
    /// `None` if no user is named.
    fn login(&self) -> Result<Option<Login>, CliError> {
        let user = self.user.clone().or_else(|| std::env::var(USER_VARIABLE).ok().filter(|user| !user.is_empty()));
        user.map(|user| Ok(Login { user, password: self.password()? })).transpose()
    }

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

async fn send(request: RequestBuilder) -> Result<String, CliError> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| CliError::NoClient(error.to_string()))?;
    let url = request.url().to_string();
    let response = async {
        let response = client.execute(request).await?;
        Ok((response.status(), response.text().await?))
    };
    match response.await {
        Ok((status, text)) if status.is_success() => Ok(text),
        Ok((status, text)) => Err(CliError::Refused(status, text)),
        Err(error) => Err(CliError::NoAnswer(url, error)),
    }
}
