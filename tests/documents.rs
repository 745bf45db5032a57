//! Compares the documents with the program: every flag and variable is in the manual page, in
//! docs/settings.md in both languages and in the CHANGELOG, and these and the READMEs mention
//! none that does not exist.

use libtest_mimic::Trial;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use simple_proxy::cli::flags;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        every_flag_and_variable_is_documented,
        promised_log_lines_are_documented,
        every_event_and_status_is_in_the_manual,
        every_link_leads_to_a_file,
    ]
}

const MANUAL: &str = include_str!("../man/simple-proxy.1");
const README: &str = include_str!("../README.md");
const README_ZH: &str = include_str!("../README.zh-CN.md");
const SETTINGS: &str = include_str!("../docs/settings.md");
const SETTINGS_ZH: &str = include_str!("../docs/settings.zh-CN.md");
const CHANGELOG: &str = include_str!("../CHANGELOG.md");

const VARIABLES: [&str; 5] = [
    "UPSTREAM_HOST",
    "LISTEN_PORT",
    "SOCKS_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
];

/// Names in the documents that look like the program's variables but are not.
const OTHER_NAMES: [&str; 16] = [
    "ALL_PROXY",
    "DOCKER_HOST",
    "CAP_NET_BIND_SERVICE",
    "JOURNAL_STREAM",
    "LC_ALL",
    "LC_MESSAGES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "NO_PROXY",
    "OPENSSL_CONF",
    "RLIMIT_NOFILE",
    "SIMPLE_PROXY_REQUIRE_PEERS",
    "SO_REUSEPORT",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];

/// Long flags of other programs that the documents use.
const OTHER_FLAGS: [&str; 4] = ["--locked", "--now", "--path", "--server"];

/// The log lines whose format is documented, as they look for one request.
const PROMISED_LINES: [&str; 4] = [
    "===收到请求开始=== GET /ws/chat (Host: localhost:8080)",
    "WebSocket 请求: /ws/chat (Host: localhost:8080)",
    "WebSocket 连接建立，开始双向转发",
    "WebSocket 连接关闭",
];

/// One flag in a document or in the program: its names, and its variable if any.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flag {
    names: Vec<String>,
    variable: Option<String>,
}

pub fn every_flag_and_variable_is_documented() {
    let flags = flags_of_the_program();
    let variables = flags.iter().filter_map(|flag| flag.variable.as_deref());
    assert_eq!(
        variables.collect::<BTreeSet<_>>(),
        BTreeSet::from(VARIABLES),
        "the variables that the documents list"
    );
    assert_eq!(flags_of_the_manual(), flags, "OPTIONS of the manual page");
    for (document, text) in [("settings", SETTINGS), ("settings.zh-CN", SETTINGS_ZH)] {
        assert_eq!(
            flags_of_a_table(text),
            flags,
            "the table of docs/{document}.md"
        );
    }
    for (readme, text) in [("README", README), ("README.zh-CN", README_ZH)] {
        let most_used = flags_of_a_table(text);
        assert!(most_used.len() >= 10, "the settings of the {readme}");
        let strange: Vec<_> = most_used.difference(&flags).collect();
        assert!(strange.is_empty(), "the {readme} has {strange:?}");
    }

    let names: BTreeSet<&str> = flags
        .iter()
        .flat_map(|flag| &flag.names)
        .map(String::as_str)
        .collect();
    let manual = MANUAL.replace(r"\-", "-");
    for (document, text) in [
        ("manual page", &*manual),
        ("README", README),
        ("README.zh-CN", README_ZH),
        ("docs/settings.md", SETTINGS),
        ("docs/settings.zh-CN.md", SETTINGS_ZH),
        ("CHANGELOG", CHANGELOG),
    ] {
        for flag in long_flags(text) {
            let known = names.contains(flag) || OTHER_FLAGS.contains(&flag);
            assert!(
                known,
                "the {document} mentions {flag}, which does not exist"
            );
        }
        let mentioned: BTreeSet<&str> = upper_case_names(text).collect();
        for name in &mentioned {
            let known = VARIABLES.contains(name)
                || OTHER_NAMES.contains(name)
                || *name == "SIMPLE_PROXY_"
                || flags::flags().any(|flag| flag.prefixed_variable() == Some(name));
            assert!(
                known,
                "the {document} mentions {name}, which does not exist"
            );
        }
        for variable in VARIABLES {
            assert!(
                mentioned.contains(variable),
                "the {document} lacks {variable}"
            );
        }
    }
    for flag in MANUAL.lines().flat_map(flags_of_macros) {
        assert!(
            names.contains(&*flag),
            "the manual page mentions {flag}, which does not exist"
        );
    }
    let in_changelog: BTreeSet<&str> = long_flags(CHANGELOG).collect();
    for flag in names.iter().filter(|name| name.starts_with("--")) {
        assert!(in_changelog.contains(flag), "the CHANGELOG lacks {flag}");
    }
}

pub fn promised_log_lines_are_documented() {
    for line in PROMISED_LINES {
        for (document, text) in [
            ("manual page", MANUAL),
            ("README", README),
            ("README.zh-CN", README_ZH),
        ] {
            let found = text.lines().any(|candidate| candidate == line);
            assert!(found, "the {document} lacks the line {line:?}");
        }
    }
}

