//! `--check`: what it reports, and that it names the right stage and cause of broken routes.

use libtest_mimic::Trial;
use std::process::Stdio;

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        settings_are_shown_with_their_sources,
        every_setting_is_shown,
        the_report_exists_in_chinese,
        origins_and_their_problems_are_shown,
        a_403_because_of_origin_is_explained,
        a_route_through_a_proxy_to_tls,
        broken_routes_are_named,
        json_is_one_object,
        interim_responses_are_skipped,
    ]
}

pub struct Checked {
    pub status: Option<i32>,
    pub text: String,
}

/// Runs the check to its end; standard error must stay empty.
pub fn check(args: &[&str], environment: &[(&str, &str)]) -> Checked {
    let mut command = program();
    command.arg("--check").args(args);
    command.envs(environment.iter().copied());
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    Checked {
        status: output.status.code(),
        text: String::from_utf8(output.stdout).unwrap(),
    }
}

impl Checked {
    #[track_caller]
    pub fn has(&self, words: &str) {
        let text = self.text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "no {words:?} in:\n{}", self.text);
    }

    fn fits_a_terminal(&self) {
        let wide = |line: &&str| line.chars().count() > 80;
        assert_eq!(self.text.lines().find(wide), None, "{}", self.text);
    }
}

pub fn settings_are_shown_with_their_sources() {
    let upstream = answering(|_| ok("fine")).to_string();
    let environment = [
        ("UPSTREAM_HOST", "no-such.invalid:1"),
        ("LISTEN_PORT", "8080"),
        ("HTTP_PROXY", ""),
        ("SIMPLE_PROXY_HEAD_TIMEOUT", "5"),
        ("SIMPLE_PROXY_TREADS", "5"),
    ];
    let checked = check(&["-u", &upstream, "-v", "--forwarded"], &environment);
    assert_eq!(checked.status, Some(0), "{}", checked.text);
    checked.fits_a_terminal();
    checked.has(&format!("upstream-host {upstream} --upstream-host"));
    checked.has("listen-port 8080 LISTEN_PORT");
    checked.has("head-timeout 5 s SIMPLE_PROXY_HEAD_TIMEOUT");
    checked.has("SIMPLE_PROXY_TREADS is ignored: did you mean SIMPLE_PROXY_THREADS?");
    checked.has("bind all addresses default");
    checked.has("http-proxy none default");
    checked.has("forwarded on --forwarded");
    checked.has("verbose on --verbose");
    checked.has(&format!("route direct to {upstream}"));
    checked.has("returned 200 OK");
    checked.has("the upstream can be reached");
}

pub fn the_report_exists_in_chinese() {
    let upstream = tls_origin("origin.test", echo).to_string();
    let args = ["-u", &upstream, "--tls", "on", "--log-lang", "zh"];
    let checked = check(&args, &[]);
    assert_eq!(checked.status, Some(0), "{}", checked.text);
    checked.has("bind 所有地址 默认");
    checked.has("connect-timeout 10 秒 默认");
    checked.has(&format!("路由 直连，上游 {upstream}"));
    checked.has("校验 未通过：self-signed certificate");
    checked.has("可以到达上游");
    let dead = dead_address().to_string();
    let checked = check(&["-u", &dead, "--log-lang=zh"], &[]);
    assert_eq!(checked.status, Some(1));
    checked.has("失败: [connect]");
    checked.has("connection refused");
    checked.has("建议: 请确认上游在监听此端口");
    let wide = |line: &&str| simple_proxy::text::width(line) > 80;
    assert_eq!(checked.text.lines().find(wide), None, "{}", checked.text);
}

