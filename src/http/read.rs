//! Reading a head from a stream: until it is whole, and no further than its limit.

use crate::config::MAX_HEAD_BYTES;
use crate::http::head::{CheckStartLine, HeadError, Scan};
use crate::net::budget::Budget;
use crate::net::buffer::Buffer;
use crate::net::stream::{fill, Stream};

/// Reads until a whole head is in `received` and gives its length, which includes the
/// empty line. Never reads more than one head that is too large.
pub async fn read_head(
    stream: &Stream,
    received: &mut Buffer,
    check_start_line: CheckStartLine,
) -> Result<usize, HeadError> {
    let mut scan = Scan::default();
    let mut skipped = 0;
    let mut budget = Budget::default();
    // Before a request an empty line is skipped, before a response it is an error.
    let skips = check_start_line(b"").is_ok();
    loop {
        if skips && skip_empty_lines(received, &mut skipped)? > 0 {
            scan = Scan::default();
        }
        if !received.is_empty() {
            let whole = scan.advance(received.bytes(), check_start_line)?;
            if let Some(length) = whole {
                return match length {
                    ..=MAX_HEAD_BYTES => Ok(length),
                    _ => Err(HeadError::TooLarge),
                };
            }
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

/// Skips empty lines before a start line (RFC 9112 §2.2) and gives how many bytes they had.
/// `skipped` counts them over several calls; nobody needs more than a head may have.
pub fn skip_empty_lines(received: &mut Buffer, skipped: &mut usize) -> Result<usize, HeadError> {
    let before = *skipped;
    while received.bytes().starts_with(b"\r\n") {
        received.consume(2);
        *skipped += 2;
        if *skipped > MAX_HEAD_BYTES {
            return Err(HeadError::Malformed("too many empty lines"));
        }
    }
    Ok(*skipped - before)
}
