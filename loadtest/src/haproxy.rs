//! HAProxy in front of a lab's nodes, configured as in Patroni's template, to compare pgvane with it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::error::Doing;
use crate::lab::Node;
use crate::process::Process;
use crate::{Result, ports, programs, wait};

/// It opens its ports at once.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// A running HAProxy; ends when it is dropped.
#[derive(Debug)]
pub struct Haproxy {
    /// Where writes go.
    pub write_addr: SocketAddr,
    /// Where reads go.
    pub read_addr: SocketAddr,
    /// Its statistics page.
    pub stats_addr: SocketAddr,
    process: Process,
}

impl Haproxy {
    /// Starts it on free ports, with its files in `directory`, and waits until it accepts connections.
    pub async fn start(directory: &Path, nodes: &[Node]) -> Result<Self> {
        let program = programs::on_path("haproxy")?;
        let (write_addr, read_addr, stats_addr) = (ports::free()?, ports::free()?, ports::free()?);
        let text = configuration(nodes, write_addr, read_addr, stats_addr);
        let file = directory.join(format!("haproxy-{}.cfg", write_addr.port()));
        fs::write(&file, text).doing(|| format!("writing {}", file.display()))?;
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(&file);
        let process = Process::start("haproxy", command, directory, &file.with_extension("log"))?;
        let mut haproxy = Self { write_addr, read_addr, stats_addr, process };
        let opened = wait::until("HAProxy's ports", READY_WITHIN, || accepts(write_addr)).await;
        haproxy.process.still_runs()?;
        opened.map(|()| haproxy)
    }

    /// What it has logged so far.
    pub fn log_text(&self) -> String {
        self.process.log_text()
    }
}

async fn accepts(address: SocketAddr) -> std::result::Result<(), String> {
    TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
}

/// Patroni's template (`extras/confd/templates/haproxy.tmpl` in its repository), filled in.
fn configuration(nodes: &[Node], write: SocketAddr, read: SocketAddr, stats: SocketAddr) -> String {
    let server = |node: &Node| {
        let Node { name, pg, rest, .. } = node;
        format!("    server {name} {pg} maxconn 100 check port {}\n", rest.port())
    };
    let servers: String = nodes.iter().map(server).collect();
    let role = |name: &str, bind: SocketAddr, path: &str| {
        format!(
            "
listen {name}
    bind {bind}
    option httpchk OPTIONS {path}
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
{servers}"
        )
    };
    let (write, read) = (role("primary", write, "/primary"), role("replicas", read, "/replica"));
    format!(
        "\
global
    maxconn 100

defaults
    log global
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s

listen stats
    mode http
    bind {stats}
    stats enable
    stats uri /
{write}{read}"
    )
}
