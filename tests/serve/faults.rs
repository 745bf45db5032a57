//! Peers that are slow, silent, gone or out of bounds, on either side, and a system that runs
//! out of descriptors: little memory is held, lost peers are cut off in time, and everyone else
//! is served.

use libtest_mimic::Trial;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{ChildStderr, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        a_trickle_does_not_stretch_the_head_timeout,
        an_idle_connection_is_closed_after_the_keepalive_timeout,
        a_stalled_request_body_ends,
        a_stalled_response_body_ends,
        a_slow_body_is_not_a_stalled_one,
        a_client_that_stops_reading_is_cut_off,
        idle_and_trickling_clients_do_not_delay_others,
        a_client_that_stops_reading_stops_the_upstream,
        an_upstream_that_stops_reading_stops_the_client,
        without_descriptors_clients_wait_and_are_served_later,
        a_log_that_is_not_read_stalls_no_request,
        a_closed_log_does_no_harm,
        an_upstream_that_resets_before_its_response_is_502,
        an_upstream_that_resets_within_its_body_cuts_the_client,
        an_upstream_that_resets_during_an_upload_ends_it,
        a_proxy_that_ends_after_any_byte_of_its_answer_is_an_error,
        a_proxys_answer_may_come_byte_by_byte,
        a_client_that_resets_leaves_nothing_behind,
        a_killed_peer_counts_as_closed,
        keepalive_is_set_on_both_legs,
        a_drain_under_load_truncates_no_response,
        many_tls_handshakes_at_once_do_not_delay_others,
    ]
}

/// A channel through which scripts report what they saw.
fn reports<T: Send>() -> (Mutex<Sender<T>>, Receiver<T>) {
    let (sender, receiver) = channel();
    (Mutex::new(sender), receiver)
}

fn seen<T>(reports: &Receiver<T>) -> T {
    reports.recv_timeout(PATIENCE).expect("a report")
}

fn tell<T>(reports: &Mutex<Sender<T>>, what: T) {
    // The test may have ended.
    let _ = reports.lock().unwrap().send(what);
}

/// Resident memory now, in KiB.
fn resident_kib(proxy: &Proxy) -> u64 {
    let path = format!("/proc/{}/status", proxy.guard.0.id());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let field = line.unwrap().split_whitespace().nth(1).unwrap();
    field.parse().unwrap()
}

