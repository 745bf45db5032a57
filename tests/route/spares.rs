//! Spare upstream connections: `--spares`.

use libtest_mimic::Trial;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex};

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        an_upgrade_takes_a_spare_connection,
        there_are_never_more_spares_than_configured,
        a_drain_closes_idle_spares_at_its_beginning,
        a_drain_aborts_the_dial_of_a_spare,
        an_old_spare_is_renewed,
        pauses_after_failures_double,
    ]
}

const READY: &str = "备用上游连接已就绪";

const TAKEN: &str = "使用备用上游连接";

/// Answers with the number of its connection, and closes it after the response, so that none is
/// kept.
fn numbered(mut client: Client, number: usize) {
    let Some(head) = client.try_head() else {
        return;
    };
    if field(&head, "upgrade").is_some() {
        client.send(&switching(&head));
        client.send_bytes(&frame(number.to_string().as_bytes(), None));
        client.rest_or_reset();
        return;
    }
    let close = "\r\nConnection: close\r\n";
    client.send(&ok(&number.to_string()).replacen("\r\n", close, 1));
}

fn counted() -> (impl Fn(Client) + Send + Sync + 'static, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let shared = count.clone();
    let script = move |client| numbered(client, shared.fetch_add(1, Ordering::SeqCst));
    (script, count)
}

