//! Which clients are served while others hold connections, flood, or stay silent.

use libtest_mimic::Trial;
use std::time::{Duration, Instant};

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        a_flood_for_a_client_that_has_reset_does_not_delay_others,
        the_longest_idle_client_gives_way,
        silent_clients_and_unfinished_heads_give_way_first,
        busy_clients_are_never_disconnected,
        beyond_the_limit_a_head_is_read_and_health_is_answered,
        a_client_that_leaves_while_waiting_for_a_slot_frees_its_place,
        sixteen_waiting_clients_are_served_when_a_tunnel_ends,
        waiting_clients_get_slots_in_order,
        silent_readers_of_the_metrics_do_not_delay_others,
        only_clients_that_are_allowed_are_served,
        a_limit_above_the_limit_of_descriptors_is_lowered,
        a_loop_is_refused,
        signals_end_the_program_or_are_ignored,
        a_terminal_that_is_closed_ends_the_program,
    ]
}

/// Bytes for a client that had left were discarded without yielding to other tasks, for as long
/// as an upstream over TLS went on sending.
pub fn a_flood_for_a_client_that_has_reset_does_not_delay_others() {
    // Generous: a flood without yielding could block the thread for up to 15 s.
    const BOUND: Duration = Duration::from_secs(5);
    let upstream = tls_origin("origin.test", |mut client| {
        let head = client.head();
        if field(&head, "upgrade").is_some() {
            client.send(&switching(&head));
            let flood = vec![0x5a; 256 * 1024];
            while client.try_send(&flood) {}
        }
    });
    let args = ["--tls", "on", "--threads", "1", "--health-path", "/healthz"];
    let proxy = Proxy::before(upstream, &args);
    let mut clients: Vec<Client> = (0..8).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.upgrade("/");
    }
    let mut other = proxy.connect();
    for client in clients {
        client.reset();
    }
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let asked = Instant::now();
        other.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(other.response().status(), 200);
        longest = longest.max(asked.elapsed());
    }
    assert!(longest < BOUND, "{longest:?}");
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";

/// Far less than the timeouts of an idle client, and far more than it should take.
const SOON: Duration = Duration::from_secs(20);

/// The program with a limit on connections, before an upstream that answers at once and echoes
/// WebSockets.
fn limited(limit: &str, more: &[&str]) -> Proxy {
    let args = ["--max-connections", limit, "--health-path", "/healthz"];
    Proxy::before(origin(echo), &[&args, more].concat())
}

/// A client that has had one response, on a connection that stays open.
fn kept(proxy: &Proxy) -> Client {
    let mut client = proxy.connect();
    client.send(GET);
    assert_eq!(client.response().status(), 200);
    client
}

/// Waits more than the second after which an idle client may be closed.
fn a_second_passes() {
    std::thread::sleep(Duration::from_millis(1200));
}

/// Whether a connection has ended.
fn has_ended(client: &Client) -> bool {
    client.socket.set_nonblocking(true).unwrap();
    let peeked = client.socket.peek(&mut [0]);
    client.socket.set_nonblocking(false).unwrap();
    matches!(peeked, Ok(0)) || peeked.is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock)
}

/// A new client waited for the 75 s of an idle client's timeout.
pub fn the_longest_idle_client_gives_way() {
    for threads in ["1", "4"] {
        let proxy = limited("5", &["--threads", threads]);
        let mut idle: Vec<Client> = (0..5).map(|_| kept(&proxy)).collect();
        a_second_passes();
        // The first is now the most recently used.
        idle[0].send(GET);
        assert_eq!(idle[0].response().status(), 200);
        let asked = Instant::now();
        let mut new = kept(&proxy);
        assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
        new.send(HEALTH);
        assert_eq!(new.response().status(), 200);
        wait_until("one gave way", || idle.iter().any(has_ended));
        let ended: Vec<bool> = idle.iter().map(has_ended).collect();
        // With several threads, each closes a connection of its own before it asks the others.
        if threads == "1" {
            assert_eq!(ended, [false, true, false, false, false]);
        }
    }
}

pub fn silent_clients_and_unfinished_heads_give_way_first() {
    let proxy = limited("3", &["--threads", "1", "--head-timeout", "600"]);
    let idle = kept(&proxy);
    let mut unfinished = proxy.connect();
    unfinished.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    let silent = proxy.connect();
    a_second_passes();
    let first = kept(&proxy);
    wait_until("the silent one gave way", || has_ended(&silent));
    assert_eq!([&idle, &unfinished].map(has_ended), [false, false]);
    // A head that was begun has five seconds.
    std::thread::sleep(Duration::from_millis(4300));
    drop(first);
    let tunnel = |mut client: Client| {
        client.upgrade("/");
        client
    };
    let _held = tunnel(proxy.connect());
    let _second = tunnel(proxy.connect());
    wait_until("the unfinished head gave way", || has_ended(&unfinished));
    assert!(!has_ended(&idle));
    let _third = tunnel(proxy.connect());
    wait_until("the idle one gave way", || has_ended(&idle));
}