/// Processor time used so far, in clock ticks of 10 ms (proc_pid_stat(5)).
fn processor_ticks(proxy: &Proxy) -> u64 {
    let path = format!("/proc/{}/stat", proxy.guard.0.id());
    let stat = std::fs::read_to_string(path).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// A response after which the connection is closed, so that it is not kept.
fn ok_and_close(body: &str) -> String {
    ok(body).replacen("\r\n", "\r\nConnection: close\r\n", 1)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

// Time

/// Sends an endless head byte by byte until the other side has answered or closed, and returns
/// its response.
fn trickle_head(client: &mut Client, start: &str) -> Vec<u8> {
    client.send(start);
    let mut sender = client.socket.try_clone().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let sending = thread::spawn(move || {
        while !stopped.load(Ordering::SeqCst) && sender.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    let answer = client.rest_or_reset_after(b"\n");
    stop.store(true, Ordering::SeqCst);
    sending.join().unwrap();
    answer
}

pub fn a_trickle_does_not_stretch_the_head_timeout() {
    let upstream = answering(|_| ok_and_close("fine"));
    let proxy = Proxy::before(upstream, &["--head-timeout", "0.5"]);
    let before = sockets(&proxy);
    for (first, start) in [
        (false, "GET / HTTP/1.1\r\nHost: a\r\nX: "),
        (false, "G"),
        (false, "\r\n"),
        (true, "GET / HTTP/1.1\r\nHost: a\r\nX: "),
    ] {
        let mut client = proxy.connect();
        if first {
            client.send(GET);
            assert_eq!(client.response().text(), "fine");
        }
        let answer = trickle_head(&mut client, start);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{start:?}: {answer}");
        assert_eq!(field(&answer, "connection"), Some("close"));
        client.end_sending();
        client.rest_or_reset();
    }
    // Without a request there is no response.
    let mut silent = proxy.connect();
    assert_eq!(silent.rest(), b"");
    // An incomplete head is no better than none.
    let mut half = proxy.connect();
    half.send("GET / HTTP/1.1\r\nHo");
    assert_eq!(half.response().status(), 408);
    sockets_return_to(&proxy, before + 1);
    drop(half);
    sockets_return_to(&proxy, before);
}

pub fn an_idle_connection_is_closed_after_the_keepalive_timeout() {
    let upstream = answering(|_| ok_and_close("fine"));
    let proxy = Proxy::before(upstream, &["--keepalive-timeout", "0.5"]);
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send(GET);
        assert_eq!(client.response().text(), "fine");
    }
    assert_eq!(client.rest(), b"");
}

pub fn a_stalled_request_body_ends() {
    let (report, ended) = reports();
    let upstream = origin(move |mut client| {
        client.head();
        tell(&report, client.rest_or_reset());
    });
    let proxy = Proxy::before(upstream, &["--response-timeout", "0.5"]);
    for (framing, body) in [
        ("Content-Length: 10", "stuck"),
        ("Transfer-Encoding: chunked", "5\r\nstuck\r\n"),
        ("Transfer-Encoding: chunked", "a\r\nstuck"),
    ] {
        let mut client = proxy.connect();
        client.send(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"
        ));
        let response = client.response();
        assert_eq!(response.status(), 408, "{body:?}");
        assert_eq!(response.field("connection"), Some("close"));
        let arrived = seen(&ended);
        assert!(
            !arrived.ends_with(b"0\r\n\r\n"),
            "a whole body: {arrived:?}"
        );
    }
}

pub fn a_stalled_response_body_ends() {
    let (report, ended) = reports();
    let upstream = origin(move |mut client| {
        let head = client.head();
        client.send(match head.split(' ').nth(1).unwrap() {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nstuck",
            "/chunk" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nstuck",
            _ => "HTTP/1.1 200 OK\r\n\r\nstuck",
        });
        client.rest_or_reset();
        tell(&report, ());
    });
    let proxy = Proxy::before(upstream, &["--response-timeout", "0.5"]);
    for path in ["/length", "/chunk", "/close"] {
        for version in ["1.1", "1.0"] {
            let mut client = proxy.connect();
            client.send(&format!("GET {path} HTTP/{version}\r\nHost: a\r\n\r\n"));
            client.head();
            let body = client.rest_or_reset();
            assert!(!body.ends_with(b"0\r\n\r\n"), "{path}: {body:?}");
            assert!(body.len() < 20, "{path}: {body:?}");
            seen(&ended);
        }
        proxy
            .log
            .wait_for_count(&format!("请求中断: GET {path}: "), 2);
    }
}

/// A body that moves, however slowly, is not stalled.
pub fn a_slow_body_is_not_a_stalled_one() {
    let upstream = origin(|mut client| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n");
        for _ in 0..30 {
            thread::sleep(Duration::from_millis(400));
            client.send("x");
        }
    });
    let proxy = Proxy::before(upstream, &["--response-timeout", "10"]);
    assert_eq!(proxy.get("/").text(), "x".repeat(30));
}

pub fn a_client_that_stops_reading_is_cut_off() {
    const SIZE: usize = 256 << 20;
    let (report, ended) = reports();
    let upstream = origin(move |mut client| {
        let head = client.head();
        client.send(match head.split(' ').nth(1).unwrap() {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\n\r\n",
            "/chunk" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000\r\n",
            _ => "HTTP/1.1 200 OK\r\n\r\n",
        });
        let piece = vec![7; 1 << 20];
        let whole = (0..SIZE >> 20).all(|_| client.try_send(&piece));
        tell(&report, whole);
    });
    let proxy = Proxy::before(upstream, &["--response-timeout", "1"]);
    let before = sockets(&proxy);
    for path in ["/length", "/chunk", "/close"] {
        let mut client = proxy.connect();
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.head();
        assert!(
            !seen(&ended),
            "{path}: the whole response went into buffers"
        );
        sockets_return_to(&proxy, before);
        let rest = client.rest_or_reset();
        assert!(rest.len() < SIZE, "{path}");
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{path}");
    }
}

// Many slow clients

pub fn idle_and_trickling_clients_do_not_delay_others() {
    const IDLE: usize = 2000;
    const TRICKLING: usize = 200;
    const BOUND_KIB: u64 = 48 * 1024;
    let upstream = answering(|_| ok_and_close("fine"));
    let proxy = Proxy::before(upstream, &["--head-timeout", "8"]);
    let before = sockets(&proxy);
    let connect = |_| {
        let stream = TcpStream::connect(proxy.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let since = Instant::now();
    let idle: Vec<TcpStream> = (0..IDLE).map(connect).collect();
    let mut trickling: Vec<TcpStream> = (0..TRICKLING).map(connect).collect();
    for stream in &mut trickling {
        stream.write_all(b"GET /slow HTTP/1.1\r\nX: ").unwrap();
        stream.set_nonblocking(true).unwrap();
    }
    // All of them at once, unless this machine takes longer than their timeout.
    wait_until("all are held", || {
        sockets(&proxy) >= before + IDLE + TRICKLING || since.elapsed().as_secs() >= 8
    });
    for _ in 0..10 {
        assert_eq!(proxy.get("/").text(), "fine");
    }
    let most = resident_kib(&proxy);
    assert!(most < BOUND_KIB, "{most} KiB");
    // A trickle goes on until it is answered. What follows the response is the end.
    let mut answers = vec![Vec::new(); TRICKLING];
    let mut ended = [false; TRICKLING];
    wait_until("every trickle is answered and ended", || {
        for (n, stream) in trickling.iter_mut().enumerate() {
            let mut bytes = [0; 1024];
            match read_some(stream, &mut bytes) {
                Ok(0) => ended[n] = true,
                Ok(read) => answers[n].extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // This fails only if the response has just crossed it.
                    let _ = stream.write(b"x");
                }
                // On a very slow machine the time for lingering is over as well.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => ended[n] = true,
                Err(error) => panic!("trickle {n}: {error}"),
            }
        }
        ended.iter().all(|ended| *ended)
    });
    for answer in &answers {
        assert!(answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    }
    assert_eq!(proxy.get("/").text(), "fine");
    for mut stream in &idle {
        assert_eq!(
            read_some(&mut stream, &mut [0; 16]).unwrap(),
            0,
            "a response without a request"
        );
    }
    // The clients have not closed; the proxy has.
    sockets_return_to(&proxy, before);
    assert_eq!(proxy.get("/").text(), "fine");
    assert!(proxy.peak_kib() < BOUND_KIB, "{} KiB", proxy.peak_kib());
}

// Backpressure

/// How much is sent in total, and how much of it may be in flight while the receiver does not
/// read: the kernel's buffers on both legs, and little more.
const SENT: usize = 96 << 20;
const IN_FLIGHT: usize = 48 << 20;
const PIECE: usize = 64 << 10;

/// Sends the noise of `seed`, chunked or not, and reports once how much was taken before the
/// first write that blocked for a second.
fn send_noise(client: &mut Client, seed: u64, chunked: bool, stuck: &Mutex<Sender<usize>>) {
    let mut noise = Noise::new(seed);
    let mut told = false;
    let mut sent = 0;
    let wait = |client: &Client, time| client.socket.set_write_timeout(Some(time)).unwrap();
    wait(client, Duration::from_secs(1));
    for _ in 0..SENT / PIECE {
        let mut piece = noise.bytes(PIECE);
        if chunked {
            piece.splice(..0, format!("{PIECE:x}\r\n").into_bytes());
            piece.extend(b"\r\n");
        }
        let mut rest = &piece[..];
        while !rest.is_empty() {
            match client.stream.write(rest) {
                Ok(n) => {
                    sent += n;
                    rest = &rest[n..];
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && !told => {
                    told = true;
                    tell(stuck, sent);
                    wait(client, PATIENCE);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("sending: {error}"),
            }
        }
    }
    if !told {
        tell(stuck, sent);
    }
    if chunked {
        client.send("0\r\n\r\n");
    }
}

/// Reads and compares what `send_noise` sent.
fn expect_noise(client: &mut Client, seed: u64, chunked: bool) {
    let mut noise = Noise::new(seed);
    if !chunked {
        for n in 0..SENT / PIECE {
            assert!(client.exactly(PIECE) == noise.bytes(PIECE), "piece {n}");
        }
        return;
    }
    let mut expected = Vec::new();
    let mut arrived = 0;
    loop {
        let chunk = client.chunk();
        if chunk.is_empty() {
            break;
        }
        while expected.len() < chunk.len() {
            expected.extend(noise.bytes(PIECE));
        }
        arrived += chunk.len();
        assert!(expected.drain(..chunk.len()).eq(chunk), "up to {arrived}");
    }
    assert_eq!(client.line(), "");
    assert_eq!(arrived, SENT);
}

fn assert_little_is_held(proxy: &Proxy, in_flight: usize, what: &str) {
    assert!(in_flight < IN_FLIGHT, "{what}: {in_flight} bytes taken");
    let resident = resident_kib(proxy);
    assert!(resident < 32 * 1024, "{what}: {resident} KiB");
}

pub fn a_client_that_stops_reading_stops_the_upstream() {
    let (stuck, taken) = reports();
    let upstream = origin(move |mut client| {
        let head = client.head();
        let chunked = head.starts_with("GET /chunked ");
        match head.split(' ').nth(1).unwrap() {
            "/length" => client.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {SENT}\r\n\r\n"
            )),
            "/chunked" => client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "/close" => client.send("HTTP/1.1 200 OK\r\n\r\n"),
            _ => client.send(SWITCHING),
        }
        send_noise(&mut client, 1, chunked, &stuck);
    });
    let proxy = Proxy::before(upstream, &[]);
    for (path, version, chunked) in [
        ("/length", "1.1", false),
        ("/chunked", "1.1", true),
        ("/close", "1.1", true),
        ("/close", "1.0", false),
    ] {
        let mut client = proxy.connect();
        client.send(&format!("GET {path} HTTP/{version}\r\nHost: a\r\n\r\n"));
        assert_little_is_held(&proxy, seen(&taken), path);
        client.head();
        expect_noise(&mut client, 1, chunked);
    }
    let mut client = proxy.connect();
    client.send(&upgrade_request("/relay"));
    assert_little_is_held(&proxy, seen(&taken), "relay");
    client.head();
    expect_noise(&mut client, 1, false);
}

pub fn an_upstream_that_stops_reading_stops_the_client() {
    let (go_on, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = origin(move |mut client| {
        let head = client.head();
        let upgrading = field(&head, "upgrade").is_some();
        if upgrading {
            client.send(SWITCHING);
        }
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        let chunked = field(&head, "transfer-encoding").is_some();
        expect_noise(&mut client, 2, chunked);
        client.send(if upgrading {
            "all of it"
        } else {
            "HTTP/1.1 204 Fine\r\nConnection: close\r\n\r\n"
        });
    });
    let proxy = Proxy::before(upstream, &[]);
    let (stuck, taken) = reports();
    let stuck = Arc::new(stuck);
    let length = format!("Content-Length: {SENT}");
    for framing in [&length, "Transfer-Encoding: chunked", "Upgrade: websocket"] {
        let mut client = proxy.connect();
        let upgrading = framing.starts_with("Upgrade");
        if upgrading {
            client.upgrade("/");
        } else {
            client.send(&format!("PUT / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        }
        let chunked = framing.starts_with("Transfer");
        let stuck = stuck.clone();
        let sending = thread::spawn(move || {
            send_noise(&mut client, 2, chunked, &stuck);
            client
        });
        assert_little_is_held(&proxy, seen(&taken), framing);
        go_on.send(()).unwrap();
        let mut client = sending.join().expect("everything was sent");
        if upgrading {
            assert_eq!(client.exactly(9), b"all of it");
        } else {
            assert_eq!(client.response().status(), 204);
        }
    }
}

// The system's limits

pub fn without_descriptors_clients_wait_and_are_served_later() {
    let upstream = answering(|_| ok_and_close("fine")).to_string();
    let mut proxy = Proxy::start(&["-u", &upstream, "--log-lang", "en"]);
    // Not earlier: at its start the program would have lowered its limit of connections.
    proxy.limit_descriptors(40);
    let before = sockets(&proxy);
    for _ in 0..2 {
        let paused = proxy.log.text().matches("accepting paused").count();
        let mut early = proxy.connect();
        early.send(GET);
        assert_eq!(early.response().text(), "fine");
        let mut clients: Vec<Client> = (0..60).map(|_| proxy.connect()).collect();
        proxy
            .log
            .wait_for_count("accepting paused: too many open files", paused + 1);
        wait_until("no descriptor is left", || descriptors(&proxy).len() >= 40);
        // No busy loop: a second of pause costs hardly any processor time.
        let used = processor_ticks(&proxy);
        let since = Instant::now();
        thread::sleep(Duration::from_secs(1));
        let used = processor_ticks(&proxy) - used;
        let allowed = 30 * since.elapsed().as_secs().max(1);
        assert!(used < allowed, "{used} ticks in a second");
        // Clients that were accepted are answered, although nothing can be dialled for them.
        early.send(GET);
        assert_eq!(early.response().status(), 502);
        proxy.log.wait_for("[connect]");
        // The others wait, and are served as soon as some leave.
        let mut last = clients.pop().unwrap();
        drop((clients, early));
        sockets_return_to(&proxy, before + 1);
        last.send(GET);
        assert_eq!(last.response().text(), "fine");
        assert_eq!(proxy.get("/").text(), "fine");
        drop(last);
        sockets_return_to(&proxy, before);
    }
    proxy.guard.signal("TERM");
    assert_eq!(proxy.guard.wait().code(), Some(0));
}

// The log

/// The lines of a stream that is read only on demand.
struct Unread {
    stream: ChildStderr,
    bytes: Vec<u8>,
}

impl Unread {
    /// Waits for one line, reading no further.
    fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') {
            assert_eq!(
                read_some(&mut self.stream, &mut byte).unwrap(),
                1,
                "the log ended"
            );
            line.push(byte[0]);
        }
        self.bytes.extend(&line);
        String::from_utf8(line).unwrap()
    }
}

/// Starts the program with a log that is not read after its first lines.
fn start_unread(upstream: SocketAddr, args: &[&str]) -> (Guard, SocketAddr, Unread) {
    let mut command = program();
    command.args(["-b", "127.0.0.1", "-p", "0", "--log-lang", "en"]);
    command.args(["-u", &upstream.to_string()]).args(args);
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut guard = Guard::spawn(&mut command);
    let mut log = Unread {
        stream: guard.0.stderr.take().unwrap(),
        bytes: Vec::new(),
    };
    let listening = log.line();
    let address = listening.trim_end().rsplit(' ').next().unwrap();
    let address = address.parse().unwrap();
    log.line();
    log.line();
    (guard, address, log)
}

pub fn a_log_that_is_not_read_stalls_no_request() {
    const CLIENTS: usize = 8;
    const EACH: usize = 1000;
    let upstream = answering(|_| ok("fine"));
    let (mut guard, address, log) = start_unread(upstream, &["--threads", "2"]);
    let path = format!("/{}", "long".repeat(50));
    let get = move |client: &mut Client| {
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.response().text(), "fine");
    };
    // Two lines for each request: far more than the pipe and the buffer before it hold.
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let get = get.clone();
            thread::spawn(move || {
                let mut client = Client::connect(address);
                for _ in 0..EACH {
                    get(&mut client);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a request was not served");
    }
    let mut requests = CLIENTS * EACH;
    let Unread { stream, bytes } = log;
    let lines = Lines::collect(stream);
    // A thread logs how many lines were dropped with the next line that it writes.
    let dropped = |text: &str| -> usize {
        let counts = text.lines().filter_map(|line| {
            let (_, rest) = line.split_once("the log was not read: ")?;
            let (count, rest) = rest.split_once(' ')?;
            assert_eq!(rest, "lines dropped", "{line}");
            Some(count.parse::<usize>().unwrap())
        });
        counts.sum()
    };
    let promised = |text: &str| text.lines().filter(|l| l.contains(" request")).count();
    let deadline = Instant::now() + PATIENCE;
    loop {
        get(&mut Client::connect(address));
        requests += 1;
        let text = lines.text();
        let (told, written) = (dropped(&text), promised(&text));
        assert!(told + written <= 2 * requests, "{told} + {written}");
        if told > 0 && told + written == 2 * requests {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{requests} requests, {told} lines dropped, {written} there"
        );
    }
    guard.signal("TERM");
    assert_eq!(guard.wait().code(), Some(0));
    lines.wait_for("stopped, 0 connections cut off");
    // Every line is complete: a time, then one of the known lines.
    let text = String::from_utf8(bytes).unwrap() + &lines.text();
    for line in text.lines() {
        let (time, words) = line.split_at_checked(25).expect(line);
        assert!(time.starts_with("20") && time.ends_with("Z "), "{line}");
        let known = [
            "listening on ",
            "upstream: ",
            "route: ",
            "request: GET /long",
            "request done: GET /long",
            "the log was not read: ",
            "SIGTERM: ",
            "stopped, ",
        ];
        assert!(known.iter().any(|start| words.starts_with(start)), "{line}");
        if words.starts_with("request: ") {
            assert!(words.ends_with("long (Host: a)"), "{line}");
        }
        if words.starts_with("request done: ") {
            let end = "long -> 200 (4 bytes, N ms, 127.0.0.1)";
            assert!(without_time(words).ends_with(end), "{line}");
        }
    }
}

pub fn a_closed_log_does_no_harm() {
    let upstream = answering(|_| ok("fine")).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guard = Guard::spawn(&mut inheriting(&listener, "exec 2>&-;", &["-u", &upstream]));
    let mut client = Client::connect(listener.local_addr().unwrap());
    for _ in 0..1000 {
        client.send(GET);
        assert_eq!(client.response().text(), "fine");
    }
    // The descriptor of the log was not reused for a socket.
    let second = format!("/proc/{}/fd/2", guard.0.id());
    let second = std::fs::read_link(second).unwrap();
    assert_eq!(second.to_str(), Some("/dev/null"));
    guard.signal("TERM");
    assert_eq!(guard.wait().code(), Some(0));
}

// Resets by the upstream and by a proxy on the way

pub fn an_upstream_that_resets_before_its_response_is_502() {
    let at_once = origin(Client::reset);
    let proxy = Proxy::before(at_once, &[]);
    assert_eq!(proxy.get("/").status(), 502);
    assert_eq!(proxy.fetch(&upgrade_request("/")).status(), 502);
    proxy.log.wait_for_count("请求失败", 2);

    let upstream = origin(|mut client| {
        let head = client.head();
        match head.split(' ').nth(1).unwrap() {
            "/head" => {}
            "/status-line" => client.send("HTTP/1.1 20"),
            "/fields" => client.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nDa"),
            "/interim" => client.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
            "/switch" => client.send("HTTP/1.1 101 Switching Protocols\r\nUpgr"),
            _ => {
                client.send(&ok_and_close("fine"));
                client.rest_or_reset();
            }
        }
        client.reset();
    });
    let proxy = Proxy::before(upstream, &[]);
    for request in [
        "GET /head HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /status-line HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /fields HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /interim HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD /head HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /head HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        &upgrade_request("/head"),
        &upgrade_request("/switch"),
    ] {
        let mut client = proxy.connect();
        client.send(request);
        let method = request.split(' ').next().unwrap();
        let mut response = client.response_to(method);
        if response.status() == 103 {
            response = client.response_to(method);
        }
        assert_eq!(response.status(), 502, "{request}");
        assert_eq!(proxy.get("/fine").text(), "fine");
    }
}

pub fn an_upstream_that_resets_within_its_body_cuts_the_client() {
    let script = |mut client: Client, go_on: &Mutex<Receiver<()>>| {
        let head = client.head();
        client.send(match head.split(' ').nth(1).unwrap() {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            "/chunk" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
            "/chunks" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "/trailer" => {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nX: y\r\n"
            }
            _ => "HTTP/1.1 200 OK\r\n\r\nhalf",
        });
        // Not before the client has it: a reset overtakes bytes in flight.
        go_on.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        client.reset();
    };
    for tls in ["off", "on"] {
        let (go_on, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let upstream = match tls {
            "on" => tls_origin("origin.test", move |client| script(client, &wait)),
            _ => origin(move |client| script(client, &wait)),
        };
        let proxy = Proxy::before(upstream, &["--tls", tls]);
        for path in ["/length", "/chunk", "/chunks", "/trailer", "/close"] {
            for version in ["1.1", "1.0"] {
                let mut client = proxy.connect();
                client.send(&format!("GET {path} HTTP/{version}\r\nHost: a\r\n\r\n"));
                let head = client.head();
                let chunked = field(&head, "transfer-encoding").is_some();
                if chunked {
                    assert_eq!(client.line(), "4");
                }
                assert_eq!(client.exactly(4), b"half");
                go_on.send(()).unwrap();
                let mut rest = Vec::new();
                let end = client.stream.read_to_end(&mut rest);
                assert!(!rest.ends_with(b"0\r\n\r\n"), "{path}: {rest:?}");
                // Without a length or chunks only a reset shows that it is incomplete.
                if !chunked && field(&head, "content-length").is_none() {
                    assert!(end.is_err(), "{path} {version}: a clean end");
                }
            }
            proxy
                .log
                .wait_for_count(&format!("请求中断: GET {path}: "), 2);
        }
    }
}

pub fn an_upstream_that_resets_during_an_upload_ends_it() {
    let upstream = origin(|mut client| {
        let head = client.head();
        if head.starts_with("POST") {
            client.exactly(100_000);
            return client.reset();
        }
        client.send(&ok_and_close("fine"));
    });
    let proxy = Proxy::before(upstream, &[]);
    for framing in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
        let mut client = proxy.connect();
        client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        if framing.ends_with("chunked") {
            client.send("5f5e100\r\n");
        }
        let mut sender = client.socket.try_clone().unwrap();
        let sending = thread::spawn(move || {
            let piece = [7; 100_000];
            (0..1000).all(|_| sender.write_all(&piece).is_ok())
        });
        // The response arrives although the client goes on sending: no reset destroys it.
        assert_eq!(client.response().status(), 502);
        drop(client);
        sending.join().unwrap();
        assert_eq!(proxy.get("/").text(), "fine");
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    Reset,
    Close,
    Silence,
}

/// A proxy on the route: its flag, and the length of each message that it gets (0 for a message
/// head) with its answer.
struct Hop {
    flag: &'static str,
    login: &'static str,
    answers: &'static [(usize, &'static [u8])],
}

const HOPS: [Hop; 3] = [
    Hop {
        flag: "--socks-proxy",
        login: "",
        answers: &[(3, b"\x05\x00"), (10, SOCKS_GRANTED)],
    },
    Hop {
        flag: "--socks-proxy",
        login: "user:pass@",
        answers: &[
            (4, b"\x05\x02"),
            (11, b"\x01\x00"),
            // A name as the bound address, as from dante.
            (10, b"\x05\x00\x00\x03\x04here\x04\x38"),
        ],
    },
    Hop {
        flag: "--http-proxy",
        login: "user:pass@",
        answers: &[(
            0,
            b"HTTP/1.1 200 Connection established\r\nProxy-Agent: x\r\n\r\n",
        )],
    },
];

const SOCKS_GRANTED: &[u8] = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38";

impl Hop {
    /// Sends the answers byte by byte, for as long as `say` returns true.
    fn play(&self, client: &mut Client, mut say: impl FnMut(&mut Client, u8) -> bool) {
        for (expected, answer) in self.answers {
            match expected {
                0 => drop(client.head()),
                length => drop(client.exactly(*length)),
            }
            for byte in *answer {
                if !say(client, *byte) {
                    return;
                }
            }
        }
    }

    fn url(&self, address: SocketAddr) -> String {
        format!("{}{address}", self.login)
    }
}

pub fn a_proxy_that_ends_after_any_byte_of_its_answer_is_an_error() {
    for hop in &HOPS {
        let length: usize = hop.answers.iter().map(|(_, answer)| answer.len()).sum();
        for ends in [Ends::Reset, Ends::Close, Ends::Silence] {
            let connections = Arc::new(AtomicUsize::new(0));
            let accepted = connections.clone();
            let address = origin(move |mut client| {
                let mut left = accepted.fetch_add(1, Ordering::SeqCst);
                if left > 0 {
                    hop.play(&mut client, |client, byte| {
                        left -= 1;
                        client.try_send(&[byte]) && left > 0
                    });
                }
                match ends {
                    Ends::Reset => client.reset(),
                    Ends::Close => {}
                    Ends::Silence => drop(client.rest_or_reset()),
                }
            });
            let url = hop.url(address);
            let times = ["--connect-timeout", "1", "--response-timeout", "1"];
            // Where the proxy ends the connection, no timeout may do so.
            let times: &[&str] = if ends == Ends::Silence { &times } else { &[] };
            let proxy = Proxy::start(&[&["-u", "127.0.0.1:9", hop.flag, &url][..], times].concat());
            // One request for each length, including the whole answer. Silence takes time, so
            // those wait together. A connection that ends while others are dialled would be
            // taken for a refusal under load, and dialled again.
            let (expected, together) = match ends {
                Ends::Silence => (504, length + 1),
                Ends::Reset | Ends::Close => (502, 1),
            };
            for _ in 0..(length + 1) / together {
                let mut clients: Vec<Client> = (0..together).map(|_| proxy.connect()).collect();
                for client in &mut clients {
                    client.send(GET);
                }
                for client in &mut clients {
                    let status = client.response().status();
                    assert_eq!(status, expected, "{url} {ends:?}:\n{}", proxy.log.text());
                }
            }
            assert_eq!(connections.load(Ordering::SeqCst), length + 1);
        }
    }
}

pub fn a_proxys_answer_may_come_byte_by_byte() {
    for hop in &HOPS {
        let upstream = origin(echo);
        let address = origin(move |mut client| {
            hop.play(&mut client, |client, byte| {
                client.send_bytes(&[byte]);
                // Most likely in separate segments.
                thread::sleep(Duration::from_millis(2));
                true
            });
            splice(client, Client::connect(upstream));
        });
        let url = hop.url(address);
        let proxy = Proxy::start(&["-u", "127.0.0.1:9", hop.flag, &url]);
        assert_eq!(proxy.get("/p").text(), "path=/p host=a.example\n");
        let mut client = proxy.connect();
        client.upgrade("/");
        client.send_bytes(&frame(b"through", MASK));
        assert_eq!(client.frame().unwrap(), b"through");
    }
}

// Clients that leave

/// An origin for clients that leave: reports when a request has arrived and when its own
/// connection has ended.
fn left_alone() -> (SocketAddr, Receiver<()>, Receiver<()>) {
    let (arrived, arrivals) = reports();
    let (ended, ends) = reports();
    let upstream = origin(move |mut client| {
        let head = client.head();
        tell(&arrived, ());
        match head.split(' ').nth(1).unwrap() {
            "/download" => {
                client.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
                let piece = [7; 100_000];
                while client.try_send(&piece) {}
            }
            "/relay" => {
                client.send(SWITCHING);
                client.rest_or_reset();
            }
            _ => drop(client.rest_or_reset()),
        }
        drop(client);
        tell(&ended, ());
    });
    (upstream, arrivals, ends)
}

pub fn a_client_that_resets_leaves_nothing_behind() {
    let (upstream, arrivals, ends) = left_alone();
    // Short, so that an exchange whose reset is not noticed ends as well.
    let proxy = Proxy::before(upstream, &["--response-timeout", "2"]);
    let before = sockets(&proxy);
    let upload = "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nstart";
    let relay = upgrade_request("/relay");
    let switch = upgrade_request("/no-switch");
    for (request, answered) in [
        ("GET /download HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("GET /download HTTP/1.0\r\n\r\n", true),
        (upload, false),
        (&relay, true),
        ("GET /no-response HTTP/1.1\r\nHost: a\r\n\r\n", false),
        (&switch, false),
    ] {
        let clients: Vec<Client> = (0..5)
            .map(|_| {
                let mut client = proxy.connect();
                client.send(request);
                client
            })
            .collect();
        // The request of a client that is gone would not be sent.
        for _ in &clients {
            seen(&arrivals);
        }
        for mut client in clients {
            if answered {
                client.head();
            }
            client.reset();
        }
        for _ in 0..5 {
            ends.recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("the upstream's side stays: {request}"));
        }
        sockets_return_to(&proxy, before);
    }
}

// Whole processes that die

/// Another simple-proxy is the peer that is killed: first as the upstream of the one under test,
/// then as its client.
pub fn a_killed_peer_counts_as_closed() {
    let (arrived, arrivals) = reports();
    let upstream = origin(move |mut client| {
        let head = client.head();
        tell(&arrived, ());
        match head.split(' ').nth(1).unwrap() {
            "/body" => client.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
            "/relay" => client.send(SWITCHING),
            _ => {}
        }
        client.rest_or_reset();
        tell(&arrived, ());
    });
    let requests = [
        "GET /head HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /body HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        upgrade_request("/relay"),
    ];
    let open = |proxy: &Proxy| -> Vec<Client> {
        let mut clients: Vec<Client> = requests.iter().map(|_| proxy.connect()).collect();
        for (client, request) in clients.iter_mut().zip(&requests) {
            client.send(request);
            seen(&arrivals);
        }
        for client in &mut clients[1..] {
            client.head();
        }
        assert_eq!(clients[1].exactly(4), b"half");
        clients
    };

    let peer = Proxy::before(upstream, &[]);
    let proxy = Proxy::before(peer.address, &[]);
    let mut clients = open(&proxy);
    peer.guard.signal("KILL");
    assert_eq!(clients[0].response().status(), 502);
    assert_eq!(clients[1].rest_or_reset(), b"");
    assert_eq!(clients[2].rest_or_reset(), b"");
    drop(clients);
    proxy.log.wait_for("WebSocket 连接关闭");
    for _ in &requests {
        seen(&arrivals);
    }
    assert_eq!(proxy.get("/").status(), 502);
    drop(peer);

    let proxy = Proxy::before(upstream, &["--response-timeout", "3"]);
    let before = sockets(&proxy);
    let mut idle = proxy.connect();
    let peer = Proxy::before(proxy.address, &[]);
    let _clients = open(&peer);
    peer.guard.signal("KILL");
    for _ in &requests {
        seen(&arrivals);
    }
    idle.send("GET /head HTTP/1.0\r\n\r\n");
    assert_eq!(idle.response().status(), 504);
    drop(idle);
    sockets_return_to(&proxy, before);
}

/// The socket of a descriptor in another process (pidfd_getfd(2)).
fn borrow_socket(of: &Proxy, descriptor: i32) -> std::io::Result<socket2::Socket> {
    use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags};
    let pid = Pid::from_child(&of.guard.0);
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let socket = pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())?;
    Ok(socket.into())
}

/// A peer that has vanished silently is found only by keepalive: 60 s of silence, then six
/// probes 10 s apart. No test can wait for that; the kernel is asked instead.
pub fn keepalive_is_set_on_both_legs() {
    let (report, upstreams) = reports();
    let upstream = origin(move |mut client| {
        let head = client.head();
        if field(&head, "upgrade").is_none() {
            return client.send(&ok_and_close("begun"));
        }
        tell(&report, client.socket.peer_addr().unwrap());
        client.send(SWITCHING);
        client.rest_or_reset();
    });
    let proxy = Proxy::before(upstream, &["--threads", "1"]);
    // The program listens before its thread begins; by now the thread has begun.
    assert_eq!(proxy.get("/").text(), "begun");
    let mut client = proxy.connect();
    client.upgrade("/");
    let own = client.socket.local_addr().unwrap();
    let legs = [(proxy.address, own), (seen(&upstreams), upstream)];
    let mut found = 0;
    let folder = format!("/proc/{}/fd", proxy.guard.0.id());
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name();
        let descriptor = name.to_str().unwrap().parse().unwrap();
        let socket = match borrow_socket(&proxy, descriptor) {
            Ok(socket) => socket,
            Err(error) => panic!("descriptor {descriptor}: {error}"),
        };
        let ends = (socket.local_addr(), socket.peer_addr());
        let (Ok(local), Ok(peer)) = ends else {
            continue;
        };
        let (Some(local), Some(peer)) = (local.as_socket(), peer.as_socket()) else {
            continue;
        };
        if !legs.contains(&(local, peer)) {
            continue;
        }
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(60)
        );
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(10)
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 6);
        assert!(socket.tcp_nodelay().unwrap());
        found += 1;
    }
    assert_eq!(found, 2, "one leg was not found");
}

