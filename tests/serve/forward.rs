//! HTTP forwarding: what the upstream received, what the client received, and whether the
//! connections stay open.

use libtest_mimic::Trial;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        host_and_fields_arrive_as_they_were_sent,
        keep_alive_and_pipelining,
        bodies_of_every_framing,
        responses_of_every_framing,
        trailers_pass,
        responses_without_a_body,
        expect_and_interim_responses,
        http_1_0_clients,
        an_early_answer_is_delivered,
        a_client_that_ends_its_side_still_gets_its_answer,
        server_sent_events_arrive_one_by_one,
        the_pool_reuses_and_retries,
        a_post_is_never_sent_twice,
        a_race_with_the_upstreams_end_closes_without_a_response,
        surplus_bytes_reach_no_client,
        a_truncated_response_is_recognizable,
        a_close_delimited_body_in_tls_is_cut_or_whole,
        a_request_head_may_be_as_long_as_max_head_says,
        a_gigabyte_each_way_in_constant_memory,
        bad_requests_are_answered_and_not_forwarded,
        errors_keep_the_connection_where_they_can,
        three_virtual_hosts_on_one_tls_address,
    ]
}

/// An origin that records each head and answers `ok`.
fn recording() -> (SocketAddr, Receiver<String>) {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let address = answering(move |head| {
        sender.lock().unwrap().send(head.to_owned()).unwrap();
        ok("recorded")
    });
    (address, receiver)
}

pub fn host_and_fields_arrive_as_they_were_sent() {
    let (upstream, heads) = recording();
    let proxy = Proxy::before(upstream, &[]);
    proxy.fetch(
        "GET /a%20b?x=y HTTP/1.1\r\nhOsT: ExAmple.COM:81\r\naccept: */*\r\nX-One: 1\r\nx-one: 2\r\n\
         Connection: keep-alive, X-Private\r\nX-Private: p\r\nProxy-Authorization: Basic eA==\r\n\r\n",
    );
    assert_eq!(
        heads.recv_timeout(PATIENCE).unwrap(),
        "GET /a%20b?x=y HTTP/1.1\r\nhOsT: ExAmple.COM:81\r\naccept: */*\r\nX-One: 1\r\nx-one: 2\r\n\r\n"
    );
    let proxy = Proxy::before(upstream, &["--host-header", "vhost.example", "--forwarded"]);
    proxy
        .fetch("GET http://other.example/x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: forged\r\n\r\n");
    assert_eq!(
        heads.recv_timeout(PATIENCE).unwrap(),
        "GET /x HTTP/1.1\r\nHost: vhost.example\r\nX-Forwarded-For: 127.0.0.1\r\n\
         X-Forwarded-Host: other.example\r\nX-Forwarded-Proto: http\r\nVia: 1.1 simple-proxy\r\n\r\n"
    );
}

