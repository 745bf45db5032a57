//! The two origins of an exchange (RFC 6454): the outer one, under which the client reaches the
//! proxy, and the inner one, under which the upstream is reached. Translates the fields that name
//! either when a head is forwarded. Owns which fields those are and what becomes of each, except
//! cookies; leaves every other field, and every body, unchanged.

use std::ops::Range;

use crate::config::{Config, Forwarded, Rewrite};
use crate::http::cookies::write_cookie;
use crate::http::fields::{begin_field, values, write_field};
use crate::http::guard::is_safe;
use crate::http::origin::{authority_end, outer_of, says_https, split_url, Origin};
use crate::http::policies::write_policies;
use crate::http::refresh::url_range;
use crate::http::request::RequestHead;

/// What the configuration says about the two origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// The proxy listens with TLS.
    outer_https: bool,
    /// The upstream is reached over TLS.
    inner_https: bool,
    /// X-Forwarded-Proto is trusted: it comes from a front proxy that terminates TLS.
    believes_proto: bool,
    /// The upstream gets another Host than the client sent.
    hides_host: bool,
    /// Strict-Transport-Security is removed: it would bind the whole host to TLS, although the
    /// proxy serves only one of its ports, and not 443.
    drops_hsts: bool,
    /// The Hosts that are safe because `--allow-host` lists them.
    allow_hosts: Vec<String>,
}

impl Naming {
    /// None if the two origins are the same for every request, or translation is off: no field
    /// is translated then.
    pub fn of(config: &Config) -> Option<Naming> {
        let Rewrite {
            map_off,
            request_fields,
            ..
        } = &config.rewrite;
        let naming = Naming::new(config);
        let may_differ = naming.outer_https
            || naming.inner_https
            || naming.hides_host
            || request_fields.replaces("X-Forwarded-Proto");
        (!map_off && may_differ).then_some(naming)
    }

    /// What the configuration says, even if the two origins cannot differ.
    pub fn new(config: &Config) -> Naming {
        Naming {
            outer_https: config.listen.is_tls(),
            inner_https: config.tls.is_some(),
            believes_proto: config.rewrite.forwarded != Forwarded::Replace,
            hides_host: config.rewrite.host.is_some(),
            drops_hsts: config.listen.is_tls() && config.listen.port != 443,
            allow_hosts: config.access.hosts.clone(),
        }
    }
}

/// The two origins of one exchange. Reused for all requests of a connection, which saves
/// allocations.
#[derive(Debug, Default)]
pub struct Names {
    outer: Origin,
    inner: Origin,
    /// The upstream is reached without TLS, so it may name itself by http:// even if
    /// X-Forwarded-Proto tells it https.
    inner_is_plain: bool,
    /// Whether the two origins differ, so that fields are translated.
    differ: bool,
    /// Whether the client's Host is safe, so that request fields that name it are translated.
    safe: bool,
    drops_hsts: bool,
}

impl Names {
    /// Sets the origins for a request. `authority` is the Host sent upstream for a request
    /// without one. Such a request has no outer origin, so nothing is translated for it.
    pub fn set(
        &mut self,
        naming: &Naming,
        rewrite: &Rewrite,
        head: &RequestHead<'_, '_>,
        authority: &str,
    ) {
        let (outer_https, named) = outer_of(head, naming.outer_https, naming.believes_proto);
        self.drops_hsts = naming.drops_hsts;
        let Some(named) = named else {
            self.differ = false;
            return;
        };
        let told_https = head.proto_sent(rewrite, naming.outer_https);
        let told_https = told_https.and_then(says_https).unwrap_or(false);
        self.outer.set(outer_https, named);
        let inner_https = naming.inner_https || told_https;
        self.inner
            .set(inner_https, head.host_sent(rewrite, authority));
        self.inner_is_plain = !naming.inner_https;
        self.differ = !self.outer.is_same_as(&self.inner);
        // Without --host-header the upstream gets the client's Host and can check it itself.
        self.safe = !naming.hides_host || is_safe(named, &naming.allow_hosts);
    }

    /// Whether a request field is forwarded untranslated only because the Host is not safe.
    pub fn withholds(&self, head: &RequestHead<'_, '_>) -> bool {
        let named = |name| values(head.fields(), name).any(|value| self.outer_end(value).is_some());
        self.differ && !self.safe && ["origin", "referer", "destination"].into_iter().any(named)
    }

