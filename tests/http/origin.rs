//! The translation of fields between the client's origin and the upstream's, configured fields,
//! and which requests are served with them.

use libtest_mimic::Trial;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc::{channel, Receiver};
use std::sync::Mutex;

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        fields_are_unchanged_if_both_origins_are_the_same,
        fields_that_name_an_origin_are_translated,
        the_origin_of_a_websocket_is_translated,
        a_rebound_name_is_not_translated_and_the_log_says_so,
        nothing_is_translated_with_map_off,
        configured_fields_are_set_and_removed,
        configured_fields_are_removed_from_response_trailers,
        a_configured_x_forwarded_proto_sets_the_upstream_scheme,
        fields_that_cannot_be_set_are_refused_without_their_value,
        foreign_pages_are_refused_with_a_credential,
        foreign_pages_are_refused_with_a_client_certificate,
        only_listed_hosts_are_served,
        pages_of_listed_origins_are_served,
        forwarded_fields_of_a_trusted_front_are_extended,
        a_front_that_terminates_tls,
    ]
}

/// A Date of the upstream, so that the proxy adds none.
const DATE: &str = "Date: Wed, 25 Nov 2026 20:00:00 GMT\r\n";

/// An origin server, optionally with TLS, that records each head and answers 200 with these
/// fields. It accepts every WebSocket.
fn recording(with_tls: bool, fields: &'static str) -> (SocketAddr, Receiver<String>) {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let script = move |mut client: Client| {
        while let Some(head) = client.try_head() {
            sender.lock().unwrap().send(head.clone()).unwrap();
            if field(&head, "upgrade").is_some() {
                client.send(&switching(&head).replace("\r\n\r\n", &format!("\r\n{fields}\r\n")));
                client.rest_or_reset();
                return;
            }
            if let Some(length) = field(&head, "content-length") {
                client.exactly(length.parse().unwrap());
            } else if field(&head, "transfer-encoding").is_some() {
                let (_, trailers) = client.chunked();
                sender.lock().unwrap().send(trailers.concat()).unwrap();
            }
            client.send(&format!(
                "HTTP/1.1 200 OK\r\n{DATE}Content-Length: 2\r\n{fields}\r\nok"
            ));
        }
    };
    let address = match with_tls {
        true => tls_origin("app.example.com", script),
        false => origin(script),
    };
    (address, receiver)
}

/// The fields of a head, after the first line.
fn after_the_first_line(head: &str) -> &str {
    head.split_once("\r\n").unwrap().1
}

/// Fields of a response from `https://app.example.com` to a client of `http://localhost:8080`:
/// each that is translated or removed, and one that is not.
const RESPONSE: &str = "Location: https://app.example.com/x\r\n\
    Content-Location: //app.example.com/y\r\n\
    Refresh: 0; url=https://APP.example.com:443/\r\n\
    Access-Control-Allow-Origin: https://app.example.com\r\n\
    Set-Cookie: s=1; Domain=example.com; Secure; SameSite=None\r\n\
    set-cookie: __Host-t=2; Secure; Path=/\r\n\
    Alt-Svc: h3=\":443\"\r\n\
    Strict-Transport-Security: max-age=1\r\n\
    Content-Security-Policy: default-src 'self'; upgrade-insecure-requests\r\n\
    X-Other: https://app.example.com/\r\n";

const REQUEST: &str = "Host: localhost:8080\r\nOrigin: http://localhost:8080\r\n\
    Referer: http://localhost:8080/a?b\r\nDestination: http://localhost:8080/c\r\n\
    X-Other: http://localhost:8080\r\n";

pub fn fields_are_unchanged_if_both_origins_are_the_same() {
    let (upstream, heads) = recording(false, RESPONSE);
    for flags in [&[][..], &["--map", "auto"]] {
        let proxy = Proxy::before(upstream, flags);
        for more in ["", "X-Forwarded-Proto: https\r\n"] {
            let response = proxy.fetch(&format!("GET / HTTP/1.1\r\n{REQUEST}{more}\r\n"));
            let sent = heads.recv_timeout(PATIENCE).unwrap();
            assert_eq!(after_the_first_line(&sent), format!("{REQUEST}{more}\r\n"));
            let fields = after_the_first_line(&response.head);
            assert_eq!(fields, format!("{DATE}Content-Length: 2\r\n{RESPONSE}\r\n"));
        }
    }
}