pub fn keep_alive_and_pipelining() {
    let upstream = answering(|head| ok(head.split(' ').nth(1).unwrap()));
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    for n in 0..3 {
        client.send(&format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.response().text(), format!("/{n}"));
    }
    let many: String = (0..50)
        .map(|n| format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"))
        .collect();
    client.send(&many);
    for n in 0..50 {
        assert_eq!(client.response().text(), format!("/{n}"));
    }
    client.send("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let last = client.response();
    assert_eq!(last.text(), "/last");
    assert_eq!(last.field("connection"), Some("close"));
    assert!(client.is_closed());
    proxy.log.wait_for("请求完成: GET /last -> 200 (5 bytes, ");
}

pub fn bodies_of_every_framing() {
    let (sender, seen) = channel();
    let sender = Mutex::new(sender);
    let upstream = origin(move |mut client| {
        while let Some(head) = client.try_head() {
            let body = match field(&head, "content-length") {
                Some(length) => client.exactly(length.parse().unwrap()),
                None if field(&head, "transfer-encoding").is_some() => client.chunked().0,
                None => Vec::new(),
            };
            sender.lock().unwrap().send((head, body)).unwrap();
            client.send(&ok(""));
        }
    });
    let proxy = Proxy::before(upstream, &[]);
    let noise = Noise::new(1).bytes(300_000);
    let mut client = proxy.connect();
    for size in [0, 1, 8191, 8192, 61_440, 61_441, 300_000] {
        let body = &noise[..size];
        client.send(&format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
        ));
        client.send_bytes(body);
        assert_eq!(client.response().status(), 200);
        let (head, got) = seen.recv_timeout(PATIENCE).unwrap();
        assert_eq!(
            field(&head, "content-length"),
            Some(size.to_string().as_str())
        );
        assert!(got == body, "{size} bytes by length");

        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for part in body.chunks(10_000) {
            client.send(&format!("{:X};ext=\"x\"\r\n", part.len()));
            client.send_bytes(part);
            client.send("\r\n");
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.response().status(), 200);
        let (head, got) = seen.recv_timeout(PATIENCE).unwrap();
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
        assert!(got == body, "{size} bytes in chunks");
    }
    // One byte at a time, head and chunks.
    for byte in b"POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                  3\r\nabc\r\n0\r\n\r\n"
    {
        client.send_bytes(&[*byte]);
    }
    assert_eq!(client.response().status(), 200);
    let (head, got) = seen.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("POST /slow "));
    assert_eq!(got, b"abc");
}

pub fn responses_of_every_framing() {
    let noise = Arc::new(Noise::new(2).bytes(300_000));
    let shared = noise.clone();
    let upstream = origin(move |mut client| {
        let Some(head) = client.try_head() else {
            return;
        };
        let mut path = head
            .split(' ')
            .nth(1)
            .unwrap()
            .trim_start_matches('/')
            .split('/');
        let framing = path.next().unwrap();
        let size = path.next().unwrap().parse().unwrap();
        let body = &shared[..size];
        match framing {
            "length" => {
                client.send(&format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"
                ));
                client.send_bytes(body);
            }
            "chunked" => {
                client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                for part in body.chunks(7000) {
                    client.send(&format!("{:x}\r\n", part.len()));
                    client.send_bytes(part);
                    client.send("\r\n");
                }
                client.send("0\r\n\r\n");
            }
            _ => {
                client.send("HTTP/1.0 200 OK\r\n\r\n");
                client.send_bytes(body);
            }
        }
    });
    let proxy = Proxy::before(upstream, &[]);
    for framing in ["length", "chunked", "close"] {
        let mut client = proxy.connect();
        for size in [0, 1, 8192, 61_440, 300_000] {
            client.send(&format!(
                "GET /{framing}/{size} HTTP/1.1\r\nHost: a\r\n\r\n"
            ));
            let response = client.response();
            assert!(response.body == noise[..size], "{framing} {size}");
            let chunked = response.field("transfer-encoding").is_some();
            assert_eq!(chunked, framing != "length", "{}", response.head);

            let old = proxy.fetch(&format!(
                "GET /{framing}/{size} HTTP/1.0\r\nHost: a\r\n\r\n"
            ));
            assert!(old.body == noise[..size], "{framing} {size} for HTTP/1.0");
            assert!(old.field("transfer-encoding").is_none());
        }
    }
}

pub fn trailers_pass() {
    let (sender, seen) = channel();
    let sender = Mutex::new(sender);
    let upstream = origin(move |mut client| {
        client.head();
        sender.lock().unwrap().send(client.chunked()).unwrap();
        client.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Down\r\n\r\n\
             2\r\nok\r\n0\r\nX-Down: 2\r\nContent-Length: 99\r\n\r\n",
        );
    });
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nup\r\n0\r\nX-Up: 1\r\nhost: evil\r\n\r\n",
    );
    let (body, trailers) = seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(
        (body.as_slice(), trailers),
        (&b"up"[..], vec!["X-Up: 1".to_owned()])
    );
    let head = client.head();
    assert_eq!(field(&head, "trailer"), Some("X-Down"));
    assert_eq!(
        client.chunked(),
        (b"ok".to_vec(), vec!["X-Down: 2".to_owned()])
    );
}

