//! A proxy on the route to the upstream, as given by its URL.

use std::fmt;

use percent_encoding::percent_decode_str;

use crate::authority::Authority;
use crate::language::Words;

/// A proxy on the route. Displays as a URL with the password hidden, or with the user hidden if
/// there is no password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its protocol.
    pub scheme: Scheme,
    /// Where it listens.
    pub authority: Authority,
    /// The credentials to present to it.
    pub credentials: Option<Credentials>,
}

/// Proxies of one kind, to be tried in this order; at least one. Displays as written in a
/// setting, with passwords hidden.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxies(Vec<Proxy>);

/// The scheme of a proxy URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `socks5://`, and `socks5h://` and `socks://` alike: names are always resolved by the
    /// proxy.
    Socks5,
    /// `http://`
    Http,
    /// `https://`: HTTP over TLS to the proxy, whose certificate is verified.
    Https,
}

/// A user and a password, decoded. Has no Debug or Display, so that neither is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl Scheme {
    fn parse(scheme: &str) -> Option<Scheme> {
        match scheme.to_ascii_lowercase().as_str() {
            "socks5" | "socks5h" | "socks" => Some(Scheme::Socks5),
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

impl Proxies {
    /// Parses URLs of SOCKS5 proxies.
    pub(crate) fn parse_socks5(urls: &str) -> Result<Proxies, Words> {
        let proxies: Result<_, _> = split(urls).map(Proxy::parse_socks5).collect();
        Ok(Proxies(proxies?))
    }

    /// Parses URLs of HTTP proxies.
    pub(crate) fn parse_http(urls: &str) -> Result<Proxies, Words> {
        let proxies: Result<_, _> = split(urls).map(Proxy::parse_http).collect();
        Ok(Proxies(proxies?))
    }

    /// The proxies, first to last.
    pub(crate) fn as_slice(&self) -> &[Proxy] {
        &self.0
    }
}

/// Splits at each comma that is followed by `SCHEME://`; any other comma belongs to a password.
fn split(urls: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(urls);
    std::iter::from_fn(move || {
        let urls = rest?;
        let mut commas = urls.match_indices(',').map(|(at, _)| at);
        let end = commas.find(|at| begins_with_scheme(&urls[at + 1..]));
        rest = end.map(|at| urls[at + 1..].trim_start());
        Some(end.map_or(urls, |at| urls[..at].trim_end()))
    })
}

/// Whether the text begins with a scheme (RFC 3986 §3.1) and `://`.
fn begins_with_scheme(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        let scheme = scheme.trim_start().as_bytes();
        scheme.first().is_some_and(u8::is_ascii_alphabetic)
            && scheme
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    })
}

impl fmt::Display for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, proxy) in self.0.iter().enumerate() {
            let separator = if n > 0 { "," } else { "" };
            write!(f, "{separator}{proxy}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Proxy {
    /// Parses the URL of a SOCKS5 proxy; the scheme may be left out.
    pub fn parse_socks5(url: &str) -> Result<Proxy, Words> {
        let proxy = Proxy::parse(url, Scheme::Socks5)?;
        if proxy.scheme != Scheme::Socks5 {
            return Err(Words::new(
                "a SOCKS proxy must be written as socks5://[USER:PASS@]HOST[:PORT]",
                "SOCKS 代理应写成 socks5://[USER:PASS@]HOST[:PORT]",
            ));
        }
        if let Some(Credentials { user, password }) = &proxy.credentials {
            // RFC 1929 §2: one length byte each. Tor and proxies that identify their users by a
            // key expect an empty password.
            if !(1..=255).contains(&user.len()) {
                return Err(Words::new(
                    "the user name must have 1 to 255 bytes for SOCKS5",
                    "SOCKS5 的用户名须为 1 到 255 字节",
                ));
            }
            if password.len() > 255 {
                return Err(Words::new(
                    "the password must have at most 255 bytes for SOCKS5",
                    "SOCKS5 的密码最长 255 字节",
                ));
            }
        }
        Ok(proxy)
    }

    /// Parses the URL of an HTTP proxy; the scheme may be left out and is then `http`.
    pub fn parse_http(url: &str) -> Result<Proxy, Words> {
        let proxy = Proxy::parse(url, Scheme::Http)?;
        if proxy.scheme == Scheme::Socks5 {
            return Err(Words::new(
                "an HTTP proxy must be written as http[s]://[USER:PASS@]HOST[:PORT]",
                "HTTP 代理应写成 http[s]://[USER:PASS@]HOST[:PORT]",
            ));
        }
        if let Some(Credentials { user, .. }) = &proxy.credentials {
            // RFC 7617 §2: the first colon ends the user.
            if user.contains(':') {
                return Err(Words::new(
                    "the user name for an HTTP proxy must not contain a colon: remove the %3A",
                    "HTTP 代理的用户名不能含冒号：请去掉 %3A",
                ));
            }
        }
        Ok(proxy)
    }

    /// Parses a URL. No error repeats any part of it, because it may contain a password.
    fn parse(url: &str, default_scheme: Scheme) -> Result<Proxy, Words> {
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) => match Scheme::parse(scheme) {
                Some(known) => (known, rest),
                None => return Err(unknown_scheme(scheme)),
            },
            None if is_no_proxy(url) => {
                return Err(Words::new(
                    "to use no proxy, leave this out or give --direct",
                    "不使用代理时，请去掉此项或用 --direct",
                ))
            }
            None => (default_scheme, url),
        };
        // RFC 3986 §3.2: a path, query or fragment ends the authority.
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if path.contains('@') {
            return Err(Words::new(
                "write /, ? and # in a password as %2F, %3F and %23",
                "密码中的 /、?、# 请写成 %2F、%3F、%23",
            ));
        }
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        if host.contains(',') || path.contains(",unix:") {
            return Err(Words::new(
                "each of several proxies begins with its scheme: write SCHEME://A,SCHEME://B",
                "多个代理须各自带上协议：请写成 SCHEME://A,SCHEME://B",
            ));
        }
        // `socks5://unix:/PATH`, and curl's `socks5://localhost/PATH`.
        let is_unix = host == "unix:" || host.eq_ignore_ascii_case("localhost");
        let authority = match path {
            "" | "/" => Authority::parse_with_default(host, Some(scheme.default_port()))?,
            path if is_unix && scheme == Scheme::Socks5 => Authority::unix(path)?,
            _ => {
                return Err(Words::new(
                    "a proxy URL has no path, query or fragment: remove it",
                    "代理 URL 不能带路径、查询串或片段：请去掉",
                ))
            }
        };
        let credentials = userinfo.map(Credentials::parse).transpose()?;
        Ok(Proxy {
            scheme,
            authority,
            credentials,
        })
    }
}

