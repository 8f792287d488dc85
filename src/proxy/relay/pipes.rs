//! The pipes through which the kernel moves bytes from one socket to the other: a small pool for the process.
//!
//! A direction owns a pipe only while it moves bytes, so a few pipes are enough for any number of sessions.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// The maximum of pipes in use at the same time: one for each thread that streams, and one for each receiver that is too
/// slow to empty its pipe. If none is left, the direction copies.
const IN_USE_MAX: usize = 64;

/// The maximum of idle pipes that are kept.
const IDLE_MAX: usize = 16;

/// The size of a pipe: the maximum for an unprivileged user, who can have 64 pipes of this size (`pipe(7)`). With a
/// quarter of it, a gigabyte was measured to cost an eighth more.
const PIPE_LENGTH: usize = 1024 * 1024;

static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), in_use: 0 });

struct Pool {
    idle: Vec<Ends>,
    in_use: usize,
}

#[derive(Debug)]
struct Ends {
    out: OwnedFd,
    into: OwnedFd,
}

fn with_pool<T>(act: impl FnOnce(&mut Pool) -> T) -> T {
    act(&mut POOL.lock())
}

/// A pipe and the number of bytes in it. When dropped, it goes back to the pool if it is empty, else it is closed.
#[derive(Debug)]
pub(super) struct Pipe {
    /// `None` only during the drop.
    ends: Option<Ends>,
    held: usize,
}

impl Pipe {
    /// An empty pipe; `None` if [`IN_USE_MAX`] are in use, or the process has no file descriptors left.
    pub(super) fn take() -> Option<Pipe> {
        let kept = with_pool(|pool| {
            let may_have = pool.in_use < IN_USE_MAX;
            pool.in_use += usize::from(may_have);
            may_have.then(|| pool.idle.pop())
        })?;
        let pipe = |ends| Pipe { ends, held: 0 };
        match kept {
            Some(ends) => Some(pipe(Some(ends))),
            None => match open() {
                Ok(ends) => Some(pipe(Some(ends))),
                Err(_) => {
                    drop(pipe(None));
                    None
                }
            },
        }
    }

    /// How many bytes are in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Moves up to `most` bytes from a socket into the pipe. Errors: those of the socket, including `WouldBlock`.
    pub(super) fn fill(&mut self, from: impl AsFd, most: usize) -> io::Result<usize> {
        let into = &self.ends().into;
        let taken = splice(from, None, into, None, most.min(PIPE_LENGTH), SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        self.held += taken;
        Ok(taken)
    }

    /// Moves bytes from the pipe into a socket, as many as it accepts. Errors: those of the socket, including
    /// `WouldBlock`.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let out = &self.ends().out;
        let moved = splice(out, None, to, None, self.held, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        self.held -= moved;
        Ok(moved)
    }

    fn ends(&self) -> &Ends {
        self.ends.as_ref().expect("a pipe has its ends until it is dropped")
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let left = with_pool(|pool| {
            pool.in_use -= 1;
            match self.ends.take() {
                Some(ends) if self.held == 0 && pool.idle.len() < IDLE_MAX => {
                    pool.idle.push(ends);
                    None
                }
                other => other,
            }
        });
        drop(left); // closed outside the lock
    }
}

fn open() -> io::Result<Ends> {
    let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // fails if the user has too many pages in pipes; the default size is used then
    let _ = fcntl_setpipe_size(&into, PIPE_LENGTH);
    Ok(Ends { out, into })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let one = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        (one, listener.accept().expect("accepts").0)
    }

    #[test]
    fn bytes_pass_through_and_a_pipe_with_bytes_in_it_is_not_used_again() {
        let ((mut source, from), (to, mut sink)) = (connected(), connected());
        source.write_all(b"through the pipe").expect("fits");
        let mut pipe = Pipe::take().expect("a pipe");
        assert_eq!(pipe.fill(&from, 11).expect("has bytes"), 11);
        assert_eq!((pipe.held(), pipe.drain(&to).expect("has room"), pipe.held()), (11, 11, 0));
        let mut received = [0; 11];
        sink.read_exact(&mut received).expect("arrives");
        assert_eq!(&received, b"through the");

        assert_eq!(pipe.fill(&from, 100).expect("has bytes"), 5);
        drop(pipe);
        for _ in 0..=IDLE_MAX {
            let mut pipe = Pipe::take().expect("a pipe");
            source.write_all(b"new").expect("fits");
            pipe.fill(&from, 100).expect("has bytes");
            pipe.drain(&to).expect("has room");
            sink.read_exact(&mut received[..3]).expect("arrives");
            assert_eq!(&received[..3], b"new", "nothing old");
        }
    }
}
