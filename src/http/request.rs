//! Request heads (RFC 9112 §3): parses them and checks what is accepted. `request_line` owns the
//! request line, and `request_sent` the head that is sent upstream.

use std::borrow::Cow;

use crate::http::authentication::names_connection_scheme;
use crate::http::connection::ConnectionOptions;
use crate::http::fields::{content_length, is_chunked, values, CodingError, Fields, Header};
use crate::http::framing::Framing;
use crate::http::head::{Reading, Rules};
use crate::http::known::{Known, Present};
use crate::http::rejection::{bad, Rejection};
use crate::http::request_line::{self, target_of, Target};
use crate::http::syntax::{is_host, list, without_zone};

/// The rules for a request head of at most `max_bytes` bytes.
pub fn rules(max_bytes: usize) -> Rules {
    Rules {
        start_line: Some(request_line::check),
        reading: Reading::Strict,
        max_bytes,
    }
}

/// The most elements of TE and Upgrade that are examined, far more than any client needs.
pub(super) const MAX_ELEMENTS: usize = 32;

/// What is kept of a request after its head was consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The minor version: 0 or 1.
    pub minor: u8,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the client's connection persists after the response.
    pub persistent: bool,
    /// Whether the response has no body because the method is HEAD.
    pub is_head: bool,
    /// Whether the client waits for a 100 before it sends the body (RFC 9110 §10.1.1).
    pub expects_continue: bool,
    /// Whether the method is idempotent, so that the request may be sent again (RFC 9110
    /// §9.2.2).
    pub is_idempotent: bool,
    /// Whether it authenticates the upstream connection, not only itself.
    pub binds_connection: bool,
    /// The protocol to switch to, if one is requested and allowed.
    pub upgrade: Option<Protocol>,
}

impl Request {
    /// Whether bytes of a body, or of its framing, follow the head.
    pub(crate) fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::None | Framing::Length(0))
    }
}

/// A protocol to switch to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 6455.
    WebSocket,
    /// Another protocol that is allowed, as a token in lower case.
    Other(Box<str>),
}

impl Protocol {
    /// Its name in the log.
    pub(crate) fn name(&self) -> &str {
        match self {
            Protocol::WebSocket => "WebSocket",
            Protocol::Other(token) => token,
        }
    }

    /// Its token in the Upgrade field, in lower case.
    pub fn token(&self) -> &str {
        match self {
            Protocol::WebSocket => "websocket",
            Protocol::Other(token) => token,
        }
    }
}

/// A request head that has been checked, borrowed from the bytes received.
pub struct RequestHead<'b, 'f> {
    /// What is kept after the head was consumed.
    pub request: Request,
    /// The method.
    pub method: &'b str,
    /// The target in origin-form or asterisk-form. It may contain any byte above 0x7F.
    pub target: Cow<'b, [u8]>,
    /// The authority: that of an absolute-form target, else Host, without the zone of an IPv6
    /// address. None only for HTTP/1.0.
    pub host: Option<Cow<'b, [u8]>>,
    /// The fields as received.
    pub(super) fields: &'f [Header<'b>],
    /// Which of the interpreted fields are among them.
    pub(super) present: Present,
    /// The options of the Connection field.
    pub(super) options: ConnectionOptions,
}

