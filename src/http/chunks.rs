//! Where a body ends in the bytes as they arrive: by its length, by the chunked coding
//! (RFC 9112 §7.1), or with the connection.

use crate::config::MAX_TRAILER_BYTES;
use crate::http::framing::Framing;
use crate::http::head::{HeadError, Reading, Rules, Scan};
use crate::http::trailers::{filter_trailers, filter_upstream_trailers, Trailers};

/// Finds the end of a body in the bytes as they arrive.
pub struct Decoder {
    state: State,
    reading: Reading,
    /// Whether faulty framing was accepted.
    was_faulty: bool,
    trailers: Vec<u8>,
    trailer_scan: Scan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// This many bytes of the body are left.
    Length(u64),
    /// All bytes up to the end of the connection are body.
    Endless,
    /// In the hex digits of a chunk's size.
    Size { value: u64, digits: u8 },
    /// In blanks after the size, which an extension or the end of the line must follow.
    SizeBlank { value: u64 },
    /// In a chunk extension, which is dropped.
    Extension {
        value: u64,
        length: u16,
        quote: Quote,
    },
    /// After the CR of a chunk's size line, before its LF.
    SizeLf { value: u64 },
    /// This many bytes of a chunk's data are left.
    Data(u64),
    /// After a chunk's data, before its CR.
    DataCr,
    /// After the CR that follows a chunk's data, before its LF.
    DataLf,
    /// In the trailer section, after the last chunk.
    Trailers,
    /// The body has ended.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    Outside,
    Inside,
    Escape,
}

/// The result of one call: `used` bytes were decoded, and the last `data` of them are body.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// How many bytes were decoded.
    pub used: usize,
    /// How many body bytes stand at the end of those.
    pub data: usize,
}

/// The most bytes of chunk extensions in one chunk.
const MAX_EXTENSION: u16 = 1024;

/// The hex digits of 2^64 - 1. A size with more is refused, even if the extra ones are zeros.
const MAX_SIZE_DIGITS: u8 = 16;

impl Decoder {
    /// A decoder at the first byte of a body, as strict as `reading` says.
    pub fn new(framing: Framing, reading: Reading) -> Decoder {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::UntilClose => State::Endless,
            Framing::Chunked => State::SIZE,
        };
        Decoder {
            state,
            reading,
            was_faulty: false,
            trailers: Vec::new(),
            trailer_scan: Scan::default(),
        }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The trailer fields that may be forwarded, as they are sent. Valid once the body has ended.
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Whether some of the framing was faulty and was accepted nevertheless.
    pub fn was_faulty(&self) -> bool {
        self.was_faulty
    }

    /// How many bytes of a `Length` body are left.
    #[cfg(not(portable))]
    pub(crate) fn length_left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Counts bytes of a `Length` body that were moved without `advance` (splice).
    #[cfg(not(portable))]
    pub(crate) fn skip(&mut self, count: u64) {
        if let State::Length(left) = self.state {
            self.state = match left - count {
                0 => State::Done,
                left => State::Length(left),
            };
        }
    }

