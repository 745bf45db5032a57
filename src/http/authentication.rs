//! Authentication that holds for a connection instead of a request: NTLM and Negotiate
//! (RFC 4559 §5). The upstream attributes every later request on the connection to that user.

use crate::http::fields::{values, Header};
use crate::http::syntax::list;

/// Whether a field of that name (Authorization or WWW-Authenticate) names a scheme that
/// authenticates the connection. Malformed credentials are examined too, and bytes before the
/// scheme that are not alphanumeric are skipped: an upstream may read the field more leniently,
/// and for example trim a no-break space.
pub fn names_connection_scheme(fields: &[Header<'_>], name: &str) -> bool {
    let mut schemes = values(fields, name).flat_map(list).map(|element| {
        let mut words = element.split(|b| !b.is_ascii_alphanumeric());
        words.find(|word| !word.is_empty()).unwrap_or_default()
    });
    schemes.any(|scheme| {
        // Microsoft's servers also offer `Nego2`.
        [&b"negotiate"[..], b"ntlm", b"nego2"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_that_authenticate_the_connection() {
        for (value, expected) in [
            ("NTLM TlRMTVNTUAAB", true),
            ("ntlm", true),
            ("Negotiate YII=", true),
            ("NEGOTIATE\tYII=", true),
            ("Basic realm=\"x\", Negotiate", true),
            (", NTLM x", true),
            ("\u{a0}NTLM x", true),
            ("\"NTLM\" x", true),
            ("Basic bnRsbTpudGxt", false),
            ("Bearer ntlm", false),
            ("ntlmx y", false),
            ("", false),
        ] {
            let field = Header {
                name: "authorization",
                value: value.as_bytes(),
            };
            let named = names_connection_scheme(&[field], "Authorization");
            assert_eq!(named, expected, "{value:?}");
            assert!(!names_connection_scheme(&[field], "WWW-Authenticate"));
        }
    }
}
