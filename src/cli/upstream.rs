//! The upstream as it is written in a setting: an authority, or the URL of a site.

use std::fmt::{self, Write as _};

use crate::authority::Authority;
use crate::both;
use crate::language::Words;

/// The address that all requests go to, and whether a scheme asks for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The host and port, or the unix socket.
    pub authority: Authority,
    /// Whether the scheme implies TLS; None leaves it to `--tls` and the port.
    pub tls: Option<bool>,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.tls {
            None => "",
            Some(true) => "https://",
            Some(false) => "http://",
        };
        write!(f, "{scheme}{}", self.authority)
    }
}

impl Upstream {
    /// Whether the upstream speaks TLS: as `--tls` (`set`) or the scheme says, else by its port.
    pub(super) fn speaks_tls(&self, set: Option<bool>) -> bool {
        set.or(self.tls).unwrap_or(self.authority.port == 443)
    }

    /// Parses `HOST:PORT`, `unix:PATH` or `SCHEME://HOST[:PORT][/]` with the scheme http, https,
    /// ws or wss. No error repeats what may be a password.
    pub fn parse(text: &str) -> Result<Upstream, Words> {
        if text.starts_with("unix:") {
            return Authority::parse(text).map(|authority| Upstream {
                authority,
                tls: None,
            });
        }
        if text.contains('@') {
            return Err(Words::new(
                "an upstream takes no user name or password; remove everything up to the @, and see --header",
                "上游不能带用户名和密码；请去掉 @ 及其之前的部分，参见 --header",
            ));
        }
        if text.contains([',', ';', ' ', '\t']) {
            return Err(Words::new(
                "there can be only one upstream: write one HOST:PORT",
                "只能有一个上游：请只写一个 HOST:PORT",
            ));
        }
        let (tls, rest) = match text.split_once("://") {
            None => (None, text),
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "https" | "wss" => (Some(true), rest),
                "http" | "ws" => (Some(false), rest),
                _ => {
                    return Err(Words::new(
                        "the scheme must be http, https, ws or wss; or write HOST:PORT",
                        "协议须为 http、https、ws 或 wss；也可以写成 HOST:PORT",
                    ))
                }
            },
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(Words::new(
                "an upstream takes no path, since each request has its own; write HOST:PORT",
                "上游不能带路径，路径由每个请求给出；请写成 HOST:PORT",
            ));
        }
        if !rest.is_ascii() {
            return Err(match in_ascii(rest) {
                Some(ascii) => both!(
                    "write the name in its ASCII form: {ascii}",
                    "请使用域名的 ASCII 形式：{ascii}"
                ),
                None => Words::new(
                    "the host is neither a name nor an IP address; write a name such as example.com",
                    "主机既不是域名也不是 IP 地址；请填写域名，例如 example.com",
                ),
            });
        }
        let default_port = tls.map(|tls| if tls { 443 } else { 80 });
        let authority = Authority::parse_with_default(rest, default_port)?;
        Ok(Upstream { authority, tls })
    }
}

/// Converts each label of a name in any script to its A-label (RFC 5890 §2.3.2.1), and keeps a
/// port that follows. None if a label is not valid.
fn in_ascii(name: &str) -> Option<String> {
    let (host, port) = match name.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (name, None),
    };
    let labels = host.to_lowercase();
    let labels = labels.split(['.', '。']).map(|label| {
        let may_be_one = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        if label.is_empty() || !label.chars().all(may_be_one) {
            return None;
        }
        match label.is_ascii() {
            true => Some(label.to_owned()),
            false => punycode(label).map(|code| format!("xn--{code}")),
        }
    });
    let mut ascii = labels.collect::<Option<Vec<_>>>()?.join(".");
    if let Some(port) = port {
        write!(ascii, ":{port}").ok()?;
    }
    Some(ascii)
}

/// Encodes a label in Punycode (RFC 3492 §6.3). None on integer overflow.
fn punycode(label: &str) -> Option<String> {
    const BASE: u32 = 36;
    const LEAST: u32 = 1;
    const MOST: u32 = 26;
    // a to z are 0 to 25, 0 to 9 are 26 to 35 (RFC 3492 §5).
    let digit = |n: u32| match n {
        0..=25 => char::from(b'a' + n as u8),
        _ => char::from(b'0' + (n - 26) as u8),
    };
    let mut out: String = label.chars().filter(char::is_ascii).collect();
    let basic = out.len() as u32;
    if basic > 0 {
        out.push('-');
    }
    let all = label.chars().count() as u32;
    let (mut n, mut delta, mut bias, mut handled) = (128u32, 0u32, 72u32, basic);
    while handled < all {
        let next = label.chars().map(u32::from).filter(|c| *c >= n).min()?;
        delta = delta.checked_add((next - n).checked_mul(handled + 1)?)?;
        n = next;
        for c in label.chars().map(u32::from) {
            if c < n {
                delta = delta.checked_add(1)?;
            }
            if c != n {
                continue;
            }
            let (mut q, mut k) = (delta, BASE);
            loop {
                let threshold = k.saturating_sub(bias).clamp(LEAST, MOST);
                if q < threshold {
                    break;
                }
                out.push(digit(threshold + (q - threshold) % (BASE - threshold)));
                q = (q - threshold) / (BASE - threshold);
                k += BASE;
            }
            out.push(digit(q));
            // Adapts the bias (RFC 3492 §6.1).
            delta /= if handled == basic { 700 } else { 2 };
            delta += delta / (handled + 1);
            let mut steps = 0;
            while delta > (BASE - LEAST) * MOST / 2 {
                delta /= BASE - LEAST;
                steps += BASE;
            }
            bias = steps + (BASE - LEAST + 1) * delta / (delta + 38);
            delta = 0;
            handled += 1;
        }
        delta += 1;
        n += 1;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::Language;

    #[test]
    fn a_url_implies_port_and_tls() {
        for (text, expected, tls) in [
            ("h:80", "h:80", None),
            ("h:443", "h:443", None),
            ("https://h", "h:443", Some(true)),
            ("HTTPS://h/", "h:443", Some(true)),
            ("wss://h:8443", "h:8443", Some(true)),
            ("http://h", "h:80", Some(false)),
            ("ws://h:8080/", "h:8080", Some(false)),
            ("https://[2001:db8::1]", "[2001:db8::1]:443", Some(true)),
            ("unix:/run/app.sock", "unix:/run/app.sock", None),
        ] {
            let upstream = Upstream::parse(text).expect(text);
            assert_eq!(upstream.authority.to_string(), expected);
            assert_eq!(upstream.tls, tls, "{text}");
        }
    }

    #[test]
    fn invalid_upstreams_are_explained() {
        for (text, expected) in [
            ("h", "a port is missing"),
            ("ftp://h", "the scheme must be"),
            ("https://h/app", "takes no path"),
            ("https://h?a", "takes no path"),
            ("a:1,b:2", "only one upstream"),
            ("a:1 b:2", "only one upstream"),
            ("bücher.example:80", "xn--bcher-kva.example:80"),
            ("https://例え.テスト", "xn--r8jz45g.xn--zckzah"),
            ("B\u{dc}CHER.example:80", "xn--bcher-kva.example:80"),
            ("b\u{2764}.example:80", "neither a name"),
        ] {
            let problem = Upstream::parse(text).expect_err(text);
            let problem = problem.say(Language::English);
            assert!(problem.contains(expected), "{text}: {problem}");
        }
        let problem = Upstream::parse("https://user:s3cret@h").expect_err("refused");
        for language in [Language::English, Language::Chinese] {
            assert!(!problem.say(language).contains("s3cret"));
        }
    }
}
