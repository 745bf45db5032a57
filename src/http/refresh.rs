//! The Refresh field, which HTML defines ("shared declarative refresh steps"), not an RFC.

use std::ops::Range;

use crate::http::origin::starts_with;

/// The range of the URL in a Refresh field: after the seconds and the optional `url=`, without
/// quotation marks.
pub(super) fn url_range(value: &[u8]) -> Range<usize> {
    let skip = |from: usize, skipped: fn(u8) -> bool| {
        let rest = &value[from..];
        from + rest.iter().position(|&b| !skipped(b)).unwrap_or(rest.len())
    };
    let blank = |byte: u8| matches!(byte, b' ' | b'\t');
    let mut at = skip(0, |byte| byte.is_ascii_digit() || byte == b'.');
    at = skip(at, blank);
    if matches!(value.get(at), Some(b';' | b',')) {
        at = skip(at + 1, blank);
    }
    if starts_with(&value[at..], b"url") {
        let equals = skip(at + 3, blank);
        if value.get(equals) == Some(&b'=') {
            at = skip(equals + 1, blank);
        }
    }
    match value.get(at) {
        Some(quote @ (b'"' | b'\'')) => {
            let rest = &value[at + 1..];
            let length = rest.iter().position(|byte| byte == quote);
            at + 1..at + 1 + length.unwrap_or(rest.len())
        }
        _ => at..value.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (value, expected) in [
            ("5", ""),
            ("0;url=O/x", "O/x"),
            ("0; URL=O/x", "O/x"),
            ("0.5 , url = O/x", "O/x"),
            ("0; url='O/x'", "O/x"),
            ("0; url='O'", "O"),
            ("0; url=\"O/'\"x", "O/'"),
            ("0; O/x", "O/x"),
            ("0; url", "url"),
            ("0; url=/O", "/O"),
            ("0; url=https://evil/O", "https://evil/O"),
            ("0; url=//O/", "//O/"),
            ("", ""),
        ] {
            let value = value.replace('O', "https://app.example.com");
            let expected = expected.replace('O', "https://app.example.com");
            assert_eq!(&value[url_range(value.as_bytes())], expected, "{value}");
        }
    }
}