pub fn origins_and_their_problems_are_shown() {
    let upstream = tls_origin("app.example.com", |mut client| {
        // The connection with which the certificate is verified sends nothing.
        let Some(_) = client.try_head() else { return };
        let fields = "Location: https://app.example.com/x\r\n\
                      Set-Cookie: s=1; Domain=.example.com; Secure\r\n";
        client.send(&format!(
            "HTTP/1.1 302 Found\r\n{fields}Content-Length: 0\r\n\r\n"
        ));
    });
    let upstream = upstream.to_string();
    let flags = ["-u", &upstream, "--tls=on", "-p8080"];
    let named = ["--host-header", "app.example.com"];
    let checked = check(&[&flags[..], &named].concat(), &[]);
    assert_eq!(checked.status, Some(0), "{}", checked.text);
    checked.fits_a_terminal();
    checked
        .has("a local browser uses http://localhost:8080, which the upstream sees as https://app.example.com");
    assert!(!checked.text.contains("note:"), "{}", checked.text);
    let checked = check(&[&flags[..], &named, &["--map=off"]].concat(), &[]);
    checked.has("https://app.example.com for the upstream, not translated");
    checked.has("note: Location names app.example.com");
    checked.has("note: a cookie has Domain=example.com");
    checked.has("leave out --map off");
    let checked = check(&[&flags[..], &["--map=off"]].concat(), &[]);
    checked.has("try --host-header NAME without --map off");
    // There is no advice for problems that no setting of the proxy could solve.
    let http = answering(|_| {
        let fields = "Location: http://app.example.com:81/x\r\n\
                      Set-Cookie: s=1; Domain=other.example\r\n";
        format!("HTTP/1.1 302 Found\r\n{fields}Content-Length: 0\r\n\r\n")
    });
    let args = ["-u", &http.to_string(), "-p8080"];
    let checked = check(&[&args[..], &named].concat(), &[]);
    checked.has("a browser at http://localhost:8080 would leave the proxy the upstream can be");
    assert!(!checked.text.contains("--map"), "{}", checked.text);
    assert!(!checked.text.contains("a cookie"), "{}", checked.text);
}

/// Two upstreams that refuse WebSockets with a foreign Origin; one accepts those without Origin.
pub fn a_403_because_of_origin_is_explained() {
    let checking = |also_without: bool| {
        let upstream = answering(move |head| {
            if head.starts_with("HEAD ") {
                return ok("");
            }
            let origin = field(head, "origin");
            let is_own = origin.map_or(also_without, |origin| origin == "http://app.example.com");
            match is_own {
                true => switching(head),
                false => "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned(),
            }
        });
        upstream.to_string()
    };
    let [lenient, strict] = [true, false].map(checking);
    let refused = "a WebSocket from a page at http://localhost:8080 gets 403: the upstream \
                   checks Origin";
    let named = "--host-header=app.example.com";
    let origin = "--header=Origin: http://app.example.com";
    let own = "the upstream may check Origin; send its own name with --host-header";
    let map = "the upstream may check Origin; leave out --map off";
    let other = "the upstream may require a login, or an Origin other than its own name";
    for (upstream, more, status, words) in [
        (
            &lenient,
            &[][..],
            0,
            &*format!("{refused}; try --host-header"),
        ),
        (&lenient, &[named], 0, "returned 101 Switching Protocols"),
        (
            &lenient,
            &[named, "--map=off"],
            0,
            &*format!("{refused}; leave out --map off"),
        ),
        (&lenient, &[origin], 0, "returned 101 Switching Protocols"),
        (&strict, &[], 1, own),
        // A page gets a WebSocket where a program, which sends no Origin, does not.
        (&strict, &[named], 0, "returned 101 Switching Protocols"),
        (&strict, &[named, "--map=off"], 1, map),
        (&strict, &["--host-header=other.example"], 1, other),
        (&strict, &[origin], 0, "returned 101 Switching Protocols"),
    ] {
        let args = ["-u", upstream, "-p8080", "--check-path=/ws"];
        let checked = check(&[&args[..], more].concat(), &[]);
        assert_eq!(checked.status, Some(status), "{more:?}\n{}", checked.text);
        checked.has(words);
        checked.fits_a_terminal();
        let notes = checked.text.contains("note:");
        assert_eq!(notes, words.starts_with("a WebSocket"), "{}", checked.text);
    }
}

pub fn every_setting_is_shown() {
    use simple_proxy::cli::flags::{flags, Group};
    let upstream = answering(|_| ok("fine")).to_string();
    let checked = check(&["-u", &upstream], &[]);
    for flag in flags().filter(|flag| flag.group != Group::Other) {
        let (flag, name) = (flag.long, format!("  {} ", flag.name()));
        let shown = checked.text.lines().any(|line| line.starts_with(&name));
        assert!(shown, "{flag} is not in:\n{}", checked.text);
    }
}

