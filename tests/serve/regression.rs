//! Fixed bugs, each test named after the symptom.

use libtest_mimic::Trial;
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        a_socks_proxy_that_takes_one_segment_for_one_message,
        a_client_that_resets_while_it_waits_frees_the_upstream,
        a_long_log_line_does_not_block,
        an_upstream_that_does_not_read_an_upload_is_504,
        stalled_downloads_leave_descriptors_for_others,
        a_log_reader_that_stops_at_any_moment_blocks_no_thread,
        a_client_that_does_not_read_generated_responses_is_closed,
        a_stuck_relay_notices_the_end_of_the_sender,
        bytes_after_a_last_request_do_not_truncate_its_response,
        empty_lines_without_end_are_refused,
        connection_options_without_end_are_refused,
        part_of_a_record_disqualifies_a_kept_connection,
        interim_responses_to_connect_are_skipped,
        an_empty_line_after_a_request_does_not_begin_another,
        a_length_of_zero_is_no_body,
        an_answer_that_came_while_the_process_was_stopped_is_delivered,
        an_upstream_that_does_not_answer_an_expectation_is_504,
        the_first_log_lines_appear_even_under_load,
        the_reason_phrase_of_a_proxy_is_only_logged,
        a_broken_record_after_a_full_one_does_not_end_a_body,
        connections_cut_off_at_shutdown_are_logged,
    ]
}

/// A proxy that reads a message with one `read`, as microsocks does, answered "general failure"
/// because the request was sent field by field.
pub fn a_socks_proxy_that_takes_one_segment_for_one_message() {
    let socks = origin(|mut client| {
        let mut message = [0; 512];
        let n = read_some(&mut client.stream, &mut message).unwrap();
        assert_eq!(message[..n], [5, 1, 0]);
        client.send_bytes(&[5, 0]);
        let n = read_some(&mut client.stream, &mut message).unwrap();
        let whole = message[..n] == *b"\x05\x01\x00\x03\x0fno-such.invalid\x00\x50";
        let reply = if whole { 0 } else { 1 };
        client.send_bytes(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]);
        client.head();
        client.send(&ok("one segment"));
    });
    let proxy = Proxy::start(&["-u", "no-such.invalid:80", "-s", &socks.to_string()]);
    assert_eq!(proxy.get("/").text(), "one segment");
}

/// The upstream connection of a client that was gone was kept until the response timeout.
pub fn a_client_that_resets_while_it_waits_frees_the_upstream() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        upgrade_request("/"),
    ] {
        let (report, seen) = std::sync::mpsc::channel();
        let report = std::sync::Mutex::new(report);
        let upstream = origin(move |mut client| {
            client.head();
            report.lock().unwrap().send("asked").unwrap();
            client.rest_or_reset();
            report.lock().unwrap().send("freed").unwrap();
        });
        let proxy = Proxy::before(upstream, &["--response-timeout", "3600"]);
        let mut client = proxy.connect();
        client.send(&request);
        assert_eq!(seen.recv_timeout(PATIENCE), Ok("asked"));
        client.reset();
        assert_eq!(seen.recv_timeout(PATIENCE / 2), Ok("freed"));
        proxy.log.wait_for("client: connection reset by peer");
    }
}

/// A line longer than PIPE_BUF blocked the thread when the log's reader was slow.
pub fn a_long_log_line_does_not_block() {
    let upstream = answering(|_| ok("fine"));
    let mut command = program();
    command.args(["-b", "127.0.0.1", "-p", "0", "-u", &upstream.to_string()]);
    command.stderr(std::process::Stdio::piped());
    let mut guard = Guard::spawn(&mut command);
    let mut log = guard.0.stderr.take().unwrap();
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut log, &mut byte).unwrap();
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).unwrap();
    let address = line.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
    let mut client = Client::connect(address);
    let long = "x".repeat(2000);
    let request = format!("{long} /{long} HTTP/1.1\r\nHost: {long}\r\n\r\n");
    for _ in 0..200 {
        client.send(&request);
        assert_eq!(client.response().text(), "fine");
    }
}

