//! Request heads: which are accepted, and what is written upstream.
#![no_main]

use std::net::IpAddr;

use hyper::Uri;
use libfuzzer_sys::fuzz_target;
use simple_proxy::config::{Forwarded, Rewrite, MAX_FIELDS, MAX_HEAD_BYTES};
use simple_proxy::http::fields::no_fields;
use simple_proxy::http::framing::Framing;
use simple_proxy::http::request::{rules, Request, RequestHead};
use simple_proxy_fuzz::input::{find_head_in_any_split, Found, Input};
use simple_proxy_fuzz::pieces::{FRAMING, LINES};
use simple_proxy_fuzz::wire::{
    accepted_fields, connection_names, values, Body, PlainHead, HOP_BY_HOP,
};
use simple_proxy_fuzz::{by_name, hyper_peer, strict_peer, FieldList};

const AUTHORITY: &str = "upstream.example:8443";

/// The next request on the connection, which must be found after any body.
const SENTINEL: &[u8] = b"GET /sentinel HTTP/1.1\r\nHost: sentinel\r\n\r\n";

#[rustfmt::skip]
const START_LINES: &[&[u8]] = &[
    // Start lines.
    b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"HEAD /h HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n",
    b"POST / HTTP/1.0\r\n", b"OPTIONS * HTTP/1.1\r\n", b"GET http://b.example:1/p?q HTTP/1.1\r\n",
    b"OPTIONS http://b HTTP/1.1\r\n", b"GET HTTPS://[::1]:1?q HTTP/1.0\r\n", b"PRI * HTTP/2.0\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n", b"GET ", b"POST ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"X!# ",
    b" HTTP/1.1", b" HTTP/1.0", b" HTTP/1.2", b" HTTP/2.0", b" http/1.1", b"/", b"*", b"//x",
    b"/a?b=c#d", b"http://", b"https://", b"ftp://", b"http:/", b"?q", b"#f", b"/%2e%2e/",
    b"/\"<>\\^`{|}", b"user@",
    // Host and its values.
    b"Host: a\r\n", b"Host:\r\n", b"hOST: [::1]:80\r\n", b"Host: ", b"Host", b"a.example:80",
    b"[::1]", b"[::ffff:1.2.3.4]", b"[fe80::1%25eth0]", b"%41", b":80", b":", b":65536", b"b",
];

#[rustfmt::skip]
const FIELDS: &[&[u8]] = &[
    // Fields of one hop.
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: upgrade\r\n",
    b"Connection: Keep-Alive, Upgrade\r\n", b"Connection: x-hop, TE\r\n", b"Connection: host\r\n",
    b"Connection: content-length\r\n", b"Connection: transfer-encoding, via\r\n",
    b"Connection: expect, x-forwarded-for\r\n", b"Connection: close, x-hop\r\n", b"Connection: ",
    b"Connection", b"Proxy-Connection: keep-alive\r\n", b"Keep-Alive: timeout=5\r\n",
    b"Proxy-Authorization: Basic YTpi\r\n", b"TE: trailers\r\n", b"TE: gzip;q=0.5, Trailers\r\n",
    b"Trailer: X-Sum\r\n", b"Upgrade: websocket\r\n", b"Upgrade: WebSocket\r\n",
    b"Upgrade: foo/2\r\n", b"Upgrade: h2c\r\n", b"Upgrade: websocket, h2c\r\n", b"Upgrade: ",
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    // Others.
    b"X-Hop: 1\r\n", b"X-A:  b c \r\n", b"X:\r\n", b"Via: 1.1 x\r\n", b"X-Forwarded-For: f\r\n",
    b"x-forwarded-host: f\r\n", b"X-Forwarded-Proto: https\r\n", b"Expect: 100-continue\r\n",
    b"Cookie: a=b\r\n", b"A: b\r\n c\r\n", b"close", b"keep-alive", b"upgrade", b"trailers",
    b"websocket",
];

