//! Clients that use TLS: the handshake, what follows it, how it ends, and a certificate that
//! changes.

use libtest_mimic::Trial;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnectorBuilder, SslVersion};

use crate::check::check;
use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        requests_and_websockets_are_carried_over_both_versions,
        older_versions_and_other_protocols_are_refused,
        a_request_without_tls_is_answered_in_plain_text,
        the_origin_of_clients_is_https,
        one_port_does_not_bind_the_whole_host_to_tls,
        complete_responses_end_with_close_notify_and_truncated_ones_without,
        a_renewed_certificate_is_shown_to_new_connections,
        other_clients_are_served_between_the_steps_of_handshakes,
        incomplete_handshakes_end_in_time_and_give_way,
        a_client_that_leaves_is_noticed,
        an_upgrade_followed_by_bytes_is_closed_by_401,
        the_certificate_is_checked_at_the_start_and_shown,
    ]
}

const NAME: &str = "proxy.test";

const GET: &str = "GET / HTTP/1.1\r\nHost: proxy.test\r\n\r\n";

/// A program that serves TLS, and its certificate.
struct Secured {
    proxy: Proxy,
    certificate: Certificate,
    folder: Folder,
}

impl Secured {
    fn before(upstream: SocketAddr, folder: &str, args: &[&str]) -> Secured {
        let folder = Folder::new(folder);
        let certificate = Certificate::new(NAME);
        let files = [
            folder.write("cert.pem", &certificate.pem()),
            folder.write("key.pem", &certificate.key_pem()),
        ];
        // With a terminal SIGHUP would end the program, and the parent of the tests may ignore
        // it.
        let mut command = cleaned(std::process::Command::new("env"));
        command.args(["--default-signal=HUP", "setsid", PROGRAM]);
        command.args(["-d", "-b", "127.0.0.1", "-p", "0", "-u"]);
        command.arg(upstream.to_string());
        command.args(["--listen-cert", &files[0], "--listen-key", &files[1]]);
        let proxy = Proxy::spawn(command.args(args));
        Secured {
            proxy,
            certificate,
            folder,
        }
    }

    fn connect(&self) -> Client {
        self.connect_as(|_| {}).expect("a handshake")
    }

    fn connect_as(&self, prepare: impl FnOnce(&mut SslConnectorBuilder)) -> Result<Client, String> {
        let ssl = self.certificate.client(prepare);
        self.proxy.connect().connect_tls(ssl)
    }
}

fn upto(version: SslVersion) -> impl FnOnce(&mut SslConnectorBuilder) {
    move |builder| {
        // OpenSSL 3 would refuse the older versions itself.
        builder.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
        builder.set_min_proto_version(None).unwrap();
        builder.set_max_proto_version(Some(version)).unwrap();
    }
}

fn requests_and_websockets_are_carried_over_both_versions() {
    let secured = Secured::before(origin(echo), "tls-both", &[]);
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let mut client = secured.connect_as(upto(version)).expect("a handshake");
        for _ in 0..3 {
            client.send(GET);
            let response = client.response();
            assert_eq!(response.text(), "path=/ host=proxy.test\n");
        }
        // The first frame is sent together with the request.
        client.upgrade_with("/chat", &frame(b"early", Some(*b"mask")));
        assert_eq!(client.frame().as_deref(), Some(&b"early"[..]));
        // More than the buffers on the path hold, and many records.
        let large = vec![0x5a; 3_000_000];
        let sent = frame(&large, Some(*b"mask"));
        client.send_bytes(&sent);
        assert!(client.frame().as_deref() == Some(&large[..]));
        client.send_bytes(&[0x88, 0x80, 0, 0, 0, 0]);
        assert_eq!(client.rest(), [0x88, 0]);
    }
}

