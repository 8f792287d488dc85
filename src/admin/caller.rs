//! Who sends a request that changes something. A handler that takes a [`Caller`] is not run for anybody else.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::operator_log::Operator;
use super::refusal::Refusal;
use super::users::{Denied, Users};

/// A user who may change something, and the address of the request.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) user: String,
    pub(super) peer: SocketAddr,
    from: String,
}

impl Caller {
    pub(super) fn as_operator(&self) -> Operator<'_> {
        Operator { user: &self.user, from: &self.from }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Refusal> {
        let users = parts.extensions.get::<Arc<Users>>();
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        // every request has both: see `serving` and `serve_connection`
        let (users, ConnectInfo(peer)) = users.zip(peer).ok_or(Refusal::Denied(Denied::NoUsers))?;
        let user = authorize(users, &parts.headers)?.to_owned();
        Ok(Caller { user, peer: *peer, from: peer.to_string() })
    }
}

/// The user who sent the request, if it may change something.
pub(super) fn authorize<'u>(users: &'u Users, headers: &HeaderMap) -> Result<&'u str, Refusal> {
    match is_cross_site(headers) {
        true => Err(Refusal::CrossSite),
        false => users.authenticate(headers).map_err(Refusal::Denied),
    }
}

/// Whether a browser's headers say that a page of another site made the request. A browser sends a saved password with
/// such requests too, so they are refused. Clients that are not browsers send neither of the two headers.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => !["same-origin", "none"].contains(&site),
        (None, Some(origin)) => origin.split_once("://").map(|(_, host)| host) != text("host"),
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    #[test]
    fn only_requests_from_pages_of_other_sites_are_cross_site() {
        for own in [
            &[][..],
            &[("host", "pg:8404")],
            &[("host", "pg:8404"), ("origin", "http://pg:8404")],
            &[("host", "pg:8404"), ("origin", "https://pg:8404"), ("sec-fetch-site", "same-origin")],
            &[("host", "inner:80"), ("origin", "https://outer"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(!is_cross_site(&headers(own)), "{own:?}");
        }
        for other in [
            &[("host", "pg:8404"), ("origin", "http://evil")][..],
            &[("host", "pg:8404"), ("origin", "null")],
            &[("host", "pg:8404"), ("origin", "http://pg:8405")],
            &[("host", "pg:8404"), ("origin", "http://pg:8404"), ("sec-fetch-site", "cross-site")],
            &[("host", "pg:8404"), ("sec-fetch-site", "same-site")],
        ] {
            assert!(is_cross_site(&headers(other)), "{other:?}");
        }
    }
}
