//! Reads a head from a stream until it is complete or exceeds its limit.

use crate::http::head::{Extent, HeadError, Rules, Scan};
use crate::net::budget::Budget;
use crate::net::buffer::Buffer;
use crate::net::stream::{fill, Stream};

/// The most bytes of empty lines before a request.
const MAX_EMPTY_LINES: usize = 32 * 1024;

/// Reads until a whole head is in `received`, and returns its extent. Stops as soon as the head
/// exceeds its limit.
pub async fn read_head(
    stream: &Stream,
    received: &mut Buffer,
    rules: Rules,
) -> Result<Extent, HeadError> {
    let mut scan = Scan::default();
    let mut skipped = 0;
    let mut budget = Budget::default();
    // An empty line is skipped before a request and is an error before a response.
    let skips = rules.start_line.is_some_and(|check| check(b"").is_ok());
    loop {
        if skips && skip_empty_lines(received, &mut skipped)? > 0 {
            scan = Scan::default();
        }
        if !received.is_empty() {
            if let Some(extent) = scan.advance(received.bytes(), &rules)? {
                return match extent.length <= rules.max_bytes {
                    true => Ok(extent),
                    false => Err(HeadError::TooLarge),
                };
            }
            // Grows the buffer only if the head fills a large one.
            received.grow_when_full();
        }
        budget.turn().await;
        match fill(stream, received).await {
            Ok(0) if received.is_empty() => return Err(HeadError::Closed),
            Ok(0) => return Err(HeadError::Truncated),
            Ok(n) => budget.draw(n),
            Err(error) => return Err(HeadError::Io(error)),
        }
    }
}

/// Skips empty lines before a start line (RFC 9112 §2.2), and returns how many bytes they had.
/// `skipped` adds them up over several calls, up to `MAX_EMPTY_LINES`.
pub fn skip_empty_lines(received: &mut Buffer, skipped: &mut usize) -> Result<usize, HeadError> {
    let lines = received.bytes().chunks_exact(2);
    let count = 2 * lines.take_while(|line| line == b"\r\n").count();
    received.consume(count);
    *skipped += count;
    match *skipped > MAX_EMPTY_LINES {
        true => Err(HeadError::Malformed("too many empty lines")),
        false => Ok(count),
    }
}