fn older_versions_and_other_protocols_are_refused() {
    let secured = Secured::before(origin(echo), "tls-refused", &["-v", "--log-lang", "en"]);
    for version in [SslVersion::TLS1, SslVersion::TLS1_1] {
        let refused = secured.connect_as(upto(version)).err().expect("refused");
        assert!(refused.contains("alert protocol version"), "{refused}");
    }
    let log = &secured.proxy.log;
    log.wait_for("TLS handshake failed: unsupported protocol");
    let h2 = |builder: &mut SslConnectorBuilder| builder.set_alpn_protos(b"\x02h2").unwrap();
    let refused = secured.connect_as(h2).err().expect("refused");
    assert!(refused.contains("no application protocol"), "{refused}");
    let both = b"\x02h2\x08http/1.1";
    let ssl = secured
        .certificate
        .client(|builder| builder.set_alpn_protos(both).unwrap());
    let socket = std::net::TcpStream::connect(secured.proxy.address).unwrap();
    let mut stream = openssl::ssl::SslStream::new(ssl, socket).unwrap();
    stream.connect().expect("a handshake");
    let chosen = stream.ssl().selected_alpn_protocol();
    assert_eq!(chosen, Some(&b"http/1.1"[..]));
}

fn a_request_without_tls_is_answered_in_plain_text() {
    let secured = Secured::before(origin(echo), "tls-plain", &["--log-lang", "en"]);
    for request in [GET, "\r\nget / http/1.0\r\n\r\n"] {
        let mut client = secured.proxy.connect();
        client.send(request);
        let response = client.response();
        assert_eq!(response.status(), 400);
        assert!(response.text().contains("https"), "{}", response.text());
        assert!(client.is_closed());
    }
    secured.proxy.log.wait_for("without TLS");
    // Bytes that are neither TLS nor a request close the connection, and others are served all
    // the same.
    let mut client = secured.proxy.connect();
    client.send_bytes(b"\x00\xffnonsense");
    client.rest_or_reset();
    let mut client = secured.connect();
    client.send(GET);
    assert_eq!(client.response().status(), 200);
}

fn the_origin_of_clients_is_https() {
    let upstream = answering(|head| {
        let proto = field(head, "x-forwarded-proto").unwrap_or("none");
        let origin = field(head, "origin").unwrap_or("none");
        let body = format!("proto={proto} origin={origin}");
        format!(
            "HTTP/1.1 200 OK\r\nLocation: http://inner.test/a\r\nContent-Length: {}\r\n\
             Strict-Transport-Security: max-age=1\r\n\
             Set-Cookie: a=b; Secure\r\n\r\n{body}",
            body.len()
        )
    });
    let args = ["--forwarded", "--host-header", "inner.test"];
    let secured = Secured::before(upstream, "tls-origin", &args);
    let port = secured.proxy.address.port();
    let mut client = secured.connect();
    client.send(&format!(
        "GET / HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: https://localhost:{port}\r\n\r\n"
    ));
    let response = client.response();
    assert_eq!(response.text(), "proto=https origin=https://inner.test");
    let location = format!("https://localhost:{port}/a");
    assert_eq!(response.field("location"), Some(&*location));
    assert_eq!(response.field("strict-transport-security"), None);
    assert_eq!(response.field("set-cookie"), Some("a=b; Secure"));

    // So it is where a credential is guarded.
    let secured = Secured::before(upstream, "tls-guarded", &["--header", "X-Token: s3cret"]);
    let mut client = secured.connect();
    for (scheme, status) in [("https", 200), ("http", 403)] {
        client.send(&format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: {scheme}://localhost\r\n\r\n"
        ));
        assert_eq!(client.response().status(), status, "{scheme}");
    }
}

/// Strict-Transport-Security applies to every port of a host, Alt-Svc only to the origin.
fn one_port_does_not_bind_the_whole_host_to_tls() {
    let upstream = tls_origin(NAME, |mut client| {
        while client.try_head().is_some() {
            client.send(
                "HTTP/1.1 204 No Content\r\nStrict-Transport-Security: max-age=1\r\n\
                 Alt-Svc: clear\r\n\r\n",
            );
        }
    });
    let secured = Secured::before(upstream, "tls-hsts", &["--tls", "on"]);
    let mut client = secured.connect();
    client.send(GET);
    let response = client.response();
    assert_eq!(response.field("strict-transport-security"), None);
    assert_eq!(response.field("alt-svc"), Some("clear"));
}