pub fn fields_that_name_an_origin_are_translated() {
    let (upstream, heads) = recording(true, RESPONSE);
    let flags = ["--tls", "on", "--host-header", "app.example.com"];
    let proxy = Proxy::before(upstream, &flags);
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send(&format!("GET / HTTP/1.1\r\n{REQUEST}\r\n"));
        let response = client.response();
        assert_eq!(
            after_the_first_line(&heads.recv_timeout(PATIENCE).unwrap()),
            "Host: app.example.com\r\nOrigin: https://app.example.com\r\n\
             Referer: https://app.example.com/a?b\r\nDestination: https://app.example.com/c\r\n\
             X-Other: http://localhost:8080\r\n\r\n"
        );
        assert_eq!(
            after_the_first_line(&response.head),
            "Date: Wed, 25 Nov 2026 20:00:00 GMT\r\nContent-Length: 2\r\n\
             Location: http://localhost:8080/x\r\n\
             Content-Location: //localhost:8080/y\r\nRefresh: 0; url=http://localhost:8080/\r\n\
             Access-Control-Allow-Origin: http://localhost:8080\r\nSet-Cookie: s=1\r\n\
             set-cookie: __Host-t=2; Secure; Path=/\r\n\
             Content-Security-Policy: default-src 'self'\r\n\
             X-Other: https://app.example.com/\r\n\r\n"
        );
    }
    // The next request on the connection may have another Host.
    client.send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1:80\r\n\r\n");
    let response = client.response();
    assert_eq!(response.field("location"), Some("http://127.0.0.1/x"));
    let head = heads.recv_timeout(PATIENCE).unwrap();
    assert_eq!(field(&head, "origin"), Some("https://app.example.com"));
    // A request without Host has no origin.
    client.send("GET / HTTP/1.0\r\n\r\n");
    let response = client.response();
    assert_eq!(
        response.field("location"),
        Some("https://app.example.com/x")
    );
}

pub fn the_origin_of_a_websocket_is_translated() {
    let (upstream, heads) = recording(true, "Set-Cookie: s=1; Secure\r\n");
    let flags = ["--tls", "on", "--host-header", "app.example.com"];
    let proxy = Proxy::before(upstream, &flags);
    let mut client = proxy.connect();
    let request = upgrade_request("/ws").replace("Host: chat.example", "Host: [::1]:8080");
    client.send(&request.replace("\r\n\r\n", "\r\nOrigin: http://[::1]:8080\r\n\r\n"));
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(field(&head, "set-cookie"), Some("s=1"));
    let head = heads.recv_timeout(PATIENCE).unwrap();
    assert_eq!(field(&head, "origin"), Some("https://app.example.com"));
}

pub fn a_rebound_name_is_not_translated_and_the_log_says_so() {
    let (upstream, heads) = recording(false, "Location: http://app.example/\r\n");
    let proxy = Proxy::before(
        upstream,
        &["--host-header", "app.example", "--log-lang", "en"],
    );
    let request = "GET / HTTP/1.1\r\nHost: rebound.example:8080\r\n\
                   Origin: http://rebound.example:8080\r\n\r\n";
    for _ in 0..3 {
        // The response is translated nevertheless.
        let response = proxy.fetch(request);
        assert_eq!(
            response.field("location"),
            Some("http://rebound.example:8080/")
        );
        let head = heads.recv_timeout(PATIENCE).unwrap();
        assert_eq!(field(&head, "host"), Some("app.example"));
        assert_eq!(field(&head, "origin"), Some("http://rebound.example:8080"));
    }
    let words = "the Origin of a request for Host rebound.example:8080 was not translated";
    proxy.log.wait_for(words);
    assert_eq!(proxy.log.text().matches(words).count(), 1);
    assert!(proxy.log.text().contains("--allow-host"));
}

