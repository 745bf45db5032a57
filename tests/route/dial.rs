//! The route to the upstream, with scripted proxies that record what they were sent.

use libtest_mimic::Trial;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Mutex;
use std::time::Duration;

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        direct_and_dual_stack,
        lookups_leave_no_threads,
        socks5_sends_addresses_as_addresses_and_names_as_names,
        socks5_replies_that_curl_accepts_are_accepted,
        connect_sends_host_and_basic,
        connect_answered_in_lf_is_a_tunnel,
        connect_through_a_tls_proxy,
        bytes_after_the_proxys_answer_belong_to_the_upstream,
        every_failure_is_a_status_a_stage_and_a_cause,
        time_runs_out_in_every_stage,
        a_broken_proxy_never_falls_back_to_direct,
        tls_names,
        tls_verification,
        http_1_1_is_negotiated,
    ]
}

/// After the first lookup two threads of a pool never ended.
pub fn lookups_leave_no_threads() {
    let upstream = answering(|_| ok("fine"));
    let name = format!("localhost:{}", upstream.port());
    let args = ["-u", &name, "--upstream-idle", "0", "--threads", "1"];
    let proxy = Proxy::start(&[&args[..], &["--health-path", "/healthz"]].concat());
    // The thread of the server has started.
    assert_eq!(proxy.get("/healthz").status(), 200);
    let before = proxy.threads();
    for _ in 0..3 {
        assert_eq!(proxy.get("/").status(), 200);
    }
    wait_until("the resolver threads end", || proxy.threads() <= before);
}

/// A channel through which scripts report what they saw.
fn reports<T: Send>() -> (Mutex<Sender<T>>, Receiver<T>) {
    let (sender, receiver) = channel();
    (Mutex::new(sender), receiver)
}

fn seen<T>(reports: &Receiver<T>) -> T {
    reports.recv_timeout(PATIENCE).expect("a report")
}

/// Performs the SOCKS5 handshake without a password, and returns the rest of the request:
/// address type, address and port.
fn socks_request(client: &mut Client) -> Vec<u8> {
    let greeting = client.exactly(2);
    assert_eq!(greeting[0], 5);
    client.exactly(greeting[1].into());
    client.send_bytes(&[5, 0]);
    let start = client.exactly(4);
    assert_eq!(start[..3], [5, 1, 0]);
    let mut request = vec![start[3]];
    let length = match start[3] {
        1 => 4,
        4 => 16,
        3 => {
            let length = client.exactly(1);
            request.extend(&length);
            length[0].into()
        }
        other => panic!("address type {other}"),
    };
    request.extend(client.exactly(length + 2));
    request
}

const SOCKS_GRANTED: [u8; 10] = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

pub fn direct_and_dual_stack() {
    let upstream = origin(echo);
    let proxy = Proxy::before(upstream, &["--direct"]);
    assert_eq!(proxy.get("/p?q").text(), "path=/p?q host=a.example\n");
    // A name with several addresses, of which only the IPv4 one answers.
    let name = format!("localhost:{}", upstream.port());
    let proxy = Proxy::start(&["-u", &name]);
    assert_eq!(proxy.get("/").status(), 200);
    // Without --bind it listens on both families.
    let mut command = program();
    command.args(["-u", &name, "-p", "0", "--log-lang", "en"]);
    command.stderr(std::process::Stdio::piped());
    let mut guard = Guard::spawn(&mut command);
    let log = Lines::collect(guard.0.stderr.take().unwrap());
    let port = log.wait_for("listening on");
    let port = port.rsplit(':').next().unwrap();
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let address: SocketAddr = address.parse().unwrap();
        match std::net::TcpStream::connect(address) {
            Ok(stream) => {
                let mut client = Client::new(stream);
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                assert_eq!(client.response().status(), 200);
            }
            Err(error) => assert!(address.is_ipv6(), "{address}: {error}"),
        }
    }
}