/// An upstream that took no more of an upload was blamed on the client, with a 408.
pub fn an_upstream_that_does_not_read_an_upload_is_504() {
    let upstream = origin(|mut client| {
        client.head();
        std::thread::park_timeout(PATIENCE);
    });
    let proxy = Proxy::before(upstream, &["--response-timeout", "1"]);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    let mut sender = client.socket.try_clone().unwrap();
    let sending =
        std::thread::spawn(
            move || {
                while std::io::Write::write_all(&mut sender, &[1; 100_000]).is_ok() {}
            },
        );
    assert_eq!(client.response().status(), 504);
    client.socket.shutdown(std::net::Shutdown::Both).unwrap();
    sending.join().unwrap();
}

/// Pipes in which bytes were stuck took the descriptors of other clients.
pub fn stalled_downloads_leave_descriptors_for_others() {
    let upstream = origin(|mut client| {
        let head = client.head();
        if head.starts_with("GET /big ") {
            client.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                1 << 30
            ));
            while client.try_send(&[7; 1 << 20]) {}
        } else {
            client.send(&ok("fine"));
        }
    });
    let upstream = upstream.to_string();
    let args = ["--threads", "2", "-u", &upstream];
    let proxy = Proxy::spawn(&mut behind_shell("ulimit -n 200;", &args));
    let mut stalled: Vec<Client> = (0..40).map(|_| proxy.connect()).collect();
    for client in &mut stalled {
        client.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
        client.head();
        // Long enough to come in bulk.
        client.skip(4 << 20);
    }
    assert_eq!(proxy.get("/").text(), "fine");
}

/// Two threads that both found the log writable wrote to it, and one of them blocked for as long
/// as the log was not read.
pub fn a_log_reader_that_stops_at_any_moment_blocks_no_thread() {
    let upstream = answering(|_| ok("fine")).to_string();
    let mut command = program();
    command.args(["-b", "127.0.0.1", "-p", "0", "-u", &upstream]);
    command.args(["--threads", "4", "-v", "--drain-timeout", "1"]);
    command.stderr(std::process::Stdio::piped());
    let mut guard = Guard::spawn(&mut command);
    let mut log = guard.0.stderr.take().unwrap();
    let mut lines = Vec::new();
    let mut room = [0; 4096];
    let address: SocketAddr = loop {
        let n = read_some(&mut log, &mut room).unwrap();
        lines.extend_from_slice(&room[..n]);
        let text = String::from_utf8_lossy(&lines);
        let found = text.lines().find_map(|line| line.split_once("开始监听: "));
        if let (Some((_, address)), true) = (found, text.ends_with('\n')) {
            break address.parse().unwrap();
        }
    };
    // The smaller the pipe, the more often it is full.
    rustix::pipe::fcntl_setpipe_size(&log, 4096).unwrap();
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(address)).collect();
    for _ in 0..4000 {
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        for client in &mut clients {
            assert_eq!(client.response().text(), "fine");
        }
        let _ = read_some(&mut log, &mut room).unwrap();
    }
    // The last lines of the log are not read either.
    drop(clients);
    guard.signal("TERM");
    assert_eq!(guard.wait().code(), Some(0));
}

/// Sends until writes block; returns how many succeeded.
fn send_until_stuck(client: &mut Client, bytes: &[u8]) -> usize {
    let timeout = Some(Duration::from_millis(500));
    client.socket.set_write_timeout(timeout).unwrap();
    let mut sent = 0;
    while client.try_send(bytes) {
        sent += 1;
    }
    client.socket.set_write_timeout(Some(PATIENCE)).unwrap();
    sent
}

/// A client that pipelined and did not read held its connection forever when the responses were
/// generated by the proxy.
pub fn a_client_that_does_not_read_generated_responses_is_closed() {
    for path in ["/", "/healthz"] {
        let args = ["--health-path", "/healthz", "--head-timeout", "1"];
        let proxy = Proxy::before(dead_address(), &args);
        let before = sockets(&proxy);
        let mut client = proxy.connect();
        let socket = socket2::SockRef::from(&client.socket);
        socket.set_recv_buffer_size(4096).unwrap();
        let requests = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(500);
        send_until_stuck(&mut client, requests.as_bytes());
        sockets_return_to(&proxy, before);
    }
}

