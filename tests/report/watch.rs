//! Monitoring: the health path, the metrics, and the log as JSON.

use libtest_mimic::Trial;
use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::Mutex;

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        the_health_path_is_answered_by_the_proxy,
        metrics_count_what_happened,
        metrics_tell_the_stage_that_failed,
        the_metrics_port_serves_nothing_else,
        json_lines_are_objects,
        verbose_lines_have_numbers_and_times,
    ]
}

pub fn the_health_path_is_answered_by_the_proxy() {
    let (report, seen) = channel();
    let report = Mutex::new(report);
    let (go_on, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = origin(move |mut client| {
        while let Some(head) = client.try_head() {
            let line = head.lines().next().unwrap().to_owned();
            let slow = line.contains("/slow");
            report.lock().unwrap().send(line).unwrap();
            if slow {
                wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            }
            if let Some(length) = field(&head, "content-length") {
                client.exactly(length.parse().unwrap());
            }
            client.send(&ok("upstream"));
        }
    });
    let args = ["--health-path", "/healthz", "--drain-timeout", "60"];
    let proxy = Proxy::before(upstream, &args);
    let mut client = proxy.connect();
    for (request, method, text) in [
        (
            "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET",
            "200 OK: serving\n",
        ),
        ("HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD", ""),
        (
            "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "GET",
            "200 OK: serving\n",
        ),
        // Any other request is forwarded.
        (
            "GET /healthz?x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET",
            "upstream",
        ),
        (
            "GET /healthz/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET",
            "upstream",
        ),
        (
            "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            "POST",
            "upstream",
        ),
    ] {
        client.send(request);
        let response = client.response_to(method);
        assert_eq!(response.status(), 200, "{request}");
        assert_eq!(response.text(), text, "{request}");
        if text != "upstream" {
            assert_eq!(response.field("cache-control"), Some("no-store"));
        }
    }
    let asked: Vec<_> = seen.try_iter().collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    // The body is not read, so the connection is closed: it could be taken for a request.
    let mut client = proxy.connect();
    client.send("GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET ");
    let response = client.response();
    assert_eq!(response.status(), 200);
    assert_eq!(response.field("connection"), Some("close"));
    assert!(client.is_closed());

    // During the drain the health path answers 503, and a request under way is finished.
    let mut busy = proxy.connect();
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        seen.recv_timeout(PATIENCE).as_deref(),
        Ok("GET /slow HTTP/1.1")
    );
    let mut idle = proxy.connect();
    idle.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(idle.response().status(), 200);
    proxy.guard.signal("TERM");
    let response = loop {
        idle.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = idle.response();
        if response.status() != 200 {
            break response;
        }
    };
    assert_eq!(response.text(), "503 Service Unavailable: draining\n");
    assert_eq!(response.field("connection"), Some("close"));
    go_on.send(()).unwrap();
    assert_eq!(busy.response().text(), "upstream");
    // Only the two requests that the upstream received are in the log, with two lines each.
    assert_eq!(proxy.log.text().matches("healthz ").count(), 4);
}

/// Starts the program with metrics, and returns their address.
pub fn start_measured(args: &[&str]) -> (Proxy, SocketAddr) {
    let proxy = Proxy::start(&[args, &METRICS].concat());
    let address = proxy.metrics();
    (proxy, address)
}

fn page(address: SocketAddr) -> Response {
    let mut client = Client::connect(address);
    client.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert!(client.is_closed());
    response
}

