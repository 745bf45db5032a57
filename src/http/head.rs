//! Where a head ends on the wire (RFC 9112 §2): what request and response heads have in
//! common before they are parsed.

use memchr::memchr_iter;

use crate::config::MAX_HEAD_BYTES;
use crate::http::syntax::is_token_byte;

/// Why no whole head could be read.
#[derive(Debug)]
pub enum HeadError {
    /// The peer closed before the first byte.
    Closed,
    /// The peer closed in the middle.
    Truncated,
    /// What arrived can be no head; says why.
    Malformed(&'static str),
    /// The start line names a major version other than 1.
    Version,
    /// The start line alone exceeds the limit.
    StartLineTooLong,
    /// The head exceeds the limit.
    TooLarge,
    /// The connection failed.
    Io(std::io::Error),
}

/// Checks a start line, without its CRLF, as soon as it is there.
pub type CheckStartLine = fn(&[u8]) -> Result<(), HeadError>;

/// How far a head that is still arriving has been examined.
#[derive(Debug, Default)]
pub struct Scan {
    examined: usize,
    line_start: usize,
    has_start_line: bool,
}

impl Scan {
    /// Examines the bytes that arrived since the last call, each once, and gives the
    /// length of the head, its empty line included, when it is whole.
    pub fn advance(
        &mut self,
        bytes: &[u8],
        check_start_line: CheckStartLine,
    ) -> Result<Option<usize>, HeadError> {
        let start = self.examined;
        for newline in memchr_iter(b'\n', &bytes[start..]).map(|at| start + at) {
            let line = &bytes[self.line_start..newline];
            // RFC 9112 §2.2 allows a lone LF to end a line; two parsers that disagree
            // on it are what smuggling needs, so it is refused.
            let Some(line) = line.strip_suffix(b"\r") else {
                return Err(HeadError::Malformed("a line ends in a bare LF"));
            };
            if !self.has_start_line {
                if line.len() > MAX_HEAD_BYTES {
                    return Err(HeadError::StartLineTooLong);
                }
                check_start_line(line)?;
                self.has_start_line = true;
            }
            self.line_start = newline + 1;
            if line.is_empty() {
                return Ok(Some(newline + 1));
            }
        }
        self.examined = bytes.len();
        if bytes.first().is_some_and(|&b| !is_token_byte(b)) && !bytes.starts_with(b"\r") {
            return Err(HeadError::Malformed("this is not HTTP"));
        }
        if bytes.len() < MAX_HEAD_BYTES {
            Ok(None)
        } else if self.has_start_line {
            Err(HeadError::TooLarge)
        } else {
            Err(HeadError::StartLineTooLong)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(_: &[u8]) -> Result<(), HeadError> {
        Ok(())
    }

    #[test]
    fn a_head_is_whole_at_its_empty_line_and_not_before() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for split in 0..=head.len() {
            let mut scan = Scan::default();
            let first = scan.advance(&head[..split], accept).expect("well formed");
            assert_eq!(first.is_some(), split == head.len(), "{split}");
            let mut with_body = head.to_vec();
            with_body.extend(b"body\r\n\r\n");
            if first.is_none() {
                let whole = scan.advance(&with_body, accept).expect("well formed");
                assert_eq!(whole, Some(head.len()));
            }
        }
        let mut scan = Scan::default();
        for end in 1..=head.len() {
            let found = scan.advance(&head[..end], accept).expect("well formed");
            assert_eq!(found.is_some(), end == head.len());
        }
    }

    #[test]
    fn what_is_no_head_is_refused_at_once() {
        for bytes in [
            &b"\x16\x03\x01\x02"[..],
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1\r\nA: b\n",
            b" GET",
            b"\0",
        ] {
            let refused = Scan::default().advance(bytes, accept);
            assert!(matches!(refused, Err(HeadError::Malformed(_))), "{bytes:?}");
        }
    }

    #[test]
    fn limits() {
        let long = vec![b'a'; MAX_HEAD_BYTES];
        let refused = Scan::default().advance(&long, accept);
        assert!(matches!(refused, Err(HeadError::StartLineTooLong)));
        let mut many = b"GET / HTTP/1.1\r\n".to_vec();
        many.extend(&long);
        let refused = Scan::default().advance(&many, accept);
        assert!(matches!(refused, Err(HeadError::TooLarge)));
    }
}
