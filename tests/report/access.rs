//! The access log: what is written to standard output, and what to standard error.

use libtest_mimic::Trial;
use std::process::{ChildStdout, Command, Stdio};

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        each_answer_is_a_line_on_standard_output,
        a_stuck_reader_of_the_access_log_delays_nobody,
    ]
}

/// Starts the program with an access log, and returns it with its standard output.
fn with_access_log(args: &[&str]) -> (Proxy, ChildStdout) {
    let mut command = program();
    command.args(["-b", "127.0.0.1", "-p", "0", "--log-format", "combined"]);
    command.args(args).stdout(Stdio::piped());
    let mut proxy = Proxy::spawn(&mut command);
    let output = proxy.take_output();
    (proxy, output)
}

/// Makes requests of every kind, and returns the access log and the log. An aborted request has
/// a line in the log only.
pub fn logs_of_all_kinds_of_requests() -> (String, String) {
    let upstream = origin(|mut client| {
        while let Some(head) = client.try_head() {
            let line = head.lines().next().unwrap().to_owned();
            if line.starts_with("GET /ws ") {
                client.send(&switching(&head));
                let payload = client.frame().unwrap();
                client.send_bytes(&crate::shared::frame(&payload, None));
                return;
            }
            if line.contains(" /gone ") {
                return;
            }
            match line.starts_with("HEAD ") {
                true => client.send("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n"),
                false => client.send(&ok("page")),
            }
        }
    });
    let upstream = upstream.to_string();
    // On one thread the lines are in the order of the requests.
    let flags = ["--threads", "1", "--health-path", "/healthz"];
    let (proxy, access) = with_access_log(&[&["-u", &upstream], &flags[..]].concat());
    let access = Lines::collect(access);
    let get = |path: &str, fields: &str| {
        proxy.fetch(&format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n"
        ))
    };
    let fields = "Referer: http://b/c?secret\r\nUser-Agent: Nosy \"1\\2\"\r\n";
    assert_eq!(get("/a?secret=x", fields).status(), 200);
    let mut client = proxy.connect();
    client.send("HEAD /b HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n");
    assert_eq!(client.response_to("HEAD").status(), 404);
    client.send("POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    // On the same connection: the line must contain nothing of the previous request.
    client.send("GET\r\n\r\n");
    assert_eq!(client.response().status(), 400);
    drop(client);
    assert_eq!(get("/gone", "").status(), 502);
    assert_eq!(get("/healthz", "").status(), 200);
    let mut client = proxy.connect();
    client.upgrade("/ws");
    client.send_bytes(&crate::shared::frame(b"x", Some([1; 4])));
    assert!(!client.rest().is_empty());
    drop(client);
    access.wait_for("\"GET /ws HTTP/1.1\"");
    // Another thread collects this stream than the one for the access log.
    proxy.log.wait_for("GET /gone -> 502");
    let log = proxy.log.text();
    assert!(proxy.terminate().success());
    (access.text(), log)
}

pub fn each_answer_is_a_line_on_standard_output() {
    let (access, log) = logs_of_all_kinds_of_requests();
    let lines: Vec<String> = access
        .lines()
        .map(|line| {
            let rest = line.strip_prefix("127.0.0.1 - - [").expect(line);
            let (time, rest) = rest.split_once(" +0000] ").expect(line);
            assert_eq!(time.len(), "22/Nov/2026:16:59:59".len(), "{line}");
            rest.to_owned()
        })
        .collect();
    let expected = [
        "\"GET /a HTTP/1.1\" 200 4 \"http://b/c\" \"Nosy \\\"1\\\\2\\\"\"",
        "\"HEAD /b HTTP/1.1\" 404 - \"-\" \"x\"",
        "\"POST /c HTTP/1.1\" 200 4 \"-\" \"-\"",
    ];
    assert_eq!(lines[..3], expected);
    assert!(lines[3].starts_with("\"-\" 400 "), "{access}");
    assert!(
        lines[4].starts_with("\"GET /gone HTTP/1.1\" 502 "),
        "{access}"
    );
    assert_eq!(lines[5], "\"GET /ws HTTP/1.1\" 101 3 \"-\" \"-\"");
    assert_eq!(lines.len(), 6, "{access}");
    // The log has the failures; what the access log has is not logged twice.
    assert!(log.contains("请求被拒绝: "), "{log}");
    assert!(log.contains("请求失败: GET /gone -> 502 "), "{log}");
    for word in ["请求开始", "请求完成", "WebSocket"] {
        assert!(!log.contains(word), "{log}");
    }
    assert!(!access.contains("secret") && !log.contains("secret"));
}

pub fn a_stuck_reader_of_the_access_log_delays_nobody() {
    let upstream = answering(|_| ok("page")).to_string();
    // The reader's end stays open but is never read.
    let (proxy, reader) = with_access_log(&["-u", &upstream, "--threads", "1"]);
    let mut client = proxy.connect();
    let agent = "x".repeat(900);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\n\r\n");
    // More than fits into the pipe (64 KiB) and the program's buffer (256 KiB).
    for _ in 0..500 {
        client.send(&request);
        assert_eq!(client.response().text(), "page");
    }
    drop(reader);
    client.send(&request);
    assert_eq!(client.response().text(), "page");
    proxy.log.wait_for("日志读取过慢");
}

/// goaccess can parse the access log and counts the requests correctly.
pub fn goaccess_counts_right() {
    let (access, _) = logs_of_all_kinds_of_requests();
    let folder = Folder::new("goaccess");
    let (log, report) = (
        folder.write("access.log", &access),
        folder.path("report.json"),
    );
    let mut command = Command::new("goaccess");
    command.args([
        &*log,
        "--log-format=COMBINED",
        "--no-global-config",
        "-o",
        &report,
    ]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = json_of(std::fs::read_to_string(&report).unwrap());
    let general = &report["general"];
    assert_eq!(general["total_requests"], 6);
    assert_eq!(general["failed_requests"], 0, "lines that it cannot read");
    let mut counted: Vec<(String, u64)> = Vec::new();
    for class in report["status_codes"]["data"].as_array().unwrap() {
        for status in class["items"].as_array().unwrap() {
            let name = status["data"].as_str().unwrap();
            let hits = status["hits"]["count"].as_u64().unwrap();
            counted.push((name[..3].to_owned(), hits));
        }
    }
    counted.sort();
    let expected = [("101", 1), ("200", 2), ("400", 1), ("404", 1), ("502", 1)];
    let expected = expected.map(|(status, hits)| (status.to_owned(), hits));
    assert_eq!(counted, expected);
    let agents = report["referring_sites"]["data"].to_string();
    assert!(agents.contains("\"b\""), "{agents}");
}
