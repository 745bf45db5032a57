//! Several proxies of one kind: their order, which are passed over, and which are used again.

use libtest_mimic::Trial;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::check::check;
use crate::report::watch::{start_measured, values};
use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        a_proxy_that_does_not_answer_is_passed_over,
        http_proxies_that_do_not_answer_are_passed_over,
        each_share_is_of_the_remaining_time,
        an_answer_of_a_proxy_is_final,
        if_no_proxy_answers_no_request_goes_direct,
        no_request_waits_for_a_probe,
        a_proxy_that_is_back_serves_again,
        the_check_tries_each_proxy,
    ]
}

/// What a scripted SOCKS5 proxy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// Answers every request itself, in place of the upstream.
    Serve,
    /// Accepts the connection and sends nothing.
    Hang,
    /// Closes after the request.
    Close,
    /// Speaks another protocol.
    Babble,
    /// Refuses the upstream.
    Refuse,
    /// Refuses the login.
    RefuseLogin,
}

struct Socks {
    address: SocketAddr,
    does: Arc<Mutex<Does>>,
    asked: Arc<AtomicUsize>,
}

/// A proxy whose responses contain `name`, on connections that are not kept.
fn socks(name: &'static str, does: Does) -> Socks {
    let does = Arc::new(Mutex::new(does));
    let asked = Arc::<AtomicUsize>::default();
    let (script, count) = (does.clone(), asked.clone());
    let address = origin(move |mut client| {
        count.fetch_add(1, Ordering::SeqCst);
        let does = *script.lock().unwrap();
        match does {
            Does::Hang => return drop(client.rest_or_reset()),
            Does::Babble => {
                client.send("220 mail.example ESMTP\r\n");
                return drop(client.rest_or_reset());
            }
            _ => {}
        }
        let Some(greeting) = client.try_exactly(2) else {
            return;
        };
        client.exactly(greeting[1].into());
        if does == Does::RefuseLogin {
            client.send_bytes(&[5, 0xff]);
            return;
        }
        client.send_bytes(&[5, 0]);
        // The upstream is 127.0.0.1, an address.
        client.exactly(10);
        match does {
            Does::Close => {}
            Does::Refuse => client.send_bytes(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]),
            _ => {
                client.send_bytes(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
                if client.try_head().is_some() {
                    let length = name.len();
                    let close = "HTTP/1.1 200 OK\r\nConnection: close";
                    client.send(&format!(
                        "{close}\r\nContent-Length: {length}\r\n\r\n{name}"
                    ));
                }
            }
        }
    });
    Socks {
        address,
        does,
        asked,
    }
}

