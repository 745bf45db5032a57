//! The access log: a line for each answered request on standard output, in the combined log
//! format of Apache and nginx. Other events are logged on standard error.

use std::fmt::Write as _;
use std::time::SystemTime;

use crate::date;
use crate::http::fields::values;
use crate::http::request::RequestHead;
use crate::report::line::is_combined;
use crate::report::output::{self, Stream};
use crate::report::subject::{without_query, Client};

/// The longest method, target and field value in a line, in escaped bytes. Together they leave
/// room for the rest, so that a line is at most PIPE_BUF bytes.
const LONGEST_METHOD: usize = 64;
const LONGEST_TARGET: usize = 1500;
const LONGEST_VALUE: usize = 1000;

/// What the access log needs of a request after its head has been dropped from the buffer.
#[derive(Debug, Default)]
pub struct Access {
    /// When the head had arrived; None before the first.
    received: Option<SystemTime>,
    /// The request line without the target's query. It and the fields below are escaped.
    request: String,
    referer: String,
    user_agent: String,
}

impl Access {
    /// An empty entry, if an access log is written.
    pub fn wanted() -> Option<Box<Access>> {
        is_combined().then(Box::default)
    }

    /// Stores a request whose head has just arrived. Queries are left out because they may
    /// contain tokens.
    pub fn set(&mut self, head: &RequestHead<'_, '_>) {
        self.received = Some(SystemTime::now());
        self.request.clear();
        push_escaped(&mut self.request, head.method.as_bytes(), LONGEST_METHOD);
        self.request.push(' ');
        push_escaped(
            &mut self.request,
            without_query(&head.target),
            LONGEST_TARGET,
        );
        let minor = head.request.minor;
        // Writing to a String cannot fail.
        let _ = write!(self.request, " HTTP/1.{minor}");
        for (kept, name) in [
            (&mut self.referer, "referer"),
            (&mut self.user_agent, "user-agent"),
        ] {
            kept.clear();
            let value = values(head.fields(), name).next().unwrap_or_default();
            let value = match name {
                "referer" => without_query(value),
                _ => value,
            };
            push_escaped(kept, value, LONGEST_VALUE);
        }
    }

    /// Writes the line of an answered request, or of an answered head that could not be parsed;
    /// `bytes` is the length of the response body.
    pub fn answered(&mut self, client: &Client, status: u16, bytes: u64) {
        output::line(Stream::Output, |line| {
            self.push(line, client, status, bytes)
        });
        self.received = None;
    }

    fn push(&self, line: &mut String, client: &Client, status: u16, bytes: u64) {
        let or_none = |text| match text {
            "" => "-",
            text => text,
        };
        let (request, referer, user_agent) = match self.received {
            Some(_) => (&*self.request, &*self.referer, &*self.user_agent),
            None => ("", "", ""),
        };
        let _ = write!(line, "{} - - [", client.address.host());
        let received = self.received.unwrap_or_else(SystemTime::now);
        date::push_access_time(received, line);
        let _ = write!(line, "] \"{}\" {status} ", or_none(request));
        let _ = match bytes {
            0 => write!(line, "-"),
            bytes => write!(line, "{bytes}"),
        };
        let (referer, user_agent) = (or_none(referer), or_none(user_agent));
        let _ = write!(line, " \"{referer}\" \"{user_agent}\"");
    }
}

/// Appends text with Apache's escapes: a backslash before a quotation mark or a backslash, `\n`
/// and similar, and `\xNN` for any other byte that is not printable ASCII.
fn push_escaped(out: &mut String, text: &[u8], longest: usize) {
    let end = out.len() + longest;
    for &byte in text {
        if out.len() >= end {
            out.push_str("...");
            return;
        }
        let letter = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x0b => b'v',
            b' '..=b'~' => {
                out.push(char::from(byte));
                continue;
            }
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
                continue;
            }
        };
        out.push('\\');
        out.push(char::from(letter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fields::no_fields;
    use crate::net::peer::Peer;
    use std::time::{Duration, UNIX_EPOCH};

    fn line_of(head: &str, status: u16, bytes: u64) -> String {
        let (mut canonical, mut fields) = (Vec::new(), no_fields());
        let head = RequestHead::parse(head.as_bytes(), &mut canonical, &mut fields, &[]);
        let mut access = Access::default();
        if let Ok(head) = head {
            access.set(&head);
            access.received = Some(UNIX_EPOCH + Duration::from_secs(1_795_366_799));
        }
        let address: std::net::SocketAddr = "192.0.2.7:4711".parse().unwrap();
        let client = Client {
            connection: 1,
            address: Peer::new(Some(address)),
        };
        let mut line = String::new();
        access.push(&mut line, &client, status, bytes);
        line
    }

    #[test]
    fn a_line_has_apaches_format() {
        let start = "192.0.2.7 - - [22/Nov/2026:16:59:59 +0000] ";
        for (head, answer, expected) in [
            (
                "GET /a?token=x HTTP/1.1\r\nHost: a\r\n\r\n",
                (200, 12),
                "\"GET /a HTTP/1.1\" 200 12 \"-\" \"-\"",
            ),
            (
                "GET http://a/ HTTP/1.0\r\nUser-Agent: curl/8 \"x\\\u{9}\u{e9}\"\r\n\
                 Referer: http://b/c?d=e\r\nUser-Agent: two\r\n\r\n",
                (304, 0),
                "\"GET / HTTP/1.0\" 304 - \"http://b/c\" \"curl/8 \\\"x\\\\\\t\\xc3\\xa9\\\"\"",
            ),
        ] {
            let line = line_of(head, answer.0, answer.1);
            assert_eq!(line, format!("{start}{expected}"));
        }
        let unread = line_of("nothing\r\n\r\n", 400, 3);
        assert!(unread.ends_with("] \"-\" 400 3 \"-\" \"-\""), "{unread}");
    }

    #[test]
    fn a_long_line_is_cut_to_pipe_buf_in_its_fields() {
        let long = "\u{e9}".repeat(3000);
        let head = format!(
            "GET /{long} HTTP/1.1\r\nHost: a\r\nReferer: {long}\r\nUser-Agent: {long}\r\n\r\n"
        );
        let line = line_of(&head, 200, u64::MAX);
        assert!(line.len() < 4096, "{}", line.len());
        assert!(line.contains("... HTTP/1.1\" 200 "), "{line}");
        assert!(line.ends_with("...\""), "{line}");
    }
}