pub fn a_route_through_a_proxy_to_tls() {
    let upstream = tls_origin("origin.test", echo).to_string();
    let socks = origin(|client| socks_server(client, "user", "s3cret")).to_string();
    let variable = format!("socks5://user:s3cret@{socks}");
    let args = ["-u", &upstream, "--tls", "on", "--tls-name", "origin.test"];
    let checked = check(
        &[&args[..], &["--check-path", "/ws?a=b"]].concat(),
        &[("SOCKS_PROXY", &variable)],
    );
    assert_eq!(checked.status, Some(0), "{}", checked.text);
    assert!(!checked.text.contains("s3cret"), "{}", checked.text);
    checked.has(&format!(
        "socks-proxy socks5://user:***@{socks} SOCKS_PROXY"
    ));
    checked.has(&format!("ms SOCKS5 to {upstream}"));
    checked.has("ms server name (SNI) origin.test");
    checked.has("certificate, by TLSv1.3 with TLS_");
    checked.has("subject CN=origin.test");
    checked.has("issuer CN=origin.test");
    assert!(checked.text.contains(" day)") || checked.text.contains(" days)"));
    checked.has("verified no: self-signed certificate");
    checked.has("GET /ws?a=b returned 101");

    // Its root is trusted, but the name is another one.
    let folder = Folder::new("check");
    let certificate = Certificate::new("origin.test");
    let roots = folder.write("root.pem", &certificate.pem());
    let acceptor = certificate.acceptor();
    let upstream = origin(move |client| {
        if let Some(client) = client.accept_tls(&acceptor) {
            echo(client);
        }
    });
    let upstream = upstream.to_string();
    let args = ["-u", &upstream, "--tls", "on", "--tls-verify"];
    for (name, status, verified) in [
        ("origin.test", 0, "verified yes"),
        ("other.test", 1, "verified no: hostname mismatch"),
    ] {
        let more = ["--tls-ca", &roots, "--tls-name", name];
        let checked = check(&[&args[..], &more].concat(), &[]);
        assert_eq!(checked.status, Some(status), "{}", checked.text);
        checked.has(verified);
    }
    let checked = check(&args, &[]);
    assert_eq!(checked.status, Some(1));
    checked.has("failed: [tls]");
    checked.has("certificate verify failed");
    checked.has("trust its root certificate with --tls-ca");
}

