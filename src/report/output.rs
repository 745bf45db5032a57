//! Writes log lines to standard error and access log lines to standard output. Each thread
//! collects lines in buffers and writes them when it is about to wait for events. If the reader
//! of a stream is stuck and the buffer full, lines are dropped and counted; serving never waits.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};

/// A pipe that is writable takes this many bytes atomically, without blocking (PIPE_BUF).
const WRITE_AT_ONCE: usize = 4096;

/// The bytes of lines that are buffered while the reader is stuck; further lines are dropped.
const HELD_BACK: usize = 256 * 1024;

/// A busy thread, which does not wait for events, writes its buffer at this many bytes.
const BUSY_FLUSH: usize = 16 * 1024;

/// The delay before the next attempt to write to a stuck reader.
const RETRY: Duration = Duration::from_millis(200);

/// The delay before the next attempt if another thread was writing.
const RETRY_SOON: Duration = Duration::from_millis(5);

/// How long `flush_waiting` waits, for a slow reader and for other threads.
const PATIENCE: Duration = Duration::from_millis(500);

/// Held from the poll of a stream until the write to it: if two threads polled it as writable
/// and both wrote, the second could block. One lock for both streams, which may be one pipe.
static WRITING: Mutex<()> = Mutex::new(());

/// The stream that a line is written to.
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
    /// Whether `PENDING` holds lines or a count of dropped ones: checked cheaply before each
    /// wait for events.
    static HOLDS_ANY: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on the thread's buffers. Does nothing if they are borrowed already: a panic
/// while a line is formatted would be logged from within that borrow.
fn with_pending<T: Default>(work: impl FnOnce(&mut Streams) -> T) -> T {
    PENDING.with(|pending| match pending.try_borrow_mut() {
        Ok(mut pending) => work(&mut pending),
        Err(_) => T::default(),
    })
}

/// Buffers the line that `fill` appends, which adds no newline. A line longer than PIPE_BUF is
/// cut.
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

/// Returns and resets the number of dropped lines. Returns 0 while the buffers are at least
/// half full, since more lines may be dropped.
pub fn take_dropped() -> usize {
    with_pending(|streams| {
        let Streams { error, output } = streams;
        match error.lines.len().max(output.lines.len()) < HELD_BACK / 2 {
            true => std::mem::take(&mut error.dropped) + std::mem::take(&mut output.dropped),
            false => 0,
        }
    })
}

/// Whether the thread has buffered lines or has dropped some.
#[inline]
pub fn holds_any() -> bool {
    HOLDS_ANY.get()
}

/// Writes the thread's buffered lines as far as the streams take them without blocking.
/// Returns the delay before the next attempt if some are left.
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

/// Writes the buffered lines of a thread that will not try again soon, such as before exit.
/// Waits up to `PATIENCE` for a slow reader and for other threads that are writing.
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

/// The result of a write. The order decides between two streams: the result that calls for
/// the earlier next attempt is the greater one.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// All lines were written, or discarded because the stream is broken.
    #[default]
    Written,
    /// The stream is not writable.
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
        // Only a write of at most PIPE_BUF bytes to a writable pipe cannot block.
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
                // The pipe is closed or the disk full: the lines are discarded.
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
        // The lock guards no data that a panic could have left inconsistent.
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
    // If a write ended inside a character, its remaining bytes are lost.
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// How many bytes of `lines` to write at once: as many whole lines as fit into PIPE_BUF.
fn whole_lines(lines: &[u8]) -> usize {
    if lines.len() <= WRITE_AT_ONCE {
        return lines.len();
    }
    let newline = lines[..WRITE_AT_ONCE].iter().rposition(|&b| b == b'\n');
    newline.map_or(WRITE_AT_ONCE, |at| at + 1)
}

/// Waits up to `patience` until the stream is writable. Returns false on timeout.
fn wait_writable(descriptor: BorrowedFd<'_>, patience: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)];
    let timeout = Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: patience.subsec_nanos().into(),
    };
    // A broken stream polls as ready; the write then fails and the lines are discarded.
    matches!(poll(&mut fds, Some(&timeout)), Ok(n) if n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_longer_than_pipe_buf_is_cut() {
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
