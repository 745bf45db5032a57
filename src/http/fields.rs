//! The fields of a head (RFC 9110 §5): finds them by name, reads those that frame the message,
//! and writes them.

use std::mem::MaybeUninit;

pub use httparse::Header;

use crate::config::{MAX_FIELDS, MAX_RESPONSE_FIELDS};
use crate::http::syntax::{is_token, parse_decimal, trim};

/// Storage for the fields of one request head.
pub(crate) type Fields<'b> = [MaybeUninit<Header<'b>>; MAX_FIELDS];

/// Uninitialized storage for the fields of a request.
pub fn no_fields<'b>() -> Fields<'b> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// Storage for the fields of one response head.
pub(crate) type ResponseFields<'b> = [MaybeUninit<Header<'b>>; MAX_RESPONSE_FIELDS];

/// Uninitialized storage for the fields of a response.
pub(crate) fn no_response_fields<'b>() -> ResponseFields<'b> {
    [const { MaybeUninit::uninit() }; MAX_RESPONSE_FIELDS]
}

/// The values of every field of that name, in order.
pub(crate) fn values<'f, 'b>(
    fields: &'f [Header<'b>],
    name: &'f str,
) -> impl Iterator<Item = &'b [u8]> + use<'f, 'b> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| trim(field.value))
}

/// The Content-Length of a head (RFC 9112 §6.3). It must be plain digits, and repeated fields
/// must agree.
pub(crate) fn content_length(fields: &[Header<'_>]) -> Result<Option<u64>, &'static str> {
    let mut length = None;
    for value in values(fields, "content-length") {
        let parsed = parse_decimal(value).ok_or("Content-Length is not a number")?;
        if length.is_some_and(|length| length != parsed) {
            return Err("conflicting Content-Length fields");
        }
        length = Some(parsed);
    }
    Ok(length)
}

/// Why a Transfer-Encoding is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodingError {
    /// The list is malformed, or `chunked` is repeated or not the last.
    Malformed,
    /// There is a coding other than `chunked`.
    Unknown,
}

impl CodingError {
    /// The reason as text.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            CodingError::Malformed => "Transfer-Encoding is not a single chunked",
            CodingError::Unknown => "the only supported transfer coding is chunked",
        }
    }
}

/// Whether the head has a Transfer-Encoding, which must be a single `chunked`: any other is an
/// error (RFC 9112 §6.1).
pub(crate) fn is_chunked(fields: &[Header<'_>]) -> Result<bool, CodingError> {
    let mut codings = values(fields, "transfer-encoding");
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(coding_error(fields)),
    }
}

/// The most transfer codings of one message that are examined.
const MAX_CODINGS: usize = 32;

#[cold]
fn coding_error(fields: &[Header<'_>]) -> CodingError {
    let values = values(fields, "transfer-encoding");
    let mut chunked_at = None;
    let mut last = 0;
    for (at, coding) in values.flat_map(|v| v.split(|&b| b == b',')).enumerate() {
        let mut parts = coding.splitn(2, |&b| b == b';');
        let name = trim(parts.next().unwrap_or_default());
        let is_plain = parts.next().is_none();
        let is_chunked = name.eq_ignore_ascii_case(b"chunked");
        // No message has as many, and examining all of them takes time.
        if at >= MAX_CODINGS || !is_token(name) || is_chunked && (chunked_at.is_some() || !is_plain)
        {
            return CodingError::Malformed;
        }
        if is_chunked {
            chunked_at = Some(at);
        }
        last = at;
    }
    match chunked_at {
        Some(at) if at < last => CodingError::Malformed,
        _ => CodingError::Unknown,
    }
}

/// Appends the name of a field, for a value that follows in parts.
pub(super) fn begin_field(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
}

/// Appends one field line.
pub(crate) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A field as the parser returns it.
    pub(in crate::http) fn field<'b>(name: &'b str, value: &'b str) -> Header<'b> {
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
    fn only_a_single_chunked_is_accepted() {
        use CodingError::{Malformed, Unknown};
        for (value, expected) in [
            ("chunked", Ok(true)),
            ("Chunked", Ok(true)),
            ("gzip", Err(Unknown)),
            ("gzip, chunked", Err(Unknown)),
            ("gzip;q=1, CHUNKED", Err(Unknown)),
            ("identity", Err(Unknown)),
            ("xchunked", Err(Unknown)),
            ("chunked, identity", Err(Malformed)),
            ("chunked, chunked", Err(Malformed)),
            ("gzip, chunked, chunked", Err(Malformed)),
            ("chunked,", Err(Malformed)),
            (",", Err(Malformed)),
            ("\"chunked\"", Err(Malformed)),
            ("chunked;q=1", Err(Malformed)),
            ("", Err(Malformed)),
        ] {
            let verdict = is_chunked(&[field("Transfer-Encoding", value)]);
            assert_eq!(verdict, expected, "{value:?}");
        }
        let both = |first, second| {
            is_chunked(&[
                field("Transfer-Encoding", first),
                field("transfer-encoding", second),
            ])
        };
        assert_eq!(both("chunked", "chunked"), Err(Malformed));
        assert_eq!(both("chunked", "gzip"), Err(Malformed));
        assert_eq!(both("gzip", "chunked"), Err(Unknown));
        assert_eq!(is_chunked(&[]), Ok(false));
    }
}
