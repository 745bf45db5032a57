//! A parser for fuzzing that accepts only heads in canonical form, and bodies that fit a head.

use simple_proxy::http::framing::Framing;

use crate::FieldList;

/// A head in canonical form.
pub struct PlainHead {
    /// The start line, without its CRLF.
    pub start: String,
    /// The fields.
    pub fields: FieldList,
}

impl PlainHead {
    /// Splits a head that the program wrote. Panics unless each line ends in CRLF, each field is
    /// a token, `: ` and a value without blanks at its ends, the only control character is a tab
    /// inside a value, and the only empty line is at the end. No two parsers can disagree on such
    /// a head.
    pub fn of(head: &[u8]) -> PlainHead {
        let show = || head.escape_ascii().to_string();
        let lines = head.strip_suffix(b"\r\n\r\n");
        let lines = lines.unwrap_or_else(|| panic!("no empty line ends {}", show()));
        let text_byte = |b: u8| matches!(b, b' '..=b'~' | 0x80..);
        let mut lines = crlf_lines(lines);
        let start = lines.next().unwrap_or_default();
        assert!(
            start.iter().all(|&b| text_byte(b) || b == b'\t'),
            "{}",
            show()
        );
        let start = String::from_utf8_lossy(start).into_owned();
        let fields = lines.map(|line| {
            let colon = line.windows(2).position(|pair| pair == b": ");
            let colon = colon.unwrap_or_else(|| panic!("a field has no colon: {}", show()));
            let (name, value) = (&line[..colon], &line[colon + 2..]);
            assert!(is_token(name), "a name is not a token: {}", show());
            let value_is_plain = value.iter().all(|&b| text_byte(b) || b == b'\t')
                && value.trim_ascii().len() == value.len();
            assert!(value_is_plain, "a value is not plain: {}", show());
            (
                String::from_utf8_lossy(name).to_ascii_lowercase(),
                value.to_vec(),
            )
        });
        PlainHead {
            fields: fields.collect(),
            start,
        }
    }

    /// The values of a field.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        values(&self.fields, name)
    }
}

/// The fields of a request head that the program accepted. Panics if the program should have
/// refused it, whatever other implementations do.
pub fn accepted_fields(head: &[u8]) -> FieldList {
    let show = || head.escape_ascii().to_string();
    let lines = head.strip_suffix(b"\r\n\r\n");
    let lines = lines.unwrap_or_else(|| panic!("no empty line ends {}", show()));
    let is_text = |b: &u8| matches!(b, b'\t' | b' '..=b'~' | 0x80..);
    for line in crlf_lines(lines) {
        assert!(line.iter().all(is_text), "a control byte in {}", show());
    }
    let fields = fields_of(head);
    for (name, _) in &fields {
        assert!(
            is_token(name.as_bytes()),
            "a name is not a token: {}",
            show()
        );
    }
    let codings: Vec<_> = values(&fields, "transfer-encoding").collect();
    let lengths: Vec<_> = values(&fields, "content-length").collect();
    match codings[..] {
        [] => {}
        [coding] => {
            assert!(coding.eq_ignore_ascii_case(b"chunked"), "{}", show());
            assert!(lengths.is_empty(), "both framings in {}", show());
            let line = crlf_lines(lines).next().unwrap_or_default();
            let is_1_0 = line.ends_with(b" HTTP/1.0");
            assert!(!is_1_0, "chunks in HTTP/1.0: {}", show());
        }
        _ => panic!("repeated: {}", show()),
    }
    check_lengths(&fields, &show);
    fields
}

/// The fields of a response head that the program accepted, read as leniently as the program must:
/// with lines that end in LF, folds, blanks before a colon and control characters. Panics if the
/// head is ambiguous nevertheless.
pub fn lenient_fields(head: &[u8]) -> FieldList {
    let show = || head.escape_ascii().to_string();
    let mut lines = head.split(|&b| b == b'\n');
    let lines = lines
        .by_ref()
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut lines: Vec<&[u8]> = lines.collect();
    assert_eq!(lines.pop(), Some(&b""[..]), "{}", show());
    assert_eq!(lines.pop(), Some(&b""[..]), "{}", show());
    for line in &lines {
        assert!(
            !line.is_empty() && !line.contains(&b'\r') && !line.contains(&0),
            "{}",
            show()
        );
    }
    let mut fields: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    let part = |bytes: &[u8]| {
        let as_blank = |&b: &u8| {
            if b.is_ascii_control() && b != b'\t' {
                b' '
            } else {
                b
            }
        };
        let bytes: Vec<u8> = bytes.iter().map(as_blank).collect();
        bytes.trim_ascii().to_vec()
    };
    for line in &lines[1..] {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            let (_, parts) = fields.last_mut().unwrap_or_else(|| panic!("{}", show()));
            parts.push(part(line));
            continue;
        }
        let colon = line.iter().position(|&b| b == b':');
        let (name, value) = line.split_at(colon.unwrap_or_else(|| panic!("{}", show())));
        let blanks = name
            .iter()
            .rev()
            .take_while(|&&b| b == b' ' || b == b'\t')
            .count();
        let name = &name[..name.len() - blanks];
        assert!(is_token(name), "a name is not a token: {}", show());
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        fields.push((name, vec![part(&value[1..])]));
    }
    let fields = fields.into_iter().map(|(name, parts)| {
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        (name, parts.collect::<Vec<_>>().join(&b' '))
    });
    let fields: FieldList = fields.collect();
    let codings: Vec<_> = values(&fields, "transfer-encoding").collect();
    match codings[..] {
        [] => {}
        [coding] => assert!(coding.eq_ignore_ascii_case(b"chunked"), "{}", show()),
        _ => panic!("repeated: {}", show()),
    }
    check_lengths(&fields, &show);
    fields
}

