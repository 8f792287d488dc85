//! An upgrade: another process, perhaps of a newer version, takes over from this one, and no client notices.
//!
//! 1. The old process starts the program again from its file (`program`), with one end of a socket as standard input.
//! 2. It sends the sockets at which it listens; the new process runs with them, checks its nodes, and reports that it is
//!    ready. Meanwhile the old one serves all clients. If the new one fails until then, nothing has changed.
//! 3. The old process stops accepting and sends what it knows: administrative states, changes of the lead, counters,
//!    cancel keys (`knowledge`), and the keys of roles (`role_keys`). New connections wait in the kernel, for milliseconds. The new one accepts them.
//! 4. Each session moves as soon as its two sockets and a few words are all there is of it (`old_process` sends them,
//!    `new_process` takes them). Until the new process has said that it has a session, the old one can go on with it.
//! 5. Sessions whose TLS ends at pgvane stay in the old process, at most for `drain_timeout`. Then it ends.
//!
//! If the new process ends too early, the old one goes on: it still has its sockets. `message` is the format.

mod knowledge;
mod message;
pub mod new_process;
pub mod old_process;
pub mod program;
mod role_keys;
