//! Flags, variables, messages and exit codes, as a user sees them.

use libtest_mimic::Trial;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        help_and_version_go_to_stdout,
        a_bad_setting_is_one_line_and_exit_2,
        keys_are_read_in_every_form_or_refused_with_a_remedy,
        common_spellings_of_settings_are_accepted,
        invalid_settings_are_explained,
        an_unread_proxy_variable_is_reported_at_startup,
        a_port_in_use_is_exit_1,
        variables_work_and_flags_override_them,
        listen_port_0_logs_the_port_taken,
        no_credential_is_ever_printed,
        closed_and_full_outputs_do_no_harm,
        messages_follow_the_locale,
        startup_errors_have_the_format_of_the_log,
    ]
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn help_and_version_go_to_stdout() {
    for flag in ["-h", "--help"] {
        let help = output(program().arg(flag));
        assert_eq!(help.status.code(), Some(0));
        assert!(help.stderr.is_empty());
        let help = text(&help.stdout);
        assert!(help.starts_with("Usage: simple-proxy"), "{help}");
        let fits = |line: &str| simple_proxy::text::width(line) <= 80;
        assert!(help.lines().all(fits), "{help}");
        // No text in brackets is wrapped, and metavariables are in capitals.
        let whole = |line: &str| line.matches('[').count() == line.matches(']').count();
        assert!(help.lines().all(whole), "{help}");
        assert!(help.contains("  --tls MODE  "), "{help}");
    }
    for flag in ["-V", "--version"] {
        let version = output(program().arg(flag));
        assert_eq!(version.status.code(), Some(0));
        let expected = format!("simple-proxy {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(text(&version.stdout), expected);
    }
}

pub fn keys_are_read_in_every_form_or_refused_with_a_remedy() {
    use openssl::symm::Cipher;
    let folder = Folder::new("keys");
    let (certificate, other) = (Certificate::new("a.example"), Certificate::new("b.example"));
    let chain = folder.write("chain.pem", &certificate.pem());
    let rsa = openssl::rsa::Rsa::generate(2048).unwrap();
    let pem = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let ec = pem(certificate
        .key
        .ec_key()
        .unwrap()
        .private_key_to_pem()
        .unwrap());
    assert!(ec.starts_with("-----BEGIN EC PRIVATE KEY-----"), "{ec}");
    let rsa_key = pem(rsa.private_key_to_pem().unwrap());
    assert!(rsa_key.starts_with("-----BEGIN RSA PRIVATE KEY-----"));
    let encrypted = certificate
        .key
        .private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"secret");
    let dead = dead_address().to_string();
    for (key, problem) in [
        (certificate.key_pem(), None),
        (ec, None),
        (rsa_key, Some("does not belong to the first certificate")),
        (other.key_pem(), Some("does not belong")),
        (
            pem(encrypted.unwrap()),
            Some("encrypted; decrypt it: openssl pkcs8"),
        ),
        (certificate.pem(), Some("contains no PEM private key")),
        (
            "-----BEGIN X PRIVATE KEY-----\nAAAA\n-----END X PRIVATE KEY-----\n".to_owned(),
            Some("convert it: openssl pkcs8"),
        ),
    ] {
        let key = folder.write("key.pem", &key);
        let args = [
            "-u",
            &dead,
            "--tls",
            "on",
            "--tls-cert",
            &chain,
            "--tls-key",
            &key,
        ];
        match problem {
            None => drop(Proxy::start(&args)),
            Some(problem) => {
                let refused = output(program().args(args).args(["--log-lang", "en"]));
                assert_eq!(refused.status.code(), Some(2), "{problem}");
                let line = text(&refused.stderr);
                assert!(line.starts_with("simple-proxy: --tls-key: "), "{line}");
                assert!(line.contains(problem), "{line}");
            }
        }
    }
}

pub fn a_bad_setting_is_one_line_and_exit_2() {
    for (args, start) in [
        (&["--nope"][..], "simple-proxy: --nope: no such option\n"),
        (
            &["-u", "a"],
            "simple-proxy: --upstream-host: a port is missing",
        ),
        (&[], "simple-proxy: UPSTREAM_HOST: not set"),
        (
            &["-u", "a:1", "-p", "x"],
            "simple-proxy: --listen-port: must be a port",
        ),
    ] {
        let refused = output(program().args(args));
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        assert!(refused.stdout.is_empty());
        let words = text(&refused.stderr);
        assert!(words.starts_with(start), "{words}");
        let hint = "\nTry 'simple-proxy --help' for more information.\n";
        assert!(words.ends_with(hint), "{words}");
        assert_eq!(words.lines().count(), 2);
    }
}

