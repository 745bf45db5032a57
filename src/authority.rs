//! A host and a port, as a setting names them (RFC 3986 §3.2).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A host and a port (RFC 3986 §3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// A name or an address.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

/// A host: a name to be resolved, or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A DNS name.
    Name(String),
    /// An IP literal.
    Ip(IpAddr),
}

impl Authority {
    /// Parses `HOST:PORT`, IPv6 in brackets. The error says what is wrong, in words.
    pub fn parse(text: &str) -> Result<Authority, String> {
        if text.contains("://") {
            return Err("write HOST:PORT, without a scheme".to_owned());
        }
        Authority::parse_with_default(text, None)
    }

    pub(crate) fn parse_with_default(
        text: &str,
        default_port: Option<u16>,
    ) -> Result<Authority, String> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest
                    .split_once(']')
                    .ok_or("a bracket is not closed: write [IPv6]:PORT")?;
                (Some(host), port)
            }
            None => (None, text),
        };
        let (host, port) = match host {
            Some(address) => {
                let address: Ipv6Addr = address
                    .parse()
                    .map_err(|_| "the brackets hold no IPv6 address".to_owned())?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or("a colon must follow the ]")?),
                };
                (Host::Ip(IpAddr::V6(address)), port)
            }
            None => {
                let (name, port) = match port.split_once(':') {
                    Some((_, port)) if port.contains(':') => {
                        return Err("write an IPv6 address in brackets: [IPv6]:PORT".to_owned())
                    }
                    Some((name, port)) => (name, Some(port)),
                    None => (port, None),
                };
                (Host::parse_name(name)?, port)
            }
        };
        let port = match port {
            Some(digits) => match parse_port(digits) {
                Some(port) if port > 0 => port,
                _ => return Err("the port must be a number from 1 to 65535".to_owned()),
            },
            None => default_port.ok_or("a port is missing: write HOST:PORT")?,
        };
        Ok(Authority { host, port })
    }
}

impl Host {
    fn parse_name(name: &str) -> Result<Host, String> {
        if name.is_empty() {
            return Err("the host is missing".to_owned());
        }
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(Host::Ip(address));
        }
        if !is_dns_name(name) {
            return Err("the host is neither a name nor an IP address".to_owned());
        }
        Ok(Host::Name(name.to_owned()))
    }
}

/// Whether `name` can be looked up and sent as SNI: letters, digits, `-`, `_` and dots.
pub fn is_dns_name(name: &str) -> bool {
    let bytes = name.strip_suffix('.').unwrap_or(name);
    !bytes.is_empty()
        && bytes.len() <= 253
        && bytes.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

/// A port of ASCII digits only.
pub fn parse_port(digits: &str) -> Option<u16> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Ip(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for (text, expected) in [
            ("example.com:443", Ok("example.com:443")),
            ("192.0.2.1:80", Ok("192.0.2.1:80")),
            ("[2001:db8::1]:80", Ok("[2001:db8::1]:80")),
            ("a_b.example.:80", Ok("a_b.example.:80")),
            ("example.com", Err("a port is missing")),
            ("example.com:", Err("the port must be")),
            ("example.com:0", Err("the port must be")),
            ("example.com:+80", Err("the port must be")),
            ("example.com:65536", Err("the port must be")),
            ("example.com: 80", Err("the port must be")),
            (":80", Err("the host is missing")),
            ("::1:80", Err("write an IPv6 address in brackets")),
            ("[::1:80", Err("a bracket is not closed")),
            ("[::1]80", Err("a colon must follow")),
            ("[127.0.0.1]:80", Err("the brackets hold no IPv6")),
            ("exa mple.com:80", Err("the host is neither")),
            (
                "http://example.com:80",
                Err("write HOST:PORT, without a scheme"),
            ),
            ("example..com:80", Err("the host is neither")),
        ] {
            let parsed = Authority::parse(text).map(|authority| authority.to_string());
            match expected {
                Ok(expected) => assert_eq!(parsed.as_deref(), Ok(expected), "{text}"),
                Err(words) => {
                    let error = parsed.expect_err(text);
                    assert!(error.starts_with(words), "{text}: {error}");
                }
            }
        }
    }
}
