//! The null backend: speaks PostgreSQL's protocol and does nothing else, in one thread with one epoll.
//!
//! It accepts every login, answers any simple query with one small row, and has queries of its own: `out N` sends at
//! least N bytes as `COPY TO STDOUT` does, in pieces of 8 kB, `bulk N` the same in pieces of 64 kB; `in N` takes
//! exactly N bytes as `COPY FROM STDIN` does, including `CopyDone`.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::{RecvFlags, recv};

use super::{ANSWER, COPY_IN_BEGIN, COPY_IN_END, COPY_OUT_BEGIN, COPY_OUT_END, copy_data};
use crate::error::Doing;
use crate::messages::message;
use crate::{Result, ports};

/// PostgreSQL sends small rows in pieces of this size: `PQ_SEND_BUFFER_SIZE` in `src/backend/libpq/pqcomm.c`.
const SEND_LENGTH: usize = 8192;

/// Since version 17, it sends a large row at once.
const BULK_LENGTH: usize = 64 * 1024;

/// Length of a row of `out`, so that a piece holds whole rows.
const ROW_LENGTH: usize = 128;

const READ_LENGTH: usize = 64 * 1024;
const EVENTS_MAX: usize = 256;

/// The listening socket's number in the epoll; connections carry their descriptors'.
const LISTENER: u64 = u64::MAX;

/// Starts it. It serves until the process ends, on every address of the loopback network, so that it can be used as
/// many servers.
pub fn start() -> Result<SocketAddr> {
    let address = ports::free()?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        .doing(|| "opening the null backend's port".to_owned())?;
    rustix::net::listen(&listener, 4096).map_err(Into::into).doing(|| "setting its backlog".to_owned())?;
    listener.set_nonblocking(true).doing(|| "preparing the null backend".to_owned())?;
    let epoll =
        epoll::create(CreateFlags::CLOEXEC).map_err(Into::into).doing(|| "preparing the null backend".to_owned())?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)
        .map_err(Into::into)
        .doing(|| "preparing the null backend".to_owned())?;
    thread::Builder::new()
        .name("null-backend".to_owned())
        .spawn(move || Backend::new(listener, epoll).run())
        .doing(|| "starting the null backend".to_owned())?;
    Ok(address)
}

struct Backend {
    listener: TcpListener,
    epoll: OwnedFd,
    connections: HashMap<u64, Connection>,
    welcome: Vec<u8>,
    piece: Vec<u8>,
    scratch: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Waits for the startup packet.
    Startup,
    /// Waits for messages.
    Ready,
    /// Sends this many more bytes, in pieces of this length.
    Sending(u64, usize),
    /// Reads this many more bytes.
    Reading(u64),
}

struct Connection {
    stream: TcpStream,
    stage: Stage,
    inbox: Vec<u8>,
}

impl Backend {
    fn new(listener: TcpListener, epoll: OwnedFd) -> Self {
        Self {
            listener,
            epoll,
            connections: HashMap::new(),
            welcome: welcome(),
            piece: copy_data(BULK_LENGTH, ROW_LENGTH),
            scratch: vec![0; READ_LENGTH],
        }
    }

    fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None).is_err() {
                continue; // interrupted
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    id => self.serve(id),
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let id = stream.as_raw_fd() as u64;
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET | EventFlags::RDHUP;
            let is_watched = stream.set_nonblocking(true).is_ok()
                && stream.set_nodelay(true).is_ok()
                && epoll::add(&self.epoll, &stream, EventData::new_u64(id), flags).is_ok();
            if is_watched {
                self.connections.insert(id, Connection { stream, stage: Stage::Startup, inbox: Vec::new() });
                self.serve(id);
            }
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.advance(&self.welcome, &self.piece, &mut self.scratch) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => drop(self.connections.remove(&id)), // closing takes it out of the epoll as well
        }
    }
}

