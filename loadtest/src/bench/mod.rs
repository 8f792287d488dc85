//! What a proxy costs: pgvane, HAProxy and PgBouncer in turn, in front of a server that only sends short answers.
//!
//! In reading order:
//!
//! - [`backend`]: a null PostgreSQL, so that what is measured is the proxy
//! - [`proxy`]: each proxy with its configuration, started and stopped
//! - [`descriptors`]: their limit, which thousands of sessions need
//! - [`load`]: the clients, on raw sockets or with TLS
//! - [`neighbours`]: processes that want the same cores
//! - [`usage`]: what a process uses, from `/proc`
//! - [`report`]: medians and ratios as Markdown and JSON; [`plot`]: the same as a picture
//!
//! The proxies are compared by the CPU time of their process per operation: on a busy machine it changes much less than
//! rates do. The proxies take turns within every measure, so that changes of the machine's load affect all of them.

pub mod backend;
mod configuration;
pub mod descriptors;
pub mod load;
pub mod neighbours;
pub mod plot;
pub mod proxy;
pub mod report;
mod stream;
pub mod usage;

use crate::messages::message;

/// Answer to a simple query: a row description, one row, the command tag, `ReadyForQuery`.
pub const ANSWER: &[u8] = b"T\0\0\0\x21\0\x01?column?\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0\
    D\0\0\0\x0b\0\x01\0\0\0\x011\
    C\0\0\0\x0dSELECT 1\0\
    Z\0\0\0\x05I";

/// What ends a `COPY` of either direction, after the data.
pub const COPY_OUT_END: &[u8] = b"c\0\0\0\x04C\0\0\0\x0bCOPY 1\0Z\0\0\0\x05I";
/// What ends a `COPY FROM STDIN` on the server's side.
pub const COPY_IN_END: &[u8] = b"C\0\0\0\x0bCOPY 1\0Z\0\0\0\x05I";
/// `CopyOutResponse`: text, no columns.
pub const COPY_OUT_BEGIN: &[u8] = b"H\0\0\0\x07\0\0\0";
/// `CopyInResponse`: text, no columns.
pub const COPY_IN_BEGIN: &[u8] = b"G\0\0\0\x07\0\0\0";

/// `CopyData` messages of `row_length` bytes each, headers included; about `length` bytes.
pub fn copy_data(length: usize, row_length: usize) -> Vec<u8> {
    let row = message(b'd', &vec![b'x'; row_length - 5]);
    row.repeat(length / row_length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canned_answers_are_whole_messages() {
        for canned in [ANSWER, COPY_OUT_END, COPY_IN_END, COPY_OUT_BEGIN, COPY_IN_BEGIN] {
            let mut rest = canned;
            while !rest.is_empty() {
                let (header, _) = rest.split_first_chunk::<5>().expect("a header");
                let [_, length @ ..] = *header;
                rest = &rest[1 + u32::from_be_bytes(length) as usize..];
            }
        }
        assert_eq!(copy_data(1000, 100).len(), 1000);
    }
}
