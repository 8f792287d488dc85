//! The HTTP client for REST APIs: its certificates, how it finds the addresses of names, and where it may connect to.

use std::error::Error;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, fs};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, ClientBuilder, Identity, Response, Url};
use tokio::time::Instant;

use super::rest_error::{check_error, last_cause};
use crate::cluster::node::CheckError;
use crate::config::{PatroniLogin, PatroniTls};
use crate::net::Resolver;
use crate::net::dial::{ConnectFailure, allowed_addresses, is_within};
use crate::tls::{RestTrust, rest_client};

/// reqwest looks up names without the port.
const ANY_PORT: u16 = 0;

/// A client that connects only to allowed addresses, and takes them from the program's resolver.
#[derive(Debug, Clone)]
pub(super) struct RestClient {
    http: Client,
    addresses: RestAddresses,
}

impl RestClient {
    /// A client for questions that have to be answered within `timeout`. It connects only to addresses within these
    /// networks; to any address if there are none. Certificates are read only if an API may use HTTPS.
    ///
    /// Errors: certificates that cannot be read.
    pub(super) fn new(
        timeout: Duration,
        speaks_https: bool,
        tls: &PatroniTls,
        names: Arc<Resolver>,
        within: Arc<[IpNet]>,
    ) -> Result<RestClient, PatroniTlsError> {
        let identity = tls.client_identity_file.as_deref();
        let builder = match (trust(tls), identity) {
            (Some(trust), identity) => {
                let config = rest_client(trust, identity).map_err(|error| PatroniTlsError::new(None, &error))?;
                http_client().tls_backend_preconfigured(config)
            }
            (None, Some(file)) => {
                let pem = fs::read(file).map_err(|error| PatroniTlsError::new(Some(file), &error))?;
                let identity = Identity::from_pem(&pem);
                http_client().identity(identity.map_err(|error| PatroniTlsError::new(Some(file), &error))?)
            }
            (None, None) if speaks_https => http_client(),
            (None, None) => http_client().tls_certs_only([]),
        };
        // The client divides this time among the addresses of a name. The second one has to be tried, and has to
        // answer, within one check.
        let builder = builder.connect_timeout(timeout * 3 / 4);
        let addresses = RestAddresses { names, within, timeout };
        let http = builder.dns_resolver(Arc::new(addresses.clone())).build();
        Ok(RestClient { http: http.map_err(|error| PatroniTlsError::new(None, &error))?, addresses })
    }

    /// Sends JSON to an API that does something because of it, and returns the answer as soon as its body begins.
    ///
    /// The client is not told how long to wait for the answer: the caller limits that.
    pub(super) async fn post(
        &self,
        url: &str,
        login: Option<&PatroniLogin>,
        json: String,
    ) -> Result<Response, PostError> {
        let not_sent = |error: &dyn fmt::Display| PostError::NotSent(error.to_string());
        let url = Url::parse(url).map_err(|error| not_sent(&error))?;
        self.addresses.check_ip_address(&url).map_err(|error| not_sent(&error))?;
        let request = self.http.post(url).header(CONTENT_TYPE, "application/json").body(json);
        let request = match login {
            Some(PatroniLogin { user, password }) => request.basic_auth(user, Some(password.reveal())),
            None => request,
        };
        request.send().await.map_err(|error| {
            let why = last_cause(&error);
            if error.is_connect() { PostError::NotSent(why) } else { PostError::NoAnswer(why) }
        })
    }

    /// Sends a request, and returns the answer as soon as its body begins.
    pub(super) async fn get(&self, url: &str) -> Result<Response, CheckError> {
        let url = Url::parse(url).map_err(|error| CheckError::Unreachable(error.to_string()))?;
        self.addresses.check_ip_address(&url).map_err(|error| CheckError::Unreachable(error.to_string()))?;
        match self.http.get(url.clone()).send().await {
            Ok(response) => {
                if let (Some(name), Some(address)) = (url.domain(), response.remote_addr()) {
                    self.addresses.names.connected(name, ANY_PORT, address.ip());
                }
                Ok(response)
            }
            Err(error) => Err(match url.domain().filter(|_| error.is_connect()) {
                Some(name) => self.addresses.not_connected(name, &error),
                None => check_error(&error, false),
            }),
        }
    }
}

/// Why there is no answer to a request that does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PostError {
    /// The API has not got the request.
    NotSent(String),
    /// It may have got it.
    NoAnswer(String),
}

/// Finds the addresses of REST APIs.
#[derive(Debug, Clone)]
struct RestAddresses {
    names: Arc<Resolver>,
    within: Arc<[IpNet]>,
    timeout: Duration,
}

