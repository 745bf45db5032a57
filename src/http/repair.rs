//! Rewrites faulty response heads and trailer sections into canonical form, so that the same
//! strict parser reads all heads. Not used for requests.
//!
//! It repairs what RFC 9112 and RFC 9110 let a recipient accept: lines that end in a bare LF,
//! several blanks in the status line, obs-fold, blanks before a colon, and control characters. A
//! head whose meaning is ambiguous is refused, here or by the parser.

use memchr::memchr;

use crate::config::MAX_RESPONSE_FIELDS;
use crate::http::syntax::{trim, trim_end};

/// The most folded lines in one head: as many as fields, since each line has a cost beyond its
/// bytes.
const MAX_FOLDS: usize = MAX_RESPONSE_FIELDS;

/// A head or a trailer section in canonical form: every line ends in CRLF, every field is a
/// name, a colon, a blank and a value of one line.
#[derive(Debug, PartialEq, Eq)]
pub struct Canonical {
    /// The head or section in canonical form.
    pub bytes: Vec<u8>,
    /// Whether something was repaired. A version above 1.1 does not count.
    pub was_faulty: bool,
}

/// Rewrites a whole response head, including its empty line.
pub fn canonical_head(head: &[u8]) -> Result<Canonical, &'static str> {
    let mut canonical = Canonical {
        bytes: Vec::with_capacity(head.len() + head.len() / 8),
        was_faulty: false,
    };
    let mut rest = head;
    let line = canonical.next_line(&mut rest)?;
    canonical.push_status_line(line)?;
    canonical.push_fields(rest)?;
    Ok(canonical)
}

/// Rewrites a whole trailer section, including its empty line.
pub fn canonical_trailers(section: &[u8]) -> Result<Canonical, &'static str> {
    let mut canonical = Canonical {
        bytes: Vec::with_capacity(section.len() + section.len() / 8),
        was_faulty: false,
    };
    canonical.push_fields(section)?;
    Ok(canonical)
}

