//! Refused values: the error names the flag or variable, the value, and what to write instead,
//! in both languages.

use libtest_mimic::Trial;
use simple_proxy::cli::flags::{flags, Flag, Kind, Offer};

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        name_the_source_the_value_and_the_remedy,
        contradictions_name_both_sides,
        nothing_that_may_be_a_credential_is_repeated,
    ]
}

/// A flag, a value that it refuses, how the error shows that, and the remedy in both languages.
type Row = (&'static str, &'static str, &'static str, [&'static str; 2]);

const FILE: [&str; 2] = ["check its path and permissions", "请检查路径和权限"];
const TIME: [&str; 2] = [
    "in seconds or with the unit ms, s, m or h",
    "秒数，或带单位 ms、s、m、h 的数",
];
const PORT: [&str; 2] = ["a number from 1 to 65535", "1 到 65535 的整数"];
const LINE: [&str; 2] = ["write 'Name: value'", "请写成 'Name: value'"];
const ADDRESS: [&str; 2] = ["write ADDRESS:PORT", "请写成 ADDRESS:PORT"];
const SWITCH: [&str; 2] = ["must be 1, true, yes or on", "必须是 1、true、yes、on"];

/// At least one row for each flag with a value. A value that may be a credential is not shown.
const ROWS: &[Row] = &[
    (
        "--upstream-host",
        "example.com",
        "example.com",
        ["write HOST:PORT", "请写成 HOST:PORT"],
    ),
    ("--upstream-host", "a:8o", "a:8o", PORT),
    (
        "--upstream-host",
        "::1:80",
        "::1:80",
        ["[IPv6]:PORT", "[IPv6]:PORT"],
    ),
    (
        "--upstream-host",
        "[::1:80",
        "[::1:80",
        ["[IPv6]:PORT", "[IPv6]:PORT"],
    ),
    (
        "--upstream-host",
        "[::1]80",
        "[::1]80",
        ["[IPv6]:PORT", "[IPv6]:PORT"],
    ),
    (
        "--upstream-host",
        "[a]:80",
        "[a]:80",
        ["without brackets", "不加方括号"],
    ),
    (
        "--upstream-host",
        "[::1%lo]:80",
        "[::1%lo]:80",
        ["remove the %", "请去掉 %"],
    ),
    (
        "--upstream-host",
        "[fe80::1%]:80",
        "[fe80::1%]:80",
        ["'ip link' lists them", "可用 'ip link' 查看"],
    ),
    (
        "--upstream-host",
        ":80",
        ":80",
        ["write HOST:PORT", "请写成 HOST:PORT"],
    ),
    (
        "--upstream-host",
        "a/b:80",
        "a/b:80",
        ["write HOST:PORT", "请写成 HOST:PORT"],
    ),
    (
        "--upstream-host",
        "a!b:80",
        "a!b:80",
        ["such as example.com", "例如 example.com"],
    ),
    (
        "--upstream-host",
        "ftp://a",
        "ftp://a",
        ["write HOST:PORT", "写成 HOST:PORT"],
    ),
    (
        "--upstream-host",
        "unix:a",
        "unix:a",
        ["write unix:/PATH", "请写成 unix:/PATH"],
    ),
    (
        "--upstream-host",
        "https://u:s3cret@a",
        "https://***@a",
        ["remove everything up to", "请去掉"],
    ),
    (
        "--listen-port",
        "80a",
        "80a",
        ["from 0 to 65535", "0 到 65535"],
    ),
    (
        "--listen-port",
        "\"80\"",
        "\"80\"",
        ["remove them", "请去掉引号"],
    ),
    ("--listen-port", "80\r", "80\\x0d", ["dos2unix", "dos2unix"]),
    (
        "--bind",
        "example.com",
        "example.com",
        ["--listen-port", "--listen-port"],
    ),
    (
        "--allow",
        "localhost",
        "localhost",
        ["write ADDRESS", "请写成 地址"],
    ),
    (
        "--allow",
        "10.0.0.0/33",
        "10.0.0.0/33",
        ["a number up to 32", "不大于 32"],
    ),
    (
        "--listen-mode",
        "0999",
        "0999",
        ["such as 0660", "例如 0660"],
    ),
    ("--listen-cert", "/nowhere/a.pem", "/nowhere/a.pem", FILE),
    ("--listen-key", "/nowhere/a.key", "/nowhere/a.key", FILE),
    (
        "--socks-proxy",
        "ftp://u:s3cret@a",
        "ftp://***@a",
        ["write socks5://", "请写成 socks5://"],
    ),
    (
        "--socks-proxy",
        "none",
        "none",
        ["give --direct", "用 --direct"],
    ),
    (
        "--socks-proxy",
        "socks5://u:s3cret@a/b",
        "socks5://***@a/...",
        ["remove it", "请去掉"],
    ),
    (
        "--socks-proxy",
        "socks5://u:s3cret@a:0",
        "socks5://***@a:0",
        PORT,
    ),
    (
        "--http-proxy",
        "socks5://a",
        "socks5://a",
        ["written as http[s]://", "应写成 http[s]://"],
    ),
    (
        "--http-proxy",
        "http://u:s3cret%zz@a",
        "http://***@a",
        ["write it as %25", "请写成 %25"],
    ),
    (
        "--https-proxy",
        "http://u%3A:s3cret@a",
        "http://***@a",
        ["remove the %3A", "去掉 %3A"],
    ),
    (
        "--tls",
        "maybe",
        "maybe",
        ["auto, on or off", "auto、on 或 off"],
    ),
    (
        "--tls-name",
        "a b",
        "a b",
        ["such as example.com", "例如 example.com"],
    ),
    ("--tls-ca", "/nowhere/ca.pem", "/nowhere/ca.pem", FILE),
    (
        "--tls-ca",
        "/dev/null",
        "/dev/null",
        ["BEGIN CERTIFICATE", "BEGIN CERTIFICATE"],
    ),
    (
        "--tls-cert",
        "/dev/null",
        "/dev/null",
        ["BEGIN CERTIFICATE", "BEGIN CERTIFICATE"],
    ),
    (
        "--tls-key",
        "/dev/null",
        "/dev/null",
        ["BEGIN PRIVATE KEY", "BEGIN PRIVATE KEY"],
    ),
    (
        "--tls-min",
        "1.4",
        "1.4",
        ["1.0, 1.1, 1.2 or 1.3", "1.0、1.1、1.2 或 1.3"],
    ),
    ("--host-header", "a b", "a b", ["must be NAME", "须为 NAME"]),
    ("--upgrade", "a b", "a b", ["such as tcp", "例如 tcp"]),
    ("--upgrade", "h2c", "h2c", ["leave it out", "请去掉"]),
    (
        "--forwarded",
        "maybe",
        "maybe",
        ["on, off or append", "on、off 或 append"],
    ),
    ("--map", "on", "on", ["auto or off", "auto 或 off"]),
    ("--header", "X-Key s3cret", "", LINE),
    (
        "--header",
        "Host: a",
        "",
        ["--host-header", "--host-header"],
    ),
    ("--header", "@/nowhere/fields", "@/nowhere/fields", FILE),
    ("--response-header", "X-Key s3cret", "", LINE),
    (
        "--response-header",
        "Upgrade: a",
        "",
        ["leave it out", "请去掉"],
    ),
    (
        "--allow-host",
        "a:80",
        "a:80",
        ["without a port", "不带端口"],
    ),
    (
        "--allow-origin",
        "a",
        "a",
        ["write SCHEME://HOST", "请写成 SCHEME://HOST"],
    ),
    ("--connect-timeout", "10 s", "10 s", TIME),
    ("--head-timeout", "0", "0", TIME),
    ("--response-timeout", "-1", "-1", TIME),
    ("--abandon-timeout", "1d", "1d", TIME),
    ("--keepalive-timeout", "inf", "inf", TIME),
    ("--tunnel-timeout", "never", "never", TIME),
    ("--drain-timeout", "1,5", "1,5", TIME),
    ("--upstream-idle", "x", "x", TIME),
    ("--spares", "65", "65", ["from 0 to 64", "0 到 64"]),
    (
        "--max-head",
        "32k",
        "32k",
        ["from 4096 to 1048576", "4096 到 1048576"],
    ),
    ("--threads", "0", "0", ["from 1 to 1024", "1 到 1024"]),
    (
        "--max-connections",
        "1e3",
        "1e3",
        ["from 1 to 10000000", "1 到 10000000"],
    ),
    (
        "--health-path",
        "healthz",
        "healthz",
        ["begin with /", "以 / 开头"],
    ),
    (
        "--health-path",
        "/h?t=s3cret",
        "/h?...",
        ["remove the ?", "请去掉 ?"],
    ),
    ("--metrics-listen", "9090", "9090", ADDRESS),
    ("--status-listen", "a:b", "a:b", ADDRESS),
    ("--log-lang", "de", "de", ["zh or en", "zh 或 en"]),
    (
        "--log-format",
        "xml",
        "xml",
        ["text, json or combined", "text、json 或 combined"],
    ),
    ("--check-path", "/a b", "/a b", ["%20", "%20"]),
];

