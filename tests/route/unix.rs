//! Unix sockets instead of addresses, and addresses that only this machine can reach.

use libtest_mimic::Trial;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;

use crate::check::check;
use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        an_upstream_on_a_unix_socket,
        tls_over_a_unix_socket,
        a_socks_proxy_on_a_unix_socket,
        clients_on_a_unix_socket,
        an_inherited_unix_socket,
        an_inherited_abstract_unix_socket,
    ]
}

/// Listens on a path and runs `script` in a thread for each connection. The standard library's
/// TCP type can read and write any stream socket.
fn origin_on(path: &str, script: impl Fn(Client) + Send + Sync + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    let script = Arc::new(script);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = OwnedFd::from(stream.unwrap());
            let script = script.clone();
            thread::spawn(move || script(Client::new(stream.into())));
        }
    });
}

/// More than the kernel buffers, and enough to be spliced.
const BULK: usize = 8 << 20;

pub fn an_upstream_on_a_unix_socket() {
    let folder = Folder::new("unix-upstream");
    let path = folder.path("app.sock");
    let noise = Noise::new(8).bytes(BULK);
    let sent = noise.clone();
    origin_on(&path, move |mut client| {
        while let Some(head) = client.try_head() {
            if field(&head, "upgrade").is_some() {
                client.send(&switching(&head));
                while let Some(payload) = client.frame() {
                    client.send_bytes(&frame(&payload, None));
                }
                return;
            }
            if let Some(length) = field(&head, "content-length") {
                let body = client.exactly(length.parse().unwrap());
                assert!(body == sent);
            }
            if head.starts_with("GET /bulk ") {
                client.send(&format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {BULK}\r\n\r\n"
                ));
                client.send_bytes(&sent);
                continue;
            }
            client.send(&ok(&format!("host={}", field(&head, "host").unwrap())));
        }
    });
    let upstream = format!("unix:{path}");
    let proxy = Proxy::start(&["-u", &upstream, "--log-lang", "en"]);
    proxy.log.wait_for(&format!("upstream: {upstream}"));
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(client.response().text(), "host=a.example");
    }
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.response().text(), "host=localhost");
    client.send("GET /bulk HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.response().body == noise);
    client.send(&format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {BULK}\r\n\r\n"
    ));
    client.send_bytes(&noise);
    assert_eq!(client.response().text(), "host=a");
    client.upgrade("/ws");
    for size in [1, 70_000, BULK] {
        client.send_bytes(&frame(&noise[..size], MASK));
        assert!(client.frame().unwrap() == noise[..size]);
    }
    let checked = check(&["-u", &upstream, "--check-path", "/ws"], &[]);
    assert_eq!(checked.status, Some(0), "{}", checked.text);
    checked.has(&format!("route direct to {upstream}"));
    checked.has(&format!("ms {upstream}"));
    checked.has("HEAD / with Host localhost returned 200 OK");
    // A socket on which no process listens any more, and no socket at all.
    for (path, cause) in [
        (folder.path("stale.sock"), "connection refused"),
        (folder.path("none.sock"), "no such file or directory"),
    ] {
        if path.contains("stale") {
            drop(UnixListener::bind(&path).unwrap());
        }
        let proxy = Proxy::start(&["-u", &format!("unix:{path}")]);
        let response = proxy.get("/");
        assert_eq!(response.status(), 502);
        assert!(!response.text().contains(&path), "{}", response.text());
        proxy
            .log
            .wait_for(&format!("[connect] unix:{path}: {cause}"));
        let checked = check(&["-u", &format!("unix:{path}")], &[]);
        checked.has("check that the upstream listens on this socket");
    }
}

