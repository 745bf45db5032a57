//! Response heads: which are accepted, and what is written to the client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use simple_proxy::config::{MAX_RESPONSE_FIELDS, MAX_RESPONSE_HEAD_BYTES};
use simple_proxy::http::framing::Framing;
use simple_proxy::http::request::{Protocol, Request};
use simple_proxy::http::response::{read, Changes, ResponseHead, RULES};
use simple_proxy_fuzz::hyper_peer::{Answer, Asked, Message};
use simple_proxy_fuzz::input::{find_head_in_any_split, Found, Input};
use simple_proxy_fuzz::pieces::{FRAMING, LINES};
use simple_proxy_fuzz::wire::{
    connection_names, lenient_fields, values, Body, PlainHead, HOP_BY_HOP,
};
use simple_proxy_fuzz::{by_name, hyper_peer, strict_peer, FieldList};

#[rustfmt::skip]
const START_LINES: &[&[u8]] = &[
    // Status lines.
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200\r\n", b"HTTP/1.1 200 \r\n", b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 304 Not Modified\r\n", b"HTTP/1.1 206 P\r\n",
    b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 103 Early Hints\r\n", b"HTTP/1.1 199 x\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n", b"HTTP/1.0 101 x\r\n", b"HTTP/1.0 304 x\r\n",
    b"HTTP/1.1 426 Upgrade Required\r\n", b"HTTP/1.1 999 x\r\n", b"HTTP/1.1 600 x\r\n",
    b"HTTP/1.1 099 x\r\n", b"HTTP/1.1 2000 x\r\n", b"HTTP/1.1 20 x\r\n", b"HTTP/2.0 200 OK\r\n",
    b"HTTP/1.1  200 OK\r\n", b"HTTP/1.1\t200 OK\r\n", b"HTTP/1.1 407 P\r\n", b"HTTP/1.1 ",
    b"HTTP/1.0 ", b"HTTP/1.", b"2", b"3", b" OK",
];

#[rustfmt::skip]
const FIELDS: &[&[u8]] = &[
    // Fields of one hop.
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: upgrade\r\n",
    b"Connection: Keep-Alive, Upgrade\r\n", b"Connection: x-hop, TE\r\n",
    b"Connection: content-length\r\n", b"Connection: transfer-encoding, via\r\n",
    b"Connection: set-cookie, x-hop\r\n", b"Connection: close, x-hop\r\n", b"Connection: ",
    b"Connection", b"Proxy-Connection: keep-alive\r\n", b"Keep-Alive: timeout=5\r\n",
    b"Proxy-Authenticate: Basic realm=x\r\n", b"Proxy-Authentication-Info: x\r\n",
    b"Trailer: X-Sum\r\n", b"Upgrade: websocket\r\n", b"Upgrade: WebSocket\r\n", b"Upgrade: ,\r\n",
    b"Upgrade: h2c\r\n", b"Upgrade: websocket, h2c\r\n", b"Upgrade: ", b"Upgrade:\r\n",
    // Others.
    b"X-Hop: 1\r\n", b"X-A:  b c \r\n", b"X:\r\n", b"Via: 1.1 x\r\n", b"Set-Cookie: a=b\r\n",
    b"set-cookie: c=d\r\n", b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n", b"A: b\r\n c\r\n",
    b"Link: </a>; rel=preload\r\n", b"ETag: \"x\"\r\n", b"close", b"keep-alive", b"upgrade",
    b"websocket",
];