/// Pictures included.
pub fn every_link_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut links = 0;
    for document in [
        "README.md",
        "README.zh-CN.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "benches/README.md",
        "fuzz/README.md",
        "docs/scaling.md",
        "docs/settings.md",
        "docs/settings.zh-CN.md",
    ] {
        let path = root.join(document);
        let text = fs::read_to_string(&path).expect(document);
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            links += 1;
            let target = path.parent().expect("a folder").join(target);
            assert!(target.exists(), "{document} links to {target:?}");
        }
    }
    assert!(links > 30, "only {links} links were found");
}

pub fn every_event_and_status_is_in_the_manual() {
    const LOG: &str = include_str!("../src/report/log.rs");
    const ANSWERS: &str = include_str!("../src/serve/answer.rs");
    // The first name behind each call that writes a line; and of other files.
    let mut events = BTreeSet::from(["not_started", "dropped"]);
    for maker in ["emit(", "emit_about(", "certificate("] {
        for (at, _) in LOG.match_indices(maker) {
            let (before, behind) = (&LOG[..at], &LOG[at..]);
            let is_call = before.ends_with([' ', '\n']) && !before.ends_with("fn ");
            let first = behind.split('"').nth(1).unwrap_or_default();
            if is_call && first.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                events.insert(first);
            }
        }
    }
    assert!(events.len() > 30, "{events:?}");
    let of_items = |from: &str, to: &str| -> BTreeSet<&str> {
        let (_, section) = MANUAL.split_once(from).expect("a section of the manual");
        let (section, _) = section.split_once(to).expect("its end");
        let items = section.lines().filter_map(|line| line.strip_prefix(".It "));
        let words = items.flat_map(|item| item.trim_start_matches("Li ").split(" , "));
        words.collect()
    };
    assert_eq!(
        of_items("\n.Ss JSON\n", "\n.Ss "),
        events,
        "events of the log"
    );
    let statuses = ANSWERS.lines().filter_map(|line| {
        let (status, reason) = line.trim().split_once(" => \"")?;
        let is_status = status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit());
        // These two are of the ports for people and Prometheus alone.
        let is_elsewhere = ["OK\",", "Not Found\","].contains(&reason);
        (is_status && !is_elsewhere).then_some(status)
    });
    assert_eq!(
        of_items("\n.Ss Responses of the proxy\n", "\n.Sh "),
        statuses.collect(),
        "statuses of responses of the proxy"
    );
}

/// The flags in the program's table.
fn flags_of_the_program() -> BTreeSet<Flag> {
    let flags = flags::flags().map(|flag| {
        let short = flag.short.map(|letter| format!("-{letter}"));
        Flag {
            names: short.into_iter().chain([flag.long.to_owned()]).collect(),
            variable: flag.variable.map(str::to_owned),
        }
    });
    flags.collect()
}

/// The flags in the manual's OPTIONS, from items like `.It Fl u , Fl -upstream-host Ar host`.
fn flags_of_the_manual() -> BTreeSet<Flag> {
    let (_, options) = MANUAL
        .split_once("\n.Sh OPTIONS\n")
        .expect("a section OPTIONS");
    let (options, _) = options
        .split_once("\n.Sh ")
        .expect("a section after OPTIONS");
    let items = options.split("\n.It ").skip(1).map(|item| {
        let head = item.lines().next().unwrap_or_default();
        let variable = item.lines().find_map(|line| line.strip_prefix(".Ev "));
        Flag {
            names: flags_of_macros(&format!(".It {head}")),
            variable: variable.map(|rest| rest.trim_end_matches(" .").to_owned()),
        }
    });
    items.collect()
}

/// The flags in a table of settings, whose rows begin like
/// ``| `-u`, `--upstream-host HOST:PORT` | `X` |``.
fn flags_of_a_table(text: &str) -> BTreeSet<Flag> {
    let rows = text.lines().filter(|line| line.starts_with("| `-"));
    let flags = rows.map(|row| {
        let mut cells = row
            .split('|')
            .skip(1)
            .map(|cell| cell.trim().replace('`', ""));
        let (names, variable) = (cells.next().unwrap_or_default(), cells.next());
        let words = names
            .split([' ', ',', '['])
            .filter(|word| word.starts_with('-'));
        Flag {
            names: words.map(str::to_owned).collect(),
            variable: variable.filter(|variable| !variable.is_empty()),
        }
    });
    flags.collect()
}

/// The flags that a line of mdoc marks with `Fl`; each of several joined switches counts.
fn flags_of_macros(line: &str) -> Vec<String> {
    let Some(words) = line.strip_prefix('.') else {
        return Vec::new();
    };
    let mut flags = Vec::new();
    let mut in_flags = false;
    for word in words.split_whitespace() {
        let is_macro = matches!(word.as_bytes(), [b'A'..=b'Z', b'a'..=b'z']);
        if is_macro {
            in_flags = word == "Fl";
        } else if in_flags && word.starts_with('-') {
            flags.push(format!("-{word}"));
        } else if in_flags && word.bytes().all(|b| b.is_ascii_alphabetic()) {
            flags.extend(word.chars().map(|letter| format!("-{letter}")));
        }
    }
    flags
}

/// Everything that looks like a long flag: two hyphens, then a letter.
fn long_flags(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.split(move |c| !is_part(c))
        .filter(|word| word.starts_with("--"))
        .filter(|word| word[2..].starts_with(|c: char| c.is_ascii_alphabetic()))
}

/// Everything that looks like a variable: capitals with an underscore between them.
fn upper_case_names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| {
            word.contains('_') && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        })
}