pub fn responses_without_a_body() {
    let upstream = answering(|head| match head.split(' ').nth(1).unwrap() {
        "/204" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n".to_owned(),
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_owned(),
    });
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    for (method, path, status, length) in [
        ("HEAD", "/", 200, Some("10")),
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, Some("10")),
        ("HEAD", "/204", 204, None),
    ] {
        client.send(&format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.response_to(method);
        assert_eq!(response.status(), status);
        assert_eq!(
            response.field("content-length"),
            length,
            "{}",
            response.head
        );
    }
}

pub fn expect_and_interim_responses() {
    let upstream = origin(|mut client| {
        let head = client.head();
        assert_eq!(field(&head, "expect"), Some("100-continue"));
        client.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n");
        client.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = client.exactly(5);
        client.send(&ok(&String::from_utf8(body).unwrap()));
    });
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let hints = client.head();
    assert!(hints.starts_with("HTTP/1.1 103 "), "{hints}");
    assert_eq!(field(&hints, "link"), Some("</style.css>"));
    assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello");
    assert_eq!(client.response().text(), "hello");

    // A refusal instead of 100 arrives although no body was sent.
    let upstream = origin(|mut client| {
        client.head();
        client.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
        client.rest_or_reset();
    });
    let proxy = Proxy::before(upstream, &[]);
    let refused = proxy
        .fetch("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(refused.status(), 417);
    assert_eq!(refused.field("connection"), Some("close"));

    // Endless interim responses are not an answer.
    let upstream = origin(|mut client| {
        client.head();
        while client.try_send(b"HTTP/1.1 102 Processing\r\n\r\n") {}
    });
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let heads = std::iter::from_fn(|| client.try_head());
    let last = heads
        .take(20_000)
        .find(|head| !head.starts_with("HTTP/1.1 102"));
    assert!(last.unwrap().starts_with("HTTP/1.1 502"));
}

pub fn http_1_0_clients() {
    let (sender, seen) = channel();
    let sender = Mutex::new(sender);
    let upstream = answering(move |head| {
        sender.lock().unwrap().send(head.to_owned()).unwrap();
        format!("HTTP/1.1 102 Processing\r\n\r\n{}", ok("old"))
    });
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let response = client.response();
    assert!(
        response.head.starts_with("HTTP/1.1 200 OK\r\n"),
        "{}",
        response.head
    );
    assert_eq!(response.field("connection"), Some("keep-alive"));
    let head = seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(head, format!("GET / HTTP/1.1\r\nHost: {upstream}\r\n\r\n"));
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().field("connection"), Some("close"));
    assert!(client.is_closed());
}

pub fn an_early_answer_is_delivered() {
    let upstream = origin(|mut client| {
        client.head();
        client.send(
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbig!",
        );
        // Closes at once, with most of the upload unread.
    });
    let proxy = Proxy::before(upstream, &[]);
    for _ in 0..5 {
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
        let chunk = vec![0; 64 * 1024];
        for _ in 0..200 {
            if !client.try_send(&chunk) {
                break;
            }
        }
        let response = client.response();
        assert_eq!((response.status(), response.text().as_str()), (413, "big!"));
        assert_eq!(response.field("connection"), Some("close"));
    }
}

pub fn a_client_that_ends_its_side_still_gets_its_answer() {
    let upstream = origin(|mut client| {
        client.head();
        std::thread::sleep(Duration::from_millis(50));
        client.send(&ok(&"x".repeat(4 << 20)));
    });
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.end_sending();
    assert_eq!(client.response().body.len(), 4 << 20);
    assert!(client.is_closed());
}

