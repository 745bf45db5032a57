//! Turns the values of a flag, from the command line, the environment or the table, into its
//! setting: how many of them count, and how `--check` shows the setting and its source.

use std::net::SocketAddr;
use std::time::Duration;

use crate::cli::flags::{Default, Flag, Group, Settings, TABLE};
use crate::cli::refused::with_value;
use crate::cli::upstream::Upstream;
use crate::cli::values::{Chain, Key, Mode, Roots};
use crate::complaint::Complaint;
use crate::config::{Bind, Forwarded, LogFormat, TlsVersion};
use crate::edits::FieldEdits;
use crate::language::{Language, Text, Words};
use crate::network::Network;
use crate::proxy::Proxies;

/// A value as given: its source and its text.
pub(crate) struct Given {
    /// The flag or variable that gave it.
    pub(crate) source: &'static str,
    /// The text of the value.
    pub(crate) text: String,
}

impl Given {
    fn read<T>(&self, flag: &Flag, read: fn(&str) -> Result<T, Words>) -> Result<T, Complaint> {
        if self.text.is_empty() {
            let empty = Words::new(
                "the value is empty; give a value, or leave the option out",
                "值为空；请给出一个值，或去掉此选项",
            );
            return Err(Complaint::new(self.source, empty));
        }
        read(&self.text).map_err(|problem| {
            let problem = wrapped(&self.text).unwrap_or(problem);
            Complaint::new(self.source, with_value(&problem, flag, &self.text))
        })
    }
}

/// The problem with a value that includes quotes, blanks or a carriage return, which belong
/// to the syntax of a shell or to a file's line ends; None if it does not.
fn wrapped(text: &str) -> Option<Words> {
    let is_quote = |c: char| matches!(c, '"' | '\'' | '\u{2018}'..='\u{201d}');
    if text.ends_with('\r') {
        Some(Words::new(
            "the value ends in a carriage return: the file has Windows line endings; convert it, \
             for example with dos2unix",
            "值以回车符结尾：文件使用了 Windows 换行符；请转换，例如用 dos2unix",
        ))
    } else if text.starts_with(is_quote) || text.ends_with(is_quote) {
        Some(Words::new(
            "the value is in quotes; remove them",
            "值带有引号；请去掉引号",
        ))
    } else if text.trim() != text {
        Some(Words::new(
            "the value begins or ends with whitespace; remove it",
            "值的首尾有空白字符；请去掉",
        ))
    } else {
        None
    }
}

/// A setting parsed from values, of which each parses into a `T`.
pub(crate) trait Value<T>: Sized {
    fn read(
        flag: &Flag,
        given: &[Given],
        read: fn(&str) -> Result<T, Words>,
    ) -> Result<Self, Complaint>;
}

/// The last value, else the default in the table.
impl<T> Value<T> for T {
    fn read(
        flag: &Flag,
        given: &[Given],
        read: fn(&str) -> Result<T, Words>,
    ) -> Result<T, Complaint> {
        match (given.last(), &flag.default) {
            (Some(given), _) => given.read(flag, read),
            (None, Default::Value(text)) => {
                read(text).map_err(|problem| Complaint::new(flag.long, problem))
            }
            (None, _) => {
                let (long, metavar) = (flag.long, flag.metavar);
                let problem = crate::both!(
                    "not set; set it, or use {long} {metavar}",
                    "未设置；请设置此变量，或使用 {long} {metavar}"
                );
                Err(Complaint::new(flag.variable.unwrap_or(long), problem))
            }
        }
    }
}

/// The last value, if there is one.
impl<T> Value<T> for Option<T> {
    fn read(
        flag: &Flag,
        given: &[Given],
        read: fn(&str) -> Result<T, Words>,
    ) -> Result<Option<T>, Complaint> {
        let read = |given: &Given| given.read(flag, read);
        given.last().map(read).transpose()
    }
}

