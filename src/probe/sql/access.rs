//! How to connect and log in to the nodes of a cluster.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Sql};
use crate::net::Resolver;
use crate::net::dial::NodeDialer;
use crate::protocol::proxy_header;
use crate::tls::{ServerTls, TlsError};

/// How to log in to every node of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access {
    pub(super) sql: Arc<Sql>,
    pub(super) tls: ServerTls,
    pub(super) connect_timeout: Duration,
    /// What a connection begins with.
    pub(super) preamble: Vec<u8>,
    pub(super) dialer: NodeDialer,
}

impl Access {
    /// Connecting by TCP may take most of the time of a check, so that its failure is known within the check. If
    /// connections begin with a PROXY header, it says that the connection is pgvane's own.
    ///
    /// Errors: files for TLS that cannot be used.
    pub fn new(sql: &Sql, cluster: &config::Cluster, names: Arc<Resolver>) -> Result<Access, TlsError> {
        let preamble = if cluster.sends_proxy_header { proxy_header::encode(None) } else { Vec::new() };
        let dialer = NodeDialer { names, discover_allow: cluster.discover_allow() };
        let (tls, sql) = (ServerTls::new(&sql.tls)?, Arc::new(sql.clone()));
        Ok(Access { sql, tls, connect_timeout: cluster.timeout * 3 / 4, preamble, dialer })
    }
}