pub fn common_spellings_of_settings_are_accepted() {
    let dead = dead_address();
    let (plain, tls) = (format!("http://{dead}/"), format!("wss://{dead}"));
    let up = dead.to_string();
    for (args, shown) in [
        (
            &["-u", plain.as_str()][..],
            format!("upstream-host http://{dead} --upstream-host"),
        ),
        (&["-u", &plain], "tls off".to_owned()),
        (&["-u", &tls], "tls on".to_owned()),
        (
            &["-u", &up, "-b", "localhost"],
            "bind 127.0.0.1 --bind".to_owned(),
        ),
        (&["-u", &up, "-b", "*"], "bind :: --bind".to_owned()),
        (
            &["-u", &up, "--metrics-listen", ":9090"],
            "metrics-listen [::]:9090".to_owned(),
        ),
        (
            &["-u", &up, "--head-timeout", "500ms"],
            "head-timeout 0.5 s".to_owned(),
        ),
        (
            &["-u", &up, "--head-timeout", "10s"],
            "head-timeout 10 s".to_owned(),
        ),
        (
            &["-u", &up, "--head-timeout", "2m"],
            "head-timeout 120 s".to_owned(),
        ),
        (
            &["-u", &up, "--head-timeout", "1h"],
            "head-timeout 3600 s".to_owned(),
        ),
    ] {
        let checked = output(program().args(args).args(["--direct", "--check"]));
        assert_eq!(checked.status.code(), Some(1), "{args:?}");
        let words = text(&checked.stdout);
        let words: Vec<&str> = words.split_whitespace().collect();
        assert!(words.join(" ").contains(&shown), "no {shown:?}: {words:?}");
    }
}

pub fn invalid_settings_are_explained() {
    for (variable, value, problem) in [
        ("UPSTREAM_HOST", "https://a/b", "an upstream takes no path"),
        ("UPSTREAM_HOST", "\"a:1\"", "the value is in quotes"),
        (
            "UPSTREAM_HOST",
            "a:1\r",
            "the value ends in a carriage return",
        ),
        ("UPSTREAM_HOST", " a:1x", "there can be only one upstream"),
        ("UPSTREAM_HOST", "a:1,b:2", "there can be only one upstream"),
        (
            "UPSTREAM_HOST",
            "https://u:s3cret@a",
            "takes no user name or password",
        ),
        (
            "UPSTREAM_HOST",
            "b\u{fc}cher.example:80",
            "xn--bcher-kva.example:80",
        ),
        ("SOCKS_PROXY", "none", "give --direct"),
        ("SOCKS_PROXY", "DIRECT", "give --direct"),
        ("SOCKS_PROXY", "socks4://a:1080", "write socks5://"),
        ("SOCKS_PROXY", "tcp://a:1080", "write socks5://"),
        ("LISTEN_PORT", "80 ", "begins or ends with whitespace"),
    ] {
        let mut command = program();
        command.env("UPSTREAM_HOST", "a:1").env(variable, value);
        let refused = output(&mut command);
        assert_eq!(refused.status.code(), Some(2), "{value:?}");
        let words = text(&refused.stderr);
        assert!(
            words.starts_with(&format!("simple-proxy: {variable}: ")),
            "{words}"
        );
        // A leading blank is reported first, whatever else is wrong.
        let problem = if value.starts_with(' ') {
            "begins or ends with whitespace"
        } else {
            problem
        };
        assert!(words.contains(problem), "{value:?}: {words}");
        assert!(!words.contains("s3cret"), "{words}");
    }
    let (up, secret) = ("-u", "socks5://user:s3 cr3t word@a:1");
    let split: Vec<&str> = secret.split(' ').collect();
    for (args, line) in [
        (
            &["--upstream-hots", "a:1"][..],
            "--upstream-hots: no such option; did you mean --upstream-host?",
        ),
        (
            &[up, "a:1", "--tls", "off", "-u", "https://a"],
            "--tls: contradicts the scheme of --upstream-host",
        ),
        (
            &[up, "a:1", "-s", split[0], split[1], split[2]],
            "command line: unexpected argument",
        ),
    ] {
        let refused = output(program().args(args));
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        let words = text(&refused.stderr);
        assert!(
            words.starts_with(&format!("simple-proxy: {line}")),
            "{words}"
        );
        assert!(!words.contains("cr3t") && !words.contains("s3"), "{words}");
    }
}

