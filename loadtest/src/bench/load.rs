//! Clients on raw sockets: they use little CPU time themselves, so that the proxy is the limit.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::stream::Stream;
use super::{ANSWER, COPY_IN_BEGIN, COPY_IN_END, COPY_OUT_BEGIN, COPY_OUT_END, copy_data};
use crate::messages::message;

/// After this long without an answer, the server counts as failed.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(20);

const EVENTS_MAX: usize = 256;

/// How much `COPY FROM` sends with one call, as libpq does with large buffers.
const SEND_LENGTH: usize = 64 * 1024;

/// Clients that connect at the same time in [`connects`].
const CONNECTING: usize = 4;

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its ports, at least one; clients are spread evenly over them.
    pub addresses: Vec<SocketAddr>,
    /// Whether clients use TLS.
    pub tls: bool,
}

impl From<SocketAddr> for Server {
    /// In plaintext.
    fn from(address: SocketAddr) -> Self {
        Self { addresses: vec![address], tls: false }
    }
}

impl Server {
    /// The port for a client, which are numbered from zero.
    fn address_for(&self, client: usize) -> SocketAddr {
        self.addresses[client % self.addresses.len()]
    }
}

/// A session that is ready for queries.
#[derive(Debug)]
pub struct Session {
    stream: Stream,
    query: Vec<u8>,
}

impl Session {
    /// Connects as the client of this number, and logs in.
    pub fn open(server: &Server, client: usize) -> io::Result<Self> {
        let mut stream = Stream::connect(server.address_for(client), server.tls)?;
        let body = b"\0\x03\0\0user\0bench\0database\0bench\0application_name\0loadtest\0\0";
        let mut startup = u32::try_from(body.len() + 4).expect("is short").to_be_bytes().to_vec();
        startup.extend(body);
        stream.write_all(&startup)?;
        let mut session = Self { stream, query: message(b'Q', b"select 1\0") };
        session.read_until_ready()?;
        Ok(session)
    }

    /// One query and its answer.
    pub fn query(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.query)?;
        self.expect(ANSWER)
    }

    /// Sends Terminate and closes.
    pub fn close(mut self) -> io::Result<()> {
        self.stream.write_all(b"X\0\0\0\x04")?;
        self.stream.finish()
    }

    /// `COPY TO STDOUT` of at least `length` bytes, by the backend's query `kind`; returns how many came.
    pub fn copy_out(&mut self, kind: &str, length: u64) -> io::Result<u64> {
        let length = length.next_multiple_of(64 * 1024);
        self.stream.write_all(&message(b'Q', format!("{kind} {length}\0").as_bytes()))?;
        self.expect(COPY_OUT_BEGIN)?;
        let mut left = length;
        let mut room = [0; 1 << 18];
        while left > 0 {
            let most = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match self.stream.discard(&mut room[..most])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                taken => left -= taken as u64,
            }
        }
        self.expect(COPY_OUT_END)?;
        Ok(length)
    }

    /// `COPY FROM STDIN` of about `length` bytes; returns how many went.
    pub fn copy_in(&mut self, length: u64) -> io::Result<u64> {
        let piece = copy_data(SEND_LENGTH, 128);
        let done = message(b'c', b"");
        let pieces = length.div_ceil(piece.len() as u64);
        let length = pieces * piece.len() as u64 + done.len() as u64;
        self.stream.write_all(&message(b'Q', format!("in {length}\0").as_bytes()))?;
        self.expect(COPY_IN_BEGIN)?;
        for _ in 0..pieces {
            self.stream.write_all(&piece)?;
        }
        self.stream.write_all(&done)?;
        self.expect(COPY_IN_END)?;
        Ok(length)
    }

    fn expect(&mut self, wanted: &[u8]) -> io::Result<()> {
        let mut got = vec![0; wanted.len()];
        self.stream.read_exact(&mut got)?;
        if got == wanted {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(&got).into_owned();
        Err(io::Error::other(format!("unexpected answer of the server: {shown:?}")))
    }

    fn read_until_ready(&mut self) -> io::Result<()> {
        let mut received = Vec::new();
        let mut room = [0; 1024];
        while !received.ends_with(b"Z\0\0\0\x05I") {
            match self.stream.read(&mut room)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => received.extend_from_slice(&room[..more]),
            }
            if received[0] == b'E' {
                return Err(io::Error::other(String::from_utf8_lossy(&received).into_owned()));
            }
        }
        Ok(())
    }
}

/// Opens `count` sessions, one after the other.
pub fn open_many(server: &Server, count: usize) -> io::Result<Vec<Session>> {
    (0..count).map(|client| Session::open(server, client)).collect()
}

/// Round trips that were made, and how long each took.
#[derive(Debug, Default)]
pub struct RoundTrips {
    /// From sending a query to the last byte of its answer, nanoseconds, in ascending order.
    pub nanoseconds: Vec<u32>,
    /// How long all of it took.
    pub took: Duration,
}

