//! Zero-copy: bytes moved from socket to socket through a pipe, inside the kernel (splice(2)).
//!
//! This pays off for bulk only. Each transfer borrows a pipe from its thread's pool while bytes
//! are in flight, because the kernel limits how many full-size pipes one user may have.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;

use crate::config::MAX_PIPES;
use crate::net::budget::Budget;
use crate::net::reactor::share;
use crate::net::socket::{Direction, Socket};
use crate::net::spares::Shelf;

/// The capacity of a pipe. Larger ones measured no better.
const PIPE_BYTES: usize = 256 * 1024;

/// Pipes that a thread keeps for reuse.
const KEPT: usize = 16;

/// Copying a burst smaller than this is cheaper than splicing it.
const BULK: usize = 32 * 1024;

/// Why a transfer stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Bytes no longer arrive in bulk, or no pipe is available: the caller goes on copying.
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
    /// Writing to the sink; the bytes in the pipe are lost.
    Sink(io::Error),
}

/// A pipe, empty unless bytes are in flight.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    _lent: Lent,
}

/// A permit for one pipe, given back when it is dropped.
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
    /// How many more permits this thread may give.
    static ALLOWED: Cell<usize> = const { Cell::new(MAX_PIPES) };
}

/// Closes the kept pipes that were not used since the last sweep. Returns whether any are left.
pub fn sweep() -> bool {
    PIPES.with_borrow_mut(Shelf::sweep)
}

/// Sets how many pipes this thread may have in use; further transfers copy.
pub fn allow(most: usize) {
    ALLOWED.set(most);
}

impl Pipe {
    /// Takes a kept pipe or opens a new one; none at the limit or if the kernel refuses.
    fn take() -> Option<Pipe> {
        use rustix::pipe::{fcntl_setpipe_size, pipe_with, PipeFlags};
        let lent = Lent::take()?;
        let (reader, writer) = match PIPES.with_borrow_mut(Shelf::take) {
            Some(kept) => kept,
            None => {
                let ends = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
                // The kernel refuses it to a user with many large pipes; the default size works
                // as well.
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

/// Moves at most `most` bytes from `from` to `to` for as long as they arrive in bulk. Calls
/// `moved` with the number of bytes of each write.
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
