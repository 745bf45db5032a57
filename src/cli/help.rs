//! The help text, generated from the table of flags.

use std::fmt::Write as _;

use crate::cli::flags::{flags, Default, Flag, Group, Kind};
use crate::config::Language;
use crate::language::Text;
use crate::text::wrap;

const INTRODUCTION: Text = Text::new(
    "Reverse proxy to one fixed upstream, directly, through SOCKS5 or by CONNECT.",
    "把所有请求转发到一个固定上游的反向代理：直连、经 SOCKS5 或经 HTTP 代理（CONNECT）。",
);

const VARIABLES: Text = Text::new(
    "Every option but -h, -V and --check also has a variable: SIMPLE_PROXY_ and its long name \
     in capitals, such as SIMPLE_PROXY_CONNECT_TIMEOUT. An option overrides its variable.",
    "除 -h、-V 和 --check 外，每个选项都有对应的环境变量：SIMPLE_PROXY_ 加上大写的长选项名，\
     例如 SIMPLE_PROXY_CONNECT_TIMEOUT。选项优先于环境变量。",
);

/// The column in which the description of a flag begins.
const COLUMN: usize = 26;

/// The help in one language, in lines of at most 80 columns.
pub fn help(language: Language) -> String {
    let mut out = String::new();
    let usage = Text::new("Usage", "用法");
    let option = Text::new("OPTION", "选项");
    _ = writeln!(
        out,
        "{}: simple-proxy -u HOST:PORT [{}]...",
        usage.say(language),
        option.say(language)
    );
    _ = wrap(&mut out, INTRODUCTION.say(language), 0, 0);
    for group in Group::ALL {
        _ = writeln!(out, "\n{}:", group.title().say(language));
        for flag in flags().filter(|flag| flag.group == group) {
            entry(&mut out, flag, language);
        }
    }
    out.push('\n');
    _ = wrap(&mut out, VARIABLES.say(language), 0, 0);
    let example = Text::new("Example", "示例");
    _ = writeln!(
        out,
        "\n{}:\n  simple-proxy -u example.com:443 -s socks5://127.0.0.1:1080 -p 8080",
        example.say(language)
    );
    out
}

/// One flag: its names, what it does, its default and its variable.
fn entry(out: &mut String, flag: &Flag, language: Language) {
    let mut names = match flag.short {
        Some(letter) => format!("  -{letter}, {}", flag.long),
        None => format!("      {}", flag.long),
    };
    match flag.kind {
        Kind::Switch => {}
        Kind::Optional => _ = write!(names, "[={}]", flag.metavar),
        Kind::Single | Kind::Repeatable => _ = write!(names, " {}", flag.metavar),
    }
    out.push_str(&names);
    let mut column = names.len();
    if column + 2 > COLUMN {
        out.push('\n');
        column = 0;
    }
    _ = write!(out, "{:1$}", "", COLUMN - column);
    let mut pieces = vec![flag.help.say(language).to_owned()];
    let default = match &flag.default {
        Default::Value(_) if flag.kind == Kind::Switch => None,
        Default::Value(text) => Some(*text),
        // "default: none" or "default: off" would tell the reader nothing.
        Default::Words(words) if ["none", "off"].contains(&words.say(Language::English)) => None,
        Default::Words(words) => Some(words.say(language)),
        Default::Required => None,
    };
    let (by_default, variable) = (Text::new("default", "默认"), Text::new("env", "变量"));
    if let Some(default) = default {
        // No-break spaces keep the default, and below the variable, on one line.
        let piece = format!("[{}: {default}]", by_default.say(language));
        pieces.push(piece.replace(' ', "\u{a0}"));
    }
    if let Some(name) = flag.variable {
        pieces.push(format!("[{}:\u{a0}{name}]", variable.say(language)));
    }
    _ = wrap(out, &pieces.join(" "), COLUMN, COLUMN);
}
