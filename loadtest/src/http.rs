//! A small HTTP client for Patroni's REST API.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The most that is read of an answer.
const ANSWER_SIZE_MAX: u64 = 16 * 1024 * 1024;

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, without headers.
    pub body: String,
}

impl Answer {
    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Asks `server` for `path`. HTTP/1.0: the answer ends where the connection does.
pub async fn get(server: SocketAddr, path: &str, within: Duration) -> io::Result<Answer> {
    exchange(server, format!("GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n"), within).await
}

/// Sends `body` to `path` of `server` with POST.
pub async fn post(server: SocketAddr, path: &str, body: &serde_json::Value, within: Duration) -> io::Result<Answer> {
    let body = body.to_string();
    let head = format!("POST {path} HTTP/1.0\r\nHost: {server}\r\nContent-Type: application/json");
    exchange(server, format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()), within).await
}

async fn exchange(server: SocketAddr, request: String, within: Duration) -> io::Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_SIZE_MAX).read_to_end(&mut answer).await?;
        parse(&answer)
    };
    tokio::time::timeout(within, exchange).await.map_err(|_elapsed| io::Error::from(ErrorKind::TimedOut))?
}

fn parse(answer: &[u8]) -> io::Result<Answer> {
    let answer = String::from_utf8_lossy(answer);
    let not_http = || io::Error::new(ErrorKind::InvalidData, format!("not an HTTP answer: {answer:.80}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(not_http)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(not_http)?;
    Ok(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body() {
        let answer = parse(b"HTTP/1.0 503 Service Unavailable\r\nServer: x\r\n\r\n{\"state\": \"stopped\"}")
            .expect("well-formed");
        assert_eq!((answer.status, answer.json()["state"].as_str()), (503, Some("stopped")));
        assert!(parse(b"what?").is_err());
    }
}
