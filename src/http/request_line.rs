//! The request line (RFC 9112 §3): checked as soon as it is there, put into a form that the
//! parser takes where it is good in another, and what its target asks for.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use crate::http::head::HeadError;
use crate::http::rejection::{bad, Rejection};
use crate::http::syntax::{find_near, is_host, is_token_byte};

/// Checks a request line as soon as it is there, so that other protocols are refused
/// without waiting for a head that will never end.
pub(super) fn check(line: &[u8]) -> Result<(), HeadError> {
    if line.is_empty() {
        return Ok(());
    }
    let malformed = Err(HeadError::Malformed("the request line is malformed"));
    // From both ends, since neither method nor version is long.
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

/// The words of a request line that `check` has taken.
fn words(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let line = &bytes[..memchr(b'\r', bytes)?];
    let (method, rest) = line.split_at(memchr(b' ', line)?);
    let (target, version) = rest[1..].split_at(memchr(b' ', &rest[1..])?);
    Some((method, target, &version[1..]))
}

/// Whether the parser takes a request line as it is: it knows two versions, and takes a
/// target for UTF-8.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    let line = find_near(b'\r', bytes).map_or(bytes, |end| &bytes[..end]);
    (line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0")) && line.is_ascii()
}

/// Gives the target of a request line that the parser would refuse, but that is to be taken,
/// and leaves in `canonical` a head that the parser takes, with another target in its place.
/// None where the line is for the parser to judge.
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
    // Any other fault of the target stays, for the parser to refuse.
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
    /// Origin-form or asterisk-form, sent on as it is.
    Relative,
    /// Absolute-form (RFC 9112 §3.2.2): its authority replaces Host.
    Absolute {
        /// Whom it is for.
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
            reason: "CONNECT is not offered here",
        });
    }
    // A fragment is the client's own (RFC 9110 §4.2.5): one that comes is a mistake, which an
    // upstream would read as one or as a part of the path.
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
    // Some WebSocket clients write the URL that they were given.
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
