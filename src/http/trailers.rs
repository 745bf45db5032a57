//! Which trailer fields are forwarded (RFC 9110 §6.5.1).

use std::borrow::Cow;

use crate::http::fields::write_field;
use crate::http::head::Extent;
use crate::http::repair::canonical_trailers;

/// A filtered trailer section.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trailers {
    /// The field lines that are forwarded.
    pub kept: Vec<u8>,
    /// Whether the section was faulty. Never set for a client, whose faults are refused.
    pub was_faulty: bool,
}

/// Filters the trailer section of a client.
pub fn filter_trailers(section: &[u8]) -> Result<Trailers, &'static str> {
    match section {
        b"\r\n" => Ok(Trailers::default()),
        _ => Ok(Trailers {
            kept: filter(section)?,
            was_faulty: false,
        }),
    }
}

/// Filters the trailer section of an upstream, which is read leniently.
pub fn filter_upstream_trailers(section: &[u8], extent: Extent) -> Result<Trailers, &'static str> {
    if !extent.has_bare_lf {
        if let Ok(trailers) = filter_trailers(section) {
            return Ok(trailers);
        }
    }
    let canonical = canonical_trailers(section)?;
    let mut trailers = filter_trailers(&canonical.bytes)?;
    trailers.was_faulty = canonical.was_faulty;
    Ok(trailers)
}

/// The trailer fields that are safe to forward: those for framing, routing, authentication and
/// content are dropped (RFC 9110 §6.5.1).
fn filter(section: &[u8]) -> Result<Vec<u8>, &'static str> {
    const DROPPED: [&str; 30] = [
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "if-match",
        "if-none-match",
        "keep-alive",
        "location",
        "max-forwards",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
        "www-authenticate",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    ];
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let parsed = match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((_, parsed))) => parsed,
        _ => return Err("the trailer section is malformed"),
    };
    let mut kept = Vec::new();
    for field in parsed {
        if !DROPPED.iter().any(|d| d.eq_ignore_ascii_case(field.name)) {
            write_field(&mut kept, field.name, field.value);
        }
    }
    Ok(kept)
}

/// Removes the fields that `drops` names from a filtered section.
pub fn without<'t>(section: &'t [u8], drops: &dyn Fn(&str) -> bool) -> Cow<'t, [u8]> {
    let is_dropped = |line: &&[u8]| {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        std::str::from_utf8(name).is_ok_and(drops)
    };
    let lines = || section.split_inclusive(|&byte| byte == b'\n');
    if lines().any(|line| is_dropped(&line)) {
        let kept = lines().filter(|line| !is_dropped(line));
        return Cow::Owned(kept.collect::<Vec<_>>().concat());
    }
    Cow::Borrowed(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_are_dropped_by_name() {
        let section = b"X-A: 1\r\nX_B: 2\r\nX-C: 3\r\n";
        let left = without(section, &|name| name == "X_B");
        assert_eq!(&*left, b"X-A: 1\r\nX-C: 3\r\n");
        assert!(matches!(without(section, &|_| false), Cow::Borrowed(_)));
        assert!(without(b"", &|_| true).is_empty());
    }
}
