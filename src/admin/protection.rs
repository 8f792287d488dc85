//! Checks every request before it is handled: its `Host`, the login where one is required, and the number of wrong
//! passwords. Adds the security headers to every answer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::caller::authorize;
use super::host::Hosts;
use super::refusal::Refusal;
use super::users::{Denied, PENALTY, Users};
use crate::config::Admin;
use crate::protocol::startup::cut_to_name_length;

/// How long a request may take, including its body.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// The number of wrong passwords that one address may send within [`FAILURES_FORGOTTEN_AFTER`]. After that, its passwords
/// are not compared any more.
const FAILURES_MAX: u32 = 5;

/// How long wrong passwords of an address count.
const FAILURES_FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// The number of addresses whose wrong passwords are counted at the same time.
const ADDRESSES_MAX: usize = 1024;

/// Tells browsers that the page loads nothing from elsewhere, and that no other page may contain it.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
         img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // with "no-referrer", browsers would send `Origin: null` with the forms, which says nothing about where they are from
    (header::REFERRER_POLICY, "same-origin"),
];

/// Paths for programs. They need no login and may be asked under any name: Prometheus and health checks use names that
/// pgvane does not know, and the answers contain no secrets.
const PROBES: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/metrics/haproxy"];

/// Decides which requests are handled.
pub(super) struct Protection {
    /// The users that may make changes and, where a login is required, may read.
    users: Arc<Users>,
    /// Whether the page and the API need a login.
    requires_login: bool,
    /// The names under which they are served.
    hosts: Hosts,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

/// The wrong passwords of one address.
struct Failures {
    count: u32,
    since: Instant,
}

impl Protection {
    pub(super) fn new(users: Arc<Users>, admin: &Admin) -> Protection {
        let (requires_login, hosts) = (admin.requires_login, Hosts::new(&admin.hosts));
        Protection { users, requires_login, hosts, failures: Mutex::default() }
    }

    /// Whether this address has sent too many wrong passwords.
    fn fails_too_often(&self, ip: IpAddr) -> bool {
        let mut failures = self.failures.lock();
        let now = Instant::now();
        failures.retain(|_, of| now - of.since < FAILURES_FORGOTTEN_AFTER);
        failures.get(&ip).is_some_and(|of| of.count >= FAILURES_MAX)
    }

    /// Counts a wrong password. Returns the number of wrong passwords of this address.
    fn count_failure(&self, ip: IpAddr) -> u32 {
        let mut failures = self.failures.lock();
        if failures.len() >= ADDRESSES_MAX && !failures.contains_key(&ip) {
            return FAILURES_MAX;
        }
        let of = failures.entry(ip).or_insert(Failures { count: 0, since: Instant::now() });
        of.count += 1;
        of.count
    }

    /// The answer to a request that is refused; `None` if it is to be handled.
    async fn refuse(&self, request: &Parts, peer: SocketAddr) -> Option<Response> {
        let Parts { method, uri, headers, .. } = request;
        let changes = method == Method::POST;
        let is_probe = PROBES.contains(&uri.path()) && !changes;
        if is_probe {
            return None;
        }
        if let Some(name) = self.hosts.wrong_name(uri, headers) {
            return Some(wrong_host(&name));
        }
        if !changes && !self.requires_login {
            return None;
        }
        if self.fails_too_often(peer.ip()) {
            let why = "too many wrong passwords from this address: wait ten seconds\n";
            return Some((StatusCode::TOO_MANY_REQUESTS, why).into_response());
        }
        let refusal = match changes {
            true => authorize(&self.users, headers).err()?,
            false => Refusal::Denied(self.users.authenticate(headers).err()?),
        };
        if let Refusal::Denied(Denied::WrongCredentials(user)) = &refusal {
            let count = self.count_failure(peer.ip());
            if count == 1 || count == FAILURES_MAX {
                warn!(user = cut_to_name_length(user), %peer, count, "wrong name or password for the admin port");
            }
            sleep(PENALTY).await;
        }
        Some(refusal.into_response())
    }
}

/// The answer to a request that names a host under which the page is not served.
fn wrong_host(name: &str) -> Response {
    let name = cut_to_name_length(name);
    let why = format!(
        "pgvane does not serve this page under the name {name:?}: the request may come from a web page of another site \
         (DNS rebinding).\nIf {name:?} is a name of this pgvane, add it to `hosts` in [admin] of pgvane.toml, without \
         the port; or use the IP address in the URL.\n"
    );
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

/// Wraps the handling of every request. Runs before the body is read.
pub(super) async fn protect(
    State(protection): State<Arc<Protection>>,
    Extension(ConnectInfo(peer)): Extension<ConnectInfo<SocketAddr>>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts(); // the body is not `Sync`
    let mut response = match protection.refuse(&parts, peer).await {
        Some(refusal) => refusal,
        None => match timeout(REQUEST_MAX, next.run(Request::from_parts(parts, body))).await {
            Ok(response) => response,
            Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response(),
        },
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Changes a request so that it is answered as health checks expect: `OPTIONS`, HAProxy's usual check, as `GET`, and a
/// path with a slash at its end as the path without it.
pub(super) fn normalize(request: &mut Request) {
    if request.method() == Method::OPTIONS {
        *request.method_mut() = Method::GET;
    }
    let path = request.uri().path();
    if path.len() > 1 && path.ends_with('/') {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        if let Ok(uri) = format!("{}{query}", path.trim_end_matches('/')).parse::<Uri>() {
            *request.uri_mut() = uri;
        }
    }
}