impl Connection {
    /// Goes as far as it can. An error other than `WouldBlock`, and success, are the end.
    fn advance(&mut self, welcome: &[u8], piece: &[u8], scratch: &mut [u8]) -> std::io::Result<()> {
        loop {
            match self.stage {
                Stage::Startup | Stage::Ready => {
                    let more = self.stream.read(scratch)?;
                    if more == 0 {
                        return Ok(());
                    }
                    self.inbox.extend_from_slice(&scratch[..more]);
                    while let Some(packet) = self.next_packet() {
                        if !self.obey(&packet, welcome)? {
                            return Ok(());
                        }
                    }
                }
                Stage::Sending(left, length) => {
                    let piece = &piece[..length];
                    let sent = self.stream.write(piece)?;
                    // rows are sent whole: a piece that came up short is finished first
                    if sent < piece.len() {
                        self.write_all(&piece[sent..])?;
                    }
                    match left.checked_sub(piece.len() as u64).filter(|left| *left > 0) {
                        Some(left) => self.stage = Stage::Sending(left, length),
                        None => {
                            self.stage = Stage::Ready;
                            self.write_all(COPY_OUT_END)?;
                        }
                    }
                }
                Stage::Reading(left) => {
                    let most = scratch.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    // the kernel throws the bytes away without copying them
                    let (_, taken) = recv(&self.stream, &mut scratch[..most], RecvFlags::TRUNC)?;
                    match left - taken as u64 {
                        _ if taken == 0 => return Ok(()),
                        0 => {
                            self.stage = Stage::Ready;
                            self.write_all(COPY_IN_END)?;
                        }
                        left => self.stage = Stage::Reading(left),
                    }
                }
            }
        }
    }

    /// Does what a packet asks for; `false` if it asks for the end.
    fn obey(&mut self, packet: &[u8], welcome: &[u8]) -> std::io::Result<bool> {
        if matches!(self.stage, Stage::Startup) {
            // SSLRequest and GSSENCRequest are refused, a CancelRequest has nothing to cancel
            match packet.get(4..8) {
                Some([0x04, 0xd2, 0x16, 0x2e]) => return Ok(false),
                Some([0x04, 0xd2, ..]) => self.write_all(b"N")?,
                _ => {
                    self.stage = Stage::Ready;
                    self.write_all(welcome)?;
                }
            }
            return Ok(true);
        }
        let query = packet.strip_prefix(b"Q").and_then(|rest| rest.get(4..)).map(String::from_utf8_lossy);
        let count = |query: &str, word: &str| -> Option<u64> {
            query.trim_end_matches('\0').strip_prefix(word)?.trim().parse().ok()
        };
        match query {
            None => return Ok(packet[0] != b'X'),
            Some(query) => match (count(&query, "out "), count(&query, "bulk "), count(&query, "in ")) {
                (Some(length), ..) => {
                    self.write_all(COPY_OUT_BEGIN)?;
                    self.stage = Stage::Sending(length, SEND_LENGTH);
                }
                (_, Some(length), _) => {
                    self.write_all(COPY_OUT_BEGIN)?;
                    self.stage = Stage::Sending(length, BULK_LENGTH);
                }
                (.., Some(length)) => {
                    self.write_all(COPY_IN_BEGIN)?;
                    self.stage = Stage::Reading(length);
                }
                _ => self.write_all(ANSWER)?,
            },
        }
        Ok(true)
    }

    fn next_packet(&mut self) -> Option<Vec<u8>> {
        if matches!(self.stage, Stage::Sending(..) | Stage::Reading(_)) {
            return None;
        }
        let type_length = usize::from(matches!(self.stage, Stage::Ready));
        let length_word = self.inbox.get(type_length..type_length + 4)?;
        let length = u32::from_be_bytes(length_word.try_into().expect("four bytes")) as usize + type_length;
        (self.inbox.len() >= length).then(|| self.inbox.drain(..length).collect())
    }

    /// Writes all, waiting for room if it must.
    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            match self.stream.write(left) {
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let room = rustix::event::PollFd::new(&self.stream, rustix::event::PollFlags::OUT);
                    rustix::event::poll(&mut [room], None)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What follows a startup packet: let in, the parameters that clients look at, a key, ready.
fn welcome() -> Vec<u8> {
    let parameters: [(&str, &str); 8] = [
        ("server_version", "15.8"),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("in_hot_standby", "off"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
    ];
    let mut bytes = message(b'R', &[0; 4]);
    for (name, value) in parameters {
        bytes.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
    }
    bytes.extend(message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]));
    bytes.extend(message(b'Z', b"I"));
    bytes
}