fn complete_responses_end_with_close_notify_and_truncated_ones_without() {
    let upstream = origin(|mut client| {
        while let Some(head) = client.try_head() {
            match head.split(' ').nth(1) {
                Some("/whole") => {
                    client.send("HTTP/1.1 200 OK\r\n\r\nuntil the end");
                    return;
                }
                Some("/torn") => {
                    client.send("HTTP/1.1 200 OK\r\n\r\nnot all");
                    client.line();
                    return client.reset();
                }
                _ => client.send(&ok("fine")),
            }
        }
    });
    let args = ["--keepalive-timeout", "1"];
    let secured = Secured::before(upstream, "tls-ends", &args);
    // HTTP/1.0 has no chunks: the end of the connection is the end of the body.
    let mut client = secured.connect();
    client.send("GET /whole HTTP/1.0\r\n\r\n");
    assert!(client.rest().ends_with(b"until the end"));
    let mut client = secured.connect();
    client.send("GET /fine HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(client.rest().ends_with(b"fine"));
    // A client that is idle for too long.
    let mut client = secured.connect();
    client.send(GET);
    assert!(client.rest().ends_with(b"fine"));
    let mut client = secured.connect();
    client.send("GET /torn HTTP/1.0\r\nContent-Length: 2\r\n\r\n");
    client.head();
    client.skip(b"not all".len());
    client.send("\r\n");
    let mut more = [0; 1];
    let end = client.stream.read(&mut more);
    assert!(end.is_err(), "{end:?} is a clean end");
    // An idle client when the program ends.
    let mut client = secured.connect();
    client.send(GET);
    assert_eq!(client.response().status(), 200);
    secured.proxy.guard.signal("TERM");
    assert_eq!(client.rest(), b"");
}

fn a_renewed_certificate_is_shown_to_new_connections() {
    let mut secured = Secured::before(origin(echo), "tls-renewed", &["--log-lang", "en"]);
    let log = &secured.proxy.log;
    log.wait_for("server certificate: CN=proxy.test, expires ");
    let mut old = secured.connect();
    old.upgrade("/");
    let renewed = Certificate::new(NAME);
    // At SIGHUP.
    secured.folder.write("cert.pem", &renewed.pem());
    secured.folder.write("key.pem", &renewed.key_pem());
    secured.proxy.guard.signal("HUP");
    log.wait_for("server certificate renewed: CN=proxy.test, expires ");
    let last = std::mem::replace(&mut secured.certificate, renewed);
    secured.connect();
    let ssl = last.client(|_| {});
    assert!(secured.proxy.connect().connect_tls(ssl).is_err());
    secured.proxy.guard.signal("HUP");
    let log = &secured.proxy.log;
    log.wait_for("the server certificate has not changed");
    // A pair that does not match is logged, and changes nothing.
    let other = Certificate::new(NAME);
    secured.folder.write("cert.pem", &other.pem());
    log.wait_for("cannot renew the server certificate, the old one stays in use");
    secured.connect();
    // Reloaded without a signal, once the key has changed as well.
    secured.folder.write("key.pem", &other.key_pem());
    log.wait_for_count("server certificate renewed: ", 2);
    secured.certificate = other;
    secured.connect();
    // The file that cannot be read is the one that is named.
    let key = secured.folder.path("key.pem");
    std::fs::remove_file(&key).unwrap();
    secured.proxy.guard.signal("HUP");
    let log = &secured.proxy.log;
    log.wait_for(&format!(
        "the old one stays in use: {key}: cannot read the file"
    ));
    // Open connections go on.
    old.send_bytes(&frame(b"still here", Some(*b"mask")));
    assert_eq!(old.frame().as_deref(), Some(&b"still here"[..]));
}

/// A ClientHello.
fn client_hello(certificate: &Certificate) -> Vec<u8> {
    /// Takes what is written, and has nothing to read.
    struct Sink(Vec<u8>);
    impl Read for Sink {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::WouldBlock.into())
        }
    }
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let ssl = certificate.client(|_| {});
    let mut stream = openssl::ssl::SslStream::new(ssl, Sink(Vec::new())).unwrap();
    assert!(stream.connect().is_err(), "it waits for an answer");
    std::mem::take(&mut stream.get_mut().0)
}

