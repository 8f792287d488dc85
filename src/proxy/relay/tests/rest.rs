//! Running a relay until it has done what a test waits for. Nothing here waits for a fixed time.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use super::*;

/// Remembers that a relay has asked to be polled again.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Runs a relay until `is_done` holds and the relay waits for one of its sides. The relay is polled once at the start,
/// and then only when it has been woken, as a runtime does: a relay that does not register for a wake-up fails the test.
///
/// Errors: the relay has ended, or `is_done` does not hold at the deadline.
pub(super) async fn run_until(
    relay: &mut Relay,
    bytes: &ByteCounters,
    is_done: impl Fn(&Relay) -> bool,
) -> Result<(), String> {
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let deadline = Instant::now() + DEADLINE;
    loop {
        if woken.0.swap(false, Ordering::Acquire) {
            let polled = relay.poll(&mut Context::from_waker(&waker), bytes, |_| {});
            if let Poll::Ready(outcome) = polled {
                return Err(format!("the relay has ended: {outcome:?}"));
            }
        }
        if !woken.0.load(Ordering::Acquire) && is_done(relay) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("not within {DEADLINE:?}; bytes: {:?}; {relay:?}", bytes.read()));
        }
        // lets the other tasks run, and the runtime look for events of the sockets
        tokio::task::yield_now().await;
    }
}

/// Runs a relay until it ends. `None` at the deadline.
pub(super) async fn run_to_end(relay: &mut Relay, bytes: &ByteCounters) -> Option<Outcome> {
    timeout(DEADLINE, poll_fn(|cx| relay.poll(cx, bytes, |_| {}))).await.ok()
}

/// How many bytes have arrived at a socket and have not been read.
pub(super) fn arrived(socket: impl AsFd) -> usize {
    let length = rustix::io::ioctl_fionread(socket).expect("an open socket");
    usize::try_from(length).expect("fits")
}