fn unknown_scheme(scheme: &str) -> Words {
    match scheme.to_ascii_lowercase().as_str() {
        "socks4" | "socks4a" => Words::new(
            "SOCKS4 is not supported; if the proxy also supports SOCKS5, write socks5://",
            "不支持 SOCKS4；若代理也支持 SOCKS5，请写成 socks5://",
        ),
        _ => Words::new(
            "unknown scheme: write socks5://, http:// or https://",
            "未知的协议：请写成 socks5://、http:// 或 https://",
        ),
    }
}

/// Whether the text is a word for no proxy instead of the name of one.
fn is_no_proxy(text: &str) -> bool {
    let words = ["none", "direct", "off", "no", "false", "disabled", "null"];
    words.iter().any(|word| word.eq_ignore_ascii_case(text))
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.name())?;
        match &self.credentials {
            // Without a password, the user itself is the secret.
            Some(credentials) if credentials.password.is_empty() => f.write_str("***@")?,
            Some(credentials) => write!(f, "{}:***@", credentials.user.escape_debug())?,
            None => {}
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
    fn parse(userinfo: &str) -> Result<Credentials, Words> {
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let decode = |[what, zh]: [&str; 2], text: &str| {
            check_escapes(text).ok_or_else(|| {
                crate::both!(
                    "a % in the {what} must be followed by two hex digits; write it as %25",
                    "{zh}中的 % 之后应为两个十六进制数字；% 本身请写成 %25"
                )
            })?;
            let decoded = percent_decode_str(text).decode_utf8();
            let decoded = decoded.map_err(|_| {
                crate::both!(
                    "the {what} is not UTF-8 when decoded: percent-encode its UTF-8 bytes",
                    "{zh}解码后不是 UTF-8：请对其 UTF-8 字节作百分号编码"
                )
            })?;
            if decoded.chars().any(char::is_control) {
                return Err(crate::both!(
                    "the {what} contains a control character: remove it",
                    "{zh}含有控制字符：请去掉该字符"
                ));
            }
            Ok(decoded.into_owned())
        };
        Ok(Credentials {
            user: decode(["user", "用户名"], user)?,
            password: decode(["password", "密码"], password)?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::Language;

    #[test]
    fn proxy_urls() {
        for (url, expected) in [
            ("socks5://127.0.0.1:1080", "socks5://127.0.0.1:1080"),
            ("socks5h://proxy.example", "socks5://proxy.example:1080"),
            ("SOCKS5://proxy.example/", "socks5://proxy.example:1080"),
            ("127.0.0.1:9050", "socks5://127.0.0.1:9050"),
            ("u:p@[::1]", "socks5://u:***@[::1]:1080"),
            ("socks://proxy.example", "socks5://proxy.example:1080"),
            (
                "socks5://key@proxy.example",
                "socks5://***@proxy.example:1080",
            ),
            (
                "socks5://key:@proxy.example",
                "socks5://***@proxy.example:1080",
            ),
        ] {
            let parsed = Proxy::parse_socks5(url).expect(url).to_string();
            assert_eq!(parsed, expected, "{url}");
        }
        for (url, expected) in [
            ("http://127.0.0.1:8118", "http://127.0.0.1:8118"),
            ("proxy.example", "http://proxy.example:80"),
            ("https://u@proxy.example", "https://***@proxy.example:443"),
            ("https://u:@proxy.example", "https://***@proxy.example:443"),
        ] {
            let parsed = Proxy::parse_http(url).expect(url).to_string();
            assert_eq!(parsed, expected, "{url}");
        }
    }

    #[test]
    fn a_comma_before_a_scheme_separates_proxies() {
        for (urls, expected) in [
            (
                "socks5://a:1,socks5h://b,socks://c:3",
                "socks5://a:1,socks5://b:1080,socks5://c:3",
            ),
            ("a:1,socks5://b:2", "socks5://a:1,socks5://b:2"),
            ("socks5://a:1, socks5://b:2", "socks5://a:1,socks5://b:2"),
            (
                "socks5://u:p,q://,x@a:1,socks5://v:w@b",
                "socks5://u:***@a:1,socks5://v:***@b:1080",
            ),
        ] {
            let parsed = Proxies::parse_socks5(urls).map(|proxies| proxies.to_string());
            match urls.contains("q://") {
                // A comma and something like a scheme in a password end the proxy there.
                true => assert!(parsed.is_err(), "{urls}"),
                false => assert_eq!(parsed.as_deref(), Ok(expected), "{urls}"),
            }
        }
        let commas = Proxies::parse_socks5("socks5://u:p,q,@a,socks5://b").expect("two");
        let [first, _] = commas.as_slice() else {
            panic!("two proxies are not two: {commas}")
        };
        let credentials = first.credentials.as_ref().expect("there are some");
        assert_eq!(credentials.password, "p,q,");
        for urls in [
            "socks5://a,http://b",
            "socks5://a,socks5://",
            "socks5://a,,socks5://b",
            ",socks5://a",
            "",
        ] {
            assert!(Proxies::parse_socks5(urls).is_err(), "{urls}");
        }
        let mixed = Proxies::parse_http("http://a,https://b").expect("both are HTTP proxies");
        assert_eq!(mixed.to_string(), "http://a:80,https://b:443");
    }

    #[test]
    fn userinfo_ends_at_the_last_at_sign_and_is_then_decoded() {
        for (url, user, password) in [
            ("socks5://alice:s3cr%3At%40%2Fx@h", "alice", "s3cr:t@/x"),
            ("socks5://alice:s3cr:t@x@h", "alice", "s3cr:t@x"),
            ("socks5://key@h", "key", ""),
            ("socks5://key:@h", "key", ""),
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
            ("ftp://u:secret@h", "unknown scheme"),
            ("http://u:secret@h", "a SOCKS proxy must"),
            ("socks5://u:secret@h/path", "a proxy URL has no path"),
            ("socks5://u:secret/x@h", "write /, ? and # in a password"),
            ("socks5://h/x@secret", "write /, ? and # in a password"),
            ("socks5://u:secret@h:port", "the port must be"),
            ("socks5://u:secret@h:+1", "the port must be"),
            ("socks5://u:secret@", "the host is missing"),
            ("a:1080,b:1080", "each of several proxies begins with"),
            (
                "socks5://u:secret@a,b",
                "each of several proxies begins with",
            ),
            (
                "socks5://u:secret@a,",
                "each of several proxies begins with",
            ),
            ("unix:/a,unix:/b", "each of several proxies begins with"),
            ("socks5://:secret@h", "the user name must have 1 to 255"),
            ("socks5://u:secret%zz@h", "a % in the password"),
            ("socks5://u:secret%ff@h", "the password is not UTF-8"),
            ("socks5://u:secret%0a@h", "the password contains a control"),
        ] {
            let error = Proxy::parse_socks5(url).expect_err(url);
            let error = error.say(Language::English);
            assert!(error.starts_with(words), "{url}: {error}");
            assert!(!error.contains("secret"), "{url}: {error}");
        }
        let long = format!("socks5://u:{}@h", "x".repeat(256));
        assert!(Proxy::parse_socks5(&long).is_err());
        assert!(Proxy::parse_http("http://a%3Ab:c@h").is_err());
        assert!(Proxy::parse_http("socks5://h").is_err());
        assert!(Proxy::parse_http("http://localhost/run/socket").is_err());
        assert!(Proxy::parse_http("unix:/run/socket").is_err());
    }
}
