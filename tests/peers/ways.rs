//! Routes to an upstream as they occur in practice: a SOCKS5 proxy on a unix socket as the only
//! way out, gunicorn on a unix socket, and two proxies of which one fails.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::process::{kill_process_group, Pid, Signal};

use super::needs::{trial, Need};
use super::nginx::FIVE_MIB;
use super::process::*;
use super::proxies::Proxying;
use super::websockets::{websocket_origin, MESSAGE};
use crate::support::*;

pub fn trials() -> Vec<Trial> {
    let tor = ["microsocks", "curl", "unshare"].map(Need::Command);
    let gunicorn = ["gunicorn", "curl"].map(Need::Command);
    let both = ["microsocks", "danted"].map(Need::Command);
    vec![
        trial(
            "a_socks_socket_is_the_only_way_out",
            &[&tor[..], &[Need::NetworkNamespace]].concat(),
            a_socks_socket_is_the_only_way_out,
        ),
        trial(
            "gunicorn_on_a_unix_socket",
            &gunicorn,
            gunicorn_on_a_unix_socket,
        ),
        trial(
            "curl_and_a_websocket_over_a_unix_socket",
            &[
                Need::Command("curl"),
                Need::Python("websocket"),
                Need::Python("websockets"),
            ],
            curl_and_a_websocket_over_a_unix_socket,
        ),
        trial("microsocks_before_dante_under_load", &both, || {
            one_of_two_fails([Proxying::Microsocks, Proxying::Dante])
        }),
        trial("dante_before_microsocks_under_load", &both, || {
            one_of_two_fails([Proxying::Dante, Proxying::Microsocks])
        }),
    ]
}

/// Clients that reach the program through a unix socket.
fn curl_and_a_websocket_over_a_unix_socket() {
    let origin = websocket_origin(false);
    let folder = open_folder("listen");
    let path = folder.path("listen.sock");
    let mut proxy = program();
    proxy.args([
        "-b",
        &format!("unix:{path}"),
        "--direct",
        "--log-lang",
        "en",
    ]);
    proxy.args(["-u", &origin.address.to_string()]);
    proxy.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut proxy = Guard::spawn(&mut proxy);
    let log = Lines::collect(proxy.0.stderr.take().expect("a pipe"));
    log.wait_for(&format!("listening on unix:{path}"));
    let said = curl_text(&["--unix-socket", &path, "http://app.example/x"]);
    assert_eq!(said, "path=/x host=app.example\n");
    let mut client = python("client.py");
    client.args(["ws://app.example/ws", MESSAGE, &path]);
    let said = run("client", &mut client, 2 * PATIENCE).output;
    assert_eq!(String::from_utf8_lossy(&said), format!("{MESSAGE}\n"));
    // A client of a unix socket has no address.
    let done = log.wait_for("GET /x -> 200");
    assert!(done.contains("unix"), "{done}");
}

/// Relays every connection to a unix socket to a TCP address, so that a SOCKS5 proxy can be
/// reached by a unix socket, as Tor can.
fn unix_to_tcp(path: &str, address: SocketAddr) {
    let listener = UnixListener::bind(path).expect("a new path");
    open_to_all(Path::new(path), 0o666);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = OwnedFd::from(client.expect("a client"));
            let server = TcpStream::connect(address).expect("it listens");
            thread::spawn(move || splice(Client::new(client.into()), Client::new(server)));
        }
    });
}

/// In a network namespace like that of systemd's `PrivateNetwork=`, where here even the loopback
/// interface is down, the program talks to clients and the proxy over unix sockets.
fn a_socks_socket_is_the_only_way_out() {
    let upstream = origin(echo);
    let microsocks = Proxying::Microsocks.start(false);
    let folder = open_folder("only-way");
    let socks = folder.path("socks");
    unix_to_tcp(&socks, microsocks.address);
    let start = |name: &str, route: &[&str]| {
        let path = folder.path(name);
        let mut command = command("unshare");
        command.args(["-n", PROGRAM, "--log-lang", "en", "-b"]);
        // The proxy resolves the name: no resolver can be reached from the namespace.
        let upstream = format!("localhost:{}", upstream.port());
        command.args([&format!("unix:{path}"), "-u", &upstream]);
        let process = Process::spawn("program", open_folder("program"), command.args(route));
        process.waits_to_say("listening on unix:");
        (process, path)
    };
    let url = format!("socks5h://localhost{socks}");
    let (_program, path) = start("listens", &["-s", &url]);
    let asked = curl_text(&["--unix-socket", &path, "http://a.example/page"]);
    assert_eq!(asked, "path=/page host=a.example\n");
    let stream = OwnedFd::from(UnixStream::connect(&path).expect("it listens"));
    let mut client = Client::new(stream.into());
    client.upgrade("/chat");
    for _ in 0..3 {
        client.send_bytes(&frame(MESSAGE.as_bytes(), Some(*b"mask")));
        assert_eq!(client.frame().as_deref(), Some(MESSAGE.as_bytes()));
    }
    // A direct connection is impossible.
    let (_program, path) = start("direct", &["--direct"]);
    let status = ["-o", "/dev/null", "-w", "%{http_code}"];
    let asked = curl_text(&[&status[..], &["--unix-socket", &path, "http://a/"]].concat());
    assert_eq!(asked, "502");
}

