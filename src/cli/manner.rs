//! The language and format of help, errors and the report of `--check`. They are read from the
//! arguments and the environment before the settings are parsed, which may fail.

use std::ffi::{OsStr, OsString};

use crate::config::LogFormat;
use crate::language::Language;

/// The language and format of messages outside the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// As set by `--log-lang` or its variable, else by the locale.
    pub language: Language,
    /// As set by `--log-format` or its variable.
    pub format: LogFormat,
}

impl Manner {
    /// The language and format that the arguments and the environment ask for. Invalid
    /// values are ignored here: the error about them is printed in this language and format.
    pub fn of(args: &[OsString], environment: impl Fn(&str) -> Option<OsString>) -> Manner {
        let set = |flag, variable| {
            let of_variable = || environment(variable)?.into_string().ok();
            last_value(args, flag).or_else(of_variable)
        };
        let language = match set("--log-lang", "SIMPLE_PROXY_LOG_LANG").as_deref() {
            Some("zh") => Language::Chinese,
            Some("en") => Language::English,
            _ => of_the_locale(&environment),
        };
        let format = match set("--log-format", "SIMPLE_PROXY_LOG_FORMAT").as_deref() {
            Some("json") => LogFormat::Json,
            _ => LogFormat::Text,
        };
        Manner { language, format }
    }
}

/// The language of the locale: the first of LC_ALL, LC_MESSAGES and LANG that is set decides
/// (POSIX, XBD 8.2). A value that begins with `zh` means Chinese, any other English.
fn of_the_locale(environment: impl Fn(&str) -> Option<OsString>) -> Language {
    let mut values = ["LC_ALL", "LC_MESSAGES", "LANG"]
        .into_iter()
        .map(environment);
    let locale = values.find_map(|value| value.filter(|value| !value.is_empty()));
    match locale.as_deref().and_then(OsStr::to_str) {
        Some(locale) if locale.starts_with("zh") => Language::Chinese,
        _ => Language::English,
    }
}

/// The last value of a flag among the arguments, written `--flag value` or `--flag=value`.
fn last_value(args: &[OsString], flag: &str) -> Option<String> {
    let words: Vec<&str> = args.iter().filter_map(|word| word.to_str()).collect();
    let mut given = words.iter().enumerate().filter_map(|(at, word)| {
        let rest = word.strip_prefix(flag)?;
        match rest.strip_prefix('=') {
            Some(value) => Some(value),
            None if rest.is_empty() => words.get(at + 1).copied(),
            None => None,
        }
    });
    given.next_back().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_or_variable_overrides_the_locale() {
        for (args, variables, expected) in [
            (&[][..], &[][..], Language::English),
            (&[], &[("LANG", "zh_CN.UTF-8")], Language::Chinese),
            (&[], &[("LANG", "zh")], Language::Chinese),
            (&[], &[("LANG", "C")], Language::English),
            (
                &[],
                &[("LC_ALL", ""), ("LC_MESSAGES", "zh_TW"), ("LANG", "de_DE")],
                Language::Chinese,
            ),
            (
                &[],
                &[("LC_ALL", "C.UTF-8"), ("LANG", "zh_CN")],
                Language::English,
            ),
            (&["--log-lang", "zh"], &[], Language::Chinese),
            (&["--log-lang=en"], &[("LANG", "zh")], Language::English),
            (
                &["--log-lang=zh", "--log-lang", "en"],
                &[("LANG", "zh")],
                Language::English,
            ),
            (&["--log-lang"], &[("LANG", "zh")], Language::Chinese),
            (
                &[],
                &[("SIMPLE_PROXY_LOG_LANG", "en"), ("LANG", "zh")],
                Language::English,
            ),
            (
                &["--log-lang=zh"],
                &[("SIMPLE_PROXY_LOG_LANG", "en")],
                Language::Chinese,
            ),
        ] {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            let manner = Manner::of(&args, |name| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| OsString::from(value))
            });
            assert_eq!(manner.language, expected, "{args:?} {variables:?}");
        }
    }
}