pub fn socks5_sends_addresses_as_addresses_and_names_as_names() {
    for (upstream, expected) in [
        ("127.0.0.1:8000", &b"\x01\x7f\x00\x00\x01\x1f\x40"[..]),
        (
            "[::1]:8000",
            b"\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x1f\x40",
        ),
        ("no-such.invalid:8000", b"\x03\x0fno-such.invalid\x1f\x40"),
    ] {
        let (report, seen_by_proxy) = reports();
        let socks = origin(move |mut client| {
            report
                .lock()
                .unwrap()
                .send(socks_request(&mut client))
                .unwrap();
            client.send_bytes(&SOCKS_GRANTED);
            client.head();
            client.send(&ok("through"));
        });
        let socks = format!("socks5h://{socks}");
        let proxy = Proxy::start(&["-u", upstream, "-s", &socks]);
        assert_eq!(proxy.get("/").text(), "through");
        assert_eq!(seen(&seen_by_proxy), expected);
    }
}

/// Reads a login: the user and the password (RFC 1929 §2).
fn socks_login(client: &mut Client) -> [Vec<u8>; 2] {
    assert_eq!(client.exactly(1), [1]);
    [(); 2].map(|()| {
        let length = client.exactly(1)[0];
        client.exactly(length.into())
    })
}

pub fn socks5_replies_that_curl_accepts_are_accepted() {
    let names: Vec<Vec<u8>> = [&b""[..], b"\xff\xfe", &[0x80; 255]]
        .map(|name| [&[3, name.len() as u8], name, &[0, 80]].concat())
        .to_vec();
    let address = vec![1, 0, 0, 0, 0, 0, 0];
    for (login, start, bound) in [
        (5, [5, 0, 0], &address),
        (0, [5, 0, 0], &address),
        (1, [5, 0, 1], &address),
        (1, [5, 0, 255], &names[1]),
        (1, [5, 0, 0], &names[0]),
        (1, [5, 0, 0], &names[1]),
        (1, [5, 0, 0], &names[2]),
    ] {
        let answer = [&start[..], bound].concat();
        for (userinfo, told) in [
            ("key@", ["key", ""]),
            ("key:@", ["key", ""]),
            ("alice:s3cr:t@", ["alice", "s3cr:t"]),
        ] {
            let sent = answer.clone();
            let socks = origin(move |mut client| {
                assert_eq!(client.exactly(4), [5, 2, 0, 2]);
                client.send_bytes(&[5, 2]);
                assert_eq!(socks_login(&mut client), told.map(str::as_bytes));
                client.send_bytes(&[login, 0]);
                client.exactly(10);
                // The first bytes of the upstream come in one segment with the end of the
                // proxy's reply.
                client.send_bytes(&[&sent[..], ok("early").as_bytes()].concat());
                client.head();
            });
            let url = format!("socks://{userinfo}{socks}");
            let proxy = Proxy::start(&["-u", "127.0.0.1:8000", "-s", &url]);
            assert_eq!(proxy.get("/").text(), "early", "{login} {answer:?}");
            let log = proxy.log.text();
            assert!(!log.contains("key") && !log.contains("s3cr"), "{log}");
        }
    }
}

/// A SOCKS5 proxy that selects `method` and then runs `script`.
fn selecting_socks(method: u8, script: impl Fn(&mut Client) + Send + Sync + 'static) -> SocketAddr {
    origin(move |mut client| {
        let greeting = client.exactly(2);
        client.exactly(greeting[1].into());
        client.send_bytes(&[5, method]);
        script(&mut client);
    })
}

