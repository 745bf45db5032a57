//! Finds the end of a head in the received bytes (RFC 9112 §2), before it is parsed: common to
//! request heads, response heads and trailer sections.

use memchr::memchr;

use crate::config::MAX_RESPONSE_FIELDS;
use crate::http::syntax::{find_near, is_token, is_token_byte, trim_end};

/// Why no whole head could be read.
#[derive(Debug)]
pub enum HeadError {
    /// The peer closed before the first byte.
    Closed,
    /// The peer closed in the middle of the head.
    Truncated,
    /// The bytes cannot be the beginning of a head; holds the reason.
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

/// Checks a start line, without its line ending, as soon as it has arrived.
pub(crate) type CheckStartLine = fn(&[u8]) -> Result<(), HeadError>;

/// How strictly a message is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// For clients: the upstream might read a faulty message differently.
    Strict,
    /// For upstreams and proxies: faults with only one possible meaning are accepted, because the
    /// message is rewritten before it is forwarded.
    Lenient,
}

/// What a head must look like, and how long it may be.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Checks the start line; none for a trailer section, which has no start line.
    pub start_line: Option<CheckStartLine>,
    /// How strictly it is read.
    pub reading: Reading,
    /// The most bytes, including the empty line.
    pub max_bytes: usize,
}

/// The extent of a head in the received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its length, including the empty line.
    pub length: usize,
    /// Whether some line ends in a bare LF. Never set if the reading is strict.
    pub has_bare_lf: bool,
}

/// The most lines of a head: all the fields that a response may have, and as many folded lines.
/// Each line has a cost beyond its bytes.
const MAX_LINES: usize = 2 * MAX_RESPONSE_FIELDS + 2;

/// The content types that the first TLS record of a connection may have (RFC 8446 §5.1).
const TLS_ALERT: u8 = 21;
const TLS_HANDSHAKE: u8 = 22;

/// How far a head that is still arriving has been examined.
#[derive(Debug, Default)]
pub struct Scan {
    examined: usize,
    line_start: usize,
    has_start_line: bool,
    has_bare_lf: bool,
    lines: usize,
    /// The start of the first field line that was not checked yet.
    unchecked: usize,
    /// Whether a field line was checked.
    has_field: bool,
}

impl Scan {
    /// Examines the bytes that have arrived since the last call, and returns the extent of the
    /// head once it is complete.
    pub fn advance(&mut self, bytes: &[u8], rules: &Rules) -> Result<Option<Extent>, HeadError> {
        let mut next = self.examined;
        if let (0, Some(_), [TLS_ALERT | TLS_HANDSHAKE, 3, ..]) = (next, rules.start_line, bytes) {
            return Err(HeadError::Malformed(match rules.reading {
                Reading::Strict => "TLS on a port without TLS; use http or ws",
                Reading::Lenient => "this is TLS; use --tls on",
            }));
        }
        while let Some(length) = find_near(b'\n', &bytes[next..]) {
            let newline = next + length;
            next = newline + 1;
            let line = &bytes[self.line_start..newline];
            // RFC 9112 §2.2 lets a recipient accept a bare LF as the end of a line. Parsers that
            // disagree on it enable request smuggling, so it is refused from clients.
            let line = match line.strip_suffix(b"\r") {
                Some(line) => line,
                None if rules.reading == Reading::Lenient => {
                    self.has_bare_lf = true;
                    line
                }
                None => return Err(HeadError::Malformed("a line ends in a bare LF")),
            };
            if let (Some(check), false) = (rules.start_line, self.has_start_line) {
                if line.len() > rules.max_bytes {
                    return Err(HeadError::StartLineTooLong);
                }
                check(line)?;
                self.has_start_line = true;
                self.unchecked = newline + 1;
            }
            self.line_start = newline + 1;
            self.lines += 1;
            if self.lines > MAX_LINES {
                return Err(HeadError::TooLarge);
            }
            if line.is_empty() {
                return Ok(Some(Extent {
                    length: newline + 1,
                    has_bare_lf: self.has_bare_lf,
                }));
            }
        }
        self.examined = bytes.len();
        if bytes.first().is_some_and(|&b| !is_token_byte(b)) && !bytes.starts_with(b"\r") {
            return Err(HeadError::Malformed("this is not HTTP"));
        }
        self.check_fields(bytes, rules.reading)?;
        if bytes.len() < rules.max_bytes {
            Ok(None)
        } else if rules.start_line.is_none() || self.has_start_line {
            Err(HeadError::TooLarge)
        } else {
            Err(HeadError::StartLineTooLong)
        }
    }