impl Socks {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// An upstream that must be reached only through a proxy.
fn unreached() -> (SocketAddr, Arc<AtomicUsize>) {
    let reached = Arc::<AtomicUsize>::default();
    let count = reached.clone();
    let address = origin(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    (address, reached)
}

fn both(first: SocketAddr, second: SocketAddr) -> String {
    format!("socks5://{first},socks5://{second}")
}

pub fn a_proxy_that_does_not_answer_is_passed_over() {
    let (upstream, reached) = unreached();
    for does in [
        None,
        Some(Does::Hang),
        Some(Does::Close),
        Some(Does::Babble),
    ] {
        let first = does.map(|does| socks("first", does));
        let second = socks("second", Does::Serve);
        let address = first
            .as_ref()
            .map_or_else(dead_address, |first| first.address);
        let urls = both(address, second.address);
        let args = ["-s", &urls, "--connect-timeout", "4", "-v"];
        let proxy = Proxy::before(upstream, &args);
        for _ in 0..5 {
            assert_eq!(proxy.get("/").text(), "second", "{does:?}");
        }
        if let Some(first) = &first {
            assert_eq!(first.asked(), 1, "{does:?}");
        }
        proxy.log.wait_for("passed-over");
        let log = proxy.log.text();
        assert_eq!(log.matches("passed-over").count(), 1, "{does:?}: {log}");
        // The same for several requests at once.
        let all: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
        for mut client in all {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.response().text(), "second", "{does:?}");
        }
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}

pub fn http_proxies_that_do_not_answer_are_passed_over() {
    let (upstream, reached) = unreached();
    let serves = origin(|mut client| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\n\r\n");
        if client.try_head().is_some() {
            let close = "HTTP/1.1 200 OK\r\nConnection: close";
            client.send(&format!("{close}\r\nContent-Length: 6\r\n\r\nsecond"));
        }
    });
    let closes = origin(|mut client| drop(client.try_head()));
    let hangs = origin(|mut client| drop(client.rest_or_reset()));
    // A proxy with a certificate of an unknown issuer.
    let stranger = tls_origin("proxy.test", |mut client| drop(client.try_head()));
    for first in [
        format!("http://{}", dead_address()),
        format!("http://{closes}"),
        format!("http://{hangs}"),
        format!("https://{stranger}"),
    ] {
        let urls = format!("{first},http://{serves}");
        let args = ["--http-proxy", &urls, "--connect-timeout", "4"];
        let proxy = Proxy::before(upstream, &args);
        for _ in 0..3 {
            assert_eq!(proxy.get("/").text(), "second", "{first}");
        }
    }
    for (answer, stage) in [
        ("HTTP/1.1 503 x\r\n\r\n", "[proxy-refused]"),
        ("HTTP/1.1 407 x\r\n\r\n", "[proxy-auth]"),
    ] {
        let refuses = origin(move |mut client| {
            client.head();
            client.send(answer);
            client.rest_or_reset();
        });
        let urls = format!("http://{refuses},http://{serves}");
        let proxy = Proxy::before(upstream, &["--http-proxy", &urls]);
        assert_eq!(proxy.get("/").status(), 502);
        proxy.log.wait_for(stage);
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}

/// A dial that had queued after refusals gave the first proxy a share of the whole time, which
/// was longer than the remaining time.
pub fn each_share_is_of_the_remaining_time() {
    let (upstream, _) = unreached();
    // The first proxy serves one WebSocket, then refuses for load, and then hangs. A refused
    // dial is repeated after 0.05, 0.15, 0.35, 0.75, 1.55, 2.55, 3.55 and 4.55 s.
    const REFUSALS: usize = 8;
    let asked = AtomicUsize::new(0);
    let first = origin(move |mut client| {
        let number = asked.fetch_add(1, Ordering::SeqCst);
        if number > REFUSALS {
            return drop(client.rest_or_reset());
        }
        let greeting = client.exactly(2);
        client.exactly(greeting[1].into());
        client.send_bytes(&[5, 0]);
        client.exactly(10);
        let reply = u8::from(number > 0);
        client.send_bytes(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]);
        if number == 0 {
            let head = client.head();
            client.send(&switching(&head));
            client.rest_or_reset();
        }
    });
    let second = socks("second", Does::Serve);
    let urls = both(first, second.address);
    let proxy = Proxy::before(upstream, &["-s", &urls, "--connect-timeout", "8"]);
    let mut open = proxy.connect();
    open.upgrade("/");
    let response = proxy.get("/");
    assert_eq!(response.text(), "second", "{}", response.head);
}

pub fn an_answer_of_a_proxy_is_final() {
    let (upstream, reached) = unreached();
    for (does, stage) in [
        (Does::Refuse, "[proxy-refused]"),
        (Does::RefuseLogin, "[proxy-auth]"),
    ] {
        let first = socks("first", does);
        let second = socks("second", Does::Serve);
        let urls = both(first.address, second.address);
        let proxy = Proxy::before(upstream, &["-s", &urls]);
        for _ in 0..2 {
            assert_eq!(proxy.get("/").status(), 502);
        }
        proxy.log.wait_for_count(stage, 2);
        assert_eq!((first.asked(), second.asked()), (2, 0), "{does:?}");
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}

pub fn if_no_proxy_answers_no_request_goes_direct() {
    let (upstream, reached) = unreached();
    let (dead, hangs) = (dead_address(), socks("hangs", Does::Hang));
    for urls in [both(dead, hangs.address), both(hangs.address, dead)] {
        let args = ["-s", &urls, "--connect-timeout", "2"];
        let proxy = Proxy::before(upstream, &args);
        for _ in 0..2 {
            let started = Instant::now();
            let status = proxy.get("/").status();
            assert!(matches!(status, 502 | 504), "{status}");
            assert!(started.elapsed() < PATIENCE / 2);
        }
        // Both failures are logged.
        let line = proxy.log.wait_for("[proxy-connect]");
        assert!(line.contains("before it"), "{line}");
        assert!(line.contains("connection refused"), "{line}");
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}

pub fn no_request_waits_for_a_probe() {
    let (upstream, _) = unreached();
    let first = socks("first", Does::Hang);
    let second = socks("second", Does::Serve);
    let urls = both(first.address, second.address);
    let args = [
        "-u",
        &upstream.to_string(),
        "-s",
        &urls,
        "--connect-timeout",
        "8",
    ];
    let (proxy, metrics) = start_measured(&args);
    let failed = "simple_proxy_proxy_dials_total{proxy=\"1\",result=\"failed\"}";
    // The first proxy gets half of the time; until then a request waits.
    let waiting = thread::scope(|scope| {
        let waiting = scope.spawn(|| proxy.get("/").text());
        wait_until("the first is asked", || first.asked() == 1);
        assert_eq!(values(metrics)[failed], 0.0);
        waiting.join().unwrap()
    });
    assert_eq!(waiting, "second");
    assert_eq!(values(metrics)[failed], 1.0);
    assert_eq!(
        values(metrics)["simple_proxy_proxy_passed_over{proxy=\"1\"}"],
        1.0
    );
    // The probe, which begins after ten seconds, hangs, but no request does.
    let started = Instant::now();
    wait_until("the probe", || {
        assert_eq!(proxy.get("/").text(), "second");
        first.asked() == 2
    });
    assert!(started.elapsed() > Duration::from_secs(5));
    assert_eq!(proxy.get("/").text(), "second");
    let second_dials = "simple_proxy_proxy_dials_total{proxy=\"2\",result=\"done\"}";
    assert!(values(metrics)[second_dials] >= 3.0);
}

pub fn a_proxy_that_is_back_serves_again() {
    let (upstream, _) = unreached();
    let first = socks("first", Does::Close);
    let second = socks("second", Does::Serve);
    let urls = both(first.address, second.address);
    let proxy = Proxy::before(upstream, &["-s", &urls]);
    assert_eq!(proxy.get("/").text(), "second");
    *first.does.lock().unwrap() = Does::Serve;
    wait_until("the first serves again", || {
        let response = proxy.get("/");
        assert_eq!(response.status(), 200);
        response.text() == "first"
    });
    assert_eq!(proxy.get("/").text(), "first");
}

pub fn the_check_tries_each_proxy() {
    let (upstream, _) = unreached();
    let upstream = upstream.to_string();
    let (first, second) = (socks("first", Does::Serve), socks("second", Does::Serve));
    let dead = dead_address();
    let urls = both(first.address, second.address);
    let checked = check(&["-u", &upstream], &[("SOCKS_PROXY", &urls)]);
    assert_eq!(checked.status, Some(0), "{}", checked.text);
    checked.has(&format!("1 of 2: socks5://{}", first.address));
    checked.has(&format!("2 of 2: socks5://{}", second.address));
    assert_eq!((first.asked(), second.asked()), (1, 1));
    for urls in [both(dead, second.address), both(second.address, dead)] {
        let checked = check(&["-u", &upstream, "-s", &urls], &[]);
        assert_eq!(checked.status, Some(1), "{}", checked.text);
        checked.has("[proxy-connect] connection refused");
        checked.has("returned 200 OK");
        checked.has(&format!("failed: [proxy-connect] {dead}"));
    }
}
