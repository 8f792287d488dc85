//! The REST API of a node that leads and never does anything else.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::error::Doing;
use crate::{Result, ports};

/// The parts of a leader's status that anybody reads, as Patroni 4 writes it.
const STATUS: &str = r#"{"state": "running", "role": "primary", "server_version": 150008, "timeline": 1,
    "xlog": {"location": 83886080}, "database_system_identifier": "7300000000000000001",
    "patroni": {"version": "4.0.0", "scope": "bench", "name": "null"}}"#;

/// Starts answering, until the process ends.
pub fn start() -> Result<SocketAddr> {
    let address = ports::free()?;
    let listener = TcpListener::bind(address).doing(|| "opening the REST API's port".to_owned())?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _hung_up = answer(&stream);
        }
    });
    Ok(address)
}

fn answer(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut request = BufReader::new(stream);
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{STATUS}")
}