/// The values of the metrics, by name with labels as in the page.
pub fn values(address: SocketAddr) -> HashMap<String, f64> {
    let text = page(address).text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

pub fn metrics_count_what_happened() {
    let upstream = origin(echo).to_string();
    let (proxy, metrics) = start_measured(&["-u", &upstream, "--threads", "2"]);
    let before = values(metrics);
    for _ in 0..3 {
        assert_eq!(proxy.get("/a").status(), 200);
    }
    let posted =
        "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(proxy.fetch(posted).status(), 200);
    assert_eq!(
        proxy.fetch("BREW / HTTP/1.1\r\nHost: a b\r\n\r\n").status(),
        400
    );
    let mut tunnel = proxy.connect();
    tunnel.upgrade("/ws");
    let message = vec![7; 100_000];
    tunnel.send_bytes(&frame(&message, MASK));
    assert_eq!(tunnel.frame().unwrap(), message);
    // The bytes are counted after the write, so the client may see them earlier.
    let down = "simple_proxy_carried_bytes_total{direction=\"downstream\"}";
    let posts = "simple_proxy_requests_total{method=\"POST\",status=\"2xx\"}";
    let gets = "simple_proxy_requests_total{method=\"GET\",status=\"2xx\"}";
    wait_until("all of it is counted", || {
        let now = values(metrics);
        let grown = |name: &str| now[name] - before[name];
        grown(down) >= 100_010.0 && grown(posts) >= 1.0 && grown(gets) >= 3.0
    });
    let now = values(metrics);
    let grown = |name: &str| {
        let name = format!("simple_proxy_{name}");
        now.get(&name).unwrap_or_else(|| panic!("no {name}")) - before[&name]
    };
    assert_eq!(grown("requests_total{method=\"GET\",status=\"2xx\"}"), 3.0);
    assert_eq!(grown("requests_total{method=\"GET\",status=\"1xx\"}"), 1.0);
    assert_eq!(grown("requests_total{method=\"POST\",status=\"2xx\"}"), 1.0);
    assert_eq!(
        grown("requests_total{method=\"other\",status=\"4xx\"}"),
        1.0
    );
    assert_eq!(grown("connections_total"), 6.0);
    assert_eq!(grown("upgrades_total"), 1.0);
    assert_eq!(grown("upgrades_open"), 1.0);
    let up = grown("carried_bytes_total{direction=\"upstream\"}");
    let down = grown("carried_bytes_total{direction=\"downstream\"}");
    assert_eq!(up, (3 + 100_014) as f64);
    assert!((100_010.0..101_000.0).contains(&down), "{down}");
    let dials = grown("dial_duration_seconds_count");
    let hits = grown("pool_lookups_total{result=\"hit\"}");
    let misses = grown("pool_lookups_total{result=\"miss\"}");
    assert_eq!(hits + misses, 5.0);
    assert_eq!(dials, misses, "every miss");
    assert_eq!(grown("response_head_duration_seconds_count"), 5.0);
    let start = now["process_start_time_seconds"];
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - start;
    assert!((0.0..PATIENCE.as_secs_f64()).contains(&since), "{since}");
    drop(tunnel);
    let deadline = std::time::Instant::now() + PATIENCE;
    while values(metrics)["simple_proxy_upgrades_open"] > 0.0
        || values(metrics)["simple_proxy_connections_open"] > 0.0
    {
        assert!(std::time::Instant::now() < deadline, "still open");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

pub fn metrics_tell_the_stage_that_failed() {
    let dead = dead_address().to_string();
    for (args, stage) in [
        (vec!["-u", &*dead], "connect"),
        (vec!["-u", "a.invalid:1", "-s", &*dead], "proxy-connect"),
    ] {
        let (proxy, metrics) = start_measured(&args);
        assert_eq!(proxy.get("/").status(), 502);
        let now = values(metrics);
        let name = format!("simple_proxy_upstream_failures_total{{stage=\"{stage}\"}}");
        assert_eq!(now[&name], 1.0);
        assert_eq!(
            now["simple_proxy_requests_total{method=\"GET\",status=\"5xx\"}"],
            1.0
        );
    }
}

pub fn the_metrics_port_serves_nothing_else() {
    let upstream = answering(|_| ok("upstream")).to_string();
    let (proxy, metrics) = start_measured(&["-u", &upstream]);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (
            "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            404,
        ),
        (
            "GET /metrics HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n",
            400,
        ),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
        ("GET /metrics?x=y HTTP/1.0\r\n\r\n", 200),
    ] {
        let mut client = Client::connect(metrics);
        client.send(request);
        assert_eq!(client.response().status(), status, "{request}");
        assert!(client.is_closed());
    }
    // Silent readers time out, and do not delay other readers.
    let silent: Vec<_> = (0..20).map(|_| Client::connect(metrics)).collect();
    assert_eq!(page(metrics).status(), 200);
    for mut client in silent {
        assert!(client.is_closed());
    }
    assert_eq!(proxy.get("/").text(), "upstream");
    let address = metrics.to_string();
    let mut command = program();
    command.args(["-u", &upstream, "-b", "127.0.0.1", "-p", "0"]);
    let refused = command
        .env("SIMPLE_PROXY_METRICS_LISTEN", &address)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr),
        format!(
            "simple-proxy: SIMPLE_PROXY_METRICS_LISTEN: {address}: address already in use; \
             choose another one, or stop the program that uses it\n"
        )
    );
}