fuzz_target!(|data: &[u8]| {
    let Some(input) = Input::new(data) else {
        return;
    };
    let before: &[u8] = match input.options >> 6 {
        0 => b"POST / HTTP/1.1\r\nHost: a\r\n",
        1 => b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n",
        2 => b"GET / HTTP/1.0\r\n",
        _ => b"GET http://b HTTP/1.1\r\n",
    };
    let bytes = input.message(&[LINES, START_LINES, FRAMING, FIELDS], before, b"\r\n\r\n");
    let rewrite = Rewrite {
        host: input.option(0).then(|| "vhost.example".to_owned()),
        forwarded: match input.option(1) {
            true => Forwarded::Replace,
            false => Forwarded::Off,
        },
        upgrades: input
            .option(2)
            .then(|| "foo/2".to_owned())
            .into_iter()
            .collect(),
        ..Rewrite::default()
    };
    let parses = |head: &[u8], has_bare_lf: bool| {
        assert!(!has_bare_lf);
        let (mut canonical, mut fields) = (Vec::new(), no_fields());
        RequestHead::parse(head, &mut canonical, &mut fields, &rewrite.upgrades).is_ok()
    };
    let found = find_head_in_any_split(&bytes, &rules(MAX_HEAD_BYTES), input.splits, parses);
    let Some(Found { range, .. }) = found else {
        return;
    };
    let client: IpAddr = match input.option(3) {
        true => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
        false => [192, 0, 2, 7].into(),
    };
    let original = &bytes[range.clone()];
    let (mut canonical, mut fields) = (Vec::new(), no_fields());
    let head = RequestHead::parse(original, &mut canonical, &mut fields, &rewrite.upgrades);
    let head = head.unwrap_or_else(|rejection| panic!("parsed before: {rejection:?}"));
    let mut written = Vec::new();
    head.write(&mut written, &rewrite, Some(client), false, AUTHORITY, None);

    let host = match (&rewrite.host, head.host.as_deref()) {
        (Some(host), _) => host.as_bytes(),
        (None, host) => host.unwrap_or(AUTHORITY.as_bytes()),
    };
    // A zone has a meaning only on the client's machine.
    assert!(!(host.starts_with(b"[") && host.contains(&b'%')));
    let plain = PlainHead::of(&written);
    check_fields(&head, &accepted_fields(original), &plain, host, &rewrite);
    check_again(&head, &written, &plain, host, &rewrite);
    check_written_with_others(&head, &written, &plain);
    check_original_with_others(&head.request, &bytes, range);
});

