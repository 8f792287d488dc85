//! One direction of a relay.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::pipes::Pipe;
use super::splice::{MaybePlain, SCRATCH_LENGTH, SPLICE_LENGTH_MIN, SpliceHeuristic, TAIL_LENGTH};
use crate::config::RelayMode;
use crate::net::Socket;

/// How many bytes one session moves before it yields to others: about a quarter of a millisecond of work.
const TURN_LENGTH: usize = 1024 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_LENGTH].into_boxed_slice());
}

/// Which side of a direction failed.
#[derive(Debug)]
pub(super) enum PumpError {
    /// The sending side.
    Read(io::Error),
    /// The receiving side.
    Write(io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Bytes may still come.
    Open,
    /// No more bytes come; those in flight are being delivered.
    Ended,
    /// All bytes are delivered.
    Done,
}

/// Bytes that were read and not yet delivered.
#[derive(Debug)]
enum InFlight {
    /// Nothing: an idle direction owns no other memory.
    Nothing,
    /// Bytes in memory.
    Bytes(Box<Pending>),
    /// Bytes in a pipe, moved by the kernel. Empty only within a burst.
    Pipe(Box<Pipe>),
}

#[derive(Debug)]
struct Pending {
    bytes: BytesMut,
    /// This many bytes at the end must not be delivered yet.
    held_back: usize,
}

/// One direction: its bytes in flight and its state.
#[derive(Debug)]
pub(super) struct Pump {
    in_flight: InFlight,
    /// Bytes were written, and the TLS of the receiving side may still buffer them.
    is_unflushed: bool,
    stage: Stage,
    end: EndOfStream,
    heuristic: SpliceHeuristic,
    #[cfg(test)]
    pub(super) spliced: u64,
}

/// What happens at the end of a direction's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndOfStream {
    /// The connection to the receiving side is shut down for writing.
    PassOn,
    /// It is not, so that pgvane can still send messages to the receiving side.
    Withhold,
}

/// What happens with a chunk and with the stream after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// Deliver all of it, and read on.
    More,
    /// Do not deliver this many bytes at its end yet.
    HoldBack(usize),
    /// Deliver all of it and read no more; the connection to the receiving side is not shut down.
    Stop,
}

/// What was learnt from a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) flow: Flow,
    /// At most this many of the next bytes may pass unseen.
    pub(super) splice_max: usize,
}

impl From<Flow> for Seen {
    /// All further bytes may pass unseen.
    fn from(flow: Flow) -> Seen {
        Seen { flow, splice_max: usize::MAX }
    }
}

/// Bytes that were taken from the sending side, in their order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Chunk<'a> {
    /// These bytes were read.
    Read(&'a [u8]),
    /// This many bytes were spliced; pgvane has not seen them.
    Spliced(usize),
}

impl Chunk<'_> {
    /// The number of bytes.
    pub(super) fn length(&self) -> usize {
        match self {
            Chunk::Read(bytes) => bytes.len(),
            Chunk::Spliced(length) => *length,
        }
    }
}

