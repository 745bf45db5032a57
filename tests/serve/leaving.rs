//! Clients that leave: their end is passed on to the upstream, and nothing is done for a client
//! that is gone.

use libtest_mimic::Trial;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        the_clients_end_is_passed_on,
        a_prompt_answer_comes_before_the_end,
        an_end_after_a_pipelined_request_does_not_end_the_first,
        an_upstream_that_ignores_the_end_is_closed,
        a_download_to_a_client_that_has_ended_its_side_is_whole,
        a_client_that_leaves_during_the_dial_frees_its_sockets,
        the_dial_of_an_upgrade_ends_when_the_client_leaves,
        a_reset_found_by_a_write_ends_a_relay,
        urgent_data_does_not_stall_a_stream,
    ]
}

/// Timeouts so long that none of them ends anything.
const PATIENT: [&str; 6] = [
    "--response-timeout",
    "3600",
    "--connect-timeout",
    "3600",
    "--threads",
    "1",
];

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

const POST: &str = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc";

const EVENT: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n";

/// A channel whose sender is shared by the threads of an origin.
fn reports<T: Send>() -> (Mutex<Sender<T>>, Receiver<T>) {
    let (report, seen) = channel();
    (Mutex::new(report), seen)
}

fn seen<T>(reports: &Receiver<T>) -> T {
    reports.recv_timeout(PATIENCE).unwrap()
}

/// Reads a request, begins a response, waits for the proxy's FIN and then sends the rest of the
/// response.
fn late(client: &mut Client, told: &Mutex<Sender<&'static str>>) {
    let head = client.head();
    let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    client.exactly(length);
    let begins = head.starts_with("GET /event ");
    if begins {
        client.send(EVENT);
    }
    told.lock().unwrap().send("asked").unwrap();
    // A FIN, and nothing before it.
    assert_eq!(client.rest(), b"");
    told.lock().unwrap().send("ended").unwrap();
    let rest = match begins {
        true => "4\r\nlate\r\n0\r\n\r\n".to_owned(),
        false => ok("late"),
    };
    client.try_send(rest.as_bytes());
}

/// Origins that run `late`, each with the arguments of a route to it.
fn routes(
    told: &'static Mutex<Sender<&'static str>>,
) -> Vec<(&'static str, SocketAddr, Vec<String>)> {
    let plain = origin(move |mut client| late(&mut client, told));
    let with_tls = tls_origin("a.example", move |mut client| late(&mut client, told));
    let socks = origin(move |mut client| {
        socks_handshake(&mut client);
        late(&mut client, told);
    });
    let connect = origin(move |mut client| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\n\r\n");
        late(&mut client, told);
    });
    let args = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect();
    let (socks, connect) = (socks.to_string(), format!("http://{connect}"));
    vec![
        ("direct", plain, args(&["-d"])),
        ("tls", with_tls, args(&["-d", "--tls", "on"])),
        ("socks", plain, args(&["-s", &socks])),
        ("connect", plain, args(&["--http-proxy", &connect])),
    ]
}

