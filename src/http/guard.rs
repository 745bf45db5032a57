//! Which Hosts are safe, and which requests are served. A foreign page can reach the proxy under
//! the page's own name by pointing that name at the proxy's address (DNS rebinding), but not
//! under an IP address, `localhost`, or a listed name.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::{Config, Forwarded};
use crate::http::fields::values;
use crate::http::origin::{is_origin_of, is_same_origin, outer_of};
use crate::http::rejection::Rejection;
use crate::http::request::RequestHead;
use crate::http::syntax::split_port;

/// Refuses requests that a foreign page makes a browser send. If the proxy adds a credential to
/// each request, such a page could otherwise use it. TRACE is refused then too, because its
/// response contains the request as the upstream received it (RFC 9110 §9.3.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteGuard {
    /// Whether the Host of a request must be safe.
    checks_host: bool,
    /// Whether requests from pages of other sites are refused.
    checks_origin: bool,
    /// The only Hosts that are served, by `--allow-host`; all if the list is empty.
    hosts: Vec<String>,
    /// The other origins whose pages are served, by `--allow-origin`.
    origins: Vec<String>,
    /// Whether clients connect with TLS; see `outer_of`.
    listens_with_tls: bool,
    /// Whether X-Forwarded-Proto is trusted; see `outer_of`.
    believes_proto: bool,
}

impl SiteGuard {
    /// None if every request is served.
    pub fn of(config: &Config) -> Option<SiteGuard> {
        let checks_host = config.adds_a_credential();
        let checks_origin = checks_host || !config.access.origins.is_empty();
        let guard = SiteGuard {
            checks_host,
            checks_origin,
            hosts: config.access.hosts.clone(),
            origins: config.access.origins.clone(),
            listens_with_tls: config.listen.is_tls(),
            believes_proto: config.rewrite.forwarded != Forwarded::Replace,
        };
        (checks_origin || !guard.hosts.is_empty()).then_some(guard)
    }

    /// Why a request is refused, if it is. A request without Host counts as safe, because no
    /// browser sends one.
    pub fn refuses(&self, head: &RequestHead<'_, '_>) -> Option<Rejection> {
        let (https, host) = outer_of(head, self.listens_with_tls, self.believes_proto);
        let is_safe = host.is_none_or(|host| is_safe(host, &self.hosts));
        let is_listed =
            self.hosts.is_empty() || host.is_some_and(|host| is_listed(host, &self.hosts));
        if !is_listed {
            return Some(Rejection {
                status: 421,
                reason: "this Host is not allowed; --allow-host lists those that are",
            });
        }
        if self.checks_host && !is_safe {
            return Some(Rejection {
                status: 421,
                reason: "requests for this Host are not served, because a foreign page could \
                         have sent them; list the Host with --allow-host if it is yours",
            });
        }
        if self.checks_host && head.method == "TRACE" {
            return Some(Rejection {
                status: 403,
                reason: "TRACE is not served where the proxy adds a credential, because the \
                         response could show it",
            });
        }
        if !self.checks_origin {
            return None;
        }
        let is_ours = is_safe
            || host.is_some_and(|host| {
                let listed = |origin: &String| is_origin_of(origin.as_bytes(), https, host);
                self.origins.iter().any(listed)
            });
        let is_listed = |origin: &[u8]| {
            self.origins
                .iter()
                .any(|listed| is_same_origin(origin, listed.as_bytes()))
                || is_ours && host.is_some_and(|host| is_origin_of(origin, https, host))
        };
        let mut origins = values(head.fields(), "origin").peekable();
        let is_welcome = if self.origins.iter().any(|origin| origin == "*") {
            true
        } else if origins.peek().is_some() {
            origins.all(is_listed)
        } else {
            // Fetch Metadata, which browsers send over TLS and to localhost.
            let mut sites = values(head.fields(), "sec-fetch-site");
            sites.all(|site| site == b"none" || is_ours && site == b"same-origin")
                || navigates(head)
        };
        (!is_welcome).then_some(Rejection {
            status: 403,
            reason: "requests from pages of other sites are not served; list the origin of \
                     the page with --allow-origin if it is welcome",
        })
    }
}

