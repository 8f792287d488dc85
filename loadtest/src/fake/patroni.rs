//! A REST API that answers what its owner sets. HTTP/1.0, one answer per connection, as Patroni's.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The REST API of one node, until it is dropped.
#[derive(Debug)]
pub struct FakePatroni {
    name: Option<String>,
    address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Answers {
    /// The status and the JSON for `GET /primary`; without them, there is no answer.
    primary: Option<(u16, Value)>,
    /// The JSON for `GET /cluster`; without it, the status is 404.
    cluster: Option<Value>,
}

impl FakePatroni {
    /// Answers as a replica of timeline 1. Needs a tokio runtime.
    pub async fn start(name: &str) -> FakePatroni {
        FakePatroni::start_as(Some(name.to_owned())).await
    }

    /// Does not say a node's name, so that it can be the API of many nodes.
    pub async fn start_without_name() -> FakePatroni {
        FakePatroni::start_as(None).await
    }

    async fn start_as(name: Option<String>) -> FakePatroni {
        // open to networks of tests too, see `Namespace`
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a port");
        let port = listener.local_addr().expect("is bound").port();
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let answers = Arc::new(Mutex::new(Answers::default()));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&answers)));
        let patroni = FakePatroni { name, address, answers, accepting };
        patroni.follows();
        patroni
    }

    /// On loopback.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers as a leader of this timeline.
    pub fn leads(&self, timeline: u32) {
        self.says(200, json!({"role": "primary", "timeline": timeline, "xlog": {"location": 67_110_128}}));
    }

    /// Answers as a replica that streams and has replayed everything.
    pub fn follows(&self) {
        let xlog = json!({"received_location": 67_110_128, "replayed_location": 67_110_128});
        self.says(503, json!({"role": "replica", "xlog": xlog, "replication_state": "streaming"}));
    }

    /// Answers `GET /primary` with this status, and with this JSON on top of what every node says.
    ///
    /// # Panics
    /// If the report is not a JSON object.
    pub fn says(&self, status: u16, report: Value) {
        let mut node = json!({
            "state": "running", "timeline": 1, "server_version": 150_018,
            "database_system_identifier": "7574897023459823469",
            "patroni": {"version": "4.1.5", "scope": "fake"},
        });
        if let Some(name) = &self.name {
            node["patroni"]["name"] = json!(name);
        }
        let Value::Object(report) = report else { panic!("a report is a JSON object, not {report}") };
        node.as_object_mut().expect("it is one").extend(report);
        lock(&self.answers).primary = Some((status, node));
    }

    /// From now on, accepts connections and answers none, as a frozen process does.
    pub fn freezes(&self) {
        lock(&self.answers).primary = None;
    }

    /// Answers `GET /cluster` with these members.
    pub fn lists_members(&self, members: &Value) {
        lock(&self.answers).cluster = Some(json!({"members": members, "scope": "fake"}));
    }

    /// Closes the port: once this returns, connections are refused.
    pub async fn closes(&self) {
        super::end(&self.accepting).await;
    }
}

impl Drop for FakePatroni {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(answers: &Mutex<Answers>) -> MutexGuard<'_, Answers> {
    answers.lock().expect("nothing panics with this lock")
}

async fn accept(listener: TcpListener, answers: Arc<Mutex<Answers>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let answers = Arc::clone(&answers);
        // a client that has closed the connection needs no answer
        tokio::spawn(async move { answer(stream, &answers).await.ok() });
    }
}

async fn answer(stream: TcpStream, answers: &Mutex<Answers>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut request = String::new();
    lines.read_line(&mut request).await?;
    let mut header = String::new();
    while lines.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let answer = {
        let answers = lock(answers);
        match (request.split(' ').nth(1), &answers.cluster) {
            (Some("/primary"), _) => answers.primary.as_ref().map(|(status, node)| (*status, node.to_string())),
            (Some("/cluster"), Some(cluster)) => Some((200, cluster.to_string())),
            _ => Some((404, "{}".to_owned())),
        }
    };
    let Some((status, body)) = answer else { return std::future::pending().await };
    let head = format!("HTTP/1.0 {status} Text\r\nServer: BaseHTTP/0.6\r\nContent-Type: application/json\r\n\r\n");
    let mut stream = lines.into_inner();
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}
