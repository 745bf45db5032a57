//! The log on standard error: one function per event, in either language.
//!
//! Lines collect in a buffer of the thread and are written when it is about to wait. A
//! reader that stops costs lines, counted and reported, never the data path's time.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{poll, PollFd, PollFlags, Timespec};

use crate::config::{Config, Language, LogSettings, Verbosity};
use crate::error::Error;

/// What a pipe takes at once without blocking, when it takes anything (PIPE_BUF).
const WRITE_AT_ONCE: usize = 4096;

/// Lines that wait for a stuck reader, in bytes; beyond it lines are dropped.
const HELD_BACK: usize = 256 * 1024;

/// Written out while a thread is busy, at this many bytes.
const BUSY_FLUSH: usize = 16 * 1024;

/// How soon a reader that was stuck is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The longest client-chosen text in one line; the rest is cut.
const LONGEST_TEXT: usize = 2000;

struct State {
    settings: LogSettings,
    to_journal: bool,
}

static STATE: OnceLock<State> = OnceLock::new();

#[derive(Default)]
struct Pending {
    lines: String,
    dropped: usize,
    clock: Clock,
}

thread_local! {
    static PENDING: RefCell<Pending> = RefCell::default();
}

/// How important a line is, as a syslog priority (RFC 5424 §6.2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    Error = 3,
    Warning = 4,
    Info = 6,
    Debug = 7,
}

/// Chooses language and verbosity, once, before the first line.
pub fn init(settings: LogSettings) {
    let to_journal = is_journal();
    let _ = STATE.set(State {
        settings,
        to_journal,
    });
}

/// Whether standard error is the journal: JOURNAL_STREAM names its device and inode.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stat) = rustix::fs::fstat(io::stderr().as_fd()) else {
        return false;
    };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

fn state() -> &'static State {
    const DEFAULT: State = State {
        settings: LogSettings {
            language: Language::Chinese,
            verbosity: Verbosity::Normal,
        },
        to_journal: false,
    };
    STATE.get().unwrap_or(&DEFAULT)
}

fn enabled(priority: Priority) -> bool {
    match state().settings.verbosity {
        Verbosity::Quiet => priority == Priority::Error,
        Verbosity::Normal => priority < Priority::Debug,
        Verbosity::Verbose => true,
    }
}

fn emit(priority: Priority, chinese: fmt::Arguments<'_>, english: fmt::Arguments<'_>) {
    if !enabled(priority) {
        return;
    }
    let text = match state().settings.language {
        Language::Chinese => chinese,
        Language::English => english,
    };
    with_pending(|pending| {
        if pending.lines.len() > HELD_BACK {
            pending.dropped += 1;
            return;
        }
        pending.line(priority, text);
        if pending.lines.len() >= BUSY_FLUSH {
            pending.write_out(Duration::ZERO);
        }
    });
}

/// Does nothing while a line is being formatted, should that very formatting panic.
fn with_pending(work: impl FnOnce(&mut Pending)) {
    PENDING.with(|pending| {
        if let Ok(mut pending) = pending.try_borrow_mut() {
            work(&mut pending);
        }
    });
}

/// Writes the thread's lines out, as far as the reader takes them without a wait. Gives
/// the time after which to try again, if some are left.
pub fn flush() -> Option<Duration> {
    let mut left = false;
    with_pending(|pending| {
        pending.write_out(Duration::ZERO);
        left = !pending.lines.is_empty();
    });
    left.then_some(RETRY)
}

/// Writes the thread's lines out before it ends, waiting a moment for a slow reader.
pub fn flush_last() {
    with_pending(|pending| pending.write_out(Duration::from_millis(500)));
}

impl Pending {
    fn line(&mut self, priority: Priority, text: fmt::Arguments<'_>) {
        let start = self.lines.len();
        // Writing to a String cannot fail.
        let _ = if state().to_journal {
            write!(self.lines, "<{}>", priority as u8)
        } else {
            self.clock.stamp(SystemTime::now(), &mut self.lines);
            self.lines.write_char(' ')
        };
        let _ = writeln!(self.lines, "{text}");
        // Only a line that a pipe takes at once can never block.
        if self.lines.len() - start > WRITE_AT_ONCE {
            let cut = start + WRITE_AT_ONCE - "...\n".len();
            self.lines.truncate(floor_char(&self.lines, cut));
            self.lines.push_str("...\n");
        }
    }