pub fn connect_sends_host_and_basic() {
    for (upstream, url, expected) in [
        (
            "no-such.invalid:8000",
            "",
            concat!(
                "CONNECT no-such.invalid:8000 HTTP/1.1\r\nHost: no-such.invalid:8000\r\n",
                "User-Agent: simple-proxy/",
                env!("CARGO_PKG_VERSION"),
                "\r\n\r\n"
            ),
        ),
        (
            "[::1]:8000",
            "alice:s3cr%3At%40%2Fx@",
            concat!(
                "CONNECT [::1]:8000 HTTP/1.1\r\nHost: [::1]:8000\r\n",
                "User-Agent: simple-proxy/",
                env!("CARGO_PKG_VERSION"),
                "\r\nProxy-Authorization: Basic YWxpY2U6czNjcjp0QC94\r\n\r\n"
            ),
        ),
    ] {
        let (report, seen_by_proxy) = reports();
        let http = origin(move |mut client| {
            report.lock().unwrap().send(client.head()).unwrap();
            // Framing fields of a 2xx to CONNECT are ignored (RFC 9110 §9.3.6).
            client.send("HTTP/1.0 200 Connection established\r\nContent-Length: 5\r\n\r\n");
            client.head();
            client.send(&ok("through"));
        });
        let proxy = Proxy::start(&[
            "-u",
            upstream,
            "--http-proxy",
            &format!("http://{url}{http}"),
        ]);
        assert_eq!(proxy.get("/").text(), "through");
        assert_eq!(seen(&seen_by_proxy), expected);
    }
}

/// Very simple proxies end their lines in LF alone; what follows comes from the upstream.
pub fn connect_answered_in_lf_is_a_tunnel() {
    for answer in [
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.0 200 Connection established\nVia: x\n\n",
        "HTTP/1.1 200 OK\r\nVia: x\n\r\n",
    ] {
        let http = answering_connect_and_then(answer, |mut client| {
            let head = client.head();
            assert!(head.starts_with("GET /ws HTTP/1.1\r\n"), "{head}");
            client.send(&switching(&head));
            while let Some(payload) = client.frame() {
                client.send_bytes(&frame(&payload, None));
            }
        });
        let url = format!("http://{http}");
        let proxy = Proxy::start(&["-u", "no-such.invalid:80", "--http-proxy", &url]);
        let mut client = proxy.connect();
        client.upgrade("/ws");
        client.send_bytes(&frame(b"through", MASK));
        assert_eq!(
            client.frame().as_deref(),
            Some(&b"through"[..]),
            "{answer:?}"
        );
    }
}

pub fn connect_through_a_tls_proxy() {
    let folder = Folder::new("tls-proxy");
    let certificate = Certificate::new("proxy.test");
    let ca = folder.write("ca.pem", &certificate.pem());
    let upstream = tls_origin("origin.test", |mut client| {
        client.head();
        client.send(&ok("twice wrapped"));
    });
    let acceptor = certificate.acceptor();
    let http = origin(move |client| {
        // The inner stream is read and written through openssl, so the two are joined by
        // copying.
        let Some(mut client) = client.accept_tls(&acceptor) else {
            return;
        };
        let head = client.head();
        assert!(head.starts_with("CONNECT 127.0.0.1:"), "{head}");
        client.send("HTTP/1.1 200 OK\r\n\r\n");
        tunnel_tls(client, Client::connect(upstream));
    });
    let url = format!("https://{http}");
    let proxy = Proxy::before(
        upstream,
        &["--tls", "on", "--https-proxy", &url, "--tls-ca", &ca],
    );
    assert_eq!(proxy.get("/").text(), "twice wrapped");
    // A certificate of an unknown issuer: a proxy is always verified, even without --tls-verify.
    let proxy = Proxy::before(upstream, &["--tls", "on", "--https-proxy", &url]);
    assert_eq!(proxy.get("/").status(), 502);
    let line = proxy.log.wait_for("[proxy-connect]");
    assert!(line.contains("TLS with the proxy failed"), "{line}");
}

/// Joins a TLS stream to a socket by copying in turns, since the stream cannot be used from two
/// threads.
fn tunnel_tls(mut a: Client, mut b: Client) {
    a.socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    b.socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    while carry(&mut a, &mut b) && carry(&mut b, &mut a) {}
}

