//! The small grammars that fields are made of: tokens, lists, numbers, hosts (RFC 9110
//! §5.6, §7.2, §7.8). Knows bytes only, neither fields nor heads.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use memchr::{memchr, memrchr2};

/// Whether `bytes` are a token (RFC 9110 §5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is_token_byte(b))
}

/// Whether this byte may stand in a token.
pub fn is_token_byte(byte: u8) -> bool {
    const TOKEN: ByteSet = alphanumeric_and(b"!#$%&'*+-.^_`|~");
    TOKEN[usize::from(byte)]
}

/// A set of bytes, with an entry for each of them.
pub type ByteSet = [bool; 256];

/// Letters, digits and the given bytes.
pub const fn alphanumeric_and(others: &[u8]) -> ByteSet {
    let mut set = [false; 256];
    let mut byte = 0;
    while byte < set.len() {
        set[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut other = 0;
    while other < others.len() {
        set[others[other] as usize] = true;
        other += 1;
    }
    set
}

/// Finds the first byte of this value, which is likely to be among the first 32: these are
/// searched eight at a time, which is cheaper than a call of memchr. memchr searches the rest.
#[inline]
pub fn find_near(wanted: u8, bytes: &[u8]) -> Option<usize> {
    const NEAR: usize = 32;
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = 0x80 * ONES;
    let pattern = u64::from(wanted) * ONES;
    let mut at = 0;
    while let (..NEAR, Some(eight)) = (at, bytes[at..].first_chunk::<8>()) {
        let differing = u64::from_le_bytes(*eight) ^ pattern;
        // The lowest bit set in `found` is the high bit of the first byte that does not differ.
        let found = differing.wrapping_sub(ONES) & !differing & HIGH_BITS;
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = &bytes[at..];
    let found = match at {
        NEAR.. => memchr(wanted, rest),
        _ => rest.iter().position(|&b| b == wanted),
    };
    found.map(|found| at + found)
}

/// The elements of a comma-separated list (RFC 9110 §5.6.1), blanks trimmed. Empty elements are
/// skipped 16 at a time, because there may be thousands.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = value;
    std::iter::from_fn(move || {
        while let Some((sixteen, more)) = rest.split_first_chunk::<16>() {
            if *sixteen != [b','; 16] {
                break;
            }
            rest = more;
        }
        let start = rest
            .iter()
            .position(|b| !matches!(b, b',' | b' ' | b'\t'))?;
        rest = &rest[start..];
        let end = rest.iter().position(|&b| b == b',').unwrap_or(rest.len());
        let (element, others) = rest.split_at(end);
        rest = others;
        Some(trim_end(element))
    })
}

/// Removes the blanks at both ends (RFC 9110 §5.6.3).
pub fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Removes the blanks at the end.
pub fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Parses a number of plain digits; none if it is anything else or exceeds 64 bits.
pub fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let zeros = digits.iter().take_while(|&&b| b == b'0').count();
    let digits = &digits[zeros..];
    digits.iter().try_fold(0u64, |value, &b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Appends a number in decimal, without the cost of the formatter.
pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// Whether `bytes` are a host with or without a port (RFC 9110 §7.2). A comma, which the
/// grammar allows, is refused, because two merged Host fields look like that.
pub fn is_host(bytes: &[u8]) -> bool {
    let (is_good, rest) = match bytes {
        [b'[', inner @ ..] => match memchr(b']', inner) {
            Some(end) => (is_ip_literal(&inner[..end]), &inner[end + 1..]),
            None => return false,
        },
        _ => {
            let (length, is_good) = reg_name(bytes);
            (is_good, &bytes[length..])
        }
    };
    is_good
        && match rest {
            [] => true,
            [b':', port @ ..] => is_port(port),
            _ => false,
        }
}

/// Whether `digits` are a port; it may be empty (RFC 3986 §3.2.3).
fn is_port(digits: &[u8]) -> bool {
    let number = || digits.iter().fold(0u32, |n, &b| 10 * n + u32::from(b & 15));
    digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) && number() <= u16::MAX.into()
}

fn is_ip_literal(inner: &[u8]) -> bool {
    let (address, zone) = split_zone(inner);
    let address = std::str::from_utf8(address).ok();
    zone.is_none_or(is_zone) && address.is_some_and(|a| a.parse::<Ipv6Addr>().is_ok())
}

/// Removes the zone of an IPv6 address from a host that `is_host` has accepted: it has a meaning
/// only on the client's machine, and a proxy removes it (RFC 6874 §4).
pub fn without_zone(host: &[u8]) -> Cow<'_, [u8]> {
    if !host.starts_with(b"[") {
        return Cow::Borrowed(host);
    }
    match (memchr(b'%', host), memchr(b']', host)) {
        (Some(percent), Some(bracket)) if percent < bracket => {
            Cow::Owned([&host[..percent], &host[bracket..]].concat())
        }
        _ => Cow::Borrowed(host),
    }
}

/// Splits off the zone, which follows a percent sign.
fn split_zone(inner: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr(b'%', inner) {
        Some(at) => (&inner[..at], Some(&inner[at + 1..])),
        None => (inner, None),
    }
}

/// Whether `bytes` are a zone, with or without the `25` that RFC 6874 §2 puts before it.
fn is_zone(bytes: &[u8]) -> bool {
    const UNRESERVED: ByteSet = alphanumeric_and(b"-._~");
    !bytes.is_empty() && bytes.iter().all(|&b| UNRESERVED[usize::from(b)])
}

/// Splits off the port, which follows the last colon outside brackets.
pub fn split_port(host: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memrchr2(b':', b']', host) {
        Some(at) if host[at] == b':' => (&host[..at], Some(&host[at + 1..])),
        _ => (host, None),
    }
}

/// The length of a registered name at the beginning (RFC 3986 §3.2.2), and whether it is valid:
/// not empty, and each percent sign followed by two hex digits.
fn reg_name(bytes: &[u8]) -> (usize, bool) {
    const PLAIN: ByteSet = alphanumeric_and(b"-._~!$&'()*+;=");
    let is_special = |&byte: &u8| !PLAIN[usize::from(byte)];
    let mut length = 0;
    loop {
        let rest = &bytes[length..];
        length += rest.iter().position(is_special).unwrap_or(rest.len());
        match &bytes[length..] {
            [b'%', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => length += 3,
            [b'%', ..] => return (length, false),
            _ => return (length, length > 0),
        }
    }
}

/// Whether `bytes` are one protocol, optionally with a version (RFC 9110 §7.8).
pub fn is_protocol(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(2, |&b| b == b'/');
    parts.all(is_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_found_at_every_position() {
        // 0x0B and 0x8A differ from LF in one bit.
        for other in [b'a', b'\r', 0, 0x0b, 0x8a, 0xff] {
            for length in 0..80 {
                let mut bytes = vec![other; length];
                assert_eq!(find_near(b'\n', &bytes), None);
                for at in (0..length).rev() {
                    bytes[at] = b'\n';
                    assert_eq!(find_near(b'\n', &bytes), Some(at), "{other:#x}, {length}");
                }
            }
        }
    }

    #[test]
    fn lists_are_split_into_elements_without_blanks() {
        for (value, expected) in [
            ("", &[][..]),
            (", ,\t,,", &[]),
            ("a", &["a"]),
            ("a,b", &["a", "b"]),
            (" a b \t,, c\t", &["a b", "c"]),
        ] {
            let elements: Vec<&[u8]> = list(value.as_bytes()).collect();
            let expected: Vec<&[u8]> = expected.iter().map(|e| e.as_bytes()).collect();
            assert_eq!(elements, expected, "{value:?}");
        }
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 200, 65_535, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