/// A SOCKS5 server that accepts one user.
fn socks_server(mut client: Client, user: &str, password: &str) {
    let Some(greeting) = client.try_exactly(2) else {
        return;
    };
    client.exactly(greeting[1].into());
    client.send_bytes(&[5, 2]);
    let mut told = Vec::new();
    client.exactly(1);
    for _ in 0..2 {
        let length = client.exactly(1)[0];
        told.push(client.exactly(length.into()));
    }
    if told != [user.as_bytes(), password.as_bytes()] {
        client.try_send(&[1, 1]);
        return;
    }
    client.send_bytes(&[1, 0]);
    let request = client.exactly(10);
    let port = u16::from_be_bytes([request[8], request[9]]);
    client.send_bytes(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    splice(client, Client::connect(([127, 0, 0, 1], port).into()));
}

pub fn broken_routes_are_named() {
    let fine = answering(|_| ok("fine")).to_string();
    let dead = dead_address().to_string();
    let user = origin(|client| socks_server(client, "user", "s3cret")).to_string();
    let wrong = format!("socks5://user:wr0ng@{user}");
    let denying = origin(|mut client| {
        let Some(greeting) = client.try_exactly(2) else {
            return;
        };
        client.exactly(greeting[1].into());
        client.send_bytes(&[5, 0]);
        client.exactly(10);
        client.send_bytes(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    });
    let denying = denying.to_string();
    let connect = |answer: &'static str| {
        let proxy = origin(move |mut client| {
            if client.try_head().is_some() {
                client.send(answer);
            }
        });
        proxy.to_string()
    };
    let forbidden = connect("HTTP/1.1 403 Forbidden\r\n\r\n");
    let unauthorized = connect("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    let plain = origin(|mut client| {
        client.exactly(1);
        client.try_send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let plain = plain.to_string();
    let silent = origin(|mut client| {
        client.rest_or_reset();
    });
    let silent = silent.to_string();
    let closing = origin(|mut client| {
        client.try_head();
    });
    let closing = closing.to_string();
    let cases: [(&[&str], &str, &str, &str); 11] = [
        (
            &["-u", "no-such.invalid:80"],
            "[resolve] no-such.invalid:80: ",
            "",
            "check the spelling of the upstream's name",
        ),
        (
            &["-u", &dead],
            "[connect]",
            "connection refused",
            "check that the upstream listens on this port",
        ),
        (
            &["-u", &fine, "-s", &dead],
            "[proxy-connect]",
            "connection refused",
            "check that the proxy listens on this port",
        ),
        (
            &["-u", &fine, "-s", &wrong],
            "[proxy-auth]",
            "",
            "check the user name and password in the proxy's URL",
        ),
        (
            &["-u", &fine, "-s", &denying],
            "[proxy-refused]",
            "not allowed by its rules",
            "allows connections to this host and port",
        ),
        (
            &["-u", &fine, "--http-proxy", &forbidden],
            "[proxy-refused]",
            "403 Forbidden",
            "allows connections to this host and port",
        ),
        (
            &["-u", &fine, "--http-proxy", &unauthorized],
            "[proxy-auth]",
            "407 Proxy Authentication Required",
            "check the user name and password",
        ),
        (
            &["-u", &plain, "--tls", "on"],
            "[tls]",
            "wrong version number",
            "or use --tls off",
        ),
        (
            &["-u", &silent, "--connect-timeout", "0.5"],
            "[response]",
            "timed out after 500ms",
            "use --tls on",
        ),
        (
            &["-u", &closing],
            "[response]",
            "the upstream closed without a response",
            "check that it speaks HTTP/1.1",
        ),
        (
            &["-u", &fine, "--check-path", "/ws"],
            "[response]",
            "the WebSocket handshake on /ws returned 200 OK, not 101",
            "check the path",
        ),
    ];
    for (args, stage, cause, advice) in cases {
        let checked = check(args, &[]);
        assert_eq!(checked.status, Some(1), "{args:?}\n{}", checked.text);
        checked.has(&format!("failed: {stage}"));
        checked.has(cause);
        if ["[proxy-auth]", "[proxy-refused]", "[response]"].contains(&stage) {
            checked.has("ms 127.0.0.1:");
        }
        checked.has(advice);
        checked.fits_a_terminal();
        assert!(!checked.text.contains("wr0ng"), "{}", checked.text);
    }
    // A usage error is printed as without --check.
    let output = program().args(["-u", &fine, "--check-path", "/"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.starts_with("simple-proxy: --check-path: requires --check\n"));
}

pub fn json_is_one_object() {
    let upstream = tls_origin("origin.test", echo).to_string();
    let dead = dead_address().to_string();
    for (args, ok) in [
        (vec!["-u", &*upstream, "--tls", "on", "-d"], true),
        (vec!["-u", &*dead, "-d"], false),
    ] {
        let checked = check(&[&args[..], &["--log-format=json"]].concat(), &[]);
        assert_eq!(checked.status, Some(if ok { 0 } else { 1 }));
        assert_eq!(checked.text.lines().count(), 1, "{}", checked.text);
        let report = json_of(checked.text.trim_end());
        assert_eq!(report["ok"], ok);
        assert_eq!(report["settings"][0]["source"], "--upstream-host");
        assert_eq!(report["failure"].is_null(), ok);
        if ok {
            assert_eq!(report["certificate"]["subject"], "CN=origin.test");
            let days = report["certificate"]["days_left"].as_i64();
            assert!(matches!(days, Some(1 | 2)), "{days:?}");
            assert_eq!(report["steps"][2]["name"], "tls");
        } else {
            assert_eq!(report["failure"]["stage"], "connect");
            assert!(report["certificate"].is_null());
        }
    }
}

pub fn interim_responses_are_skipped() {
    let upstream = origin(|mut client| {
        while let Some(head) = client.try_head() {
            client.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            match field(&head, "upgrade") {
                Some(_) => client.send(&switching(&head)),
                None => client.send("HTTP/1.1 204 No Content\r\n\r\n"),
            }
        }
    });
    let upstream = upstream.to_string();
    let checked = check(&["-u", &upstream, "--check-path", "/ws"], &[]);
    assert_eq!(checked.status, Some(0), "{}", checked.text);
    checked.has("returned 204 No Content");
}