    /// Decodes some of `bytes`, at least one, up to the end of a run of body bytes.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Step, &'static str> {
        let mut used = 0;
        while let Some(&byte) = bytes.get(used) {
            match self.state {
                State::Length(left) | State::Data(left) => {
                    let n = (bytes.len() - used).min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.state = match (self.state, left - n as u64) {
                        (State::Length(_), 0) => State::Done,
                        (State::Length(_), left) => State::Length(left),
                        (_, 0) => State::DataCr,
                        (_, left) => State::Data(left),
                    };
                    return Ok(Step {
                        used: used + n,
                        data: n,
                    });
                }
                State::Endless => {
                    return Ok(Step {
                        used: bytes.len(),
                        data: bytes.len() - used,
                    })
                }
                State::Trailers => {
                    used += self.take_trailers(&bytes[used..])?;
                    continue;
                }
                State::Done => break,
                state if byte == b'\n' && self.takes_bare_lf() => {
                    self.was_faulty = true;
                    self.state = state.after(b'\r')?.after(b'\n')?;
                }
                state => self.state = state.after(byte)?,
            }
            used += 1;
        }
        Ok(Step { used, data: 0 })
    }

    /// Whether an LF in this state is accepted as CRLF (RFC 9112 §2.2).
    fn takes_bare_lf(&self) -> bool {
        let is_lenient = self.reading == Reading::Lenient;
        is_lenient && !matches!(self.state, State::SizeLf { .. } | State::DataLf)
    }

    /// Collects the trailer section (RFC 9112 §7.1.2). Returns how many bytes it took.
    fn take_trailers(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        if self.trailers.is_empty() && bytes.starts_with(b"\r\n") {
            // Nearly always there are no trailer fields, so that nothing needs to be collected.
            self.state = State::Done;
            return Ok(2);
        }
        let rules = Rules {
            start_line: None,
            reading: self.reading,
            max_bytes: MAX_TRAILER_BYTES,
        };
        let collected = self.trailers.len();
        self.trailers.extend_from_slice(bytes);
        let extent = match self.trailer_scan.advance(&self.trailers, &rules) {
            Ok(Some(extent)) if extent.length <= MAX_TRAILER_BYTES => extent,
            Ok(None) => return Ok(bytes.len()),
            Err(HeadError::Malformed(reason)) => return Err(reason),
            // The limit holds whether the section arrives in one piece or in many.
            Ok(Some(_)) | Err(_) => return Err("the trailer section is too large"),
        };
        self.trailers.truncate(extent.length);
        let Trailers { kept, was_faulty } = match self.reading {
            Reading::Strict => filter_trailers(&self.trailers)?,
            Reading::Lenient => filter_upstream_trailers(&self.trailers, extent)?,
        };
        self.trailers = kept;
        self.was_faulty |= was_faulty;
        self.state = State::Done;
        Ok(extent.length - collected)
    }
}

impl State {
    const SIZE: State = State::Size {
        value: 0,
        digits: 0,
    };