/// All values.
impl<T> Value<T> for Vec<T> {
    fn read(
        flag: &Flag,
        given: &[Given],
        read: fn(&str) -> Result<T, Words>,
    ) -> Result<Vec<T>, Complaint> {
        given.iter().map(|given| given.read(flag, read)).collect()
    }
}

/// A value as `--check` shows it, with passwords hidden; None for an absent value, for which
/// the text of the flag's default is shown.
pub(crate) trait Shown {
    fn shown(&self) -> Option<Words>;
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> Option<Words> {
        self.as_ref().and_then(Shown::shown)
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn shown(&self) -> Option<Words> {
        let all: Vec<Words> = self.iter().filter_map(Shown::shown).collect();
        let join = |language| {
            let each: Vec<&str> = all.iter().map(|words| words.say(language)).collect();
            each.join(", ")
        };
        match all.is_empty() {
            true => None,
            false => Some(Words::made(
                join(Language::English),
                join(Language::Chinese),
            )),
        }
    }
}

macro_rules! shown_as_displayed {
    ($($type:ty)*) => {$(
        impl Shown for $type {
            fn shown(&self) -> Option<Words> {
                Some(Words::same(self.to_string()))
            }
        }
    )*};
}

shown_as_displayed!(u16 usize String Upstream Bind Mode Network SocketAddr Proxies TlsVersion);

impl Shown for bool {
    fn shown(&self) -> Option<Words> {
        Some(match self {
            true => Words::new("on", "开"),
            false => Words::new("off", "关"),
        })
    }
}

impl Shown for Duration {
    fn shown(&self) -> Option<Words> {
        let seconds = self.as_secs_f64();
        Some(crate::both!("{seconds} s", "{seconds} 秒"))
    }
}

impl Shown for Chain {
    fn shown(&self) -> Option<Words> {
        Some(Words::same(self.path.as_str()))
    }
}

impl Shown for Key {
    fn shown(&self) -> Option<Words> {
        Some(Words::same(self.path.as_str()))
    }
}

impl Shown for Roots {
    fn shown(&self) -> Option<Words> {
        Some(Words::same(self.path.as_str()))
    }
}

impl Shown for Forwarded {
    fn shown(&self) -> Option<Words> {
        match self {
            Forwarded::Off => false.shown(),
            Forwarded::Replace => true.shown(),
            Forwarded::Append => Some(Words::same("append")),
        }
    }
}

/// Shows the field names only, because a value may be a credential.
impl Shown for FieldEdits {
    fn shown(&self) -> Option<Words> {
        Some(Words::same(self.to_string()))
    }
}

impl Shown for Language {
    fn shown(&self) -> Option<Words> {
        Some(Words::same(match self {
            Language::Chinese => "zh",
            Language::English => "en",
        }))
    }
}

impl Shown for LogFormat {
    fn shown(&self) -> Option<Words> {
        Some(Words::same(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
            LogFormat::Combined => "combined",
        }))
    }
}

/// A setting in effect, as `--check` and the status page show it.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// The long flag, without its hyphens.
    pub name: &'static str,
    /// The value, with passwords hidden.
    pub value: Words,
    /// The flag or variable that set it; None for the default.
    pub source: Option<&'static str>,
}

impl Setting {
    /// The flag or variable that set it, or the word for "default".
    pub(crate) fn source(&self, language: Language) -> &'static str {
        let default = Text::new("default", "默认");
        self.source.unwrap_or(default.say(language))
    }
}

/// All settings, in the order of the flags.
pub(crate) fn list(settings: &Settings, given: &[Vec<Given>]) -> Vec<Setting> {
    let rows = TABLE.iter().zip(settings.shown()).zip(given);
    let rows = rows.filter(|((flag, _), _)| flag.group != Group::Other);
    let rows = rows.map(|((flag, shown), given)| Setting {
        name: flag.name(),
        value: shown.unwrap_or_else(|| match &flag.default {
            Default::Words(words) => words.words(),
            Default::Value(text) => Words::same(*text),
            Default::Required => Words::same(""),
        }),
        source: given.last().map(|given| given.source),
    });
    rows.collect()
}
