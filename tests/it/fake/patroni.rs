//! A REST API that answers what the test wants to have answered. HTTP/1.0, one answer a connection, as Patroni's.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub struct FakePatroni {
    name: String,
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    accepting: JoinHandle<()>,
}

/// In place of a status: there is no answer.
const FROZEN: u16 = 0;

#[derive(Default)]
struct Script {
    status: u16,
    node: Value,
    cluster: Option<Value>,
}

impl FakePatroni {
    /// Answers as a replica of timeline 1.
    pub async fn start(name: &str) -> FakePatroni {
        // open to networks of tests too, see `Namespace`
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a port");
        let port = listener.local_addr().expect("is bound").port();
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let script = Arc::new(Mutex::new(Script::default()));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&script)));
        let patroni = FakePatroni { name: name.to_owned(), address, script, accepting };
        patroni.follows();
        patroni
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers as a leader of this timeline.
    pub fn leads(&self, timeline: u32) {
        self.says(200, json!({"role": "primary", "timeline": timeline, "xlog": {"location": 67_110_128}}));
    }

    /// Answers as a replica.
    pub fn follows(&self) {
        let xlog = json!({"received_location": 67_110_128, "replayed_location": 67_110_128});
        self.says(503, json!({"role": "replica", "xlog": xlog, "replication_state": "streaming"}));
    }

    /// Answers `GET /primary` with this status, and with this JSON over what every node says anyhow.
    pub fn says(&self, status: u16, report: Value) {
        let mut node = json!({
            "state": "running", "timeline": 1, "server_version": 150_018,
            "database_system_identifier": "7574897023459823469",
            "patroni": {"version": "4.1.5", "scope": "fake", "name": self.name},
        });
        let Value::Object(report) = report else { panic!("a report is a JSON object, not {report}") };
        node.as_object_mut().expect("it is one").extend(report);
        let mut script = self.script.lock().expect("no test panics with this lock");
        (script.status, script.node) = (status, node);
    }

    /// Accepts connections from now on and answers none, as a frozen process does.
    pub fn freezes(&self) {
        self.script.lock().expect("no test panics with this lock").status = FROZEN;
    }

    /// Answers `GET /cluster` with these members.
    pub fn tells_members(&self, members: &Value) {
        let cluster = json!({"members": members, "scope": "fake"});
        self.script.lock().expect("no test panics with this lock").cluster = Some(cluster);
    }

    /// Closes the port: connections are refused from now on.
    pub fn leaves(&self) {
        self.accepting.abort();
    }
}

impl Drop for FakePatroni {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, script: Arc<Mutex<Script>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let script = Arc::clone(&script);
        // whoever asked and has gone away is not our concern
        tokio::spawn(async move { answer(stream, &script).await.ok() });
    }
}

async fn answer(stream: TcpStream, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut request = String::new();
    lines.read_line(&mut request).await?;
    let mut header = String::new();
    while lines.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let (status, body) = {
        let script = script.lock().expect("no test panics with this lock");
        match (request.split(' ').nth(1), &script.cluster) {
            (Some("/primary"), _) if script.status == FROZEN => (FROZEN, String::new()),
            (Some("/primary"), _) => (script.status, script.node.to_string()),
            (Some("/cluster"), Some(cluster)) => (200, cluster.to_string()),
            _ => (404, "{}".to_owned()),
        }
    };
    if status == FROZEN {
        return std::future::pending().await;
    }
    let head = format!("HTTP/1.0 {status} Whatever\r\nServer: BaseHTTP/0.6\r\nContent-Type: application/json\r\n\r\n");
    let mut stream = lines.into_inner();
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}