impl<'b, 'f> RequestHead<'b, 'f> {
    /// Parses and checks a whole head. `upgrades` are the protocols that are allowed in addition
    /// to `websocket`. `canonical` must be empty; it is storage for the rare head that has to be
    /// rewritten for the parser.
    pub fn parse(
        bytes: &'b [u8],
        canonical: &'b mut Vec<u8>,
        fields: &'f mut Fields<'b>,
        upgrades: &[String],
    ) -> Result<RequestHead<'b, 'f>, Rejection> {
        let replaced = match request_line::is_plain(bytes) {
            true => None,
            false => request_line::replace(bytes, canonical),
        };
        let bytes = match replaced {
            Some(_) => canonical.as_slice(),
            None => bytes,
        };
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(bytes, fields) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(bad("the request head is malformed")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Rejection {
                    status: 431,
                    reason: "the request has too many fields",
                })
            }
            Err(httparse::Error::HeaderName) => return Err(bad("a field name is malformed")),
            Err(httparse::Error::HeaderValue) => return Err(bad("a field value is malformed")),
            Err(_) => return Err(bad("the request line is malformed")),
        }
        let (Some(method), Some(path), Some(minor)) = (parsed.method, parsed.path, parsed.version)
        else {
            return Err(bad("the request line is malformed"));
        };
        let target = replaced.unwrap_or(path.as_bytes());
        let fields: &'f [Header<'b>] = parsed.headers;

        let host = host_of(fields, minor)?;
        let (target, host) = match target_of(method, target)? {
            Target::Relative => (Cow::Borrowed(target), host),
            Target::Absolute { authority, target } => (target, Some(authority)),
        };
        let host = host.map(without_zone);
        let present = Present::of(fields);
        let is_framed = present.has(Known::ContentLength) || present.has(Known::TransferEncoding);
        let framing = match is_framed {
            true => framing_of(fields, minor)?,
            false => Framing::None,
        };
        let options = match present.has(Known::Connection) {
            true => ConnectionOptions::of(fields).map_err(bad)?,
            false => ConnectionOptions::default(),
        };
        // RFC 6455 §4.1: a WebSocket begins with a GET. One with a body is not accepted as such.
        let may_be_websocket =
            method == "GET" && matches!(framing, Framing::None | Framing::Length(0));
        let upgrade = (minor == 1 && options.upgrade)
            .then(|| upgrade_of(fields, may_be_websocket, upgrades))
            .flatten();
        Ok(RequestHead {
            request: Request {
                minor,
                framing,
                persistent: !options.close && (minor == 1 || options.keep_alive),
                is_head: method == "HEAD",
                // An Expect that Connection names is not forwarded, so no 100 will come.
                expects_continue: minor == 1
                    && present.has(Known::Expect)
                    && !options.drops("expect")
                    && values(fields, "expect")
                        .any(|value| value.eq_ignore_ascii_case(b"100-continue")),
                is_idempotent: matches!(
                    method,
                    "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
                ),
                binds_connection: present.has(Known::Authorization)
                    && names_connection_scheme(fields, "authorization"),
                upgrade,
            },
            method,
            target,
            host,
            fields,
            present,
            options,
        })
    }

    /// The fields as received.
    pub(crate) fn fields(&self) -> &'f [Header<'b>] {
        self.fields
    }
}

fn host_of<'b>(fields: &[Header<'b>], minor: u8) -> Result<Option<&'b [u8]>, Rejection> {
    let mut hosts = values(fields, "host");
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Err(bad("Host is repeated")),
        (Some(host), None) if host.is_empty() || is_host(host) => Ok(Some(host)),
        (Some(_), None) => Err(bad("Host is malformed")),
        (None, _) if minor == 0 => Ok(None),
        (None, _) => Err(bad("Host is missing")),
    }
}

/// The framing by RFC 9112 §6.3, with every ambiguous case refused.
fn framing_of(fields: &[Header<'_>], minor: u8) -> Result<Framing, Rejection> {
    let length = content_length(fields).map_err(bad)?;
    let chunked = is_chunked(fields);
    if length.is_some() && chunked != Ok(false) {
        return Err(bad("Transfer-Encoding and Content-Length together"));
    }
    if minor == 0 && chunked != Ok(false) {
        return Err(bad("Transfer-Encoding in HTTP/1.0"));
    }
    let chunked = chunked.map_err(|error| Rejection {
        status: match error {
            CodingError::Malformed => 400,
            // RFC 9112 §6.1
            CodingError::Unknown => 501,
        },
        reason: error.reason(),
    })?;
    match (chunked, length) {
        (true, _) => Ok(Framing::Chunked),
        (false, Some(length)) => Ok(Framing::Length(length)),
        (false, None) => Ok(Framing::None),
    }
}

/// The protocols that the Upgrade field names, as received.
pub(super) fn upgrades_asked<'f, 'b>(
    fields: &'f [Header<'b>],
) -> impl Iterator<Item = &'b [u8]> + use<'f, 'b> {
    let asked = values(fields, "upgrade").flat_map(list);
    asked.take(MAX_ELEMENTS)
}

