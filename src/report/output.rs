//! Lines on standard error, and the access log's on standard output: they collect in buffers
//! of the thread and are written when it is about to wait. A reader that stops costs lines,
//! which are counted, never the data path's time.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};

/// What a pipe takes at once without blocking, when it takes anything (PIPE_BUF).
const WRITE_AT_ONCE: usize = 4096;

/// Lines that wait for a stuck reader, in bytes; beyond it lines are dropped.
const HELD_BACK: usize = 256 * 1024;

/// Written out while a thread is busy, at this many bytes.
const BUSY_FLUSH: usize = 16 * 1024;

/// How soon a reader that was stuck is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// How soon a thread that found another one writing tries again.
const RETRY_SOON: Duration = Duration::from_millis(5);

/// How long the lines of a thread that will not try again soon are waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// Held from asking whether a stream takes a line to writing it: of two threads that were both
/// told yes, one could block. One for both streams, which may be one pipe.
static WRITING: Mutex<()> = Mutex::new(());

/// Where a line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard error: the log.
    Error,
    /// Standard output: the access log.
    Output,
}

impl Stream {
    fn descriptor(self) -> BorrowedFd<'static> {
        match self {
            Stream::Error => rustix::stdio::stderr(),
            Stream::Output => rustix::stdio::stdout(),
        }
    }
}

#[derive(Default)]
struct Pending {
    lines: String,
    dropped: usize,
}

#[derive(Default)]
struct Streams {
    error: Pending,
    output: Pending,
}

thread_local! {
    static PENDING: RefCell<Streams> = RefCell::default();
    /// Whether those are anything but empty: what is asked before each wait of the thread.
    static HOLDS_ANY: Cell<bool> = const { Cell::new(false) };
}

/// Does nothing while a line is being formatted, should that very formatting panic.
fn with_pending<T: Default>(work: impl FnOnce(&mut Streams) -> T) -> T {
    PENDING.with(|pending| match pending.try_borrow_mut() {
        Ok(mut pending) => work(&mut pending),
        Err(_) => T::default(),
    })
}

/// Adds the line that `fill` appends, without its end. Longer than a pipe takes at once,
/// it is cut.
pub fn line(stream: Stream, fill: impl FnOnce(&mut String)) {
    HOLDS_ANY.set(true);
    with_pending(|streams| {
        let pending = match stream {
            Stream::Error => &mut streams.error,
            Stream::Output => &mut streams.output,
        };
        if pending.lines.len() > HELD_BACK {
            pending.dropped += 1;
            return;
        }
        pending.line(fill);
        if pending.lines.len() >= BUSY_FLUSH {
            pending.write_out(stream, Duration::ZERO);
        }
    });
}

/// How many lines were dropped since it was last asked; 0 while more are to be expected.
pub fn take_dropped() -> usize {
    with_pending(|streams| {
        let Streams { error, output } = streams;
        match error.lines.len().max(output.lines.len()) < HELD_BACK / 2 {
            true => std::mem::take(&mut error.dropped) + std::mem::take(&mut output.dropped),
            false => 0,
        }
    })
}

/// Whether the thread has lines to write out, or has dropped some.
#[inline]
pub fn holds_any() -> bool {
    HOLDS_ANY.get()
}

/// Writes the thread's lines out, as far as the reader takes them without a wait. Gives
/// the time after which to try again, if some are left.
pub fn flush() -> Option<Duration> {
    with_pending(|streams| {
        let outcome = streams.write_out(Duration::ZERO);
        HOLDS_ANY.set(!streams.are_empty());
        match outcome {
            Outcome::Busy => Some(RETRY_SOON),
            Outcome::Stuck => Some(RETRY),
            Outcome::Written => None,
        }
    })
}

/// Writes the lines out of a thread that will not try again soon, waiting a moment for others
/// who write and for a slow reader.
pub fn flush_waiting() {
    let start = Instant::now();
    while let Outcome::Busy = with_pending(|streams| streams.write_out(PATIENCE)) {
        if start.elapsed() > PATIENCE {
            return;
        }
        std::thread::sleep(RETRY_SOON);
    }
}