impl Pump {
    /// A direction that first delivers the bytes in `pending`.
    pub(super) fn new(pending: BytesMut, end: EndOfStream, mode: RelayMode) -> Pump {
        Pump {
            in_flight: InFlight::of(pending, 0),
            is_unflushed: false,
            stage: Stage::Open,
            end,
            heuristic: SpliceHeuristic::new(mode),
            #[cfg(test)]
            spliced: 0,
        }
    }

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.in_flight, InFlight::Nothing) && !self.is_unflushed
    }

    /// Whether it owns no buffer and no pipe.
    #[cfg(test)]
    pub(super) fn owns_nothing(&self) -> bool {
        matches!(self.in_flight, InFlight::Nothing)
    }

    /// Whether the sending side has closed.
    pub(super) fn has_read_all(&self) -> bool {
        self.stage != Stage::Open
    }

    /// Whether everything is delivered, including the end of the stream.
    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Whether all bytes that are not held back are delivered.
    pub(super) fn has_delivered(&self) -> bool {
        let has_more = match &self.in_flight {
            InFlight::Nothing => false,
            InFlight::Bytes(pending) => pending.bytes.len() > pending.held_back,
            InFlight::Pipe(_) => true,
        };
        !has_more && !self.is_unflushed
    }

    /// The bytes that were read and not yet delivered, if nothing else is in flight and more may come. `None` if some are in
    /// a pipe or in the buffers of TLS, or the stream has ended.
    pub(super) fn undelivered(&self) -> Option<&[u8]> {
        match &self.in_flight {
            _ if self.stage != Stage::Open || self.is_unflushed => None,
            InFlight::Nothing => Some(&[]),
            InFlight::Bytes(pending) if pending.held_back == 0 => Some(&pending.bytes),
            InFlight::Bytes(_) | InFlight::Pipe(_) => None,
        }
    }

    /// Whether it holds bytes back.
    pub(super) fn holds_back(&self) -> bool {
        matches!(&self.in_flight, InFlight::Bytes(pending) if pending.held_back > 0)
    }

    /// Adds bytes of pgvane's own to those in flight, which are none, or bytes in memory: behind those that are due, and
    /// before those that are held back.
    pub(super) fn inject(&mut self, bytes: &[u8]) {
        match &mut self.in_flight {
            InFlight::Bytes(pending) => {
                let held_back = pending.bytes.split_off(pending.bytes.len() - pending.held_back);
                pending.bytes.extend_from_slice(bytes);
                pending.bytes.unsplit(held_back);
            }
            InFlight::Nothing | InFlight::Pipe(_) => self.in_flight = InFlight::of(BytesMut::from(bytes), 0),
        }
    }

    /// Whether all bytes in flight are in memory.
    pub(super) fn is_in_memory(&self) -> bool {
        !matches!(self.in_flight, InFlight::Pipe(_))
    }

    /// The bytes in flight that are in memory, also those that are held back.
    pub(super) fn into_bytes(self) -> BytesMut {
        match self.in_flight {
            InFlight::Bytes(pending) => pending.bytes,
            InFlight::Nothing | InFlight::Pipe(_) => BytesMut::new(),
        }
    }

    /// TLS of the receiving side may buffer bytes that were written before: they are flushed first.
    pub(super) fn flush_first(&mut self) {
        self.is_unflushed = true;
    }

    /// Drops the bytes that are held back: they will not be delivered.
    pub(super) fn discard_held_back(&mut self) {
        if let InFlight::Bytes(pending) = &mut self.in_flight {
            let kept = pending.bytes.len() - pending.held_back;
            pending.bytes.truncate(kept);
            pending.held_back = 0;
            if kept == 0 {
                self.in_flight = InFlight::Nothing;
            }
        }
    }

    /// Calls `see` with the bytes that are held back; its result says how many of them still are.
    pub(super) fn reconsider(&mut self, see: impl FnOnce(Chunk<'_>) -> Seen) {
        let InFlight::Bytes(pending) = &mut self.in_flight else { return };
        let Seen { flow, .. } = see(Chunk::Read(&pending.bytes[pending.bytes.len() - pending.held_back..]));
        pending.held_back = if let Flow::HoldBack(length) = flow { length } else { 0 };
    }

    /// From now on bytes are copied, so that pgvane sees each of them.
    pub(super) fn stop_splicing(&mut self) {
        self.heuristic.give_up();
    }

    /// Moves bytes until it has to wait for one side, has moved [`TURN_LENGTH`], or has delivered the end. `see` is
    /// called with each chunk, and its result says what happens with it. At most `splice_max` bytes of the first chunk may
    /// pass that pgvane does not see.
    ///
    /// It takes no more bytes before it has delivered the previous ones: a slow receiver slows the sender down, and bytes
    /// that are held back stop all bytes after them.
    pub(super) fn poll<R, W, S>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        splice_max: usize,
        see: impl FnMut(Chunk<'_>) -> S,
    ) -> Poll<Result<(), PumpError>>
    where
        R: AsyncRead + MaybePlain + Unpin,
        W: AsyncWrite + MaybePlain + Unpin,
        S: Into<Seen>,
    {
        let polled = self.poll_turn(cx, from, to, splice_max, see);
        if matches!(&self.in_flight, InFlight::Pipe(pipe) if pipe.held() == 0) {
            self.in_flight = InFlight::Nothing; // back to the pool: a direction that waits owns no pipe
        }
        polled
    }

    fn poll_turn<R, W, S>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        mut splice_max: usize,
        mut see: impl FnMut(Chunk<'_>) -> S,
    ) -> Poll<Result<(), PumpError>>
    where
        R: AsyncRead + MaybePlain + Unpin,
        W: AsyncWrite + MaybePlain + Unpin,
        S: Into<Seen>,
    {
        let mut moved = 0;
        let mut flow = Flow::More;
        loop {
            ready!(self.poll_deliver(cx, to)).map_err(PumpError::Write)?;
            match self.stage {
                Stage::Open if flow == Flow::Stop => {
                    self.end = EndOfStream::Withhold;
                    self.stage = Stage::Ended;
                }
                Stage::Open if moved >= TURN_LENGTH => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Stage::Open => ready!(self.poll_take(cx, from, to, splice_max, &mut |chunk: Chunk<'_>| {
                    moved += chunk.length();
                    let seen = see(chunk).into();
                    (flow, splice_max) = (seen.flow, seen.splice_max);
                    if let Flow::HoldBack(length) = flow { length } else { 0 }
                }))?,
                Stage::Ended if self.end == EndOfStream::Withhold => self.stage = Stage::Done,
                Stage::Ended => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(PumpError::Write)?;
                    self.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Delivers what is in flight, and takes no more.
    pub(super) fn poll_deliver<W>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + MaybePlain + Unpin,
    {
        while let InFlight::Bytes(pending) = &mut self.in_flight {
            let due = &pending.bytes[..pending.bytes.len() - pending.held_back];
            if due.is_empty() {
                break;
            }
            let written = ready!(Pin::new(&mut *to).poll_write(cx, due))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_unflushed = true;
            pending.bytes.advance(written);
            if pending.bytes.is_empty() {
                self.in_flight = InFlight::Nothing;
            }
        }
        if self.is_unflushed {
            ready!(Pin::new(&mut *to).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        if self.holds_back() {
            return Poll::Pending; // the caller polls again when they may be delivered
        }
        if let (InFlight::Pipe(pipe), Some(to)) = (&mut self.in_flight, to.plain()) {
            while pipe.held() > 0 {
                ready!(to.poll_write_ready(cx))?;
                match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Err(error) if !is_transient(&error) => return Poll::Ready(Err(error)),
                    Ok(_) | Err(_) => {}
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes a chunk: splices or copies it.
    fn poll_take<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        splice_max: usize,
        see: &mut impl FnMut(Chunk<'_>) -> usize,
    ) -> Poll<Result<(), PumpError>>
    where
        R: AsyncRead + MaybePlain + Unpin,
        W: AsyncWrite + MaybePlain + Unpin,
    {
        if splice_max >= SPLICE_LENGTH_MIN
            && self.heuristic.splices()
            && let (Some(source), Some(_)) = (from.plain(), to.plain())
            && let Some(length) = ready!(self.poll_splice(cx, source, splice_max)).map_err(PumpError::Read)?
        {
            #[cfg(test)]
            {
                self.spliced += length as u64;
            }
            see(Chunk::Spliced(length));
            return Poll::Ready(Ok(()));
        }
        self.poll_copy(cx, from, to, see)
    }

    /// Moves the bytes that have arrived, except the last [`TAIL_LENGTH`] and those that pgvane has to see, into the pipe.
    /// `None` if they are too few.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &Socket,
        splice_max: usize,
    ) -> Poll<io::Result<Option<usize>>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let arrived = usize::try_from(rustix::io::ioctl_fionread(from)?).unwrap_or(0);
            if arrived < SPLICE_LENGTH_MIN + TAIL_LENGTH {
                return Poll::Ready(Ok(None));
            }
            let Some(mut pipe) = self.pipe() else { return Poll::Ready(Ok(None)) };
            let length = splice_max.min(arrived - TAIL_LENGTH);
            match from.try_io(Interest::READABLE, || pipe.fill(from, length)) {
                Ok(length) if length > 0 => {
                    self.in_flight = InFlight::Pipe(pipe);
                    self.heuristic.note(length);
                    return Poll::Ready(Ok(Some(length)));
                }
                Err(error) if is_transient(&error) => {}
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Poll::Ready(Err(error)),
                Ok(_) | Err(_) => {
                    self.heuristic.give_up(); // splice does not work here; the read that follows reports an error if there is one
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    /// The pipe of the current burst, or another one if one is available.
    fn pipe(&mut self) -> Option<Box<Pipe>> {
        match mem::replace(&mut self.in_flight, InFlight::Nothing) {
            InFlight::Pipe(pipe) => Some(pipe),
            InFlight::Nothing | InFlight::Bytes(_) => Pipe::take().map(Box::new),
        }
    }

    /// Reads once, and writes what the receiving side accepts at once. The rest stays in flight.
    fn poll_copy<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        see: &mut impl FnMut(Chunk<'_>) -> usize,
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
            self.heuristic.note(taken.len());
            let held_back = see(Chunk::Read(taken));
            let due = &taken[..taken.len() - held_back];
            let written = match due {
                [] => 0,
                due => match Pin::new(to).poll_write(cx, due) {
                    Poll::Ready(Ok(written)) => {
                        self.is_unflushed = true;
                        written
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Write(error))),
                    Poll::Pending => 0,
                },
            };
            self.in_flight = InFlight::of(BytesMut::from(&taken[written..]), held_back);
            Poll::Ready(Ok(()))
        })
    }
}

impl InFlight {
    fn of(bytes: BytesMut, held_back: usize) -> InFlight {
        if bytes.is_empty() { InFlight::Nothing } else { InFlight::Bytes(Box::new(Pending { bytes, held_back })) }
    }
}

/// Whether the call can be repeated: at once after `Interrupted`, after waiting for readiness otherwise.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    impl MaybePlain for tokio::io::DuplexStream {
        fn plain(&self) -> Option<&Socket> {
            None
        }
    }

    /// Sends `chunks` through a pump between two small buffers, and returns the bytes that come out.
    async fn pumped(chunks: Vec<Vec<u8>>, width_in: usize, width_out: usize) -> Vec<u8> {
        let (mut source, mut from) = duplex(width_in);
        let (mut to, mut sink) = duplex(width_out);
        let sent = async move {
            for chunk in chunks {
                source.write_all(&chunk).await.expect("the pump reads on");
            }
        };
        let moved = async move {
            let mut pump = Pump::new(BytesMut::new(), EndOfStream::PassOn, RelayMode::Auto);
            std::future::poll_fn(|cx| pump.poll(cx, &mut from, &mut to, usize::MAX, |_| Flow::More))
                .await
                .expect("no side fails");
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
    async fn pending_bytes_are_delivered_first() {
        let (mut source, mut from) = duplex(64);
        let (mut to, mut sink) = duplex(64);
        source.write_all(b" world").await.expect("fits");
        drop(source);
        let mut pump = Pump::new(BytesMut::from(&b"hello"[..]), EndOfStream::PassOn, RelayMode::Auto);
        let mut seen = Vec::new();
        std::future::poll_fn(|cx| {
            pump.poll(cx, &mut from, &mut to, usize::MAX, |chunk| {
                let Chunk::Read(bytes) = chunk else { panic!("there is no socket to splice") };
                seen.extend_from_slice(bytes);
                Flow::More
            })
        })
        .await
        .expect("no side fails");
        let mut received = String::new();
        sink.read_to_string(&mut received).await.expect("is text");
        assert_eq!(received, "hello world");
        assert_eq!(seen, b" world", "pending bytes were seen before");
    }
}
