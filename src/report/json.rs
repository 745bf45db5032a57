//! A writer for JSON (RFC 8259), on one line.

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

use crate::text::is_unsafe_in_a_line;

/// A value; objects keep their order.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// A string.
    Text(&'a str),
    /// A string of bytes from a peer; bytes that are not UTF-8 appear as `\xNN`.
    Bytes(&'a [u8]),
    /// A string, formatted with `Display`.
    Shown(&'a dyn Display),
    /// A count.
    Number(u64),
    /// A number that may be negative.
    Signed(i64),
    /// A duration in seconds.
    Seconds(Duration),
    /// true or false.
    Flag(bool),
    /// null.
    Null,
    /// An object.
    Object(&'a [(&'a str, Value<'a>)]),
    /// An array.
    List(&'a [Value<'a>]),
}

/// The longest string, in escaped bytes. Three of them fit into one line of the log.
const LONGEST: usize = 1000;

/// Appends `value`.
pub fn write(out: &mut String, value: Value<'_>) {
    // Writing to a String cannot fail, here and below.
    let _ = match value {
        Value::Text(text) => string(out, |quoted| quoted.write_str(text)),
        Value::Bytes(bytes) => string(out, |quoted| {
            for chunk in bytes.utf8_chunks() {
                quoted.write_str(chunk.valid())?;
                for byte in chunk.invalid() {
                    write!(quoted, "\\x{byte:02x}")?;
                }
            }
            Ok(())
        }),
        Value::Shown(shown) => string(out, |quoted| write!(quoted, "{shown}")),
        Value::Number(number) => write!(out, "{number}"),
        Value::Signed(number) => write!(out, "{number}"),
        Value::Seconds(time) => write!(out, "{:.6}", time.as_secs_f64()),
        Value::Flag(flag) => write!(out, "{flag}"),
        Value::Null => out.write_str("null"),
        Value::Object(members) => {
            out.push('{');
            for (n, (name, value)) in members.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write(out, Value::Text(name));
                out.push(':');
                write(out, *value);
            }
            out.write_char('}')
        }
        Value::List(elements) => {
            out.push('[');
            for (n, value) in elements.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write(out, *value);
            }
            out.write_char(']')
        }
    };
}

fn string(out: &mut String, fill: impl FnOnce(&mut Quoted<'_>) -> fmt::Result) -> fmt::Result {
    out.push('"');
    let most = out.len() + LONGEST;
    let mut quoted = Quoted { out, most };
    // The only error is the limit, where `...` has been appended.
    let _ = fill(&mut quoted);
    out.write_char('"')
}

/// The inside of a string (RFC 8259 §7).
struct Quoted<'a> {
    out: &'a mut String,
    most: usize,
}

impl fmt::Write for Quoted<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.out.len() >= self.most {
                self.out.push_str("...");
                return Err(fmt::Error);
            }
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                c if is_unsafe_in_a_line(c) => write!(self.out, "\\u{:04x}", u32::from(c))?,
                c => self.out.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: Value<'_>) -> String {
        let mut out = String::new();
        write(&mut out, value);
        out
    }

    #[test]
    fn values() {
        let list = [Value::Flag(true), Value::Null, Value::Number(u64::MAX)];
        let object = [
            ("a", Value::List(&list)),
            ("b\"", Value::Seconds(Duration::from_micros(1_500_001))),
            ("c", Value::Object(&[])),
            ("d", Value::Shown(&"7\n")),
        ];
        let expected =
            r#"{"a":[true,null,18446744073709551615],"b\"":1.500001,"c":{},"d":"7\u000a"}"#;
        assert_eq!(written(Value::Object(&object)), expected);
    }

    #[test]
    fn bytes_from_a_peer_are_escaped_and_cut() {
        for (bytes, expected) in [
            (&b"/\",\"x\":\"\\"[..], r#""/\",\"x\":\"\\""#),
            (b"/\r\n\x1b\x7f", r#""/\u000d\u000a\u001b\u007f""#),
            ("/聊\u{202e}".as_bytes(), r#""/聊\u202e""#),
            (b"/\xff", r#""/\\xff""#),
        ] {
            assert_eq!(written(Value::Bytes(bytes)), expected);
        }
        let long = written(Value::Bytes(&[0; 5000]));
        assert!(long.len() < LONGEST + 16 && long.ends_with("...\""));
    }
}