    fn write_out(&mut self, patience: Duration) {
        if self.lines.is_empty() {
            return;
        }
        if self.dropped > 0 && self.lines.len() < HELD_BACK / 2 {
            let dropped = std::mem::take(&mut self.dropped);
            let text = match state().settings.language {
                Language::Chinese => format!("日志读取过慢，丢弃 {dropped} 行"),
                Language::English => format!("the log was not read: {dropped} lines dropped"),
            };
            self.line(Priority::Warning, format_args!("{text}"));
        }
        let stderr = io::stderr();
        let mut written = 0;
        while written < self.lines.len() {
            let rest = &self.lines.as_bytes()[written..];
            let piece = &rest[..whole_lines(rest)];
            if !writable(&stderr, patience) {
                break;
            }
            match rustix::io::write(&stderr, piece) {
                Ok(n) => written += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                // Closed or full: the lines have nowhere to go.
                Err(_) => written = self.lines.len(),
            }
        }
        self.lines.drain(..ceil_char(&self.lines, written));
    }
}

fn floor_char(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil_char(text: &str, mut at: usize) -> usize {
    // A write that ended inside a character loses its rest: better than a panic.
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// How many bytes of `lines` to write at once: whole lines, of which one always fits.
fn whole_lines(lines: &[u8]) -> usize {
    if lines.len() <= WRITE_AT_ONCE {
        return lines.len();
    }
    let newline = lines[..WRITE_AT_ONCE].iter().rposition(|&b| b == b'\n');
    newline.map_or(WRITE_AT_ONCE, |at| at + 1)
}

fn writable(stderr: &io::Stderr, patience: Duration) -> bool {
    let mut fds = [PollFd::new(stderr, PollFlags::OUT)];
    let timeout = Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: patience.subsec_nanos().into(),
    };
    // A broken stream counts as writable: the write says so and the lines are let go.
    matches!(poll(&mut fds, Some(&timeout)), Ok(n) if n > 0)
}

/// Formats RFC 3339 times; the date part is kept from line to line.
#[derive(Default)]
struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    /// Appends the time.
    fn stamp(&mut self, now: SystemTime, line: &mut String) {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since_epoch.as_secs();
        if self.text.is_empty() || second != self.second {
            self.second = second;
            let date = Date::of(second);
            self.text = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
                date.year, date.month, date.day, date.hour, date.minute, date.second
            );
        }
        // Writing to a String cannot fail.
        let _ = write!(line, "{}.{:03}Z", self.text, since_epoch.subsec_millis());
    }
}

/// A moment in UTC.
struct Date {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    /// 0 is Sunday.
    weekday: u64,
}

impl Date {
    /// The proleptic Gregorian calendar, years beginning in March.
    fn of(since_epoch: u64) -> Date {
        let days = since_epoch / 86_400 + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Date {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: since_epoch / 3600 % 24,
            minute: since_epoch / 60 % 60,
            second: since_epoch % 60,
            weekday: (since_epoch / 86_400 + 4) % 7,
        }
    }
}

/// The current time as an HTTP date (RFC 9110 §5.6.7).
pub fn http_date() -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let date = Date::of(now.as_secs());
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        DAYS[date.weekday as usize],
        date.day,
        MONTHS[date.month as usize - 1],
        date.year,
        date.hour,
        date.minute,
        date.second
    )
}

