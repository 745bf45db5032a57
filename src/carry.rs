//! Moves the bytes of one direction of a relay, from what is left over to the end.

#[cfg(not(any(not(target_os = "linux"), feature = "portable")))]
pub use pooled::carry;
#[cfg(any(not(target_os = "linux"), feature = "portable"))]
pub use portable::carry;

#[cfg(any(not(target_os = "linux"), feature = "portable"))]
mod portable {
    use std::io;

    use futures_lite::io::copy;

    use crate::buffer::Buffer;
    use crate::relay::Outlet;
    use crate::stream::Stream;

    /// The plain way, wherever there is nothing better.
    pub async fn carry(
        from: &Stream,
        received: &mut Buffer,
        sink: &mut Outlet<'_>,
    ) -> io::Result<()> {
        copy(received.bytes(), &mut *sink).await?;
        received.consume(received.len());
        received.release();
        copy(from, sink).await.map(drop)
    }
}

#[cfg(not(any(not(target_os = "linux"), feature = "portable")))]
mod pooled {
    use std::io;

    use futures_lite::{future, AsyncWriteExt};

    use crate::buffer::{Buffer, LARGE};
    use crate::error::is_close;
    use crate::relay::Outlet;
    use crate::splice::{transfer, Failure, Stop};
    use crate::stream::{fill, Stream};

    /// So many full reads on end are bulk.
    const BULK: usize = 2;

    /// About a MiB; then others get their turn.
    const TURN: usize = 16;

    /// Copies through a buffer that is held only while bytes move, and hands over to
    /// splice while they come in bulk between two plain sockets.
    pub async fn carry(
        from: &Stream,
        received: &mut Buffer,
        sink: &mut Outlet<'_>,
    ) -> io::Result<()> {
        let mut full_reads = 0;
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
                    Err(Failure::Sink(error)) if is_close(&error) => sink.gone = true,
                    Err(Failure::Sink(error)) => return Err(error),
                }
            }
            match fill(from, received).await? {
                0 => return Ok(()),
                LARGE => full_reads += 1,
                _ => full_reads = 0,
            }
            if full_reads % TURN == TURN - 1 {
                future::yield_now().await;
            }
        }
    }
}