    /// The state after one byte of chunk framing (RFC 9112 §7.1).
    fn after(self, byte: u8) -> Result<State, &'static str> {
        Ok(match (self, byte) {
            (State::Size { value, digits }, byte) if byte.is_ascii_hexdigit() => {
                if digits == MAX_SIZE_DIGITS {
                    return Err("a chunk size is too large");
                }
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                State::Size {
                    value: value << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (State::Size { digits: 0, .. }, _) => return Err("a chunk size is not hexadecimal"),
            (State::Size { value, .. }, b' ' | b'\t') => State::SizeBlank { value },
            (State::Size { value, .. } | State::SizeBlank { value }, b';') => State::Extension {
                value,
                length: 0,
                quote: Quote::Outside,
            },
            (State::SizeBlank { value }, b' ' | b'\t') => State::SizeBlank { value },
            (State::Size { value, .. } | State::SizeBlank { value }, b'\r') => {
                State::SizeLf { value }
            }
            (State::Size { .. } | State::SizeBlank { .. }, _) => {
                return Err("a chunk size is not hexadecimal")
            }
            (
                State::Extension {
                    value,
                    quote: Quote::Outside,
                    ..
                },
                b'\r',
            ) => State::SizeLf { value },
            (
                State::Extension {
                    value,
                    length,
                    quote,
                },
                byte,
            ) => {
                if (byte.is_ascii_control() && byte != b'\t') || length == MAX_EXTENSION {
                    return Err("a chunk extension is malformed");
                }
                let quote = match (quote, byte) {
                    (Quote::Outside, b'"') | (Quote::Escape, _) => Quote::Inside,
                    (Quote::Inside, b'"') => Quote::Outside,
                    (Quote::Inside, b'\\') => Quote::Escape,
                    (quote, _) => quote,
                };
                State::Extension {
                    value,
                    length: length + 1,
                    quote,
                }
            }
            (State::SizeLf { value: 0 }, b'\n') => State::Trailers,
            (State::SizeLf { value }, b'\n') => State::Data(value),
            (State::SizeLf { .. }, _) => return Err("a chunk size line ends in a bare CR"),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::SIZE,
            _ => return Err("a chunk does not end where its size says"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `bytes` in pieces of `piece` bytes, and returns the body, the trailers and how
    /// many bytes are left; None while the body has not ended.
    #[allow(clippy::type_complexity)]
    fn decode(
        bytes: &[u8],
        piece: usize,
    ) -> Result<Option<(Vec<u8>, Vec<u8>, usize)>, &'static str> {
        let (decoded, was_faulty) = decode_as(Reading::Strict, bytes, piece)?;
        assert!(!was_faulty);
        Ok(decoded)
    }

    /// The same as read by `reading`, and whether some of the framing was faulty.
    #[allow(clippy::type_complexity)]
    fn decode_as(
        reading: Reading,
        bytes: &[u8],
        piece: usize,
    ) -> Result<(Option<(Vec<u8>, Vec<u8>, usize)>, bool), &'static str> {
        let mut decoder = Decoder::new(Framing::Chunked, reading);
        let mut body = Vec::new();
        let mut at = 0;
        while at < bytes.len() && !decoder.is_done() {
            let end = (at + piece).min(bytes.len());
            let step = decoder.advance(&bytes[at..end])?;
            assert!(step.used > 0);
            at += step.used;
            body.extend(&bytes[at - step.data..at]);
        }
        let decoded = decoder
            .is_done()
            .then(|| (body, decoder.trailers().to_vec(), bytes.len() - at));
        Ok((decoded, decoder.was_faulty()))
    }

    #[test]
    fn chunks_are_decoded_in_pieces_of_any_size() {
        for (bytes, body, trailers) in [
            (&b"0\r\n\r\n"[..], &b""[..], &b""[..]),
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
            (
                b"5\r\nhello\r\nA\r\n0123456789\r\n000\r\n\r\n",
                b"hello0123456789",
                b"",
            ),
            (
                b"5;a=b;c=\"d;\\\"e\"\r\nhello\r\n0;x\r\n\r\n",
                b"hello",
                b"",
            ),
            (b"5 \t;a\r\nhello\r\n0\r\n\r\n", b"hello", b""),
            // Some servers pad their sizes with blanks.
            (b"5   \r\nhello\r\n0 \t\r\n\r\n", b"hello", b""),
            (
                b"1\r\nx\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nhost: b\r\nY: 2\r\n\r\n",
                b"x",
                b"X-Sum: 1\r\nY: 2\r\n",
            ),
        ] {
            for piece in 1..=bytes.len() {
                let mut followed = bytes.to_vec();
                followed.extend(b"GET /");
                let decoded = decode(&followed, piece).expect("well formed");
                let (got, trailing, rest) = decoded.expect("whole");
                assert_eq!((got.as_slice(), trailing.as_slice()), (body, trailers));
                assert_eq!(rest, 5);
                let prefix = &bytes[..piece - 1];
                assert_eq!(decode(prefix, 3), Ok(None), "{prefix:?}");
            }
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for bytes in [
            &b"\r\n"[..],
            b" 5\r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"-1\r\n",
            b"0x5\r\nhello\r\n",
            b"5_0\r\n",
            b"5 5\r\n",
            b"5 \n",
            b"5 \t5\r\n",
            b"5 a\r\n",
            b" 5 \r\n",
            b"g\r\n",
            b"5\nhello\r\n",
            b"5\rhello\r\n",
            b"5;a\nhello",
            b"5;a=\"\r\n\"\r\nhello",
            b"5;a\0b\r\nhello",
            b"5;\x7f\r\nhello",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n",
            b"5\r\nhello\rX",
            b"5\r\nhello0\r\n\r\n",
            b"10000000000000000\r\n",
            b"00000000000000000\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\nA : b\r\n\r\n",
            b"0\r\n A: b\r\n\r\n",
            b"0\r\nA: b\r\n c\r\n\r\n",
            b"0\r\nA\r\n\r\n",
            b"0\r\n\0: b\r\n\r\n",
            b"0\r\n\n",
        ] {
            for piece in [1, 2, bytes.len()] {
                let verdict = decode(bytes, piece);
                assert!(verdict.is_err(), "{bytes:?} by {piece}: {verdict:?}");
            }
        }
        let mut long = b"5;".to_vec();
        long.extend([b'a'; 2000]);
        assert!(decode(&long, 100).is_err());
        let mut many = b"0\r\n".to_vec();
        many.extend(b"A: b\r\n".repeat(10_000));
        many.extend(b"\r\n");
        for piece in [8192, many.len()] {
            assert!(decode(&many, piece).is_err());
        }
    }

    #[test]
    fn an_upstream_may_end_lines_in_lf() {
        let whole = |body: &[u8], trailers: &[u8]| Some((body.to_vec(), trailers.to_vec(), 0));
        for (bytes, body, trailers) in [
            (&b"5\nhello\n0\n\n"[..], &b"hello"[..], &b""[..]),
            (b"5\r\nhello\n0\r\n\r\n", b"hello", b""),
            (b"5\nhello\r\n0\r\n\r\n", b"hello", b""),
            (b"5\r\nhello\r\n0\n\r\n", b"hello", b""),
            (b"5\r\nhello\r\n0\r\n\n", b"hello", b""),
            (b"5 \nhello\n0;a\n\n", b"hello", b""),
            (b"5;a=\"b\"\nhello\n0\n\n", b"hello", b""),
            (b"0\nX: 1\nHost: a\n\n", b"", b"X: 1\r\n"),
            (
                b"0\r\nX : 1\r\n 2\r\nY: \x013\r\n\r\n",
                b"",
                b"X: 1 2\r\nY: 3\r\n",
            ),
        ] {
            for piece in 1..=bytes.len() {
                let decoded = decode_as(Reading::Lenient, bytes, piece);
                assert_eq!(decoded, Ok((whole(body, trailers), true)), "{bytes:?}");
                assert!(decode_as(Reading::Strict, bytes, piece).is_err());
            }
        }
        // Padding does not count as a fault.
        let padded = decode_as(Reading::Lenient, b"5  \r\nhello\r\n0 \r\n\r\n", 1);
        assert_eq!(padded, Ok((whole(b"hello", b""), false)));
        for bytes in [
            &b"\n5\nhello\n0\n\n"[..],
            b"5\rhello\n0\n\n",
            b"5\nhello\r0\n\n",
            b"5\n\nhello\n0\n\n",
            b"5\nhello\n\n0\n\n",
            b"5;a=\"\n\"\nhello\n0\n\n",
            b"5\nhello0\n\n",
            b"5 5\n",
            b"0\n X: 1\n\n",
            b"0\nX: \0\n\n",
            b"0\nX: a\rb\n\n",
            b"0\nX\n\n",
        ] {
            for piece in [1, 2, bytes.len()] {
                let verdict = decode_as(Reading::Lenient, bytes, piece);
                assert!(verdict.is_err(), "{bytes:?} by {piece}: {verdict:?}");
            }
        }
    }

    #[test]
    fn a_body_of_a_length_ends_exactly_there() {
        let mut decoder = Decoder::new(Framing::Length(3), Reading::Strict);
        assert_eq!(decoder.advance(b"ab"), Ok(Step { used: 2, data: 2 }));
        assert_eq!(decoder.advance(b"cd"), Ok(Step { used: 1, data: 1 }));
        assert!(decoder.is_done());
        assert!(Decoder::new(Framing::Length(0), Reading::Strict).is_done());
    }
}