    /// The outer and the inner origin, as browsers write them.
    pub fn texts(&self) -> (String, String) {
        let text = |origin: &Origin| {
            let mut out = Vec::new();
            origin.write(&mut out);
            String::from_utf8_lossy(&out).into_owned()
        };
        (text(&self.outer), text(&self.inner))
    }

    /// Whether a URL begins with the outer origin.
    pub fn is_outer(&self, url: &[u8]) -> bool {
        self.outer_end(url).is_some()
    }

    /// Where the outer origin ends in a URL that begins with it.
    fn outer_end(&self, url: &[u8]) -> Option<usize> {
        let (https, authority, end) = split_url(url)?;
        (https == self.outer.https && self.outer.has_authority(https, authority)).then_some(end)
    }

    /// Appends a request field for the upstream: in Origin, Referer and Destination (RFC 4918
    /// §10.3), an outer origin at the beginning is replaced by the inner one.
    pub fn write_request_field(&self, out: &mut Vec<u8>, name: &str, value: &[u8]) {
        let names_us = match name.len() {
            6 => name.eq_ignore_ascii_case("origin"),
            7 => name.eq_ignore_ascii_case("referer"),
            11 => name.eq_ignore_ascii_case("destination"),
            _ => false,
        };
        if names_us && self.differ && self.safe {
            if let Some(end) = self.outer_end(value) {
                begin_field(out, name);
                self.inner.write(out);
                out.extend_from_slice(&value[end..]);
                out.extend_from_slice(b"\r\n");
                return;
            }
        }
        write_field(out, name, value);
    }

    /// Appends a response field for the client, or nothing if it holds for the inner origin
    /// only.
    pub fn write_response_field(&self, out: &mut Vec<u8>, name: &str, value: &[u8]) {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let hsts = name.len() == 25 && is("strict-transport-security");
        if hsts && self.drops_hsts {
            return;
        }
        if !self.differ {
            return write_field(out, name, value);
        }
        let whole = 0..value.len();
        match name.len() {
            8 if is("location") => self.write_url(out, name, value, whole),
            16 if is("content-location") => self.write_url(out, name, value, whole),
            27 if is("access-control-allow-origin") => self.write_url(out, name, value, whole),
            7 if is("refresh") => self.write_url(out, name, value, url_range(value)),
            10 if is("set-cookie") => {
                let hosts = (&*self.inner.host, &*self.outer.host);
                write_cookie(out, name, value, hosts, self.loses_tls());
            }
            // RFC 7838 and RFC 6797: they hold for the origin that sent them.
            7 if is("alt-svc") => {}
            25 if hsts => {}
            23 if self.loses_tls() && is("content-security-policy") => {
                write_policies(out, name, value);
            }
            _ => write_field(out, name, value),
        }
    }

    /// Whether the outer origin is http and the inner one https.
    fn loses_tls(&self) -> bool {
        self.inner.https && !self.outer.https
    }

