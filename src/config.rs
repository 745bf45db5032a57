//! What the settings mean: plain data that has been validated, so that nothing behind it
//! checks again. Parses addresses and proxy URLs; knows nothing of flags or variables.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use native_tls::Certificate;
use percent_encoding::percent_decode_str;

/// Everything the program was told.
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// Where every request goes.
    pub upstream: Authority,
    /// How to get there.
    pub route: Route,
    /// TLS to the upstream, if any.
    pub tls: Option<UpstreamTls>,
    /// PEM roots to trust beside the system's.
    pub roots: Vec<Certificate>,
    /// How a request head changes on its way.
    pub rewrite: Rewrite,
    /// Sizes and times.
    pub limits: Limits,
    /// Threads that serve connections.
    pub threads: usize,
    /// The path that is answered here: whether the program serves.
    pub health_path: Option<String>,
    /// Where Prometheus finds the metrics.
    pub metrics: Option<SocketAddr>,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The address; none is every address of both families.
    pub address: Option<IpAddr>,
    /// The port; 0 is any free one.
    pub port: u16,
}

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

/// How connections reach the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Straight to it.
    Direct,
    /// Through a SOCKS5 proxy (RFC 1928).
    Socks5(Proxy),
    /// Through an HTTP proxy, by CONNECT (RFC 9110 §9.3.6).
    Connect(Proxy),
}

/// A proxy on the way. Displays as a URL with the password hidden.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub scheme: Scheme,
    /// Where it listens.
    pub authority: Authority,
    /// What it wants to know of us.
    pub credentials: Option<Credentials>,
}

/// The scheme of a proxy URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `socks5://`, and `socks5h://` alike: names are always resolved by the proxy.
    Socks5,
    /// `http://`
    Http,
    /// `https://`: HTTP over TLS to the proxy, whose certificate is verified.
    Https,
}

/// A user and a password, decoded. Has no Debug or Display on purpose.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

/// TLS to the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name to send instead of the one that the route would choose.
    pub name: Option<String>,
    /// Whether an invalid certificate is refused.
    pub verify: bool,
}

/// How a request head changes on its way to the upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Sent as Host in place of the client's.
    pub host: Option<String>,
    /// Upgrade tokens that pass beside `websocket`, in lower case.
    pub upgrades: Vec<String>,
    /// Whether X-Forwarded-* and Via are added.
    pub forwarded: bool,
}

/// Sizes and times. A time of zero is without limit where the manual says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// For the whole dial.
    pub connect_timeout: Duration,
    /// For a client to send a whole request head.
    pub head_timeout: Duration,
    /// For the upstream to begin its answer, and for either side to go on with a body.
    pub response_timeout: Duration,
    /// For an idle client connection.
    pub keepalive_timeout: Duration,
    /// For an idle relay.
    pub tunnel_timeout: Duration,
    /// For what is open at SIGTERM.
    pub drain_timeout: Duration,
    /// Clients served at once; none is as many as descriptors allow.
    pub max_connections: Option<usize>,
    /// Idle upstream connections that a thread keeps.
    pub idle_upstreams: usize,
    /// Pipes for bulk that a thread may have in use.
    pub pipes: usize,
}

/// The largest message head, in bytes, request and response alike.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;

/// The most fields in one message head.
pub const MAX_FIELDS: usize = 128;

/// The most pipes that one thread has in use: enough for both directions of 64 streams. One
/// that must copy gets less than those that splice.
pub const MAX_PIPES: usize = 128;

/// What is logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// The language of the lines.
    pub language: Language,
    /// The form of the lines.
    pub format: LogFormat,
    /// How much is said.
    pub verbosity: Verbosity,
}

/// The language of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// The documented lines.
    Chinese,
    /// One English line for each.
    English,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Words, in a language.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Each request.
    Normal,
    /// Each connection in detail.
    Verbose,
}

impl Authority {
    /// Parses `HOST:PORT`, IPv6 in brackets. The error says what is wrong, in words.
    pub fn parse(text: &str) -> Result<Authority, String> {
        if text.contains("://") {
            return Err("write HOST:PORT, without a scheme".to_owned());
        }
        Authority::parse_with_default(text, None)
    }