fuzz_target!(|data: &[u8]| {
    let Some(input) = Input::new(data) else {
        return;
    };
    let before: &[u8] = match input.options >> 6 {
        0 => b"HTTP/1.1 200 OK\r\n",
        1 => b"HTTP/1.0 200 OK\r\n",
        2 => b"HTTP/1.1 304 Not Modified\r\n",
        _ => b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n",
    };
    let bytes = input.message(&[LINES, START_LINES, FRAMING, FIELDS], before, b"\r\n\r\n");
    let asked = Asked {
        is_1_1: !input.option(0),
        is_head: input.option(1),
        upgrade: input.option(2) && !input.option(0) && !input.option(1),
    };
    let via = input.option(3);
    let request = Request {
        minor: asked.is_1_1.into(),
        framing: Framing::None,
        persistent: true,
        is_head: asked.is_head,
        expects_continue: false,
        is_idempotent: true,
        binds_connection: false,
        upgrade: asked.upgrade.then_some(Protocol::WebSocket),
    };
    let parses = |head: &[u8], lf: bool| read(head, lf, &request, |_| ()).is_ok();
    let found = find_head_in_any_split(&bytes, &RULES, input.splits, parses);
    let Some(Found { range, has_bare_lf }) = found else {
        return;
    };
    let original = &bytes[range];
    let checked = read(original, has_bare_lf, &request, |mut head| {
        head.end_is_doubtful = input.option(5);
        check(&head, original, &input, asked, &request, via);
    });
    checked.unwrap_or_else(|problem| panic!("parsed before: {problem}"));
});

/// Handles the head as the forwarding of the program does, and checks the result.
fn check(
    head: &ResponseHead<'_, '_>,
    original: &[u8],
    input: &Input<'_>,
    asked: Asked,
    request: &Request,
    via: bool,
) {
    let came = lenient_fields(original);
    if head.status == 101 && !(asked.upgrade && head.switches_to("websocket")) {
        return;
    }
    // Other implementations may read faulty heads differently.
    let is_chunked = values(&came, "transfer-encoding").next().is_some();
    let is_old = original.starts_with(b"HTTP/1.0");
    assert!(!(head.persistent && (head.was_faulty || is_old)));
    let has_both = is_chunked && values(&came, "content-length").next().is_some();
    let has_bare_lf = original.windows(2).any(|w| w[0] != b'\r' && w[1] == b'\n');
    assert!(head.was_faulty || !(has_both || has_bare_lf));
    if !head.was_faulty && !(is_old && is_chunked) {
        check_original_with_others(head, original, asked);
    }
    if head.is_interim() && !asked.is_1_1 {
        return;
    }
    let is_final = !head.is_interim() && head.status != 101;
    let framing = head.downstream_framing(request);
    let close = is_final && (input.option(4) || framing == Framing::UntilClose);
    let mut written = Vec::new();
    let changes = Changes {
        via,
        ..Changes::default()
    };
    head.write(&mut written, request, close, changes);

    let plain = PlainHead::of(&written);
    check_fields(head, &came, &plain, request, close, via);
    check_again(head, &written, &plain, request, close);
    check_written_with_others(head, &written, &plain, asked, framing, close);
}

