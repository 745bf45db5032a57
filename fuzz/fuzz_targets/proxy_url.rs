//! Proxy URLs and addresses: how they are parsed, and that no password is ever shown.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use percent_encoding::{percent_decode_str, utf8_percent_encode, NON_ALPHANUMERIC};
use simple_proxy::authority::{Authority, Host};
use simple_proxy::config::Route;
use simple_proxy::language::{Language, Words};
use simple_proxy::proxy::{Credentials, Proxy};
use simple_proxy_fuzz::input::Input;

#[rustfmt::skip]
const PIECES: &[&[u8]] = &[
    b"socks5://", b"socks5h://", b"SOCKS5://", b"http://", b"https://", b"HTTP://", b"ftp://",
    b"://", b":", b"//", b"/", b"@", b"?", b"#", b"%", b"%25", b"%40", b"%3A", b"%3a", b"%2F",
    b"%00", b"%0a", b"%ff", b"%E5%AF%86", b"%zz", b"%4", b"%C2%85", b"\xe5\xaf\x86", b"user",
    b"alice", b"secret", b"s3cr:t", b"pass word", b"password", b"port", b"known", b"bytes",
    b"Zq7Xv9Kw", b"USER:PASS@", b"user:secret@", b":secret@", b"user:@", b"user@", b"@@", b"[", b"]",
    b"[::1]", b"[::ffff:1.2.3.4]", b"[2001:DB8::1]", b"[fe80::1%25eth0]", b"::1", b"127.0.0.1",
    b"1.2.3", b"0x7f.1", b"example.com", b"a_b.example.", b"a..b", b"-", b".", b"_", b"xn--a",
    b"\xc3\xa9", b":80", b":0", b":65535", b":65536", b":+80", b":080", b": 80", b"80", b"1080",
    b" ", b"\t", b"\r\n", b"\n", b"\0", b"\x7f", b"\x1b[2J", b"*", b"***", b"\\", b"'", b"\"", b"{}",
];

fuzz_target!(|data: &[u8]| {
    let Some(input) = Input::new(data) else {
        return;
    };
    let bytes = input.message(&[PIECES], b"http://user:", b"@proxy.example:3128");
    let text = String::from_utf8_lossy(&bytes);
    match Authority::parse(&text) {
        Ok(authority) => check_authority(&authority),
        Err(error) => check_error(&text, error.say(Language::English)),
    }
    for parse in [Proxy::parse_socks5, Proxy::parse_http] {
        match parse(&text) {
            Ok(proxy) => check_proxy(&text, proxy, parse),
            Err(error) => check_error(&text, error.say(Language::English)),
        }
    }
});

/// Checks that the displayed address parses to the same, and is safe in a request.
fn check_authority(authority: &Authority) {
    let shown = authority.to_string();
    // A proxy may have the name `unix`; on its own, `unix:1080` is parsed as a path.
    if !shown.starts_with("unix:") || matches!(authority.host, Host::Unix(_)) {
        assert_eq!(
            Authority::parse(&shown).as_ref(),
            Ok(authority),
            "{shown:?}"
        );
    }
    if let Host::Unix(path) = &authority.host {
        // A path is displayed unchanged; it may hold any character except controls.
        assert!(path.starts_with('/') && !path.chars().any(char::is_control));
        return;
    }
    assert!(shown.bytes().all(|b| b.is_ascii_graphic()), "{shown:?}");
    assert!(authority.port > 0);
    if let Host::Name(name) = &authority.host {
        assert!(
            name.len() <= 254 && !name.contains([':', '@', '/', '[', '%']),
            "{name:?}"
        );
    }
}

fn check_proxy(text: &str, proxy: Proxy, parse: fn(&str) -> Result<Proxy, Words>) {
    check_authority(&proxy.authority);
    let shown = proxy.to_string();
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    assert_eq!(format!("{proxy:?}"), shown);
    assert_eq!(format!("{:?}", Route::Direct), "Direct");

    let authority = &proxy.authority;
    let Some(Credentials { user, password }) = &proxy.credentials else {
        assert!(!text.contains('@'));
        let url = format!("{}://{authority}", proxy.scheme.name());
        assert_eq!(parse(&url), Ok(proxy.clone()), "{url:?}");
        return;
    };
    for value in [user, password] {
        assert!(!value.chars().any(char::is_control), "{value:?}");
    }
    // The displayed URL must not depend on the secret, which is the password, or the user if
    // there is no password. Searching for the secret would fail if it equals the host.
    let mut other = proxy.clone();
    other.credentials = Some(match password.is_empty() {
        true => Credentials {
            user: "another".to_owned(),
            password: String::new(),
        },
        false => Credentials {
            user: user.clone(),
            password: "another".to_owned(),
        },
    });
    assert_eq!(other.to_string(), shown);
    assert_eq!(format!("{other:?}"), format!("{proxy:?}"));
    let encode = |value: &str| utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
    let (user, password) = (encode(user), encode(password));
    let url = format!("{}://{user}:{password}@{authority}", proxy.scheme.name());
    assert_eq!(parse(&url), Ok(proxy.clone()), "{url:?}");
}

/// The errors for URLs without a secret, which cannot reveal one.
fn known_words() -> &'static [String] {
    static KNOWN: OnceLock<Vec<String>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut known = Vec::new();
        let long = "x".repeat(256);
        let urls = [
            "",
            "x://a",
            "socks4://a",
            "none",
            "http://a",
            "socks5://a",
            "a/b",
            "a/@",
            "a:",
            "a:0",
            "[",
            "[]",
            "[::1]1",
            "[::1%1]:1",
            "[fe80::1%]:1",
            "unix:",
            "unix:/\u{1}",
            "socks5://localhost/a/",
            "http://a/b",
            "http://localhost/a",
            "socks5://unix:a",
            "::1",
            "a b",
            ":1",
            "u:%@a",
            "%:p@a",
            "%ff:p@a",
            "u:%ff@a",
            "%00:p@a",
            "u:%00@a",
            "u@a",
            ":p@a",
            "a%3A:b@a",
            "a,b",
            "unix:/a,unix:/b",
        ];
        for url in urls.map(str::to_owned).into_iter().chain([
            format!("{long}:p@a"),
            format!("u:{long}@a"),
            format!("unix:/{long}"),
        ]) {
            let errors = [
                Authority::parse(&url).err(),
                Proxy::parse_socks5(&url).err(),
                Proxy::parse_http(&url).err(),
            ];
            let errors = errors.iter().flatten();
            known.extend(errors.map(|error| error.say(Language::English).to_owned()));
        }
        known
    })
}

/// Checks that no error repeats four bytes of what may be a password.
fn check_error(text: &str, error: &str) {
    assert!(
        !error.is_empty() && !error.chars().any(char::is_control),
        "{error:?}"
    );
    if known_words().iter().any(|known| known == error) {
        return;
    }
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let Some((userinfo, _)) = rest.rsplit_once('@') else {
        return;
    };
    let password = userinfo
        .split_once(':')
        .map_or(userinfo, |(_, password)| password);
    let decoded: Vec<u8> = percent_decode_str(password).collect();
    for secret in [password.as_bytes(), &decoded] {
        for part in secret.windows(4) {
            let repeated = error.as_bytes().windows(4).any(|window| window == part);
            assert!(
                !repeated,
                "{error:?} repeats {:?}",
                part.escape_ascii().to_string()
            );
        }
    }
}