    fn parse_with_default(text: &str, default_port: Option<u16>) -> Result<Authority, String> {
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

impl Scheme {
    fn parse(scheme: &str) -> Option<Scheme> {
        match scheme.to_ascii_lowercase().as_str() {
            "socks5" | "socks5h" => Some(Scheme::Socks5),
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            _ => None,
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Scheme::Socks5 => 1080,
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    /// The scheme as it is written in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Socks5 => "socks5",
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

impl Proxy {
    /// Parses the URL of a SOCKS5 proxy; the scheme may be left out.
    pub fn parse_socks5(url: &str) -> Result<Proxy, String> {
        let proxy = Proxy::parse(url, Scheme::Socks5)?;
        if proxy.scheme != Scheme::Socks5 {
            return Err("a SOCKS proxy is socks5://[USER:PASS@]HOST[:PORT]".to_owned());
        }
        if let Some(Credentials { user, password }) = &proxy.credentials {
            // RFC 1929 §2: one length byte each.
            for (what, value) in [("user", user), ("password", password)] {
                if !(1..=255).contains(&value.len()) {
                    return Err(format!("the {what} must have 1 to 255 bytes for SOCKS5"));
                }
            }
        }
        Ok(proxy)
    }

    /// Parses the URL of an HTTP proxy; the scheme may be left out and is then `http`.
    pub fn parse_http(url: &str) -> Result<Proxy, String> {
        let proxy = Proxy::parse(url, Scheme::Http)?;
        if proxy.scheme == Scheme::Socks5 {
            return Err("an HTTP proxy is http[s]://[USER:PASS@]HOST[:PORT]".to_owned());
        }
        if let Some(Credentials { user, .. }) = &proxy.credentials {
            // RFC 7617 §2: the first colon ends the user.
            if user.contains(':') {
                return Err("the user must not contain a colon for an HTTP proxy".to_owned());
            }
        }
        Ok(proxy)
    }

    /// No error repeats any part of the URL: it may hold a password.
    fn parse(url: &str, default_scheme: Scheme) -> Result<Proxy, String> {
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) => {
                let known = Scheme::parse(scheme);
                (known.ok_or("the scheme is not known")?, rest)
            }
            None => (default_scheme, url),
        };
        // RFC 3986 §3.2: a path, query or fragment ends the authority.
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if path.contains('@') {
            return Err("write / ? and # in a password as %2F %3F and %23".to_owned());
        }
        if !matches!(path, "" | "/") {
            return Err("a proxy URL has no path, query or fragment".to_owned());
        }
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        let authority = Authority::parse_with_default(host, Some(scheme.default_port()))?;
        let credentials = userinfo.map(Credentials::parse).transpose()?;
        Ok(Proxy {
            scheme,
            authority,
            credentials,
        })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.name())?;
        if let Some(credentials) = &self.credentials {
            write!(f, "{}:***@", credentials.user.escape_debug())?;
        }
        write!(f, "{}", self.authority)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Credentials {
    /// Parses `USER:PASS` or `USER`, percent-encoded (RFC 3986 §3.2.1).
    fn parse(userinfo: &str) -> Result<Credentials, String> {
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let decode = |what: &str, text: &str| {
            check_escapes(text).ok_or_else(|| {
                format!("a % in the {what} must be followed by two hex digits; write it as %25")
            })?;
            let decoded = percent_decode_str(text).decode_utf8();
            let decoded = decoded.map_err(|_| format!("the {what} is not UTF-8 when decoded"))?;
            if decoded.chars().any(char::is_control) {
                return Err(format!("the {what} holds a control character"));
            }
            Ok(decoded.into_owned())
        };
        Ok(Credentials {
            user: decode("user", user)?,
            password: decode("password", password)?,
        })
    }
}

fn check_escapes(text: &str) -> Option<()> {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&b| b == b'%') {
        let digits = rest.get(at + 1..at + 3)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        rest = &rest[at + 3..];
    }
    Some(())
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Direct => f.write_str("direct"),
            Route::Socks5(proxy) => write!(f, "SOCKS5 {proxy}"),
            Route::Connect(proxy) => write!(f, "CONNECT {proxy}"),
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

    #[test]
    fn proxy_urls() {
        for (url, expected) in [
            ("socks5://127.0.0.1:1080", "socks5://127.0.0.1:1080"),
            ("socks5h://proxy.example", "socks5://proxy.example:1080"),
            ("SOCKS5://proxy.example/", "socks5://proxy.example:1080"),
            ("127.0.0.1:9050", "socks5://127.0.0.1:9050"),
            ("u:p@[::1]", "socks5://u:***@[::1]:1080"),
        ] {
            let parsed = Proxy::parse_socks5(url).expect(url).to_string();
            assert_eq!(parsed, expected, "{url}");
        }
        for (url, expected) in [
            ("http://127.0.0.1:8118", "http://127.0.0.1:8118"),
            ("proxy.example", "http://proxy.example:80"),
            ("https://u@proxy.example", "https://u:***@proxy.example:443"),
        ] {
            let parsed = Proxy::parse_http(url).expect(url).to_string();
            assert_eq!(parsed, expected, "{url}");
        }
    }

    #[test]
    fn userinfo_ends_at_the_last_at_sign_and_is_then_decoded() {
        for (url, user, password) in [
            ("socks5://alice:s3cr%3At%40%2Fx@h", "alice", "s3cr:t@/x"),
            ("socks5://alice:s3cr:t@x@h", "alice", "s3cr:t@x"),
            ("socks5://al%20ice:%E5%AF%86@h", "al ice", "密"),
        ] {
            let credentials = Proxy::parse_socks5(url).expect(url).credentials;
            let credentials = credentials.expect("the URL has userinfo");
            assert_eq!(credentials.user, user, "{url}");
            assert_eq!(credentials.password, password, "{url}");
        }
    }

    #[test]
    fn bad_proxy_urls_are_refused_without_repeating_them() {
        for (url, words) in [
            ("ftp://u:secret@h", "the scheme is not known"),
            ("http://u:secret@h", "a SOCKS proxy is"),
            ("socks5://u:secret@h/path", "a proxy URL has no path"),
            ("socks5://u:secret/x@h", "write / ? and # in a password"),
            ("socks5://h/x@secret", "write / ? and # in a password"),
            ("socks5://u:secret@h:port", "the port must be"),
            ("socks5://u:secret@h:+1", "the port must be"),
            ("socks5://u:secret@", "the host is missing"),
            ("socks5://secret@h", "the password must have 1 to 255"),
            ("socks5://:secret@h", "the user must have 1 to 255"),
            ("socks5://u:secret%zz@h", "a % in the password"),
            ("socks5://u:secret%ff@h", "the password is not UTF-8"),
            ("socks5://u:secret%0a@h", "the password holds a control"),
        ] {
            let error = Proxy::parse_socks5(url).expect_err(url);
            assert!(error.starts_with(words), "{url}: {error}");
            assert!(!error.contains("secret"), "{url}: {error}");
        }
        let long = format!("socks5://u:{}@h", "x".repeat(256));
        assert!(Proxy::parse_socks5(&long).is_err());
        assert!(Proxy::parse_http("http://a%3Ab:c@h").is_err());
        assert!(Proxy::parse_http("socks5://h").is_err());
    }
}
