//! Cookies (RFC 6265) of an upstream that the client reaches under another origin: which of their
//! attributes are kept.

use crate::http::fields::begin_field;
use crate::http::guard::{is_below, is_ip_literal, is_same_host};
use crate::http::origin::starts_with;
use crate::http::syntax::trim;

/// Appends a cookie without the attributes that would make the client refuse it or send it to
/// other hosts than intended (RFC 6265 §5.2, and the later Partitioned and SameSite). `inner` is
/// the host that the upstream gets, `outer` the one that the client sent; `loses_tls` says that
/// the outer origin is http and the inner one https.
pub(super) fn write_cookie(
    out: &mut Vec<u8>,
    name: &str,
    value: &[u8],
    (inner, outer): (&[u8], &[u8]),
    loses_tls: bool,
) {
    let mut parts = value.split(|&byte| byte == b';');
    let pair = parts.next().unwrap_or_default();
    let attributes = parts.map(Attribute::of);
    let (mut secure, mut strange_domain) = (false, false);
    for attribute in attributes.clone() {
        secure |= attribute.is("secure");
        strange_domain |= attribute.is("domain")
            && covers(attribute.value, inner)
            && !covers(attribute.value, outer);
    }
    // Browsers accept cookies of these names on localhost, and only with Secure.
    const PREFIXES: [&[u8]; 3] = [b"__secure-", b"__host-", b"__http-"];
    let pair_name = trim(pair);
    let needs_secure = PREFIXES.iter().any(|prefix| starts_with(pair_name, prefix));
    let loses_secure = secure && loses_tls && !needs_secure;
    begin_field(out, name);
    out.extend_from_slice(pair);
    for attribute in attributes {
        let dropped = attribute.is("domain") && (strange_domain || loses_secure)
            || loses_secure
                && (attribute.is("secure")
                    || attribute.is("partitioned")
                    || attribute.is("samesite") && attribute.value.eq_ignore_ascii_case(b"none"));
        if !dropped {
            out.push(b';');
            out.extend_from_slice(attribute.bytes);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// An attribute of a cookie.
struct Attribute<'v> {
    /// The bytes between two semicolons.
    bytes: &'v [u8],
    name: &'v [u8],
    value: &'v [u8],
}

impl<'v> Attribute<'v> {
    fn of(bytes: &'v [u8]) -> Attribute<'v> {
        let equals = bytes.iter().position(|&byte| byte == b'=');
        let (name, value) = match equals {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (bytes, &[][..]),
        };
        Attribute {
            bytes,
            name: trim(name),
            value: trim(value),
        }
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Whether a cookie with this Domain is sent to that host (RFC 6265 §5.1.3).
pub fn covers(domain: &[u8], host: &[u8]) -> bool {
    let domain = domain.strip_prefix(b".").unwrap_or(domain);
    is_same_host(domain, host)
        || !domain.is_empty() && is_below(host, domain) && !is_ip_literal(host)
}

/// The Domain of a Set-Cookie value, without its leading dot.
pub fn cookie_domain(value: &[u8]) -> Option<&[u8]> {
    let attributes = value.split(|&byte| byte == b';').skip(1).map(Attribute::of);
    let domain = attributes
        .filter(|attribute| attribute.is("domain"))
        .last()?;
    Some(domain.value.strip_prefix(b".").unwrap_or(domain.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a cookie is sent as, by the inner and the outer host and whether TLS is lost.
    fn written(came: &str, inner: &str, outer: &str, loses_tls: bool) -> String {
        let mut out = Vec::new();
        let hosts = (inner.as_bytes(), outer.as_bytes());
        write_cookie(&mut out, "Set-Cookie", came.as_bytes(), hosts, loses_tls);
        let line = String::from_utf8(out).expect("text");
        let value = line.strip_prefix("Set-Cookie: ");
        let value = value.and_then(|value| value.strip_suffix("\r\n"));
        value.expect("one field").to_owned()
    }

    #[test]
    fn cookies_where_tls_is_lost() {
        for (came, expected) in [
            ("s=1; Domain=example.com; Secure; SameSite=None", "s=1"),
            ("s=1", "s=1"),
            ("s=1; Path=/; HttpOnly", "s=1; Path=/; HttpOnly"),
            ("s=1;Secure;Path=/", "s=1;Path=/"),
            ("s=1; SECURE ; path=/ ;", "s=1; path=/ ;"),
            ("s=1; secure=1; Max-Age=5", "s=1; Max-Age=5"),
            ("s=1; Secure; SameSite=Lax", "s=1; SameSite=Lax"),
            ("s=1; Secure; samesite = none ; Partitioned", "s=1"),
            // A browser refuses this for the upstream's own origin as well.
            ("s=1; SameSite=None", "s=1; SameSite=None"),
            ("s=1; Partitioned", "s=1; Partitioned"),
            // A Domain that covers only the inner host is removed from every cookie.
            ("s=1; Domain=.Example.com", "s=1"),
            ("s=1; domain=APP.example.com; Path=/", "s=1; Path=/"),
            ("s=1; Domain=other.example", "s=1; Domain=other.example"),
            ("s=1; Domain=pp.example.com", "s=1; Domain=pp.example.com"),
            ("s=1; Domain=", "s=1; Domain="),
            ("s=1; Domain=localhost", "s=1; Domain=localhost"),
            ("s=1; Secure; Domain=localhost", "s=1"),
            ("s=1; Secure; Domain=other.example", "s=1"),
            // A browser accepts these on localhost, and only with Secure.
            (
                "__Secure-s=1; Secure; SameSite=None; Partitioned",
                "__Secure-s=1; Secure; SameSite=None; Partitioned",
            ),
            (
                "__secure-s=1; Secure; Domain=localhost",
                "__secure-s=1; Secure; Domain=localhost",
            ),
            (
                "__Secure-s=1; Secure; Domain=example.com",
                "__Secure-s=1; Secure",
            ),
            ("__Host-s=1; Secure; Path=/", "__Host-s=1; Secure; Path=/"),
            ("__Http-s=1; Secure", "__Http-s=1; Secure"),
            ("__Host-Http-s=1; Secure", "__Host-Http-s=1; Secure"),
            ("x__Host-s=1; Secure", "x__Host-s=1"),
            // Only attributes are removed, not the name and value of the cookie.
            ("Secure", "Secure"),
            ("Domain=example.com; Secure", "Domain=example.com"),
            ("s=\"a,b\"; Secure", "s=\"a,b\""),
            ("", ""),
        ] {
            let got = written(came, "App.example.com", "localhost", true);
            assert_eq!(got, expected, "{came}");
        }
        // A Domain that covers both hosts is removed only together with Secure.
        for (came, expected) in [
            ("s=1; Domain=example.com", "s=1; Domain=example.com"),
            ("s=1; Domain=example.com; Secure", "s=1"),
        ] {
            let got = written(came, "app.example.com", "app.example.com", true);
            assert_eq!(got, expected, "{came}");
        }
        for (came, expected) in [
            ("s=1; Domain=192.0.2.1", "s=1"),
            ("s=1; Domain=2.1", "s=1; Domain=2.1"),
        ] {
            let got = written(came, "192.0.2.1", "localhost", true);
            assert_eq!(got, expected, "{came}");
        }
    }

    #[test]
    fn cookies_where_tls_is_kept() {
        for (came, expected) in [
            (
                "s=1; Domain=app.example.com; Secure; SameSite=None; Partitioned",
                "s=1; Secure; SameSite=None; Partitioned",
            ),
            (
                "s=1; Domain=example.com; Secure",
                "s=1; Domain=example.com; Secure",
            ),
        ] {
            let got = written(came, "App.example.com", "front.example.com", false);
            assert_eq!(got, expected, "{came}");
        }
    }
}
