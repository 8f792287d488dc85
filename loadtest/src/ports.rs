//! Ports for servers: free ones for tests, and fixed ones with an error that names the process that uses them.
//!
//! Free ports are taken from *below* the kernel's ephemeral range, not by binding port 0. A client that connects again
//! and again to a stopped server on loopback uses thousands of ephemeral ports, and sooner or later one of its own
//! outgoing connections has the port that the server needs.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Result};

/// The ports that are tried: above well-known services, below Linux' default ephemeral range (32768–60999).
const RANGE_START: u32 = 20_000;
const RANGE_SIZE: u32 = 12_000;

/// The next port to try in this process.
static CURSOR: AtomicU32 = AtomicU32::new(0);

/// `port` on 127.0.0.1.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A loopback address that nobody listens on; never the same one twice in a process.
pub fn free() -> Result<SocketAddr> {
    // If several test programs run at the same time, each begins at another port.
    let start = std::process::id().wrapping_mul(101);
    for _ in 0..RANGE_SIZE {
        let step = CURSOR.fetch_add(1, Ordering::Relaxed);
        let port = RANGE_START + start.wrapping_add(step) % RANGE_SIZE;
        let address = loopback(u16::try_from(port).expect("the range ends below 65536"));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(Error::NoFreePort)
}

/// `port` on loopback, or an error that names the process that has it.
pub fn fixed(port: u16) -> Result<SocketAddr> {
    match TcpListener::bind(loopback(port)) {
        Ok(_unused) => Ok(loopback(port)),
        Err(_busy) => Err(Error::PortBusy { port, owner: owner_of(port) }),
    }
}

fn owner_of(port: u16) -> String {
    let listing = Command::new("ss").args(["-Hltnp", &format!("sport = :{port}")]).output();
    let listing = listing.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match listing.split_once("users:") {
        Some((_, users)) => users.trim().to_owned(),
        None => "a process that cannot be seen from here".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_refused_and_free_ones_differ() {
        let (one, two) = (free().expect("a port"), free().expect("a port"));
        assert_ne!(one, two);
        let _listener = TcpListener::bind(one).expect("it is free");
        let error = fixed(one.port()).expect_err("it is taken");
        assert!(error.to_string().contains(&format!("port {} is in use", one.port())));
    }
}
