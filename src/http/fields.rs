//! The fields of a head (RFC 9110 §5): found by name, read where they frame the message,
//! and written.

use std::mem::MaybeUninit;

pub use httparse::Header;

use crate::config::MAX_FIELDS;
use crate::http::syntax::{parse_decimal, trim};

/// Room for the fields of one head.
pub type Fields<'b> = [MaybeUninit<Header<'b>>; MAX_FIELDS];

/// Fresh room for fields.
pub fn no_fields<'b>() -> Fields<'b> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
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
}
