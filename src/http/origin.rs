//! An origin (RFC 6454), which is a scheme and an authority: reads it from a URL or an Origin
//! field, compares and writes it. `naming` owns which two origins an exchange has.

use crate::http::fields::values;
use crate::http::guard::is_same_host;
use crate::http::request::RequestHead;
use crate::http::syntax::{list, parse_decimal, push_number, split_port};

/// A scheme and an authority.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    pub(super) https: bool,
    /// In lower case, IPv6 in brackets.
    pub(super) host: Vec<u8>,
    /// The port as given; none is the default of the scheme.
    port: Option<u16>,
}

fn default_port(https: bool) -> u16 {
    if https {
        443
    } else {
        80
    }
}

/// Parses what follows the colon: none if it is empty, an error if it is not a port.
fn port_of(digits: Option<&[u8]>) -> Result<Option<u16>, ()> {
    match digits {
        None | Some([]) => Ok(None),
        Some(digits) => match parse_decimal(digits).map(u16::try_from) {
            Some(Ok(port)) => Ok(Some(port)),
            _ => Err(()),
        },
    }
}

impl Origin {
    /// Sets the origin. `authority` must be valid.
    pub(super) fn set(&mut self, https: bool, authority: &[u8]) {
        let (host, port) = split_port(authority);
        self.https = https;
        self.host.clear();
        self.host.extend_from_slice(host);
        self.host.make_ascii_lowercase();
        self.port = port_of(port).unwrap_or(None);
    }

    /// Whether `authority` is this host and port; `https` gives the default port for both.
    pub(super) fn has_authority(&self, https: bool, authority: &[u8]) -> bool {
        let (host, port) = split_port(authority);
        let default = default_port(https);
        let port = port_of(port).map(|port| port.unwrap_or(default));
        port == Ok(self.port.unwrap_or(default)) && is_same_host(&self.host, host)
    }

    /// Whether both are the same origin; a missing port is the default of the scheme.
    pub(super) fn is_same_as(&self, other: &Origin) -> bool {
        let default = default_port(self.https);
        self.https == other.https
            && self.port.unwrap_or(default) == other.port.unwrap_or(default)
            && is_same_host(&self.host, &other.host)
    }

    /// Appends the authority, without a default port.
    pub(super) fn write_authority(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.host);
        if let Some(port) = self.port.filter(|port| *port != default_port(self.https)) {
            out.push(b':');
            push_number(out, port.into());
        }
    }

    /// Appends the origin as browsers write it (RFC 6454 §6.2): in lower case, without a default
    /// port.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.https { b"https://" } else { b"http://" });
        self.write_authority(out);
    }
}

/// Splits an http or https URL: whether it is https, its authority, and where that ends. User
/// information and backslashes stay in the authority, so that it equals no valid one.
pub(super) fn split_url(url: &[u8]) -> Option<(bool, &[u8], usize)> {
    let (https, start) = match url {
        _ if starts_with(url, b"https://") => (true, 8),
        _ if starts_with(url, b"http://") => (false, 7),
        _ => return None,
    };
    let end = authority_end(url, start);
    Some((https, &url[start..end], end))
}

/// The host that an http URL names, without its port.
pub fn host_of_url(url: &[u8]) -> Option<&[u8]> {
    split_url(url).map(|(_, authority, _)| split_port(authority).0)
}

/// The end of the authority that begins at `start` in a URL.
pub(super) fn authority_end(url: &[u8], start: usize) -> usize {
    let ends = |byte: &u8| matches!(byte, b'/' | b'?' | b'#');
    let length = url[start..].iter().position(ends);
    start + length.unwrap_or(url.len() - start)
}

/// Whether `bytes` begin with `prefix`, in any letter case.
pub(super) fn starts_with(bytes: &[u8], prefix: &[u8]) -> bool {
    let start = bytes.get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether X-Forwarded-Proto says https: its first element, with `ws` read as http and `wss` as
/// https. None if it is anything else.
pub(super) fn says_https(proto: &[u8]) -> Option<bool> {
    let first = list(proto).next()?;
    let is = |word: &[u8]| first.eq_ignore_ascii_case(word);
    match (is(b"https") || is(b"wss"), is(b"http") || is(b"ws")) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

/// Whether `value`, an Origin field, is the same origin as `listed`.
pub fn is_same_origin(value: &[u8], listed: &[u8]) -> bool {
    if value.eq_ignore_ascii_case(listed) {
        return true;
    }
    let (Some(one), Some((https, authority, end))) = (split_url(value), split_url(listed)) else {
        return false;
    };
    let mut origin = Origin::default();
    origin.set(https, authority);
    one.2 == value.len()
        && end == listed.len()
        && one.0 == https
        && origin.has_authority(https, one.1)
}

/// The origin of a request as the client sees it: whether it is https, and the authority if the
/// request has one.
pub fn outer_of<'h>(
    head: &'h RequestHead<'_, '_>,
    listens_with_tls: bool,
    believes_proto: bool,
) -> (bool, Option<&'h [u8]>) {
    let said = values(head.fields(), "x-forwarded-proto").next();
    let said = said.filter(|_| believes_proto).and_then(says_https);
    let https = listens_with_tls || said.unwrap_or(false);
    (https, head.host.as_deref().filter(|host| !host.is_empty()))
}

/// Whether `value`, an Origin field, is the origin with this scheme and authority.
pub fn is_origin_of(value: &[u8], https: bool, authority: &[u8]) -> bool {
    let mut origin = Origin::default();
    origin.set(https, authority);
    let Some((scheme, named, end)) = split_url(value) else {
        return false;
    };
    scheme == https && end == value.len() && origin.has_authority(https, named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_compare() {
        for (value, listed, same) in [
            ("https://a.example", "https://a.example", true),
            ("https://A.example:443", "https://a.example", true),
            ("http://a.example:443", "https://a.example", false),
            ("https://a.example/", "https://a.example", false),
            ("https://a.example.evil", "https://a.example", false),
            ("https://a.example@evil", "https://a.example", false),
            ("chrome-extension://abc", "chrome-extension://abc", true),
            ("chrome-extension://abcd", "chrome-extension://abc", false),
            ("null", "https://a.example", false),
        ] {
            let got = is_same_origin(value.as_bytes(), listed.as_bytes());
            assert_eq!(got, same, "{value} {listed}");
        }
    }
}