/// A SOCKS5 proxy that asks for no password.
fn socks(upstream: SocketAddr) -> SocketAddr {
    origin(move |mut client| {
        client.exactly(3);
        client.send_bytes(&[5, 0]);
        client.exactly(10);
        let to = Client::new(TcpStream::connect(upstream).unwrap());
        client.send_bytes(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        splice(client, to);
    })
}

/// Once a name was used, a spare connection for it is ready, over any route.
pub fn an_upgrade_takes_a_spare_connection() {
    for (with_tls, with_socks) in [(false, false), (true, false), (true, true)] {
        let (script, connections) = counted();
        let upstream = match with_tls {
            false => origin(script),
            true => tls_origin("a.example", script),
        };
        let route = format!("socks5://{}", socks(upstream));
        let route = match with_socks {
            true => vec!["-s", &route],
            false => vec!["-d"],
        };
        let tls = ["--tls", if with_tls { "on" } else { "off" }];
        let more = ["--spares", "1", "-v", "--threads", "2"];
        let proxy = Proxy::before(upstream, &[&route[..], &tls, &more].concat());
        // None is dialled without a request.
        assert_eq!(connections.load(Ordering::SeqCst), 0);
        assert_eq!(proxy.get("/").text(), "0");
        proxy.log.wait_for(READY);
        let mut client = proxy.connect();
        client.send(&upgrade_request("/ws").replace("chat.example", "a.example"));
        assert!(client.head().starts_with("HTTP/1.1 101 "));
        assert!(client.frame().is_some());
        proxy.log.wait_for(TAKEN);
        // It is replaced, and a POST takes the next.
        proxy.log.wait_for_count(READY, 2);
        let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(proxy.fetch(post).status(), 200);
        proxy.log.wait_for_count(TAKEN, 2);
        drop(client);
        assert_eq!(proxy.terminate().code(), Some(0));
    }
}

/// As many are idle as configured, and no more.
pub fn there_are_never_more_spares_than_configured() {
    let (script, connections) = counted();
    let upstream = origin(script);
    let proxy = Proxy::before(upstream, &["-d", "--spares", "3", "-v"]);
    let before = sockets(&proxy);
    assert_eq!(proxy.get("/").text(), "0");
    proxy.log.wait_for_count(READY, 3);
    wait_until("three spares", || sockets(&proxy) == before + 3);
    wait_until("all are accepted", || {
        connections.load(Ordering::SeqCst) == 4
    });
    assert_eq!(proxy.terminate().code(), Some(0));
}

/// A proxy that answers the greeting on its first connection only, and reports the beginning and
/// end of each other.
fn mute_but_once(upstream: SocketAddr) -> (SocketAddr, Receiver<()>, Receiver<()>) {
    let (begun, begins) = channel();
    let (ended, ends) = channel();
    let count = AtomicUsize::new(0);
    let senders = Mutex::new((begun, ended));
    let hop = origin(move |mut client| {
        client.exactly(3);
        if count.fetch_add(1, Ordering::SeqCst) > 0 {
            let (begun, ended) = senders.lock().unwrap().clone();
            begun.send(()).unwrap();
            client.rest();
            return ended.send(()).unwrap();
        }
        client.send_bytes(&[5, 0]);
        client.exactly(10);
        let to = Client::new(TcpStream::connect(upstream).unwrap());
        client.send_bytes(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        splice(client, to);
    });
    (hop, begins, ends)
}

/// A drain closes idle spare connections at its beginning: the upstream sees their end while a
/// WebSocket goes on.
pub fn a_drain_closes_idle_spares_at_its_beginning() {
    let (ended, ends) = channel();
    let senders = Mutex::new(ended);
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let upstream = origin(move |mut client| {
        count.fetch_add(1, Ordering::SeqCst);
        let Some(head) = client.try_head() else {
            let ended = senders.lock().unwrap().clone();
            return ended.send(()).unwrap();
        };
        client.send(&switching(&head));
        client.rest_or_reset();
    });
    let args = ["-d", "--spares", "3", "-v", "--drain-timeout", "3600"];
    let mut proxy = Proxy::before(upstream, &args);
    let mut client = proxy.connect();
    client.upgrade("/ws");
    proxy.log.wait_for_count(READY, 3);
    proxy.guard.signal("TERM");
    for _ in 0..3 {
        ends.recv_timeout(PATIENCE).expect("a spare is closed");
    }
    // None of them was closed because it was replaced.
    assert_eq!(connections.load(Ordering::SeqCst), 4);
    assert!(proxy.guard.0.try_wait().unwrap().is_none());
    client.end_sending();
    assert_eq!(proxy.guard.wait().code(), Some(0));
}

/// A drain does not wait for a dial whose proxy does not answer.
pub fn a_drain_aborts_the_dial_of_a_spare() {
    let (hop, begins, ends) = mute_but_once(origin(echo));
    let route = format!("socks5://{hop}");
    let times = ["--connect-timeout", "3600", "--drain-timeout", "3600"];
    let args = ["-u", "a.example:80", "-s", &route, "--spares", "1", "-v"];
    let mut proxy = Proxy::start(&[&args[..], &times].concat());
    let mut client = proxy.connect();
    client.upgrade("/ws");
    begins.recv_timeout(PATIENCE).expect("a spare is dialled");
    proxy.guard.signal("TERM");
    ends.recv_timeout(PATIENCE).expect("the dial is aborted");
    assert!(proxy.guard.0.try_wait().unwrap().is_none());
    client.end_sending();
    assert_eq!(proxy.guard.wait().code(), Some(0));
}

/// A spare connection is replaced at an age of ten seconds before it is closed.
pub fn an_old_spare_is_renewed() {
    let (script, connections) = counted();
    let upstream = origin(script);
    let args = ["-d", "--spares", "1", "-v"];
    let proxy = Proxy::before(upstream, &[&args[..], &METRICS].concat());
    assert_eq!(proxy.get("/").text(), "0");
    proxy.log.wait_for("spare upstream connection renewed");
    wait_until("all are accepted", || {
        connections.load(Ordering::SeqCst) >= 3
    });
    assert_eq!(proxy.get("/").status(), 200);
    proxy.log.wait_for("uses a spare upstream connection");
    let page = proxy.metrics_page();
    for line in [
        "simple_proxy_spare_lookups_total{result=\"hit\"} 1",
        "simple_proxy_spare_lookups_total{result=\"miss\"} 1",
        "simple_proxy_spare_dials_total{reason=\"renewal\"} ",
    ] {
        assert!(page.contains(line), "no {line} in {page}");
    }
    let none = "simple_proxy_spare_dials_total{reason=\"renewal\"} 0";
    assert!(!page.contains(none), "{page}");
}

/// An upstream that is gone is dialled again after pauses that double.
pub fn pauses_after_failures_double() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap();
    let proxy = Proxy::before(upstream, &["-d", "--spares", "1", "-v"]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let mut asked = Client::new(listener.accept().unwrap().0);
    asked.head();
    drop(listener);
    asked.send(&ok("last").replacen("\r\n", "\r\nConnection: close\r\n", 1));
    assert_eq!(client.response().text(), "last");
    for pause in ["0.25", "0.5", "1", "2"] {
        proxy.log.wait_for(&format!("；{pause} 秒后重试"));
    }
    assert_eq!(proxy.terminate().code(), Some(0));
}
