//! What request and response heads have in common (RFC 9112 §2 to §5): finding the end
//! of a head on the wire, its fields, and the fields that go no further than one hop.

use std::mem::MaybeUninit;

pub use httparse::Header;
use memchr::memchr_iter;

use crate::buffer::Buffer;
use crate::config::{MAX_FIELDS, MAX_HEAD_BYTES};
use crate::stream::{fill, Stream};

/// Room for the fields of one head.
pub type Fields<'b> = [MaybeUninit<Header<'b>>; MAX_FIELDS];

/// Fresh room for fields.
pub fn no_fields<'b>() -> Fields<'b> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

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

/// Reads until a whole head is in `received` and gives its length, which includes the
/// empty line. Never reads more than one head that is too large.
pub async fn read_head(
    stream: &Stream,
    received: &mut Buffer,
    check_start_line: CheckStartLine,
) -> Result<usize, HeadError> {
    let mut scan = Scan::default();
    let mut skipped = 0;
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
        match fill(stream, received).await {
            Ok(0) if received.is_empty() => return Err(HeadError::Closed),
            Ok(0) => return Err(HeadError::Truncated),
            Ok(_) => {}
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

/// Whether `bytes` are a token (RFC 9110 §5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is_token_byte(b))
}

/// Whether a token may hold this byte.
pub fn is_token_byte(byte: u8) -> bool {
    const TOKEN: ByteSet = alphanumeric_and(b"!#$%&'*+-.^_`|~");
    TOKEN[usize::from(byte)]
}

/// Which bytes some syntax allows.
pub type ByteSet = [bool; 256];

/// Letters, digits and the given bytes.
pub const fn alphanumeric_and(others: &[u8]) -> ByteSet {
    let mut set = [false; 256];
    let mut byte = 0;
    while byte < set.len() {
        set[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut other = 0;
    while other < others.len() {
        set[others[other] as usize] = true;
        other += 1;
    }
    set
}

/// The elements of a comma-separated list (RFC 9110 §5.6.1), blanks trimmed.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let elements = value.split(|&b| b == b',').map(trim);
    elements.filter(|element| !element.is_empty())
}

/// Without the blanks at both ends (RFC 9110 §5.6.3).
pub fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The most Connection options in one head.
const MAX_CONNECTION_OPTIONS: usize = 32;

/// What all Connection fields of a head say together (RFC 9110 §7.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// `close`
    pub close: bool,
    /// `keep-alive`
    pub keep_alive: bool,
    /// `upgrade`
    pub upgrade: bool,
    /// Some option names a field that is for this hop only.
    names_fields: bool,
}

impl ConnectionOptions {
    /// Collects the options of every Connection field. More of them than anyone needs would
    /// only cost time: each is compared with each field.
    pub fn of(fields: &[Header<'_>]) -> Result<ConnectionOptions, &'static str> {
        let mut options = ConnectionOptions::default();
        let mut left = MAX_CONNECTION_OPTIONS;
        for value in values(fields, "connection") {
            for option in list(value) {
                left = left.checked_sub(1).ok_or("too many Connection options")?;
                if option.eq_ignore_ascii_case(b"close") {
                    options.close = true;
                } else if option.eq_ignore_ascii_case(b"keep-alive") {
                    options.keep_alive = true;
                } else if option.eq_ignore_ascii_case(b"upgrade") {
                    options.upgrade = true;
                } else {
                    options.names_fields = true;
                }
            }
        }
        Ok(options)
    }

    /// Whether the field goes no further than this hop. Framing fields and Host are
    /// never dropped by a peer's wish; their writers decide.
    pub fn drop_field(&self, name: &str, fields: &[Header<'_>]) -> bool {
        const HOP_BY_HOP: [&str; 7] = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "proxy-authenticate",
            "te",
            "upgrade",
        ];
        const KEPT: [&str; 3] = ["host", "content-length", "transfer-encoding"];
        let is_in = |names: &[&str]| names.iter().any(|n| n.eq_ignore_ascii_case(name));
        if is_in(&HOP_BY_HOP) {
            return true;
        }
        self.names_fields
            && !is_in(&KEPT)
            && values(fields, "connection")
                .any(|value| list(value).any(|o| o.eq_ignore_ascii_case(name.as_bytes())))
    }
}

/// The values of every field of that name, in order.
pub fn values<'f, 'b>(
    fields: &'f [Header<'b>],
    name: &'f str,
) -> impl Iterator<Item = &'b [u8]> + use<'f, 'b> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| trim(field.value))
}

/// The Content-Length of a head (RFC 9112 §6.3): plain digits, and repeated fields agree.
pub fn content_length(fields: &[Header<'_>]) -> Result<Option<u64>, &'static str> {
    let mut length = None;
    for value in values(fields, "content-length") {
        let parsed = parse_decimal(value).ok_or("Content-Length is not a number")?;
        if length.is_some_and(|length| length != parsed) {
            return Err("Content-Length fields disagree");
        }
        length = Some(parsed);
    }
    Ok(length)
}

fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether the head's Transfer-Encoding is a single final `chunked`; any other is refused
/// (RFC 9112 §6.1).
pub fn is_chunked(fields: &[Header<'_>]) -> Result<bool, &'static str> {
    let mut values = values(fields, "transfer-encoding");
    match (values.next(), values.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err("Transfer-Encoding is not a single chunked"),
    }
}

/// Appends a number in decimal, without the formatter and what it costs.
pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// Appends one field line.
pub fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 200, 65_535, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

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

    fn field<'b>(name: &'b str, value: &'b str) -> Header<'b> {
        Header {
            name,
            value: value.as_bytes(),
        }
    }

    #[test]
    fn content_lengths() {
        for (value, expected) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("+1", None),
            ("-1", None),
            ("0x10", None),
            ("1 2", None),
            ("1,1", None),
            ("1_0", None),
            ("１", None),
        ] {
            let parsed = content_length(&[field("Content-Length", value)]);
            assert_eq!(parsed.ok().flatten(), expected, "{value:?}");
        }
        let same = [field("content-length", "5"), field("CONTENT-LENGTH", "5")];
        assert_eq!(content_length(&same), Ok(Some(5)));
        let other = [field("Content-Length", "5"), field("Content-Length", "6")];
        assert!(content_length(&other).is_err());
    }

    #[test]
    fn only_a_single_chunked_is_taken() {
        for (value, expected) in [
            ("chunked", Ok(true)),
            ("Chunked", Ok(true)),
            ("gzip, chunked", Err(())),
            ("chunked, identity", Err(())),
            ("chunked,", Err(())),
            ("xchunked", Err(())),
            ("\"chunked\"", Err(())),
            ("chunked;q=1", Err(())),
            ("", Err(())),
        ] {
            let verdict = is_chunked(&[field("Transfer-Encoding", value)]);
            assert_eq!(verdict.map_err(|_| ()), expected, "{value:?}");
        }
        let twice = [
            field("Transfer-Encoding", "chunked"),
            field("transfer-encoding", "chunked"),
        ];
        assert!(is_chunked(&twice).is_err());
        assert_eq!(is_chunked(&[]), Ok(false));
    }

    #[test]
    fn connection_options_drop_what_they_name_but_never_framing() {
        let fields = [
            field("Connection", "Close, x-a ,,"),
            field("connection", "X-B\t,host, content-length"),
        ];
        let options = ConnectionOptions::of(&fields).expect("few");
        assert!(options.close && !options.keep_alive && !options.upgrade);
        for (name, dropped) in [
            ("X-A", true),
            ("x-b", true),
            ("X-C", false),
            ("Host", false),
            ("Content-Length", false),
            ("Keep-Alive", true),
            ("Proxy-Authorization", true),
            ("TE", true),
            ("Trailer", false),
        ] {
            assert_eq!(options.drop_field(name, &fields), dropped, "{name}");
        }
        let many = "a,".repeat(MAX_CONNECTION_OPTIONS);
        assert!(ConnectionOptions::of(&[field("Connection", &many)]).is_ok());
        let more = [field("Connection", &many), field("Connection", "b")];
        assert!(ConnectionOptions::of(&more).is_err());
    }
}
