//! Hops that allow few connections: kept connections give way, dials queue, and no request fails
//! that could be served in time.

use libtest_mimic::Trial;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        requests_one_at_a_time_all_succeed,
        many_at_once_are_all_answered,
        a_request_waits_for_the_end_of_a_tunnel,
        the_oldest_kept_connection_gives_way,
        a_refused_port_is_reported_at_once,
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

const POST: &str = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi";

/// How a proxy refuses one connection too many.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    /// It closes what it has accepted.
    Closes,
    /// It replies "general failure".
    Replies,
}

/// A SOCKS5 proxy to `upstream` that allows `slots` connections at once.
fn few_slots(upstream: SocketAddr, slots: usize, refusal: Refusal) -> SocketAddr {
    let taken = Arc::new(AtomicUsize::new(0));
    origin(move |mut client| {
        let take = |taken| (taken < slots).then_some(taken + 1);
        let slot = taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        match (slot, refusal) {
            (Err(_), Refusal::Closes) => return,
            (Err(_), Refusal::Replies) => {
                greet(&mut client);
                client.try_send(&[5, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
                client.rest_or_reset();
                return;
            }
            (Ok(_), _) => {}
        }
        if greet(&mut client).is_some() {
            let to = Client::new(TcpStream::connect(upstream).unwrap());
            if client.try_send(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]) {
                splice(client, to);
            }
        }
        taken.fetch_sub(1, Ordering::SeqCst);
    })
}

/// Reads the greeting and the request for an IPv4 address.
fn greet(client: &mut Client) -> Option<()> {
    client.try_exactly(3)?;
    client.try_send(&[5, 0]).then_some(())?;
    client.try_exactly(10).map(drop)
}

fn before(upstream: SocketAddr, proxy: SocketAddr, more: &[&str]) -> Proxy {
    let proxy = format!("socks5://{proxy}");
    let args = [&["-s", &proxy, "--threads", "8"], more].concat();
    Proxy::before(upstream, &args)
}

/// Requests of one client after another never need more slots than there are.
pub fn requests_one_at_a_time_all_succeed() {
    for refusal in [Refusal::Closes, Refusal::Replies] {
        let upstream = answering(|_| ok("fine"));
        let proxy = before(upstream, few_slots(upstream, 4, refusal), &[]);
        for n in 0..24 {
            let answer = proxy.fetch(if n % 3 == 2 { POST } else { GET });
            assert_eq!(answer.status(), 200, "{refusal:?}: {}", answer.text());
        }
    }
}

/// Requests without a slot wait until one is free, or a connection is given back.
pub fn many_at_once_are_all_answered() {
    for refusal in [Refusal::Closes, Refusal::Replies] {
        for closing in [false, true] {
            let upstream = answering(move |_| {
                thread::sleep(Duration::from_millis(30));
                let end = if closing { "Connection: close\r\n" } else { "" };
                ok("fine").replacen("\r\n", &format!("\r\n{end}"), 1)
            });
            let proxy = before(upstream, few_slots(upstream, 4, refusal), &[]);
            let address = proxy.address;
            let clients: Vec<_> = (0..24)
                .map(|n| {
                    thread::spawn(move || {
                        let mut client = Client::connect(address);
                        client.send(if n % 2 == 0 { POST } else { GET });
                        client.response()
                    })
                })
                .collect();
            for client in clients {
                let answer = client.join().unwrap();
                assert_eq!(
                    answer.status(),
                    200,
                    "{refusal:?} {closing}: {}",
                    answer.text()
                );
            }
        }
    }
}

/// While a tunnel has the only slot, a request waits for its end.
pub fn a_request_waits_for_the_end_of_a_tunnel() {
    let upstream = origin(echo);
    let proxy = before(upstream, few_slots(upstream, 1, Refusal::Replies), &["-v"]);
    let mut tunnel = proxy.connect();
    tunnel.upgrade("/ws");
    let mut waiting = proxy.connect();
    waiting.send(GET);
    proxy.log.wait_for("GET /");
    // By then it was refused and dials again from time to time.
    thread::sleep(Duration::from_millis(300));
    drop(tunnel);
    assert_eq!(waiting.response().status(), 200);
}

/// An idle connection for another server name gives way to a request that is refused.
pub fn the_oldest_kept_connection_gives_way() {
    let upstream = tls_origin("a.example", |mut client| {
        while client.try_head().is_some() {
            client.send(&ok("fine"));
        }
    });
    let slots = few_slots(upstream, 1, Refusal::Closes);
    let proxy = before(upstream, slots, &["--tls", "on"]);
    for host in ["a.example", "b.example", "a.example"] {
        let answer = proxy.fetch(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        // The connection is kept by the time that this line is logged.
        proxy.log.wait_for("请求完成");
    }
}

/// A refusal that is not caused by load is reported at once, although other dials are in flight.
pub fn a_refused_port_is_reported_at_once() {
    let upstream = origin(echo);
    let refusing = origin(move |mut client| {
        if greet(&mut client).is_none() {
            return;
        }
        client.send_bytes(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
    });
    let proxy = before(upstream, refusing, &["--connect-timeout", "3600"]);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let address = proxy.address;
            thread::spawn(move || {
                let mut client = Client::connect(address);
                client.send(GET);
                client.response().status()
            })
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap(), 502);
    }
}
