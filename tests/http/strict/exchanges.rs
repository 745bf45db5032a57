//! Responses before the end of the request, upgrades, and the log lines of both.

use std::net::Shutdown;
use std::sync::mpsc::channel;
use std::sync::Mutex;

use super::message::{closes, responses, Message, Received};
use super::recorder::Recorder;
use super::requests::{post, CHUNKED};
use super::responses::{ASK_UPGRADE, EVIL};
use super::{find, shown, Tally, SHORT, SMUGGLED};
use crate::support::*;

/// Answers the head of a request without waiting for the body, and keeps the connection.
fn answer_heads(seen: &[u8]) -> Option<(usize, Vec<u8>)> {
    find(seen, b"\r\n\r\n").map(|end| (end + 4, ok("early").into_bytes()))
}

pub(super) fn early(tally: &mut Tally) {
    let smuggled = String::from_utf8_lossy(SMUGGLED).into_owned();
    let inside = smuggled.repeat(3);
    let length = post(&format!("Content-Length: {}\r\n", inside.len()), "");
    let one_more = post(&format!("Content-Length: {}\r\n", inside.len() + 1), "");
    let chunk = format!("{:x}\r\n{inside}\r\n0\r\n\r\n", inside.len());
    let wait = "Expect: 100-continue\r\n";
    let waiting = length.replace("\r\n\r\n", &format!("\r\n{wait}\r\n"));
    let waiting_chunked = CHUNKED.replace("\r\n\r\n", &format!("\r\n{wait}\r\n"));
    for (head, body) in [
        (&length, &inside),
        (&one_more, &inside),
        (&CHUNKED.to_owned(), &chunk),
        // The body is missing, and another request stands in its place.
        (&length, &smuggled),
        (&CHUNKED.to_owned(), &smuggled),
        (&waiting, &inside),
        (&waiting, &smuggled),
        (&waiting_chunked, &smuggled),
        (&waiting_chunked, &chunk),
    ] {
        let recorder = Recorder::answering(answer_heads);
        let proxy = Proxy::before(recorder.address, &["--threads", "1"]);
        let mut client = proxy.connect();
        client.send(head);
        let response = client.response();
        assert_eq!(response.text(), "early");
        assert_eq!(response.field("connection"), Some("close"), "{head}");
        client.try_send(body.as_bytes());
        assert_eq!(client.rest(), b"", "{head}{body}");
        drop(client);
        // Another client's request uses another connection.
        assert_eq!(proxy.get("/own").text(), "early");
        drop(proxy);
        let mut seen = recorder.settle();
        seen.sort();
        let own = b"GET /own HTTP/1.1\r\nHost: a.example\r\n\r\n";
        assert_eq!(seen.len(), 2, "{head}");
        assert_eq!(seen[0], own, "{head}");
        // Nothing of the body had arrived before the response.
        assert!(seen[1] == head.as_bytes(), "{}", shown(&seen[1]));
        tally.case("delivered, closed, body never a request", 1);
    }
}

pub(super) fn refused_switch(tally: &mut Tally) {
    const ANSWERS: [&str; 13] = [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 302 Found\r\nContent-Length: 4\r\nLocation: /\r\n",
        "HTTP/1.1 304 Not Modified\r\n",
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n",
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n",
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n",
        "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 4\r\nSec-WebSocket-Version: 13\r\n",
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n",
        // The proxy refuses this one, which has the wrong protocol.
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    ];
    let recorder = Recorder::answering(|seen| {
        let end = find(seen, b"\r\n\r\n")? + 4;
        let path = String::from_utf8_lossy(&seen[..end]);
        let Some(number) = path.strip_prefix("GET /answer/") else {
            return Some((end, ok("own").into_bytes()));
        };
        let head = ANSWERS[number.split(' ').next().unwrap().parse::<usize>().unwrap()];
        let body = match head {
            _ if head.contains("Content-Length") => "seen",
            _ if head.contains("chunked") => "4\r\nseen\r\n0\r\n\r\n",
            _ => "",
        };
        Some((end, format!("{head}\r\n{body}").into_bytes()))
    });
    let proxy = Proxy::before(recorder.address, &["--threads", "1"]);
    for (at, answer) in ANSWERS.iter().enumerate() {
        let status: u16 = answer[9..12].parse().unwrap();
        for following in [
            SMUGGLED,
            &frame(SMUGGLED, MASK),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &[b"\r\n", SMUGGLED].concat(),
        ] {
            let request = ASK_UPGRADE.replace("PATH", &format!("/answer/{at}"));
            let mut client = proxy.connect();
            client.send_bytes(&[request.as_bytes(), following].concat());
            let got = responses(&client.rest(), &[]);
            let statuses: Vec<u16> = got.iter().map(Message::status).collect();
            let expected = if status == 101 { 502 } else { status };
            assert_eq!(statuses, [expected], "{answer}");
            assert!(closes(&got[0]), "{answer}");
            assert_eq!(got[0].field("upgrade"), None, "{answer}");
            let sent = request.replace(
                "Connection: Upgrade\r\nUpgrade: websocket\r\n",
                "Upgrade: websocket\r\nConnection: Upgrade\r\n",
            );
            assert_eq!(recorder.settle(), [sent.into_bytes()], "{answer}");
            tally.case("delivered, closed, no tunnel and no request", 1);
        }
    }
    let log = proxy.log.text();
    assert!(!log.contains("smuggled") && !log.contains("建立"), "{log}");
}