/// Whether standard error is the journal: JOURNAL_STREAM names its device and inode.
pub fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stat) = rustix::fs::fstat(io::stderr().as_fd()) else {
        return false;
    };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// What became of lines that were to be written, the least urgent to try again first.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// All are out, or had nowhere to go.
    #[default]
    Written,
    /// The reader takes no more.
    Stuck,
    /// Another thread is writing.
    Busy,
}

impl Streams {
    fn are_empty(&self) -> bool {
        let empty = |pending: &Pending| pending.lines.is_empty() && pending.dropped == 0;
        empty(&self.error) && empty(&self.output)
    }

    fn write_out(&mut self, patience: Duration) -> Outcome {
        let error = self.error.write_out(Stream::Error, patience);
        error.max(self.output.write_out(Stream::Output, patience))
    }
}

impl Pending {
    fn line(&mut self, fill: impl FnOnce(&mut String)) {
        let start = self.lines.len();
        fill(&mut self.lines);
        self.lines.push('\n');
        // Only a line that a pipe takes at once can never block.
        if self.lines.len() - start > WRITE_AT_ONCE {
            let cut = start + WRITE_AT_ONCE - "...\n".len();
            self.lines.truncate(floor_char(&self.lines, cut));
            self.lines.push_str("...\n");
        }
    }

    fn write_out(&mut self, stream: Stream, patience: Duration) -> Outcome {
        if self.lines.is_empty() {
            return Outcome::Written;
        }
        let Some(_writing) = writing() else {
            return Outcome::Busy;
        };
        let descriptor = stream.descriptor();
        let mut written = 0;
        while written < self.lines.len() {
            let rest = &self.lines.as_bytes()[written..];
            let piece = &rest[..whole_lines(rest)];
            if !wait_writable(descriptor, patience) {
                break;
            }
            match rustix::io::write(descriptor, piece) {
                Ok(n) => written += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                // Closed or full: the lines have nowhere to go.
                Err(_) => written = self.lines.len(),
            }
        }
        self.lines.drain(..ceil_char(&self.lines, written));
        match self.lines.is_empty() {
            true => Outcome::Written,
            false => Outcome::Stuck,
        }
    }
}

fn writing() -> Option<MutexGuard<'static, ()>> {
    use std::sync::TryLockError::*;
    match WRITING.try_lock() {
        Ok(guard) => Some(guard),
        // It guards nothing that a panic could have left half done.
        Err(Poisoned(guard)) => Some(guard.into_inner()),
        Err(WouldBlock) => None,
    }
}

fn floor_char(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil_char(text: &str, mut at: usize) -> usize {
    // A write that ended inside a character loses its rest: better than a panic.
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// How many bytes of `lines` to write at once: whole lines, of which one always fits.
fn whole_lines(lines: &[u8]) -> usize {
    if lines.len() <= WRITE_AT_ONCE {
        return lines.len();
    }
    let newline = lines[..WRITE_AT_ONCE].iter().rposition(|&b| b == b'\n');
    newline.map_or(WRITE_AT_ONCE, |at| at + 1)
}

/// Waits until something can be written, for at most `patience`; false when the time is over.
fn wait_writable(descriptor: BorrowedFd<'_>, patience: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)];
    let timeout = Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: patience.subsec_nanos().into(),
    };
    // A broken stream counts as writable: the write says so and the lines are let go.
    matches!(poll(&mut fds, Some(&timeout)), Ok(n) if n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_longer_than_a_pipe_takes_at_once() {
        let mut pending = Pending::default();
        pending.line(|line| line.push_str(&"聊".repeat(3000)));
        assert!(pending.lines.len() <= WRITE_AT_ONCE);
        assert!(pending.lines.ends_with("聊...\n"));
    }

    #[test]
    fn writes_go_out_in_whole_lines() {
        assert_eq!(whole_lines(b"a\nb\n"), 4);
        let mut lines = vec![b'x'; 4000];
        lines.push(b'\n');
        lines.extend(vec![b'y'; 200]);
        lines.push(b'\n');
        assert_eq!(whole_lines(&lines), 4001);
    }
}