/// Answers with the request that it received, or with a stream.
const GUNICORN_APPLICATION: &str = "
def application(environ, start_response):
    length = 0
    while True:
        part = environ['wsgi.input'].read(65536)
        if not part:
            break
        length += len(part)
    if environ['PATH_INFO'] == '/stream':
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return (b'%d ' % n for n in range(1000))
    seen = '%s %s %d' % (environ['REQUEST_METHOD'], environ['HTTP_HOST'], length)
    start_response('200 OK', [('Content-Length', str(len(seen)))])
    return [seen.encode()]
";

fn gunicorn_on_a_unix_socket() {
    for worker in ["sync", "gthread"] {
        let gunicorn = Server::start("gunicorn", free_address, |folder, address| {
            folder.write("app.py", GUNICORN_APPLICATION);
            let mut command = command("gunicorn");
            command.args(["--chdir", &folder.path("."), "app:application"]);
            command.args(["--worker-class", worker, "--workers", "2"]);
            command.args(["--threads", "4", "--keep-alive", "1"]);
            command.args(["--bind", &format!("unix:{}", folder.path("socket"))]);
            command.args([
                "--bind",
                &address.to_string(),
                "--worker-tmp-dir",
                "/dev/shm",
            ]);
            command
        });
        let socket = gunicorn.process.folder.path("socket");
        let proxy = Tested::start(format!("unix:{socket}"), &[]);
        let host = ["-H", "Host: app.example"];
        let ask =
            |more: &[&str], path: &str| curl_text(&[&host[..], more, &[&proxy.url(path)]].concat());
        assert_eq!(ask(&[], "/"), "GET app.example 0");
        let body = gunicorn.process.folder.write("body", &"x".repeat(FIVE_MIB));
        let seen = format!("PUT app.example {FIVE_MIB}");
        assert_eq!(ask(&["-T", &body], "/"), seen);
        let chunked = ["-H", "Transfer-Encoding: chunked"];
        assert_eq!(ask(&[&chunked[..], &["-T", &body]].concat(), "/"), seen);
        let streamed: String = (0..1000).map(|n| format!("{n} ")).collect();
        assert_eq!(ask(&[], "/stream"), streamed);
        // gunicorn closes an idle connection after a second; no request uses a closed one.
        let mut client = proxy.0.connect();
        for n in 0..60 {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
            let response = client.response();
            assert_eq!((response.status(), n), (200, n), "{}", response.text());
            assert_eq!(response.text(), "POST a 2");
            if n % 20 == 19 {
                thread::sleep(Duration::from_millis(1100));
            }
        }
    }
}

/// The address that a proxy dials from; it is different for each proxy.
fn leaves_from(via: Proxying) -> IpAddr {
    match via {
        Proxying::Microsocks => Ipv4Addr::new(127, 0, 0, 7).into(),
        _ => Ipv4Addr::new(127, 0, 0, 8).into(),
    }
}

/// Starts a proxy at an address, or at a new one.
fn start_at(via: Proxying, address: Option<SocketAddr>) -> Server {
    start_with(via, address, |conf| conf)
}

/// The same with a configuration file, if it has one, that `change` has edited.
fn start_with(
    via: Proxying,
    address: Option<SocketAddr>,
    change: impl Fn(String) -> String,
) -> Server {
    let choose = || address.unwrap_or_else(free_address);
    Server::start(via.command(), choose, |folder, address| {
        let from = leaves_from(via).to_string();
        let mut command = via.prepare(folder, address, false);
        match via {
            Proxying::Microsocks => drop(command.args(["-b", &from])),
            _ => {
                let conf = folder.path("conf");
                let text = read(&conf).replace("external: lo", &format!("external: {from}"));
                fs::write(conf, change(text)).expect("it was written before");
            }
        }
        command
    })
}

