//! The request line (RFC 9112 §3): checked as soon as it has arrived, rewritten where it is valid
//! but the parser would refuse it, and its target read.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use crate::http::head::HeadError;
use crate::http::rejection::{bad, Rejection};
use crate::http::syntax::{find_near, is_host, is_token_byte};

/// Checks a request line as soon as it has arrived, so that other protocols are refused without
/// waiting for a head that will never end.
pub(super) fn check(line: &[u8]) -> Result<(), HeadError> {
    if line.is_empty() {
        return Ok(());
    }
    let malformed = Err(HeadError::Malformed("the request line is malformed"));
    // Parsed from both ends, because the method and the version are short.
    let [front @ .., b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor] = line else {
        return malformed;
    };
    let is_version = major.is_ascii_digit() && minor.is_ascii_digit();
    let method = front.iter().take_while(|&&b| is_token_byte(b)).count();
    let (method, rest) = front.split_at(method);
    let [b' ', target @ ..] = rest else {
        return malformed;
    };
    if !is_version || method.is_empty() || target.is_empty() || find_near(b' ', target).is_some() {
        return malformed;
    }
    match major {
        b'1' => Ok(()),
        _ => Err(HeadError::Version),
    }
}

/// The method, target and version of a request line that `check` has accepted.
fn words(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let line = &bytes[..memchr(b'\r', bytes)?];
    let (method, rest) = line.split_at(memchr(b' ', line)?);
    let (target, version) = rest[1..].split_at(memchr(b' ', &rest[1..])?);
    Some((method, target, &version[1..]))
}

/// Whether the parser accepts a request line as it is: it knows two versions, and requires the
/// target to be UTF-8.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    let line = find_near(b'\r', bytes).map_or(bytes, |end| &bytes[..end]);
    (line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0")) && line.is_ascii()
}

/// Rewrites a head whose valid request line the parser would refuse: appends to `canonical` a
/// head that the parser accepts, with a placeholder for the target, and returns the original
/// target. None if the line is left to the parser.
#[cold]
pub(super) fn replace<'b>(bytes: &'b [u8], canonical: &mut Vec<u8>) -> Option<&'b [u8]> {
    let (method, target, version) = words(bytes)?;
    let version_taken = match version {
        b"HTTP/1.1" | b"HTTP/1.0" => version,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'] => b"HTTP/1.1",
        _ => return None,
    };
    canonical.reserve(bytes.len());
    canonical.extend_from_slice(method);
    canonical.push(b' ');
    // Other faults of the target stay, so that the parser refuses them.
    let stand_in = |&b: &u8| if b.is_ascii() { b } else { b'?' };
    canonical.extend(target.iter().map(stand_in));
    canonical.push(b' ');
    canonical.extend_from_slice(version_taken);
    let rest = method.len() + target.len() + version.len() + 2;
    canonical.extend_from_slice(&bytes[rest..]);
    Some(target)
}

/// What a request target asks for (RFC 9112 §3.2).
pub(super) enum Target<'b> {
    /// Origin-form or asterisk-form, forwarded unchanged.
    Relative,
    /// Absolute-form (RFC 9112 §3.2.2): its authority replaces Host.
    Absolute {
        /// The authority.
        authority: &'b [u8],
        /// The target in origin-form, or in asterisk-form.
        target: Cow<'b, [u8]>,
    },
}

/// Checks the target of a request.
pub(super) fn target_of<'b>(method: &str, target: &'b [u8]) -> Result<Target<'b>, Rejection> {
    if method == "CONNECT" {
        return Err(Rejection {
            status: 501,
            reason: "CONNECT is not supported",
        });
    }
    // A target has no fragment (RFC 9110 §4.2.5). Upstreams differ on whether they read one as
    // such or as part of the path, so it is refused.
    if find_near(b'#', target).is_some() {
        return Err(bad("a fragment in the request target"));
    }
    if target.starts_with(b"/") || (target == b"*" && method == "OPTIONS") {
        return Ok(Target::Relative);
    }
    let malformed = bad("the request target is malformed");
    let colon = memchr(b':', target).ok_or(malformed)?;
    let (scheme, rest) = target.split_at(colon);
    let rest = rest.strip_prefix(b"://").ok_or(malformed)?;
    // Some WebSocket clients send the ws or wss URL that they were given.
    let schemes: [&[u8]; 4] = [b"http", b"https", b"ws", b"wss"];
    if !schemes.iter().any(|s| s.eq_ignore_ascii_case(scheme)) {
        return Err(bad("the scheme of the request target is not http"));
    }
    let end = memchr2(b'/', b'?', rest);
    let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
    if authority.is_empty() || !is_host(authority) {
        return Err(bad("the authority of the request target is malformed"));
    }
    let target = match path {
        b"" if method == "OPTIONS" => Cow::Borrowed(b"*".as_slice()),
        [b'/', ..] => Cow::Borrowed(path),
        path => Cow::Owned([b"/", path].concat()),
    };
    Ok(Target::Absolute { authority, target })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_lines() {
        for (line, ok) in [
            ("GET / HTTP/1.1", true),
            ("GET / HTTP/1.0", true),
            ("GET / HTTP/1.2", true),
            ("GET / HTTP/1.10", false),
            ("GET  HTTP/1.1", false),
            ("GET  HTTP/2.0", false),
            ("", true),
            ("GET /", false),
            ("GET  / HTTP/1.1", false),
            ("GET / HTTP/1.1 ", false),
            ("GET / http/1.1", false),
            ("GET / HTTP/11.1", false),
            ("SSH-2.0-OpenSSH_9.6", false),
            ("G\x01T / HTTP/1.1", false),
        ] {
            assert_eq!(check(line.as_bytes()).is_ok(), ok, "{line:?}");
        }
        for line in ["PRI * HTTP/2.0", "GET / HTTP/3.0", "GET / HTTP/0.9"] {
            let refused = check(line.as_bytes());
            assert!(matches!(refused, Err(HeadError::Version)), "{line}");
        }
    }
}