pub(super) fn accepted_switch(tally: &mut Tally) {
    // Only the first head is answered: what follows is tunnel data, whatever it looks like.
    let recorder = Recorder::answering(|seen| {
        let end = find(seen, b"\r\n\r\n")? + 4;
        let is_first = seen.starts_with(b"GET /ws ");
        is_first.then(|| (end, SWITCHING.as_bytes().to_vec()))
    });
    let proxy = Proxy::before(recorder.address, &["--threads", "1"]);
    let request = ASK_UPGRADE.replace("PATH", "/ws");
    let sent = request.replace(
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
    );
    let many = SMUGGLED.repeat(1000);
    for following in [
        SMUGGLED,
        b"",
        b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\r\n\n",
        b"0\r\n\r\n",
        &frame(SMUGGLED, MASK),
        &many,
    ] {
        for piece in [usize::MAX, 1] {
            let mut client = proxy.connect();
            let bytes = [request.as_bytes(), following].concat();
            if piece == 1 && bytes.len() > SHORT {
                continue;
            }
            for piece in bytes.chunks(piece) {
                client.send_bytes(piece);
            }
            client.end_sending();
            assert_eq!(client.head(), SWITCHING_SENT);
            assert_eq!(client.rest(), b"");
            let expected = [sent.as_bytes(), following].concat();
            let seen = recorder.settle();
            assert!(seen == [expected], "{}", shown(&seen.concat()));
            tally.case("tunnelled exactly", 1);
        }
    }
    let log = proxy.log.text();
    assert!(!log.contains("smuggled"), "{log}");
}

/// `SWITCHING` as forwarded to the client.
const SWITCHING_SENT: &str = "HTTP/1.1 101 Switching Protocols\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\n\r\n";

pub(super) fn leaving(tally: &mut Tally) {
    for answer in [
        SWITCHING,
        "",
        EVIL,
        "HTTP/1.1 100 Continue\r\n\r\n",
        "garbage\r\n",
    ] {
        for with_reset in [false, true] {
            let (go_on, wait) = channel::<()>();
            let wait = Mutex::new(wait);
            let (report, seen) = channel();
            let report = Mutex::new(report);
            let upstream = origin(move |mut client| {
                let head = client.head();
                if !head.starts_with("GET /ws ") {
                    return client.send(&ok("own"));
                }
                report.lock().unwrap().send(Vec::new()).unwrap();
                wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                client.try_send(answer.as_bytes());
                if !answer.starts_with("HTTP/1.1 101 ") {
                    // The proxy may have closed already.
                    let _ = client.socket.shutdown(Shutdown::Write);
                }
                // The proxy ends the connection without sending anything.
                let rest = Received::read_to_end(&mut client).bytes;
                let ahead = client.rest_or_reset();
                report.lock().unwrap().send([ahead, rest].concat()).unwrap();
            });
            let proxy = Proxy::before(upstream, &["--threads", "1"]);
            let mut client = proxy.connect();
            client.send(&ASK_UPGRADE.replace("PATH", "/ws"));
            seen.recv_timeout(PATIENCE).unwrap();
            match with_reset {
                true => client.reset(),
                false => drop(client),
            }
            go_on.send(()).unwrap();
            let rest = seen.recv_timeout(PATIENCE).expect("the connection ends");
            assert_eq!(rest, b"", "{answer}");
            assert_eq!(proxy.get("/").text(), "own");
            tally.case("upstream's connection ends, nothing sent", 1);
        }
    }
}

