//! Whether a TCP peer still acknowledges: what the kernel knows of a connection (`TCP_INFO`, `tcp(7)`).
//!
//! `TCP_USER_TIMEOUT` cannot be used for this: it also counts the time in which a living peer keeps its window shut,
//! because its program does not read. Such a peer answers every probe of the kernel's; a dead one answers none.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Unanswered retransmissions or window probes in a row after which a peer may count as dead: one or two are lost now
/// and then.
const UNANSWERED_MIN: u8 = 3;

/// What is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// Everything that was sent is acknowledged.
    Confirmed,
    /// Something is not acknowledged yet, or the peer's window is shut.
    Unconfirmed,
    /// Nothing has come from the peer for this time, though it was asked several times.
    Unresponsive(Duration),
}

/// Looks at a TCP connection. Errors: it is not one.
pub fn peer_state(socket: impl AsFd, unacknowledged_max: Duration) -> io::Result<PeerState> {
    let info = tcp_info(socket)?;
    let silent_for = Duration::from_millis(info.tcpi_last_ack_recv.into());
    let unanswered = info.tcpi_retransmits.saturating_add(info.tcpi_probes);
    if unanswered >= UNANSWERED_MIN && silent_for >= unacknowledged_max {
        return Ok(PeerState::Unresponsive(silent_for));
    }
    let is_confirmed = info.tcpi_unacked == 0 && unanswered == 0 && info.tcpi_backoff == 0;
    Ok(if is_confirmed { PeerState::Confirmed } else { PeerState::Unconfirmed })
}

#[expect(unsafe_code, reason = "no crate that is used here has a safe call for TCP_INFO")]
fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes at most `length` bytes, which are there
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it consists of integers, for which zero is a value, and older kernels fill in only the first of them
    Ok(unsafe { info.assume_init() })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_peer_that_answers_is_confirmed_and_a_unix_socket_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let _server = listener.accept().expect("accepts");
        assert_eq!(peer_state(&client, Duration::ZERO).expect("is TCP"), PeerState::Confirmed);
        let (unix, _other) = std::os::unix::net::UnixStream::pair().expect("sockets");
        assert!(peer_state(&unix, Duration::ZERO).is_err());
    }
}
