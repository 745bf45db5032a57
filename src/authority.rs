//! A host and a port, or a unix socket, as written in a setting (RFC 3986 §3.2).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::language::Words;

/// A host and a port (RFC 3986 §3.2), or the path of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// A name or an address.
    pub host: Host,
    /// The TCP port; 0 for a unix socket.
    pub port: u16,
}

/// A host: a name to be resolved, or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A DNS name.
    Name(String),
    /// An IP literal.
    Ip(IpAddr),
    /// A link-local IPv6 address and the name or number of its link (RFC 4007 §11).
    Zoned(Ipv6Addr, String),
    /// The absolute path of a unix socket.
    Unix(String),
}

/// The longest path of a unix socket, in bytes: sun_path has 108, including a NUL (unix(7)).
const MAX_PATH: usize = 107;

impl Authority {
    /// Parses `HOST:PORT`, IPv6 in brackets, or `unix:PATH`. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Authority, Words> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Authority::unix(path);
        }
        if text.contains("://") {
            return Err(Words::new(
                "write HOST:PORT, without a scheme",
                "请写成 HOST:PORT，不带协议",
            ));
        }
        Authority::parse_with_default(text, None)
    }

    /// The unix socket at `path`.
    pub(crate) fn unix(path: &str) -> Result<Authority, Words> {
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(Words::new(
                "write unix:/PATH, the absolute path of a socket",
                "请写成 unix:/PATH，即套接字的绝对路径",
            ));
        }
        if path.chars().any(char::is_control) {
            return Err(Words::new(
                "the path contains a control character: remove it",
                "路径含有控制字符：请去掉该字符",
            ));
        }
        if path.len() > MAX_PATH {
            return Err(crate::both!(
                "the path of a unix socket has at most {MAX_PATH} bytes: use a shorter one",
                "unix 套接字的路径最长 {MAX_PATH} 字节：请改用更短的路径"
            ));
        }
        let host = Host::Unix(path.to_owned());
        Ok(Authority { host, port: 0 })
    }

    /// Whether it has a meaning on this machine only, so that a proxy cannot connect to it.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.host, Host::Unix(_) | Host::Zoned(..))
    }

    pub(crate) fn parse_with_default(
        text: &str,
        default_port: Option<u16>,
    ) -> Result<Authority, Words> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(Words::new(
                    "a bracket is not closed: write [IPv6]:PORT",
                    "方括号没有闭合：请写成 [IPv6]:PORT",
                ))?;
                (Some(host), port)
            }
            None => (None, text),
        };
        let (host, port) = match host {
            Some(address) => {
                let host = Host::parse_ipv6(address)?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or(Words::new(
                        "a colon must follow the ]: write [IPv6]:PORT",
                        "] 之后应为冒号：请写成 [IPv6]:PORT",
                    ))?),
                };
                (host, port)
            }
            None => {
                let (name, port) = match port.split_once(':') {
                    Some((_, port)) if port.contains(':') => {
                        return Err(Words::new(
                            "write an IPv6 address in brackets: [IPv6]:PORT",
                            "IPv6 地址请加方括号：[IPv6]:PORT",
                        ))
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
                _ => {
                    return Err(Words::new(
                        "the port must be a number from 1 to 65535",
                        "端口须为 1 到 65535 的整数",
                    ))
                }
            },
            None => default_port.ok_or(Words::new(
                "a port is missing: write HOST:PORT",
                "缺少端口：请写成 HOST:PORT",
            ))?,
        };
        Ok(Authority { host, port })
    }
}

