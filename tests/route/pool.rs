//! Kept upstream connections: which requests use them, how long they are kept, and which
//! requests never use one.

use libtest_mimic::Trial;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        one_kept_connection_serves_all_threads,
        posts_to_an_upstream_that_closes_unannounced,
        posts_alone_reuse_kept_connections,
        the_keep_alive_timeout_of_the_upstream_is_respected,
        a_kept_connection_that_the_upstream_ends_is_closed_at_once,
        an_upgrade_takes_a_kept_connection,
        each_request_on_a_handed_over_connection_is_answered_once,
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

const POST: &str = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi";

/// Answers each request with the connection's number, and adds `more` to the fields.
fn numbered(mut client: Client, number: usize, more: &str) {
    while let Some(head) = client.try_head() {
        if field(&head, "upgrade").is_some() {
            client.send(&switching(&head));
            client.send_bytes(&frame(number.to_string().as_bytes(), None));
            client.rest_or_reset();
            return;
        }
        if let Some(length) = field(&head, "content-length") {
            client.exactly(length.parse().unwrap());
        }
        let body = number.to_string();
        let answer = ok(&body).replacen("\r\n", &format!("\r\n{more}"), 1);
        if !client.try_send(answer.as_bytes()) {
            return;
        }
    }
}

/// A script that numbers its connections, and their count.
fn counted(
    script: impl Fn(Client, usize) + Send + Sync + 'static,
) -> (impl Fn(Client) + Send + Sync + 'static, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let shared = count.clone();
    let script = move |client| {
        let number = shared.fetch_add(1, Ordering::SeqCst);
        script(client, number);
    };
    (script, count)
}

/// Sends requests one at a time, each from a new client, and returns the responses. A request is
/// logged after its connection was given back.
fn one_at_a_time(proxy: &Proxy, request: &str, times: usize) -> Vec<String> {
    let done = |proxy: &Proxy| proxy.log.text().matches("请求完成").count();
    let before = done(proxy);
    let ask = |n| {
        let answer = proxy.fetch(request).text();
        proxy.log.wait_for_count("请求完成", before + n + 1);
        answer
    };
    (0..times).map(ask).collect()
}

/// Whichever thread accepts a client, its request uses the one kept connection.
pub fn one_kept_connection_serves_all_threads() {
    for with_tls in [false, true] {
        let (script, connections) = counted(|client, number| numbered(client, number, ""));
        let (upstream, tls) = match with_tls {
            false => (origin(script), "off"),
            true => (tls_origin("a.example", script), "on"),
        };
        let proxy = Proxy::before(upstream, &["-d", "--threads", "8", "--tls", tls]);
        let answers = one_at_a_time(&proxy, GET, 40);
        assert_eq!(answers, vec!["0"; 40], "TLS {tls}");
        assert_eq!(connections.load(Ordering::SeqCst), 1, "TLS {tls}");
    }
}

/// For an upstream that closes after each response without an announcement, no request that must
/// not be sent twice uses a connection that is about to close.
pub fn posts_to_an_upstream_that_closes_unannounced() {
    for (shortest, longest) in [(0, 0), (50, 200)] {
        let (script, _) = counted(move |mut client, number| {
            client.head();
            client.exactly(2);
            client.send(&ok("fine"));
            let spread = (number * 37) as u64 % (longest - shortest + 1);
            thread::sleep(Duration::from_millis(shortest + spread));
        });
        let proxy = Proxy::before(origin(script), &["-d", "--threads", "2"]);
        let address = proxy.address;
        let clients: Vec<_> = (0..8)
            .map(|_| thread::spawn(move || posts(address, 100)))
            .collect();
        for client in clients {
            assert_eq!(client.join().unwrap(), vec![200; 100]);
        }
    }
}

/// Sends `count` POSTs on one connection and returns their statuses.
fn posts(proxy: SocketAddr, count: usize) -> Vec<u16> {
    let mut client = Client::connect(proxy);
    let ask = |_| {
        client.send(POST);
        client.response().status()
    };
    (0..count).map(ask).collect()
}

/// If there are only POSTs, connections are reused all the same.
pub fn posts_alone_reuse_kept_connections() {
    let (script, connections) = counted(|client, number| numbered(client, number, ""));
    let proxy = Proxy::before(origin(script), &["-d", "--threads", "1"]);
    let mut last = one_at_a_time(&proxy, POST, 1);
    wait_until("a POST on a kept connection", || {
        // By then the first connection has been open for a second.
        thread::sleep(Duration::from_millis(1100));
        let before = connections.load(Ordering::SeqCst);
        last = one_at_a_time(&proxy, POST, 1);
        connections.load(Ordering::SeqCst) == before
    });
    // It has served a second request: from now on it serves all.
    assert_eq!(one_at_a_time(&proxy, POST, 5), vec![last.remove(0); 5]);
}