fn check_lengths(fields: &FieldList, show: &dyn Fn() -> String) {
    let significant = |length: &[u8]| {
        assert!(!length.is_empty(), "{}", show());
        assert!(length.iter().all(u8::is_ascii_digit), "{}", show());
        let zeros = length.iter().take_while(|&&b| b == b'0').count();
        length[zeros..].to_vec()
    };
    let lengths: Vec<_> = values(fields, "content-length").collect();
    for length in &lengths {
        assert_eq!(significant(length), significant(lengths[0]), "{}", show());
        assert!(significant(length).len() <= 20, "{}", show());
    }
}

/// The fields of a head with CRLF lines, without any checks.
pub fn fields_of(head: &[u8]) -> FieldList {
    let lines = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    let fields = crlf_lines(lines).skip(1).map(|line| {
        let colon = line.iter().position(|&b| b == b':');
        let (name, value) = line.split_at(colon.expect("a field has a colon"));
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        (name, value[1..].trim_ascii().to_vec())
    });
    fields.collect()
}

/// The values of a field, by its name in lower case.
pub fn values<'a>(fields: &'a FieldList, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
    let named = fields.iter().filter(move |(n, _)| n == name);
    named.map(|(_, value)| value.as_slice())
}

/// The options of the Connection fields, in lower case.
pub fn connection_names(fields: &FieldList) -> Vec<String> {
    let elements = values(fields, "connection").flat_map(|value| value.split(|&b| b == b','));
    let elements = elements.map(|e| String::from_utf8_lossy(e.trim_ascii()).to_ascii_lowercase());
    elements.filter(|e| !e.is_empty()).collect()
}

/// Fields that must not be forwarded as received.
pub const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "upgrade",
];

fn crlf_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        match bytes.windows(2).position(|pair| pair == b"\r\n") {
            Some(at) => {
                rest = Some(&bytes[at + 2..]);
                Some(&bytes[..at])
            }
            None => {
                rest = None;
                Some(bytes)
            }
        }
    })
}

/// Whether `bytes` are a token.
pub fn is_token(bytes: &[u8]) -> bool {
    let is_tchar = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(is_tchar)
}

/// The content of bodies: a reader that misjudges the framing finds a smuggled request in it.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n0\r\n\r\n";

/// A body that fits the framing.
pub struct Body {
    /// The bytes on the wire.
    pub wire: Vec<u8>,
    /// The decoded content.
    pub content: Vec<u8>,
    /// Whether it ends with the connection.
    pub ends_with_connection: bool,
}

impl Body {
    /// A body with this framing; None if it would be too long to send here.
    pub fn of(framing: Framing) -> Option<Body> {
        let (wire, content) = match framing {
            Framing::None => (Vec::new(), Vec::new()),
            Framing::Length(length) => {
                let length = usize::try_from(length).ok().filter(|&n| n <= 2048)?;
                let content: Vec<u8> = SMUGGLED.iter().copied().cycle().take(length).collect();
                (content.clone(), content)
            }
            Framing::Chunked => {
                let (first, second) = SMUGGLED.split_at(17);
                let mut wire = Vec::new();
                for chunk in [first, second] {
                    wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    wire.extend_from_slice(chunk);
                    wire.extend_from_slice(b"\r\n");
                }
                wire.extend_from_slice(b"0\r\n\r\n");
                (wire, SMUGGLED.to_vec())
            }
            Framing::UntilClose => (SMUGGLED.to_vec(), SMUGGLED.to_vec()),
        };
        Some(Body {
            wire,
            content,
            ends_with_connection: framing == Framing::UntilClose,
        })
    }
}