pub fn server_sent_events_arrive_one_by_one() {
    for chunked in [true, false] {
        let (go_on, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let upstream = origin(move |mut client| {
            client.head();
            client.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n");
            client.send(if chunked {
                "Transfer-Encoding: chunked\r\n\r\n"
            } else {
                "\r\n"
            });
            for n in 0..5 {
                let event = format!("data: {n}\n\n");
                match chunked {
                    true => client.send(&format!("{:x}\r\n{event}\r\n", event.len())),
                    false => client.send(&event),
                }
                // The next event is not sent before this one has arrived.
                wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            }
            if chunked {
                client.send("0\r\n\r\n");
            }
        });
        let proxy = Proxy::before(upstream, &[]);
        let mut client = proxy.connect();
        client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
        client.head();
        for n in 0..5 {
            assert_eq!(client.chunk(), format!("data: {n}\n\n").as_bytes());
            go_on.send(()).unwrap();
        }
        assert_eq!(client.chunk(), b"");
    }
}

/// An origin that counts its connections and runs `script` on each with its number.
fn counting(
    script: impl Fn(Client, usize) + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let shared = count.clone();
    let address = origin(move |client| {
        let number = shared.fetch_add(1, Ordering::SeqCst);
        script(client, number);
    });
    (address, count)
}

pub fn the_pool_reuses_and_retries() {
    // The first connection serves three requests and then closes unnoticed.
    let (upstream, connections) = counting(|mut client, number| {
        for _ in 0..if number == 0 { 3 } else { 100 } {
            if client.try_head().is_none() {
                return;
            }
            client.send(&ok(&number.to_string()));
        }
    });
    let proxy = Proxy::before(upstream, &["--threads", "1"]);
    let mut client = proxy.connect();
    let mut answers = String::new();
    for _ in 0..8 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        answers += &client.response().text();
    }
    assert_eq!(answers, "00011111");
    // Another client's request uses the same connection.
    assert_eq!(proxy.get("/").text(), "1");
    assert_eq!(connections.load(Ordering::SeqCst), 2);

    // The upstream reads the second request and closes without a byte: it is sent once more.
    let (upstream, connections) = counting(|mut client, number| {
        client.head();
        client.send(&ok("fine"));
        if number == 0 {
            client.head();
        } else {
            client.rest_or_reset();
        }
    });
    let proxy = Proxy::before(upstream, &["--threads", "1"]);
    assert_eq!(proxy.get("/").text(), "fine");
    assert_eq!(proxy.get("/").text(), "fine");
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    assert!(!proxy.log.text().contains("请求失败"));
}

pub fn a_post_is_never_sent_twice() {
    let with_body = "POST /pay HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    // A POST without a body must not be repeated either.
    for post in [with_body, "POST /pay HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let (sender, seen) = channel();
        let sender = Mutex::new(sender);
        let upstream = origin(move |mut client| {
            // The second request shows that connections are kept.
            for _ in 0..2 {
                client.head();
                client.send(&ok("first"));
            }
            if let Some(head) = client.try_head() {
                sender.lock().unwrap().send(head).unwrap();
            }
        });
        let proxy = Proxy::before(upstream, &["--threads", "1"]);
        let mut client = proxy.connect();
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.response().text(), "first");
        }
        assert_eq!(proxy.fetch(post).status(), 502);
        let head = seen.recv_timeout(PATIENCE).unwrap();
        assert!(head.starts_with("POST /pay "));
        assert!(seen.try_recv().is_err());
    }
    // A kept connection that is already closed is not tried, so a POST succeeds.
    let (closed, has_closed) = channel();
    let closed = Mutex::new(closed);
    let (upstream, _) = counting(move |mut client, _| {
        client.head();
        client.send(&ok("fine"));
        drop(client);
        closed.lock().unwrap().send(()).unwrap();
    });
    let proxy = Proxy::before(upstream, &["--threads", "1"]);
    for _ in 0..5 {
        assert_eq!(proxy.fetch(with_body).text(), "fine");
        has_closed.recv_timeout(PATIENCE).unwrap();
    }
}