/// A relay whose upstream did not read did not notice that its client was gone, nor the reverse.
pub fn a_stuck_relay_notices_the_end_of_the_sender() {
    let upstream = origin(|mut client| {
        let head = client.head();
        client.send(SWITCHING);
        if head.starts_with("GET /takes-nothing ") {
            thread::park_timeout(PATIENCE * 2);
        }
        send_until_stuck(&mut client, &[7; 65_536]);
        client.reset();
    });
    let proxy = Proxy::before(upstream, &[]);
    let before = sockets(&proxy);
    // What is in the client's send buffer is sent before its FIN.
    let connect = || {
        let client = proxy.connect();
        let socket = socket2::SockRef::from(&client.socket);
        socket.set_send_buffer_size(65_536).unwrap();
        client
    };
    let mut client = connect();
    client.upgrade("/takes-nothing");
    let sent = send_until_stuck(&mut client, &[7; 65_536]);
    client.reset();
    // The FIN arrives only while there is room for the data before it, and the kernel may give
    // this connection less.
    let mut client = connect();
    client.upgrade("/takes-nothing");
    for _ in 0..sent / 4 {
        client.send_bytes(&[7; 65_536]);
    }
    drop(client);
    let mut client = proxy.connect();
    client.upgrade("/resets");
    sockets_return_to(&proxy, before);
}

/// Bytes that a client had sent later than its last request destroyed the end of the response.
pub fn bytes_after_a_last_request_do_not_truncate_its_response() {
    const LENGTH: usize = 2_000_000;
    let (go_on, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = origin(move |mut client| {
        client.head();
        client.exactly(3);
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        client.send(&ok(&"x".repeat(LENGTH)));
        client.rest_or_reset();
    });
    let proxy = Proxy::before(upstream, &[]);
    for version in ["1.1", "1.0"] {
        let mut client = proxy.connect();
        let socket = socket2::SockRef::from(&client.socket);
        // With a smaller window the kernel waits 200 ms for each.
        socket.set_recv_buffer_size(65_536).unwrap();
        client.send(&format!(
            "POST / HTTP/{version}\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
        ));
        // Only then do the later bytes come in another segment.
        proxy.log.wait_for_count("===收到请求开始===", 1);
        thread::sleep(Duration::from_millis(100));
        client.send("\r\n");
        go_on.send(()).unwrap();
        thread::sleep(Duration::from_millis(300));
        assert_eq!(client.response().body.len(), LENGTH);
    }
}

/// Empty lines before a request were skipped without end, and without yielding to other tasks.
pub fn empty_lines_without_end_are_refused() {
    let proxy = Proxy::before(dead_address(), &[]);
    let mut client = proxy.connect();
    let mut sender = client.socket.try_clone().unwrap();
    let sending = thread::spawn(move || while sender.write_all(b"\r\n").is_ok() {});
    assert_eq!(client.response().status(), 400);
    client.socket.shutdown(std::net::Shutdown::Both).unwrap();
    sending.join().unwrap();
}

/// Each Connection option was compared with each field.
pub fn connection_options_without_end_are_refused() {
    let many = "a,".repeat(1000);
    let upstream = answering(move |head| {
        let fields = match head.starts_with("GET /many ") {
            true => format!("Connection: {many}\r\n"),
            false => String::new(),
        };
        ok("fine").replacen("\r\n", &format!("\r\n{fields}"), 1)
    });
    let proxy = Proxy::before(upstream, &[]);
    let request = |options: usize| {
        let options = "b,".repeat(options);
        proxy.fetch(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: {options}\r\n\r\n"
        ))
    };
    assert_eq!(request(32).status(), 200);
    assert_eq!(request(33).status(), 400);
    assert_eq!(proxy.get("/many").status(), 502);
}

/// A socket that can hold back what is written to it.
struct Holding {
    socket: TcpStream,
    held: Rc<RefCell<Option<Vec<u8>>>>,
}

impl Read for Holding {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        read_some(&mut self.socket, room)
    }
}

