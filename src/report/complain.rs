//! Formats the error that keeps the program from starting, for standard error.

use std::fmt::Write as _;

use crate::complaint::Complaint;
use crate::config::LogFormat;
use crate::date;
use crate::language::{Language, Text};
use crate::report::json::{self, Value};
use crate::report::output::is_journal;

/// The priority of an error in the journal (syslog(3)).
const PRIORITY: &str = "<3>";

const HINT: Text = Text::new(
    "Try 'simple-proxy --help' for more information.",
    "请用 'simple-proxy --help' 查看用法。",
);

/// The lines for a complaint: the error, and with `is_usage` a second line that points to
/// `--help`; in JSON one object. If standard error is the journal, each line begins with its
/// priority.
pub fn lines(
    complaint: &Complaint,
    language: Language,
    format: LogFormat,
    is_usage: bool,
) -> String {
    let prefix = if is_journal() { PRIORITY } else { "" };
    let mut out = String::from(prefix);
    if format == LogFormat::Json {
        let mut time = String::new();
        date::stamp(&mut time);
        json::write(
            &mut out,
            Value::Object(&[
                ("time", Value::Text(&time)),
                ("level", Value::Text("error")),
                ("event", Value::Text("not_started")),
                ("source", Value::Text(complaint.source.say(language))),
                ("problem", Value::Text(complaint.problem.say(language))),
            ]),
        );
        out.push('\n');
        return out;
    }
    _ = writeln!(out, "simple-proxy: {}", complaint.say(language));
    if is_usage {
        _ = writeln!(out, "{prefix}{}", HINT.say(language));
    }
    out
}
