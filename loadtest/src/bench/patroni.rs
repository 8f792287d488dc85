//! The REST API of a node whose role never changes.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::error::Doing;
use crate::{Result, ports};

/// The role of its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The leader.
    Leader,
    /// A replica that streams and has replayed everything.
    Replica,
}

impl Role {
    /// The answer to `GET /primary`: the parts that are used, as Patroni 4 writes them but without the node's name,
    /// since one API is used for many nodes.
    fn answer(self) -> String {
        let (code, role, xlog) = match self {
            Role::Leader => ("200 OK", "primary", r#"{"location": 83886080}"#),
            Role::Replica => (
                "503 Service Unavailable",
                "replica",
                r#"{"received_location": 83886080, "replayed_location": 83886080, "paused": false}"#,
            ),
        };
        format!(
            "HTTP/1.0 {code}\r\nContent-Type: application/json\r\n\r\n\
             {{\"state\": \"running\", \"role\": \"{role}\", \"server_version\": 150008, \"timeline\": 1, \
             \"replication_state\": \"streaming\", \"xlog\": {xlog}, \
             \"database_system_identifier\": \"7300000000000000001\", \
             \"patroni\": {{\"version\": \"4.0.0\", \"scope\": \"bench\"}}}}"
        )
    }
}

/// Starts answering for nodes of this role, until the process ends.
pub fn start(role: Role) -> Result<SocketAddr> {
    let address = ports::free()?;
    let listener = TcpListener::bind(address).doing(|| "opening the REST API's port".to_owned())?;
    let answer = role.answer();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _client_closed = send_answer(&stream, &answer);
        }
    });
    Ok(address)
}

fn send_answer(mut stream: &TcpStream, answer: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut request = BufReader::new(stream);
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    stream.write_all(answer.as_bytes())
}
