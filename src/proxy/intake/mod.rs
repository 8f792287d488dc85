//! Before it is known what a client wants: [`pending`] bounds such connections, [`proxy_protocol`] learns where they come
//! from, [`handshake`] reads their first packet and agrees on TLS where [`tls`] says so; [`access`], [`per_client`] and
//! [`connection_rates`] say whether they may have a session.

pub mod access;
pub mod connection_rates;
pub mod counts;
pub mod handshake;
pub mod pending;
pub mod per_client;
pub mod proxy_protocol;
pub mod tls;
pub mod tls_answers;
