//! How much of a refused value an error shows: enough to recognize it, and nothing that may be
//! a credential.

use crate::authority::parse_port;
use crate::both;
use crate::cli::flags::Flag;
use crate::language::Words;
use crate::text::Escaped;

/// Flags whose values may contain a credential.
pub(crate) const SECRET: [&str; 5] = [
    "--header",
    "--response-header",
    "--socks-proxy",
    "--http-proxy",
    "--https-proxy",
];

/// The longest value that is shown in full, in characters.
const LONGEST: usize = 80;

/// Appends the value, or the part of it that can be shown, to the problem.
pub(crate) fn with_value(problem: &Words, flag: &Flag, text: &str) -> Words {
    match shown_part(flag.long, text) {
        Some(value) => problem.followed_by(&both!(" (got '{value}')", "（给出的值：'{value}'）")),
        None => problem.clone(),
    }
}

/// The part of a value that can be shown: all of it, or less if the rest may be a credential.
fn shown_part(long: &str, text: &str) -> Option<String> {
    // This may be the contents of a file, or a field line, given instead of a name.
    if text.trim_end().contains(['\n', '\r']) || text.contains(": ") {
        return None;
    }
    let is_url = text.contains("://") && text.contains('@');
    let value = match long {
        // Only the name of a file with field lines is shown, never a line.
        "--header" | "--response-header" => {
            let is_file = text.starts_with('@') && !text.contains([':', ';']);
            is_file.then(|| text.to_owned())
        }
        _ if SECRET.contains(&long) => proxies(text),
        _ if is_url => without_userinfo(text),
        // A key in base64, given instead of its file, has no dot and does not begin with `/`.
        "--tls-key" | "--listen-key" => {
            let is_path = text.starts_with('/') || text.contains('.');
            is_path.then(|| text.to_owned())
        }
        "--tls-cert" | "--listen-cert" | "--tls-ca" => Some(text.to_owned()),
        // This may be a field line meant for --header.
        "--host-header" if text.contains(':') && text.contains(' ') => None,
        _ if text.contains('@') => without_userinfo(text),
        _ => Some(without_query(text)),
    }?;
    let mut end = value.char_indices().map(|(at, _)| at).skip(LONGEST);
    Some(match end.next() {
        Some(end) => format!("{}...", Escaped(&value.as_bytes()[..end])),
        None => Escaped(value.as_bytes()).to_string(),
    })
}

/// Cuts the query or fragment off, which may contain a token.
fn without_query(text: &str) -> String {
    match text.find(['?', '#']) {
        Some(at) => format!("{}...", &text[..=at]),
        None => text.to_owned(),
    }
}

/// The part of a list of proxy URLs that can be shown. None if there are several and any has
/// userinfo, because a comma may then be part of a password.
fn proxies(text: &str) -> Option<String> {
    let is_one = text.matches("://").count() <= 1;
    match text.contains('@') {
        true if is_one => without_userinfo(text),
        true => None,
        false => {
            let each = text.split(',').map(str::trim).map(without_userinfo);
            let each: Option<Vec<String>> = each.collect();
            each.map(|each| each.join(","))
        }
    }
}

/// A URL, with or without its scheme, with `***` in place of the userinfo. None if the rest is
/// not a host and a port, since it may then be a part of a user name or password.
fn without_userinfo(text: &str) -> Option<String> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let is_scheme = |scheme: &str| {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        scheme.len() <= 12 && scheme.bytes().all(is_plain)
    };
    if !scheme.is_none_or(is_scheme) {
        return None;
    }
    let (userinfo, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("***@", rest),
        None => ("", rest),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let in_brackets = host.starts_with('[') && host.ends_with(']');
    let is_host = in_brackets || !host.contains([':', '[', ']']);
    let is_port = |port: &str| parse_port(port).is_some();
    if !is_host || host.contains(char::is_whitespace) || !port.is_none_or(is_port) {
        return None;
    }
    let scheme = scheme.map(|scheme| format!("{scheme}://"));
    let scheme = scheme.unwrap_or_default();
    let path = match path {
        "" | "/" => path,
        _ => "/...",
    };
    Some(format!("{scheme}{userinfo}{authority}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_may_be_a_credential_is_repeated() {
        let pem = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n";
        let long = "x".repeat(81);
        let cut = format!("{}...", "x".repeat(80));
        for (long, text, expected) in [
            ("--listen-port", "80a", Some("80a")),
            ("--listen-port", "80\r", Some("80\\x0d")),
            ("--listen-port", "80\n", Some("80\\x0a")),
            ("--listen-port", &long, Some(cut.as_str())),
            (
                "--listen-port",
                "socks5://u:secret@h:1",
                Some("socks5://***@h:1"),
            ),
            (
                "--upstream-host",
                "https://u:secret@h/a",
                Some("https://***@h/..."),
            ),
            (
                "--upstream-host",
                "https://h/?secret",
                Some("https://h/?..."),
            ),
            ("--upstream-host", "a:1,socks5://u:secret@h", None),
            ("--upstream-host", "bücher:80", Some("bücher:80")),
            ("--check-path", "/a b?secret", Some("/a b?...")),
            ("--host-header", "a b", Some("a b")),
            ("--host-header", "Authorization:Bearer secret", None),
            ("--host-header", "Authorization: secret", None),
            ("--header", "X-Key secret", None),
            ("--header", "@/nowhere", Some("@/nowhere")),
            ("--header", "@X-Key: secret", None),
            ("--tls-key", pem, None),
            ("--tls-key", "MC4CAQAwBQYDK2VwBCIEsecret", None),
            ("--tls-key", "/run/key", Some("/run/key")),
            ("--tls-key", "key.pem", Some("key.pem")),
            ("--tls-cert", pem, None),
            ("--tls-cert", "https://u:secret@h", Some("https://***@h")),
            ("--socks-proxy", "none", Some("none")),
            ("--socks-proxy", "ftp://h", Some("ftp://h")),
            ("--socks-proxy", "ftp://u:secret@h", Some("ftp://***@h")),
            ("--socks-proxy", "ftp://secret@h:1/", Some("ftp://***@h:1/")),
            ("--socks-proxy", "socks5://u:secret@", Some("socks5://***@")),
            (
                "--socks-proxy",
                "socks5://u:se/cret@h",
                Some("socks5://***@h"),
            ),
            (
                "--socks-proxy",
                "socks5://u:secret@[::1]:1/a",
                Some("socks5://***@[::1]:1/..."),
            ),
            ("--socks-proxy", "http://h/secret", Some("http://h/...")),
            ("--socks-proxy", "user:secret", None),
            ("--socks-proxy", "socks5://h:1080:user:secret", None),
            ("--socks-proxy", "socks5://user:se@cr:et", None),
            ("--socks-proxy", "user secret", None),
            ("--socks-proxy", "user:secret@socks5://h", None),
            ("--socks-proxy", "socks5://u:secret@a,http://b", None),
            (
                "--socks-proxy",
                "socks5://a,http://b",
                Some("socks5://a,http://b"),
            ),
        ] {
            let shown = shown_part(long, text);
            assert_eq!(shown.as_deref(), expected, "{long} {text}");
        }
    }
}