/// A kept connection ends during a request that must not be sent twice. If that was a race, a
/// client that has had a response before may repeat the request; if the request was being
/// processed, it must not be repeated.
pub fn a_race_with_the_upstreams_end_closes_without_a_response() {
    // How long a response takes, which is taken for the round trip, and for how long the last
    // request is processed before the connection ends.
    for (answers_in, works_for, silent) in [(1, 0, true), (0, 3, false)] {
        let [answers_in, works_for] = [answers_in, works_for].map(Duration::from_secs);
        let upstream = origin(move |mut client| {
            while let Some(head) = client.try_head() {
                if head.starts_with("POST ") {
                    client.exactly(2);
                    std::thread::sleep(works_for);
                    return;
                }
                std::thread::sleep(answers_in);
                // Long enough however slowly the test runs.
                let promise = "Keep-Alive: timeout=600\r\nContent-Length";
                client.send(&ok("fine").replace("Content-Length", promise));
            }
        });
        let proxy = Proxy::before(upstream, &["--threads", "1"]);
        let post = "POST /pay HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
        let mut client = proxy.connect();
        // The second request shows that connections are kept.
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.response().text(), "fine");
        }
        client.send(post);
        match silent {
            true => assert!(client.is_closed()),
            false => {
                let response = client.response();
                // The connection stays open.
                assert_eq!(
                    (response.status(), response.field("connection")),
                    (502, None)
                );
            }
        }
        if silent {
            client = proxy.connect();
        }
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.response().text(), "fine");
        }
        // A client's first request is always answered.
        assert_eq!(proxy.fetch(post).status(), 502);
    }
}

pub fn surplus_bytes_reach_no_client() {
    for late in [false, true] {
        let (sent, is_sent) = channel();
        let sent = Mutex::new(sent);
        let (upstream, connections) = counting(move |mut client, number| {
            client.head();
            let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
            if number > 0 {
                client.send(&ok("good"));
                while client.try_head().is_some() {
                    client.send(&ok("good"));
                }
            } else if late {
                client.send(&ok("good"));
                client.send(evil);
                sent.lock().unwrap().send(()).unwrap();
            } else {
                client.send(&(ok("good") + evil));
            }
            client.rest_or_reset();
        });
        let proxy = Proxy::before(upstream, &["--threads", "1"]);
        for n in 0..3 {
            assert_eq!(proxy.get("/").text(), "good");
            if late && n == 0 {
                is_sent.recv_timeout(PATIENCE).unwrap();
            }
        }
        assert!(connections.load(Ordering::SeqCst) > 1);
    }
}

pub fn a_truncated_response_is_recognizable() {
    let upstream = origin(|mut client| {
        let head = client.head();
        match head.split(' ').nth(1).unwrap() {
            "/length" => client.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
            "/chunk" => {
                client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf")
            }
            "/chunks" => {
                client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            }
            _ => client.send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nX\r\n\r\n",
            ),
        }
    });
    let proxy = Proxy::before(upstream, &[]);
    for path in ["/length", "/chunk", "/chunks"] {
        let mut client = proxy.connect();
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.head();
        let body = client.rest_or_reset();
        assert!(body.windows(4).any(|w| w == b"half"), "{path}");
        assert!(!body.ends_with(b"0\r\n\r\n"), "{path}: {body:?}");
        proxy.log.wait_for(&format!("请求中断: GET {path}: "));
    }
    // If it is found in time, it is an error with a status.
    assert_eq!(proxy.get("/garbage").status(), 502);
    // For HTTP/1.0 only a reset shows it.
    let mut client = proxy.connect();
    client.send("GET /chunks HTTP/1.0\r\n\r\n");
    client.head();
    let mut chunk = [0; 64];
    let outcome = loop {
        match read_some(&mut client.stream, &mut chunk) {
            Ok(1..) => {}
            outcome => break outcome,
        }
    };
    assert!(outcome.is_err(), "a clean end after half a body");
}