/// Checks that the written head has the required fields, and the other fields exactly as received.
fn check_fields(
    head: &ResponseHead<'_, '_>,
    original: &FieldList,
    written: &PlainHead,
    request: &Request,
    close: bool,
    via: bool,
) {
    let start = format!("HTTP/1.1 {} ", head.status);
    assert!(written.start.starts_with(&start) && (100..=999).contains(&head.status));
    let lengths: Vec<_> = written.values("content-length").collect();
    let codings: Vec<_> = written.values("transfer-encoding").collect();
    match head.downstream_framing(request) {
        Framing::None if head.status < 200 || head.status == 204 => {
            assert!(
                lengths.is_empty() && codings.is_empty(),
                "{:?}",
                written.fields
            );
        }
        // These fields describe the response to GET.
        Framing::None => {
            assert!(lengths.len() + codings.len() <= 1, "{:?}", written.fields);
            assert!(request.minor == 1 || codings.is_empty());
        }
        Framing::Length(n) => {
            assert_eq!(lengths, [n.to_string().as_bytes()]);
            assert!(codings.is_empty());
        }
        Framing::Chunked => {
            assert_eq!(codings, [b"chunked"]);
            assert!(lengths.is_empty() && request.minor == 1);
        }
        Framing::UntilClose => assert!(lengths.is_empty() && codings.is_empty()),
    }

    let upgrade: Vec<_> = written.values("upgrade").collect();
    let connection: Vec<_> = written.values("connection").collect();
    if head.status == 101 {
        assert_eq!(connection, [b"Upgrade"]);
        // Empty elements, which a list may have, are forwarded.
        let protocols = upgrade.iter().flat_map(|value| value.split(|&b| b == b','));
        let mut protocols = protocols.map(<[u8]>::trim_ascii).filter(|p| !p.is_empty());
        let protocol = protocols.next().expect("a switch names its protocol");
        assert!(protocol.eq_ignore_ascii_case(b"websocket"), "{upgrade:?}");
        assert_eq!(protocols.next(), None);
    } else {
        assert!(upgrade.is_empty());
        match (head.is_interim(), close, request.minor) {
            (true, _, _) | (false, false, 1) => assert!(connection.is_empty()),
            (false, true, _) => assert_eq!(connection, [&b"close"[..]]),
            (false, false, _) => assert_eq!(connection, [&b"keep-alive"[..]]),
        }
    }

    const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];
    let end_to_end = |(name, _): &&(String, Vec<u8>)| {
        !FRAMING.contains(&name.as_str()) && !HOP_BY_HOP.contains(&name.as_str())
    };
    let named = connection_names(original);
    // Host has no meaning in a response, but is kept even if Connection names it.
    let is_dropped = |name: &String| named.contains(name) && name != "host";
    let sent = original
        .iter()
        .filter(end_to_end)
        .filter(|(name, _)| !is_dropped(name));
    let mut sent: FieldList = sent.cloned().collect();
    if head.status >= 200 && values(&sent, "date").next().is_none() {
        let ours: Vec<_> = written.values("date").collect();
        assert_eq!(ours.len(), 1, "{:?}", written.fields);
        assert!(ours[0].len() == 29 && ours[0].ends_with(b" GMT"));
        sent.push(("date".to_owned(), ours[0].to_vec()));
    }
    if via {
        sent.push(("via".to_owned(), b"1.1 simple-proxy".to_vec()));
    }
    let is_close = |(name, _): &&(String, Vec<u8>)| name != "close";
    let got = written.fields.iter().filter(end_to_end).filter(is_close);
    assert!(got.eq(sent.iter().filter(is_close)), "{:?}", written.fields);
    assert!(HOP_BY_HOP[1..6]
        .iter()
        .all(|name| values(&written.fields, name).next().is_none()));
}

/// Checks that the written head is accepted again, with the same meaning.
fn check_again(
    head: &ResponseHead<'_, '_>,
    written: &[u8],
    plain: &PlainHead,
    request: &Request,
    close: bool,
) {
    let found = find_head_in_any_split(written, &RULES, 7, |_, _| true);
    if written.len() <= MAX_RESPONSE_HEAD_BYTES {
        let found = found.map(|found| (found.range, found.has_bare_lf));
        assert_eq!(found, Some((0..written.len(), false)));
    }
    if plain.fields.len() > MAX_RESPONSE_FIELDS {
        return;
    }
    let read = read(written, false, request, |again| {
        check_the_same(head, &again, plain, request, close);
    });
    read.unwrap_or_else(|r| panic!("{r}: {}", written.escape_ascii()));
}

fn check_the_same(
    head: &ResponseHead<'_, '_>,
    again: &ResponseHead<'_, '_>,
    plain: &PlainHead,
    request: &Request,
    close: bool,
) {
    // The head for the client never needs leniency.
    assert!(!again.was_faulty);
    assert_eq!(again.status, head.status);
    assert_eq!(again.framing, head.downstream_framing(request));
    // An unframed response to HEAD is read as an announcement of a close.
    let is_framed = ["content-length", "transfer-encoding"]
        .iter()
        .any(|name| plain.values(name).next().is_some());
    let has_no_body = matches!(head.status, 100..=199 | 204 | 304);
    let announces_close = request.is_head && !is_framed && !has_no_body;
    assert_eq!(again.persistent, !close && !announces_close);
    if head.status == 101 {
        assert!(again.switches_to("websocket"));
    }
}

/// A body for the framing, or the final response after an interim one.
fn what_follows(status: u16, framing: Framing) -> Option<Body> {
    match status {
        100..=199 if status != 101 => Some(Body {
            wire: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
            content: Vec::new(),
            ends_with_connection: false,
        }),
        _ => Body::of(framing),
    }
}

fn same_framing(theirs: Framing, ours: Framing) -> bool {
    theirs == ours || (theirs == Framing::None && ours == Framing::Length(0))
}