impl RoundTrips {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.nanoseconds.len() as u64
    }

    /// The time that a share of the round trips did not exceed, microseconds.
    pub fn percentile_us(&self, share: f64) -> f64 {
        let last = self.nanoseconds.len().saturating_sub(1);
        let place = ((last as f64) * share).round() as usize;
        self.nanoseconds.get(place).map_or(f64::NAN, |nanoseconds| f64::from(*nanoseconds) / 1000.0)
    }

    /// Round trips per second.
    pub fn rate(&self) -> f64 {
        self.count() as f64 / self.took.as_secs_f64()
    }
}

/// Every session sends a query, waits for the answer and sends the next one, for `duration`.
pub fn round_trips(sessions: &mut [Session], duration: Duration) -> io::Result<RoundTrips> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    for (index, session) in sessions.iter().enumerate() {
        session.stream.set_nonblocking(true)?;
        epoll::add(&epoll, &session.stream, EventData::new_u64(index as u64), EventFlags::IN)?;
    }
    let mut asked = vec![Instant::now(); sessions.len()];
    let mut missing = vec![ANSWER.len(); sessions.len()];
    let mut done = RoundTrips::default();
    let (started, mut open) = (Instant::now(), sessions.len());
    for (session, asked) in sessions.iter_mut().zip(&mut asked) {
        *asked = Instant::now();
        session.stream.write_all(&session.query)?;
    }
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
    let mut answer = [0; ANSWER.len()];
    while open > 0 {
        events.clear();
        let timeout = rustix::event::Timespec { tv_sec: ANSWER_WITHIN.as_secs() as i64, tv_nsec: 0 };
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))?;
        if events.is_empty() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        for event in &events {
            let index = event.data.u64() as usize;
            let session = &mut sessions[index];
            while missing[index] > 0 {
                match session.stream.read(&mut answer[..missing[index]]) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(more) => missing[index] -= more,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if missing[index] > 0 {
                continue;
            }
            let now = Instant::now();
            done.nanoseconds.push(u32::try_from((now - asked[index]).as_nanos()).unwrap_or(u32::MAX));
            if now - started > duration {
                open -= 1;
                continue;
            }
            missing[index] = ANSWER.len();
            asked[index] = now;
            session.stream.write_all(&session.query)?;
        }
    }
    done.took = started.elapsed();
    for session in sessions.iter() {
        session.stream.set_nonblocking(false)?;
    }
    done.nanoseconds.sort_unstable();
    Ok(done)
}

/// Connects, sends one query, closes: `count` times in all, by a few clients at the same time.
pub fn connects(server: &Server, count: usize) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let one_after_another = || -> io::Result<()> {
        loop {
            let client = next.fetch_add(1, Relaxed);
            if client >= count {
                return Ok(());
            }
            let mut session = Session::open(server, client)?;
            session.query()?;
            session.close()?;
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTING).map(|_| scope.spawn(one_after_another)).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::backend;

    #[test]
    fn every_kind_of_load_runs_against_the_null_backend() {
        let server = Server::from(backend::start().expect("starts"));
        let mut sessions = open_many(&server, 3).expect("accepts sessions");
        let trips = round_trips(&mut sessions, Duration::from_millis(50)).expect("answers");
        assert!(trips.count() >= 3 && trips.percentile_us(0.5) > 0.0);
        sessions[0].query().expect("answers after the load as well");
        assert_eq!(sessions[0].copy_out("out", 100_000).expect("streams"), 131_072);
        assert_eq!(sessions[0].copy_out("bulk", 100_000).expect("streams"), 131_072);
        assert!(sessions[0].copy_in(100_000).expect("reads it") >= 100_000);
        sessions[0].query().expect("answers after streaming as well");
        connects(&server, 9).expect("connects");
    }

    #[test]
    fn clients_are_spread_evenly_over_the_ports() {
        let server = Server { addresses: [7001, 7002, 7003].map(crate::ports::loopback).to_vec(), tls: false };
        let ports: Vec<u16> = (0..6).map(|client| server.address_for(client).port()).collect();
        assert_eq!(ports, [7001, 7002, 7003, 7001, 7002, 7003]);
    }

    #[test]
    fn percentiles_of_the_slowest_are_not_those_of_the_middle() {
        let trips = RoundTrips { nanoseconds: (1..=1001).map(|us| us * 1000).collect(), took: Duration::from_secs(2) };
        let shown = [0.0, 0.5, 0.99, 0.999, 1.0].map(|share| trips.percentile_us(share));
        assert_eq!(shown, [1.0, 501.0, 991.0, 1000.0, 1001.0]);
        assert_eq!(trips.rate(), 500.5);
        assert!(RoundTrips::default().percentile_us(0.5).is_nan(), "without round trips there is no latency");
    }
}
