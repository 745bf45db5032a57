//! Content-Security-Policy for a client that connects without TLS while the upstream uses it.

use crate::http::fields::begin_field;
use crate::http::syntax::trim;

/// Appends a list of policies without `upgrade-insecure-requests`, which would make the browser
/// use https on a port that only speaks http. A policy that becomes empty is removed, and so is
/// the field if no policy is left.
pub(super) fn write_policies(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let upgrades = |directive: &&[u8]| {
        let mut words = trim(directive).split(u8::is_ascii_whitespace);
        let first = words.next().unwrap_or_default();
        first.eq_ignore_ascii_case(b"upgrade-insecure-requests")
    };
    let start = out.len();
    begin_field(out, name);
    let value_start = out.len();
    let mut is_first_policy = true;
    for policy in value.split(|&byte| byte == b',') {
        let directives = || policy.split(|&byte| byte == b';');
        let touched = directives().any(|directive| upgrades(&directive));
        let left = directives().filter(|directive| !upgrades(directive));
        if touched && left.clone().all(|directive| trim(directive).is_empty()) {
            continue;
        }
        if !std::mem::replace(&mut is_first_policy, false) {
            out.push(b',');
        }
        for (number, directive) in left.enumerate() {
            if number > 0 {
                out.push(b';');
            }
            // The first directive of a value has no leading blanks, even if one before it was
            // removed.
            let begins = out.len() == value_start;
            let directive = if begins {
                directive.trim_ascii_start()
            } else {
                directive
            };
            out.extend_from_slice(directive);
        }
    }
    if is_first_policy {
        out.truncate(start);
    } else {
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrade_insecure_requests_is_removed() {
        for (came, expected) in [
            ("upgrade-insecure-requests", None),
            ("Upgrade-Insecure-Requests;", None),
            (
                "upgrade-insecure-requests; default-src 'self'",
                Some("default-src 'self'"),
            ),
            (
                "default-src 'self'; upgrade-insecure-requests",
                Some("default-src 'self'"),
            ),
            ("a b;upgrade-insecure-requests;c", Some("a b;c")),
            ("a ; upgrade-insecure-requests x ; c ;", Some("a ; c ;")),
            ("a, upgrade-insecure-requests", Some("a")),
            ("upgrade-insecure-requests, a", Some("a")),
            ("a, upgrade-insecure-requests; b , c", Some("a, b , c")),
            ("a,, b ;; c", Some("a,, b ;; c")),
            (
                "x-upgrade-insecure-requests",
                Some("x-upgrade-insecure-requests"),
            ),
            (
                "report-uri /upgrade-insecure-requests",
                Some("report-uri /upgrade-insecure-requests"),
            ),
            ("", Some("")),
        ] {
            let mut out = Vec::new();
            write_policies(&mut out, "CSP", came.as_bytes());
            let expected = expected.map(|value: &str| format!("CSP: {value}\r\n"));
            let expected = expected.unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&out), expected, "{came}");
        }
    }
}
