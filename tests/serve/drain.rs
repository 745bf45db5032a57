//! Shutdown: signals, open connections, PID 1, and the limit on clients.

use libtest_mimic::Trial;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        sigterm_finishes_open_exchanges,
        sigterm_ends_idle_connections_and_relays_in_time,
        a_second_signal_ends_at_once,
        more_clients_than_allowed_wait_their_turn,
        a_restart_on_an_inherited_socket_fails_no_request,
        the_service_manager_is_notified,
        inherited_descriptors_that_do_not_listen_are_refused,
    ]
}

/// Options of unshare(1) for running a command as PID 1.
pub const NEW_PID_NAMESPACE: [&str; 3] = ["--pid", "--fork", "--kill-child"];

pub fn sigterm_finishes_open_exchanges() {
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
        assert!(idle.is_closed(), "an idle connection stays open");
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
    let proxy = Proxy::before(upstream, &["--drain-timeout", "8"]);
    let mut idle = proxy.connect();
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    idle.response();
    let mut open = proxy.connect();
    open.upgrade("/");
    proxy.guard.signal("TERM");
    assert!(idle.is_closed());
    // The relay works until the drain timeout.
    if open.try_send(&frame(b"goodbye", MASK)) {
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

/// As PID 1, a process without signal handlers ignores SIGTERM.
pub fn works_as_pid_1() {
    let upstream = answering(|_| ok("init")).to_string();
    let mut command = Command::new("unshare");
    command.args(NEW_PID_NAMESPACE).arg(PROGRAM);
    command.args(["-b", "127.0.0.1", "-p", "0", "-u", &upstream, "-d"]);
    let mut proxy = Proxy::spawn(&mut command);
    assert_eq!(proxy.get("/").text(), "init");
    // The program is the only child of unshare.
    let parent = proxy.guard.0.id();
    let children = format!("/proc/{parent}/task/{parent}/children");
    let child = std::fs::read_to_string(children).unwrap();
    let child = child.trim().parse().ok().and_then(Pid::from_raw);
    send_signal(child.expect("a process id"), "TERM");
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
    // Clients within the limit are still served.
    open[0].send_bytes(&frame(b"x", MASK));
    assert_eq!(open[0].frame().unwrap(), b"x");
}

/// Starts the program on an inherited socket, as a service manager does.
fn start_inherited(listener: &TcpListener, upstream: &str, extra: &[(&str, &str)]) -> Proxy {
    let mut command = inheriting(listener, "", &["-u", upstream, "-p", "1"]);
    command.envs(extra.iter().copied()).stderr(Stdio::piped());
    let mut guard = Guard::spawn(&mut command);
    let log = Lines::collect(guard.0.stderr.take().unwrap());
    log.wait_for("开始监听: 127.0.0.1:");
    Proxy {
        guard,
        address: listener.local_addr().unwrap(),
        log,
    }
}

pub fn a_restart_on_an_inherited_socket_fails_no_request() {
    let upstream = answering(|_| ok(&"x".repeat(10_000))).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut running = start_inherited(&listener, &upstream, &[]);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            thread::spawn(move || {
                let mut served = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut client = Client::connect(address);
                    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
                    assert_eq!(client.response().body.len(), 10_000);
                    served += 1;
                }
                served
            })
        })
        .collect();
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(100));
        let next = start_inherited(&listener, &upstream, &[]);
        let old = std::mem::replace(&mut running, next);
        assert_eq!(old.terminate().code(), Some(0));
    }
    // Also with a gap in which no process accepts: clients wait in the backlog.
    assert_eq!(running.terminate().code(), Some(0));
    thread::sleep(Duration::from_millis(100));
    let _running = start_inherited(&listener, &upstream, &[]);
    thread::sleep(Duration::from_millis(100));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.join().expect("a request failed") > 0);
    }
}

pub fn the_service_manager_is_notified() {
    let folder = Folder::new("notify");
    let path = folder.path("socket");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut message = [0; 64];
        let n = loop {
            match manager.recv(&mut message) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        String::from_utf8(message[..n].to_vec()).unwrap()
    };
    let proxy = Proxy::start_with(&["-u", "127.0.0.1:9"], &[("NOTIFY_SOCKET", &path)]);
    assert_eq!(told(), "READY=1\n");
    assert_eq!(proxy.terminate().code(), Some(0));
    assert_eq!(told(), "STOPPING=1\n");
    // The program goes on if the manager is gone.
    let gone = folder.path("gone");
    let proxy = Proxy::start_with(&["-u", "127.0.0.1:9"], &[("NOTIFY_SOCKET", &gone)]);
    proxy.log.wait_for("无法通知服务管理器");
    assert_eq!(proxy.terminate().code(), Some(0));
}

pub fn inherited_descriptors_that_do_not_listen_are_refused() {
    let mut command = cleaned(Command::new("sh"));
    let script = "exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$PROGRAM\" -u a:1";
    let refused = command
        .args(["-c", script])
        .env("PROGRAM", PROGRAM)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr),
        "simple-proxy: LISTEN_FDS: descriptor 3 is not a listening TCP or unix socket\n"
    );
    // Descriptors for another process are ignored.
    let upstream = answering(|_| ok("own socket")).to_string();
    let other = [("LISTEN_PID", "1"), ("LISTEN_FDS", "1")];
    let proxy = Proxy::start_with(&["-u", &upstream], &other);
    assert_eq!(proxy.get("/").text(), "own socket");
}
