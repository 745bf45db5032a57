//! Responses: what the client gets, and which connection the next request uses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex};

use super::message::{wait_until_delivered, Message, Received};
use super::requests::{get, post};
use super::{shown, Prefixes, Tally, AT_ONCE, SHORT};
use crate::support::*;

/// One response of a scripted upstream.
struct Reply {
    /// The client's request, with PATH in place of the path.
    request: &'static str,
    send: Vec<u8>,
    /// How many of the sent bytes follow the response.
    surplus: usize,
    end: End,
    client: Gets,
    /// Whether the upstream's connection is used for the next request.
    reused: bool,
}

/// What the upstream does after a response.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Stays,
    Closes,
    Resets,
}

/// What the client gets.
enum Gets {
    /// Exactly these bytes, in chunks of any size.
    Exactly(Vec<u8>),
    /// 502, possibly after interim responses.
    BadGateway,
    /// 502, or a part of this response that is recognizably incomplete.
    AtMost(Vec<u8>),
}

const ASK: &str = "GET PATH HTTP/1.1\r\nHost: a\r\n\r\n";
const ASK_HEAD: &str = "HEAD PATH HTTP/1.1\r\nHost: a\r\n\r\n";
const ASK_OLD: &str = "GET PATH HTTP/1.0\r\nHost: a\r\n\r\n";
pub(super) const ASK_UPGRADE: &str =
    "GET PATH HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A response to no request, which no client may get.
pub(super) const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";

impl Reply {
    fn new(send: impl AsRef<[u8]>, client: Gets) -> Reply {
        Reply {
            request: ASK,
            send: send.as_ref().to_vec(),
            surplus: 0,
            end: End::Stays,
            client,
            reused: false,
        }
    }

    /// Delivered as `client`, and the upstream's connection is used again.
    fn delivered(send: impl AsRef<[u8]>, client: impl AsRef<[u8]>) -> Reply {
        let mut reply = Reply::new(send, Gets::Exactly(client.as_ref().to_vec()));
        reply.reused = true;
        reply
    }

    fn bad(send: impl AsRef<[u8]>) -> Reply {
        Reply::new(send, Gets::BadGateway)
    }

    fn broken(send: impl AsRef<[u8]>, whole: impl AsRef<[u8]>) -> Reply {
        Reply::new(send, Gets::AtMost(whole.as_ref().to_vec()))
    }

    fn to(mut self, request: &'static str) -> Reply {
        self.request = request;
        self
    }

    fn then(mut self, end: End) -> Reply {
        self.end = end;
        self.reused = false;
        self
    }

    /// Delivered as `client`, and the upstream's connection is not used again, because the
    /// response had to be repaired.
    fn repaired(send: impl AsRef<[u8]>, client: impl AsRef<[u8]>) -> Reply {
        Reply::delivered(send, client).last()
    }

    /// Adds bytes after the response, so that the upstream's connection is not used again.
    fn followed_by(mut self, surplus: impl AsRef<[u8]>) -> Reply {
        self.send.extend_from_slice(surplus.as_ref());
        self.surplus = surplus.as_ref().len();
        self.reused &= self.surplus == 0;
        self
    }

    /// The upstream's connection is not used again.
    fn last(mut self) -> Reply {
        self.reused = false;
        self
    }

    fn method(&self) -> &'static str {
        self.request.split(' ').next().unwrap()
    }

    fn outcome(&self) -> String {
        let upstream = match self.reused {
            true => "upstream's connection kept",
            false => "upstream's connection closed",
        };
        match self.client {
            Gets::Exactly(_) => format!("delivered exactly, {upstream}"),
            Gets::BadGateway => "502".to_owned(),
            Gets::AtMost(_) => "502 or seen as cut short".to_owned(),
        }
    }

    /// Whether the response ends with the connection.
    fn ends_with_connection(&self) -> bool {
        let send = String::from_utf8_lossy(&self.send).to_ascii_lowercase();
        !matches!(self.client, Gets::BadGateway)
            && !send.contains("content-length")
            && !send.contains("transfer-encoding")
    }

    /// Checks what a client received. `cut` says that the upstream did not send all of it.
    fn check(&self, got: &Received, cut: bool, what: &str) {
        let mut rest = got.bytes.as_slice();
        let mut heads = Vec::new();
        let last = loop {
            let (message, used) = Message::read(rest, Some(self.method()));
            rest = &rest[used..];
            if message.whole && (100..200).contains(&message.status()) && message.status() != 101 {
                heads.push(message);
            } else {
                break message;
            }
        };
        let mut last = last;
        // After a reset the client knows that the body is incomplete.
        last.whole &= !last.until_end || got.clean_end == Some(true);
        let received = shown(&got.bytes);
        assert!(rest.is_empty(), "{what}: surplus in {received}");
        assert!(!received.contains("EVIL"), "{what}: {received}");
        let is_bad_gateway = last.whole && last.status() == 502;
        if is_bad_gateway {
            let status = last.field("proxy-status").unwrap_or_default();
            assert!(
                status.starts_with("simple-proxy; error="),
                "{what}: {received}"
            );
        }
        // The upstreams here send no Date.
        if !is_bad_gateway && last.head.ends_with(b"\r\n\r\n") && last.status() >= 200 {
            last = last.without_date();
        }
        match &self.client {
            Gets::Exactly(whole) => {
                let mut expected = Vec::new();
                let mut rest = whole.as_slice();
                while !rest.is_empty() {
                    let (message, used) = Message::read(rest, Some(self.method()));
                    rest = &rest[used..];
                    expected.push(message);
                }
                heads.push(last.clone());
                if !cut {
                    assert_eq!(heads, expected, "{what}: {received}");
                    return;
                }
                let final_one = expected.last().unwrap();
                let is_cut = last.is_part_of(final_one) && got.tells_the_cut(&last);
                assert!(
                    is_bad_gateway || heads == expected || is_cut,
                    "{what}: {received}"
                );
            }
            Gets::BadGateway => assert!(is_bad_gateway, "{what}: {received}"),
            Gets::AtMost(whole) => {
                let whole = Message::read(whole, Some(self.method())).0;
                let is_cut = last.is_part_of(&whole) && got.tells_the_cut(&last);
                assert!(is_bad_gateway || is_cut, "{what}: {received}");
            }
        }
    }
}