pub fn a_close_delimited_body_in_tls_is_cut_or_whole() {
    let folder = Folder::new("close-delimited");
    let certificate = Certificate::new("origin.test");
    let ca = folder.write("ca.pem", &certificate.pem());
    let verified = ["--tls-verify", "--tls-name", "origin.test", "--tls-ca", &ca];
    // How the upstream ends: with close_notify, without, or in the middle of a record.
    for (end, args, is_whole) in [
        ("announced", &verified[..], true),
        ("unannounced", &verified, false),
        ("torn", &verified, false),
        ("announced", &[], true),
        ("unannounced", &[], true),
        ("torn", &[], false),
    ] {
        let acceptor = certificate.acceptor();
        let upstream = origin(move |client| {
            let mut stream = acceptor.accept(Patient(client.socket)).unwrap();
            let mut request = [0; 1024];
            let _ = read_some(&mut stream, &mut request).unwrap();
            std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\n\r\nhalf").unwrap();
            match end {
                "announced" => _ = stream.shutdown().unwrap(),
                // The head of a record of application data, and no more.
                "torn" => {
                    let socket = &mut stream.get_mut().0;
                    std::io::Write::write_all(socket, &[0x17, 3, 3, 1, 0, 7]).unwrap();
                }
                _ => {}
            }
        });
        for version in ["1.1", "1.0"] {
            let what = format!("{end} {args:?} HTTP/{version}");
            let all = [&["--tls", "on", "--log-lang", "en", "-v"], args].concat();
            let proxy = Proxy::before(upstream, &all);
            let mut client = proxy.connect();
            client.send(&format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
            let in_chunks = !args.is_empty() && version == "1.1";
            let mut received = Vec::new();
            let mut chunk = [0; 1024];
            let was_reset = loop {
                if in_chunks && received.ends_with(b"\r\n0\r\n\r\n") {
                    break false;
                }
                match read_some(&mut client.stream, &mut chunk) {
                    Ok(0) => break false,
                    Ok(n) => received.extend_from_slice(&chunk[..n]),
                    Err(_) => break true,
                }
            };
            let received = String::from_utf8(received).unwrap();
            let (head, body) = received.split_once("\r\n\r\n").expect(&received);
            let coding = field(head, "transfer-encoding");
            assert_eq!(coding.is_some(), in_chunks, "{what}: {head}");
            let closes = field(head, "connection") == Some("close");
            assert_eq!(closes, !in_chunks, "{what}: {head}");
            let seen_as_whole = match in_chunks {
                true => body == "4\r\nhalf\r\n0\r\n\r\n",
                false => body == "half" && !was_reset,
            };
            assert_eq!(seen_as_whole, is_whole, "{what}: {body:?}");
            if is_whole && end == "unannounced" {
                proxy
                    .log
                    .wait_for("the upstream ended TLS without close_notify");
            }
        }
    }
}

pub fn a_request_head_may_be_as_long_as_max_head_says() {
    let upstream = answering(|head| ok(&head.len().to_string()));
    let of_length = |length: usize| {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
        head.replace("X: ", &format!("X: {}", "x".repeat(length - head.len())))
    };
    for (flag, longest) in [
        (None, 32_768),
        (Some("4096"), 4096),
        (Some("1048576"), 1 << 20),
    ] {
        let args: Vec<&str> = flag.iter().flat_map(|&n| ["--max-head", n]).collect();
        let proxy = Proxy::before(upstream, &args);
        assert_eq!(proxy.fetch(&of_length(longest)).text(), longest.to_string());
        // The same in pieces; one byte at a time would take too long.
        let mut client = proxy.connect();
        for piece in of_length(longest).as_bytes().chunks(4099) {
            client.send_bytes(piece);
        }
        assert_eq!(client.response().text(), longest.to_string());
        let mut client = proxy.connect();
        client.try_send(of_length(longest + 1).as_bytes());
        assert_eq!(client.response().status(), 431);
        let mut client = proxy.connect();
        let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(longest));
        client.try_send(target.as_bytes());
        assert_eq!(client.response().status(), 414);
        assert_eq!(proxy.get("/").status(), 200);
    }
}