/// A thread that performed the steps of all handshakes in one turn would serve no other client
/// in between.
fn other_clients_are_served_between_the_steps_of_handshakes() {
    const HANDSHAKES: usize = 128;
    // A key so long that a signature takes milliseconds.
    let certificate = Certificate::new_rsa(NAME, 4096);
    let folder = Folder::new("tls-turns");
    let files = [
        folder.write("cert.pem", &certificate.pem()),
        folder.write("key.pem", &certificate.key_pem()),
    ];
    let args = [
        "--listen-cert",
        &files[0],
        "--listen-key",
        &files[1],
        "--threads",
        "1",
        "--health-path",
        "/healthz",
    ];
    let proxy = Proxy::before(dead_address(), &args);
    let mut other = proxy
        .connect()
        .connect_tls(certificate.client(|_| {}))
        .unwrap();
    let hello = client_hello(&certificate);
    let mut crowd: Vec<Client> = (0..HANDSHAKES).map(|_| proxy.connect()).collect();
    for client in &mut crowd {
        client.send_bytes(&hello);
    }
    let last = crowd.last().unwrap().socket.try_clone().unwrap();
    last.set_nonblocking(true).unwrap();
    let mut served = 0;
    while last.peek(&mut [0]).is_err() {
        other.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(other.response().status(), 200);
        served += 1;
    }
    assert!(
        served >= HANDSHAKES / 8,
        "{served} requests during {HANDSHAKES} handshakes"
    );
}

fn incomplete_handshakes_end_in_time_and_give_way() {
    let limited = ["--max-connections", "4", "--head-timeout", "60"];
    let secured = Secured::before(origin(echo), "tls-half", &limited);
    let hello = client_hello(&secured.certificate);
    let half = |secured: &Secured, most: usize| {
        let mut client = secured.proxy.connect();
        client.send_bytes(&hello[..most]);
        client
    };
    // None of these will continue; their slots are needed.
    let stalled: Vec<Client> = [0, 1, 5, hello.len() / 2, hello.len() - 1, hello.len()]
        .into_iter()
        .cycle()
        .take(40)
        .map(|most| half(&secured, most))
        .collect();
    let begun = Instant::now();
    let mut client = secured.connect();
    client.send(GET);
    assert_eq!(client.response().status(), 200);
    assert!(begun.elapsed() < Duration::from_secs(30), "they gave way");
    drop(stalled);
    let timed = ["--head-timeout", "1"];
    let secured = Secured::before(origin(echo), "tls-half-timed", &timed);
    let begun = Instant::now();
    for most in [0, 1, hello.len() - 1] {
        half(&secured, most).rest_or_reset();
    }
    let mut answered = half(&secured, hello.len());
    answered.rest_or_reset();
    assert!(begun.elapsed() < Duration::from_secs(20));
}

fn a_client_that_leaves_is_noticed() {
    let (told, notices) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let upstream = origin(move |mut client| {
        client.head();
        let told = told.lock().unwrap().clone();
        let _ = told.send(());
        // It never answers; the proxy ends this connection after the client's.
        client.rest_or_reset();
        let _ = told.send(());
    });
    let args = ["--abandon-timeout", "1", "--log-lang", "en", "-v"];
    let secured = Secured::before(upstream, "tls-leaving", &args);
    // By a reset, by close_notify and FIN, and by FIN alone.
    for how in 0..3 {
        let mut client = secured.connect();
        client.send(GET);
        let arrived = notices.recv_timeout(Duration::from_secs(30));
        assert!(arrived.is_ok(), "way {how}");
        match how {
            0 => client.reset(),
            1 => drop(client),
            _ => {
                client.end_sending();
                client.rest_or_reset();
            }
        }
        let noticed = notices.recv_timeout(Duration::from_secs(30));
        assert!(noticed.is_ok(), "way {how}: {}", secured.proxy.log.text());
    }
}

/// In TLS, what the client sends is read to find its end. It was then taken for the next
/// request.
fn an_upgrade_followed_by_bytes_is_closed_by_401() {
    let (told, arrived) = std::sync::mpsc::channel();
    let (go, sent) = std::sync::mpsc::channel::<()>();
    let both = std::sync::Mutex::new((told, sent));
    let upstream = origin(move |mut client| {
        while let Some(head) = client.try_head() {
            let (told, sent) = &*both.lock().unwrap();
            told.send(head).unwrap();
            sent.recv_timeout(PATIENCE).unwrap();
            // Not needed to pass: bytes that have not been read by then count as well.
            std::thread::sleep(Duration::from_millis(100));
            client.send(
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\n\
                 Content-Length: 0\r\n\r\n",
            );
        }
    });
    let secured = Secured::before(upstream, "tls-after-an-upgrade", &[]);
    let mut client = secured.connect();
    client.send(&upgrade_request("/ws"));
    let head = arrived.recv_timeout(PATIENCE).expect("a request");
    assert!(head.starts_with("GET /ws "), "{head}");
    client.send("GET /smuggled HTTP/1.1\r\nHost: proxy.test\r\n\r\n");
    go.send(()).unwrap();
    let response = client.response();
    assert_eq!(response.status(), 401);
    assert_eq!(response.field("connection"), Some("close"));
    assert!(client.is_closed());
}

