//! Serves the admin port: a bounded number of connections, each with deadlines, so that nobody can use up what the checks
//! and the sessions need.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tracing::{info, warn};

use super::protection::as_health_checks_mean_it;
use crate::net::{Ipv6Prefix, Peer};
use crate::proxy::intake::pending::PendingConnections;

/// Connections at once: dashboards, probes and a few operators. Where there are more, the one that has lasted longest is
/// closed, if it has lasted a second.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// How long a client may take for the header of a request, and a connection may stay idle between two requests.
const HEADER_MAX: Duration = Duration::from_secs(5);

/// How long a connection may last, whatever happens on it.
const CONNECTION_MAX: Duration = Duration::from_secs(60);

/// How long accepting rests after a failure: the process may have no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped. Errors that end one connection end that connection only.
pub(super) async fn serve(socket: std::net::TcpListener, router: Router) {
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return warn!(%error, "the stats page cannot be served"),
    };
    if let Ok(address) = socket.local_addr() {
        info!(%address, "stats page and metrics");
    }
    let connections = Arc::new(PendingConnections::default());
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => drop(tokio::spawn(converse(stream, peer, router.clone(), Arc::clone(&connections)))),
            Err(error) => {
                warn!(%error, "the stats page cannot accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
}

/// One connection, from its first request to its end.
async fn converse(stream: TcpStream, peer: SocketAddr, router: Router, connections: Arc<PendingConnections>) {
    let client = Peer::from(peer).source(Ipv6Prefix::default());
    let Some(place) = connections.enter(client, CONNECTIONS_MAX) else { return };
    let router = router.layer(Extension(ConnectInfo(peer)));
    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        as_health_checks_mean_it(&mut request);
        router.clone().oneshot(request)
    });
    let conversation = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // whatever ended it, the client knows
        _ = timeout(CONNECTION_MAX, conversation) => {}
        () = place.evicted() => {}
    }
}
