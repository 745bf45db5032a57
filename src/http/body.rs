//! Copying a body from a stream to another in constant memory, framed anew.

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

/// Why a body was not copied whole.
#[derive(Debug)]
pub enum BodyError {
    /// The source ended before the body did.
    Truncated,
    /// The source broke the chunked coding; says how.
    Malformed(&'static str),
    /// The source failed.
    Source(io::Error),
    /// The sink failed.
    Sink(io::Error),
}

/// Where a body comes from.
pub struct Source<'a> {
    /// The stream that sends it.
    pub stream: &'a Stream,
    /// What was already read of it, and where more is read to.
    pub received: &'a mut Buffer,
    /// How it ends there.
    pub framing: Framing,
    /// How exact the peer must be.
    pub reading: Reading,
    /// What the connection's end delimits is whole where TLS ends without close_notify: the
    /// peer is not verified, so that the alert would prove nothing either.
    pub takes_end_unannounced: bool,
}

/// A body that was copied whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its length, coding aside.
    pub bytes: u64,
    /// Its framing was faulty, and was taken all the same.
    pub was_faulty: bool,
    /// It ended with the connection, without close_notify.
    pub ended_unannounced: bool,
}

/// Where a body goes.
pub struct Sink<'a> {
    /// The stream that takes it.
    pub stream: &'a Stream,
    /// What goes out before it, the head for example; left empty.
    pub pending: &'a mut Vec<u8>,
    /// How it ends there: chunked, or else by the bytes as they are.
    pub framing: Framing,
    /// Set once any of this may have been sent.
    pub started: &'a Cell<bool>,
    /// Which trailer fields are left out beside those that never go on, by their name.
    pub drops: &'a dyn Fn(&str) -> bool,
}

/// Copies one body. `progress` is called whenever bytes have moved, with how many of the
/// body went on. Whatever arrived is sent on at once.
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

/// A body with at least so many bytes left is spliced.
#[cfg(not(portable))]
const SPLICED: u64 = 256 * 1024;

/// Writes body bytes behind what is pending, in as few writes as possible.
struct Writer<'a> {
    stream: &'a Stream,
    pending: &'a mut Vec<u8>,
    started: &'a Cell<bool>,
    chunked: bool,
}

/// Body bytes up to this many are joined with what is pending; more are written from where
/// they are, in the same call if there is no TLS.
const JOINED: usize = 16 * 1024;

impl Writer<'_> {
    async fn write(&self, bytes: &[u8]) -> Result<(), BodyError> {
        self.started.set(true);
        self.stream.write_all(bytes).await.map_err(BodyError::Sink)
    }

    /// `is_last` says that no more of what was received follows this.
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
            // Chunks without their coding: one write for all that was received, not one each.
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
