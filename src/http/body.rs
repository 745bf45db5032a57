//! Copies a body from one stream to another in constant memory, with new framing.

use std::cell::Cell;
use std::io::{self, Write};

use crate::http::chunks::{Decoder, Step};
use crate::http::framing::Framing;
use crate::http::head::Reading;
use crate::http::trailers;
use crate::net::budget::Budget;
use crate::net::buffer::{Buffer, LARGE};
#[cfg(not(portable))]
use crate::net::splice;
use crate::net::stream::{fill, Stream};

/// Why a body was not copied completely.
#[derive(Debug)]
pub enum BodyError {
    /// The source ended before the body did.
    Truncated,
    /// The source sent a malformed chunked coding; holds the reason.
    Malformed(&'static str),
    /// The source failed.
    Source(io::Error),
    /// The sink failed.
    Sink(io::Error),
}

/// Where a body comes from.
pub struct Source<'a> {
    /// The stream that it is read from.
    pub stream: &'a Stream,
    /// The bytes of it that were already read, and the buffer for the rest.
    pub received: &'a mut Buffer,
    /// How it ends on this stream.
    pub framing: Framing,
    /// How strictly its framing is read.
    pub reading: Reading,
    /// Whether a body that ends with the connection counts as complete if TLS ends without
    /// close_notify: the peer's certificate is not verified, so the alert would prove nothing.
    pub takes_end_unannounced: bool,
}

/// A body that was copied completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its length, without the chunked coding.
    pub bytes: u64,
    /// Whether its framing was faulty and was accepted nevertheless.
    pub was_faulty: bool,
    /// Whether it ended with the connection, without close_notify.
    pub ended_unannounced: bool,
}

/// Where a body goes.
pub struct Sink<'a> {
    /// The stream that it is written to.
    pub stream: &'a Stream,
    /// Bytes to send before it, for example the head; empty afterwards.
    pub pending: &'a mut Vec<u8>,
    /// How it ends on this stream: the bytes are sent unchanged unless it is chunked.
    pub framing: Framing,
    /// Set once any of the bytes may have been sent.
    pub started: &'a Cell<bool>,
    /// Names the trailer fields to leave out in addition to those that are never forwarded.
    pub drops: &'a dyn Fn(&str) -> bool,
}

/// Copies one body. Calls `progress` whenever bytes have moved, with the number of body bytes
/// forwarded since the last call. What has arrived is forwarded before more is read.
pub async fn copy(
    source: Source<'_>,
    sink: Sink<'_>,
    mut progress: impl FnMut(u64),
) -> Result<Copied, BodyError> {
    let Source {
        stream: from,
        received,
        framing,
        reading,
        takes_end_unannounced,
    } = source;
    let drops = sink.drops;
    let mut sink = Writer {
        stream: sink.stream,
        pending: sink.pending,
        started: sink.started,
        chunked: sink.framing == Framing::Chunked,
    };
    let mut decoder = Decoder::new(framing, reading);
    let mut copied = 0;
    let mut told = 0;
    let mut budget = Budget::default();
    loop {
        while !received.is_empty() && !decoder.is_done() {
            let step = decoder.advance(received.bytes());
            let Step { used, data } = step.map_err(BodyError::Malformed)?;
            copied += data as u64;
            let is_last = used == received.len();
            sink.push(&received.bytes()[used - data..used], is_last)
                .await?;
            received.consume(used);
        }
        if decoder.is_done() {
            sink.end(&trailers::without(decoder.trailers(), drops))
                .await?;
            progress(copied - told);
            return Ok(Copied {
                bytes: copied,
                was_faulty: decoder.was_faulty(),
                ended_unannounced: false,
            });
        }
        sink.flush().await?;
        progress(copied - told);
        told = copied;
        budget.turn().await;
        #[cfg(not(portable))]
        if let (Some(left @ SPLICED..), Some(source), Some(plain)) =
            (decoder.length_left(), from.plain(), sink.stream.plain())
        {
            received.release();
            let mut moved = 0;
            let count = |n| {
                moved += n as u64;
                progress(n as u64);
            };
            sink.started.set(true);
            let stop = splice::transfer(source, plain, left, count).await;
            copied += moved;
            told += moved;
            decoder.skip(moved);
            match stop {
                Ok(splice::Stop::Done) => continue,
                Ok(splice::Stop::Ended) => return Err(BodyError::Truncated),
                Ok(splice::Stop::Quiet) => {}
                Err(splice::Failure::Source(error)) => return Err(BodyError::Source(error)),
                Err(splice::Failure::Sink(error)) => return Err(BodyError::Sink(error)),
            }
        }
        match fill(from, received).await {
            Ok(0) if framing == Framing::UntilClose => {
                sink.end(&[]).await?;
                return Ok(Copied {
                    bytes: copied,
                    was_faulty: false,
                    ended_unannounced: false,
                });
            }
            Err(error)
                if framing == Framing::UntilClose
                    && takes_end_unannounced
                    && error.kind() == io::ErrorKind::UnexpectedEof
                    && !from.is_torn() =>
            {
                sink.end(&[]).await?;
                return Ok(Copied {
                    bytes: copied,
                    was_faulty: false,
                    ended_unannounced: true,
                });
            }
            Ok(0) => return Err(BodyError::Truncated),
            Ok(n) => {
                budget.draw(n);
                progress(0);
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(BodyError::Truncated)
            }
            Err(error) => return Err(BodyError::Source(error)),
        }
    }
}

