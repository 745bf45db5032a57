//! An origin (RFC 6454): a scheme and an authority, read from a URL or from an Origin field,
//! compared, and written. Leaves to `naming` which two origins an exchange has.

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
    /// As given; none is the scheme's own.
    port: Option<u16>,
}

fn default_port(https: bool) -> u16 {
    if https {
        443
    } else {
        80
    }
}

/// A port as it stands behind a colon: none where it is empty, an error where it is no port.
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
    /// Takes an authority that has been checked.
    pub(super) fn set(&mut self, https: bool, authority: &[u8]) {
        let (host, port) = split_port(authority);
        self.https = https;
        self.host.clear();
        self.host.extend_from_slice(host);
        self.host.make_ascii_lowercase();
        self.port = port_of(port).unwrap_or(None);
    }

    /// Whether this host and port, under the given scheme, are `authority`.
    pub(super) fn has_authority(&self, https: bool, authority: &[u8]) -> bool {
        let (host, port) = split_port(authority);
        let default = default_port(https);
        let port = port_of(port).map(|port| port.unwrap_or(default));
        port == Ok(self.port.unwrap_or(default)) && is_same_host(&self.host, host)
    }

    /// Whether both are the same origin: a port that is not given is the scheme's own.
    pub(super) fn is_same_as(&self, other: &Origin) -> bool {
        let default = default_port(self.https);
        self.https == other.https
            && self.port.unwrap_or(default) == other.port.unwrap_or(default)
            && is_same_host(&self.host, &other.host)
    }

    /// Appends the authority, without the scheme's own port.
    pub(super) fn write_authority(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.host);
        if let Some(port) = self.port.filter(|port| *port != default_port(self.https)) {
            out.push(b':');
            push_number(out, port.into());
        }
    }

    /// As browsers write an origin (RFC 6454 §6.2): lower case, no default port.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.https { b"https://" } else { b"http://" });
        self.write_authority(out);
    }
}

/// The scheme of an http URL, its authority, and where that ends. User information and
/// backslashes stay in the authority, which is then nobody's origin.
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

/// Where the authority ends that begins at `start` of a URL.
pub(super) fn authority_end(url: &[u8], start: usize) -> usize {
    let ends = |byte: &u8| matches!(byte, b'/' | b'?' | b'#');
    let length = url[start..].iter().position(ends);
    start + length.unwrap_or(url.len() - start)
}

/// Whether bytes begin with a prefix, whichever its case.
pub(super) fn starts_with(bytes: &[u8], prefix: &[u8]) -> bool {
    let start = bytes.get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// What a front says of the scheme that its client used: the first element, in which `ws`
/// and `wss` stand for http and https.
pub(super) fn says_https(proto: &[u8]) -> Option<bool> {
    let first = list(proto).next()?;
    let is = |word: &[u8]| first.eq_ignore_ascii_case(word);
    match (is(b"https") || is(b"wss"), is(b"http") || is(b"ws")) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

/// Whether `value`, an Origin field, is the same origin as `listed`, which is one as well.
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

/// The origin of a request as its client knows it: the scheme, and the authority if it named
/// one.
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

/// Whether `value`, an Origin field, is the origin of that scheme and authority.
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
