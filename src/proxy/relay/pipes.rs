//! The pipes through which the kernel moves bytes from one socket to the other: a small pool of the process.
//!
//! A direction owns a pipe only while bytes are in it or about to be; so there need not be more than a few, however
//! many sessions stream.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// Pipes that are in use at the same time: one for every thread that streams, and one for every receiver that is too
/// slow to take what a pipe holds. Where more are wanted, the direction copies.
const IN_USE_MAX: usize = 64;

/// Pipes kept for the next burst.
const IDLE_MAX: usize = 16;

/// What a pipe holds: as much as an unprivileged user's may, who may have 64 of that size (`pipe(7)`). A quarter of
/// it was measured to cost an eighth more per gigabyte.
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

/// A pipe and how much is in it. Dropped empty it goes back to the pool; dropped full it is closed.
#[derive(Debug)]
pub(super) struct Pipe {
    /// `None` only while it is dropped.
    ends: Option<Ends>,
    held: usize,
}

impl Pipe {
    /// An empty pipe; `None` if as many are in use as may be, or the process has no descriptors left.
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

    /// Takes up to `most` bytes from a socket. Errors: the socket's, `WouldBlock` among them.
    pub(super) fn fill(&mut self, from: impl AsFd, most: usize) -> io::Result<usize> {
        let into = &self.ends().into;
        let taken = splice(from, None, into, None, most.min(PIPE_LENGTH), SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        self.held += taken;
        Ok(taken)
    }

    /// Gives what it holds to a socket, as far as that takes it. Errors: the socket's, `WouldBlock` among them.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let out = &self.ends().out;
        let given = splice(out, None, to, None, self.held, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        self.held -= given;
        Ok(given)
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
    // where the user has too many pages in pipes already, the smaller one that the kernel gave has to do
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