/// Bytes that a peer chose, made safe for a line: control characters and what is not
/// UTF-8 appear as `\xNN`, and very long text is cut.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = &self.0[..self.0.len().min(LONGEST_TEXT)];
        for chunk in cut.utf8_chunks() {
            for c in chunk.valid().chars() {
                if is_unsafe_in_a_line(c) {
                    let mut bytes = [0; 4];
                    for byte in c.encode_utf8(&mut bytes).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                } else {
                    f.write_char(c)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if cut.len() < self.0.len() {
            f.write_str("...")?;
        }
        Ok(())
    }
}

/// Controls, and the characters that break or reorder a line on a terminal.
fn is_unsafe_in_a_line(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What the log calls one request, kept after its head is gone.
#[derive(Default)]
pub struct Subject {
    method: Vec<u8>,
    path: Vec<u8>,
}

impl Subject {
    /// Remembers method and path, no more of either than a line shows; the query stays
    /// out of the log.
    pub fn set(&mut self, method: &str, path: &str) {
        for (kept, text) in [
            (&mut self.method, method),
            (&mut self.path, without_query(path)),
        ] {
            let shown = text.len().min(LONGEST_TEXT + 1);
            kept.clear();
            kept.extend_from_slice(&text.as_bytes()[..shown]);
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Escaped(&self.method), Escaped(&self.path))
    }
}

fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

/// The addresses listened on, the upstream and the route, once at the start.
pub fn started(addresses: &[SocketAddr], config: &Config, route: &str) {
    for address in addresses {
        emit(
            Priority::Info,
            format_args!("开始监听: {address}"),
            format_args!("listening on {address}"),
        );
    }
    let tls = if config.tls.is_some() { " (TLS)" } else { "" };
    let upstream = &config.upstream;
    emit(
        Priority::Info,
        format_args!("上游: {upstream}{tls}"),
        format_args!("upstream: {upstream}{tls}"),
    );
    emit(
        Priority::Info,
        format_args!("路由: {route}"),
        format_args!("route: {route}"),
    );
    if config.tls.as_ref().is_some_and(|tls| !tls.verify) {
        emit(
            Priority::Warning,
            format_args!("未校验上游证书（--tls-verify 可启用校验）"),
            format_args!("the upstream's certificate is not verified (--tls-verify does)"),
        );
    }
}

/// A request head has arrived.
pub fn request(method: &str, path: &str, host: &[u8]) {
    let path = Escaped(without_query(path).as_bytes());
    let host = Escaped(host);
    let method = Escaped(method.as_bytes());
    emit(
        Priority::Info,
        format_args!("===收到请求开始=== {method} {path} (Host: {host})"),
        format_args!("request: {method} {path} (Host: {host})"),
    );
}

/// The request asks for an upgrade to `protocol`.
pub fn upgrade_request(protocol: &str, path: &str, host: &[u8]) {
    let path = Escaped(without_query(path).as_bytes());
    let host = Escaped(host);
    emit(
        Priority::Info,
        format_args!("{protocol} 请求: {path} (Host: {host})"),
        format_args!("{protocol} request: {path} (Host: {host})"),
    );
}

/// The upstream has switched protocols and the relay begins.
pub fn upgraded(protocol: &str) {
    emit(
        Priority::Info,
        format_args!("{protocol} 连接建立，开始双向转发"),
        format_args!("{protocol} connection established, relaying both ways"),
    );
}

/// The relay is over.
pub fn upgrade_closed(protocol: &str) {
    emit(
        Priority::Info,
        format_args!("{protocol} 连接关闭"),
        format_args!("{protocol} connection closed"),
    );
}

/// A response was delivered whole; `bytes` of body.
pub fn request_done(subject: &Subject, status: u16, bytes: u64) {
    emit(
        Priority::Info,
        format_args!("请求完成: {subject} -> {status} ({bytes} bytes)"),
        format_args!("request done: {subject} -> {status} ({bytes} bytes)"),
    );
}

/// The upstream gave no usable response; the client got `status`.
pub fn request_failed(subject: &Subject, status: u16, error: &Error) {
    let (stage, address, cause) = (error.stage.name(), &error.address, &error.cause);
    emit(
        Priority::Error,
        format_args!("请求失败: {subject} -> {status} [{stage}] {address}: {cause}"),
        format_args!("request failed: {subject} -> {status} [{stage}] {address}: {cause}"),
    );
}

/// An exchange ended before its response did.
pub fn request_aborted(subject: &Subject, cause: &str) {
    emit(
        Priority::Warning,
        format_args!("请求中断: {subject}: {cause}"),
        format_args!("request aborted: {subject}: {cause}"),
    );
}

/// A client sent something that is not a request we forward.
pub fn request_rejected(client: SocketAddr, status: u16, reason: &str) {
    emit(
        Priority::Warning,
        format_args!("请求被拒绝: {client} -> {status} {reason}"),
        format_args!("request rejected: {client} -> {status} {reason}"),
    );
}

/// A client's connection was accepted.
pub fn connection_opened(number: u64, peer: &impl fmt::Display) {
    emit(
        Priority::Debug,
        format_args!("连接 {number}: 来自 {peer}"),
        format_args!("connection {number}: from {peer}"),
    );
}

/// A client's connection is over.
pub fn connection_closed(number: u64, after: Duration) {
    let seconds = after.as_secs_f64();
    emit(
        Priority::Debug,
        format_args!("连接 {number}: 关闭，历时 {seconds:.3} 秒"),
        format_args!("connection {number}: closed after {seconds:.3} s"),
    );
}

/// An upstream connection was dialled for a client's connection.
pub fn dialled(number: u64, after: Duration) {
    let millis = after.as_secs_f64() * 1e3;
    emit(
        Priority::Debug,
        format_args!("连接 {number}: 上游已连接，用时 {millis:.1} 毫秒"),
        format_args!("connection {number}: upstream reached in {millis:.1} ms"),
    );
}

/// What a relay carried each way.
pub fn relayed(number: u64, to_upstream: u64, to_downstream: u64) {
    emit(
        Priority::Debug,
        format_args!("连接 {number}: 转发 {to_upstream} 字节到上游，{to_downstream} 字节到客户端"),
        format_args!("connection {number}: relayed {to_upstream} bytes up, {to_downstream} down"),
    );
}

/// Accepting pauses: descriptors or memory have run out.
pub fn accept_paused(cause: &str) {
    emit(
        Priority::Error,
        format_args!("暂停接受新连接: {cause}"),
        format_args!("accepting paused: {cause}"),
    );
}

/// A thread cannot serve at all.
pub fn thread_failed(cause: &str) {
    emit(
        Priority::Error,
        format_args!("线程无法工作: {cause}"),
        format_args!("a thread cannot serve: {cause}"),
    );
}

/// A signal asked the program to end.
pub fn draining(signal: &str, seconds: Duration) {
    emit(
        Priority::Info,
        format_args!("收到 {signal}，不再接受新连接，最多等待 {seconds:?}"),
        format_args!("{signal}: no new connections, finishing what is open within {seconds:?}"),
    );
}

/// The program ends; so many connections were cut off.
pub fn stopped(cut_off: usize) {
    emit(
        Priority::Info,
        format_args!("已停止，中断 {cut_off} 个连接"),
        format_args!("stopped, {cut_off} connections cut off"),
    );
}

/// The service manager could not be told.
pub fn not_notified(cause: &str) {
    emit(
        Priority::Warning,
        format_args!("无法通知服务管理器: {cause}"),
        format_args!("the service manager cannot be told: {cause}"),
    );
}

/// One connection's task panicked; the others go on.
pub fn panicked(message: &str) {
    let message = Escaped(message.as_bytes());
    emit(
        Priority::Error,
        format_args!("内部错误: {message}"),
        format_args!("internal error: {message}"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_chose_cannot_forge_a_line() {
        for (bytes, expected) in [
            (&b"/a\r\n2026 b"[..], "/a\\x0d\\x0a2026 b"),
            ("/聊天".as_bytes(), "/聊天"),
            (b"/\xff\xfe", "/\\xff\\xfe"),
            ("/\u{85}\u{202e}x".as_bytes(), "/\\xc2\\x85\\xe2\\x80\\xaex"),
            (b"/\x1b[31m", "/\\x1b[31m"),
        ] {
            assert_eq!(Escaped(bytes).to_string(), expected);
        }
        assert_eq!(Escaped(&[b'a'; 5000]).to_string().len(), LONGEST_TEXT + 3);
    }

    #[test]
    fn times_are_rfc_3339() {
        let mut clock = Clock::default();
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_795_366_799_999, "2026-11-22T16:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let at = UNIX_EPOCH + Duration::from_millis(millis);
            let mut line = String::new();
            clock.stamp(at, &mut line);
            assert_eq!(line, expected);
        }
        assert_eq!(Date::of(1_795_366_799).weekday, 0);
    }

    #[test]
    fn no_line_is_longer_than_a_pipe_takes_at_once() {
        let mut pending = Pending::default();
        pending.line(Priority::Info, format_args!("{}", "聊".repeat(3000)));
        assert!(pending.lines.len() <= WRITE_AT_ONCE);
        assert!(pending.lines.ends_with("聊...\n"));
    }

    #[test]
    fn writes_go_out_in_whole_lines() {
        assert_eq!(whole_lines(b"a\nb\n"), 4);
        let mut lines = vec![b'x'; 4000];
        lines.push(b'\n');
        lines.extend(vec![b'y'; 200]);
        lines.push(b'\n');
        assert_eq!(whole_lines(&lines), 4001);
    }
}
