//! The fields that the program itself interprets. Each name in a head is identified once, by its
//! length and first letter, so that fields which most heads do not have are not searched for.

use crate::http::fields::Header;

/// A field that is interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Known {
    /// RFC 9110 §11.6.2
    Authorization,
    /// RFC 9110 §7.6.1
    Connection,
    /// RFC 9110 §8.6
    ContentLength,
    /// RFC 9110 §6.6.1
    Date,
    /// RFC 9110 §10.1.1
    Expect,
    /// RFC 9110 §7.2
    Host,
    /// RFC 2068 §19.7.1.1
    KeepAlive,
    /// RFC 9110 §11.7.1
    ProxyAuthenticate,
    /// RFC 9110 §11.7.2
    ProxyAuthorization,
    /// What old clients send instead of Connection.
    ProxyConnection,
    /// RFC 9110 §10.1.4
    Te,
    /// RFC 9112 §6.1
    TransferEncoding,
    /// RFC 9110 §7.8
    Upgrade,
    /// RFC 9110 §11.6.1
    WwwAuthenticate,
}

impl Known {
    /// The field of that name, in any letter case; none if it is not interpreted.
    #[inline]
    pub fn of(name: &[u8]) -> Option<Known> {
        // Length and first letter leave at most one candidate.
        let first = name.first()?.to_ascii_lowercase();
        let (known, is_it) = match (name.len(), first) {
            (2, b't') => (Known::Te, is(name, b"te")),
            (4, b'd') => (Known::Date, is(name, b"date")),
            (4, b'h') => (Known::Host, is(name, b"host")),
            (6, b'e') => (Known::Expect, is(name, b"expect")),
            (7, b'u') => (Known::Upgrade, is(name, b"upgrade")),
            (10, b'c') => (Known::Connection, is(name, b"connection")),
            (10, b'k') => (Known::KeepAlive, is(name, b"keep-alive")),
            (13, b'a') => (Known::Authorization, is(name, b"authorization")),
            (14, b'c') => (Known::ContentLength, is(name, b"content-length")),
            (16, b'p') => (Known::ProxyConnection, is(name, b"proxy-connection")),
            (16, b'w') => (Known::WwwAuthenticate, is(name, b"www-authenticate")),
            (17, b't') => (Known::TransferEncoding, is(name, b"transfer-encoding")),
            (18, b'p') => (Known::ProxyAuthenticate, is(name, b"proxy-authenticate")),
            (19, b'p') => (Known::ProxyAuthorization, is(name, b"proxy-authorization")),
            _ => return None,
        };
        is_it.then_some(known)
    }

    /// Whether it is hop-by-hop, whatever Connection says (RFC 9110 §7.6.1).
    pub fn is_for_one_hop(self) -> bool {
        matches!(
            self,
            Known::Connection
                | Known::KeepAlive
                | Known::ProxyAuthenticate
                | Known::ProxyAuthorization
                | Known::ProxyConnection
                | Known::Te
                | Known::Upgrade
        )
    }

    /// Whether it is kept even if Connection names it: the proxy writes these fields itself.
    pub fn is_never_dropped(self) -> bool {
        matches!(
            self,
            Known::ContentLength | Known::Host | Known::TransferEncoding
        )
    }
}

/// Whether `name` in lower case is `lower`. The length is known at compile time, so that there
/// is no branch for each byte.
fn is<const N: usize>(name: &[u8], lower: &[u8; N]) -> bool {
    let name: Option<&[u8; N]> = name.try_into().ok();
    name.is_some_and(|name| {
        let bytes = name.iter().zip(lower);
        bytes.fold(0, |differs, (a, b)| differs | (a.to_ascii_lowercase() ^ b)) == 0
    })
}

/// Which of the interpreted fields a head has, one bit for each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Present(u16);

impl Present {
    /// The interpreted fields among `fields`.
    pub fn of(fields: &[Header<'_>]) -> Present {
        let known = fields.iter().filter_map(|f| Known::of(f.name.as_bytes()));
        Present(known.fold(0, |bits, known| bits | 1 << known as u8))
    }

    /// Whether the head has at least one such field.
    pub fn has(self, field: Known) -> bool {
        self.0 & 1 << field as u8 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_identified_in_any_letter_case() {
        for (name, expected) in [
            ("Host", Some(Known::Host)),
            ("dATE", Some(Known::Date)),
            ("TRANSFER-ENCODING", Some(Known::TransferEncoding)),
            ("proxy-authenticate", Some(Known::ProxyAuthenticate)),
            ("Keep_Alive", None),
            ("Hosts", None),
            ("", None),
        ] {
            assert_eq!(Known::of(name.as_bytes()), expected, "{name}");
        }
        let field = |name| Header { name, value: b"" };
        let present = Present::of(&[field("host"), field("X-Upgrade"), field("TE")]);
        assert!(present.has(Known::Host) && present.has(Known::Te));
        assert!(!present.has(Known::Upgrade) && !present.has(Known::Authorization));
    }
}
