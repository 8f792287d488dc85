//! TLS by real handshakes over connected sockets, with certificates that are made for the purpose.

mod reloading;
mod to_clients;
mod to_servers;
