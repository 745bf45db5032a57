//! Ending well: signals, what is open, PID 1, and the limit on clients.

use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

pub fn sigterm_finishes_what_is_open() {
    let (go_on, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = origin(move |mut client| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        client.send("later");
        client.rest_or_reset();
    });
    for signal in ["TERM", "INT"] {
        let proxy = Proxy::before(upstream, &["--drain-timeout", "60"]);
        let mut idle = proxy.connect();
        let mut busy = proxy.connect();
        busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        busy.head();
        assert_eq!(busy.exactly(5), b"first");
        proxy.guard.signal(signal);
        proxy.log.wait_for(&format!("收到 SIG{signal}"));
        assert!(idle.is_closed(), "an idle connection stays");
        let refused = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(proxy.address).is_ok() {
            assert!(Instant::now() < refused, "still accepting");
            thread::sleep(Duration::from_millis(10));
        }
        go_on.send(()).unwrap();
        assert_eq!(busy.exactly(5), b"later");
        let mut proxy = proxy;
        assert_eq!(proxy.guard.wait().code(), Some(0));
        proxy.log.wait_for("已停止，中断 0 个连接");
    }
}

pub fn sigterm_ends_idle_connections_and_relays_in_time() {
    let upstream = origin(echo);
    let proxy = Proxy::before(upstream, &["--drain-timeout", "0.5"]);
    let mut idle = proxy.connect();
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    idle.response();
    let mut open = proxy.connect();
    open.upgrade("/");
    proxy.guard.signal("TERM");
    assert!(idle.is_closed());
    // The relay works until its time is over.
    if open.try_send(&frame(b"goodbye", true)) {
        assert!(matches!(open.frame().as_deref(), Some(b"goodbye") | None));
    }
    let log = proxy.log.clone();
    let mut guard = proxy.guard;
    assert_eq!(guard.wait().code(), Some(0));
    log.wait_for("已停止，中断 1 个连接");
    open.rest_or_reset();
}

pub fn a_second_signal_ends_at_once() {
    let upstream = origin(echo);
    let mut proxy = Proxy::before(upstream, &["--drain-timeout", "3600"]);
    let mut open = proxy.connect();
    open.upgrade("/");
    proxy.guard.signal("TERM");
    proxy.log.wait_for("收到 SIGTERM");
    proxy.guard.signal("INT");
    assert_eq!(proxy.guard.wait().code(), Some(130));
}

pub fn works_as_pid_1() {
    // A process without handlers ignores SIGTERM as PID 1; only root or a user with
    // user namespaces can make one.
    let new_namespace = ["--pid", "--fork", "--kill-child"];
    let possible = Command::new("unshare")
        .args(new_namespace)
        .arg("true")
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        eprintln!("works_as_pid_1: no PID namespaces here; SIGTERM is tested without");
        return sigterm_finishes_what_is_open();
    }
    let upstream = answering(|_| ok("init")).to_string();
    let mut command = Command::new("unshare");
    command.args(new_namespace).arg(PROGRAM);
    command.args(["-b", "127.0.0.1", "-p", "0", "-u", &upstream, "-d"]);
    let mut proxy = Proxy::spawn(&mut command);
    assert_eq!(proxy.get("/").text(), "init");
    // unshare's only child is the program.
    let parent = proxy.guard.0.id();
    let children = format!("/proc/{parent}/task/{parent}/children");
    let child = std::fs::read_to_string(children).unwrap();
    let killed = Command::new("kill").args(["-TERM", child.trim()]).status();
    assert!(killed.unwrap().success());
    assert_eq!(proxy.guard.wait().code(), Some(0));
    proxy.log.wait_for("已停止");
}

pub fn more_clients_than_allowed_wait_their_turn() {
    let upstream = origin(echo);
    let proxy = Proxy::before(upstream, &["--max-connections", "3", "--threads", "2"]);
    let mut open: Vec<Client> = (0..3).map(|_| proxy.connect()).collect();
    for client in &mut open {
        client.upgrade("/");
    }
    let mut waiting = proxy.connect();
    waiting.send("GET /waited HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    waiting
        .socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert!(
        waiting.rest_or_reset().is_empty(),
        "served beyond the limit"
    );
    drop(open.pop());
    waiting.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(waiting.response().status(), 200);
    // Those within the limit are still served.
    open[0].send_bytes(&frame(b"x", true));
    assert_eq!(open[0].frame().unwrap(), b"x");
}
