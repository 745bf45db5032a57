//! Zero-copy: bytes moved from socket to socket through a pipe, inside the kernel.
//!
//! Worth it for bulk only. Pipes are lent by a pool of the thread while bytes are in
//! flight; a user may hold few of them.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;

use crate::config::MAX_PIPES;
use crate::net::budget::Budget;
use crate::net::reactor::share;
use crate::net::socket::{Direction, Socket};
use crate::net::spares::Shelf;

/// What a pipe holds. Larger ones measured no better.
const PIPE_BYTES: usize = 256 * 1024;

/// Pipes that a thread keeps for reuse.
const KEPT: usize = 16;

/// A burst of less than this is copied cheaper than it is spliced.
const BULK: usize = 32 * 1024;

/// Why moving stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What arrives is not bulk any more, or no pipe is to be had: go on copying.
    Quiet,
    /// The source has ended.
    Ended,
    /// As many bytes as wanted have moved.
    Done,
}

/// Which side failed.
#[derive(Debug)]
pub enum Failure {
    /// Reading from the source.
    Source(io::Error),
    /// Writing to the sink; what was in flight is lost with it.
    Sink(io::Error),
}

/// A pipe, empty unless bytes are in flight.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    _lent: Lent,
}

/// One of the pipes that may be in use, until it is dropped.
struct Lent;

impl Lent {
    fn take() -> Option<Lent> {
        let left = ALLOWED.get().checked_sub(1)?;
        ALLOWED.set(left);
        Some(Lent)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        ALLOWED.set(ALLOWED.get() + 1);
    }
}

thread_local! {
    static PIPES: RefCell<Shelf<(OwnedFd, OwnedFd)>> = const { RefCell::new(Shelf::new(KEPT)) };
    /// How many more may be lent.
    static ALLOWED: Cell<usize> = const { Cell::new(MAX_PIPES) };
}

/// Gives back pipes that lie unused; whether any are still kept.
pub fn sweep() -> bool {
    PIPES.with_borrow_mut(Shelf::sweep)
}

/// Lets this thread have at most `most` pipes in use; beyond them bytes are copied.
pub fn allow(most: usize) {
    ALLOWED.set(most);
}

impl Pipe {
    /// None when no pipe is to be had.
    fn take() -> Option<Pipe> {
        use rustix::pipe::{fcntl_setpipe_size, pipe_with, PipeFlags};
        let lent = Lent::take()?;
        let (reader, writer) = match PIPES.with_borrow_mut(Shelf::take) {
            Some(kept) => kept,
            None => {
                let ends = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
                // Refused to a user who holds many; the smaller pipe works as well.
                let _ = fcntl_setpipe_size(&ends.1, PIPE_BYTES);
                ends
            }
        };
        Some(Pipe {
            reader,
            writer,
            _lent: lent,
        })
    }

    /// Keeps an empty pipe for reuse.
    fn give_back(self) {
        PIPES.with_borrow_mut(|pipes| pipes.keep((self.reader, self.writer)));
    }
}

/// Moves bytes from `from` to `to` for as long as they come in bulk, at most `most`.
/// `moved` is told of each part that was written.
pub async fn transfer(
    from: &Socket,
    to: &Socket,
    most: u64,
    mut moved: impl FnMut(usize),
) -> Result<Stop, Failure> {
    let mut left = most;
    let mut budget = Budget::default();
    loop {
        let Some(pipe) = Pipe::take() else {
            return Ok(Stop::Quiet);
        };
        let mut burst = 0;
        let stop = loop {
            let portion = PIPE_BYTES.min(share());
            let wanted = usize::try_from(left).map_or(portion, |left| left.min(portion));
            let taken = match from.try_splice_to(&pipe.writer, wanted) {
                Ok(0) => break Some(Stop::Ended),
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break None,
                Err(error) => return Err(Failure::Source(error)),
            };
            let mut in_flight = taken;
            while in_flight > 0 {
                match to.try_splice_from(&pipe.reader, in_flight) {
                    Ok(written) => {
                        in_flight -= written;
                        moved(written);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        to.ready(Direction::Write).await;
                    }
                    Err(error) => return Err(Failure::Sink(error)),
                }
            }
            left -= taken as u64;
            if left == 0 {
                break Some(Stop::Done);
            }
            burst += taken;
            budget.draw(taken);
            budget.turn().await;
        };
        pipe.give_back();
        match stop {
            Some(stop) => return Ok(stop),
            None if burst < BULK => return Ok(Stop::Quiet),
            None => from.ready(Direction::Read).await,
        }
    }
}