pub fn an_unread_proxy_variable_is_reported_at_startup() {
    let one = origin(echo).to_string();
    for name in ["ALL_PROXY", "http_proxy"] {
        let environment = [
            ("UPSTREAM_HOST", one.as_str()),
            (name, "http://user:s3cret@a:1"),
        ];
        let proxy = Proxy::start_with(&[], &environment);
        let line = proxy.log.wait_for(&format!("已忽略 {name}: "));
        assert!(
            line.contains("HTTP_PROXY") && !line.contains("s3cret"),
            "{line}"
        );
        // There is no warning if the route is set.
        let proxy = Proxy::start_with(&["--direct"], &environment);
        assert_eq!(proxy.get("/x").status(), 200);
        assert!(!proxy.log.text().contains("已忽略"));
    }
}

pub fn a_port_in_use_is_exit_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = output(program().args(["-u", "a:1", "-b", "127.0.0.1", "-p", &port]));
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        text(&refused.stderr),
        format!(
            "simple-proxy: listen on 127.0.0.1 port {port}: address already in use; \
             choose another one, or stop the program that uses it\n"
        )
    );
    let mut elsewhere = program();
    elsewhere.args([
        "-u",
        "a:1",
        "-b",
        "192.0.2.1",
        "-p",
        "0",
        "--log-lang",
        "zh",
    ]);
    let refused = output(&mut elsewhere);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        text(&refused.stderr),
        "simple-proxy: 监听 192.0.2.1 端口 0: address not available；请选用本机的地址\n"
    );
}

/// Runs in a network namespace, where no other test can use the port and unprivileged ports
/// begin at 1024, and without the capability that root has.
pub fn a_port_that_needs_a_privilege_is_exit_1_with_a_remedy() {
    for (language, source, problem) in [
        (
            "en",
            "listen on port 80",
            "ports below 1024 need a privilege",
        ),
        ("zh", "监听端口 80", "1024 以下的端口需要特权"),
    ] {
        let mut command = crate::shared::cleaned(Command::new("unshare"));
        command.args([
            "--net",
            "setpriv",
            "--bounding-set",
            "-net_bind_service",
            PROGRAM,
        ]);
        command.args(["-u", "a:1", "--log-lang", language]);
        let refused = output(&mut command);
        assert_eq!(refused.status.code(), Some(1));
        let words = text(&refused.stderr);
        let start = format!("simple-proxy: {source}: permission denied");
        assert!(words.starts_with(&start), "{words}");
        assert!(words.contains(problem), "{words}");
        assert!(words.contains("-p 8080"), "{words}");
    }
}