/// Clients send requests without a pause, each on a newly dialled upstream connection, while one
/// proxy after the other is killed, restarted, and stopped. No request fails that begins while
/// one of them works, and none bypasses them.
fn one_of_two_fails(order: [Proxying; 2]) {
    const CLIENTS: usize = 6;
    // How many connections came from each of the two, and from any other address.
    let came: Arc<[AtomicUsize; 3]> = Arc::default();
    let counts = came.clone();
    let upstream = origin(move |mut client| {
        let from = client.socket.peer_addr().expect("a client").ip();
        let known = order.iter().position(|via| from == leaves_from(*via));
        counts[known.unwrap_or(2)].fetch_add(1, Ordering::SeqCst);
        let Some(head) = client.try_head() else {
            return;
        };
        if field(&head, "upgrade").is_some() {
            client.send(&switching(&head));
            while let Some(payload) = client.frame() {
                client.send_bytes(&frame(&payload, None));
            }
            return;
        }
        client.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    });
    let mut servers = order.map(|via| Some(start_at(via, None)));
    let addresses = servers
        .each_ref()
        .map(|server| server.as_ref().expect("it was started").address);
    let urls = addresses.map(|address| format!("socks5://{address}"));
    let flags = ["--socks-proxy", &urls.join(","), "--connect-timeout", "6"];
    let proxy = Tested::start(upstream, &flags.map(str::to_owned));
    let target = proxy.0.address;
    // Each request holds a read lock, so that none is under way while a proxy is signalled.
    let gate = RwLock::new(());
    let served = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    let ask = |n: usize| {
        let mut client = Client::connect(target);
        if n % 2 == 0 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            return client.response().head;
        }
        client.send(&upgrade_request("/chat"));
        let head = client.head();
        if head.starts_with("HTTP/1.1 101 ") {
            client.send_bytes(&frame(b"hi", Some(*b"mask")));
            assert_eq!(client.frame().as_deref(), Some(&b"hi"[..]));
        }
        head
    };
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (gate, served, over) = (&gate, &served, &over);
            let (failures, ask) = (&failures, &ask);
            scope.spawn(move || {
                let mut n = client;
                while !over.load(Ordering::SeqCst) {
                    let head = {
                        let _under_way = gate.read().unwrap_or_else(PoisonError::into_inner);
                        ask(n)
                    };
                    if !(head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.1 101 ")) {
                        failures.lock().expect("no panic").push(head);
                    }
                    served.fetch_add(1, Ordering::SeqCst);
                    n += 1;
                    // Gives the writer a chance to take the lock.
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
        let ends = Over(&over);
        let some_are_served = |what: &str| {
            let before = served.load(Ordering::SeqCst);
            let enough = || (served.load(Ordering::SeqCst) >= before + 60).then_some(());
            assert!(poll(2 * PATIENCE, enough).is_some(), "{what}: no progress");
            let failures = failures.lock().expect("no panic");
            assert_eq!(*failures, Vec::<String>::new(), "{what}");
        };
        let send = |server: &Option<Server>, signal: Signal| {
            let server = server.as_ref().expect("it runs");
            let group = Pid::from_child(&server.process.guard.0);
            kill_process_group(group, signal).expect("it runs");
            let is_over =
                || (signal != Signal::KILL || server.process.ended().is_some()).then_some(());
            assert!(poll(PATIENCE, is_over).is_some(), "it ends");
        };
        let signal = |server: &Option<Server>, signal: Signal| {
            let _nothing_is_under_way = gate.write().unwrap_or_else(PoisonError::into_inner);
            send(server, signal);
        };
        let serves = |n: usize| {
            let before = came[n].load(Ordering::SeqCst);
            let is_used = || (came[n].load(Ordering::SeqCst) > before).then_some(());
            let name = order[n].command();
            assert!(poll(PATIENCE, is_used).is_some(), "{name} is not used");
            some_are_served(&format!("{name} is used"));
        };
        serves(0);
        signal(&servers[0], Signal::KILL);
        serves(1);
        servers[0] = None;
        servers[0] = Some(start_at(order[0], Some(addresses[0])));
        // The first serves again after a probe.
        serves(0);
        signal(&servers[0], Signal::STOP);
        serves(1);
        signal(&servers[0], Signal::CONT);
        serves(0);
        // Restarted with a rule that refuses every client. microsocks can only refuse logins,
        // after which no other proxy is tried.
        if order[0] == Proxying::Dante {
            {
                let _nothing_is_under_way = gate.write().unwrap_or_else(PoisonError::into_inner);
                send(&servers[0], Signal::KILL);
                servers[0] = None;
                let refusing = |conf: String| conf.replace("client pass", "client block");
                servers[0] = Some(start_with(order[0], Some(addresses[0]), refusing));
            }
            serves(1);
            signal(&servers[0], Signal::KILL);
            servers[0] = None;
            servers[0] = Some(start_at(order[0], Some(addresses[0])));
            serves(0);
        }
        // The second takes over, and is stopped while the first is still passed over.
        signal(&servers[0], Signal::KILL);
        serves(1);
        servers[0] = None;
        servers[0] = Some(start_at(order[0], Some(addresses[0])));
        signal(&servers[1], Signal::STOP);
        serves(0);
        signal(&servers[1], Signal::CONT);
        some_are_served("both serve again");
        signal(&servers[1], Signal::KILL);
        serves(0);
        servers[1] = None;
        servers[1] = Some(start_at(order[1], Some(addresses[1])));
        signal(&servers[0], Signal::KILL);
        serves(1);
        drop(ends);
    });
    drop(servers);
    let response = proxy.0.get("/");
    assert_eq!(response.status(), 502, "{}", response.text());
    assert_eq!(
        came[2].load(Ordering::SeqCst),
        0,
        "connections past both proxies"
    );
}

/// Stops the clients on drop, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