pub fn nothing_is_translated_with_map_off() {
    let (upstream, heads) = recording(true, RESPONSE);
    let flags = ["--tls=on", "--host-header=app.example.com", "--map=off"];
    let proxy = Proxy::before(upstream, &flags);
    let response = proxy.fetch(&format!("GET / HTTP/1.1\r\n{REQUEST}\r\n"));
    let sent = heads.recv_timeout(PATIENCE).unwrap();
    let expected = REQUEST.replacen("localhost:8080", "app.example.com", 1);
    assert_eq!(after_the_first_line(&sent), format!("{expected}\r\n"));
    let fields = after_the_first_line(&response.head);
    assert_eq!(fields, format!("{DATE}Content-Length: 2\r\n{RESPONSE}\r\n"));
}

pub fn configured_fields_are_set_and_removed() {
    let (upstream, heads) = recording(false, "Server: x\r\nVary: a\r\nX-Frame-Options: DENY\r\n");
    let folder = Folder::new("fields");
    let file = folder.write(
        "secrets",
        "\u{feff}Authorization: Bearer s3cret\r\n\nX-Empty;\nCookie:\n",
    );
    let from_file = format!("@{file}");
    let flags = [
        "--header",
        &from_file,
        "--header=X-Remote-User:  s3cret-user ",
        "--header",
        "User-Agent:",
        "--response-header",
        "Server:",
        "--response-header=Vary: b",
        "--response-header=X-Frame-Options: SAMEORIGIN",
        "-v",
    ];
    let proxy = Proxy::before(upstream, &flags);
    let own = "Authorization: Bearer s3cret\r\nX-Empty: \r\nX-Remote-User: s3cret-user\r\n";
    let response = proxy.fetch(
        "GET / HTTP/1.1\r\nHost: localhost\r\nauthorization: Basic eA==\r\nX_Remote_User: root\r\n\
         cookie: a=1\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n",
    );
    assert_eq!(
        after_the_first_line(&heads.recv_timeout(PATIENCE).unwrap()),
        format!("Host: localhost\r\nAccept: */*\r\n{own}\r\n")
    );
    assert_eq!(
        after_the_first_line(&response.head),
        "Date: Wed, 25 Nov 2026 20:00:00 GMT\r\nContent-Length: 2\r\nVary: a\r\nVary: b\r\nX-Frame-Options: SAMEORIGIN\r\n\r\n"
    );
    // Trailer fields with such names are removed as well.
    proxy.fetch(
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\
         X-Remote_User: root\r\nX-Other: 1\r\n\r\n",
    );
    heads.recv_timeout(PATIENCE).unwrap();
    assert_eq!(heads.recv_timeout(PATIENCE).unwrap(), "X-Other: 1");
    // WebSocket requests have the configured fields, too.
    let mut client = proxy.connect();
    client.send(&upgrade_request("/ws").replace("Host: chat.example", "Host: localhost"));
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        !head.contains("Server:") && head.contains("Vary: b"),
        "{head}"
    );
    assert!(heads.recv_timeout(PATIENCE).unwrap().contains(own));
    let log = proxy.log.text();
    assert!(!log.contains("s3cret"), "{log}");

    let upstream = upstream.to_string();
    let mut check = program();
    check.args(["-u", &upstream, "--check", "--log-lang=en"]);
    let output = check.args(&flags[..9]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("Authorization: ***, X-Empty;, Cookie:, X-Remote-User: ***"));
    assert!(!shown.contains("s3cret"), "{shown}");
    // --check sends them, too.
    assert!(heads.recv_timeout(PATIENCE).unwrap().contains(own));
}