pub fn a_gigabyte_each_way_in_constant_memory() {
    const GIB: usize = 1 << 30;
    let upstream = origin(|mut client| {
        while let Some(head) = client.try_head() {
            let chunk = vec![7; 1 << 20];
            if head.starts_with("GET") {
                client.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n"));
                for _ in 0..GIB >> 20 {
                    client.send_bytes(&chunk);
                }
            } else {
                client.skip(GIB);
                client.send(&ok("all"));
            }
        }
    });
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head();
    client.skip(GIB);
    client.send(&format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {GIB}\r\n\r\n"
    ));
    let chunk = vec![7; 1 << 20];
    for _ in 0..GIB >> 20 {
        client.send_bytes(&chunk);
    }
    assert_eq!(client.response().text(), "all");
    let peak = proxy.peak_kib();
    assert!(peak < 32 * 1024, "{peak} KiB");
}

pub fn bad_requests_are_answered_and_not_forwarded() {
    let (upstream, heads) = recording();
    let proxy = Proxy::before(upstream, &[]);
    let huge = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(40_000)
    );
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(40_000));
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(129)
    );
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
        ),
        ("GET /\r\n", 400),
        ("SSH-2.0-OpenSSH_9.6\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (&huge, 431),
        (&many, 431),
        (&long, 414),
    ] {
        let mut client = proxy.connect();
        client.try_send(request.as_bytes());
        let response = client.response();
        assert_eq!(response.status(), status, "{request:.60}");
        assert_eq!(response.field("connection"), Some("close"));
        client.end_sending();
        assert!(client.is_closed(), "{request:.60}");
    }
    assert!(heads.try_recv().is_err(), "something was forwarded");
    proxy
        .log
        .wait_for(" -> 505 only HTTP/1.0 and HTTP/1.1 are supported");
    // Empty lines before a request are skipped; what follows is served.
    let served = proxy.fetch("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(served.status(), 200);
    // A body that is malformed ends the exchange on both sides.
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX");
    assert_eq!(client.response().status(), 400);
}

pub fn errors_keep_the_connection_where_they_can() {
    let proxy = Proxy::before(dead_address(), &[]);
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status(), 502);
        assert_eq!(response.field("connection"), None);
    }
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    let response = client.response();
    assert_eq!(
        (response.status(), response.field("connection")),
        (502, Some("close"))
    );
    client.end_sending();
    assert!(client.is_closed());
}

pub fn three_virtual_hosts_on_one_tls_address() {
    use openssl::ssl::{NameType, SniError, SslAcceptor, SslMethod};
    let names = ["one.test", "two.test", "three.test"];
    let contexts = names.map(|name| Certificate::new(name).acceptor().into_context());
    let fallback = Certificate::new("fallback.test");
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    builder.set_certificate(&fallback.certificate).unwrap();
    builder.set_private_key(&fallback.key).unwrap();
    builder.set_servername_callback(move |ssl, _| {
        let asked = ssl.servername(NameType::HOST_NAME).map(str::to_owned);
        let at = names.iter().position(|name| asked.as_deref() == Some(name));
        let at = at.ok_or(SniError::ALERT_FATAL)?;
        ssl.set_ssl_context(&contexts[at])
            .map_err(|_| SniError::ALERT_FATAL)
    });
    let acceptor = builder.build();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let upstream = origin(move |client| {
        let Ok(mut stream) = acceptor.accept(Patient(client.socket)) else {
            return;
        };
        counted.fetch_add(1, Ordering::SeqCst);
        let certified = stream.ssl().certificate().unwrap();
        let name = certified.subject_name().entries().next().unwrap();
        let name = name.data().to_string().unwrap();
        let mut request = [0; 4096];
        while let Ok(n @ 1..) = read_some(&mut stream, &mut request) {
            let head = String::from_utf8_lossy(&request[..n]).into_owned();
            let host = field(&head, "host").unwrap();
            let answer = ok(&format!("{name} {host}"));
            std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        }
    });
    let proxy = Proxy::before(upstream, &["--tls", "on", "--threads", "1"]);
    let mut client = proxy.connect();
    for round in 0..10 {
        for name in names {
            client.send(&format!("GET /{round} HTTP/1.1\r\nHost: {name}\r\n\r\n"));
            assert_eq!(client.response().text(), format!("{name} {name}"));
        }
    }
    // The connections are kept, each for its own name only.
    assert_eq!(connections.load(Ordering::SeqCst), 3);
}