pub fn variables_work_and_flags_override_them() {
    let one = origin(echo).to_string();
    let two = answering(|_| ok("two")).to_string();
    let dead = format!("socks5://{}", dead_address());
    let environment = [("UPSTREAM_HOST", one.as_str()), ("SOCKS_PROXY", "")];
    let proxy = Proxy::start_with(&[], &environment);
    assert_eq!(proxy.get("/x").text(), "path=/x host=a.example\n");
    let environment = [("UPSTREAM_HOST", one.as_str()), ("SOCKS_PROXY", &dead)];
    let proxy = Proxy::start_with(&["--upstream-host", &two, "--direct"], &environment);
    assert_eq!(proxy.get("/").text(), "two");
    let proxy = Proxy::start_with(&[], &environment);
    assert_eq!(proxy.get("/").status(), 502);
    let mut command = program();
    command
        .args(["-b", "127.0.0.1"])
        .env("LISTEN_PORT", "0")
        .env("UPSTREAM_HOST", &two);
    assert_eq!(Proxy::spawn(&mut command).get("/").text(), "two");
    // The variables of flags, next to those that Kubernetes sets for a Service of this name.
    let (field, proxy_port) = ("X-A: 1\nX-B: 2", "tcp://10.0.0.1:80");
    let environment = [
        ("SIMPLE_PROXY_UPSTREAM_HOST", one.as_str()),
        ("UPSTREAM_HOST", two.as_str()),
        ("SIMPLE_PROXY_DIRECT", "yes"),
        ("SOCKS_PROXY", dead.as_str()),
        ("SIMPLE_PROXY_RESPONSE_HEADER", field),
        ("SIMPLE_PROXY_LOG_LANG", "en"),
        ("SIMPLE_PROXY_PORT", proxy_port),
        ("SIMPLE_PROXY_SERVICE_HOST", "10.0.0.1"),
        ("SIMPLE_PROXY_MAX_HAED", "4096"),
    ];
    let proxy = Proxy::start_with(&[], &environment);
    let answer = proxy.get("/x");
    assert_eq!(answer.text(), "path=/x host=a.example\n");
    for line in ["X-A: 1", "X-B: 2"] {
        assert!(answer.head.contains(line), "{}", answer.head);
    }
    proxy
        .log
        .wait_for("SIMPLE_PROXY_MAX_HAED is ignored: did you mean SIMPLE_PROXY_MAX_HEAD?");
    let log = proxy.log.text();
    assert_eq!(log.matches("is ignored").count(), 1, "{log}");
}

pub fn listen_port_0_logs_the_port_taken() {
    let proxy = Proxy::start(&["-u", "127.0.0.1:9"]);
    assert_ne!(proxy.address.port(), 0);
    let log = proxy.log.wait_for("路由");
    assert!(log.ends_with("路由: 直连"), "{log}");
    let first = proxy.log.text().lines().next().unwrap().to_owned();
    assert!(
        first.ends_with(&format!("开始监听: {}", proxy.address)),
        "{first}"
    );
    let proxy = Proxy::start(&["-u", "127.0.0.1:9", "--log-lang", "en"]);
    let first = proxy.log.text().lines().next().unwrap().to_owned();
    assert!(
        first.ends_with(&format!("listening on {}", proxy.address)),
        "{first}"
    );
}

pub fn no_credential_is_ever_printed() {
    let dead = dead_address();
    for url in [
        format!("--socks-proxy=socks5://user:s3cret@{dead}"),
        format!("--http-proxy=http://user:s3cret@{dead}"),
    ] {
        let proxy = Proxy::start(&["-u", "127.0.0.1:9", "-v", &url]);
        let answer = proxy.get("/?s3cret");
        assert_eq!(answer.status(), 502);
        assert!(
            !answer.text().contains(&dead.to_string()),
            "{}",
            answer.text()
        );
        proxy.log.wait_for("proxy-connect");
        let log = proxy.log.text();
        assert!(log.contains("user:***@"), "{log}");
        assert!(!log.contains("s3cret"), "{log}");
    }
    for args in [
        ["-s", "ftp://user:s3cret@h"],
        ["-s", "socks5://user:s3cret@h:port"],
        ["-u", "socks5://user:s3cret@h"],
        ["-d", "socks5://user:s3cret@h"],
    ] {
        let refused = output(program().args(args).args(["-b", "127.0.0.1"]));
        assert_eq!(refused.status.code(), Some(2));
        assert!(!text(&refused.stderr).contains("s3cret"), "{args:?}");
    }
}

pub fn closed_and_full_outputs_do_no_harm() {
    let sh = |script: &str| {
        let mut command = program();
        let program = command.get_program().to_owned();
        command = Command::new("sh");
        command
            .args(["-c", script])
            .env("PROGRAM", program)
            .env_remove("UPSTREAM_HOST");
        output(&mut command).status.code()
    };
    assert_eq!(sh("\"$PROGRAM\" --help >&-"), Some(0));
    assert_eq!(sh("\"$PROGRAM\" --help >/dev/full"), Some(1));
    assert_eq!(sh("\"$PROGRAM\" --nope 2>&-"), Some(2));
    assert_eq!(sh("\"$PROGRAM\" --nope 2>/dev/full"), Some(2));

    // A log on a full disk, and one whose reader has closed the pipe.
    let upstream = answering(|_| ok("fine")).to_string();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut reader = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
    let closed = reader.stdin.take().unwrap();
    reader.wait().unwrap();
    for stderr in [Stdio::from(full), Stdio::from(closed)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = inheriting(&listener, "", &["-u", &upstream]);
        let mut guard = Guard::spawn(command.stderr(stderr));
        let mut client = Client::connect(listener.local_addr().unwrap());
        for _ in 0..100 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.response().text(), "fine");
        }
        guard.signal("TERM");
        assert_eq!(guard.wait().code(), Some(0));
    }
}