/// Copies the bytes that have arrived; false at the end.
fn carry(from: &mut Client, to: &mut Client) -> bool {
    let mut chunk = [0; 16 * 1024];
    match read_some(&mut from.stream, &mut chunk) {
        Ok(0) => false,
        Ok(n) => to.try_send(&chunk[..n]),
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

pub fn bytes_after_the_proxys_answer_belong_to_the_upstream() {
    // The upstream answers before it is asked, in the segment of the proxy's own answer;
    // everything comes byte by byte or at once.
    for piece in [1, 1000] {
        for kind in ["socks", "connect"] {
            let proxy_address = origin(move |mut client| {
                let mut answer = Vec::new();
                if kind == "socks" {
                    socks_request(&mut client);
                    answer.extend(SOCKS_GRANTED);
                } else {
                    client.head();
                    answer.extend(b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n");
                }
                answer.extend(ok("early").bytes());
                for part in answer.chunks(piece) {
                    client.send_bytes(part);
                    if piece == 1 {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
                client.head();
                client.rest_or_reset();
            });
            let (flag, url) = match kind {
                "socks" => ("-s", format!("socks5://{proxy_address}")),
                _ => ("--http-proxy", format!("http://{proxy_address}")),
            };
            let proxy = Proxy::start(&["-u", "no-such.invalid:80", flag, &url]);
            assert_eq!(proxy.get("/").text(), "early", "{kind} by {piece}");
        }
    }
    // TLS through CONNECT, in which the upstream sends nothing before the ClientHello.
    let upstream = tls_origin("origin.test", echo);
    let http = origin(move |mut client| {
        client.head();
        let up = Client::connect(upstream);
        client.send("HTTP/1.1 200 OK\r\n\r\n");
        splice(client, up);
    });
    let url = format!("http://{http}");
    let proxy = Proxy::before(upstream, &["--tls", "on", "--http-proxy", &url]);
    assert_eq!(proxy.get("/").status(), 200);
}

/// A SOCKS5 proxy that refuses with `code`; its bound address is a name, as dante's is.
fn refusing_socks(code: u8) -> SocketAddr {
    origin(move |mut client| {
        socks_request(&mut client);
        client.send_bytes(&[5, code, 0, 3, 4, b'd', b'e', b'a', b'd', 0, 80]);
    })
}

/// An HTTP proxy that answers every CONNECT with `answer`.
fn answering_connect(answer: &'static str) -> SocketAddr {
    answering_connect_and_then(answer, |_| {})
}

/// The same; `script` runs at the other end of the tunnel.
fn answering_connect_and_then(
    answer: &'static str,
    script: impl Fn(Client) + Send + Sync + 'static,
) -> SocketAddr {
    origin(move |mut client| {
        client.head();
        client.send(answer);
        script(client);
    })
}

pub fn every_failure_is_a_status_a_stage_and_a_cause() {
    let dead = dead_address().to_string();
    let garbage = origin(|mut client| {
        client.send("220 mail.example ESMTP\r\n");
        client.rest_or_reset();
    });
    let silent_close = origin(|_| {});
    let wants_password = origin(|mut client| {
        let greeting = client.exactly(2);
        client.exactly(greeting[1].into());
        client.send_bytes(&[5, 0xff]);
    });
    let wrong_password = origin(|mut client| {
        let greeting = client.exactly(2);
        client.exactly(greeting[1].into());
        client.send_bytes(&[5, 2]);
        let start = client.exactly(2);
        let user = client.exactly(usize::from(start[1]) + 1);
        client.exactly((*user.last().unwrap()).into());
        client.send_bytes(&[1, 1]);
    });
    let wants_password_unasked = selecting_socks(2, |_| {});
    let wants_kerberos_unasked = selecting_socks(1, |_| {});
    // `ssh -D` does this when it cannot reach the upstream.
    let closes_after_the_request = selecting_socks(0, |client| drop(client.exactly(10)));
    let mut cases: Vec<(Vec<String>, u16, &str, String)> = Vec::new();
    let mut case = |args: &[&str], status: u16, token: &'static str, words: &str| {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        cases.push((args, status, token, words.to_owned()));
    };
    let up = "127.0.0.1:9";
    case(
        &["-u", &dead],
        502,
        "connection_refused",
        "[connect] {}: connection refused",
    );
    case(
        &["-u", "no-such-name.invalid:80"],
        502,
        "dns_error",
        "[resolve] no-such-name.invalid:80: ",
    );
    case(
        &["-u", &garbage.to_string(), "--tls", "on"],
        502,
        "tls_protocol_error",
        "[tls] {}: the handshake failed: ",
    );
    for (url, token, words) in [
        (
            dead.clone(),
            "connection_refused",
            "[proxy-connect] {}: connection refused",
        ),
        (
            "no-such-proxy.invalid:1080".to_owned(),
            "dns_error",
            "[resolve] no-such-proxy.invalid:1080: ",
        ),
        (
            garbage.to_string(),
            "connection_terminated",
            "[proxy-connect] {}: the proxy does not speak SOCKS5",
        ),
        (
            silent_close.to_string(),
            "connection_terminated",
            "[proxy-connect] {}: the ",
        ),
        (
            wants_password.to_string(),
            "destination_unavailable",
            "[proxy-auth] {}: the proxy requires a user name and a password",
        ),
        (
            wants_password_unasked.to_string(),
            "destination_unavailable",
            "[proxy-auth] {}: the proxy requires a user name and a password",
        ),
        (
            wants_kerberos_unasked.to_string(),
            "destination_unavailable",
            "[proxy-auth] {}: the proxy chose an authentication method that was not offered",
        ),
        (
            closes_after_the_request.to_string(),
            "connection_terminated",
            "[proxy-refused] {}: the proxy closed the connection without replying to the SOCKS5 request",
        ),
        (
            format!("u:secret@{wrong_password}"),
            "destination_unavailable",
            "[proxy-auth] {}: the proxy refused the user name or password",
        ),
    ] {
        case(&["-u", up, "-s", &url], 502, token, words);
    }
    for (code, token, words) in [
        (1, "destination_unavailable", "reply 1: general failure"),
        (
            2,
            "destination_ip_prohibited",
            "reply 2: not allowed by its rules",
        ),
        (
            3,
            "destination_ip_unroutable",
            "reply 3: network unreachable",
        ),
        (4, "destination_ip_unroutable", "reply 4: host unreachable"),
        (5, "connection_refused", "reply 5: connection refused"),
        (6, "destination_ip_unroutable", "reply 6: TTL expired"),
        (
            7,
            "destination_unavailable",
            "reply 7: command not supported",
        ),
        (
            8,
            "destination_unavailable",
            "reply 8: address type not supported",
        ),
        (99, "destination_unavailable", "reply 99: "),
    ] {
        let socks = refusing_socks(code).to_string();
        let words = format!("[proxy-refused] {{}}: SOCKS5 {words}");
        case(&["-u", up, "-s", &socks], 502, token, &words);
    }
    for (answer, token, words) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
            "destination_unavailable",
            "[proxy-auth] {}: CONNECT answered 407 Proxy Authentication Required",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 1000000\r\n\r\n<html>",
            "destination_ip_prohibited",
            "[proxy-refused] {}: CONNECT answered 403 Forbidden",
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\n\r\n",
            "destination_unavailable",
            "[proxy-refused] {}: CONNECT answered 502 Bad Gateway",
        ),
        (
            "HTTP/1.1 2000 OK\r\n\r\n",
            "connection_terminated",
            "[proxy-connect] {}: the proxy's response is malformed",
        ),
        (
            "SSH-2.0-x\r\n",
            "connection_terminated",
            "[proxy-connect] {}: the proxy's response is malformed",
        ),
        (
            "HTTP/1.1 200 OK\r\nA: ",
            "connection_terminated",
            "[proxy-connect] {}: the proxy closed the connection in the middle of its response",
        ),
        (
            "",
            "connection_terminated",
            "[proxy-connect] {}: the proxy closed the connection without a response",
        ),
    ] {
        let http = answering_connect(answer).to_string();
        case(&["-u", up, "--http-proxy", &http], 502, token, words);
    }
    for (answer, words) in [
        ("", "the upstream closed without a response"),
        (
            "HTTP/1.1 200 OK\r\nA",
            "the upstream closed in the middle of its response head",
        ),
        (
            "SSH-2.0-x\r\n",
            "the response is not valid: this is not HTTP",
        ),
        (
            "\x15\x03\x01\x00\x02\x02\x0a",
            "the response is not valid: this is TLS; use --tls on",
        ),
        (
            "HTTP/2.0 200 OK\r\n\r\n",
            "the response is not valid: the upstream does not speak HTTP/1",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "the response is not valid: conflicting Content-Length fields",
        ),
    ] {
        let upstream = answering_connect(answer).to_string();
        let token = if answer.is_empty() {
            "connection_terminated"
        } else if words.contains("middle") {
            "http_response_incomplete"
        } else {
            "http_protocol_error"
        };
        case(
            &["-u", &upstream],
            502,
            token,
            &format!("[response] {{}}: {words}"),
        );
    }

    for (args, status, token, words) in cases {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let proxy = Proxy::start(&args);
        for method in ["GET", "HEAD"] {
            let mut client = proxy.connect();
            client.send(&format!("{method} /p?secret HTTP/1.1\r\nHost: a\r\n\r\n"));
            let response = client.response_to(method);
            assert_eq!(response.status(), status, "{args:?}");
            let expected = format!("simple-proxy; error={token}");
            assert_eq!(
                response.field("proxy-status"),
                Some(expected.as_str()),
                "{args:?}"
            );
            assert_eq!(response.body.is_empty(), method == "HEAD");
            assert!(
                !response.text().contains("127.0.0.1"),
                "{}",
                response.text()
            );
        }
        let last = args.last().unwrap();
        let address = last.rsplit('@').next().unwrap();
        let address = if args.contains(&"--tls") {
            args[1]
        } else {
            address
        };
        let words = words.replace("{}", address);
        let line = proxy.log.wait_for("请求失败: GET /p -> ");
        proxy.log.wait_for("请求失败: HEAD /p -> ");
        assert!(line.contains(&words), "{args:?}: {line} lacks {words}");
        assert!(!proxy.log.text().contains("secret"), "{}", proxy.log.text());
        assert_eq!(
            proxy.log.text().matches("请求失败").count(),
            2,
            "{}",
            proxy.log.text()
        );
    }
}

pub fn time_runs_out_in_every_stage() {
    let mute = origin(|mut client| {
        client.rest_or_reset();
    });
    let mute = mute.to_string();
    let short = ["--connect-timeout", "0.3", "--response-timeout", "0.3"];
    for (args, token, words) in [
        (
            &["-u", "127.0.0.1:9", "-s", &mute][..],
            "connection_timeout",
            "[proxy-connect] {}: timed out after 300ms",
        ),
        (
            &["-u", "127.0.0.1:9", "--http-proxy", &mute],
            "connection_timeout",
            "[proxy-connect] {}: timed out after 300ms",
        ),
        (
            &["--tls", "on", "-u", &mute],
            "connection_timeout",
            "[tls] {}: timed out after 300ms",
        ),
        (
            &["-u", &mute],
            "http_response_timeout",
            "[response] {}: timed out after 300ms",
        ),
    ] {
        let proxy = Proxy::start(&[args, &short].concat());
        let response = proxy.get("/");
        assert_eq!(response.status(), 504);
        let expected = format!("simple-proxy; error={token}");
        assert_eq!(response.field("proxy-status"), Some(expected.as_str()));
        proxy.log.wait_for(&words.replace("{}", &mute));
    }
}

pub fn a_broken_proxy_never_falls_back_to_direct() {
    let (report, connections) = reports();
    let upstream = origin(move |mut client| {
        report.lock().unwrap().send(()).unwrap();
        client.head();
        client.send(&ok("direct"));
    });
    let dead = dead_address().to_string();
    let refusing = refusing_socks(2).to_string();
    for args in [
        ["-s", dead.as_str()],
        ["-s", &refusing],
        ["--http-proxy", &dead],
        ["--https-proxy", &dead],
    ] {
        let proxy = Proxy::before(upstream, &args);
        assert_eq!(proxy.get("/").status(), 502);
        let mut client = proxy.connect();
        client.send(&upgrade_request("/ws"));
        assert_eq!(client.response().status(), 502);
    }
    assert!(connections.try_recv().is_err(), "the upstream was reached");
}

/// A TLS origin that reports the server name that each client sends, if any.
fn sni_reporting_origin(report: Mutex<Sender<Option<String>>>) -> SocketAddr {
    use openssl::ssl::{NameType, SslAcceptor, SslMethod};
    let certificate = Certificate::new("origin.test");
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    builder.set_certificate(&certificate.certificate).unwrap();
    builder.set_private_key(&certificate.key).unwrap();
    builder.set_servername_callback(move |ssl, _| {
        let name = ssl.servername(NameType::HOST_NAME).map(str::to_owned);
        report.lock().unwrap().send(name).unwrap();
        Ok(())
    });
    let acceptor = builder.build();
    origin(move |client| {
        if let Some(client) = client.accept_tls(&acceptor) {
            echo(client);
        }
    })
}

pub fn tls_names() {
    let (report, names) = reports();
    let upstream = sni_reporting_origin(report);
    let by_name = format!("localhost:{}", upstream.port());
    let by_address = upstream.to_string();
    for (args, host, expected) in [
        (
            &["-u", &by_address][..],
            "shop.example:8080",
            Some("shop.example"),
        ),
        (&["-u", &by_address], "shop.example.", Some("shop.example")),
        (&["-u", &by_address], "localhost", None),
        (&["-u", &by_address], "192.0.2.1", None),
        (
            &["-u", &by_address, "--tls-name", "fixed.example"],
            "shop.example",
            Some("fixed.example"),
        ),
        (&["-u", &by_name], "shop.example", Some("localhost")),
        (
            &["-u", &by_address, "--host-header", "prod.example"],
            "localhost",
            Some("prod.example"),
        ),
    ] {
        let proxy = Proxy::start(&[args, &["--tls", "on"]].concat());
        let answer = proxy.fetch(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        if !args.contains(&"--host-header") {
            assert_eq!(answer.text(), format!("path=/ host={host}\n"));
        }
        assert_eq!(seen(&names).as_deref(), expected, "{args:?} {host}");
    }
}

pub fn tls_verification() {
    let folder = Folder::new("verify");
    let certificate = Certificate::new("origin.test");
    let ca = folder.write("ca.pem", &certificate.pem());
    let acceptor = certificate.acceptor();
    let upstream = origin(move |client| {
        if let Some(client) = client.accept_tls(&acceptor) {
            echo(client);
        }
    });
    let name = ["--tls-name", "origin.test"];
    let other = ["--tls-name", "other.test"];
    for (args, status) in [
        (&[][..], 200),
        (&other, 200),
        (&["--tls-verify"], 502),
        (&["--tls-verify", "--tls-ca", &ca], 200),
        (&["--tls-verify", "--tls-ca", &ca, name[0], name[1]], 200),
        (&["--tls-verify", "--tls-ca", &ca, other[0], other[1]], 502),
    ] {
        let proxy = Proxy::before(upstream, &[&["--tls", "on"], args].concat());
        // The upstream and the Host are addresses: the upstream's address is verified.
        let answer = proxy.fetch("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        assert_eq!(answer.status(), status, "{args:?}");
        if status == 502 {
            let token = Some("simple-proxy; error=tls_certificate_error");
            assert_eq!(answer.field("proxy-status"), token);
            proxy.log.wait_for("[tls]");
        }
        if args.contains(&"--tls-verify") {
            assert!(!proxy.log.text().contains("未校验上游证书"));
        } else {
            proxy.log.wait_for("未校验上游证书");
        }
    }
}

pub fn http_1_1_is_negotiated() {
    use openssl::ssl::{AlpnError, SslAcceptor, SslMethod};
    let (report, offers) = reports();
    let certificate = Certificate::new("origin.test");
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    builder.set_certificate(&certificate.certificate).unwrap();
    builder.set_private_key(&certificate.key).unwrap();
    builder.set_alpn_select_callback(move |_, offered| {
        report.lock().unwrap().send(offered.to_vec()).unwrap();
        openssl::ssl::select_next_proto(b"\x08http/1.1", offered).ok_or(AlpnError::NOACK)
    });
    let acceptor = builder.build();
    let upstream = origin(move |client| {
        if let Some(client) = client.accept_tls(&acceptor) {
            echo(client);
        }
    });
    let proxy = Proxy::before(upstream, &["--tls", "on"]);
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(seen(&offers), b"\x08http/1.1");
}
