//! One direction of a relay.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read takes at the most. Larger ones save system calls on big results, and cost memory per thread only.
const SCRATCH_LENGTH: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_LENGTH].into_boxed_slice());
}

/// Which side of a direction failed.
#[derive(Debug)]
pub(super) enum PumpError {
    /// The side that bytes come from.
    Read(io::Error),
    /// The side that bytes go to.
    Write(io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Bytes may still come.
    Open,
    /// No more bytes come; those pending are on their way.
    Ended,
    /// All is delivered.
    Done,
}

/// One direction: what was read and not yet written, and how far things have come.
#[derive(Debug)]
pub(super) struct Pump {
    pending: BytesMut,
    stage: Stage,
    end: EndOfStream,
}

/// What becomes of the end of a direction's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndOfStream {
    /// The receiving side is told, by shutting down the connection to it.
    PassOn,
    /// It is kept from the receiving side, so that more can be said to it.
    KeepBack,
}

impl Pump {
    /// A direction that begins with bytes to be delivered.
    pub(super) fn new(pending: BytesMut, end: EndOfStream) -> Pump {
        Pump { pending, stage: Stage::Open, end }
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether the side that bytes come from has closed.
    pub(super) fn has_read_all(&self) -> bool {
        self.stage != Stage::Open
    }

    /// Whether all is delivered, the end included.
    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Moves bytes until one side has to be waited for, or the end is delivered. `see` is shown all that is read.
    ///
    /// Nothing more is read before all that was read is written: a slow receiver slows the sender down.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        mut see: impl FnMut(&[u8]),
    ) -> Poll<Result<(), PumpError>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_deliver(cx, to)).map_err(PumpError::Write)?;
            match self.stage {
                Stage::Open => ready!(self.poll_take(cx, from, to, &mut see))?,
                Stage::Ended if self.end == EndOfStream::KeepBack => self.stage = Stage::Done,
                Stage::Ended => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(PumpError::Write)?;
                    self.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_deliver<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(written);
            if self.pending.is_empty() {
                self.pending = BytesMut::new(); // gives the memory back
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and writes what the other side takes at once. The rest becomes pending.
    fn poll_take<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        see: &mut impl FnMut(&[u8]),
    ) -> Poll<Result<(), PumpError>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut room = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut room)).map_err(PumpError::Read)?;
            let taken = room.filled();
            if taken.is_empty() {
                self.stage = Stage::Ended;
                return Poll::Ready(Ok(()));
            }
            see(taken);
            let written = match Pin::new(to).poll_write(cx, taken) {
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Write(error))),
                Poll::Pending => 0,
            };
            if written < taken.len() {
                self.pending.extend_from_slice(&taken[written..]);
            }
            Poll::Ready(Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Sends `chunks` through a pump whose both pipes hold little, and returns what comes out.
    async fn pumped(chunks: Vec<Vec<u8>>, width_in: usize, width_out: usize) -> Vec<u8> {
        let (mut source, mut from) = duplex(width_in);
        let (mut to, mut sink) = duplex(width_out);
        let sent = async move {
            for chunk in chunks {
                source.write_all(&chunk).await.expect("the pump reads on");
            }
        };
        let moved = async move {
            let mut pump = Pump::new(BytesMut::new(), EndOfStream::PassOn);
            std::future::poll_fn(|cx| pump.poll(cx, &mut from, &mut to, |_| {})).await.expect("no side fails");
            assert!(pump.is_done());
        };
        let mut received = Vec::new();
        let (.., read) = tokio::join!(sent, moved, sink.read_to_end(&mut received));
        read.expect("the end arrives");
        received
    }

    proptest! {
        #[test]
        fn bytes_out_are_bytes_in(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..20),
            width_in in 1usize..200,
            width_out in 1usize..200,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let sent = chunks.concat();
            let received = runtime.block_on(pumped(chunks, width_in, width_out));
            prop_assert_eq!(received, sent);
        }
    }

    #[tokio::test]
    async fn what_was_pending_comes_first() {
        let (mut source, mut from) = duplex(64);
        let (mut to, mut sink) = duplex(64);
        source.write_all(b" world").await.expect("fits");
        drop(source);
        let mut pump = Pump::new(BytesMut::from(&b"hello"[..]), EndOfStream::PassOn);
        let mut seen = Vec::new();
        std::future::poll_fn(|cx| pump.poll(cx, &mut from, &mut to, |bytes| seen.extend_from_slice(bytes)))
            .await
            .expect("no side fails");
        let mut received = String::new();
        sink.read_to_string(&mut received).await.expect("is text");
        assert_eq!(received, "hello world");
        assert_eq!(seen, b" world", "what is pending has been seen before");
    }
}