/// An upstream that sends the reply that the path names, in the way that the path names, and
/// answers everything else with its path and the number of the connection. Reports the path and
/// the number of the connection when a reply was sent completely.
fn stage(replies: Arc<Vec<Reply>>) -> (SocketAddr, Receiver<(String, usize)>) {
    let connections = AtomicUsize::new(0);
    let (report, played) = channel();
    let report = Mutex::new(report);
    let address = origin(move |mut client| {
        let number = connections.fetch_add(1, Ordering::SeqCst);
        while let Some(head) = client.try_head() {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let Some(name) = path.strip_prefix("/case/") else {
                client.try_send(ok(&format!("own {path} on {number}")).as_bytes());
                continue;
            };
            let (case, way) = name.split_once('/').unwrap();
            let reply = &replies[case.parse::<usize>().unwrap()];
            if let Some(length) = way.strip_prefix("prefix/") {
                client.try_send(&reply.send[..length.parse().unwrap()]);
                return;
            }
            // Surplus is sent in one segment with the end of the response: later, the connection
            // might already have been reused.
            let apart = match way {
                "bytes" => (reply.send.len() - reply.surplus).saturating_sub(1),
                _ => 0,
            };
            let (apart, together) = reply.send.split_at(apart);
            for piece in apart.chunks(1).chain([together]) {
                if !client.try_send(piece) {
                    break;
                }
            }
            let report = || report.lock().unwrap().send((path.clone(), number)).unwrap();
            match reply.end {
                End::Stays => report(),
                End::Closes => {
                    drop(client);
                    return report();
                }
                End::Resets => {
                    client.reset();
                    return report();
                }
            }
        }
    });
    (address, played)
}

/// Checks a table of responses.
fn replies(tally: &mut Tally, replies: Vec<Reply>) {
    let replies = Arc::new(replies);
    let (upstream, played) = stage(replies.clone());
    // With one thread there is one pool, so that the next request would use the same connection.
    let proxy = Proxy::before(upstream, &["--threads", "1"]);
    let own = |client: &mut Client, path: &str, what: &str| -> usize {
        client.send(&ASK.replace("PATH", path));
        let answer = client.response().text();
        let number = answer.strip_prefix(&format!("own {path} on "));
        let number = number.unwrap_or_else(|| panic!("{what}: then {answer}"));
        number.parse().unwrap()
    };
    let mut known: BTreeMap<&str, Prefixes> = BTreeMap::new();
    for (at, reply) in replies.iter().enumerate() {
        let mut runs = 0;
        for way in ["once", "bytes"] {
            if way == "bytes" && reply.send.len() > SHORT {
                continue;
            }
            let what = format!("{} {way}", shown(&reply.send));
            let mut client = proxy.connect();
            let path = format!("/case/{at}/{way}");
            client.send(&reply.request.replace("PATH", &path));
            let got = Received::read(&mut client, reply.method());
            reply.check(&got, false, &what);
            // A reply may have been sent twice if the program may retry the request.
            let number = loop {
                let (played, number) = played.recv_timeout(PATIENCE).expect(&what);
                if played == path {
                    break number;
                }
            };
            // The next request gets its own response, on this client connection and on another.
            let mut next = match got.clean_end {
                None => client,
                Some(_) => proxy.connect(),
            };
            let used = own(&mut next, &format!("/own/{at}/{way}"), &what);
            assert_eq!(
                used == number,
                reply.reused,
                "{what}: the pool's connection"
            );
            own(&mut proxy.connect(), &format!("/another/{at}/{way}"), &what);
            runs += 1;
        }
        // If the response ends with the connection, every prefix is a complete response.
        if reply.ends_with_connection() {
            tally.case(reply.outcome(), runs);
            continue;
        }
        let lengths = known.entry(reply.request).or_default().of(&reply.send);
        for lengths in lengths.chunks(AT_ONCE) {
            let clients: Vec<Client> = lengths
                .iter()
                .map(|length| {
                    let mut client = proxy.connect();
                    let path = format!("/case/{at}/prefix/{length}");
                    client.send(&reply.request.replace("PATH", &path));
                    client
                })
                .collect();
            for (mut client, length) in clients.into_iter().zip(lengths) {
                let what = format!("{} cut at {length}", shown(&reply.send));
                let got = Received::read(&mut client, reply.method());
                reply.check(&got, true, &what);
            }
        }
        tally.case(reply.outcome(), runs + lengths.len());
    }
}

/// A response with these field lines and a body of five bytes.
fn hello(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{fields}\r\nhello")
}