pub fn tls_over_a_unix_socket() {
    let folder = Folder::new("unix-tls");
    let path = folder.path("tls.sock");
    let certificate = Certificate::new("app.example");
    let ca = folder.write("ca.pem", &certificate.pem());
    let acceptor = certificate.acceptor();
    origin_on(&path, move |client| {
        if let Some(client) = client.accept_tls(&acceptor) {
            echo(client);
        }
    });
    let upstream = format!("unix:{path}");
    let args = [
        "-u",
        &upstream,
        "--tls",
        "on",
        "--tls-verify",
        "--tls-ca",
        &ca,
    ];
    let proxy = Proxy::start(&args);
    let response = proxy.fetch("GET /p HTTP/1.1\r\nHost: app.example\r\n\r\n");
    assert_eq!(response.text(), "path=/p host=app.example\n");
}

pub fn a_socks_proxy_on_a_unix_socket() {
    let folder = Folder::new("unix-socks");
    let path = folder.path("socks");
    origin_on(&path, |mut client| {
        let greeting = client.exactly(2);
        client.exactly(greeting[1].into());
        client.send_bytes(&[5, 0]);
        assert_eq!(
            client.exactly(22),
            *b"\x05\x01\x00\x03\x0fno-such.invalid\x00\x50"
        );
        client.send_bytes(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        echo(client);
    });
    for url in [
        format!("unix:{path}"),
        format!("socks5://unix:{path}"),
        format!("socks5h://localhost{path}"),
    ] {
        let args = ["-u", "no-such.invalid:80", "-s", &url, "--log-lang", "en"];
        let proxy = Proxy::start(&args);
        proxy
            .log
            .wait_for(&format!("route: SOCKS5 socks5://unix:{path}"));
        assert_eq!(proxy.get("/p").text(), "path=/p host=a.example\n");
        let mut client = proxy.connect();
        client.upgrade("/");
        client.send_bytes(&frame(b"through", MASK));
        assert_eq!(client.frame().unwrap(), b"through");
    }
    let none = folder.path("none");
    let args = ["-u", "no-such.invalid:80", "-s", &format!("unix:{none}")];
    let proxy = Proxy::start(&args);
    assert_eq!(proxy.get("/").status(), 502);
    proxy
        .log
        .wait_for(&format!("[proxy-connect] unix:{none}: no such file"));
    check(&args, &[]).has("check that the proxy listens on this socket");
}

/// The program, listening on a path.
fn listening_on(path: &str, command: &mut std::process::Command) -> (Guard, Lines) {
    command.stdin(std::process::Stdio::null());
    let mut guard = Guard::spawn(command.stderr(std::process::Stdio::piped()));
    let log = Lines::collect(guard.0.stderr.take().unwrap());
    log.wait_for(&format!("listening on unix:{path}"));
    (guard, log)
}

fn connect_to(path: &str) -> Client {
    let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    Client::new(OwnedFd::from(stream).into())
}

fn mode_of(path: &str) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

pub fn clients_on_a_unix_socket() {
    let folder = Folder::new("unix-clients");
    let path = folder.path("listen.sock");
    let upstream = answering(|head| match field(head, "upgrade") {
        Some(_) => switching(head),
        None => ok(&format!("for={:?}", field(head, "x-forwarded-for"))),
    });
    let bind = format!("unix:{path}");
    let upstream = upstream.to_string();
    let start = |more: &[&str]| {
        let mut command = program();
        command.args(["-b", &bind, "-u", &upstream, "-d", "-v", "--log-lang", "en"]);
        listening_on(&path, command.args(more))
    };
    let (mut guard, log) = start(&["--forwarded", "--threads", "2"]);
    assert_eq!(mode_of(&path), 0o660);
    for _ in 0..3 {
        let mut client = connect_to(&path);
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.response().text(), "for=Some(\"unknown\")");
        }
        client.upgrade("/ws");
    }
    log.wait_for("from unix");
    let mut client = connect_to(&path);
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.response().status(), 400);
    log.wait_for("request rejected: unix -> 400");
    // Otherwise the drain waits for its FIN.
    drop(client);
    // A socket in use is not replaced by another process.
    let second = program()
        .args(["-b", &bind, "-u", &upstream, "-d", "--log-lang", "en"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        told.contains(&format!("listen on {bind}: address already in use")),
        "{told}"
    );
    guard.signal("TERM");
    assert!(guard.wait().success());
    assert!(!std::path::Path::new(&path).exists());
    // A killed process leaves its socket, which the next one replaces.
    let (mut guard, _log) = start(&["--listen-mode", "600"]);
    assert_eq!(mode_of(&path), 0o600);
    guard.signal("KILL");
    guard.wait();
    assert!(std::path::Path::new(&path).exists());
    let (guard, _log) = start(&[]);
    connect_to(&path).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    drop(guard);
}