// The end

pub fn a_drain_under_load_truncates_no_response() {
    const CLIENTS: usize = 50;
    const RELAYS: usize = 20;
    let body = Arc::new(Noise::new(5).bytes(300_000));
    let served = body.clone();
    let upstream = origin(move |mut client| {
        while let Some(head) = client.try_head() {
            if field(&head, "upgrade").is_some() {
                client.send(SWITCHING);
                while let Some(payload) = client.frame() {
                    client.try_send(&frame(&payload, None));
                }
                client.try_send(&[0x88, 0]);
                return;
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                served.len()
            );
            client.try_send(head.as_bytes());
            // In pieces, so that a response is being sent at any time.
            for piece in served.chunks(50_000) {
                client.try_send(piece);
            }
        }
    });
    let mut proxy = Proxy::before(upstream, &["--drain-timeout", "300"]);
    let served_so_far = Arc::new(AtomicUsize::new(0));
    let told_to_close = Arc::new(AtomicUsize::new(0));
    let ending = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (mut client, body) = (proxy.connect(), body.clone());
            let (served, told, ending) =
                (served_so_far.clone(), told_to_close.clone(), ending.clone());
            thread::spawn(move || loop {
                let sent = client.try_send(GET.as_bytes());
                // An end between two responses loses nothing; one within a response does.
                let mut start = [0; 1];
                match read_some(&mut client.stream, &mut start) {
                    Ok(1..) if sent => assert_eq!(&start, b"H"),
                    Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                        panic!("no end and no answer: {error}")
                    }
                    _ => {
                        assert!(ending.load(Ordering::SeqCst), "an end before the end");
                        return;
                    }
                }
                let response = client.response();
                assert!(
                    response.head.starts_with("TTP/1.1 200 "),
                    "{}",
                    response.head
                );
                assert!(response.body == *body);
                served.fetch_add(1, Ordering::SeqCst);
                if response.field("connection") == Some("close") {
                    told.fetch_add(1, Ordering::SeqCst);
                    assert!(client.is_closed());
                    return;
                }
            })
        })
        .collect();
    let draining = Arc::new(AtomicBool::new(false));
    let relays: Vec<_> = (0..RELAYS)
        .map(|n| {
            let mut client = proxy.connect();
            client.upgrade("/");
            let draining = draining.clone();
            thread::spawn(move || {
                let mut noise = Noise::new(n as u64);
                let mut rounds_left = 20;
                while rounds_left > 0 {
                    let message = noise.bytes(10_000);
                    client.send_bytes(&frame(&message, MASK));
                    assert!(client.frame().as_ref() == Some(&message));
                    if draining.load(Ordering::SeqCst) {
                        rounds_left -= 1;
                    }
                }
                // A close frame, and its answer.
                client.send_bytes(&[0x88, 0x80, 0, 0, 0, 0]);
                assert!(client.frame().is_none());
            })
        })
        .collect();
    wait_until("everyone is busy", || {
        served_so_far.load(Ordering::SeqCst) > 2 * CLIENTS
    });
    ending.store(true, Ordering::SeqCst);
    proxy.guard.signal("TERM");
    proxy.log.wait_for("收到 SIGTERM");
    draining.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("a response was cut");
    }
    assert!(told_to_close.load(Ordering::SeqCst) > 0);
    for relay in relays {
        relay.join().expect("a relay was cut");
    }
    assert_eq!(proxy.guard.wait().code(), Some(0));
    proxy.log.wait_for("已停止，中断 0 个连接");
    assert!(
        !proxy.log.text().contains("请求中断"),
        "{}",
        proxy.log.text()
    );
}

// TLS

pub fn many_tls_handshakes_at_once_do_not_delay_others() {
    const AT_ONCE: usize = 64;
    let upstream = tls_origin("origin.test", |mut client| {
        while client.try_head().is_some() && client.try_send(ok("secure").as_bytes()) {}
    });
    let proxy = Proxy::before(upstream, &["--tls", "on", "--threads", "1"]);
    let mut ordinary = proxy.connect();
    ordinary.send(GET);
    assert_eq!(ordinary.response().text(), "secure");
    let mut clients: Vec<Client> = (0..AT_ONCE).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    for _ in 0..3 {
        ordinary.send(GET);
        assert_eq!(ordinary.response().text(), "secure");
    }
    for client in &mut clients {
        assert_eq!(client.response().text(), "secure");
    }
}