/// The linter in Prometheus' Debian package.
pub fn promtool_has_no_complaint() {
    let upstream = answering(|_| ok("fine")).to_string();
    let (proxy, metrics) = start_measured(&["-u", &upstream]);
    proxy.get("/");
    let response = page(metrics);
    let content_type = response.field("content-type");
    assert_eq!(
        content_type,
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let mut linter = Command::new("promtool");
    linter.args(["check", "metrics"]).stdin(Stdio::piped());
    let linter = linter.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut linter = linter.spawn().unwrap();
    linter
        .stdin
        .take()
        .unwrap()
        .write_all(&response.body)
        .unwrap();
    let output = linter.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "");
    assert!(output.status.success());
}

pub fn json_lines_are_objects() {
    let upstream = origin(echo).to_string();
    let args = ["-u", &upstream, "--log-format", "json", "-v"];
    let mut command = program();
    command.args(["-b", "127.0.0.1", "-p", "0"]).args(args);
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut guard = Guard::spawn(&mut command);
    let log = Lines::collect(guard.0.stderr.take().unwrap());
    let first = json_of(log.wait_for("\"listening\""));
    let address = first["address"].as_str().unwrap().parse().unwrap();
    let mut client = Client::connect(address);
    client.send("GET /a\"\\\u{7f}é?q=secret HTTP/1.1\r\nHost: b\r\n\r\n");
    let answered = client.response().status();
    assert_eq!(answered, 400, "a control character");
    drop(client);
    let mut client = Client::connect(address);
    client.send("GET /a\"\\{?q=secret HTTP/1.1\r\nHost: b\r\n\r\n");
    client.response();
    let mut client = Client::connect(address);
    client.upgrade("/ws");
    client.send_bytes(&frame(b"hello", MASK));
    client.frame();
    drop(client);
    log.wait_for("\"upgrade_closed\"");
    guard.signal("TERM");
    assert_eq!(guard.wait().code(), Some(0));
    log.wait_for("\"stopped\"");
    let text = log.text();
    assert!(!text.contains("secret"), "{text}");
    let lines: Vec<_> = text.lines().map(json_of).collect();
    for line in &lines {
        let time = line["time"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
        assert!(["info", "debug", "warning"].contains(&line["level"].as_str().unwrap()));
    }
    let event = |name: &str| {
        let found = lines.iter().find(|line| line["event"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    assert_eq!(event("request_rejected")["status"], 400);
    let done = event("request_done");
    assert_eq!(done["path"], "/a\"\\{");
    assert_eq!(done["method"], "GET");
    assert_eq!(done["status"], 200);
    assert_eq!(done["connection"], 2);
    assert!(done["seconds"].as_f64().unwrap() > 0.0);
    assert!(done["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    // Every line about a connection names its client.
    for line in &lines {
        let own = [
            "listening",
            "limit",
            "upstream",
            "route",
            "draining",
            "stopped",
        ];
        if !own.contains(&line["event"].as_str().unwrap()) {
            let client = line["client"].as_str().unwrap_or_else(|| panic!("{line}"));
            assert!(client.starts_with("127.0.0.1:"), "{line}");
            assert!(line["connection"].as_u64().is_some(), "{line}");
        }
    }
    assert_eq!(event("upgrade_request")["protocol"], "WebSocket");
    assert_eq!(event("upgrade_closed")["bytes_up"], 11);
    assert!(event("dialled")["connect"].as_f64().is_some());
    assert_eq!(event("route")["route"], "direct");
    assert_eq!(event("stopped")["cut_off"], 0);
}

pub fn verbose_lines_have_numbers_and_times() {
    let upstream = origin(echo);
    let proxy = Proxy::before(upstream, &["-v", "--log-lang", "en"]);
    let mut client = proxy.connect();
    client.send("GET /a HTTP/1.1\r\nHost: b\r\n\r\n");
    client.response();
    client.upgrade("/ws");
    client.send_bytes(&frame(b"hello", MASK));
    client.frame();
    drop(client);
    for (line, end) in [
        ("connection 1: from 127.0.0.1:", ""),
        ("connection 1: upstream reached in ", ")"),
        ("connection 1: GET /a -> 200 in ", " ms"),
        ("connection 1: relayed 11 bytes up, 9 down in ", " s"),
        ("connection 1: closed after ", " s"),
    ] {
        let line = proxy.log.wait_for(line);
        assert!(line.ends_with(end), "{line}");
    }
    // With -q none of it is logged.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = inheriting(&listener, "", &["-u", &upstream.to_string(), "-q"]);
    let mut guard = Guard::spawn(command.stderr(Stdio::piped()));
    let log = Lines::collect(guard.0.stderr.take().unwrap());
    let mut client = Client::connect(listener.local_addr().unwrap());
    client.send("GET /a HTTP/1.1\r\nHost: b\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    guard.signal("TERM");
    assert_eq!(guard.wait().code(), Some(0));
    assert_eq!(log.text(), "");
}