pub(super) fn answer_lines(tally: &mut Tally) {
    let rest = "Content-Length: 5\r\n\r\nhello";
    let mut all = Vec::new();
    #[rustfmt::skip]
    let lines = [
        "HTTP/1.1 20 OK", "HTTP/1.1 2 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 20000 OK",
        "HTTP/1.1 200000000000000000000 OK", "HTTP/1.1 099 No", "HTTP/1.1 000 No",
        "HTTP/1.1 2x0 OK", "HTTP/1.1 x00 OK", "HTTP/1.1 20x OK", "HTTP/1.1 +20 OK",
        "HTTP/1.1 -20 OK", "HTTP/1.1 2.0 OK", "HTTP/1.1 0x2 OK", "HTTP/1.1 \u{ff12}00 OK",
        "HTTP/1.1\t200 OK", "HTTP/1.1 \t200 OK", "HTTP/1.1 200\tOK",
        "HTTP/1.1200 OK", "HTTP/1.1 200OK", "HTTP/1.1 OK", "HTTP/1.1 OK 200", "HTTP/1.1",
        "HTTP/1.1 ", "HTTP/1", "HTTP/", "HTTP", "200 OK", "200", "OK", "HTTP/2.0 200 OK",
        "HTTP/2 200 OK", "HTTP/0.9 200 OK", "HTTP/11.1 200 OK", "HTTP/1.10 200 OK",
        "HTTP/01.1 200 OK", "HTTP/1,1 200 OK", "HTTP/x.1 200 OK", "http/1.1 200 OK",
        "Http/1.1 200 OK", "ICY 200 OK", "RTSP/1.0 200 OK", "XHTTP/1.1 200 OK",
        " HTTP/1.1 200 OK", "\tHTTP/1.1 200 OK", "\0HTTP/1.1 200 OK", "\r\nHTTP/1.1 200 OK",
        "\nHTTP/1.1 200 OK", "\rHTTP/1.1 200 OK", "\r\n\r\nHTTP/1.1 200 OK",
        "\u{feff}HTTP/1.1 200 OK", "garbage", "<html>", "GET / HTTP/1.1", "SSH-2.0-OpenSSH_9.6",
        "220 a.example ESMTP", "-ERR unknown command",
        // Lines that would split the response for a client that ends lines at other bytes
        "HTTP/1.1 200 OK\rSet-Cookie: evil",
        "HTTP/1.1 200 OK\r\r\nSet-Cookie: evil", "HTTP/1.1 200 O\rK", "HTTP/1.1 200 \r",
        "HTTP/1.1 200 OK\r", "HTTP/1.1 200\rOK", "HTTP/1.1 200\nOK", "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 OK\r\n evil", "HTTP/1.1 200 OK\r\n\tevil",
        "HTTP/1.1 200 OK\r\nevil",
    ];
    for line in lines {
        all.push(Reply::bad(format!("{line}\r\n{rest}")));
    }
    // A TLS alert and the SETTINGS of HTTP/2, in which no line ends.
    all.push(Reply::bad(b"\x15\x03\x01\x00\x02\x02\x46"));
    all.push(Reply::bad(b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64"));
    all.push(Reply::bad(b"\0").then(End::Closes));
    all.push(Reply::bad(b"").then(End::Closes));
    all.push(Reply::bad(b"").then(End::Resets));
    all.push(Reply::bad("garbage").then(End::Closes));
    for (line, sent) in [
        ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.1 200 ", "HTTP/1.1 200 "),
        ("HTTP/1.1 200", "HTTP/1.1 200 "),
        (
            "HTTP/1.1 404 Not\there at all",
            "HTTP/1.1 404 Not\there at all",
        ),
        ("HTTP/1.1 299 ~!@", "HTTP/1.1 299 ~!@"),
        ("HTTP/1.1 599 200 OK", "HTTP/1.1 599 200 OK"),
        // A higher minor version is read as 1.1 (RFC 9112 §2.5).
        ("HTTP/1.2 200 OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.9 200", "HTTP/1.1 200 "),
        // A reason may hold any byte above ASCII.
        (
            "HTTP/1.1 404 \u{627e}\u{4e0d}\u{5230}",
            "HTTP/1.1 404 \u{627e}\u{4e0d}\u{5230}",
        ),
        (
            "HTTP/1.1 400 HTTP/1.1 200 OK",
            "HTTP/1.1 400 HTTP/1.1 200 OK",
        ),
    ] {
        all.push(Reply::delivered(
            format!("{line}\r\n{rest}"),
            format!("{sent}\r\n{rest}"),
        ));
    }
    for (line, sent) in [
        ("HTTP/1.1  200 OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.1   200 OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.1 200  OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.2  200  OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.1 200 O\x08K", "HTTP/1.1 200 O K"),
        ("HTTP/1.1 200 O\x0b\x7fK", "HTTP/1.1 200 O  K"),
        ("HTTP/1.1 200 O\x1b[2JK", "HTTP/1.1 200 O [2JK"),
        ("HTTP/1.1 200 \x01OK\x02", "HTTP/1.1 200 OK"),
        (
            "HTTP/1.1 200 OK\nSet-Cookie: a",
            "HTTP/1.1 200 OK\r\nSet-Cookie: a",
        ),
    ] {
        let (send, sent) = (format!("{line}\r\n{rest}"), format!("{sent}\r\n{rest}"));
        all.push(Reply::repaired(&send, &sent));
        all.push(Reply::repaired(send.replace("\r\n", "\n"), &sent));
        let old = sent.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        all.push(Reply::repaired(&send, old).to(ASK_OLD));
        let without_body = (send.replace("hello", ""), sent.replace("hello", ""));
        all.push(Reply::repaired(without_body.0, without_body.1).to(ASK_HEAD));
    }
    let old = format!("HTTP/1.0 200 OK\r\n{rest}");
    all.push(Reply::delivered(old, hello("")).last());
    let old = format!("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n{rest}");
    all.push(Reply::delivered(old, hello("")).last());
    replies(tally, all);
}

pub(super) fn answer_fields(tally: &mut Tally) {
    let mut all = Vec::new();
    #[rustfmt::skip]
    let lines = [
        " A: b\r\n", "\tA: b\r\n", "A\r\n", "A\r\n : b\r\n", ": b\r\n", " : b\r\n",
        ":\r\n", "A B: c\r\n", "A B : c\r\n", "A(: b\r\n", "A\"B: c\r\n", "A@B: c\r\n",
        "\u{e9}: b\r\n", "A: b\rB: c\r\n", "A: b\r\r\n", "A:\rb\r\n", "\rA: b\r\n", "A\r: b\r\n",
        "A: b\r\n c\rd\r\n", "A\0: b\r\n", "A: \0\r\n", "A: b\0c\r\n", "A: b\r\n \0\r\n",
        "A\x7f: b\r\n", "A\x0b: b\r\n", "Transfer-Encoding : gzip\r\n",
        "Transfer-Encoding: chun\r\n ked\r\n", "Transfer-Encoding: chunked\r\n , gzip\r\n",
        "A: b\nContent-Length: 0\r\n", "Content-Length : 6\r\n", "Content-Length: \r\n 6\r\n",
        "Content-Length: 5\r\n 5\r\n",
    ];
    for line in lines {
        all.push(Reply::bad(hello(line)));
        let in_front = format!("HTTP/1.1 200 OK\r\n{line}Content-Length: 5\r\n\r\nhello");
        all.push(Reply::bad(in_front));
    }
    // Before the first field there is nothing to fold.
    for line in [" \r\n", "\t\r\n", " \n"] {
        let send = format!("HTTP/1.1 200 OK\r\n{line}Content-Length: 5\r\n\r\nhello");
        all.push(Reply::bad(send));
    }
    for (line, sent) in [
        ("A : b\r\n", "A: b\r\n"),
        ("A\t \t: b\r\n", "A: b\r\n"),
        ("A: b\r\n c\r\n", "A: b c\r\n"),
        ("A: b \r\n\t c\r\n  d\r\n", "A: b c d\r\n"),
        ("A:\r\n b\r\n", "A: b\r\n"),
        ("A: b\r\n \r\n", "A: b\r\n"),
        ("A: b\r\n B: c\r\n", "A: b B: c\r\n"),
        ("A: b\n", "A: b\r\n"),
        ("A: b\n c\n", "A: b c\r\n"),
        ("A: b\nB: c\r\n", "A: b\r\nB: c\r\n"),
        ("A: b\x01c\r\n", "A: b c\r\n"),
        ("A: b\x08\x0b\x0c\x1b\x7fc\r\n", "A: b     c\r\n"),
        ("A: b\x7f\r\n", "A: b\r\n"),
        ("A: \x01b\tc\x02 \r\n", "A: b\tc\r\n"),
        ("Set-Cookie : a=b\r\n", "Set-Cookie: a=b\r\n"),
        ("Connection : x-a\r\nX-A: 1\r\n", ""),
        ("Connection:\r\n x-a\r\nX-A: 1\r\n", ""),
        ("Content-Length : 5\r\n", ""),
        ("Content-Length:\n 5\r\n", ""),
    ] {
        let (send, sent) = (hello(line), hello(sent));
        all.push(Reply::repaired(&send, &sent));
        all.push(Reply::repaired(send.replace("\r\n", "\n"), &sent));
        all.push(Reply::repaired(send.replace("\r\n\r\n", "\n\n"), &sent));
        all.push(Reply::repaired(send.replace("\r\n\r\n", "\r\n\n"), &sent));
        let old = sent.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        all.push(Reply::repaired(&send, old).to(ASK_OLD));
        let without_body = (send.replace("hello", ""), sent.replace("hello", ""));
        all.push(Reply::repaired(without_body.0, without_body.1).to(ASK_HEAD));
        let not_modified = (
            send.replace("200 OK", "304 No"),
            sent.replace("200 OK", "304 No"),
        );
        let not_modified = (
            not_modified.0.replace("hello", ""),
            not_modified.1.replace("hello", ""),
        );
        all.push(Reply::repaired(not_modified.0, not_modified.1));
    }
    // An injected LF may end a head early: what follows is then content, and never the response
    // to another request.
    for split in ["A: b\n\nhello", "A: b\r\n\nhello", "A: b\n\r\nhello"] {
        let send = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{split}");
        all.push(Reply::repaired(send, hello("A: b\r\n")).followed_by(EVIL));
    }
    // A Transfer-Encoding in faulty syntax counts, and overrides the length.
    for line in [
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
    ] {
        let whole = format!("{IN_CHUNKS}5\r\nhello\r\n0\r\n\r\n");
        all.push(Reply::broken(hello(line), &whole));
        let send = format!("HTTP/1.1 200 OK\r\n{line}\r\n5\r\nhello\r\n0\r\n\r\n");
        all.push(Reply::repaired(send, whole));
    }
    // As many fields and bytes as an upstream may need for its cookies.
    for count in [128, 150, 511] {
        let many = hello(&"Set-Cookie: a=b\r\n".repeat(count));
        all.push(Reply::delivered(&many, &many));
    }
    let size = hello(&format!("X: {}\r\n", "")).len() - "hello".len();
    for length in [40_000, 100_000, 256 * 1024 - size] {
        let large = hello(&format!("X: {}\r\n", "x".repeat(length)));
        all.push(Reply::delivered(&large, &large));
    }
    let large = format!("X: {}\r\n", "x".repeat(256 * 1024 - size + 1));
    all.push(Reply::bad(hello(&large)));
    all.push(Reply::bad(hello(&"X: y\r\n".repeat(512))));
    all.push(Reply::bad(hello(&"X : y\r\n".repeat(512))));
    all.push(Reply::bad(hello(&"X: y\r\n".repeat(10_000))));
    all.push(Reply::bad(hello(&"X: y\n".repeat(100_000))));
    all.push(Reply::bad(hello(&format!(
        "X: {}\r\n",
        "x".repeat(1 << 20)
    ))));
    all.push(Reply::bad(hello("").replace("OK", &"x".repeat(1 << 20))));
    for (line, sent) in [
        ("", ""),
        ("A:b\r\n", "A: b\r\n"),
        ("A: \t \r\n", "A: \r\n"),
        ("A:  b\tc  \r\n", "A: b\tc\r\n"),
        ("!#$%&'*+-.^_`|~0aZ: v\r\n", "!#$%&'*+-.^_`|~0aZ: v\r\n"),
        (
            "A: \u{e9}\r\na: 1\r\nA: 2\r\n",
            "A: \u{e9}\r\na: 1\r\nA: 2\r\n",
        ),
        (
            "Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n",
            "Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n",
        ),
        (
            "Location: http://b/?%0d%0aX: y\r\n",
            "Location: http://b/?%0d%0aX: y\r\n",
        ),
        (
            "Connection: x-a\r\nConnection: X-B\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n",
            "X-C: 3\r\n",
        ),
        (
            "Connection: content-length, set-cookie\r\nSet-Cookie: a\r\n",
            "",
        ),
        ("Keep-Alive: timeout=5\r\nProxy-Connection: close\r\n", ""),
        (
            "Proxy-Authenticate: Basic\r\nTE: trailers\r\nUpgrade: h2c\r\n",
            "",
        ),
    ] {
        all.push(Reply::delivered(hello(line), hello(sent)));
    }
    all.push(Reply::delivered(hello("Connection: close\r\n"), hello("")).last());
    all.push(Reply::delivered(hello("Connection: x, CLOSE\r\n"), hello("")).last());
    replies(tally, all);
}

const IN_CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

pub(super) fn answer_framing(tally: &mut Tally) {
    let mut all = Vec::new();
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let with = |fields: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}");
    #[rustfmt::skip]
    let variants = [
        "Content-Length: x\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: gzip, chunked\r\n",
        "Content-Length: 15\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length:\r\n",
        "Content-Length: 5\r\nX: y\r\ncontent-length: 6\r\n", "Content-Length: 5, 5\r\n",
        "Content-Length: 5, 6\r\n", "Content-Length: 5,\r\n", "Content-Length:\r\n",
        "Content-Length: +5\r\n", "Content-Length: -5\r\n", "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n", "Content-Length: 5.0\r\n", "Content-Length: 5;\r\n",
        "Content-Length: \"5\"\r\n", "Content-Length: five\r\n",
        "Content-Length: 18446744073709551616\r\n", "Content-Length: 18446744073709551621\r\n",
        "Transfer-Encoding:\r\n", "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip\r\n", "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n", "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked, chunked\r\n", "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;q=1\r\n", "Transfer-Encoding: chun\x0bked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    ];
    for fields in variants {
        all.push(Reply::bad(with(fields, body)));
        // These fields are refused even if the response has no body.
        all.push(Reply::bad(with(fields, "")).to(ASK_HEAD));
        let no_content = with(fields, "").replace("200 OK", "204 No Content");
        all.push(Reply::bad(no_content));
        let not_modified = with(fields, "").replace("200 OK", "304 Not Modified");
        all.push(Reply::bad(not_modified));
    }
    // With both framings, the chunked coding wins and is the only one forwarded (RFC 9112 §6.3).
    // Some HTTP/1.0 upstreams send chunks, although they must not (§6.1).
    let chunked = with("Transfer-Encoding: chunked\r\n", body);
    for send in [
        chunked.replace("HTTP/1.1", "HTTP/1.0"),
        with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", body),
        with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", body),
        with("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", body),
    ] {
        all.push(Reply::repaired(&send, &chunked));
        all.push(Reply::repaired(send.replace("\r\n", "\n"), &chunked));
        let to_old = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello";
        all.push(Reply::repaired(&send, to_old).to(ASK_OLD));
        let (head, sent) = (send.replace(body, ""), chunked.replace(body, ""));
        all.push(Reply::repaired(&head, &sent).to(ASK_HEAD));
        let not_modified = |head: &str| head.replace("200 OK", "304 Not Modified");
        all.push(Reply::repaired(not_modified(&head), not_modified(&sent)));
        let no_content = head.replace("200 OK", "204 No Content");
        all.push(Reply::repaired(
            no_content,
            "HTTP/1.1 204 No Content\r\n\r\n",
        ));
    }
    let in_old = chunked.replace("HTTP/1.1", "HTTP/1.0");
    let broken = in_old.replace("5\r\nhello", "X\r\nhello");
    all.push(Reply::broken(broken, &chunked));
    for fields in [
        "Content-Length: 5\r\n",
        "Content-Length:5\r\n",
        "Content-Length:\t5 \r\n",
        "Content-Length: 005\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 05\r\n",
    ] {
        all.push(Reply::delivered(with(fields, "hello"), hello("")));
    }
    for fields in [
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:Chunked\r\n",
        "Transfer-Encoding: \tCHUNKED\t \r\n",
    ] {
        let sent = with("Transfer-Encoding: chunked\r\n", body);
        all.push(Reply::delivered(with(fields, body), &sent));
    }
    for (body, sent) in [
        ("5;a=b\r\nhello\r\n0;c\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("05\r\nhello\r\n000\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        (
            "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        ("0\r\n\r\n", "0\r\n\r\n"),
        (
            "5\r\nhello\r\n0\r\nX: 1\r\n\r\n",
            "5\r\nhello\r\n0\r\nX: 1\r\n\r\n",
        ),
        (
            "0\r\nContent-Length: 5\r\nHost: b\r\nX: 1\r\n\r\n",
            "0\r\nX: 1\r\n\r\n",
        ),
        (
            "0\r\nSet-Cookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n",
            "0\r\n\r\n",
        ),
    ] {
        let (send, sent) = (format!("{IN_CHUNKS}{body}"), format!("{IN_CHUNKS}{sent}"));
        all.push(Reply::delivered(&send, &sent));
        // With a bare LF for all line endings, and for those after the head.
        all.push(Reply::repaired(send.replace("\r\n", "\n"), &sent));
        let body = body.replace("\r\n", "\n");
        all.push(Reply::repaired(format!("{IN_CHUNKS}{body}"), &sent));
    }
    for (body, sent) in [
        // Some servers pad their sizes with blanks, which does not count as a fault.
        ("5   \r\nhello\r\n0 \t\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("5 ;a\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let (send, sent) = (format!("{IN_CHUNKS}{body}"), format!("{IN_CHUNKS}{sent}"));
        all.push(Reply::delivered(send, sent));
    }
    for (body, sent) in [
        ("5\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("5;a\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("5\r\nhello\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("5\r\nhello\r\n0\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("5\r\nhello\r\n0\r\n\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("0\r\nX: 1\n\r\n", "0\r\nX: 1\r\n\r\n"),
        ("0\r\nX : 1\r\n\r\n", "0\r\nX: 1\r\n\r\n"),
        (
            "0\r\nX: 1\r\n 2\r\nY: \x013\r\n\r\n",
            "0\r\nX: 1 2\r\nY: 3\r\n\r\n",
        ),
        ("0\r\nHost : b\r\nContent-Length\t: 5\r\n\r\n", "0\r\n\r\n"),
    ] {
        let (send, sent) = (format!("{IN_CHUNKS}{body}"), format!("{IN_CHUNKS}{sent}"));
        all.push(Reply::repaired(&send, sent));
        let content = if body.contains("hello") { "hello" } else { "" };
        let to_old = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{content}");
        all.push(Reply::repaired(send, to_old).to(ASK_OLD));
    }
    // HTTP/1.0 has no chunks; the other responses end with the upstream's connection.
    let chunks = format!("{IN_CHUNKS}{body}");
    let to_old = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello";
    all.push(Reply::delivered(chunks, to_old).to(ASK_OLD));
    let until_close = "HTTP/1.1 200 OK\r\nX: y\r\n\r\nhello";
    let sent =
        "HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    all.push(Reply::delivered(until_close, sent).then(End::Closes));
    let old = "HTTP/1.0 200 OK\r\nX: y\r\n\r\nhello";
    all.push(Reply::delivered(old, sent).then(End::Closes));
    let to_old = "HTTP/1.1 200 OK\r\nX: y\r\nConnection: close\r\n\r\nhello";
    all.push(
        Reply::delivered(until_close, to_old)
            .to(ASK_OLD)
            .then(End::Closes),
    );
    replies(tally, all);
}

pub(super) fn answers_cut(tally: &mut Tally) {
    let mut all = Vec::new();
    let length = hello("");
    let chunks = format!("{IN_CHUNKS}5\r\nhello\r\n0\r\n\r\n");
    // These ways to end early are also among the prefixes of complete responses.
    for end in [End::Closes, End::Resets] {
        for (send, whole) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &length),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", &length),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                &chunks,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell",
                &chunks,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
                &chunks,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
                &chunks,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: 1\r\n",
                &chunks,
            ),
        ] {
            all.push(Reply::broken(send, whole).then(end));
            // For HTTP/1.0, chunks become a body that ends with the connection, so that only a
            // reset shows that it is incomplete. One byte more than any of these sends makes each
            // a part of it.
            let mut old = whole.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
            if send.contains("chunked") {
                old = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello!".to_owned();
            }
            all.push(Reply::broken(send, old).to(ASK_OLD).then(end));
        }
        all.push(Reply::bad("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n").then(end));
        all.push(Reply::bad("HTTP/1.1 200 OK").then(end));
        all.push(Reply::bad("HTTP/1.1 103 Early Hints\r\n\r\n").then(end));
    }
    let until_close = format!("{IN_CHUNKS}5\r\nhello\r\n0\r\n\r\n");
    all.push(Reply::broken("HTTP/1.1 200 OK\r\n\r\nhello", until_close).then(End::Resets));
    // Malformed chunked bodies.
    #[rustfmt::skip]
    let bodies = [
        "X\r\nhello\r\n0\r\n\r\n", "\r\n0\r\n\r\n", " 5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n", "5 5\r\nhello\r\n0\r\n\r\n", "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r0\r\n\r\n", "5\r\nhello0\r\n\r\n",
         "5\r\nhello\n\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n", "4\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\n-0\r\n\r\n", "5\r\nhello\r\n0\r\n X: 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n", "5\r\nhello\r\n0\r\nX: \0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n", "5\r\nhello\r\nHTTP/1.1 200 OK\r\n\r\n",
    ];
    for body in bodies {
        all.push(Reply::broken(format!("{IN_CHUNKS}{body}"), &chunks));
        let old = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello!";
        all.push(Reply::broken(format!("{IN_CHUNKS}{body}"), old).to(ASK_OLD));
    }
    replies(tally, all);
}

pub(super) fn answers_without_content(tally: &mut Tally) {
    let mut all = Vec::new();
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    // After a body that the response must not have, the connection is not used again.
    for surplus in ["", "hello", EVIL, "\r\n", "0\r\n\r\n"] {
        for (head, request, sent) in [
            (length, ASK_HEAD, length),
            (IN_CHUNKS, ASK_HEAD, IN_CHUNKS),
            (
                "HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\n",
                ASK_HEAD,
                "HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\n",
            ),
            (
                "HTTP/1.1 204 None\r\n\r\n",
                ASK,
                "HTTP/1.1 204 None\r\n\r\n",
            ),
            (
                "HTTP/1.1 204 None\r\n\r\n",
                ASK_HEAD,
                "HTTP/1.1 204 None\r\n\r\n",
            ),
            (
                "HTTP/1.1 304 Same\r\nETag: \"a\"\r\n\r\n",
                ASK,
                "HTTP/1.1 304 Same\r\nETag: \"a\"\r\n\r\n",
            ),
            (
                "HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n",
                ASK,
                "HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n",
            ),
            (
                "HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n",
                ASK,
                "HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n",
            ),
        ] {
            let reply = Reply::delivered(head, sent).to(request);
            all.push(reply.followed_by(surplus));
        }
        // In response to GET this would end with the connection, so the upstream may close.
        let unframed = "HTTP/1.1 200 OK\r\n\r\n";
        let reply = Reply::delivered(unframed, unframed).to(ASK_HEAD);
        all.push(reply.followed_by(surplus).last());
        for fields in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
            if surplus.is_empty() {
                continue;
            }
            let send = format!("HTTP/1.1 204 None\r\n{fields}\r\n");
            let reply = Reply::delivered(send, "HTTP/1.1 204 None\r\n\r\n");
            all.push(reply.followed_by(surplus));
        }
    }
    // 205 is framed like any other status (RFC 9112 §6.3), so that its body is delivered.
    let reset = "HTTP/1.1 205 Reset\r\nContent-Length: 5\r\n\r\nhello";
    all.push(Reply::delivered(reset, reset));
    replies(tally, all);
}

pub(super) fn interim(tally: &mut Tally) {
    let mut all = Vec::new();
    let last = hello("");
    for heads in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 102 Processing\r\nX: y\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\n",
        "HTTP/1.1 199 What\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 103 Again\r\n\r\n",
        &"HTTP/1.1 102 Processing\r\n\r\n".repeat(40),
        &"HTTP/1.1 104 Upload Resumption Supported\r\nX: y\r\n\r\n".repeat(500),
    ] {
        let whole = format!("{heads}{last}");
        all.push(Reply::delivered(&whole, &whole));
        let old = last.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        all.push(Reply::delivered(&whole, old).to(ASK_OLD));
        // Interim responses without a final one get 502.
        all.push(Reply::bad(heads).then(End::Closes));
    }
    // Interim responses have no content, whatever their fields say: the next head follows. The
    // announced body may still arrive, so the connection is not used again.
    for fields in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        let send = format!("HTTP/1.1 103 Early Hints\r\n{fields}\r\n{last}");
        all.push(Reply::repaired(
            send,
            format!("HTTP/1.1 103 Early Hints\r\n\r\n{last}"),
        ));
        let send = format!("HTTP/1.1 103 Early Hints\r\n{fields}\r\nEVIL\r\n{last}");
        all.push(Reply::bad(send));
    }
    for request in [ASK, ASK_OLD] {
        // An upstream that sends interim responses without end is cut off.
        let without_end = "HTTP/1.1 102 Processing\r\n\r\n".repeat(20_000);
        all.push(Reply::bad(without_end).to(request));
        let without_end = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(10_000);
        all.push(Reply::bad(without_end).to(request));
    }
    // After a fault in any of them, the connection is not used again.
    for (head, sent) in [
        ("HTTP/1.1 103 Early Hints\r\nA : b\r\n\r\n", "A: b\r\n"),
        (
            "HTTP/1.1 103 Early Hints\r\nA: b\r\n c\r\n\r\n",
            "A: b c\r\n",
        ),
        ("HTTP/1.1 103 Early Hints\r\nA: \x01\r\n\r\n", "A: \r\n"),
        ("HTTP/1.1  103 Early Hints\r\n\r\n", ""),
        ("HTTP/1.1 103 Early Hints\n\n", ""),
    ] {
        let sent = format!("HTTP/1.1 103 Early Hints\r\n{sent}\r\n{last}");
        all.push(Reply::repaired(format!("{head}{last}"), sent));
        let old = last.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        all.push(Reply::repaired(format!("{head}{last}"), old).to(ASK_OLD));
    }
    for head in [
        "HTTP/1.1 103 Early Hints\r\n A: b\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nA: \0\r\n\r\n",
        "HTTP/1.1 103 Early\rHints\r\n\r\n",
        "HTTP/1.1 1 Hint\r\n\r\n",
        "HTTP/1.1 1030 Hints\r\n\r\n",
    ] {
        all.push(Reply::bad(format!("{head}{last}")));
    }
    // A switch that was not requested, or to another protocol.
    let switch = |fields: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
    let right = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for request in [ASK, ASK_HEAD, ASK_OLD] {
        all.push(Reply::bad(switch(right)).to(request));
        all.push(Reply::bad(switch("") + &last).to(request));
        all.push(Reply::bad(switch(right) + EVIL).to(request));
    }
    #[rustfmt::skip]
    let variants = [
        "", "Connection: Upgrade\r\n", "Upgrade: websocket\r\n",
        "Connection: close\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade:\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket/13\r\n",
        "Connection: Upgrade\r\nUpgrade: websockets\r\n",
        "Connection: Upgrade\r\nUpgrade: websoc\u{212a}et\r\n",
        "Connection: Upgrade\r\nUpgrade: web\r\n socket\r\n",
        "Connection: Upgrade\r\nUpgrade: web\x01socket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\0\r\n",
    ];
    for fields in variants {
        all.push(Reply::bad(switch(fields)).to(ASK_UPGRADE));
        all.push(Reply::bad(switch(fields) + EVIL).to(ASK_UPGRADE));
    }
    let sent = switch("Upgrade: websocket\r\nConnection: Upgrade\r\n");
    for send in [
        switch(right),
        switch(right).replace("\r\n", "\n"),
        switch(right).replace("\r\n\r\n", "\n\n"),
        switch(right).replace("1.1 ", "1.1  "),
        switch(right).replace("Upgrade:", "Upgrade\t:"),
        switch(right).replace("Upgrade:", "Upgrade:\r\n"),
        switch(right).replace("websocket", "websocket\x01"),
        switch(right).replace("HTTP/1.1", "HTTP/1.2"),
    ] {
        // What follows is sent through the tunnel, on the same connection.
        all.push(Reply::delivered(send, &sent).to(ASK_UPGRADE));
    }
    let wrong_line = switch(right).replace("101 ", "1010 ");
    all.push(Reply::bad(wrong_line).to(ASK_UPGRADE));
    replies(tally, all);
}

pub(super) fn surplus(tally: &mut Tally) {
    let mut all = Vec::new();
    let chunks = format!("{IN_CHUNKS}5\r\nhello\r\n0\r\n\r\n");
    let trailers = format!("{IN_CHUNKS}5\r\nhello\r\n0\r\nX: 1\r\n\r\n");
    let empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned();
    let length = hello("");
    let interim = format!("HTTP/1.1 103 Early Hints\r\n\r\n{length}");
    for whole in [&length, &empty, &chunks, &trailers, &interim] {
        let split = format!("{EVIL}{EVIL}");
        for more in [
            EVIL,
            &split,
            "EVIL",
            "H",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nEVIL",
            "\r\n",
            "\n",
            "\r",
            " ",
            "\0",
            "0\r\n\r\n",
        ] {
            all.push(Reply::delivered(whole, whole).followed_by(more));
        }
    }
    // More than a buffer can hold.
    let flood = "EVIL".repeat(50_000);
    all.push(Reply::delivered(&length, &length).followed_by(flood));
    // What an injected field splits off as a second response is surplus as well.
    let split = hello("X: y\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n");
    all.push(Reply::bad(split));
    let whole = "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 0\r\n\r\n";
    all.push(Reply::delivered(whole, whole).followed_by(EVIL));
    replies(tally, all);
}

pub(super) fn idle_surplus(tally: &mut Tally) {
    let late = [
        EVIL,
        "EVIL",
        "H",
        "\r\n",
        "\0",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\nConnection: close\r\n\r\nEVIL",
        "",
    ];
    for more in late {
        for end in [End::Stays, End::Closes, End::Resets] {
            if more.is_empty() && end == End::Stays {
                continue;
            }
            let (go_on, wait) = channel::<()>();
            let wait = Mutex::new(wait);
            let (report, done) = channel();
            let report = Mutex::new(report);
            let connections = AtomicUsize::new(0);
            let upstream = origin(move |mut client| {
                let number = connections.fetch_add(1, Ordering::SeqCst);
                while client.try_head().is_some() {
                    client.send(&ok(&format!("on {number}")));
                    if number > 0 {
                        continue;
                    }
                    wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                    client.send(more);
                    wait_until_delivered(&client.socket);
                    match end {
                        End::Stays => report.lock().unwrap().send(()).unwrap(),
                        End::Closes => {
                            drop(client);
                            return report.lock().unwrap().send(()).unwrap();
                        }
                        End::Resets => {
                            client.reset();
                            return report.lock().unwrap().send(()).unwrap();
                        }
                    }
                }
            });
            let proxy = Proxy::before(upstream, &["--threads", "1"]);
            let what = shown(more.as_bytes());
            let mut first = proxy.connect();
            first.send(&get(""));
            assert_eq!(first.response().text(), "on 0");
            go_on.send(()).unwrap();
            done.recv_timeout(PATIENCE).unwrap();
            // Neither another client nor the same one gets the surplus.
            assert_eq!(proxy.get("/").text(), "on 1", "{what}");
            first.send(&post("Content-Length: 5\r\n", "hello"));
            let head = first.head();
            assert!(head.starts_with("HTTP/1.1 200 "), "{what}: {head}");
            // A request that must not be sent twice gets a new connection to such an upstream.
            assert_eq!(first.exactly(4), b"on 2", "{what}");
            tally.case("nobody gets it, upstream's connection closed", 1);
        }
    }
}
