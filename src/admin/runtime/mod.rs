//! HAProxy's runtime API on UNIX sockets (`[[admin.sockets]]`), for scripts that use `socat`. The commands that pgvane
//! has answer in HAProxy's form and with HAProxy's texts; docs/haproxy-socket.md says what each means in pgvane.
//!
//! `serve` (connections, lines, prompt) → `line` (commands and words) → `commands` (which there are, who may) →
//! `info`, `stat`, `servers`, `session_lines` (what is shown) and `change` (what operators change; the same actions as
//! over HTTP). `place` finds the server that a command names.

mod change;
mod commands;
mod info;
mod line;
mod place;
mod serve;
mod servers;
mod session_lines;
mod stat;

pub use self::serve::serve;
