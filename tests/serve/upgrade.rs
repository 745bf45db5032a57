//! Upgrades and the relay: what is logged, what is sent when, and that no byte is lost.

use libtest_mimic::Trial;
use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        the_documented_lines_are_logged_exactly,
        english_lines,
        nothing_goes_upstream_before_the_101,
        first_frames_in_the_segment_of_the_handshake_arrive,
        two_hundred_relays_at_once_are_byte_exact,
        a_64_mib_message_survives,
        little_is_buffered_unsent_during_bulk_transfers,
        what_the_upstream_sent_before_closing_arrives,
        what_the_client_sent_before_closing_arrives,
        a_client_that_goes_on_sending_loses_nothing,
        a_client_that_ends_its_side_still_gets_everything,
        a_refused_upgrade_is_an_ordinary_response,
        a_switch_that_was_not_asked_for_is_502,
        other_protocols_pass_only_when_allowed,
        docker_exec_is_a_post_with_a_body,
        kubectl_exec_is_a_post_without_a_body,
        a_switch_before_the_whole_request_is_502,
        of_several_protocols_one_is_forwarded_and_the_others_are_logged,
        a_reset_ends_both_sides,
        what_was_sent_before_a_reset_arrives,
        an_idle_relay_is_closed_after_the_tunnel_timeout,
        a_half_closed_relay_may_be_idle_for_ten_seconds,
    ]
}

pub fn the_documented_lines_are_logged_exactly() {
    let upstream = origin(echo);
    let proxy = Proxy::before(upstream, &[]);
    let mut client = Client::connect(proxy.address);
    let request =
        upgrade_request("/ws/chat?token=secret").replace("chat.example", "localhost:8080");
    client.send(&request);
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.send_bytes(&frame(b"hi", MASK));
    assert_eq!(client.frame().unwrap(), b"hi");
    drop(client);
    proxy.log.wait_for("WebSocket 连接关闭");
    assert_eq!(proxy.get("/").status(), 200);
    proxy.log.wait_for("请求完成");
    let log = proxy.log.text();
    let lines: Vec<&str> = log
        .lines()
        .skip(3)
        .map(|line| line.split_once("Z ").expect("a time before each line").1)
        .collect();
    let lines: Vec<String> = lines.into_iter().map(without_time).collect();
    assert_eq!(
        lines,
        [
            "===收到请求开始=== GET /ws/chat (Host: localhost:8080)",
            "WebSocket 请求: /ws/chat (Host: localhost:8080)",
            "WebSocket 连接建立，开始双向转发",
            "WebSocket 连接关闭",
            "===收到请求开始=== GET / (Host: a.example)",
            "请求完成: GET / -> 200 (22 bytes, N ms, 127.0.0.1)",
        ]
    );
}

pub fn english_lines() {
    let upstream = origin(echo);
    let proxy = Proxy::before(upstream, &["--log-lang", "en", "-v"]);
    let mut client = proxy.connect();
    client.upgrade("/ws");
    drop(client);
    proxy.log.wait_for("WebSocket connection closed");
    proxy.get("/");
    for line in [
        " request: GET /ws (Host: chat.example)",
        " WebSocket request: /ws (Host: chat.example)",
        " WebSocket connection established, relaying both ways",
        " request done: GET / -> 200 (22 bytes, ",
        " connection 1: from 127.0.0.1:",
        " connection 1: upstream reached in ",
        " connection 1: relayed 0 bytes up, 2 down",
        " connection 1: closed after ",
    ] {
        proxy.log.wait_for(line);
    }
    assert!(proxy.log.text().is_ascii(), "{}", proxy.log.text());
}

