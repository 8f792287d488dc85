//! Clients that ask who serves them.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use pgvane_loadtest::messages::{message, query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::wire::plain_startup;

/// A proxy that has a node, or knows that there is none, answers much sooner.
const VISIT_MAX: Duration = Duration::from_secs(5);

/// Visits in a row, so that each of three nodes is seen if they take turns, and a fourth one too.
const VISITS: usize = 12;

/// As many tell that nobody serves.
const REFUSALS: usize = 2;

/// Where nodes are chosen at random, one of three is missed by this many visits once in a million.
const VISITS_MAX: usize = 40;

/// One client address and one port of a proxy.
#[derive(Debug)]
pub struct Client {
    pub from: Ipv4Addr,
    pub to: SocketAddr,
}

impl Client {
    /// Fails with what was seen instead.
    pub async fn is_served_by_exactly(&self, expected: &BTreeSet<String>) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let least = if expected.is_empty() { REFUSALS } else { VISITS };
        for visit in 0..VISITS_MAX {
            if visit >= least && expected.is_subset(&seen) {
                break;
            }
            match self.visit().await {
                Some(who) if !expected.contains(&who) => return Err(format!("{who}, in place of {expected:?}")),
                None if !expected.is_empty() => return Err(format!("nobody, in place of {expected:?}")),
                answer => seen.extend(answer),
            }
        }
        if seen == *expected { Ok(()) } else { Err(format!("{seen:?} alone, in place of {expected:?}")) }
    }

    /// Who serves it; `None` if it is told that nobody does, or the connection is closed.
    pub async fn visit(&self) -> Option<String> {
        match tokio::time::timeout(VISIT_MAX, self.session()).await {
            Ok(answer) => answer.ok(),
            Err(_elapsed) => None,
        }
    }

    async fn session(&self) -> io::Result<String> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.from, 0).into())?;
        let mut stream = socket.connect(self.to).await?;
        stream.write_all(&plain_startup()).await?;
        let refused = || io::Error::other("refused");
        let mut who = None;
        loop {
            let kind = stream.read_u8().await?;
            let mut body = vec![0; (stream.read_u32().await? as usize).checked_sub(4).ok_or_else(refused)?];
            stream.read_exact(&mut body).await?;
            match (kind, who) {
                (b'E', _) => return Err(refused()),
                (b'Z', None) => {
                    stream.write_all(&query("who")).await?;
                    who = Some(String::new());
                }
                (b'Z', Some(name)) => {
                    stream.write_all(&message(b'X', b"")).await?;
                    return Ok(name);
                }
                (b'D', Some(_)) => who = Some(String::from_utf8_lossy(&body[6..]).into_owned()),
                (_, before) => who = before,
            }
        }
    }
}
