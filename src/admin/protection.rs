//! What is asked of every request before anything of it is done: the form that health checks use, a login where one is
//! required, and not too many wrong passwords. And what browsers are told with every answer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::actions::{Refusal, authorize};
use super::users::{Denied, PENALTY, Users};
use crate::protocol::startup::cut_to_name_length;

/// How long a request may take, its body included.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// Wrong passwords that one address may send in [`FAILURES_FORGOTTEN_AFTER`], before its further attempts are not looked at.
const FAILURES_MAX: u32 = 5;

const FAILURES_FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// Addresses whose failures are remembered at once.
const ADDRESSES_MAX: usize = 1024;

/// What browsers are told: nothing from elsewhere belongs into the page, and the page belongs into no other.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
         img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// Which requests the admin port serves.
pub(super) struct Protection {
    /// Who may change things, and may look where a login is required.
    pub(super) users: Arc<Users>,
    /// Whether the page and the API are for users only.
    pub(super) requires_login: bool,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

/// Wrong passwords of one address.
struct Failures {
    count: u32,
    since: Instant,
}

impl Protection {
    pub(super) fn new(users: Arc<Users>, requires_login: bool) -> Protection {
        Protection { users, requires_login, failures: Mutex::default() }
    }

    /// Whether this address has failed too often. The first time that it has, it is logged.
    fn fails_too_often(&self, ip: IpAddr) -> bool {
        let mut failures = self.failures.lock();
        let now = Instant::now();
        failures.retain(|_, of| now - of.since < FAILURES_FORGOTTEN_AFTER);
        failures.get(&ip).is_some_and(|of| of.count >= FAILURES_MAX)
    }

    /// Counts a wrong password. Returns how many there have been.
    fn count_failure(&self, ip: IpAddr) -> u32 {
        let mut failures = self.failures.lock();
        if failures.len() >= ADDRESSES_MAX && !failures.contains_key(&ip) {
            return FAILURES_MAX;
        }
        let of = failures.entry(ip).or_insert(Failures { count: 0, since: Instant::now() });
        of.count += 1;
        of.count
    }

    /// Why this request is not served; `None` if it is.
    async fn refuse(&self, method: &Method, path: &str, headers: &HeaderMap, peer: SocketAddr) -> Option<Response> {
        let changes = method == Method::POST;
        let is_probe = ["/healthz", "/readyz", "/metrics"].contains(&path);
        if !changes && (is_probe || !self.requires_login) {
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

/// Goes before every request, and before its body is read.
pub(super) async fn protect(
    State(protection): State<Arc<Protection>>,
    Extension(ConnectInfo(peer)): Extension<ConnectInfo<SocketAddr>>,
    request: Request,
    next: Next,
) -> Response {
    // a body cannot be shared between threads, so it is left out of what is looked at
    let (parts, body) = request.into_parts();
    let refusal = protection.refuse(&parts.method, parts.uri.path(), &parts.headers, peer).await;
    let request = Request::from_parts(parts, body);
    let mut response = match refusal {
        Some(refusal) => refusal,
        None => match timeout(REQUEST_MAX, next.run(request)).await {
            Ok(response) => response,
            Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response(),
        },
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// `OPTIONS` is HAProxy's usual health check, and is answered as `GET` is; a slash at the end of a path changes nothing.
pub(super) fn as_health_checks_mean_it(request: &mut Request) {
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