pub(super) fn forged(tally: &mut Tally) {
    let recorder = Recorder::start();
    // The log lines for each input; PEER stands for the client's address.
    let begun = |line: &str| format!("===收到请求开始=== {line}");
    let done = |line: &str, status: u16| {
        format!("请求完成: {line} -> {status} (4 bytes, N ms, 127.0.0.1)")
    };
    let mut cases: Vec<(Vec<u8>, Vec<String>)> = Vec::new();
    // Requests with control bytes are refused, and the log line has only the program's own words.
    for bytes in [
        &b"GET /\n===x=== HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"GET /\r===x=== HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\r\n===x===\r\nHost: a\r\n\r\n",
        b"GET /\x1b[2J HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\x1b]0;a\x07 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\x08\x08 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\x1bT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\nT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\rT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\xc2\x85T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\xffT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\n===x===\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r===x===\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n ===x===\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \x1b[2J\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xe2\x80\xa8\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a) \r\nX : y\r\n\r\n",
        b"GET http://\x1b[2J/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://\xe2\x80\xae/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        cases.push((bytes.to_vec(), vec!["请求被拒绝: PEER -> 400 ".to_owned()]));
    }
    // Other bytes are logged, but escaped if they could end or rearrange a line.
    for (target, logged) in [
        (&b"/\xff"[..], "/\\xff"),
        (b"/\xc0\x8a", "/\\xc0\\x8a"),
        (b"/\xed\xa0\x80", "/\\xed\\xa0\\x80"),
        (b"/\xd6\xd0?\xff", "/\\xd6\\xd0"),
    ] {
        let input = [b"GET ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let lines = vec![
            begun(&format!("GET {logged} (Host: a)")),
            done(&format!("GET {logged}"), 200),
        ];
        cases.push((input, lines));
    }
    for (target, logged) in [
        ("/a?token=secret", "/a"),
        ("/%0a%0d%1b[2J", "/%0a%0d%1b[2J"),
        ("/\u{85}===x===", "/\\xc2\\x85===x==="),
        ("/\u{9b}2J", "/\\xc2\\x9b2J"),
        ("/\u{9f}", "/\\xc2\\x9f"),
        ("/\u{2028}===x===", "/\\xe2\\x80\\xa8===x==="),
        ("/\u{2029}===x===", "/\\xe2\\x80\\xa9===x==="),
        ("/\u{202e}gpj.exe", "/\\xe2\\x80\\xaegpj.exe"),
        ("/\u{200f}\u{2066}a", "/\\xe2\\x80\\x8f\\xe2\\x81\\xa6a"),
        ("/\u{e9}\u{6587}", "/\u{e9}\u{6587}"),
        ("/->200", "/->200"),
        ("/\\n\\x0a", "/\\n\\x0a"),
    ] {
        let input = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let lines = vec![
            begun(&format!("GET {logged} (Host: a)")),
            done(&format!("GET {logged}"), 200),
        ];
        cases.push((input.into_bytes(), lines));
        let upgrade = ASK_UPGRADE.replace("PATH", target);
        let lines = vec![
            begun(&format!("GET {logged} (Host: a)")),
            format!("WebSocket 请求: {logged} (Host: a)"),
            done(&format!("GET {logged}"), 200),
        ];
        cases.push((upgrade.into_bytes(), lines));
    }
    for (method, host) in [
        ("!#$%&'*+-.^_`|~", "a"),
        ("GET", "a)(;'$&!"),
        ("GET", "%0a"),
        ("get", ""),
    ] {
        let input = format!("{method} / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let lines = vec![
            begun(&format!("{method} / (Host: {host})")),
            done(&format!("{method} /"), 200),
        ];
        cases.push((input.into_bytes(), lines));
    }
    // A malformed body after a valid head
    let input = format!("{CHUNKED}\n===x===").into_bytes();
    let lines = vec![
        begun("POST / (Host: a)"),
        "请求被拒绝: PEER -> 400 ".to_owned(),
    ];
    cases.push((input, lines));
    // Very long text is cut off.
    let long = "x".repeat(30_000);
    let input = format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n");
    let cut = format!("GET /{}...", "x".repeat(1999));
    let lines = vec![begun(&format!("{cut} (Host: a)")), done(&cut, 200)];
    cases.push((input.into_bytes(), lines));

    let proxy = Proxy::before(recorder.address, &["--threads", "1"]);
    let mut expected = Vec::new();
    for (input, lines) in &cases {
        let mut client = proxy.connect();
        client.send_bytes(input);
        client.end_sending();
        client.rest();
        let peer = client.socket.local_addr().unwrap().to_string();
        expected.extend(lines.iter().map(|line| line.replace("PEER", &peer)));
    }
    proxy.get("/end");
    proxy.log.wait_for("请求完成: GET /end ");
    let log = proxy.log.text();
    let lines: Vec<&str> = log.split('\n').collect();
    let start = lines
        .iter()
        .position(|line| line.contains("路由: "))
        .unwrap()
        + 1;
    let lines = &lines[start..lines.len() - 2];
    for (at, expected) in expected.iter().enumerate() {
        let line = lines.get(at).unwrap_or(&"");
        let text = line.split_once("Z ").map_or("", |(_, text)| text);
        let text = without_time(text);
        let rest = text.strip_prefix(expected.as_str());
        // The cause of a refusal is ASCII text of the program.
        let is_whole = match expected.ends_with("400 ") {
            true => rest.is_some_and(|rest| rest.is_ascii() && !rest.contains('=')),
            false => rest == Some(""),
        };
        assert!(is_whole, "line {at}: {line:?} instead of {expected:?}");
    }
    assert_eq!(lines.len(), expected.len(), "{log}");
    assert!(!log.contains("secret"));
    let mut controls = log.chars().filter(|c| c.is_control());
    assert!(controls.all(|c| c == '\n'), "{log:?}");
    for (_, lines) in &cases {
        let status = if lines[0].contains(" 400 ") {
            "refused"
        } else {
            "served"
        };
        tally.case(format!("{status}, one escaped line an event"), 1);
    }
}