/// A program that inherits this listener, and its log.
fn start_with_inherited(listener: UnixListener) -> (Guard, Lines) {
    let upstream = answering(|_| ok("fine")).to_string();
    let tcp_like = std::net::TcpListener::from(OwnedFd::from(listener));
    let mut command = inheriting(&tcp_like, "", &["-u", &upstream, "--log-lang", "en"]);
    command.stderr(std::process::Stdio::piped());
    let mut guard = Guard::spawn(&mut command);
    let log = Lines::collect(guard.0.stderr.take().unwrap());
    (guard, log)
}

pub fn an_inherited_unix_socket() {
    let folder = Folder::new("unix-inherited");
    let path = folder.path("listen.sock");
    let (mut guard, log) = start_with_inherited(UnixListener::bind(&path).unwrap());
    log.wait_for(&format!("listening on unix:{path}"));
    let mut client = connect_to(&path);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "fine");
    // The service manager has to remove it.
    guard.signal("TERM");
    assert!(guard.wait().success());
    assert!(std::path::Path::new(&path).exists());
}

/// `ListenStream=@NAME` of systemd: the log did not show the name. Only Linux has such sockets.
pub fn an_inherited_abstract_unix_socket() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};
    let name = format!("simple-proxy-{}-inherited", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let (_guard, log) = start_with_inherited(UnixListener::bind_addr(&address).unwrap());
    log.wait_for(&format!("listening on unix:@{name}"));
    let stream = UnixStream::connect_addr(&address).unwrap();
    let mut client = Client::new(OwnedFd::from(stream).into());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "fine");
}

/// Listed with the peers, since it creates a network namespace: a link-local address.
pub fn a_link_local_upstream_is_dialled_on_its_link() {
    for (zone, stage, cause) in [
        ("lo", "connect", "connection refused"),
        ("1", "connect", "connection refused"),
        ("none", "resolve", "no such network interface"),
    ] {
        // The kernel takes a moment to add the route of a new address.
        let script = "ip link set lo up && ip addr add fe80::1/64 dev lo nodad && \
             for n in $(seq 200); do \
             ip -6 route get fe80::1 oif lo >/dev/null 2>&1 && break; sleep 0.05; done; \
             exec \"$@\"";
        let mut command = cleaned(std::process::Command::new("unshare"));
        command.args(["-n", "sh", "-c", script, "sh", PROGRAM, "--check"]);
        let upstream = format!("[fe80::1%{zone}]:80");
        command.args(["-d", "-u", &upstream, "--log-lang", "en"]);
        // Even a route that the kernel lists may not work yet, so this is tried again.
        let mut attempts = (0..20).map(|_| command.output().unwrap());
        let is_carried = |output: &std::process::Output| {
            !String::from_utf8_lossy(&output.stdout).contains("network is unreachable")
        };
        let output = attempts.find(is_carried).expect("a usable route");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        let failed = format!("failed: [{stage}] {upstream}: {cause}");
        assert!(text.contains(&failed), "no {failed:?} in:\n{text}{errors}");
        assert!(
            text.contains(&format!("route direct to {upstream}")),
            "{text}"
        );
    }
}