pub fn nothing_goes_upstream_before_the_101() {
    let (report, seen) = channel();
    let report = Mutex::new(report);
    let upstream = origin(move |mut client| {
        let head = client.head();
        assert_eq!(field(&head, "sec-websocket-version"), Some("13"));
        // Long enough to notice bytes that should not come.
        client
            .socket
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let early = client.rest_or_reset();
        report.lock().unwrap().send(early.len()).unwrap();
        client.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send(SWITCHING);
        let payload = client.frame().unwrap();
        client.send_bytes(&frame(&payload, None));
    });
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    let head = client.upgrade_with("/", &frame(b"eager", MASK));
    assert_eq!(
        field(&head, "sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(field(&head, "upgrade"), Some("websocket"));
    assert_eq!(
        seen.recv_timeout(PATIENCE).unwrap(),
        0,
        "bytes before the 101"
    );
    assert_eq!(client.frame().unwrap(), b"eager");
}

pub fn first_frames_in_the_segment_of_the_handshake_arrive() {
    let upstream = origin(|mut client| {
        client.head();
        let mut answer = SWITCHING.as_bytes().to_vec();
        answer.extend(frame(b"welcome", None));
        answer.extend(frame(&[7; 100_000], None));
        client.send_bytes(&answer);
        let payload = client.frame().unwrap();
        client.send_bytes(&frame(&payload, None));
    });
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    client.upgrade_with("/", &frame(b"first", MASK));
    assert_eq!(client.frame().unwrap(), b"welcome");
    assert_eq!(client.frame().unwrap(), [7; 100_000]);
    assert_eq!(client.frame().unwrap(), b"first");
}

pub fn two_hundred_relays_at_once_are_byte_exact() {
    let plain = Proxy::before(origin(echo), &[]);
    let secure = Proxy::before(tls_origin("origin.test", echo), &["--tls", "on"]);
    let addresses = [plain.address, secure.address];
    let start = Arc::new(std::sync::Barrier::new(200));
    let clients: Vec<_> = (0..200)
        .map(|n| {
            let start = start.clone();
            thread::spawn(move || {
                let mut client = Client::connect(addresses[usize::from(n % 4 == 3)]);
                client.upgrade("/echo");
                start.wait();
                let mut noise = Noise::new(n);
                for _ in 0..5 {
                    // Mostly small messages, some up to 1 MiB, some empty.
                    let size = noise.next() as usize % (1 << (noise.next() % 21));
                    let message = noise.bytes(size);
                    client.send_bytes(&frame(&message, MASK));
                    assert!(client.frame().unwrap() == message, "{size} bytes");
                }
                let largest = noise.bytes(1 << 20);
                client.send_bytes(&frame(&largest, MASK));
                assert!(client.frame().unwrap() == largest);
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client failed");
    }
}

pub fn a_64_mib_message_survives() {
    for (upstream, tls) in [(origin(echo), "off"), (tls_origin("a.test", echo), "on")] {
        let proxy = Proxy::before(upstream, &["--tls", tls]);
        let mut client = proxy.connect();
        client.upgrade("/");
        let message = Noise::new(64).bytes(64 << 20);
        client.send_bytes(&frame(&message, MASK));
        assert!(client.frame().unwrap() == message);
        let peak = proxy.peak_kib();
        assert!(peak < 32 * 1024, "{peak} KiB");
    }
}

/// A short message waits for the bytes that were buffered before it: on a slow path these were
/// all that the kernel takes, some megabytes. Both sides are limited to 128 KiB, besides what is
/// in flight and the last write.
pub fn little_is_buffered_unsent_during_bulk_transfers() {
    const BOUND: usize = 512 * 1024;
    // Small, so that little is in flight to a peer that does not read.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let listener = listener.unwrap();
    listener.set_recv_buffer_size(16 * 1024).unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(1).unwrap();
    let listener = std::net::TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let (report, ports) = channel();
    let (done, wait) = channel::<()>();
    let upstream =
        thread::spawn(move || {
            let mut client = Client::new(listener.accept().unwrap().0);
            client.head();
            client.send(SWITCHING);
            let port = client.socket.peer_addr().unwrap().port();
            report.send(port).unwrap();
            // Sends without end to a peer that does not read, and reads nothing itself.
            let mut sender = client.socket.try_clone().unwrap();
            let flood = thread::spawn(move || {
                while std::io::Write::write_all(&mut sender, &[0; 64 * 1024]).is_ok() {}
            });
            let _ = wait.recv_timeout(PATIENCE);
            client.socket.shutdown(Shutdown::Both).unwrap();
            flood.join().unwrap();
        });
    let proxy = Proxy::before(address, &["-d"]);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(&proxy.address.into()).unwrap();
    let mut client = Client::new(socket.into());
    client.upgrade("/ws");
    let mut sender = client.socket.try_clone().unwrap();
    let flood =
        thread::spawn(
            move || {
                while std::io::Write::write_all(&mut sender, &[0; 64 * 1024]).is_ok() {}
            },
        );
    let to_upstream = (ports.recv_timeout(PATIENCE).unwrap(), address.port());
    let port = client.socket.local_addr().unwrap().port();
    let to_client = (proxy.address.port(), port);
    for (from, to) in [to_upstream, to_client] {
        // The path is full once it takes no more bytes.
        let (mut held, mut since) = (0, Instant::now());
        wait_until("the path is full", || {
            let now = in_kernel(from, to).expect("open").unacknowledged;
            if now != held {
                (held, since) = (now, Instant::now());
            }
            held > 0 && since.elapsed() > Duration::from_millis(500)
        });
        assert!(held < BOUND, "{held} bytes wait");
    }
    client.socket.shutdown(Shutdown::Both).unwrap();
    done.send(()).unwrap();
    flood.join().unwrap();
    upstream.join().unwrap();
}

pub fn what_the_upstream_sent_before_closing_arrives() {
    const TAIL: usize = 10 << 20;
    let script = |mut client: Client| {
        client.head();
        client.send(SWITCHING);
        client.send_bytes(&Noise::new(10).bytes(TAIL));
    };
    for (upstream, tls) in [
        (origin(script), "off"),
        (tls_origin("a.test", script), "on"),
    ] {
        let proxy = Proxy::before(upstream, &["--tls", tls]);
        let mut client = proxy.connect();
        client.upgrade("/");
        thread::sleep(Duration::from_millis(100));
        assert!(client.rest() == Noise::new(10).bytes(TAIL), "TLS {tls}");
    }
}

/// Bytes that a client still sends to an upstream that has closed must not cause a reset that
/// destroys the bytes in flight to the client.
pub fn a_client_that_goes_on_sending_loses_nothing() {
    const TAIL: usize = 4 << 20;
    let (report, closed) = channel();
    let report = Mutex::new(report);
    let upstream = origin(move |mut client| {
        client.head();
        client.send(SWITCHING);
        client.send_bytes(&Noise::new(12).bytes(TAIL));
        client.end_sending_and_wait();
        drop(client);
        report.lock().unwrap().send(()).unwrap();
    });
    let proxy = Proxy::before(upstream, &[]);
    for _ in 0..5 {
        let mut client = proxy.connect();
        client.upgrade("/");
        // About as much is left then as fits into the buffers on the path.
        let mut tail = client.exactly(TAIL - (1 << 20));
        tail.extend(client.slowly_until(&closed, 1 << 20));
        thread::sleep(Duration::from_millis(100));
        let mut sender = client.socket.try_clone().unwrap();
        let sending = thread::spawn(move || {
            for _ in 0..100 {
                if std::io::Write::write_all(&mut sender, &[1; 1000]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        thread::sleep(Duration::from_millis(100));
        tail.extend(client.rest());
        assert_eq!(tail.len(), TAIL);
        assert!(tail == Noise::new(12).bytes(TAIL));
        sending.join().unwrap();
    }
}

pub fn a_client_that_ends_its_side_still_gets_everything() {
    const TAIL: usize = 10 << 20;
    let upstream = origin(move |mut client| {
        client.head();
        client.send(SWITCHING);
        let tail = client.rest();
        assert!(tail == Noise::new(11).bytes(TAIL));
        client.send_bytes(&tail);
    });
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    client.upgrade("/");
    client.send_bytes(&Noise::new(11).bytes(TAIL));
    client.end_sending();
    assert!(client.rest() == Noise::new(11).bytes(TAIL));
}

/// The client closes while its last bytes are in flight to a slow upstream, which goes on
/// sending to it.
pub fn what_the_client_sent_before_closing_arrives() {
    const TAIL: usize = 3 << 20;
    let (tell, client_closed) = channel::<()>();
    let client_closed = Mutex::new(client_closed);
    let (report, seen) = channel();
    let report = Mutex::new(report);
    let upstream = origin(move |mut client| {
        client.head();
        client.send(SWITCHING);
        let mut tail = client.exactly(TAIL - (1 << 20));
        tail.extend(client.slowly_until(&client_closed.lock().unwrap(), 1 << 20));
        thread::sleep(Duration::from_millis(100));
        for _ in 0..20 {
            client.try_send(&[2; 1000]);
            thread::sleep(Duration::from_millis(2));
        }
        tail.extend(client.rest_or_reset());
        report.lock().unwrap().send(tail).unwrap();
    });
    let proxy = Proxy::before(upstream, &[]);
    for _ in 0..5 {
        let mut client = proxy.connect();
        client.upgrade("/");
        client.send_bytes(&Noise::new(13).bytes(TAIL));
        client.end_sending_and_wait();
        drop(client);
        tell.send(()).unwrap();
        let tail = seen.recv_timeout(PATIENCE).unwrap();
        assert_eq!(tail.len(), TAIL);
        assert!(tail == Noise::new(13).bytes(TAIL));
    }
}

/// A write to the side that has reset may fail before the bytes that it had sent are read. The
/// close frame of an upstream that closed without reading further was lost in two of three
/// cases.
pub fn what_was_sent_before_a_reset_arrives() {
    const CLOSE: &[u8] = b"\x88\x02\x03\xf1";
    for (start, tls) in [
        (origin as fn(_) -> SocketAddr, "off"),
        (|script| tls_origin("a.test", script), "on"),
    ] {
        let (tell, told) = channel::<()>();
        let told = Mutex::new(told);
        let (report, seen) = channel();
        let report = Mutex::new(report);
        let upstream = start(move |mut client: Client| {
            let report = |got: &[u8]| report.lock().unwrap().send(got.to_vec()).unwrap();
            let head = client.head();
            client.send(SWITCHING);
            told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            client.send_bytes(CLOSE);
            if head.starts_with("GET /resets ") {
                client.reset();
                report(b"");
            } else {
                report(b"");
                report(&client.rest_or_reset());
            }
        });
        let proxy = Proxy::before(upstream, &["--tls", tls]);
        for _ in 0..20 {
            for path in ["/resets", "/stays"] {
                let mut client = proxy.connect();
                client.upgrade(path);
                // So that all bytes have arrived when the proxy continues.
                proxy.guard.signal("STOP");
                tell.send(()).unwrap();
                seen.recv_timeout(PATIENCE).unwrap();
                client.send("the last");
                if path == "/resets" {
                    proxy.guard.signal("CONT");
                    assert_eq!(client.rest_or_reset(), CLOSE, "TLS {tls}");
                } else {
                    client.reset();
                    proxy.guard.signal("CONT");
                    let got = seen.recv_timeout(PATIENCE).unwrap();
                    assert_eq!(String::from_utf8_lossy(&got), "the last", "TLS {tls}");
                }
            }
        }
    }
}

pub fn a_refused_upgrade_is_an_ordinary_response() {
    let (report, seen) = channel();
    let report = Mutex::new(report);
    let upstream = origin(move |mut client| {
        client.head();
        client.send(&ok("no websocket here"));
        let more = client.rest_or_reset();
        report.lock().unwrap().send(more).unwrap();
    });
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    // What follows the head belongs to no tunnel, and is not a request either.
    client.send(&(upgrade_request("/") + "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
    let response = client.response();
    assert_eq!(response.text(), "no websocket here");
    assert_eq!(response.field("connection"), Some("close"));
    client.end_sending();
    assert!(client.is_closed());
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"");
    assert!(!proxy.log.text().contains("smuggled"));
    assert!(!proxy.log.text().contains("连接建立"));
}

pub fn a_switch_that_was_not_asked_for_is_502() {
    let wrong = SWITCHING.replace("websocket", "h2c");
    for (request, answer) in [
        (
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            SWITCHING.to_owned(),
        ),
        (upgrade_request("/"), wrong),
        (
            upgrade_request("/"),
            "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(),
        ),
    ] {
        let upstream = origin(move |mut client| {
            client.head();
            client.send(&answer);
            client.rest_or_reset();
        });
        let proxy = Proxy::before(upstream, &[]);
        assert_eq!(proxy.fetch(&request).status(), 502);
        proxy.log.wait_for("[response]");
    }
}

pub fn other_protocols_pass_only_when_allowed() {
    let (report, heads) = channel();
    let report = Mutex::new(report);
    let upstream = origin(move |mut client| {
        let head = client.head();
        let asked = field(&head, "upgrade").map(str::to_owned);
        report.lock().unwrap().send(asked.clone()).unwrap();
        match asked {
            Some(protocol) => {
                client.send(&SWITCHING.replace("websocket", &protocol));
                let line = client.line();
                client.send(&format!("{line}\r\n"));
            }
            None => client.send(&ok("plain")),
        }
    });
    let request = |protocol: &str| {
        format!("GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n")
    };
    let proxy = Proxy::before(upstream, &["--upgrade", "echo/1", "--upgrade=other"]);
    for protocol in ["h2c", "tls/1.0", "echo/2, h2c"] {
        assert_eq!(proxy.fetch(&request(protocol)).text(), "plain");
        assert_eq!(heads.recv_timeout(PATIENCE).unwrap(), None, "{protocol}");
        let line = format!("未放行的协议升级: {protocol}（参见 --upgrade）");
        proxy.log.wait_for(&line);
    }
    let mut client = proxy.connect();
    client.send(&(request("Echo/1") + "left over\r\n"));
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    assert_eq!(client.line(), "left over");
    assert_eq!(
        heads.recv_timeout(PATIENCE).unwrap().as_deref(),
        Some("Echo/1")
    );
    proxy.log.wait_for("echo/1 请求: /x (Host: a)");
}

pub fn a_reset_ends_both_sides() {
    let (report, seen) = channel();
    let report = Mutex::new(report);
    let upstream = origin(move |mut client| {
        let head = client.head();
        client.send(SWITCHING);
        if head.starts_with("GET /stay ") {
            client.rest_or_reset();
            report.lock().unwrap().send(()).unwrap();
        } else {
            client.exactly(1);
            client.reset();
        }
    });
    let proxy = Proxy::before(upstream, &[]);
    let mut client = proxy.connect();
    client.upgrade("/stay");
    client.reset();
    seen.recv_timeout(PATIENCE)
        .expect("the upstream's side ends");
    let mut client = proxy.connect();
    client.upgrade("/go");
    client.send("x");
    client.rest_or_reset();
    proxy.log.wait_for_count("WebSocket 连接关闭", 2);
    assert!(!proxy.log.text().contains("中断"), "{}", proxy.log.text());
}

pub fn an_idle_relay_is_closed_after_the_tunnel_timeout() {
    let upstream = origin(echo);
    let proxy = Proxy::before(upstream, &["--tunnel-timeout", "5"]);
    let mut client = proxy.connect();
    client.upgrade("/");
    // Longer than the timeout in total, but never idle for that long.
    for _ in 0..8 {
        client.send_bytes(&frame(b"still here", MASK));
        assert_eq!(client.frame().unwrap(), b"still here");
        thread::sleep(Duration::from_millis(800));
    }
    assert!(client.is_closed());
    proxy.log.wait_for("WebSocket 连接关闭");
}

pub fn a_half_closed_relay_may_be_idle_for_ten_seconds() {
    let upstream = origin(|mut client| {
        client.head();
        client.send(SWITCHING);
        client.rest_or_reset();
        // Sends nothing more, and does not close.
        thread::park_timeout(PATIENCE);
    });
    let proxy = Proxy::before(upstream, &["--log-lang", "en"]);
    let mut client = proxy.connect();
    client.upgrade("/");
    let start = Instant::now();
    client.end_sending();
    assert!(client.is_closed());
    let after = start.elapsed();
    assert!(after >= Duration::from_secs(9), "after {after:?} already");
    proxy.log.wait_for("WebSocket connection closed");
}

/// Performs a request that is answered by 101, and then an exchange in both directions.
fn exec(upgrade: &str, request: &str, switch: &'static str) {
    let whole = request.to_owned();
    let sent = request
        .replace("Connection: Upgrade\r\n", "")
        .replace("Connection: keep-alive, Upgrade\r\n", "");
    let upgrade_line = sent
        .lines()
        .find(|line| line.starts_with("Upgrade: "))
        .map(|line| format!("{line}\r\n"))
        .unwrap();
    let sent = sent.replace(&upgrade_line, "");
    let (head, body) = sent.split_once("\r\n\r\n").unwrap();
    let expected = format!("{head}\r\n{upgrade_line}Connection: Upgrade\r\n\r\n{body}");
    let length = expected.len();
    let upstream = origin(move |mut client| {
        // The whole request, and not a byte of what follows it.
        let seen = String::from_utf8(client.exactly(length)).unwrap();
        assert_eq!(seen, expected);
        client.send(switch);
        client.send("$ ");
        assert_eq!(client.line(), "exit");
        client.send("exited\r\n");
    });
    let proxy = Proxy::before(upstream, &["--upgrade", upgrade]);
    let mut client = proxy.connect();
    client.send(&(whole + "ex"));
    let got = client.head();
    assert!(got.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{got}");
    assert_eq!(field(&got, "connection"), Some("Upgrade"));
    let protocol = field(&got, "upgrade").unwrap();
    assert!(protocol.eq_ignore_ascii_case(upgrade), "{got}");
    assert_eq!(client.exactly(2), b"$ ");
    client.send("it\r\n");
    assert_eq!(client.line(), "exited");
    assert!(client.is_closed());
    drop(client);
    proxy.log.wait_for(&format!("{upgrade} 连接关闭"));
}

pub fn docker_exec_is_a_post_with_a_body() {
    let body = r#"{"Detach":false,"Tty":true}"#;
    let switch = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n\
                  Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    exec(
        "tcp",
        &format!(
            "POST /v1.41/exec/1/start HTTP/1.1\r\nHost: localhost:8080\r\n\
             User-Agent: Docker-Client/20.10\r\nContent-Length: {}\r\nConnection: Upgrade\r\n\
             Content-Type: application/json\r\nUpgrade: tcp\r\n\r\n{body}",
            body.len()
        ),
        switch,
    );
    exec(
        "tcp",
        &format!(
            "POST /v1.41/exec/1/start HTTP/1.1\r\nHost: localhost:8080\r\n\
             Transfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n\
             {:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ),
        switch,
    );
}

pub fn kubectl_exec_is_a_post_without_a_body() {
    let switch = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                  X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";
    for length in ["", "Content-Length: 0\r\n"] {
        exec(
            "spdy/3.1",
            &format!(
                "POST /api/v1/namespaces/default/pods/web/exec?command=sh HTTP/1.1\r\n\
                 Host: localhost:8080\r\n{length}Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                 X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
            ),
            switch,
        );
    }
}

pub fn a_switch_before_the_whole_request_is_502() {
    let upstream = origin(|mut client| {
        client.head();
        client.send(&SWITCHING.replace("websocket", "tcp"));
        client.rest_or_reset();
    });
    let proxy = Proxy::before(upstream, &["--upgrade", "tcp"]);
    let mut client = proxy.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
         Content-Length: 10\r\n\r\nhello",
    );
    assert_eq!(client.response().status(), 502);
    proxy.log.wait_for("101 before the request was complete");
}

pub fn of_several_protocols_one_is_forwarded_and_the_others_are_logged() {
    let upstream = origin(|mut client| {
        let head = client.head();
        assert_eq!(head.to_lowercase().matches("upgrade:").count(), 1, "{head}");
        client.send(&switching(&head));
        client.send_bytes(&frame(b"hi", None));
        client.rest_or_reset();
    });
    let proxy = Proxy::before(upstream, &["--log-lang", "en"]);
    for (listed, withheld) in [
        ("websocket, foo", Some("foo")),
        ("websocket\r\nUpgrade: websocket", None),
        ("h2c\r\nUpgrade: foo, WebSocket", Some("h2c, foo")),
    ] {
        let request = upgrade_request("/ws");
        let request = request.replace("Upgrade: websocket", &format!("Upgrade: {listed}"));
        assert!(request.contains(listed), "{request}");
        let mut client = proxy.connect();
        client.send(&request);
        assert!(client.head().starts_with("HTTP/1.1 101 "), "{listed}");
        if let Some(withheld) = withheld {
            let line = format!("upgrade not let through: {withheld} (see --upgrade)");
            proxy.log.wait_for(&line);
        }
    }
    assert_eq!(proxy.log.text().matches("not let through").count(), 2);
}
