//! Formats a line of the log, on standard error, as text in either language or as JSON. Leaves
//! the wording of events to `log`, and writing to a slow reader to `output`.

use std::fmt::{self, Display};
use std::sync::OnceLock;
use std::time::Duration;

use crate::config::{Language, LogFormat, LogSettings, Verbosity};
use crate::date;
use crate::report::json::{self, Value};
use crate::report::output::{self, Stream};

struct State {
    settings: LogSettings,
    to_journal: bool,
}

static STATE: OnceLock<State> = OnceLock::new();

/// How important a line is, as a syslog priority (RFC 5424 §6.2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// Something failed.
    Error = 3,
    /// Something needs attention.
    Warning = 4,
    /// Normal operation.
    Info = 6,
    /// Details, written with `--verbose` only.
    Debug = 7,
}

impl Priority {
    fn name(self) -> &'static str {
        match self {
            Priority::Error => "error",
            Priority::Warning => "warning",
            Priority::Info => "info",
            Priority::Debug => "debug",
        }
    }
}

/// Sets language, format and verbosity, once, before the first line.
pub fn init(settings: LogSettings) {
    let to_journal = output::is_journal();
    let _ = STATE.set(State {
        settings,
        to_journal,
    });
}

fn state() -> &'static State {
    const DEFAULT: State = State {
        settings: LogSettings {
            language: Language::Chinese,
            format: LogFormat::Text,
            verbosity: Verbosity::Normal,
        },
        to_journal: false,
    };
    STATE.get().unwrap_or(&DEFAULT)
}

/// Whether an access log in the combined format is written.
pub(super) fn is_combined() -> bool {
    state().settings.format == LogFormat::Combined
}

/// Whether the log has lines for each request. If an access log is written, it has them only
/// with `--verbose`.
pub(super) fn tells_requests() -> bool {
    is_enabled(match is_combined() {
        true => Priority::Debug,
        false => Priority::Info,
    })
}

/// Whether lines of this importance are written.
pub(super) fn is_enabled(priority: Priority) -> bool {
    match state().settings.verbosity {
        Verbosity::Quiet => priority == Priority::Error,
        Verbosity::Normal => priority < Priority::Debug,
        Verbosity::Verbose => true,
    }
}

/// A member of an event's object in JSON.
pub(super) type Member<'a> = (&'a str, Value<'a>);

/// The name of an event in JSON and its members, without those that identify the connection.
pub(super) type Event<'a> = (&'a str, &'a [Member<'a>]);

/// Writes the line of an event that concerns the program as a whole.
pub(super) fn emit(
    priority: Priority,
    event: Event<'_>,
    chinese: fmt::Arguments<'_>,
    english: fmt::Arguments<'_>,
) {
    emit_about(&[], priority, event, chinese, english);
}

/// Writes the line of an event that concerns a connection or request, identified by `whose`.
pub(super) fn emit_about(
    whose: &[Member<'_>],
    priority: Priority,
    event: Event<'_>,
    chinese: fmt::Arguments<'_>,
    english: fmt::Arguments<'_>,
) {
    if is_enabled(priority) {
        tell_dropped();
        line(whose, priority, event, chinese, english);
    }
}

fn line(
    whose: &[Member<'_>],
    priority: Priority,
    (name, members): Event<'_>,
    chinese: fmt::Arguments<'_>,
    english: fmt::Arguments<'_>,
) {
    let State {
        settings,
        to_journal,
    } = state();
    output::line(Stream::Error, |line| {
        use fmt::Write;
        // Writing to a String cannot fail.
        if *to_journal {
            let _ = write!(line, "<{}>", priority as u8);
        }
        if settings.format == LogFormat::Json {
            line.push_str("{\"time\":\"");
            date::stamp(line);
            let _ = write!(line, "\",\"level\":\"{}\"", priority.name());
            let _ = write!(line, ",\"event\":\"{name}\"");
            for (name, value) in whose.iter().chain(members) {
                let _ = write!(line, ",\"{name}\":");
                json::write(line, *value);
            }
            line.push('}');
            return;
        }
        if !to_journal {
            date::stamp(line);
            line.push(' ');
        }
        let _ = match settings.language {
            Language::Chinese => line.write_fmt(chinese),
            Language::English => line.write_fmt(english),
        };
    });
}

/// Writes a debug line with values that the event's text line omits. In JSON the event itself
/// has them, so nothing is written.
pub(super) fn detail(chinese: fmt::Arguments<'_>, english: fmt::Arguments<'_>) {
    if state().settings.format != LogFormat::Json {
        emit(Priority::Debug, ("", &[]), chinese, english);
    }
}

/// Logs how many lines were dropped, once the slow reader reads again.
fn tell_dropped() {
    let dropped = output::take_dropped();
    if dropped > 0 {
        line(
            &[],
            Priority::Warning,
            ("dropped", &[("lines", Value::Number(dropped as u64))]),
            format_args!("日志读取过慢，丢弃 {dropped} 行"),
            format_args!("the log was not read: {dropped} lines dropped"),
        );
    }
}

/// Writes the thread's buffered lines as far as the streams take them without blocking.
/// Returns the delay before the next attempt if some are left.
pub fn flush() -> Option<Duration> {
    if !output::holds_any() {
        return None;
    }
    tell_dropped();
    output::flush()
}

/// Milliseconds, with one decimal.
pub(crate) fn millis(time: Duration) -> impl Display {
    struct Millis(f64);
    impl Display for Millis {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{:.1}", self.0)
        }
    }
    Millis(time.as_secs_f64() * 1e3)
}