/// The upstream's promise decides how long its connections are kept, and whether a request that
/// must not be sent twice uses one after more than two seconds.
pub fn the_keep_alive_timeout_of_the_upstream_is_respected() {
    let check = |promise: &'static str, request: &str, kept: bool| {
        let (script, _) = counted(move |client, number| numbered(client, number, promise));
        let proxy = Proxy::before(origin(script), &["-d", "--threads", "2"]);
        // The second request proves that the upstream keeps its connections.
        let first = one_at_a_time(&proxy, GET, 2).remove(1);
        thread::sleep(Duration::from_millis(2500));
        let answer = one_at_a_time(&proxy, request, 1).remove(0);
        assert_eq!(answer == first, kept, "{promise:?} {request:?}");
    };
    thread::scope(|scope| {
        for (promise, kept_for_get, kept_for_post) in [
            ("", true, false),
            ("Keep-Alive: timeout=60, max=100\r\n", true, true),
            ("Keep-Alive: timeout=3\r\n", false, false),
            ("Keep-Alive: timeout=1\r\n", false, false),
        ] {
            scope.spawn(move || check(promise, GET, kept_for_get));
            scope.spawn(move || check(promise, POST, kept_for_post));
        }
    });
}

/// A connection that the upstream closes is closed here, too, at once and not when it is next
/// wanted.
pub fn a_kept_connection_that_the_upstream_ends_is_closed_at_once() {
    let (end, may_end) = std::sync::mpsc::channel::<()>();
    let may_end = std::sync::Mutex::new(may_end);
    let upstream = origin(move |mut client| {
        client.head();
        client.send(&ok("fine"));
        let _ = may_end.lock().unwrap().recv();
    });
    let proxy = Proxy::before(upstream, &["-d", "--threads", "1"]);
    let before = sockets(&proxy);
    one_at_a_time(&proxy, GET, 1);
    wait_until("only the kept connection is open", || {
        sockets(&proxy) == before + 1
    });
    let start = Instant::now();
    drop(end);
    sockets_return_to(&proxy, before);
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// An upgrade uses a kept connection, and is sent again on a new one when that turns out to be
/// closed before any byte of a response.
pub fn an_upgrade_takes_a_kept_connection() {
    let (script, connections) = counted(|client, number| numbered(client, number, ""));
    let proxy = Proxy::before(origin(script), &["-d", "--threads", "4"]);
    one_at_a_time(&proxy, GET, 1);
    let mut client = proxy.connect();
    client.upgrade("/ws");
    assert_eq!(client.frame().unwrap(), b"0");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    // It belongs to the tunnel now.
    assert_eq!(one_at_a_time(&proxy, GET, 1), ["1"]);

    let (script, connections) = counted(|mut client, number| {
        if number == 0 {
            client.head();
            client.send(&ok("fine"));
            // Reads the upgrade, and does not answer.
            client.head();
        } else {
            numbered(client, number, "");
        }
    });
    let proxy = Proxy::before(origin(script), &["-d", "--threads", "4"]);
    one_at_a_time(&proxy, GET, 1);
    let mut client = proxy.connect();
    client.upgrade("/ws");
    assert_eq!(client.frame().unwrap(), b"1");
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

/// Several threads hand connections over while the upstream closes them at random, with and
/// without an announcement: each request is answered once, with its own response.
pub fn each_request_on_a_handed_over_connection_is_answered_once() {
    for with_tls in [false, true] {
        let served = Arc::new(AtomicUsize::new(0));
        let shared = served.clone();
        let script = move |mut client: Client| {
            let mut noise = Noise::new(shared.load(Ordering::SeqCst) as u64 + 1);
            while let Some(head) = client.try_head() {
                let path = head.split(' ').nth(1).unwrap_or_default();
                shared.fetch_add(1, Ordering::SeqCst);
                let fate = noise.next() % 8;
                let said = if fate == 0 {
                    "Connection: close\r\n"
                } else {
                    ""
                };
                let answer = ok(path).replacen("\r\n", &format!("\r\n{said}"), 1);
                if !client.try_send(answer.as_bytes()) || fate < 2 {
                    return;
                }
            }
        };
        let (upstream, tls) = match with_tls {
            false => (origin(script), "off"),
            true => (tls_origin("a.example", script), "on"),
        };
        let proxy = Proxy::before(upstream, &["-d", "--threads", "8", "--tls", tls]);
        let address = proxy.address;
        const CLIENTS: usize = 8;
        const REQUESTS: usize = 150;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| thread::spawn(move || short_connections(address, client, REQUESTS)))
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        // The upstream answers all that it reads, so this count shows requests that were sent
        // twice.
        assert_eq!(
            served.load(Ordering::SeqCst),
            CLIENTS * REQUESTS,
            "TLS {tls}"
        );
    }
}

/// Sends one or two requests on each connection, each with a response that names its path.
fn short_connections(proxy: SocketAddr, number: usize, requests: usize) {
    let mut client = Client::connect(proxy);
    for n in 0..requests {
        if n % 3 != 1 {
            client = Client::connect(proxy);
        }
        let path = format!("/{number}/{n}");
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        let answer = client.response();
        assert_eq!((answer.status(), answer.text()), (200, path));
    }
}