impl Write for Holding {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut *self.held.borrow_mut() {
            Some(held) => held.extend_from_slice(bytes),
            None => self.socket.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Part of a record that arrived while a TLS connection was idle was not noticed, and the rest
/// of it became the response to the next client.
pub fn part_of_a_record_disqualifies_a_kept_connection() {
    let acceptor = Certificate::new("origin.test").acceptor();
    let (report, sent) = channel();
    let report = Mutex::new(report);
    let first = AtomicUsize::new(0);
    let upstream = origin(move |client| {
        let is_first = first.fetch_add(1, Ordering::SeqCst) == 0;
        let held = Rc::new(RefCell::new(None));
        let mut socket = client.socket.try_clone().unwrap();
        let holding = Holding {
            socket: socket.try_clone().unwrap(),
            held: held.clone(),
        };
        let Ok(mut tls) = acceptor.accept(holding) else {
            return;
        };
        let mut room = [0; 4096];
        let _ = tls.read(&mut room);
        tls.write_all(ok("fine").as_bytes()).unwrap();
        if !is_first {
            return;
        }
        *held.borrow_mut() = Some(Vec::new());
        tls.write_all(ok("POISON").as_bytes()).unwrap();
        let record = held.borrow_mut().take().unwrap();
        let (start, rest) = record.split_at(10);
        socket.write_all(start).unwrap();
        report.lock().unwrap().send(()).unwrap();
        let _ = tls.read(&mut room);
        let _ = socket.write_all(rest);
    });
    let args = ["--tls", "on", "--threads", "1"];
    let proxy = Proxy::before(upstream, &args);
    assert_eq!(proxy.get("/1").text(), "fine");
    sent.recv_timeout(PATIENCE).unwrap();
    assert_eq!(proxy.get("/2").text(), "fine");
}

/// An interim response to CONNECT was taken for a refusal.
pub fn interim_responses_to_connect_are_skipped() {
    let proxied = |interim: usize| {
        let proxy = origin(move |mut client| {
            client.head();
            client.send(&"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n".repeat(interim));
            client.send("HTTP/1.1 200 OK\r\n\r\n");
            if client.try_head().is_some() {
                client.send(&ok("fine"));
            }
        });
        let proxy = proxy.to_string();
        Proxy::start(&["-u", "no-such.invalid:80", "--http-proxy", &proxy]).get("/")
    };
    assert_eq!(proxied(2).text(), "fine");
    assert_eq!(proxied(9).status(), 502);
}

/// An empty line after a request was taken for the beginning of the next, which was answered
/// with 408.
pub fn an_empty_line_after_a_request_does_not_begin_another() {
    let upstream = answering(|_| ok("fine"));
    let args = ["--head-timeout", "3", "--drain-timeout", "60"];
    let proxy = Proxy::before(upstream, &args);
    let mut together = proxy.connect();
    let mut apart = proxy.connect();
    together.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n");
    apart.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    for client in [&mut together, &mut apart] {
        assert_eq!(client.response().text(), "fine");
    }
    apart.send("\r\n");
    thread::sleep(Duration::from_millis(3500));
    for client in [&mut together, &mut apart] {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().text(), "fine");
        client.send("\r\n");
    }
    // Nor does it keep the connection open when the program drains.
    let start = Instant::now();
    proxy.guard.signal("TERM");
    assert!(together.is_closed() && apart.is_closed());
    assert!(start.elapsed() < Duration::from_secs(30));
}

/// An idempotent request without a body was not sent again if it had a Content-Length of 0.
pub fn a_length_of_zero_is_no_body() {
    let connections = AtomicUsize::new(0);
    let upstream = origin(move |mut client| {
        let number = connections.fetch_add(1, Ordering::SeqCst);
        while client.try_head().is_some() {
            client.send(&ok(&format!("connection {number}")));
            if number == 0 {
                client.try_head();
                return;
            }
        }
    });
    let proxy = Proxy::before(upstream, &["--threads", "1"]);
    assert_eq!(proxy.get("/").text(), "connection 0");
    let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(proxy.fetch(put).text(), "connection 1");
}

/// A process that had been stopped for a while found its timers expired before it polled its
/// sockets.
pub fn an_answer_that_came_while_the_process_was_stopped_is_delivered() {
    let (asked, was_asked) = channel();
    let asked = Mutex::new(asked);
    let (go_on, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = origin(move |mut client| {
        while client.try_head().is_some() {
            asked.lock().unwrap().send(()).unwrap();
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            client.send(&ok("fine"));
        }
    });
    let proxy = Proxy::before(upstream, &["--response-timeout", "2"]);
    for _ in 0..3 {
        let mut clients: Vec<Client> = (0..40).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        for _ in &clients {
            was_asked.recv_timeout(PATIENCE).unwrap();
        }
        proxy.guard.signal("STOP");
        for _ in &clients {
            go_on.send(()).unwrap();
        }
        thread::sleep(Duration::from_millis(2500));
        proxy.guard.signal("CONT");
        let answers = clients.iter_mut().map(|client| client.response().status());
        assert_eq!(answers.collect::<Vec<_>>(), [200; 40]);
    }
}

/// A client that rightly waited for a 100 was answered with 408.
pub fn an_upstream_that_does_not_answer_an_expectation_is_504() {
    let upstream = origin(|mut client| {
        client.rest_or_reset();
    });
    let proxy = Proxy::before(upstream, &["--response-timeout", "1"]);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n";
    let waiting = proxy.fetch(&format!("{head}Expect: 100-continue\r\n\r\n"));
    assert_eq!(waiting.status(), 504);
    assert_eq!(proxy.fetch(&format!("{head}\r\n")).status(), 408);
}

/// The line that says where the program listens was held back while another thread was writing,
/// until the next line of its own thread, which never came.
pub fn the_first_log_lines_appear_even_under_load() {
    let upstream = answering(|_| ok("fine")).to_string();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for _ in 0..20 {
        // These clients wait to be accepted, so that there is much to log from the first moment.
        let clients: Vec<Client> = (0..100)
            .map(|_| {
                let mut client = Client::connect(listener.local_addr().unwrap());
                client.send(&"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20));
                client
            })
            .collect();
        let mut command = inheriting(&listener, "", &["-u", &upstream, "-v"]);
        let mut guard = Guard::spawn(command.stderr(std::process::Stdio::piped()));
        let log = Lines::collect(guard.0.stderr.take().unwrap());
        log.wait_for("开始监听: ");
        drop(clients);
        guard.signal("TERM");
        assert_eq!(guard.wait().code(), Some(0));
        log.wait_for("已停止");
    }
}

/// The reason phrase of a proxy, including addresses, was sent to the client.
pub fn the_reason_phrase_of_a_proxy_is_only_logged() {
    let http = origin(|mut client| {
        client.head();
        client.send("HTTP/1.1 503 cannot connect to 10.0.0.5:443\r\n\r\n");
    });
    let proxy = Proxy::start(&["-u", "up.invalid:80", "--http-proxy", &http.to_string()]);
    let response = proxy.get("/");
    assert_eq!(
        response.text(),
        "502 Bad Gateway: proxy-refused: CONNECT answered 503\n"
    );
    proxy
        .log
        .wait_for("CONNECT answered 503 cannot connect to 10.0.0.5:443");
}

/// A broken record after a full one that had been read was taken for the end of the body.
pub fn a_broken_record_after_a_full_one_does_not_end_a_body() {
    /// A socket that can hold back what is written to it.
    #[derive(Debug)]
    struct Tap(Patient, Option<Vec<u8>>);

    impl Read for Tap {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buf)
        }
    }

    impl Write for Tap {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            match &mut self.1 {
                Some(held) => {
                    held.extend_from_slice(bytes);
                    Ok(bytes.len())
                }
                None => self.0.write(bytes),
            }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    const RECORD: usize = 16 * 1024;
    let acceptor = Certificate::new("up.example").acceptor();
    let upstream = origin(move |client| {
        let mut tls = acceptor.accept(Tap(Patient(client.socket), None)).unwrap();
        let mut room = [0; 4096];
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let n = tls.read(&mut room).unwrap();
            head.extend_from_slice(&room[..n]);
        }
        tls.get_mut().1 = Some(Vec::new());
        tls.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        for _ in 0..4 {
            tls.write_all(&[b'a'; RECORD]).unwrap();
        }
        let Tap(socket, held) = tls.get_mut();
        let mut held = held.take().unwrap();
        *held.last_mut().unwrap() ^= 1;
        socket.write_all(&held).unwrap();
        // The program must end the connection, not this side.
        let _ = read_some(socket, &mut room);
    });
    let proxy = Proxy::before(upstream, &["--tls", "on"]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let got = client.rest_or_reset();
    assert!(got.starts_with(b"HTTP/1.1 200 OK\r\n"), "{got:?}");
    assert!(
        !got.ends_with(b"0\r\n\r\n"),
        "the body must not look complete"
    );
    proxy.log.wait_for("请求中断: GET /");
}

/// The last log lines about connections that were cut off at shutdown were lost.
pub fn connections_cut_off_at_shutdown_are_logged() {
    let upstream = origin(echo);
    let args = ["--drain-timeout", "0.2", "-v", "--log-lang", "en"];
    let mut proxy = Proxy::before(upstream, &args);
    let mut open = proxy.connect();
    open.upgrade("/");
    proxy.guard.signal("TERM");
    assert_eq!(proxy.guard.wait().code(), Some(0));
    proxy.log.wait_for(": closed after ");
}