pub fn configured_fields_are_removed_from_response_trailers() {
    let upstream = answering(|_| {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\
         X-Internal: 1\r\nX_Internal: 2\r\nX-Other: 3\r\n\r\n"
            .to_owned()
    });
    let proxy = Proxy::before(upstream, &["--response-header", "X-Internal:"]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\n\r\n");
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (_, trailers) = client.chunked();
    assert_eq!(trailers, ["X-Other: 3"]);
}

pub fn a_configured_x_forwarded_proto_sets_the_upstream_scheme() {
    let (upstream, heads) = recording(false, "Location: https://localhost:8080/x\r\n");
    let proxy = Proxy::before(upstream, &["--header", "X-Forwarded-Proto: https"]);
    let response = proxy.fetch(&format!("GET / HTTP/1.1\r\n{REQUEST}\r\n"));
    let head = heads.recv_timeout(PATIENCE).unwrap();
    assert_eq!(field(&head, "origin"), Some("https://localhost:8080"));
    assert_eq!(response.field("location"), Some("http://localhost:8080/x"));
}

pub fn fields_that_cannot_be_set_are_refused_without_their_value() {
    let folder = Folder::new("bad-fields");
    let file = format!("@{}", folder.write("bad", "X-Good: 1\nHost: s3cret\n"));
    let utf_16 = "X-A: s3cret\n".encode_utf16().flat_map(u16::to_le_bytes);
    let utf_16: Vec<u8> = [0xff, 0xfe].into_iter().chain(utf_16).collect();
    std::fs::write(folder.path("utf-16"), utf_16).unwrap();
    let utf_16 = format!("@{}", folder.path("utf-16"));
    for (line, words) in [
        ("Host: s3cret", "Host is set with --host-header"),
        (&file, "line 2 of the file: Host is set with --host-header"),
        (&utf_16, "the file is not UTF-8 text; save it as UTF-8"),
        (
            "Content_Length: s3cret",
            "Content_Length applies to a single",
        ),
        (
            "Transfer-Encoding:",
            "Transfer-Encoding applies to a single",
        ),
        ("connection: s3cret", "connection applies to a single"),
        (
            "Proxy-Authorization: s3cret",
            "Proxy-Authorization applies to a single",
        ),
        ("TE;", "TE applies to a single"),
        ("s3cret", "write 'Name: value'"),
        ("s3 cret: s3cret", "write 'Name: value'"),
        ("X-A; s3cret", "write 'Name: value'"),
        (": s3cret", "write 'Name: value'"),
        (
            "X-A: s3cret\u{1}",
            "the value of X-A contains a control character",
        ),
        (
            "X-A: s3cret\r\nX-B: s3cret",
            "the value of X-A contains a control character",
        ),
        (
            "@/nowhere/at/all",
            "cannot read the file: no such file or directory",
        ),
    ] {
        for flag in ["--header", "--response-header"] {
            let output = program()
                .args(["-u", "a:1", "--log-lang=en", flag, line])
                .output()
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{said}");
            let expected = format!("simple-proxy: {flag}: {words}");
            assert!(said.starts_with(&expected), "{line}: {said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
    }
    // The shell splits a field that is not quoted into two arguments.
    let mut command = program();
    command.args(["-u", "a:1", "--header", "X-A:", "s3cret"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!String::from_utf8(output.stderr).unwrap().contains("s3cret"));
}

pub fn foreign_pages_are_refused_with_a_credential() {
    let (upstream, _heads) = recording(false, "");
    let flags = ["--header", "X-Token: s3cret", "--health-path", "/health"];
    let proxy = Proxy::before(upstream, &flags);
    // One connection, which persists after each refusal.
    let mut client = proxy.connect();
    let port = proxy.address.port();
    for (request, status, words) in [
        ("GET / HTTP/1.1\r\nHost: localhost", 200, "ok"),
        (
            "GET / HTTP/1.1\r\nHost: rebound.example",
            421,
            "--allow-host",
        ),
        (
            "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example",
            403,
            "--allow-origin",
        ),
        (
            "GET / HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site",
            403,
            "--allow-origin",
        ),
        ("TRACE / HTTP/1.1\r\nHost: localhost", 403, "TRACE"),
        (
            "GET /health HTTP/1.1\r\nHost: rebound.example",
            200,
            "serving",
        ),
        (
            "GET /ws HTTP/1.1\r\nHost: rebound.example\r\nConnection: Upgrade\r\n\
             Upgrade: websocket",
            421,
            "--allow-host",
        ),
        (
            "POST / HTTP/1.1\r\nHost: rebound.example\r\nContent-Length: 0",
            421,
            "--allow-host",
        ),
        ("GET / HTTP/1.1\r\nHost: localhost", 200, "ok"),
    ] {
        client.send(&format!("{request}\r\n\r\n"));
        let response = client.response();
        assert_eq!(response.status(), status, "{request}");
        assert!(response.text().contains(words), "{}", response.text());
        assert_eq!(response.field("connection"), None, "{request}");
    }
    client.send("HEAD / HTTP/1.1\r\nHost: rebound.example\r\n\r\n");
    assert_eq!(client.response_to("HEAD").status(), 421);
    // A body that was not read ends the connection.
    client.send("POST / HTTP/1.1\r\nHost: rebound.example\r\nContent-Length: 4\r\n\r\nbody");
    let response = client.response();
    assert_eq!(response.status(), 421);
    assert_eq!(response.field("connection"), Some("close"));
    assert!(client.is_closed());
    proxy.log.wait_for("421");
    let own = format!("http://127.0.0.1:{port}");
    let page = format!("POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: {own}\r\n");
    let response = proxy.fetch(&format!("{page}Content-Length: 0\r\n\r\n"));
    assert_eq!(response.status(), 200);

    // X-Forwarded-Proto determines the proxy's own origin only if it is trusted.
    for (more, status) in [
        (&[][..], 200),
        (&["--forwarded=append"], 200),
        (&["--forwarded"], 403),
    ] {
        let proxy = Proxy::before(upstream, &[&flags[..2], more].concat());
        let response = proxy.fetch(
            "GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Proto: https\r\n\
             Origin: https://localhost\r\n\r\n",
        );
        assert_eq!(response.status(), status, "{more:?}");
    }

    // Removing or emptying a field adds no credential.
    let proxy = Proxy::before(upstream, &["--header=X-A:", "--header=X-B;"]);
    let response = proxy.fetch("GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n");
    assert_eq!(response.status(), 200);
}

pub fn foreign_pages_are_refused_with_a_client_certificate() {
    let (upstream, _heads) = recording(true, "");
    let folder = Folder::new("client-certificate");
    let certificate = Certificate::new("client.example");
    let cert = folder.write("cert.pem", &certificate.pem());
    let key = folder.write("key.pem", &certificate.key_pem());
    let flags = ["--tls=on", "--tls-cert", &cert, "--tls-key", &key];
    let proxy = Proxy::before(upstream, &flags);
    for (fields, status) in [
        ("Host: localhost", 200),
        ("Host: rebound.example", 421),
        ("Host: localhost\r\nOrigin: http://evil.example", 403),
    ] {
        let response = proxy.fetch(&format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n"));
        assert_eq!(response.status(), status, "{fields}");
    }
}

pub fn only_listed_hosts_are_served() {
    let (upstream, heads) = recording(false, "");
    let flags = ["--allow-host", "app.example", "--allow-host=*.Dev.example"];
    let proxy = Proxy::before(upstream, &[&flags[..], &["--health-path=/health"]].concat());
    let mut client = proxy.connect();
    for (host, status) in [
        ("app.example:8080", 200),
        ("a.dev.example", 200),
        ("localhost", 421),
        ("127.0.0.1", 421),
        ("x.app.example", 421),
    ] {
        client.send(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let response = client.response();
        assert_eq!(response.status(), status, "{host}");
        assert_eq!(response.text().contains("--allow-host"), status == 421);
        client.send(&format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.response().status(), 200, "{host}");
    }
    assert_eq!(proxy.fetch("GET / HTTP/1.0\r\n\r\n").status(), 421);
    assert_eq!(heads.try_iter().count(), 2);
    // A listed Host is safe, so that its origin is translated.
    let flags = ["--host-header=inner.example", "--allow-host=app.example"];
    let proxy = Proxy::before(upstream, &flags);
    proxy.fetch("GET / HTTP/1.1\r\nHost: app.example\r\nOrigin: http://app.example\r\n\r\n");
    let head = heads.recv_timeout(PATIENCE).unwrap();
    assert_eq!(field(&head, "origin"), Some("http://inner.example"));
    for host in [
        "app.example:80",
        "*app.example",
        ".app.example",
        "a.*.example",
        "http://a",
        "::1",
        "",
    ] {
        let mut command: Command = program();
        let output = command.args(["-u", "a:1", "--allow-host", host]).output();
        assert_eq!(output.unwrap().status.code(), Some(2), "{host}");
    }
}

pub fn pages_of_listed_origins_are_served() {
    let (upstream, _heads) = recording(false, "");
    let flags = ["--allow-origin", "HTTPS://App.example:443/"];
    let proxy = Proxy::before(upstream, &flags);
    let open = Proxy::before(upstream, &["--allow-origin=*", "--header=X-A: b"]);
    for (fields, listed, any) in [
        ("Host: rebound.example", 200, 421),
        ("Host: localhost", 200, 200),
        ("Host: localhost\r\nOrigin: http://localhost", 200, 200),
        ("Host: localhost\r\nOrigin: https://app.example", 200, 200),
        ("Host: localhost\r\nOrigin: http://app.example", 403, 200),
        ("Host: localhost\r\nOrigin: null", 403, 200),
        (
            "Host: rebound.example\r\nOrigin: http://rebound.example",
            403,
            421,
        ),
    ] {
        let request = format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n");
        assert_eq!(proxy.fetch(&request).status(), listed, "{fields}");
        assert_eq!(open.fetch(&request).status(), any, "{fields}");
    }
    for origin in [
        "null",
        "app.example",
        "https://",
        "https://a/b",
        "https://u@a",
        "https://*.example.com",
        "",
    ] {
        let mut command: Command = program();
        let output = command
            .args(["-u", "a:1", "--allow-origin", origin])
            .output();
        assert_eq!(output.unwrap().status.code(), Some(2), "{origin}");
    }
}

pub fn forwarded_fields_of_a_trusted_front_are_extended() {
    let (upstream, heads) = recording(true, "Location: https://front.example/x\r\n");
    let request = "GET / HTTP/1.1\r\nHost: front.example\r\nX-Forwarded-For: 192.0.2.1\r\n\
                   X_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\r\n";
    for (flag, fields, location) in [
        (
            "--forwarded=append",
            "X-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.1, 127.0.0.1\r\n\
             X-Forwarded-Host: front.example\r\n",
            // Both origins are https with the same Host.
            "https://front.example/x",
        ),
        (
            "--forwarded",
            "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: front.example\r\n\
             X-Forwarded-Proto: http\r\n",
            "http://front.example/x",
        ),
    ] {
        let proxy = Proxy::before(upstream, &[flag, "--tls=on"]);
        let response = proxy.fetch(request);
        assert_eq!(response.field("location"), Some(location));
        assert_eq!(
            after_the_first_line(&heads.recv_timeout(PATIENCE).unwrap()),
            format!("Host: front.example\r\n{fields}Via: 1.1 simple-proxy\r\n\r\n")
        );
    }
}

/// Behind a front proxy that terminates TLS: an application that builds URLs from
/// X-Forwarded-Proto, and one that ignores it and writes http.
pub fn a_front_that_terminates_tls() {
    let application = |honours: bool| {
        answering(move |head| {
            let told = field(head, "x-forwarded-proto").filter(|_| honours);
            let proto = told
                .and_then(|told| told.split(',').next())
                .unwrap_or("http");
            let proto = proto.replace("ws", "http");
            let host = field(head, "host").unwrap();
            let location = format!("Location: {proto}://{host}/next\r\n");
            format!("HTTP/1.1 302 Found\r\n{location}Content-Length: 0\r\n\r\n")
        })
    };
    for honours in [true, false] {
        let upstream = application(honours);
        let renamed = Proxy::before(upstream, &["--host-header", "app.example"]);
        let kept = Proxy::before(upstream, &[]);
        for proto in ["https", "wss", "https, http"] {
            let request = format!(
                "GET / HTTP/1.1\r\nHost: front.example\r\nX-Forwarded-Proto: {proto}\r\n\r\n"
            );
            let translated = renamed.fetch(&request);
            let location = translated.field("location");
            assert_eq!(location, Some("https://front.example/next"), "{proto}");
            // With the client's Host nothing is translated.
            let scheme = if honours { "https" } else { "http" };
            let expected = format!("{scheme}://front.example/next");
            assert_eq!(kept.fetch(&request).field("location"), Some(&*expected));
        }
    }
}