/// Checks that the written head has the required fields, and the other fields exactly as received.
fn check_fields(
    head: &RequestHead<'_, '_>,
    original: &FieldList,
    written: &PlainHead,
    host: &[u8],
    rewrite: &Rewrite,
) {
    let request = &head.request;
    let hosts = values(original, "host").count();
    assert!(hosts == 1 || (hosts == 0 && request.minor == 0));
    assert!(head.method != "CONNECT" && original.len() <= MAX_FIELDS);
    assert_eq!(
        written.start,
        format!(
            "{} {} HTTP/1.1",
            head.method,
            String::from_utf8_lossy(&head.target)
        )
    );
    assert!(!head.target.contains(&b'#'));
    assert_eq!(written.values("host").collect::<Vec<_>>(), [host]);
    let lengths: Vec<_> = written.values("content-length").collect();
    let codings: Vec<_> = written.values("transfer-encoding").collect();
    match request.framing {
        Framing::None => assert!(lengths.is_empty() && codings.is_empty()),
        Framing::Length(n) => {
            assert_eq!(lengths, [n.to_string().as_bytes()]);
            assert!(codings.is_empty());
        }
        Framing::Chunked => {
            assert_eq!(codings, [b"chunked"]);
            assert!(lengths.is_empty());
        }
        Framing::UntilClose => panic!("a request never ends with its connection"),
    }

    let named = connection_names(original);
    let upgrade: Vec<_> = written.values("upgrade").collect();
    let connection: Vec<_> = written.values("connection").collect();
    let te: Vec<_> = written.values("te").collect();
    match &request.upgrade {
        Some(protocol) => {
            assert_eq!(upgrade.len(), 1);
            assert!(upgrade[0].eq_ignore_ascii_case(protocol.token().as_bytes()));
            let token = protocol.token();
            assert!(token == "websocket" || rewrite.upgrades.iter().any(|u| u == token));
            assert!(named.iter().any(|name| name == "upgrade"));
            assert_eq!(connection, [b"Upgrade"]);
            assert!(te.is_empty());
        }
        None if te.is_empty() => assert!(connection.is_empty() && upgrade.is_empty()),
        None => {
            assert_eq!((te, connection), (vec![&b"trailers"[..]], vec![&b"TE"[..]]));
            assert!(upgrade.is_empty());
        }
    }

    const FRAMING: [&str; 3] = ["host", "content-length", "transfer-encoding"];
    const FORWARDED: [&str; 3] = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
    let is_ours = |name: &str| {
        FRAMING.contains(&name)
            || HOP_BY_HOP.contains(&name)
            || (rewrite.forwarded == Forwarded::Replace
                && FORWARDED.contains(&&*name.replace('_', "-")))
    };
    let end_to_end = |(name, _): &&(String, Vec<u8>)| !is_ours(name);
    let is_dropped =
        |name: &String| named.contains(name) || (request.minor == 0 && name == "expect");
    let sent = original.iter().filter(end_to_end);
    let sent = sent.filter(|(name, _)| !is_dropped(name));
    let mut sent: FieldList = sent.cloned().collect();
    if rewrite.forwarded == Forwarded::Replace {
        let via = format!("1.{} simple-proxy", request.minor);
        sent.push(("via".to_owned(), via.into_bytes()));
        assert_eq!(written.values("x-forwarded-for").count(), 1);
        assert_eq!(
            written.values("x-forwarded-proto").collect::<Vec<_>>(),
            [b"http"]
        );
        assert!(written.values("x-forwarded-host").eq(head.host.as_deref()));
    }
    // A field named `close` may be kept or dropped: as an option, `close` does not name a field.
    let is_close = |(name, _): &&(String, Vec<u8>)| name != "close";
    let got = written.fields.iter().filter(end_to_end).filter(is_close);
    assert!(got.eq(sent.iter().filter(is_close)), "{:?}", written.fields);
}

/// Checks that the written head is accepted again, with the same meaning, and written again
/// unchanged.
fn check_again(
    head: &RequestHead<'_, '_>,
    written: &[u8],
    plain: &PlainHead,
    host: &[u8],
    rewrite: &Rewrite,
) {
    let found = find_head_in_any_split(written, &rules(MAX_HEAD_BYTES), 7, |_, _| true);
    if written.len() <= MAX_HEAD_BYTES {
        assert_eq!(found.map(|found| found.range), Some(0..written.len()));
    }
    if plain.fields.len() > MAX_FIELDS {
        return;
    }
    let (mut canonical, mut fields) = (Vec::new(), no_fields());
    let again = RequestHead::parse(written, &mut canonical, &mut fields, &rewrite.upgrades);
    let again = again.unwrap_or_else(|r| panic!("{r:?}: {}", written.escape_ascii()));
    let expected = Request {
        minor: 1,
        persistent: true,
        ..head.request.clone()
    };
    assert_eq!(again.request, expected);
    assert_eq!((again.method, &again.target), (head.method, &head.target));
    assert_eq!(again.host.as_deref(), Some(host));
    let as_it_is = Rewrite {
        upgrades: rewrite.upgrades.clone(),
        ..Rewrite::default()
    };
    let mut twice = Vec::new();
    let nowhere = [0, 0, 0, 0].into();
    again.write(&mut twice, &as_it_is, Some(nowhere), false, "nobody", None);
    assert_eq!(
        written.escape_ascii().to_string(),
        twice.escape_ascii().to_string()
    );
}