/// Checks that the other implementations read exactly this response with exactly this body, and
/// agree on whether another may follow.
fn check_written_with_others(
    head: &ResponseHead<'_, '_>,
    written: &[u8],
    plain: &PlainHead,
    asked: Asked,
    framing: Framing,
    close: bool,
) {
    let show = || format!("{asked:?} {framing:?}: {}", written.escape_ascii());
    match strict_peer::response(written, asked.is_head) {
        Ok(seen) => {
            assert_eq!(seen.length, written.len());
            assert!(
                same_framing(seen.framing, framing),
                "{:?}: {}",
                seen.framing,
                show()
            );
            assert_eq!(seen.fields, plain.fields);
        }
        Err(http_net::HttpError::DuplicateContentLength) => assert_eq!(framing, Framing::None),
        Err(http_net::HttpError::InvalidStatus) => assert!(head.status >= 600),
        Err(error) => panic!("{error:?}: {}", show()),
    }

    let body = what_follows(head.status, framing);
    let (wire, ends) = match &body {
        Some(body) => (&body.wire[..], body.ends_with_connection),
        None => (&[][..], false),
    };
    let sent = [written, wire].concat();
    let (first, second) = match hyper_peer::ask(asked, sent, ends) {
        Answer::Taken(first, second) => (first, second),
        other => {
            let is_endless = matches!(framing, Framing::Length(n) if n > u64::MAX - 2);
            // The http crate, on which hyper builds, takes names of up to 65,535 bytes.
            let has_long_name = plain.fields.iter().any(|(name, _)| name.len() > 65_535);
            assert!(is_endless || has_long_name, "{other:?}: {}", show());
            return;
        }
    };
    if !is_seen_whole(&first, body, framing, &show) {
        return;
    }
    if head.is_interim() {
        return assert_eq!(first.start, "200");
    }
    assert_eq!(first.start, head.status.to_string());
    assert_eq!(first.fields, by_name(plain.fields.clone()), "{}", show());
    match second {
        Some(second) => {
            assert!(
                !close && hyper_peer::is_second(&second),
                "{second:?}: {}",
                show()
            );
        }
        // A switched connection no longer speaks HTTP.
        None => assert!(close || head.status == 101, "{}", show()),
    }
}

/// Checks the received head: the other implementations may refuse it, but must not see it end
/// elsewhere, and a connection that they use again must deliver the next response.
fn check_original_with_others(head: &ResponseHead<'_, '_>, original: &[u8], asked: Asked) {
    let framing = head.framing;
    let show = || format!("{asked:?} {framing:?}: {}", original.escape_ascii());
    if let Ok(seen) = strict_peer::response(original, asked.is_head) {
        assert_eq!(seen.length, original.len(), "{}", show());
        assert!(
            same_framing(seen.framing, framing),
            "{:?}: {}",
            seen.framing,
            show()
        );
    }
    let body = what_follows(head.status, framing);
    let (wire, ends) = match &body {
        Some(body) => (&body.wire[..], body.ends_with_connection),
        None => (&[][..], false),
    };
    let sent = [original, wire].concat();
    // The program always sends HTTP/1.1 upstream.
    let asked = Asked {
        is_1_1: true,
        ..asked
    };
    let (first, second) = match hyper_peer::ask(asked, sent, ends) {
        Answer::Taken(first, second) => (first, second),
        Answer::Refused => return,
        Answer::Unfinished => panic!("{}", show()),
    };
    if !is_seen_whole(&first, body, framing, &show) {
        return;
    }
    if let Some(second) = second {
        assert!(hyper_peer::is_second(&second), "{second:?}: {}", show());
    }
}

/// Checks that a body was received as sent. False if none was sent because it would be too long.
fn is_seen_whole(
    first: &Message,
    body: Option<Body>,
    framing: Framing,
    show: &dyn Fn() -> String,
) -> bool {
    let Some(body) = body else {
        let Framing::Length(length) = framing else {
            unreachable!("only a length is ever too long");
        };
        assert_eq!(first.length, Some(length), "{}", show());
        return false;
    };
    assert!(first.is_whole, "{first:?}: {}", show());
    assert_eq!(first.content, body.content, "{}", show());
    true
}
