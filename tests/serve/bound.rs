//! Authentication of a connection (NTLM, Negotiate): which requests are served as which user.

use libtest_mimic::Trial;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        an_authenticated_connection_serves_one_client_only,
        a_request_between_two_steps_of_a_login_is_not_authenticated,
        a_websocket_opens_after_a_login,
        an_upgrade_followed_by_bytes_is_closed_by_401,
        the_end_of_the_upstream_connection_ends_the_clients,
        the_end_of_the_client_connection_ends_the_upstreams,
        a_response_with_close_ends_both_connections,
        a_login_over_tls_is_for_one_name,
        concurrent_logins_and_strangers_do_not_mix,
        a_challenge_without_a_login_does_not_bind,
    ]
}

const LOGGED_OUT: &str = "nobody";

/// The state of an origin that authenticates connections.
struct Login {
    scheme: &'static str,
    user: String,
}

impl Login {
    fn new(scheme: &'static str) -> Login {
        Login {
            scheme,
            user: LOGGED_OUT.to_owned(),
        }
    }

    /// The first step of a login gets a challenge; the second, `t3-NAME`, authenticates the
    /// connection as NAME. Other requests are answered as the user of the connection.
    fn answer(&mut self, head: &str) -> String {
        let challenge = |more: &str| {
            let scheme = self.scheme;
            format!(
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {scheme}{more}\r\n\
                 Content-Length: 6\r\n\r\nnobody"
            )
        };
        let credentials = field(head, "authorization").unwrap_or_default().to_owned();
        match credentials.split_once(' ') {
            Some((_, "t1")) => return challenge(" dGhlIGNoYWxsZW5nZQ=="),
            Some((_, last)) => self.user = last.strip_prefix("t3-").unwrap().to_owned(),
            None => {}
        }
        if self.user == LOGGED_OUT {
            return challenge("");
        }
        match field(head, "upgrade") {
            Some(_) => switching(head),
            None => ok(&self.user),
        }
    }
}

/// An origin that authenticates connections, and reports the end of each.
fn origin_with_login(scheme: &'static str) -> (SocketAddr, Receiver<String>) {
    let (ended, ends) = channel();
    let ended = Mutex::new(ended);
    let address = origin(move |client| {
        let user = serve(client, Login::new(scheme));
        let _ = ended.lock().unwrap().send(user);
    });
    (address, ends)
}

/// Answers until the end, or echoes after a 101; returns the connection's user.
fn serve(mut client: Client, mut login: Login) -> String {
    while let Some(head) = client.try_head() {
        if let Some(length) = field(&head, "content-length") {
            client.exactly(length.parse().unwrap());
        }
        let answer = login.answer(&head);
        client.send(&answer);
        if answer.starts_with("HTTP/1.1 101") {
            while let Some(payload) = client.frame() {
                client.send_bytes(&frame(&payload, None));
            }
        }
        if head.contains(" /leave ") {
            break;
        }
    }
    login.user
}

/// Sends a request with these credentials, if any; returns status and body.
fn ask(client: &mut Client, credentials: &str) -> (u16, String) {
    ask_for(client, "/", credentials)
}

fn ask_for(client: &mut Client, path: &str, credentials: &str) -> (u16, String) {
    let credentials = match credentials {
        "" => String::new(),
        _ => format!("Authorization: {credentials}\r\n"),
    };
    client.send(&format!(
        "GET {path} HTTP/1.1\r\nHost: a.example\r\n{credentials}\r\n"
    ));
    let response = client.response();
    (response.status(), response.text())
}

/// A client that has logged in as `name`.
fn logged_in(proxy: &Proxy, scheme: &str, name: &str) -> Client {
    let mut client = proxy.connect();
    let refused = (401, LOGGED_OUT.to_owned());
    assert_eq!(ask(&mut client, ""), refused);
    assert_eq!(ask(&mut client, &format!("{scheme} t1")), refused);
    let last = format!("{scheme} t3-{name}");
    assert_eq!(ask(&mut client, &last), (200, name.to_owned()));
    client
}

pub fn an_authenticated_connection_serves_one_client_only() {
    for scheme in ["NTLM", "Negotiate", "negotiate", "nTLm"] {
        let (upstream, _ends) = origin_with_login(scheme);
        let proxy = Proxy::before(upstream, &["-d", "--threads", "1"]);
        let mut alice = logged_in(&proxy, scheme, "alice");
        for _ in 0..3 {
            let mut stranger = proxy.connect();
            for _ in 0..2 {
                assert_eq!(ask(&mut stranger, ""), (401, LOGGED_OUT.to_owned()));
            }
            assert_eq!(ask(&mut alice, ""), (200, "alice".to_owned()));
        }
        drop(alice);
        assert_eq!(proxy.get("/").status(), 401, "{scheme}");
    }
}

pub fn a_request_between_two_steps_of_a_login_is_not_authenticated() {
    let (upstream, _ends) = origin_with_login("Negotiate");
    let proxy = Proxy::before(upstream, &["-d", "--threads", "1"]);
    let mut alice = proxy.connect();
    let mut stranger = proxy.connect();
    let nobody = (401, LOGGED_OUT.to_owned());
    assert_eq!(ask(&mut alice, "Negotiate t1"), nobody);
    assert_eq!(ask(&mut stranger, ""), nobody);
    let alices = (200, "alice".to_owned());
    assert_eq!(ask(&mut alice, "Negotiate t3-alice"), alices);
    assert_eq!(ask(&mut stranger, ""), nobody);
    // Another login on the same connection.
    assert_eq!(ask(&mut alice, "Negotiate t3-carol"), (200, "carol".into()));
    assert_eq!(ask(&mut stranger, ""), nobody);
}