fn the_certificate_is_checked_at_the_start_and_shown() {
    let folder = Folder::new("tls-start");
    let certificate = Certificate::new(NAME);
    let cert = folder.write("cert.pem", &certificate.pem());
    let key = folder.write("key.pem", &certificate.key_pem());
    let other = folder.write("other.pem", &Certificate::new(NAME).key_pem());
    let missing = folder.path("missing.pem");
    for (args, problem) in [
        (
            vec!["--listen-cert", &cert],
            "--listen-cert: requires --listen-key",
        ),
        (
            vec!["--listen-key", &key],
            "--listen-key: requires --listen-cert",
        ),
        (
            vec!["--listen-cert", &cert, "--listen-key", &other],
            "--listen-key: the key does not belong to the first certificate",
        ),
        (
            vec!["--listen-cert", &missing, "--listen-key", &key],
            "--listen-cert: cannot read the file: ",
        ),
    ] {
        let output = program().args(["-u", "a:1"]).args(&args).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(problem), "{text}");
    }
    // A certificate that OpenSSL refuses.
    let weak = Certificate::new_rsa(NAME, 512);
    let mut command = program();
    command.args(["-d", "-u", "127.0.0.1:9", "-b", "127.0.0.1", "-p", "0"]);
    command.env(
        "SIMPLE_PROXY_LISTEN_CERT",
        folder.write("weak.pem", &weak.pem()),
    );
    command.env(
        "SIMPLE_PROXY_LISTEN_KEY",
        folder.write("weak.key", &weak.key_pem()),
    );
    let text = String::from_utf8(command.output().unwrap().stderr).unwrap();
    let refused = "simple-proxy: SIMPLE_PROXY_LISTEN_CERT: OpenSSL refuses it: ee key too small\n";
    assert_eq!(text, refused);
    // Older formats of a key.
    let rsa = Certificate::new_rsa(NAME, 2048);
    let older = rsa.key.rsa().unwrap().private_key_to_pem().unwrap();
    let older = String::from_utf8(older).unwrap();
    assert!(older.starts_with("-----BEGIN RSA PRIVATE KEY-----"));
    let ec = certificate
        .key
        .ec_key()
        .unwrap()
        .private_key_to_pem()
        .unwrap();
    let ec = String::from_utf8(ec).unwrap();
    assert!(ec.starts_with("-----BEGIN EC PRIVATE KEY-----"));
    for (certificate, key) in [(&rsa, older), (&certificate, ec)] {
        let chain = folder.write("older.pem", &certificate.pem());
        let key = folder.write("older.key", &key);
        let args = ["--listen-cert", &chain, "--listen-key", &key];
        let proxy = Proxy::before(origin(echo), &args);
        let ssl = certificate.client(|_| {});
        let mut client = proxy.connect().connect_tls(ssl).expect("a handshake");
        client.send(GET);
        assert_eq!(client.response().status(), 200);
    }
    let upstream = answering(|_| ok("fine")).to_string();
    let args = [
        "-u",
        &upstream,
        "--listen-cert",
        &cert,
        "--listen-key",
        &key,
    ];
    let checked = check(&args, &[]);
    assert_eq!(checked.status, Some(0), "{}", checked.text);
    checked.has("certificates shown to clients CN=proxy.test, expires ");
    checked.has("origin: a local browser uses https://localhost:80,");
    let json = check(&[&args[..], &["--log-format", "json"]].concat(), &[]);
    let shown = json_of(&json.text);
    let shown = &shown["listen_certificates"][0];
    assert_eq!(shown["subject"], "CN=proxy.test");
    assert!(matches!(shown["days_left"].as_i64(), Some(1..=2)));
}