/// Runs the program, with an upstream unless one is given, and returns its error.
fn refused(args: &[String], variables: &[(&str, &str)], language: &str) -> String {
    let mut command = program();
    command.env("UPSTREAM_HOST", "a:1").env("LC_ALL", language);
    command.args(args).envs(variables.iter().copied());
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        output.status.code(),
        Some(2),
        "{args:?} {variables:?}: {words}"
    );
    assert!(!words.contains("s3cret"), "{words}");
    let line = words.lines().next().unwrap_or_default();
    line.strip_prefix("simple-proxy: ").expect(line).to_owned()
}

/// The names by which an error may refer to a flag: the flag itself and its variables.
fn sources(flag: &'static Flag) -> impl Iterator<Item = &'static str> {
    let of_flag = Some(flag.long).filter(|_| flag.kind != Kind::Switch);
    of_flag
        .into_iter()
        .chain(flag.prefixed_variable())
        .chain(flag.variable)
}

fn check(flag: &'static Flag, value: &str, shown: &str, remedies: [&str; 2]) {
    for source in sources(flag) {
        for (language, remedy) in ["C", "zh_CN.UTF-8"].into_iter().zip(remedies) {
            let line = match source.starts_with('-') {
                true => refused(&[format!("{source}={value}")], &[], language),
                false => refused(&[], &[(source, value)], language),
            };
            let got = match (shown, language) {
                ("", _) => String::new(),
                (shown, "C") => format!(" (got '{shown}')"),
                (shown, _) => format!("（给出的值：'{shown}'）"),
            };
            assert!(line.starts_with(&format!("{source}: ")), "{line}");
            assert!(line.contains(remedy), "no {remedy:?}: {line}");
            assert!(line.ends_with(&got), "no {got:?}: {line}");
        }
    }
}

pub fn name_the_source_the_value_and_the_remedy() {
    for flag in flags() {
        let mut rows = ROWS.iter().filter(|row| row.0 == flag.long).peekable();
        let has_value = flag.kind != Kind::Switch;
        assert_eq!(rows.peek().is_some(), has_value, "a row for {}", flag.long);
        for (_, value, shown, remedies) in rows {
            check(flag, value, shown, *remedies);
        }
        if !has_value {
            check(flag, "maybe", "maybe", SWITCH);
            let line = refused_if_any(flag, &format!("{}=1", flag.long));
            assert!(line.is_none_or(|line| line.contains("leave out the =")));
        }
        if matches!(flag.kind, Kind::Single | Kind::Repeatable) {
            let line = refused(&[flag.long.to_owned()], &[], "C");
            let expected = format!("write {} {}", flag.long, flag.metavar);
            assert!(line.ends_with(&expected), "{line}");
            let line = refused(&[format!("{}=", flag.long)], &[], "C");
            let expected = format!("{}: the value is empty; give a value", flag.long);
            assert!(line.starts_with(&expected), "{line}");
        }
    }
}

/// The error for a flag with an unexpected value; None if the flag is `--help`, which is answered
/// in any case.
fn refused_if_any(flag: &Flag, word: &str) -> Option<String> {
    (flag.long != "--help").then(|| refused(&[word.to_owned()], &[], "C"))
}

pub fn contradictions_name_both_sides() {
    for (args, source, other) in [
        (
            &["--direct", "--socks-proxy=a"][..],
            "--direct",
            "--socks-proxy",
        ),
        (&["--quiet", "--verbose"], "--quiet", "--verbose"),
        (&["--tls-cert=CHAIN", "--tls=on"], "--tls-cert", "--tls-key"),
        (&["--tls-key=KEY", "--tls=on"], "--tls-key", "--tls-cert"),
        (&["--listen-cert=CHAIN"], "--listen-cert", "--listen-key"),
        (
            &["--listen-cert=CHAIN", "--listen-key=OTHER"],
            "--listen-key",
            "OTHER",
        ),
        (&["--check-path=/ws"], "--check-path", "--check"),
        (&["--tls-verify"], "--tls-verify", "--tls on"),
        (
            &["--upstream-host=https://a", "--tls=off"],
            "--tls",
            "--upstream-host",
        ),
        (
            &["--upstream-host=unix:/a", "--http-proxy=a"],
            "--upstream-host",
            "--http-proxy",
        ),
    ] {
        let folder = Folder::new("contradictions");
        let [a, b] = ["a.example", "b.example"].map(Certificate::new);
        let files = [
            ("CHAIN", folder.write("chain.pem", &a.pem())),
            ("KEY", folder.write("key.pem", &a.key_pem())),
            ("OTHER", folder.write("other.pem", &b.key_pem())),
        ];
        let named = |word: &str| {
            let mut word = word.to_owned();
            for (name, path) in &files {
                word = word.replace(name, path);
            }
            word
        };
        let args: Vec<String> = args.iter().map(|word| named(word)).collect();
        for language in ["C", "zh_CN.UTF-8"] {
            let line = refused(&args, &[], language);
            assert!(line.starts_with(&format!("{source}: ")), "{line}");
            assert!(line.contains(&named(other)), "{line}");
        }
    }
}

/// The contents of a file, a field line or the URL of a proxy given to the wrong flag.
pub fn nothing_that_may_be_a_credential_is_repeated() {
    let pem = "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n";
    for flag in flags().filter(|flag| flag.kind != Kind::Switch) {
        let mut values = vec![
            pem,
            "Authorization: Bearer s3cret",
            "ftp://user:s3cret@proxy.example:1080",
        ];
        // File names may contain these characters.
        if flag.values != Offer::Files {
            values.extend(["?token=s3cret", "s3cret@["]);
        }
        for value in values {
            let mut args = vec![format!("{}={value}", flag.long)];
            // Some flags accept some of them; --check-path, which is read last, then fails.
            if flag.long != "--check-path" {
                args.push("--check-path=x".to_owned());
            }
            for language in ["C", "zh_CN.UTF-8"] {
                refused(&args, &[], language);
            }
        }
    }
}
