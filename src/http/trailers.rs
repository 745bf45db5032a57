//! Which trailer fields go on (RFC 9110 §6.5.1).

use crate::http::fields::write_field;

/// The trailer fields that may be merged into nothing and mislead nobody: those about
/// framing, routing, authentication and content are dropped (RFC 9110 §6.5.1).
pub fn filter_trailers(section: &[u8]) -> Result<Vec<u8>, &'static str> {
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
    if section == b"\r\n" {
        return Ok(Vec::new());
    }
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
