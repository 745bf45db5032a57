//! One direction of a relay: copies bytes from the buffer and the source to the sink until the
//! end, and records when they last moved.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::AsyncWrite;

use crate::error::is_close;
use crate::net::deadline::Deadline;
use crate::net::stream::Stream;
use crate::report::metrics::Count;

#[cfg(not(portable))]
pub use pooled::carry;
#[cfg(portable)]
pub use portable::carry;

/// Arms a deadline whenever bytes move.
pub struct Movement<'a> {
    /// Armed again whenever bytes move.
    pub deadline: &'a Deadline,
    /// How long nothing may move; zero means no limit.
    pub rest: Cell<Duration>,
}

impl<'a> Movement<'a> {
    /// Lets the deadline expire when nothing moves for `rest`.
    pub fn new(deadline: &'a Deadline, rest: Duration) -> Movement<'a> {
        Movement {
            deadline,
            rest: Cell::new(rest),
        }
    }

    /// Records that bytes have moved.
    pub fn happened(&self) {
        if !self.rest.get().is_zero() {
            self.deadline.arm(self.rest.get());
        }
    }
}

/// The writing end of a direction. Once its peer has closed, further bytes are discarded, so
/// that the source can still be read to its end.
pub struct Outlet<'a> {
    /// Where bytes go.
    pub stream: &'a Stream,
    /// The peer has closed, and further bytes are discarded.
    pub gone: bool,
    /// A write has failed in another way, such as a reset, which ends both directions.
    pub failed: bool,
    movement: &'a Movement<'a>,
    count: &'a Count,
    /// How many bytes were written.
    pub carried: u64,
}

impl<'a> Outlet<'a> {
    /// An outlet to which nothing was written yet. What is written is also added to `count`.
    pub fn new(stream: &'a Stream, movement: &'a Movement<'a>, count: &'a Count) -> Outlet<'a> {
        Outlet {
            stream,
            gone: false,
            failed: false,
            movement,
            count,
            carried: 0,
        }
    }

    /// Handles a failed write. A peer that has closed answers bytes with a reset, which the
    /// kernel then reports as EPIPE: further bytes are discarded. ECONNRESET comes from a peer
    /// that had not closed, and ends both directions.
    pub fn fail(&mut self, error: io::Error) -> io::Result<()> {
        self.gone = is_close(&error) && error.kind() != io::ErrorKind::ConnectionReset;
        self.failed = !self.gone;
        match self.gone {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// Counts bytes that were written.
    pub fn took(&mut self, bytes: usize) {
        self.movement.happened();
        self.carried += bytes as u64;
        self.count.add(bytes as u64);
    }
}

impl AsyncWrite for Outlet<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.gone {
            match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Err(error)) => self.fail(error)?,
                Poll::Ready(Ok(n)) => {
                    self.took(n);
                    return Poll::Ready(Ok(n));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        self.movement.happened();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(portable)]
mod portable {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use futures_lite::io::copy;
    use futures_lite::AsyncWrite;

    use super::Outlet;
    use crate::net::budget::Budget;
    use crate::net::buffer::Buffer;
    use crate::net::stream::Stream;

    /// Copies with `futures_lite::io::copy`, on systems without splice.
    pub async fn carry(
        from: &Stream,
        received: &mut Buffer,
        sink: &mut Outlet<'_>,
    ) -> io::Result<()> {
        copy(received.bytes(), &mut *sink).await?;
        received.consume(received.len());
        received.release();
        let sink = InTurn {
            sink,
            budget: Budget::default(),
        };
        copy(from, sink).await.map(drop)
    }

    /// An outlet that yields when its budget is spent, which `copy` does not by itself.
    struct InTurn<'a, 's> {
        sink: &'a mut Outlet<'s>,
        budget: Budget,
    }

    impl AsyncWrite for InTurn<'_, '_> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.budget.renew_if_spent() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let written = Pin::new(&mut *self.sink).poll_write(cx, bytes);
            if let Poll::Ready(Ok(n)) = written {
                self.budget.draw(n);
            }
            written
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut *self.sink).poll_flush(cx)
        }

        fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut *self.sink).poll_close(cx)
        }
    }
}

#[cfg(not(portable))]
mod pooled {
    use std::future::Future;
    use std::io;

    use futures_lite::AsyncWriteExt;

    use super::Outlet;
    use crate::net::budget::Budget;
    use crate::net::buffer::{Buffer, LARGE};
    use crate::net::splice::{transfer, Failure, Stop};
    use crate::net::stream::{fill, Stream};

    /// The number of full reads in a row after which bytes are spliced.
    const BULK: usize = 2;

    /// Copies through a buffer that is held only while bytes move, and switches to splice while
    /// they come in bulk between two plain sockets.
    #[allow(clippy::manual_async_fn)]
    pub fn carry<'a, 's>(
        from: &'a Stream,
        received: &'a mut Buffer,
        sink: &'a mut Outlet<'s>,
    ) -> impl Future<Output = io::Result<()>> + use<'a, 's> {
        async move {
            let mut full_reads = 0;
            let mut budget = Budget::default();
            loop {
                if !received.is_empty() {
                    sink.write_all(received.bytes()).await?;
                    received.consume(received.len());
                }
                if let (BULK.., false, Some(source), Some(plain)) =
                    (full_reads, sink.gone, from.plain(), sink.stream.plain())
                {
                    received.release();
                    full_reads = 0;
                    let transfer = transfer(source, plain, u64::MAX, |n| sink.took(n));
                    match Box::pin(transfer).await {
                        Ok(Stop::Quiet) => {}
                        Ok(Stop::Ended | Stop::Done) => return Ok(()),
                        Err(Failure::Source(error)) => return Err(error),
                        Err(Failure::Sink(error)) => sink.fail(error)?,
                    }
                }
                let n = fill(from, received).await?;
                match n {
                    0 => return Ok(()),
                    LARGE => full_reads += 1,
                    _ => full_reads = 0,
                }
                budget.draw(n);
                budget.turn().await;
            }
        }
    }
}