/// The first requested protocol that is allowed (RFC 9110 §7.8).
fn upgrade_of(
    fields: &[Header<'_>],
    may_be_websocket: bool,
    upgrades: &[String],
) -> Option<Protocol> {
    upgrades_asked(fields).find_map(|token| {
        if token.eq_ignore_ascii_case(b"websocket") {
            return may_be_websocket.then_some(Protocol::WebSocket);
        }
        let mut named = upgrades.iter();
        let named = named.find(|u| u.as_bytes().eq_ignore_ascii_case(token))?;
        Some(Protocol::Other(named.to_ascii_lowercase().into()))
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::{Forwarded, Rewrite};
    use crate::edits::{FieldEdit, FieldEdits};
    use crate::http::fields::no_fields;

    fn parse(head: &str) -> Result<(Request, String), Rejection> {
        parse_with(head.as_bytes(), &Rewrite::default())
    }

    fn parse_with(head: &[u8], rewrite: &Rewrite) -> Result<(Request, String), Rejection> {
        let (mut canonical, mut fields) = (Vec::new(), no_fields());
        let head = RequestHead::parse(head, &mut canonical, &mut fields, &rewrite.upgrades)?;
        let mut out = Vec::new();
        let client = Some(IpAddr::from([192, 0, 2, 7]));
        head.write(&mut out, rewrite, client, false, "upstream.example", None);
        let text = String::from_utf8_lossy(&out).into_owned();
        Ok((head.request, text))
    }

    fn sent(head: &str) -> String {
        parse(head).expect(head).1
    }

    fn status(head: &str) -> u16 {
        parse(head).expect_err(head).status
    }

    #[test]
    fn names_keep_their_case_and_order_and_host_its_bytes() {
        let head = "GET /a?b=c HTTP/1.1\r\nacCEPT: */*\r\nHoSt: ExAmPle:8080\r\nX-A:  b c \r\n\r\n";
        assert_eq!(
            sent(head),
            "GET /a?b=c HTTP/1.1\r\nacCEPT: */*\r\nHoSt: ExAmPle:8080\r\nX-A: b c\r\n\r\n"
        );
    }

    #[test]
    fn hosts() {
        for host in [
            "a", "a:80", "a:", "", "[::1]", "[::1]:80", "a_b", "%41", "xn--a", "1.2.3.4",
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert!(parse(&head).is_ok(), "{host}");
        }
        for host in [
            "a,b", "a b", "u@a", "a:b", "a:+1", "a:65536", "a:080000", "[::1", "::1", "[a]", "a/b",
            "a\\b", "%4", "%zz", "a?b", "\u{e9}", "a:80:80",
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(status(&head), 400, "{host}");
        }
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n"), 400);
    }

    #[test]
    fn the_zone_of_an_ipv6_address_is_removed() {
        for (host, sent_as) in [
            ("[fe80::1%eth0]", "[fe80::1]"),
            ("[fe80::1%25eth0]:80", "[fe80::1]:80"),
            ("[fe80::1]", "[fe80::1]"),
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let expected = format!("GET / HTTP/1.1\r\nHost: {sent_as}\r\n\r\n");
            assert_eq!(sent(&head), expected);
        }
        for host in [
            "[fe80::1%]",
            "[%eth0]",
            "[fe80::1%e/h]",
            "[fe80::1%a]b]",
            "[a%b]",
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(status(&head), 400, "{host}");
        }
    }

    #[test]
    fn a_target_may_hold_any_byte_above_ascii_and_a_version_be_newer() {
        let high: Vec<u8> = (0x80..=0xff).collect();
        let with = |version: &str| {
            let version = format!(" HTTP/{version}\r\nHost: a\r\n\r\n");
            [b"GET /".as_slice(), &high, version.as_bytes()].concat()
        };
        for (version, minor) in [("1.1", 1), ("1.2", 1), ("1.9", 1), ("1.0", 0)] {
            let (mut canonical, mut fields) = (Vec::new(), no_fields());
            let head = with(version);
            let head = RequestHead::parse(&head, &mut canonical, &mut fields, &[]);
            let head = head.expect("valid");
            assert_eq!(head.request.minor, minor);
            let mut out = Vec::new();
            let client = Some(IpAddr::from([192, 0, 2, 7]));
            head.write(
                &mut out,
                &Rewrite::default(),
                client,
                false,
                "upstream.example",
                None,
            );
            assert_eq!(out, with("1.1"));
        }
    }

    #[test]
    fn targets() {
        for (line, expected) in [
            (
                "GET http://B.example:1/p?q",
                "GET /p?q HTTP/1.1\r\nHost: B.example:1",
            ),
            ("GET HTTP://b?q", "GET /?q HTTP/1.1\r\nHost: b"),
            ("GET https://b", "GET / HTTP/1.1\r\nHost: b"),
            ("OPTIONS http://b", "OPTIONS * HTTP/1.1\r\nHost: b"),
            ("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a"),
            ("GET //x", "GET //x HTTP/1.1\r\nHost: a"),
            ("GET ws://b:1/p", "GET /p HTTP/1.1\r\nHost: b:1"),
            ("GET WSS://b/p", "GET /p HTTP/1.1\r\nHost: b\r\n"),
            (
                "GET http://[fe80::1%25eth0]:1/",
                "GET / HTTP/1.1\r\nHost: [fe80::1]:1",
            ),
            (
                "GET /\u{e9}?\u{e9}",
                "GET /\u{e9}?\u{e9} HTTP/1.1\r\nHost: a",
            ),
        ] {
            let head = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(sent(&head).starts_with(expected), "{line}: {}", sent(&head));
        }
        for (line, expected) in [
            ("CONNECT a:443", 501),
            ("GET *", 400),
            ("GET a", 400),
            ("GET ftp://b/", 400),
            ("GET http://", 400),
            ("GET http://u@b/", 400),
            ("GET http:///p", 400),
            ("GET b:80", 400),
            ("GET wsx://b/", 400),
            ("GET /a#b", 400),
            ("GET http://b/#", 400),
            ("GET http://b#c", 400),
            ("GET \u{e9}", 400),
            ("GET http://\u{e9}/", 400),
            ("GET /\x7f", 400),
        ] {
            let head = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(status(&head), expected, "{line}");
        }
    }

    #[test]
    fn framing() {
        for (fields, expected) in [
            ("", Framing::None),
            ("Content-Length: 5\r\n", Framing::Length(5)),
            (
                "Content-Length: 5\r\ncontent-length: 5\r\n",
                Framing::Length(5),
            ),
            ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
            ("Transfer-Encoding:\tchunked\t\r\n", Framing::Chunked),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let (request, sent) = parse(&head).expect(&head);
            assert_eq!(request.framing, expected);
            let fields = sent.to_lowercase();
            assert!(fields.matches("content-length").count() <= 1, "{sent}");
        }
        for fields in [
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(status(&head), 501, "{fields:?}");
        }
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: gzip\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Transfer-Encoding\r\n : chunked\r\n",
            "X: a\x0bb\r\n",
            "X: a\0b\r\n",
            "X: a\rb\r\n",
            "X: a\x7fb\r\n",
            "X Y: a\r\n",
            ": a\r\n",
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(status(&head), 400, "{fields:?}");
        }
        assert_eq!(
            status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            400
        );
    }

    #[test]
    fn hop_by_hop_fields_are_not_forwarded() {
        let sent = sent(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop, host\r\nX-Hop: 1\r\n\
             Keep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: y\r\nTE: gzip, trailers\r\n\
             Upgrade: h2c\r\nX-End: 2\r\n\r\n",
        );
        assert_eq!(
            sent,
            "GET / HTTP/1.1\r\nHost: a\r\nX-End: 2\r\nTE: trailers\r\nConnection: TE\r\n\r\n"
        );
    }

    #[test]
    fn upgrades() {
        let upgrade = |line: &str, fields: &str, allowed: &[&str]| {
            let head = format!("{line}\r\nHost: a\r\n{fields}\r\n");
            let rewrite = Rewrite {
                upgrades: allowed.iter().map(|&t| t.to_owned()).collect(),
                ..Rewrite::default()
            };
            let (request, sent) = parse_with(head.as_bytes(), &rewrite).expect(&head);
            assert_eq!(
                request.upgrade.is_some(),
                sent.contains("Upgrade"),
                "{sent}"
            );
            request.upgrade
        };
        let get = "GET / HTTP/1.1";
        let websocket = "Connection: keep-alive, UPGRADE\r\nUpgrade: WebSocket\r\n";
        assert_eq!(
            upgrade(get, websocket, &[]).as_ref().map(Protocol::token),
            Some("websocket")
        );
        for (line, fields) in [
            (get, "Connection: Upgrade\r\nUpgrade: h2c\r\n"),
            (get, "Connection: Upgrade\r\nUpgrade: websocket/13\r\n"),
            (get, "Connection: keep-alive\r\nUpgrade: websocket\r\n"),
            (get, "Connection: Upgrade\r\n"),
            ("GET / HTTP/1.0", websocket),
            ("POST / HTTP/1.1", websocket),
            (
                get,
                "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n",
            ),
            (
                get,
                "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
            ),
        ] {
            assert_eq!(upgrade(line, fields, &[]), None, "{line} {fields}");
        }
        let tailored = "Connection: Upgrade\r\nUpgrade: Foo/2\r\n";
        for line in [get, "POST / HTTP/1.1", "PUT / HTTP/1.1", "HEAD / HTTP/1.1"] {
            for body in [
                "",
                "Content-Length: 5\r\n",
                "Transfer-Encoding: chunked\r\n",
            ] {
                let fields = format!("{tailored}{body}");
                let chosen = upgrade(line, &fields, &["foo/2"]);
                assert_eq!(
                    chosen.as_ref().map(Protocol::token),
                    Some("foo/2"),
                    "{line} {fields}"
                );
                assert_eq!(upgrade(line, &fields, &[]), None);
            }
        }
    }

    #[test]
    fn one_of_several_protocols_is_forwarded_and_the_rest_reported() {
        for (method, fields, allowed, sent, withheld) in [
            (
                "GET",
                "websocket\r\nUpgrade: WebSocket",
                "",
                "websocket",
                "",
            ),
            ("GET", "websocket, foo", "", "websocket", "foo"),
            ("GET", "h2c,, WebSocket ,websocket", "", "WebSocket", "h2c"),
            ("GET", "h2c\r\nUpgrade: websocket", "", "websocket", "h2c"),
            ("GET", "foo, websocket", "foo", "foo", "websocket"),
            (
                "POST",
                "websocket, Foo, bar",
                "foo",
                "Foo",
                "websocket, bar",
            ),
            ("POST", "websocket", "", "", "websocket"),
            ("GET", "h2c, web socket", "", "", "h2c, web socket"),
        ] {
            let head = format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {fields}\r\n\r\n"
            );
            let (mut canonical, mut room) = (Vec::new(), no_fields());
            let upgrades = [allowed.to_owned()];
            let head = RequestHead::parse(head.as_bytes(), &mut canonical, &mut room, &upgrades);
            let head = head.expect("valid");
            let told = head.upgrades_withheld().unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&told), withheld, "{fields}");
            let mut out = Vec::new();
            head.write_connection(&mut out);
            let expected = match sent {
                "" => String::new(),
                sent => format!("Upgrade: {sent}\r\nConnection: Upgrade\r\n"),
            };
            assert_eq!(String::from_utf8_lossy(&out), expected, "{fields}");
        }
    }

    #[test]
    fn http_1_0() {
        let (request, sent) =
            parse("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expect("valid");
        assert!(!request.persistent);
        assert_eq!(sent, "GET / HTTP/1.1\r\nHost: upstream.example\r\n\r\n");
        let (request, _) =
            parse("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").expect("valid");
        assert!(request.persistent);
    }

    #[test]
    fn a_configured_host_and_forwarded_fields() {
        let rewrite = Rewrite {
            host: Some("vhost.example".into()),
            forwarded: Forwarded::Replace,
            ..Rewrite::default()
        };
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: forged\r\nVia: 1.1 x\r\n\r\n";
        assert_eq!(
            parse_with(head, &rewrite).expect("valid").1,
            "GET / HTTP/1.1\r\nHost: vhost.example\r\nVia: 1.1 x\r\nX-Forwarded-For: 192.0.2.7\r\n\
             X-Forwarded-Host: a\r\nX-Forwarded-Proto: http\r\nVia: 1.1 simple-proxy\r\n\r\n"
        );
    }

    #[test]
    fn forwarded_fields_of_a_trusted_front_are_kept() {
        let append = Rewrite {
            forwarded: Forwarded::Append,
            ..Rewrite::default()
        };
        for (came, sent) in [
            (
                "",
                "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: a:80\r\n\
                 X-Forwarded-Proto: http\r\n",
            ),
            (
                "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2, 3.3.3.3\r\n",
                "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.7\r\n\
                 X-Forwarded-Host: a:80\r\nX-Forwarded-Proto: http\r\n",
            ),
            (
                "X-Forwarded-Host: f\r\nX-Forwarded-Proto: https\r\n",
                "X-Forwarded-Host: f\r\nX-Forwarded-Proto: https\r\n\
                 X-Forwarded-For: 192.0.2.7\r\n",
            ),
            (
                "X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_Proto: wss\r\n",
                "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: a:80\r\n\
                 X-Forwarded-Proto: http\r\n",
            ),
            // Fields that Connection names are replaced.
            (
                "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Host: f\r\nX-Forwarded-Proto: wss\r\n\
                 Connection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto\r\n",
                "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: a:80\r\n\
                 X-Forwarded-Proto: http\r\n",
            ),
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: a:80\r\n{came}\r\n");
            let (_, written) = parse_with(head.as_bytes(), &append).expect("valid");
            let via = "Via: 1.1 simple-proxy\r\n";
            let expected = format!("GET / HTTP/1.1\r\nHost: a:80\r\n{sent}{via}\r\n");
            assert_eq!(written, expected, "{came}");
        }
        let replace = Rewrite {
            forwarded: Forwarded::Replace,
            ..Rewrite::default()
        };
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\n\
                     x-forwarded_host: b\r\n\r\n";
        let (_, written) = parse_with(head, &replace).expect("valid");
        assert!(
            !written.contains("6.6.6.6") && !written.contains('_'),
            "{written}"
        );
    }

    #[test]
    fn configured_fields_come_last_and_replace_those_of_the_client() {
        let edit = |name: &str, value: Option<&str>| FieldEdit {
            name: name.to_owned(),
            value: value.map(|value| value.as_bytes().to_vec()),
        };
        let rewrite = Rewrite {
            forwarded: Forwarded::Replace,
            request_fields: FieldEdits(vec![
                edit("X-Remote-User", Some("me")),
                edit("X-Remote-User", Some("too")),
                edit("Accept", Some("")),
                edit("Cookie", None),
                edit("X-Forwarded-For", None),
                edit("X-Forwarded-Proto", Some("https")),
            ]),
            ..Rewrite::default()
        };
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX_Remote_User: root\r\nx-remote-user: root\r\n\
                     accept: */*\r\nCookie: a=1\r\nX-Other: b\r\nUpgrade: websocket\r\n\
                     Connection: Upgrade\r\n\r\n";
        let (_, written) = parse_with(head, &rewrite).expect("valid");
        assert_eq!(
            written,
            "GET / HTTP/1.1\r\nHost: a\r\nX-Other: b\r\nX-Forwarded-Host: a\r\n\
             Via: 1.1 simple-proxy\r\nX-Remote-User: me\r\nX-Remote-User: too\r\n\
             Accept: \r\nX-Forwarded-Proto: https\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\n\r\n"
        );
    }
}