/// Reads a SOCKS5 request for an IPv4 address and grants it.
fn socks_handshake(client: &mut Client) {
    client.exactly(3);
    client.send_bytes(&[5, 0]);
    client.exactly(10);
    client.send_bytes(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
}

pub fn the_clients_end_is_passed_on() {
    let (told, tells) = reports();
    let told: &'static Mutex<_> = Box::leak(Box::new(told));
    for (name, upstream, args) in routes(told) {
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.extend(PATIENT);
        let proxy = Proxy::before(upstream, &args);
        let before = sockets(&proxy);
        let event = GET.replace("GET / ", "GET /event ");
        let empty_lines = format!("{GET}\r\n\r\n");
        let requests = [
            GET,
            POST,
            &empty_lines,
            &event,
            &upgrade_request("/ws"),
            "GET / HTTP/1.0\r\n\r\n",
        ];
        for request in requests {
            // A client that still reads gets the upstream's response to the end.
            let mut client = proxy.connect();
            client.send(request);
            assert_eq!(seen(&tells), "asked", "{name}: {request}");
            client.end_sending();
            assert_eq!(seen(&tells), "ended", "{name}: {request}");
            let response = client.response();
            assert!(response.text().ends_with("late"), "{name}: {response:?}");
            assert!(client.is_closed());
            // A client that is gone.
            let mut client = proxy.connect();
            client.send(request);
            assert_eq!(seen(&tells), "asked", "{name}: {request}");
            if request == event {
                client.head();
                assert_eq!(client.chunk(), b"event");
            }
            drop(client);
            assert_eq!(seen(&tells), "ended", "{name}: {request}");
            sockets_return_to(&proxy, before);
        }
    }
}

/// Half of all servers drop a response once they see the client's FIN.
pub fn a_prompt_answer_comes_before_the_end() {
    let upstream = origin(|mut client| {
        while let Some(head) = client.try_head() {
            client.send(&ok(head.split(' ').nth(1).unwrap()));
        }
    });
    let proxy = Proxy::before(upstream, &["-d"]);
    let mut client = proxy.connect();
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n\r\n");
    client.end_sending();
    assert_eq!(client.response().text(), "/1");
    assert_eq!(client.response().text(), "/2");
    assert!(client.is_closed());
}

/// The FIN after a second request does not concern the first.
pub fn an_end_after_a_pipelined_request_does_not_end_the_first() {
    let (told, tells) = reports();
    let upstream = origin(move |mut client| {
        client.head();
        let longer_than_the_silence = Duration::from_millis(1200);
        let socket = client.socket.try_clone().unwrap();
        socket
            .set_read_timeout(Some(longer_than_the_silence))
            .unwrap();
        let read = client.stream.read(&mut [0]);
        told.lock()
            .unwrap()
            .send(read.map_err(|error| error.kind()))
            .unwrap();
        client.send(&ok("fine"));
        client.rest_or_reset();
    });
    let proxy = Proxy::before(upstream, &PATIENT);
    let mut client = proxy.connect();
    client.send(&GET.repeat(2));
    client.end_sending();
    assert_eq!(seen(&tells), Err(ErrorKind::WouldBlock));
    assert_eq!(client.response().text(), "fine");
}

/// An upstream that goes on working after the FIN is closed.
pub fn an_upstream_that_ignores_the_end_is_closed() {
    let (told, tells) = reports();
    let (go_on, wait) = reports::<()>();
    let wait = Mutex::new(wait);
    let upstream = origin(move |mut client| {
        client.head();
        assert_eq!(client.rest(), b"");
        told.lock().unwrap().send(()).unwrap();
        // Works without reading.
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
    });
    let proxy = Proxy::before(
        upstream,
        &[&PATIENT[..], &["--abandon-timeout", "0.1"]].concat(),
    );
    let before = sockets(&proxy);
    let mut client = proxy.connect();
    client.send(GET);
    client.end_sending();
    seen(&tells);
    assert!(client.is_closed());
    sockets_return_to(&proxy, before);
    proxy.log.wait_for("请求中断: GET /: client: closed");
    assert!(!proxy.log.text().contains("请求失败"));
    go_on.lock().unwrap().send(()).unwrap();
}

/// A slow reader that has sent a FIN has not left: the upstream waits for it.
pub fn a_download_to_a_client_that_has_ended_its_side_is_whole() {
    const LENGTH: usize = 64 << 20;
    let upstream = origin(move |mut client| {
        client.head();
        client.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
        ));
        let piece = vec![7; 1 << 20];
        for _ in 0..LENGTH / piece.len() {
            client.send_bytes(&piece);
        }
        // Its end comes only with the close of the connection.
        client.rest_or_reset();
    });
    let proxy = Proxy::before(upstream, &PATIENT);
    let mut client = proxy.connect();
    client.send(GET);
    client.end_sending();
    client.head();
    client.skip(LENGTH / 2);
    // Meanwhile the upstream is not read.
    thread::sleep(Duration::from_secs(2));
    client.skip(LENGTH / 2);
    assert!(client.is_closed());
}