/// With nginx, nearly every second request of 100 busy clients on 64 slots met a closed
/// connection.
pub fn busy_clients_are_never_disconnected() {
    let proxy = limited("60", &["--threads", "2"]);
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let address = proxy.address;
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                for _ in 0..60 {
                    client.send(GET);
                    // Fails the test if the connection has ended without a response.
                    let response = client.response();
                    assert_eq!(response.status(), 200);
                    if response.field("connection") == Some("close") {
                        client = Client::connect(address);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("no request meets a closed connection");
    }
}

/// Sixteen clients beyond the limit are accepted to read their heads.
pub fn beyond_the_limit_a_head_is_read_and_health_is_answered() {
    let proxy = limited("2", &[&["--threads", "1"], &METRICS[..]].concat());
    proxy.log.wait_for("connection limit: 2");
    let page = || proxy.metrics_page();
    let mut tunnels: Vec<Client> = (0..2).map(|_| proxy.connect()).collect();
    for tunnel in &mut tunnels {
        tunnel.upgrade("/");
    }
    let mut waiting = proxy.connect();
    waiting.send(GET);
    wait_until("one waits", || page().contains("connections_waiting 1\n"));
    assert!(page().contains("connections_limit 2\n"));
    proxy.log.wait_for("(--max-connections)");
    let response = proxy.fetch(HEALTH);
    assert_eq!(response.status(), 200);
    assert_eq!(response.field("connection"), Some("close"));
    // Any number of silent clients, while none within the limit gives way.
    let silent: Vec<Client> = (0..20).map(|_| proxy.connect()).collect();
    a_second_passes();
    let asked = Instant::now();
    assert_eq!(proxy.fetch(HEALTH).status(), 200);
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    wait_until("the oldest gave way", || has_ended(&silent[0]));
    assert!(!has_ended(&waiting));
    tunnels.pop();
    assert_eq!(waiting.response().status(), 200);
    assert!(page().contains("connections_waiting 0\n"));
    let told = proxy.log.text().matches("(--max-connections)").count();
    assert_eq!(told, 1, "once a minute at most");
}

/// Clients that had left held all places beyond the limit until the response timeout, and the
/// health path was not answered.
pub fn a_client_that_leaves_while_waiting_for_a_slot_frees_its_place() {
    let (asked, asks) = std::sync::mpsc::channel();
    let asked = std::sync::Mutex::new(asked);
    let upstream = origin(move |mut client| {
        let head = client.head();
        match field(&head, "upgrade") {
            Some(_) => {
                client.send(&switching(&head));
                client.rest_or_reset();
            }
            None => asked.lock().unwrap().send(head).unwrap(),
        }
    });
    let args = ["--max-connections", "1", "--health-path", "/healthz"];
    let proxy = Proxy::before(upstream, &[&args[..], &["--log-lang", "en"]].concat());
    let mut tunnel = proxy.connect();
    tunnel.upgrade("/");
    let mut gone = Vec::new();
    for _ in 0..2 {
        let clients: Vec<Client> = (0..16).map(|_| proxy.connect()).collect();
        for mut client in clients {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1");
            client.end_sending();
            gone.push(client);
        }
    }
    let asked = Instant::now();
    assert_eq!(proxy.fetch(HEALTH).status(), 200);
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    proxy.log.wait_for_count("closed before its response", 32);
    drop(tunnel);
    proxy.fetch(GET);
    let first = asks.recv_timeout(PATIENCE).expect("a request");
    assert!(
        first.starts_with("GET "),
        "the request of a client that had left was sent: {first}"
    );
}

/// Tunnels never give way, and neither do clients whose heads are read: later clients wait to be
/// accepted, and are served in order once a tunnel has ended.
pub fn sixteen_waiting_clients_are_served_when_a_tunnel_ends() {
    for threads in ["1", "4"] {
        let proxy = limited("2", &[&["--threads", threads], &METRICS[..]].concat());
        let page = || proxy.metrics_page();
        let mut tunnels: Vec<Client> = (0..2).map(|_| proxy.connect()).collect();
        for tunnel in &mut tunnels {
            tunnel.upgrade("/");
        }
        let mut waiting: Vec<Client> = (0..16).map(|_| proxy.connect()).collect();
        for client in &mut waiting {
            client.send(GET);
        }
        wait_until("sixteen wait", || {
            page().contains("connections_waiting 16\n")
        });
        let more: Vec<Client> = [HEALTH, GET, HEALTH]
            .into_iter()
            .map(|request| {
                let mut client = proxy.connect();
                client.send(request);
                client
            })
            .collect();
        a_second_passes();
        let all = || tunnels.iter().chain(&waiting).chain(&more);
        assert!(!all().any(has_ended), "a waiting client was disconnected");
        // Waiting clients do not delay a tunnel.
        tunnels[0].send_bytes(&frame(b"on", MASK));
        assert_eq!(tunnels[0].frame().as_deref(), Some(&b"on"[..]));
        tunnels.pop();
        let freed = Instant::now();
        // In any order; each frees its slot once it has been answered.
        let answered = |mut client: Client| {
            std::thread::spawn(move || assert_eq!(client.response().status(), 200))
        };
        let clients = waiting.into_iter().chain(more);
        let answered: Vec<_> = clients.map(answered).collect();
        for client in answered {
            client.join().expect("an answer");
        }
        assert!(freed.elapsed() < SOON, "{:?}", freed.elapsed());
        assert!(page().contains("connections_waiting 0\n"));
        tunnels[0].send_bytes(&frame(b"still", MASK));
        assert_eq!(tunnels[0].frame().as_deref(), Some(&b"still"[..]));
    }
}

/// The slot went to the first client that was polled, and a client that had just missed it went
/// to the end of the queue.
pub fn waiting_clients_get_slots_in_order() {
    const CLIENTS: usize = 12;
    for threads in ["1", "4"] {
        let (asked, asks) = std::sync::mpsc::channel();
        let asked = std::sync::Mutex::new(asked);
        let upstream = origin(move |mut client| {
            while let Some(head) = client.try_head() {
                if field(&head, "upgrade").is_some() {
                    client.send(&switching(&head));
                    client.rest_or_reset();
                    return;
                }
                let path = head.split(' ').nth(1).unwrap().to_owned();
                asked.lock().unwrap().send(path).unwrap();
                client.send(&ok("fine"));
            }
        });
        let args = ["--max-connections", "1", "--threads", threads];
        let proxy = Proxy::before(upstream, &[args, METRICS].concat());
        let waiting = |count: usize| {
            let gauge = format!("connections_waiting {count}\n");
            proxy.metrics_page().contains(&gauge)
        };
        let mut tunnel = proxy.connect();
        tunnel.upgrade("/");
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            let mut client = proxy.connect();
            client.send(&format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"));
            wait_until("it waits", || waiting(n + 1));
            clients.push(client);
        }
        drop(tunnel);
        for (n, mut client) in clients.into_iter().enumerate() {
            let first = asks.recv_timeout(PATIENCE).expect("a request");
            assert_eq!(first, format!("/{n}"), "on {threads} threads");
            assert_eq!(client.response().status(), 200);
        }
    }
}

/// The seventeenth reader waited for 30 s.
pub fn silent_readers_of_the_metrics_do_not_delay_others() {
    let proxy = limited("2", &METRICS);
    let metrics = proxy.metrics();
    let mut silent: Vec<Client> = (0..16).map(|_| Client::connect(metrics)).collect();
    let asked = Instant::now();
    for _ in 0..3 {
        let mut reader = Client::connect(metrics);
        reader.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(reader.response().status(), 200);
    }
    assert!(asked.elapsed() < SOON / 2, "{:?}", asked.elapsed());
    wait_until("the oldest gives way", || has_ended(&silent[0]));
    for client in &mut silent {
        assert!(client.is_closed(), "a response without a request");
    }
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
}

pub fn a_limit_above_the_limit_of_descriptors_is_lowered() {
    let args = [
        "-u",
        "127.0.0.1:9",
        "--max-connections",
        "100000",
        "--threads",
        "1",
    ];
    let mut command = behind_shell("ulimit -n 256;", &args);
    command.args(["--log-lang", "en"]);
    let proxy = Proxy::spawn(&mut command);
    let warning = proxy
        .log
        .wait_for("--max-connections 100000 is more than 256");
    let limit: usize = warning.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((1..=128).contains(&limit), "{warning}");
    proxy.log.wait_for(&format!("connection limit: {limit}"));
    // With very few descriptors, several clients are served all the same.
    let mut command = behind_shell("ulimit -n 40;", &args);
    let proxy = Proxy::spawn(&mut command);
    let warning = proxy.log.wait_for("--max-connections 100000 ");
    let limit: usize = warning.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((4..=20).contains(&limit), "{warning}");
    let mut clients: Vec<Client> = (0..limit).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    for client in &mut clients {
        assert_eq!(client.response().status(), 502);
    }
    let proxy = limited("2", &["--log-lang", "en"]);
    proxy.log.wait_for("connection limit: 2");
    assert!(!proxy.log.text().contains("lowered"));
}

/// A program that was its own upstream sent requests to itself until every slot was taken.
pub fn a_loop_is_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let literal = format!("127.0.0.1:{port}");
    let mut itself = inheriting(&listener, "", &["-u", &literal]);
    let refused = itself.output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("that this program listens on"), "{words}");
    let source = "simple-proxy: --upstream-host: 127.0.0.1:";
    assert!(words.starts_with(source), "{words}");
    let mut itself = inheriting(&listener, "", &[]);
    let refused = itself.env("UPSTREAM_HOST", &literal).output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        words.starts_with("simple-proxy: UPSTREAM_HOST: 127.0.0.1:"),
        "{words}"
    );
    assert!(words.contains("give the server behind it"), "{words}");
    // With a name, the loop is found when it is dialled.
    let name = format!("localhost:{port}");
    let mut itself = inheriting(&listener, "", &["-u", &name]);
    let proxy = Proxy::spawn_inheriting(&mut itself);
    let asked = Instant::now();
    let response = proxy.get("/");
    assert_eq!(response.status(), 502);
    let status = response.field("proxy-status").unwrap();
    assert!(status.ends_with("error=proxy_loop_detected"), "{status}");
    assert!(asked.elapsed() < SOON);
    // A unix socket, also by another path.
    let folder = Folder::new("loop");
    let (path, link) = (folder.path("listen.sock"), folder.path("link.sock"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for upstream in [&path, &link].map(|path| format!("unix:{path}")) {
        let bind = format!("unix:{path}");
        let refused = program()
            .args(["-d", "-b", &bind, "-u", &upstream])
            .output();
        let refused = refused.unwrap();
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{words}");
        let source = format!("simple-proxy: --upstream-host: {upstream} is the address that this");
        assert!(words.starts_with(&source), "{words}");
        assert!(!std::path::Path::new(&path).exists());
    }
}

pub fn signals_end_the_program_or_are_ignored() {
    let args = [
        "-u",
        "127.0.0.1:9",
        "-b",
        "127.0.0.1",
        "-p",
        "0",
        "--log-lang",
        "en",
    ];
    let spawn = |setup: &[&str]| {
        let mut command = cleaned(std::process::Command::new(setup[0]));
        command.args(&setup[1..]).arg(PROGRAM).args(args);
        Proxy::spawn(&mut command)
    };
    let mut proxy = spawn(&["env"]);
    proxy.guard.signal("QUIT");
    assert_eq!(proxy.guard.wait().code(), Some(0));
    proxy.log.wait_for("SIGQUIT: no new connections");
    // SIGHUP without a terminal is ignored. The parent of the tests may ignore it: see nohup(1).
    let proxy = spawn(&["env", "--default-signal=HUP", "setsid"]);
    proxy.guard.signal("HUP");
    proxy.log.wait_for("SIGHUP: ignored");
    assert_eq!(proxy.terminate().code(), Some(0));
    let proxy = spawn(&["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    proxy.guard.signal("HUP");
    assert_eq!(proxy.terminate().code(), Some(0));
}

/// script(1) gives the program a terminal, which closes when script is killed.
pub fn a_terminal_that_is_closed_ends_the_program() {
    let folder = Folder::new("terminal");
    let log = folder.path("log");
    let arguments = "-u 127.0.0.1:9 -b 127.0.0.1 -p 0 --log-lang en";
    let run = format!("trap - HUP; exec {PROGRAM} {arguments} 2>{log}");
    let mut script = cleaned(std::process::Command::new("env"));
    script.args(["--default-signal=HUP", "script", "-qec", &run, "/dev/null"]);
    script.stdin(std::process::Stdio::piped());
    let terminal = Guard::spawn(script.stdout(std::process::Stdio::null()));
    let says = |words: &str| {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains(words)
    };
    wait_until("it listens", || says("listening on"));
    terminal.signal("KILL");
    wait_until("it stops", || says("SIGHUP: no new connections"));
    wait_until("it has ended", || says("stopped, 0 connections"));
}

/// With a client at 127.0.0.1: one proxy serves only its neighbour, the other serves both.
pub fn only_clients_that_are_allowed_are_served() {
    let closed = ["--allow", "127.0.0.2", "-v"];
    let proxy = limited("9", &[&closed[..], &METRICS].concat());
    let mut client = proxy.connect();
    // The connection may be closed before the client has sent anything.
    let _ = client.try_send(GET.as_bytes());
    assert!(client.is_closed());
    proxy.log.wait_for("refused: not listed by --allow");
    // The port of the metrics is open to all.
    let page = proxy.metrics_page();
    assert!(page.contains("connections_not_allowed_total 1\n"), "{page}");
    let proxy = limited("9", &["--allow", "127.0.0.2", "--allow", "127.0.0.1/32"]);
    assert_eq!(proxy.get("/").status(), 200);
}