pub fn a_websocket_opens_after_a_login() {
    let (upstream, ends) = origin_with_login("NTLM");
    let proxy = Proxy::before(upstream, &["-d", "--threads", "1"]);
    let mut client = proxy.connect();
    let handshake = upgrade_request("/ws");
    let with = |credentials: &str| {
        let field = format!("\r\nAuthorization: {credentials}\r\n\r\n");
        handshake.replace("\r\n\r\n", &field)
    };
    client.send(&handshake);
    assert_eq!(client.response().status(), 401);
    client.send(&with("NTLM t1"));
    assert_eq!(client.response().status(), 401);
    client.send(&with("NTLM t3-alice"));
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.send_bytes(&frame(b"hello", MASK));
    assert_eq!(client.frame().unwrap(), b"hello");
    assert_eq!(proxy.get("/").status(), 401);
    drop(client);
    // The first end is that of the refused upgrade; the connection of the plain request is still
    // kept.
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), "nobody");
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), "alice");
}

/// The bytes would be taken for the next request.
pub fn an_upgrade_followed_by_bytes_is_closed_by_401() {
    let (upstream, _ends) = origin_with_login("NTLM");
    let proxy = Proxy::before(upstream, &["-d"]);
    let mut client = proxy.connect();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";
    client.send(&(upgrade_request("/ws") + smuggled));
    let response = client.response();
    assert_eq!(response.status(), 401);
    assert_eq!(response.field("connection"), Some("close"));
    assert!(client.is_closed());
}

pub fn the_end_of_the_upstream_connection_ends_the_clients() {
    let (upstream, ends) = origin_with_login("NTLM");
    let proxy = Proxy::before(upstream, &["-d"]);
    let mut alice = logged_in(&proxy, "NTLM", "alice");
    let answer = ask_for(&mut alice, "/leave", "");
    assert_eq!(answer, (200, "alice".to_owned()));
    assert!(alice.is_closed());
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), "alice");
}

pub fn the_end_of_the_client_connection_ends_the_upstreams() {
    let (upstream, ends) = origin_with_login("NTLM");
    let proxy = Proxy::before(upstream, &["-d"]);
    let alice = logged_in(&proxy, "NTLM", "alice");
    alice.end_sending();
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), "alice");
    let bob = logged_in(&proxy, "NTLM", "bob");
    bob.reset();
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), "bob");
}

pub fn a_response_with_close_ends_both_connections() {
    let upstream = origin(|mut client| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi");
        client.rest_or_reset();
    });
    let proxy = Proxy::before(upstream, &["-d"]);
    let mut client = proxy.connect();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: NTLM t1\r\n\r\n";
    client.send(request);
    let response = client.response();
    assert_eq!(response.field("connection"), Some("close"));
    assert!(client.is_closed());
}

/// A proxy in front may request several hosts over one connection; credentials for one are sent
/// to no other.
pub fn a_login_over_tls_is_for_one_name() {
    let acceptor = Certificate::new("a.example").acceptor();
    let upstream = origin(move |client| {
        if let Some(client) = client.accept_tls(&acceptor) {
            serve(client, Login::new("NTLM"));
        }
    });
    let proxy = Proxy::before(upstream, &["-d", "--tls", "on", "--threads", "1"]);
    let mut alice = logged_in(&proxy, "NTLM", "alice");
    alice.send("GET / HTTP/1.1\r\nHost: b.example\r\n\r\n");
    assert_eq!(alice.response().status(), 401);
    assert_eq!(ask(&mut alice, ""), (200, "alice".to_owned()));
    assert_eq!(proxy.get("/").status(), 401);
}

pub fn concurrent_logins_and_strangers_do_not_mix() {
    const CLIENTS: usize = 6;
    const LOGINS: usize = 15;
    let (upstream, _ends) = origin_with_login("NTLM");
    let proxy = Proxy::before(upstream, &["-d", "--threads", "2"]);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let proxy = &proxy;
            scope.spawn(move || {
                for login in 0..LOGINS {
                    let name = format!("user-{number}-{login}");
                    let mut client = logged_in(proxy, "NTLM", &name);
                    assert_eq!(ask(&mut client, ""), (200, name.clone()));
                }
            });
            scope.spawn(move || {
                for _ in 0..LOGINS {
                    let mut stranger = proxy.connect();
                    assert_eq!(ask(&mut stranger, "").0, 401);
                    assert_eq!(ask(&mut stranger, "").0, 401);
                }
            });
        }
    });
}

pub fn a_challenge_without_a_login_does_not_bind() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let upstream = origin(move |client| {
        count.fetch_add(1, SeqCst);
        serve(client, Login::new("Negotiate"));
    });
    let proxy = Proxy::before(upstream, &["-d", "--threads", "1"]);
    for _ in 0..5 {
        assert_eq!(proxy.get("/").status(), 401);
    }
    assert_eq!(connections.load(SeqCst), 1);
}