/// An origin that reports each connection and its end, and answers nothing.
fn silent() -> (SocketAddr, Receiver<()>, Receiver<()>) {
    let (came, comes) = reports();
    let (went, goes) = reports();
    let address = origin(move |mut client| {
        client.exactly(3);
        came.lock().unwrap().send(()).unwrap();
        client.rest_or_reset();
        let _ = went.lock().unwrap().send(());
    });
    (address, comes, goes)
}

pub fn a_client_that_leaves_during_the_dial_frees_its_sockets() {
    const CLIENTS: usize = 20;
    let (socks, comes, goes) = silent();
    let socks = socks.to_string();
    let mut args = vec!["-u", "192.0.2.1:80", "-s", &socks];
    args.extend(PATIENT);
    let proxy = Proxy::start(&args);
    let before = sockets(&proxy);
    for request in [GET, POST, &upgrade_request("/ws")] {
        for resets in [false, true] {
            let clients: Vec<Client> = (0..CLIENTS)
                .map(|_| {
                    let mut client = proxy.connect();
                    client.send(request);
                    client
                })
                .collect();
            for client in clients {
                seen(&comes);
                match resets {
                    true => client.reset(),
                    false => drop(client),
                }
            }
            for _ in 0..CLIENTS {
                seen(&goes);
            }
            sockets_return_to(&proxy, before);
        }
    }
    assert!(!proxy.log.text().contains("请求失败"));
}

/// Frames after the head of the upgrade make no difference.
pub fn the_dial_of_an_upgrade_ends_when_the_client_leaves() {
    let (socks, comes, goes) = silent();
    let socks = socks.to_string();
    let mut args = vec!["-u", "192.0.2.1:80", "-s", &socks];
    args.extend(PATIENT);
    let proxy = Proxy::start(&args);
    let mut client = proxy.connect();
    client.send(&upgrade_request("/ws"));
    client.send_bytes(&frame(b"hello", MASK));
    seen(&comes);
    client.end_sending();
    seen(&goes);
    assert!(client.is_closed());
}

/// The upstream sends frames without pause. A write found the client's reset first, and the
/// upstream was read for more than another minute.
pub fn a_reset_found_by_a_write_ends_a_relay() {
    let (ended, ends) = reports();
    let upstream = origin(move |mut client| {
        client.head();
        client.send(SWITCHING);
        let message = frame(b"tick", None);
        while client.try_send(&message) {
            thread::sleep(Duration::from_micros(100));
        }
        ended.lock().unwrap().send(()).unwrap();
    });
    let proxy = Proxy::before(upstream, &["-d"]);
    let before = sockets(&proxy);
    for _ in 0..5 {
        let mut client = proxy.connect();
        client.upgrade("/ws");
        client.frame().unwrap();
        client.reset();
        seen(&ends);
        sockets_return_to(&proxy, before);
    }
}

/// A read returns only the bytes before urgent data, however many follow.
pub fn urgent_data_does_not_stall_a_stream() {
    let (told, tells) = reports();
    let upstream = origin(move |mut client| {
        client.head();
        client.send(SWITCHING);
        let mut got = Vec::new();
        while !got.ends_with(b"!") {
            got.extend(client.exactly(1));
        }
        told.lock().unwrap().send(got).unwrap();
    });
    let proxy = Proxy::before(upstream, &["-d"]);
    let mut client = proxy.connect();
    client.upgrade("/ws");
    // So that all bytes have arrived before they are read.
    proxy.guard.signal("STOP");
    let socket = socket2::SockRef::from(&client.socket);
    for _ in 0..3 {
        socket.send(b"before ").unwrap();
        socket.send_out_of_band(b"u").unwrap();
    }
    socket.send(b"behind!").unwrap();
    proxy.guard.signal("CONT");
    let got = String::from_utf8(seen(&tells)).unwrap();
    // Earlier urgent bytes become normal data once there is a later one.
    assert_eq!(got.replace('u', ""), "before before before behind!");
}