/// Whether the request is a top-level navigation, such as a followed link: the page that it
/// comes from cannot read the response.
fn navigates(head: &RequestHead<'_, '_>) -> bool {
    let says = |name, expected: &[u8]| {
        let mut said = values(head.fields(), name);
        said.next() == Some(expected) && said.next().is_none()
    };
    matches!(head.method, "GET" | "HEAD")
        && says("sec-fetch-mode", b"navigate")
        && says("sec-fetch-dest", b"document")
}

/// Whether DNS rebinding cannot produce this Host, with or without a port: an IP literal,
/// `localhost`, `*.localhost`, or a listed one.
pub fn is_safe(host: &[u8], listed: &[String]) -> bool {
    let (name, _) = split_port(host);
    is_ip_literal(name)
        || name.eq_ignore_ascii_case(b"localhost")
        || is_below(name, b"localhost")
        || is_listed(host, listed)
}

/// Whether this Host, with or without a port, matches an entry of `listed`: a name or an IP
/// literal (IPv6 in brackets), `*.example.com` for every name below it, or `*` for every Host.
pub fn is_listed(host: &[u8], listed: &[String]) -> bool {
    let (name, _) = split_port(host);
    listed.iter().any(|entry| match entry.strip_prefix('*') {
        Some("") => true,
        Some(parent) => is_below(name, parent.trim_start_matches('.').as_bytes()),
        None => is_same_host(name, entry.as_bytes()),
    })
}