pub fn messages_follow_the_locale() {
    let chinese = |text: &str| text.contains("用法: ") || text.contains("未设置");
    for (locale, args, expected) in [
        (&[("LANG", "zh_CN.UTF-8")][..], &[][..], true),
        (&[("LANG", "zh_CN.UTF-8"), ("LC_ALL", "C")], &[], false),
        (
            &[("LANG", "zh_CN.UTF-8"), ("LC_MESSAGES", "de_DE")],
            &[],
            false,
        ),
        (&[], &[], false),
        (&[], &["--log-lang", "zh"], true),
        (&[("LC_ALL", "zh_TW.UTF-8")], &["--log-lang=en"], false),
    ] {
        let run = |more: &[&str]| {
            let mut command = program();
            command.env_remove("LC_ALL").env_remove("LC_MESSAGES");
            command.env_remove("LANG").envs(locale.iter().copied());
            output(command.args(args).args(more))
        };
        let help = text(&run(&["--help"]).stdout);
        assert_eq!(chinese(&help), expected, "{locale:?} {args:?}: {help}");
        let fits = |line: &str| simple_proxy::text::width(line) <= 80;
        assert!(help.lines().all(fits), "{help}");
        let whole = |line: &str| line.matches('[').count() == line.matches(']').count();
        assert!(help.lines().all(whole), "{help}");
        let error = text(&run(&[]).stderr);
        assert_eq!(chinese(&error), expected, "{locale:?} {args:?}: {error}");
        assert!(
            error.starts_with("simple-proxy: UPSTREAM_HOST: "),
            "{error}"
        );
    }
    // The locale does not change the documented lines of the log.
    let mut command = program();
    command.env("LC_ALL", "en_US.UTF-8");
    let proxy = Proxy::spawn(command.args(["-u", "127.0.0.1:9", "-b", "127.0.0.1", "-p", "0"]));
    proxy.log.wait_for("路由: 直连");
}

pub fn startup_errors_have_the_format_of_the_log() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let busy = ["-u", "a:1", "-b", "127.0.0.1", "-p", &port];
    for (args, status, source, problem) in [
        (&["--nope"][..], 2, "--nope", "no such option"),
        (&["-u", "a"], 2, "--upstream-host", "a port is missing"),
        (
            &busy,
            1,
            "listen on 127.0.0.1 port ",
            "address already in use",
        ),
    ] {
        let refused = output(program().args(args).args(["--log-format", "json"]));
        assert_eq!(refused.status.code(), Some(status));
        let line = text(&refused.stderr);
        assert_eq!(line.lines().count(), 1, "{line}");
        let object = json_of(line.trim_end());
        assert_eq!(object["level"], "error");
        assert_eq!(object["event"], "not_started");
        let told = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        assert!(told("source").starts_with(source), "{line}");
        assert!(told("problem").starts_with(problem), "{line}");
    }
    // In the journal, recognized by its device and inode, each line begins with its priority.
    let script = r#"exec 2>"$1"; shift
        JOURNAL_STREAM=$(stat -L -c %d:%i /dev/fd/2) exec "$0" "$@""#;
    let folder = Folder::new("journal");
    let log = folder.write("log", "");
    let mut command = crate::shared::cleaned(Command::new("sh"));
    command.args(["-c", script, PROGRAM, &log]).arg("--nope");
    assert_eq!(output(&mut command).status.code(), Some(2));
    let lines = std::fs::read_to_string(&log).unwrap();
    let expected = "<3>simple-proxy: --nope: no such option\n\
                    <3>Try 'simple-proxy --help' for more information.\n";
    assert_eq!(lines, expected);
}