impl Canonical {
    /// Splits off the next line, without its line ending.
    fn next_line<'a>(&mut self, rest: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
        let end = memchr(b'\n', rest).ok_or("the head is malformed")?;
        let line = &rest[..end];
        *rest = &rest[end + 1..];
        let line = match line.strip_suffix(b"\r") {
            Some(line) => line,
            None => {
                self.was_faulty = true;
                line
            }
        };
        match memchr::memchr2(b'\r', b'\0', line) {
            Some(at) if line[at] == b'\r' => Err("a bare CR"),
            Some(_) => Err("a NUL"),
            None => Ok(line),
        }
    }

    /// Appends a status line (RFC 9112 §4). A minor version above 1 is read as 1 (§2.5).
    fn push_status_line(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let malformed = "the status line is malformed";
        let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor, rest @ ..] = line else {
            return Err(malformed);
        };
        let version: &[u8] = match minor {
            b'0' => b"HTTP/1.0 ",
            b'1'..=b'9' => b"HTTP/1.1 ",
            _ => return Err(malformed),
        };
        let status = self.skip_blanks(rest)?;
        let (code, reason) = status.split_at_checked(3).ok_or(malformed)?;
        self.bytes.extend_from_slice(version);
        self.bytes.extend_from_slice(code);
        if !reason.is_empty() {
            let reason = self.skip_blanks(reason)?;
            self.bytes.push(b' ');
            self.push_text(reason);
        }
        self.bytes.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Skips the blanks between two words of the status line; at least one is required.
    fn skip_blanks<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], &'static str> {
        let blanks = bytes.iter().take_while(|&&b| b == b' ').count();
        self.was_faulty |= blanks > 1;
        match blanks {
            0 => Err("the status line is malformed"),
            _ => Ok(&bytes[blanks..]),
        }
    }

    fn push_fields(&mut self, mut rest: &[u8]) -> Result<(), &'static str> {
        let mut is_open = false;
        let mut folds_left = MAX_FOLDS;
        loop {
            let line = self.next_line(&mut rest)?;
            if let [b' ' | b'\t', ..] = line {
                // RFC 9112 §5.2: obs-fold becomes one blank. Before the first field there is
                // nothing to continue (§2.2).
                if !is_open {
                    return Err("a blank in front of the first field");
                }
                folds_left = folds_left.checked_sub(1).ok_or("too many folded lines")?;
                self.was_faulty = true;
                let more = trim(line);
                if !more.is_empty() {
                    if !self.bytes.ends_with(b" ") {
                        self.bytes.push(b' ');
                    }
                    self.push_text(more);
                }
                continue;
            }
            if is_open {
                self.bytes.extend_from_slice(b"\r\n");
            }
            if line.is_empty() {
                self.bytes.extend_from_slice(b"\r\n");
                return Ok(());
            }
            let colon = memchr(b':', line).ok_or("a field name is malformed")?;
            // RFC 9112 §5.1: a proxy removes blanks between the name and the colon.
            let name = trim_end(&line[..colon]);
            self.was_faulty |= name.len() < colon;
            self.bytes.extend_from_slice(name);
            self.bytes.extend_from_slice(b": ");
            self.push_text(trim(&line[colon + 1..]));
            is_open = true;
        }
    }

    /// Appends a reason phrase or a field value, or a part of one. RFC 9110 §5.5: control
    /// characters become blanks, and blanks at either end are removed.
    fn push_text(&mut self, text: &[u8]) {
        let is_control = |b: u8| b != b'\t' && b.is_ascii_control();
        if !text.iter().any(|&b| is_control(b)) {
            return self.bytes.extend_from_slice(text);
        }
        self.was_faulty = true;
        let start = self.bytes.len();
        let as_blank = |&b: &u8| if is_control(b) { b' ' } else { b };
        let is_blank = |b: &u8| matches!(as_blank(b), b' ' | b'\t');
        let leading = text.iter().take_while(|b| is_blank(b)).count();
        self.bytes.extend(text[leading..].iter().map(as_blank));
        let length = trim_end(&self.bytes[start..]).len();
        self.bytes.truncate(start + length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<(String, bool), &'static str> {
        let canonical = canonical_head(text.as_bytes())?;
        let bytes = String::from_utf8(canonical.bytes).expect("the input is UTF-8");
        Ok((bytes, canonical.was_faulty))
    }

    #[test]
    fn heads_become_canonical() {
        let plain = "HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
        for (text, expected, was_faulty) in [
            (plain, plain, false),
            ("HTTP/1.1 200 OK\nA: b\n\n", plain, true),
            ("HTTP/1.1 200 OK\r\nA: b\r\n\n", plain, true),
            ("HTTP/1.1  200 OK\r\nA: b\r\n\r\n", plain, true),
            ("HTTP/1.1 200   OK\r\nA: b\r\n\r\n", plain, true),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", plain, true),
            ("HTTP/1.1 200 OK\r\nA\t : b\r\n\r\n", plain, true),
            ("HTTP/1.1 200 OK\r\nA:\r\n b\r\n\r\n", plain, true),
            ("HTTP/1.1 200 OK\r\nA: b\r\n \r\n\r\n", plain, true),
            ("HTTP/1.1 200 OK\r\nA: b\x01\r\n\r\n", plain, true),
            ("HTTP/1.1 200 OK\r\nA: \x01\x7fb\r\n\r\n", plain, true),
            ("HTTP/1.1 200 OK\x0b\r\nA: b\r\n\r\n", plain, true),
            ("HTTP/1.2 200 OK\r\nA: b\r\n\r\n", plain, false),
            ("HTTP/1.9 200 OK\r\nA:b\r\n\r\n", plain, false),
            ("HTTP/1.0 200\n\n", "HTTP/1.0 200\r\n\r\n", true),
            ("HTTP/1.1 200 \n\n", "HTTP/1.1 200 \r\n\r\n", true),
            (
                "HTTP/1.1 200 OK\r\nA: b \r\n\t c\x01d\r\n  \r\n e\r\nB:\r\n\r\n",
                "HTTP/1.1 200 OK\r\nA: b c d e\r\nB: \r\n\r\n",
                true,
            ),
            (
                "HTTP/1.1 200 \u{e9}\tx\n\n",
                "HTTP/1.1 200 \u{e9}\tx\r\n\r\n",
                true,
            ),
        ] {
            assert_eq!(
                head(text),
                Ok((expected.to_owned(), was_faulty)),
                "{text:?}"
            );
        }
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\n \r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\r\n\r\n",
            "HTTP/1.1 200 O\rK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA\r\n : b\r\n\r\n",
            "HTTP/1.1\t200 OK\r\n\r\n",
            "HTTP/1.1200 OK\r\n\r\n",
            "HTTP/1.1 20\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.x 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert!(head(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn trailer_sections_become_canonical() {
        let canonical = canonical_trailers(b"A : b\n c\r\nB: \x01\n\n").expect("unambiguous");
        assert_eq!(canonical.bytes, b"A: b c\r\nB: \r\n\r\n");
        assert!(canonical.was_faulty);
        let plain = b"A: b\r\n\r\n";
        let canonical = canonical_trailers(plain).expect("unambiguous");
        assert_eq!(canonical.bytes, plain);
        assert!(!canonical.was_faulty);
    }
}
