//! Serves HTTP on the admin port: a limited number of connections, each with time limits, so that the requests of some
//! clients cannot use up the descriptors and the memory that health checks and sessions need.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{info, warn};

use super::protection::normalize;
use super::served::Served;
use crate::net::{Ipv6Prefix, Peer};
use crate::proxy::intake::pending::PendingConnections;
use crate::telemetry::LineLimit;

/// The number of connections at the same time: enough for dashboards, health checks and a few operators. A further
/// connection takes the place of the oldest one, if that has lasted for a second; otherwise it is closed.
const CONNECTIONS_MAX: usize = 64;

/// How long a client may take for the header of a request, and a connection may stay idle between two requests.
const HEADER_MAX: Duration = Duration::from_secs(5);

/// How long a connection may last in any case.
const CONNECTION_MAX: Duration = Duration::from_secs(60);

/// How long to wait after `accept` has failed: the process may have no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped. An error on a connection ends that connection only.
pub(super) async fn serve(socket: std::net::TcpListener, mut served: watch::Receiver<Served>, tasks: TaskTracker) {
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return warn!(%error, "the stats page cannot be served"),
    };
    if let Ok(address) = socket.local_addr() {
        info!(%address, "stats page and metrics");
    }
    let connections = Arc::new(PendingConnections::default());
    let mut lines = LineLimit::new(1);
    let mut is_accepting = served.borrow_and_update().is_accepting;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept(), if is_accepting => accepted,
            Ok(()) = served.changed() => {
                is_accepting = served.borrow_and_update().is_accepting;
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                drop(tasks.spawn(serve_connection(stream, peer, served.clone(), Arc::clone(&connections))));
            }
            Err(error) => {
                if let Some(suppressed) = lines.admit(Instant::now()) {
                    let suppressed = (suppressed > 0).then_some(suppressed);
                    warn!(%error, suppressed, "the stats page cannot accept a connection");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until it ends.
async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    mut served: watch::Receiver<Served>,
    connections: Arc<PendingConnections>,
) {
    let client = Peer::from(peer).source(Ipv6Prefix::default());
    let Some(place) = connections.enter(client, CONNECTIONS_MAX) else { return };
    let newest = served.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        normalize(&mut request);
        request.extensions_mut().insert(ConnectInfo(peer));
        let router = newest.borrow().router.clone();
        router.oneshot(request)
    });
    let requests = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut requests = pin!(requests);
    let all = async {
        tokio::select! {
            _ = served.wait_for(|served| !served.is_accepting) => {}
            _ = requests.as_mut() => return,
        }
        requests.as_mut().graceful_shutdown(); // the next request belongs to the other process
        let _ = requests.await;
    };
    tokio::select! {
        // an error needs no log line: the client sees it
        _ = timeout(CONNECTION_MAX, all) => {}
        () = place.evicted() => {}
    }
}
