//! `stats socket` and `stats timeout` of `global`: pgvane's `[[admin.sockets]]`.
//!
//! They are written as comments. Distributions put a `stats socket` into every haproxy.cfg, used or not; its directory is
//! HAProxy's, and while both run, the file can belong to one of them only. pgvane does not start if it cannot listen there.

use super::address::{self, Bind, Time};
use super::ledger::Ledger;
use super::lexer::Line;
use super::plan::Socket;
use super::section::{File, Kind};

/// HAProxy's level without `level`.
const LEVEL: &str = "operator";

/// pgvane's longest `idle_timeout`, in milliseconds.
const IDLE_MS_MAX: u64 = 3_600_000;

/// Reads the sockets, and claims the lines that begin with `stats`.
pub(super) fn read(file: &File, ledger: &mut Ledger) -> Vec<Socket> {
    let globals = file.sections.iter().filter(|section| section.kind == Kind::Global);
    let lines: Vec<&Line> = globals.flat_map(|section| &section.lines).filter(|line| line.word(0) == "stats").collect();
    let idle_timeout = lines.iter().rev().find(|line| line.word(1) == "timeout").and_then(|line| {
        let time = Time::read(line.word(2));
        if time.is_none() {
            let why = format!("stats timeout {}: not a time: HAProxy refuses the file", line.word(2));
            ledger.refuse(line.number, why, "write, for example, 30s");
        }
        time.filter(|time| (100..=IDLE_MS_MAX).contains(&time.ms())).map(Time::text)
    });
    let mut sockets = Vec::new();
    for line in lines {
        match line.word(1) {
            "socket" => match socket(line, idle_timeout.clone()) {
                Ok(socket) => {
                    ledger.dropped(
                        line.number,
                        "pgvane can listen on such a socket for the same commands, for scripts that use it: the lines are in the \
                         result as comments ([[admin.sockets]])",
                    );
                    sockets.push(socket);
                }
                Err(why) => ledger.dropped(line.number, why),
            },
            "timeout" => ledger.dropped(line.number, "it is the idle_timeout of [[admin.sockets]]"),
            _ => ledger.dropped(line.number, "at most 10 clients can be connected to an admin socket"),
        }
    }
    sockets
}

/// Reads one socket. Errors: pgvane cannot have it.
fn socket(line: &Line, idle_timeout: Option<String>) -> Result<Socket, &'static str> {
    let path = match address::binds(line.word(2)).as_deref() {
        Ok([Bind::Unix(path)]) => path.clone(),
        Ok(_) => return Err("pgvane takes these commands on Unix sockets only ([[admin.sockets]])"),
        Err(_) => return Err("pgvane cannot listen there (see [[admin.sockets]])"),
    };
    let mut socket = Socket { path, level: LEVEL.to_owned(), idle_timeout, ..Socket::default() };
    let mut words = line.rest(3).iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned();
        match word.as_str() {
            "mode" => socket.mode = value().map(|mode| format!("{mode:0>4}")),
            "user" | "uid" => socket.owner = value(),
            "group" | "gid" => socket.group = value(),
            "level" => {
                let is_known = |level: &String| ["user", "operator", "admin"].contains(&level.as_str());
                socket.level = value().filter(is_known).unwrap_or_else(|| LEVEL.to_owned());
            }
            "expose-fd" | "process" | "thread" | "severity-output" | "name" | "maxconn" | "backlog" | "id" => {
                let _ = value(); // pgvane has nothing like it
            }
            _ => {}
        }
    }
    Ok(socket)
}