/// Whether two hosts are the same: names in any letter case, IPv6 literals by their address.
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
    use crate::http::fields::no_fields;

    /// The status for a request, a method and fields separated by `|`; 200 if it is served.
    fn status(guard: &SiteGuard, request: &str) -> u16 {
        let (line, rest) = request.split_once(' ').expect("a method and fields");
        let head = format!("{line} / HTTP/1.1\r\n{}\r\n", rest.replace('|', "\r\n"));
        let (mut canonical, mut fields) = (Vec::new(), no_fields());
        let head = RequestHead::parse(head.as_bytes(), &mut canonical, &mut fields, &[]);
        let head = head.unwrap_or_else(|rejection| panic!("{request}: {rejection:?}"));
        guard.refuses(&head).map_or(200, |refused| refused.status)
    }

    #[test]
    fn requests_served_when_a_credential_is_added() {
        let guard = SiteGuard {
            checks_host: true,
            checks_origin: true,
            hosts: Vec::new(),
            origins: vec!["https://other.example".to_owned()],
            listens_with_tls: false,
            believes_proto: true,
        };
        for (request, expected) in [
            ("GET Host: localhost:8080|", 200),
            ("GET Host: rebound.example|", 421),
            // The Host is checked first.
            ("GET Host: rebound.example|Origin: http://evil.example|", 421),
            ("GET Host:|", 200),
            ("TRACE Host: localhost:8080|", 403),
            ("POST Host: localhost:8080|Origin: http://localhost:8080|", 200),
            ("POST Host: LOCALHOST:8080|Origin: http://localhost:8080|", 200),
            ("POST Host: localhost|Origin: http://localhost:80|", 200),
            ("POST Host: localhost:8080|Origin: https://localhost:8080|", 403),
            (
                "POST Host: localhost:8080|X-Forwarded-Proto: https|Origin: https://localhost:8080|",
                200,
            ),
            ("POST Host: localhost:8080|Origin: http://localhost:8081|", 403),
            ("GET Host: localhost:8080|Origin: http://localhost:8080.evil|", 403),
            ("GET Host: localhost:8080|Origin: http://localhost:8080/|", 403),
            ("GET Host: localhost:8080|Origin: null|", 403),
            ("GET Host: localhost:8080|Origin:|", 403),
            ("GET Host: localhost:8080|Origin: https://other.example|", 200),
            ("GET Host: localhost:8080|Origin: https://OTHER.example:443|", 200),
            ("GET Host: localhost:8080|Origin: http://other.example|", 403),
            (
                "GET Host: localhost|Origin: http://localhost|Origin: http://evil.example|",
                403,
            ),
            ("GET Host: localhost|Sec-Fetch-Site: same-origin|", 200),
            ("GET Host: localhost|Sec-Fetch-Site: none|", 200),
            ("GET Host: localhost|Sec-Fetch-Site: same-site|", 403),
            ("GET Host: localhost|Sec-Fetch-Site: cross-site|", 403),
            ("GET Host: localhost|Sec-Fetch-Site:|", 403),
            (
                "GET Host: localhost|Sec-Fetch-Site: cross-site|Sec-Fetch-Mode: navigate|\
                 Sec-Fetch-Dest: document|",
                200,
            ),
            (
                "POST Host: localhost|Sec-Fetch-Site: cross-site|Sec-Fetch-Mode: navigate|\
                 Sec-Fetch-Dest: document|",
                403,
            ),
            (
                "GET Host: localhost|Sec-Fetch-Site: cross-site|Sec-Fetch-Mode: navigate|\
                 Sec-Fetch-Dest: iframe|",
                403,
            ),
            // Origin decides if there is one, whatever Sec-Fetch-Site says.
            (
                "GET Host: localhost|Origin: http://evil.example|Sec-Fetch-Site: same-origin|",
                403,
            ),
        ] {
            assert_eq!(status(&guard, request), expected, "{request}");
        }
    }

    #[test]
    fn requests_served_when_origins_are_listed() {
        let listing = |origins: &[&str]| SiteGuard {
            checks_host: false,
            checks_origin: true,
            hosts: Vec::new(),
            origins: origins.iter().map(|&origin| origin.to_owned()).collect(),
            listens_with_tls: false,
            believes_proto: true,
        };
        let (guard, all) = (listing(&["http://app.example"]), listing(&["*"]));
        for (request, listed, any) in [
            ("GET Host: rebound.example|", 200, 200),
            (
                "GET Host: rebound.example|Origin: http://rebound.example|",
                403,
                200,
            ),
            (
                "GET Host: rebound.example|Sec-Fetch-Site: same-origin|",
                403,
                200,
            ),
            ("GET Host: rebound.example|Sec-Fetch-Site: none|", 200, 200),
            ("TRACE Host: localhost|", 200, 200),
            (
                "GET Host: rebound.example|Origin: http://app.example|",
                200,
                200,
            ),
            (
                "GET Host: app.example|Origin: http://app.example|",
                200,
                200,
            ),
            (
                "GET Host: app.example|Sec-Fetch-Site: same-origin|",
                200,
                200,
            ),
            ("GET Host: localhost|Origin: http://localhost|", 200, 200),
            ("GET Host: localhost|Origin: http://evil.example|", 403, 200),
            ("GET Host: localhost|Origin: null|", 403, 200),
            ("GET Host: localhost|Sec-Fetch-Site: cross-site|", 403, 200),
        ] {
            assert_eq!(status(&guard, request), listed, "{request}");
            assert_eq!(status(&all, request), any, "{request}");
        }
    }

    #[test]
    fn requests_served_when_hosts_are_listed() {
        let mut guard = SiteGuard {
            checks_host: false,
            checks_origin: false,
            hosts: vec!["app.example".to_owned(), "localhost".to_owned()],
            origins: Vec::new(),
            listens_with_tls: false,
            believes_proto: true,
        };
        for (request, alone, with_a_credential) in [
            ("GET Host: App.example:8080|", 200, 200),
            (
                "GET Host: app.example|Origin: http://app.example|",
                200,
                200,
            ),
            (
                "GET Host: app.example|Origin: http://evil.example|",
                200,
                403,
            ),
            ("GET Host: localhost|", 200, 200),
            ("GET Host: 127.0.0.1|", 421, 421),
            ("GET Host:|", 421, 421),
        ] {
            (guard.checks_host, guard.checks_origin) = (false, false);
            assert_eq!(status(&guard, request), alone, "{request}");
            (guard.checks_host, guard.checks_origin) = (true, true);
            assert_eq!(status(&guard, request), with_a_credential, "{request}");
        }
    }

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
