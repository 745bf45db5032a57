//! Which Hosts may be trusted to be ours. A foreign page can reach us under its own name by
//! pointing that name at our address (DNS rebinding); under an address, `localhost`, or a
//! name that is listed it cannot.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::http::syntax::split_port;

/// Whether no rebound name can be this Host, with or without a port: an IP literal,
/// `localhost`, `*.localhost`, or one that is listed.
pub fn is_safe(host: &[u8], listed: &[String]) -> bool {
    let (name, _) = split_port(host);
    is_ip_literal(name)
        || name.eq_ignore_ascii_case(b"localhost")
        || is_below(name, b"localhost")
        || is_listed(host, listed)
}

/// Whether this Host, with or without a port, is among `listed`: names and IP literals
/// (IPv6 in brackets), `*.example.com` for every name below one, or `*` for every Host.
pub fn is_listed(host: &[u8], listed: &[String]) -> bool {
    let (name, _) = split_port(host);
    listed.iter().any(|entry| match entry.strip_prefix('*') {
        Some("") => true,
        Some(parent) => is_below(name, parent.trim_start_matches('.').as_bytes()),
        None => is_same_host(name, entry.as_bytes()),
    })
}

/// Whether two hosts are the same: without case, IPv6 literals by the address they write.
pub fn is_same_host(one: &[u8], other: &[u8]) -> bool {
    one.eq_ignore_ascii_case(other)
        || matches!((ipv6(one), ipv6(other)), (Some(one), Some(other)) if one == other)
}

/// Whether a host is an address: IPv4, or IPv6 in brackets.
pub fn is_ip_literal(host: &[u8]) -> bool {
    let text = std::str::from_utf8(host);
    ipv6(host).is_some() || text.is_ok_and(|text| text.parse::<Ipv4Addr>().is_ok())
}

fn ipv6(host: &[u8]) -> Option<Ipv6Addr> {
    let inner = host.strip_prefix(b"[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inner).ok()?.parse().ok()
}

/// Whether `name` is a name below `parent`, which has no leading dot.
pub fn is_below(name: &[u8], parent: &[u8]) -> bool {
    let Some(dot) = name.len().checked_sub(parent.len() + 1) else {
        return false;
    };
    dot > 0 && name[dot] == b'.' && name[dot + 1..].eq_ignore_ascii_case(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safe_hosts() {
        let listed = ["app.example", "*.dev.example", "[2001:db8::1]"].map(str::to_owned);
        for (host, safe) in [
            ("127.0.0.1", true),
            ("192.0.2.1:8080", true),
            ("[::1]:80", true),
            ("localhost", true),
            ("LocalHost:8080", true),
            ("a.b.localhost:1", true),
            (".localhost", false),
            ("notlocalhost", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("127.1", false),
            ("app.example", true),
            ("APP.example:8080", true),
            ("x.app.example", false),
            ("evilapp.example", false),
            ("dev.example", false),
            ("a.dev.example", true),
            ("a.b.dev.example:80", true),
            ("adev.example", false),
            ("", false),
        ] {
            assert_eq!(is_safe(host.as_bytes(), &listed), safe, "{host}");
        }
        assert!(is_listed(b"[2001:DB8:0::1]:80", &listed));
        assert!(!is_listed(b"[2001:db8::2]", &listed));
        assert!(!is_listed(b"127.0.0.1", &listed));
        assert!(is_safe(b"rebound.example", &["*".to_owned()]));
    }
}