    /// Appends a field whose value has a URL in the range `at`.
    fn write_url(&self, out: &mut Vec<u8>, name: &str, value: &[u8], at: Range<usize>) {
        let (before, url) = (&value[..at.start], &value[at.clone()]);
        begin_field(out, name);
        out.extend_from_slice(before);
        let mut rest = &value[at.start..];
        if url.starts_with(b"//") {
            // RFC 3986 §4.2: such a reference has the scheme of the request.
            let end = authority_end(url, 2);
            if self.inner.has_authority(self.inner.https, &url[2..end]) {
                out.extend_from_slice(b"//");
                self.outer.write_authority(out);
                rest = &rest[end..];
            }
        } else if let Some((https, authority, end)) = split_url(url) {
            let is_inner = https == self.inner.https || (self.inner_is_plain && !https);
            if is_inner && self.inner.has_authority(https, authority) {
                self.outer.write(out);
                rest = &rest[end..];
            }
        }
        out.extend_from_slice(rest);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edits::{FieldEdit, FieldEdits};
    use crate::http::fields::no_fields;

    /// The settings and the fields of a request that determine the two origins.
    #[derive(Clone, Copy)]
    struct Case {
        listens_with_tls: bool,
        tls: bool,
        host_header: Option<&'static str>,
        forwarded: Forwarded,
        allow: &'static str,
        /// The client's Host.
        host: &'static str,
        /// Further fields of the request.
        fields: &'static str,
    }

    /// A client at `http://localhost:8080`, an upstream with TLS, Host kept.
    const KEPT: Case = Case {
        listens_with_tls: false,
        tls: true,
        host_header: None,
        forwarded: Forwarded::Off,
        allow: "",
        host: "localhost:8080",
        fields: "",
    };

    /// The same, with another Host for the upstream.
    const RENAMED: Case = Case {
        host_header: Some("App.example.com"),
        ..KEPT
    };

    /// Without TLS anywhere.
    const PLAIN: Case = Case { tls: false, ..KEPT };

    impl Case {
        fn names(&self) -> (Names, bool) {
            let naming = Naming {
                outer_https: self.listens_with_tls,
                inner_https: self.tls,
                believes_proto: self.forwarded != Forwarded::Replace,
                hides_host: self.host_header.is_some(),
                drops_hsts: self.listens_with_tls,
                allow_hosts: vec![self.allow.to_owned()],
            };
            let rewrite = Rewrite {
                host: self.host_header.map(str::to_owned),
                forwarded: self.forwarded,
                ..Rewrite::default()
            };
            let (host, more) = (self.host, self.fields);
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
            let (mut canonical, mut fields) = (Vec::new(), no_fields());
            let head = RequestHead::parse(head.as_bytes(), &mut canonical, &mut fields, &[]);
            let head = head.unwrap_or_else(|rejection| panic!("{rejection:?}"));
            let mut names = Names::default();
            names.set(&naming, &rewrite, &head, "default.example");
            let withholds = names.withholds(&head);
            (names, withholds)
        }

        fn request(&self, name: &str, value: &str) -> String {
            let mut out = Vec::new();
            let (names, _) = self.names();
            names.write_request_field(&mut out, name, value.as_bytes());
            written(&out, name)
        }

        /// The value that a response field is sent with, or `(dropped)`.
        fn response(&self, name: &str, value: &str) -> String {
            let mut out = Vec::new();
            let (names, _) = self.names();
            names.write_response_field(&mut out, name, value.as_bytes());
            written(&out, name)
        }
    }

    fn written(out: &[u8], name: &str) -> String {
        let line = std::str::from_utf8(out).expect("text");
        let value = line.strip_prefix(&format!("{name}: "));
        let value = value.and_then(|value| value.strip_suffix("\r\n"));
        match value {
            Some(value) => value.to_owned(),
            None => {
                assert_eq!(line, "");
                "(dropped)".to_owned()
            }
        }
    }

    /// Values that begin with the origin, and values that only look like it. `O` stands for the
    /// origin.
    const TAILS: [(&str, bool); 26] = [
        ("O", true),
        ("O/", true),
        ("O/a?b#c", true),
        ("O?b", true),
        ("O#c", true),
        ("O:", false),
        ("O.", false),
        ("O.evil/", false),
        ("Oevil/", false),
        ("O@evil/", false),
        ("O:80@evil/", false),
        ("O:pass@evil/", false),
        ("O\\evil", false),
        ("O\\@evil/", false),
        ("O,evil/", false),
        ("O evil", false),
        ("O%2eevil/", false),
        ("xO/", false),
        (" O/", false),
        ("null", false),
        ("*", false),
        ("/a", false),
        ("", false),
        ("//", false),
        ("https:///a", false),
        ("https:a", false),
    ];

    #[test]
    fn request_fields_that_name_the_outer_origin() {
        for name in ["Origin", "referer", "DESTINATION"] {
            for (tail, translated) in TAILS {
                let came = tail.replace('O', "http://localhost:8080");
                // After `O:`, the port is 8080 followed by an empty one, which is malformed.
                let expected = match translated {
                    true => tail.replace('O', "https://app.example.com"),
                    false => came.clone(),
                };
                assert_eq!(RENAMED.request(name, &came), expected, "{name}: {came}");
            }
        }
        for (value, expected) in [
            ("HTTP://LOCALHOST:8080/A", "https://app.example.com/A"),
            ("http://localhost:08080/", "https://app.example.com/"),
            ("https://localhost:8080", "https://localhost:8080"),
            ("http://localhost", "http://localhost"),
            ("http://localhost:80801", "http://localhost:80801"),
            ("http://localhost:x", "http://localhost:x"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("ws://localhost:8080", "ws://localhost:8080"),
            ("http://user@localhost:8080/", "http://user@localhost:8080/"),
            (
                "http://localhost:8080 http://evil.example",
                "http://localhost:8080 http://evil.example",
            ),
        ] {
            assert_eq!(RENAMED.request("Origin", value), expected, "{value}");
        }
        // Other fields are not translated.
        for name in ["Cookie", "X-Origin", "Location", "Host"] {
            let value = "http://localhost:8080/";
            assert_eq!(RENAMED.request(name, value), value);
        }
    }

    #[test]
    fn origins_of_a_request() {
        let told = |fields| Case { fields, ..KEPT };
        let front = Case {
            host: "front.example",
            fields: "X-Forwarded-Proto: https\r\n",
            ..RENAMED
        };
        let allowed = Case {
            allow: "front.example",
            ..front
        };
        let (https, http) = ("https://localhost:8080/", "http://localhost:8080/");
        for (case, value, expected) in [
            (KEPT, http, https),
            (told("X-Forwarded-Proto: http\r\n"), http, https),
            (told("X-Forwarded-Proto: ws\r\n"), http, https),
            (told("X-Forwarded-Proto: gopher\r\n"), http, https),
            (told("X-Forwarded-Proto: \r\n"), http, https),
            // Both origins are https then, so that nothing is translated.
            (told("X-Forwarded-Proto: https\r\n"), http, http),
            (told("X-Forwarded-Proto: WSS\r\n"), http, http),
            (told("X-Forwarded-Proto: https, http\r\n"), http, http),
            (told("X-Forwarded-Proto: http, https\r\n"), http, https),
            (
                told("X-Forwarded-Proto: http\r\nX-Forwarded-Proto: https\r\n"),
                http,
                https,
            ),
            (
                Case {
                    forwarded: Forwarded::Replace,
                    ..told("X-Forwarded-Proto: https\r\n")
                },
                http,
                https,
            ),
            (
                Case {
                    forwarded: Forwarded::Append,
                    ..told("X-Forwarded-Proto: https\r\n")
                },
                http,
                http,
            ),
            // --listen-cert and an upstream without TLS, which gets no X-Forwarded-Proto.
            (
                Case {
                    listens_with_tls: true,
                    ..PLAIN
                },
                https,
                http,
            ),
            // --forwarded tells it https, so that the two origins are the same.
            (
                Case {
                    listens_with_tls: true,
                    forwarded: Forwarded::Replace,
                    ..PLAIN
                },
                https,
                https,
            ),
            // An X-Forwarded-Proto that Connection names is not forwarded.
            (
                Case {
                    tls: false,
                    host_header: Some("app.example.com"),
                    ..told("X-Forwarded-Proto: https\r\nConnection: x-forwarded-proto\r\n")
                },
                https,
                "http://app.example.com/",
            ),
            (
                Case {
                    host: "localhost",
                    ..KEPT
                },
                "http://localhost:80/",
                "https://localhost/",
            ),
            (
                Case {
                    host: "LocalHost:80",
                    ..KEPT
                },
                "http://localhost/",
                "https://localhost:80/",
            ),
            (
                Case {
                    host: "[::1]:8080",
                    ..RENAMED
                },
                "http://[0:0:0:0:0:0:0:1]:8080/",
                "https://app.example.com/",
            ),
            (
                Case {
                    host: "[::1]:8080",
                    host_header: Some("[2001:DB8::1]:443"),
                    ..RENAMED
                },
                "http://[::1]:8080/",
                "https://[2001:db8::1]/",
            ),
            (
                Case {
                    host_header: Some("app.example.com:8443"),
                    ..RENAMED
                },
                http,
                "https://app.example.com:8443/",
            ),
            // Untranslated under a Host that may be rebound, translated under a listed one.
            (front, "https://front.example/", "https://front.example/"),
            (
                allowed,
                "https://front.example/",
                "https://app.example.com/",
            ),
            (allowed, "http://front.example/", "http://front.example/"),
            (
                Case {
                    allow: "*",
                    ..front
                },
                "https://front.example:443/",
                "https://app.example.com/",
            ),
            (
                Case {
                    host: "localhost.evil.example:8080",
                    ..RENAMED
                },
                "http://localhost.evil.example:8080/",
                "http://localhost.evil.example:8080/",
            ),
            // Without --host-header the upstream gets the Host and can check it itself.
            (
                Case {
                    host: "rebound.example:8080",
                    ..KEPT
                },
                "http://rebound.example:8080/",
                "https://rebound.example:8080/",
            ),
            (
                Case {
                    host: "",
                    ..RENAMED
                },
                "http:///",
                "http:///",
            ),
        ] {
            let Case { host, fields, .. } = case;
            let got = case.request("Origin", value);
            assert_eq!(got, expected, "{value} of {host:?} with {fields:?}");
        }
    }

    #[test]
    fn untranslated_fields_of_an_unsafe_host_are_noticed() {
        let rebound = |fields| Case {
            host: "rebound.example:8080",
            fields,
            ..RENAMED
        };
        for (case, expected) in [
            (rebound("Origin: http://rebound.example:8080\r\n"), true),
            (rebound("Referer: http://rebound.example:8080/a\r\n"), true),
            (rebound("Origin: http://other.example\r\n"), false),
            (rebound(""), false),
            (
                Case {
                    allow: "rebound.example",
                    ..rebound("Origin: http://rebound.example:8080\r\n")
                },
                false,
            ),
            (
                Case {
                    fields: "Origin: http://localhost:8080\r\n",
                    ..RENAMED
                },
                false,
            ),
        ] {
            assert_eq!(case.names().1, expected, "{}", case.fields);
        }
    }

    #[test]
    fn urls_of_responses() {
        for name in [
            "Location",
            "content-location",
            "Access-Control-Allow-Origin",
        ] {
            for (tail, translated) in TAILS {
                // An empty port is the scheme's default, which is the port of this origin.
                let translated = translated || tail == "O:";
                let came = tail.replace('O', "https://app.example.com");
                let expected = match translated {
                    true => tail
                        .trim_end_matches(':')
                        .replace('O', "http://localhost:8080"),
                    false => came.clone(),
                };
                assert_eq!(RENAMED.response(name, &came), expected, "{name}: {came}");
                let came = came.replace("https://", "//");
                if tail.starts_with('O') {
                    let expected = expected.replace("http://localhost", "//localhost");
                    let expected = expected.replace("https://", "//");
                    assert_eq!(RENAMED.response(name, &came), expected, "{name}: {came}");
                }
            }
        }
        for (value, expected) in [
            ("HTTPS://APP.example.COM:443/A", "http://localhost:8080/A"),
            (
                "https://app.example.com:8443/",
                "https://app.example.com:8443/",
            ),
            // The inner origin is https, so that http is another one.
            ("http://app.example.com/", "http://app.example.com/"),
            ("//app.example.com:80/", "//app.example.com:80/"),
            ("//app.example.com:443/", "//localhost:8080/"),
            ("a/b", "a/b"),
            ("?https://app.example.com/", "?https://app.example.com/"),
        ] {
            assert_eq!(RENAMED.response("Location", value), expected, "{value}");
        }
        let https = "https://localhost:8080/x";
        assert_eq!(KEPT.response("Location", https), "http://localhost:8080/x");
        let at_80 = Case {
            host: "app.example.com",
            ..KEPT
        };
        for (value, expected) in [
            ("https://app.example.com/", "http://app.example.com/"),
            ("https://app.example.com:443/", "http://app.example.com/"),
            ("//app.example.com/", "//app.example.com/"),
        ] {
            assert_eq!(at_80.response("Location", value), expected, "{value}");
        }
        for value in ["https://app.example.com/", "http://localhost:8080/"] {
            assert_eq!(PLAIN.response("Location", value), value);
        }
    }

    #[test]
    fn a_plain_upstream_that_is_told_https() {
        let told = Case {
            tls: false,
            host: "front.example",
            fields: "X-Forwarded-Proto: https\r\n",
            ..RENAMED
        };
        for (value, expected) in [
            ("https://app.example.com/", "https://front.example/"),
            ("http://app.example.com/", "https://front.example/"),
            ("http://app.example.com:80/", "https://front.example/"),
            ("http://app.example.com:443/", "http://app.example.com:443/"),
            ("//app.example.com/", "//front.example/"),
        ] {
            assert_eq!(told.response("Location", value), expected, "{value}");
        }
        // With the client's Host the two origins are the same, and nothing is translated.
        let kept = Case {
            host_header: None,
            ..told
        };
        for value in ["https://front.example/", "http://front.example/"] {
            assert_eq!(kept.response("Location", value), value);
        }
        assert_eq!(kept.response("Alt-Svc", "h3=\":443\""), "h3=\":443\"");
    }

    #[test]
    fn refresh_and_cookies() {
        let refresh = RENAMED.response("Refresh", "0; url='https://app.example.com/x'");
        assert_eq!(refresh, "0; url='http://localhost:8080/x'");
        let refresh = RENAMED.response("Refresh", "0; url=//app.example.com/");
        assert_eq!(refresh, "0; url=//localhost:8080/");
        let cookie = "s=1; Domain=example.com; Secure";
        assert_eq!(RENAMED.response("Set-Cookie", cookie), "s=1");
        // With the client's Host, the Domain covers both origins, and TLS is lost all the same.
        let kept = Case {
            host: "app.example.com",
            ..KEPT
        };
        let domain = "s=1; Domain=example.com";
        assert_eq!(kept.response("Set-Cookie", domain), domain);
        assert_eq!(kept.response("Set-Cookie", cookie), "s=1");
        let front = Case {
            host: "front.example.com",
            fields: "X-Forwarded-Proto: https\r\n",
            ..RENAMED
        };
        assert_eq!(front.response("Set-Cookie", cookie), cookie);
    }

    #[test]
    fn fields_that_bind_the_inner_origin() {
        let (alt, hsts) = ("Alt-Svc", "Strict-Transport-Security");
        for name in [alt, hsts] {
            assert_eq!(KEPT.response(name, "max-age=1"), "(dropped)");
            assert_eq!(RENAMED.response(name, "max-age=1"), "(dropped)");
            assert_eq!(PLAIN.response(name, "max-age=1"), "max-age=1");
        }
        let both_with_tls = Case {
            listens_with_tls: true,
            ..KEPT
        };
        assert_eq!(both_with_tls.response(alt, "clear"), "clear");
        assert_eq!(both_with_tls.response(hsts, "max-age=1"), "(dropped)");
    }

    #[test]
    fn upgrade_insecure_requests_is_removed_where_tls_is_lost() {
        let value = "upgrade-insecure-requests";
        let got = RENAMED.response("Content-Security-Policy", value);
        assert_eq!(got, "(dropped)");
        let only = "Content-Security-Policy-Report-Only";
        assert_eq!(RENAMED.response(only, value), value);
        let front = Case {
            fields: "X-Forwarded-Proto: https\r\n",
            ..RENAMED
        };
        assert_eq!(front.response("Content-Security-Policy", value), value);
    }

    #[test]
    fn a_configured_x_forwarded_proto_sets_the_inner_scheme() {
        let edit = FieldEdit {
            name: "X-Forwarded-Proto".to_owned(),
            value: Some(b"https".to_vec()),
        };
        let rewrite = Rewrite {
            request_fields: FieldEdits(vec![edit]),
            ..Rewrite::default()
        };
        let naming = Naming {
            outer_https: false,
            inner_https: false,
            believes_proto: true,
            hides_host: false,
            drops_hsts: false,
            allow_hosts: Vec::new(),
        };
        let head = b"GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n";
        let (mut canonical, mut fields) = (Vec::new(), no_fields());
        let head = RequestHead::parse(head, &mut canonical, &mut fields, &[])
            .unwrap_or_else(|_| unreachable!());
        let mut names = Names::default();
        names.set(&naming, &rewrite, &head, "default.example");
        let mut out = Vec::new();
        names.write_request_field(&mut out, "Origin", b"http://localhost:8080");
        assert_eq!(out, b"Origin: https://localhost:8080\r\n");
    }
}