impl Host {
    fn parse_ipv6(text: &str) -> Result<Host, Words> {
        // RFC 6874 would write the % as %25, but no tool does.
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (text, None),
        };
        let address: Ipv6Addr = address.parse().map_err(|_| {
            Words::new(
                "what is in brackets is not an IPv6 address: write [IPv6]:PORT, and other hosts without \
                 brackets",
                "方括号内不是 IPv6 地址：请写成 [IPv6]:PORT，其他主机不加方括号",
            )
        })?;
        let Some(zone) = zone else {
            return Ok(Host::Ip(IpAddr::V6(address)));
        };
        if !address.is_unicast_link_local() {
            return Err(Words::new(
                "only a link-local address (fe80::) can have a zone: remove the % and what follows it",
                "只有链路本地地址（fe80::）可以带 zone：请去掉 % 及其后的部分",
            ));
        }
        // IFNAMSIZ is 16, including a NUL (netdevice(7)).
        let is_name = (1..16).contains(&zone.len())
            && zone
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"/%]".contains(&b));
        match is_name {
            true => Ok(Host::Zoned(address, zone.to_owned())),
            false => Err(Words::new(
                "the zone must be the name of a network interface: 'ip link' lists them",
                "zone 须为网络接口的名称：可用 'ip link' 查看",
            )),
        }
    }

    fn parse_name(name: &str) -> Result<Host, Words> {
        if name.is_empty() {
            return Err(Words::new(
                "the host is missing: write HOST:PORT",
                "缺少主机：请写成 HOST:PORT",
            ));
        }
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(Host::Ip(address));
        }
        if !is_dns_name(name) {
            return Err(Words::new(
                "the host is neither a name nor an IP address; write a name such as example.com",
                "主机既不是域名也不是 IP 地址；请填写域名，例如 example.com",
            ));
        }
        Ok(Host::Name(name.to_owned()))
    }
}

/// Whether `name` can be looked up and sent as SNI: letters, digits, `-`, `_` and dots.
pub(crate) fn is_dns_name(name: &str) -> bool {
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

/// Parses a port, which must consist of ASCII digits only.
pub(crate) fn parse_port(digits: &str) -> Option<u16> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Ip(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            Host::Zoned(address, zone) => write!(f, "[{address}%{zone}]:{}", self.port),
            Host::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::Language;

    #[test]
    fn long_paths_are_refused() {
        let path = format!("/{}", "x".repeat(MAX_PATH - 1));
        assert!(Authority::unix(&path).is_ok());
        assert!(Authority::unix(&format!("{path}x")).is_err());
    }

    #[test]
    fn authorities() {
        for (text, expected) in [
            ("example.com:443", Ok("example.com:443")),
            ("192.0.2.1:80", Ok("192.0.2.1:80")),
            ("[2001:db8::1]:80", Ok("[2001:db8::1]:80")),
            ("a_b.example.:80", Ok("a_b.example.:80")),
            ("[fe80::1%eth0]:80", Ok("[fe80::1%eth0]:80")),
            ("[fe80::1%2]:80", Ok("[fe80::1%2]:80")),
            ("[fe80::1]:80", Ok("[fe80::1]:80")),
            ("[2001:db8::1%eth0]:80", Err("only a link-local")),
            ("[fe80::1%]:80", Err("the zone must be")),
            ("[fe80::1%a/b]:80", Err("the zone must be")),
            ("[fe80::1%interface-of-16c]:80", Err("the zone must be")),
            ("unix:/run/app.sock", Ok("unix:/run/app.sock")),
            ("unix:/run/a b:c@d.sock", Ok("unix:/run/a b:c@d.sock")),
            ("unix:run/app.sock", Err("write unix:/PATH")),
            ("unix:/run/", Err("write unix:/PATH")),
            ("unix:", Err("write unix:/PATH")),
            ("unix:/a\nb", Err("the path contains a control")),
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
            ("[127.0.0.1]:80", Err("what is in brackets is not")),
            ("exa mple.com:80", Err("the host is neither")),
            (
                "http://example.com:80",
                Err("write HOST:PORT, without a scheme"),
            ),
            ("example..com:80", Err("the host is neither")),
        ] {
            let parsed = Authority::parse(text).map(|authority| authority.to_string());
            match expected {
                Ok(expected) => assert_eq!(parsed, Ok(expected.to_owned()), "{text}"),
                Err(words) => {
                    let error = parsed.expect_err(text);
                    let error = error.say(Language::English);
                    assert!(error.starts_with(words), "{text}: {error}");
                }
            }
        }
    }
}