    /// Checks the field lines of an incomplete head, so that one that can never become valid is
    /// refused without waiting for its end. A complete head is checked by the parser.
    fn check_fields(&mut self, bytes: &[u8], reading: Reading) -> Result<(), HeadError> {
        while self.unchecked < self.line_start {
            let rest = &bytes[self.unchecked..self.line_start];
            let length = memchr(b'\n', rest).unwrap_or(rest.len());
            let line = &rest[..length];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            check_field_line(line, reading, self.has_field).map_err(HeadError::Malformed)?;
            self.has_field = true;
            self.unchecked += length + 1;
        }
        Ok(())
    }
}

/// Checks that a line can be a field or, if the reading is lenient, a fold of the line before it.
fn check_field_line(line: &[u8], reading: Reading, has_field: bool) -> Result<(), &'static str> {
    let is_lenient = reading == Reading::Lenient;
    let is_fold = is_lenient && has_field && matches!(line, [b' ' | b'\t', ..]);
    let value = match memchr(b':', line) {
        _ if is_fold => line,
        Some(colon) => {
            let name = match is_lenient {
                true => trim_end(&line[..colon]),
                false => &line[..colon],
            };
            if !is_token(name) {
                return Err("a field name is malformed");
            }
            &line[colon + 1..]
        }
        None => return Err("a field name is malformed"),
    };
    let is_wrong = |&b: &u8| match reading {
        Reading::Strict => b != b'\t' && b.is_ascii_control(),
        Reading::Lenient => b == b'\0' || b == b'\r',
    };
    match value.iter().any(is_wrong) {
        true => Err("a field value is malformed"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1000;

    fn rules(reading: Reading) -> Rules {
        Rules {
            start_line: Some(|_| Ok(())),
            reading,
            max_bytes: MAX,
        }
    }

    fn scan(bytes: &[u8], reading: Reading) -> Result<Option<Extent>, HeadError> {
        Scan::default().advance(bytes, &rules(reading))
    }

    #[test]
    fn a_head_is_complete_at_its_empty_line_and_not_before() {
        let strict = rules(Reading::Strict);
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let whole = Some(Extent {
            length: head.len(),
            has_bare_lf: false,
        });
        for split in 0..=head.len() {
            let mut scan = Scan::default();
            let first = scan.advance(&head[..split], &strict).expect("well formed");
            assert_eq!(first.is_some(), split == head.len(), "{split}");
            let mut with_body = head.to_vec();
            with_body.extend(b"body\r\n\r\n");
            if first.is_none() {
                let found = scan.advance(&with_body, &strict).expect("well formed");
                assert_eq!(found, whole);
            }
        }
        let mut scan = Scan::default();
        for end in 1..=head.len() {
            let found = scan.advance(&head[..end], &strict).expect("well formed");
            assert_eq!(found.is_some(), end == head.len());
        }
    }

    #[test]
    fn lines_of_an_upstream_may_end_in_a_bare_lf() {
        for (head, has_bare_lf) in [
            (&b"HTTP/1.1 200 OK\n\n"[..], true),
            (b"HTTP/1.1 200 OK\r\n\n", true),
            (b"HTTP/1.1 200 OK\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\nA: b\n c\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\n\r\n", false),
        ] {
            let found = scan(head, Reading::Lenient).expect("well formed");
            let length = head.len();
            assert_eq!(
                found,
                Some(Extent {
                    length,
                    has_bare_lf
                })
            );
            let found = scan(&[head, b"\nHTTP".as_slice()].concat(), Reading::Lenient);
            assert_eq!(found.expect("well formed").map(|e| e.length), Some(length));
            assert_eq!(scan(head, Reading::Strict).is_err(), has_bare_lf);
        }
    }

    #[test]
    fn tls_is_recognized_and_named_in_the_error() {
        let handshake = b"\x16\x03\x01\x02\x00\x01\x00\x00\x0a\x00";
        let alert = b"\x15\x03\x03\x00\x02\x02\x0a";
        for bytes in [&handshake[..], alert, &alert[..2]] {
            for (reading, words) in [
                (Reading::Strict, "use http"),
                (Reading::Lenient, "--tls on"),
            ] {
                let found = scan(bytes, reading);
                let told = matches!(&found, Err(HeadError::Malformed(why)) if why.contains(words));
                assert!(told, "{bytes:?}: {found:?}");
            }
        }
    }

    #[test]
    fn bytes_that_cannot_begin_a_head_are_refused_at_once() {
        for bytes in [
            &b"\x16\x03\x01\x02"[..],
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1\r\nA: b\n",
            b" GET",
            b"\0",
        ] {
            let refused = scan(bytes, Reading::Strict);
            assert!(matches!(refused, Err(HeadError::Malformed(_))), "{bytes:?}");
        }
    }

    #[test]
    fn an_invalid_field_line_is_refused_before_the_head_is_complete() {
        for (line, strict, lenient) in [
            ("A: b", true, true),
            ("A:", true, true),
            ("A: \u{e9}\tb", true, true),
            ("A", false, false),
            (": b", false, false),
            ("A B: c", false, false),
            ("A: \0", false, false),
            ("A: b\rc", false, false),
            ("A: b\r", false, false),
            ("A : b", false, true),
            ("A\t : b", false, true),
            ("A: \x01", false, true),
        ] {
            for (reading, valid) in [(Reading::Strict, strict), (Reading::Lenient, lenient)] {
                let head = format!("X / HTTP/1.1\r\n{line}\r\n");
                // In one piece, and byte by byte after another line.
                assert_eq!(scan(head.as_bytes(), reading).is_ok(), valid, "{line:?}");
                let head = format!("X / HTTP/1.1\r\nB: c\r\n{line}\r\n");
                let mut scan = Scan::default();
                let outcome = (1..=head.len()).try_for_each(|end| {
                    let found = scan.advance(&head.as_bytes()[..end], &rules(reading))?;
                    assert_eq!(found, None);
                    Ok::<_, HeadError>(())
                });
                assert_eq!(outcome.is_ok(), valid, "{line:?}");
            }
        }
        for fold in [" b", "\tb", " \t", " A: b"] {
            let first = format!("X / HTTP/1.1\r\n{fold}\r\n");
            assert!(scan(first.as_bytes(), Reading::Lenient).is_err());
            let second = format!("X / HTTP/1.1\r\nA: b\r\n{fold}\r\n");
            assert!(scan(second.as_bytes(), Reading::Lenient).is_ok());
            assert!(scan(second.as_bytes(), Reading::Strict).is_err());
        }
    }

    #[test]
    fn limits() {
        let long = vec![b'a'; MAX];
        let refused = scan(&long, Reading::Strict);
        assert!(matches!(refused, Err(HeadError::StartLineTooLong)));
        let mut many = b"GET / HTTP/1.1\r\n".to_vec();
        many.extend(&long);
        let refused = scan(&many, Reading::Strict);
        assert!(matches!(refused, Err(HeadError::TooLarge)));
    }
}