/// A body of known length is spliced while at least this many bytes of it are left.
#[cfg(not(portable))]
const SPLICED: u64 = 256 * 1024;

/// Writes the pending bytes and then the body, in as few writes as possible.
struct Writer<'a> {
    stream: &'a Stream,
    pending: &'a mut Vec<u8>,
    started: &'a Cell<bool>,
    chunked: bool,
}

/// Up to this many body bytes are copied into the pending bytes. More are written from the
/// receive buffer, and without TLS in the same call as the pending bytes.
const JOINED: usize = 16 * 1024;

impl Writer<'_> {
    async fn write(&self, bytes: &[u8]) -> Result<(), BodyError> {
        self.started.set(true);
        self.stream.write_all(bytes).await.map_err(BodyError::Sink)
    }

    /// Writes body bytes, or adds them to the pending ones. `is_last` says that no more received
    /// bytes follow.
    async fn push(&mut self, data: &[u8], is_last: bool) -> Result<(), BodyError> {
        if data.is_empty() {
            return Ok(());
        }
        if self.chunked {
            // Writing to a Vec cannot fail.
            let _ = write!(self.pending, "{:x}\r\n", data.len());
            self.pending.extend_from_slice(data);
            self.pending.extend_from_slice(b"\r\n");
            if self.pending.len() >= LARGE {
                self.flush().await?;
            }
        } else if !is_last && data.len() <= JOINED {
            // The data of several chunks, for a sink without chunks: one write for all of them
            // instead of one each.
            self.pending.extend_from_slice(data);
            if self.pending.len() >= LARGE {
                self.flush().await?;
            }
        } else if self.pending.is_empty() {
            self.write(data).await?;
        } else if data.len() <= JOINED {
            self.pending.extend_from_slice(data);
        } else if let Some(socket) = self.stream.plain() {
            self.started.set(true);
            let written = socket.write_all_vectored([self.pending, data]).await;
            written.map_err(BodyError::Sink)?;
            self.pending.clear();
        } else {
            self.flush().await?;
            self.write(data).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), BodyError> {
        if !self.pending.is_empty() {
            self.write(self.pending).await?;
            self.pending.clear();
        }
        Ok(())
    }

    async fn end(&mut self, trailers: &[u8]) -> Result<(), BodyError> {
        if self.chunked {
            self.pending.extend_from_slice(b"0\r\n");
            self.pending.extend_from_slice(trailers);
            self.pending.extend_from_slice(b"\r\n");
        }
        self.flush().await
    }
}
