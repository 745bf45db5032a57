//! Bugs that were there once, each named after its symptom.

use crate::support::*;

/// A proxy that reads a message with one `read`, as microsocks does, answered "general
/// failure" because the request came field by field.
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

/// The upstream of a client that was gone was kept until the response timeout.
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