impl RestAddresses {
    /// A URL with an IP address needs no lookup. Errors: it is not within the networks.
    fn check_ip_address(&self, url: &Url) -> Result<(), ConnectFailure> {
        let host = url.host_str().unwrap_or_default();
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) if !is_within(&self.within, ip) => Err(ConnectFailure::NotAllowed(ip)),
            _ => Ok(()),
        }
    }

    /// No address of a name could be connected to. The reason names them.
    fn not_connected(&self, name: &str, error: &reqwest::Error) -> CheckError {
        if innermost_cause(error).is::<ConnectFailure>() {
            return check_error(error, false); // there was no address to try
        }
        self.names.not_connected(name);
        let tried: Vec<String> = self.names.known(name).iter().map(IpAddr::to_string).collect();
        if tried.is_empty() {
            return check_error(error, false); // the lookup took all the time
        }
        match check_error(error, false) {
            CheckError::Unreachable(why) => CheckError::Unreachable(format!("{why} ({})", tried.join(", "))),
            other => CheckError::Unreachable(format!("{other} ({})", tried.join(", "))),
        }
    }
}

impl Resolve for RestAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        let RestAddresses { names, within, timeout } = self.clone();
        Box::pin(async move {
            let deadline = Instant::now() + timeout;
            let addresses = allowed_addresses(&names, &within, name.as_str(), ANY_PORT, deadline).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Which certificates are trusted; the system's authorities if `None`.
fn trust(tls: &PatroniTls) -> Option<RestTrust<'_>> {
    match &tls.ca_file {
        Some(file) => Some(RestTrust::File(file)),
        None => tls.verifies_nothing.then_some(RestTrust::Nothing),
    }
}

fn innermost_cause(error: &reqwest::Error) -> &(dyn Error + 'static) {
    let mut cause: &(dyn Error + 'static) = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}

/// The settings that all of pgvane's HTTP clients share.
pub fn http_client() -> ClientBuilder {
    // fails only if a provider is installed already, which will do as well
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Patroni answers with HTTP/1.0 and closes the connection: there is nothing to pool
    Client::builder()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("pgvane/", env!("CARGO_PKG_VERSION")))
}

/// Why a client could not be made.
#[derive(Debug)]
pub struct PatroniTlsError {
    file: Option<PathBuf>,
    cause: String,
}

impl PatroniTlsError {
    fn new(file: Option<&Path>, error: &(dyn Error + 'static)) -> PatroniTlsError {
        PatroniTlsError { file: file.map(Path::to_owned), cause: with_causes(error) }
    }
}

impl fmt::Display for PatroniTlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "cannot use {} for Patroni's REST API: {}", file.display(), self.cause),
            None => write!(f, "cannot use HTTPS for Patroni's REST API: {}", self.cause),
        }
    }
}

impl Error for PatroniTlsError {}

/// An error with its causes. The helpful one is mostly the last.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    use pgvane_loadtest::fake::FakePatroni;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// A client that knows the name `pg1`, which has these addresses.
    fn client(addresses: &[IpAddr], within: &[&str]) -> RestClient {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|ip| (*ip, 0).into()).collect();
        let names = Resolver::with_lookup(Box::new(move |_| {
            let addresses = addresses.clone();
            Box::pin(async move { Ok(addresses) })
        }));
        let within = within.iter().map(|net| net.parse().expect("is a network")).collect();
        RestClient::new(TIMEOUT, false, &PatroniTls::default(), names, within).expect("needs no files")
    }

    #[tokio::test]
    async fn the_address_that_answers_comes_first_the_next_time() {
        let patroni = FakePatroni::start("pg1").await;
        let port = patroni.address().port();
        let client = client(&[Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()], &[]);
        client.get(&format!("http://pg1:{port}/primary")).await.expect("the fake listens on IPv4 only");
        let names = &client.addresses.names;
        let known = names.addresses("pg1", ANY_PORT, Instant::now() + TIMEOUT).await.expect("is known");
        assert_eq!(known[0].ip(), Ipv4Addr::LOCALHOST);
    }

    #[tokio::test]
    async fn the_reason_names_the_addresses_that_were_tried() {
        let client = client(&[8, 9].map(|last| Ipv4Addr::new(127, 0, 0, last).into()), &[]);
        let error = client.get("http://pg1:1/primary").await.expect_err("nobody listens there");
        assert_eq!(error.to_string(), "unreachable: connection refused (127.0.0.8, 127.0.0.9)");
        let error = client.get("http://127.0.0.9:1/primary").await.expect_err("nobody listens there");
        assert_eq!(error, CheckError::Refused);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_not_followed_by_an_empty_list_of_addresses() {
        let names = Resolver::with_lookup(Box::new(|_| Box::pin(std::future::pending())));
        let timeout = Duration::from_millis(100);
        let client = RestClient::new(timeout, false, &PatroniTls::default(), names, Arc::from([])).expect("no files");
        let error = client.get("http://pg1:1/primary").await.expect_err("the resolver does not answer").to_string();
        assert!(!error.contains("()"), "{error}");
    }

    #[tokio::test]
    async fn an_api_whose_name_has_another_address_than_is_allowed_is_not_asked() {
        let patroni = FakePatroni::start("pg1").await;
        let port = patroni.address().port();
        let client = client(&[Ipv4Addr::LOCALHOST.into()], &["10.0.0.0/8"]);
        for host in ["pg1", "127.0.0.1", "[::ffff:127.0.0.1]", "2130706433"] {
            let error = client.get(&format!("http://{host}:{port}/primary")).await.expect_err("it is a stranger");
            assert!(error.to_string().ends_with("is not within discover_allow"), "{host}: {error}");
        }
    }
}