/// Checks that the other implementations read exactly this request with exactly this body, and
/// then the next one.
fn check_written_with_others(head: &RequestHead<'_, '_>, written: &[u8], plain: &PlainHead) {
    let framing = head.request.framing;
    let show = || written.escape_ascii().to_string();
    match strict_peer::request(written) {
        Ok(seen) => {
            assert_eq!(seen.length, written.len());
            // They do not distinguish a length of 0 from no framing field.
            let same = seen.framing == framing
                || (seen.framing == Framing::None && framing == Framing::Length(0));
            assert!(same, "{:?}: {}", seen.framing, show());
            assert_eq!(seen.fields, plain.fields);
        }
        // Targets are forwarded unchanged, and may violate RFC 3986.
        Err(http_net::HttpError::InvalidTarget) => {}
        Err(error) => panic!("{error:?}: {}", show()),
    }

    let target = std::str::from_utf8(&head.target);
    let target_is_known = target.is_ok_and(|target| target.parse::<Uri>().is_ok());
    let (seen, well) = hyper_peer::serve(with_body_and_sentinel(written, framing));
    let Some(first) = seen.first() else {
        // hyper refuses the two largest lengths, which it uses as markers.
        let is_endless = matches!(framing, Framing::Length(n) if n > u64::MAX - 2);
        assert!(!target_is_known || is_endless, "{}", show());
        return;
    };
    let target = String::from_utf8_lossy(&head.target);
    assert_eq!(first.start, format!("{} {target}", head.method));
    assert!(first.is_1_1);
    assert_eq!(first.fields, by_name(plain.fields.clone()));
    check_boundary(&seen, well, framing, true, &show);
}

/// Checks the received head: the other implementations may refuse it, but must not see it end
/// elsewhere.
fn check_original_with_others(request: &Request, bytes: &[u8], range: std::ops::Range<usize>) {
    let framing = request.framing;
    let show = || bytes[..range.end].escape_ascii().to_string();
    if let Ok(seen) = strict_peer::request(&bytes[range.clone()]) {
        assert_eq!(seen.length, range.len(), "{}", show());
        let same = seen.framing == framing
            || (seen.framing == Framing::None && framing == Framing::Length(0));
        assert!(same, "{:?}: {}", seen.framing, show());
    }
    let (seen, well) = hyper_peer::serve(with_body_and_sentinel(&bytes[..range.end], framing));
    if !seen.is_empty() {
        check_boundary(&seen, well, framing, false, &show);
    }
}

fn with_body_and_sentinel(head: &[u8], framing: Framing) -> Vec<u8> {
    let mut sent = head.to_vec();
    if let Some(body) = Body::of(framing) {
        sent.extend_from_slice(&body.wire);
    }
    sent.extend_from_slice(SENTINEL);
    sent
}

fn check_boundary(
    seen: &[hyper_peer::Message],
    well: bool,
    framing: Framing,
    goes_on: bool,
    show: &dyn Fn() -> String,
) {
    let Some(body) = Body::of(framing) else {
        let Framing::Length(length) = framing else {
            unreachable!("only a length is ever too long");
        };
        assert_eq!(seen[0].length, Some(length), "{}", show());
        assert_eq!(seen.len(), 1);
        return;
    };
    assert!(well, "{seen:?}: {}", show());
    assert!(seen[0].is_whole, "{}", show());
    assert_eq!(seen[0].content, body.content, "{}", show());
    match &seen[1..] {
        // The request itself asked for a close.
        [] => assert!(!goes_on, "{}", show()),
        [sentinel] => {
            assert_eq!(sentinel.start, "GET /sentinel", "{}", show());
            assert!(sentinel.is_whole && sentinel.content.is_empty());
        }
        _ => panic!("{seen:?}: {}", show()),
    }
}
