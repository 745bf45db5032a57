//! Response heads (RFC 9112 §4): read as leniently as the RFC allows, and rewritten in canonical
//! form, because the client and the proxy must never disagree about where a response ends.

use std::time::Duration;

use memchr::memchr;

use crate::config::{MAX_RESPONSE_FIELDS, MAX_RESPONSE_HEAD_BYTES};
use crate::date::push_http_date;
use crate::edits::FieldEdits;
use crate::http::authentication::names_connection_scheme;
use crate::http::connection::ConnectionOptions;
use crate::http::fields::{
    content_length, is_chunked, no_response_fields, values, write_field, CodingError, Header,
    ResponseFields,
};
use crate::http::framing::Framing;
use crate::http::head::{HeadError, Reading, Rules};
use crate::http::known::{Known, Present};
use crate::http::naming::Names;
use crate::http::repair::canonical_head;
use crate::http::request::Request;
use crate::http::syntax::{list, parse_decimal, trim};

/// What a response head must look like, and how long it may be.
pub const RULES: Rules = Rules {
    start_line: Some(check_start_line),
    reading: Reading::Lenient,
    max_bytes: MAX_RESPONSE_HEAD_BYTES,
};

/// A response head that has been checked, borrowed from the bytes received.
pub struct ResponseHead<'b, 'f> {
    /// The status code, 100 to 999.
    pub status: u16,
    /// How the body ends on the upstream's side.
    pub framing: Framing,
    /// Whether the upstream's connection may be used again after the body.
    pub persistent: bool,
    /// Whether the head was faulty. The connection is not used again: an attacker who can make an
    /// application write a lone LF must not be able to write the next client's response.
    pub was_faulty: bool,
    /// Whether an end of the upstream's connection cannot be trusted. A body that ends with it
    /// then ends with the client's connection too, without a last chunk to confirm it.
    pub end_is_doubtful: bool,
    reason: &'b [u8],
    fields: &'f [Header<'b>],
    present: Present,
    options: ConnectionOptions,
}

/// What is changed in a response head apart from its framing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes<'a> {
    /// Via is added (RFC 9110 §7.6.3).
    pub via: bool,
    /// Translates fields that name the upstream's origin, if the two origins may differ.
    pub names: Option<&'a Names>,
    /// The fields to set and to remove, if any.
    pub edits: Option<&'a FieldEdits>,
}

/// Checks a status line as soon as it has arrived.
pub(crate) fn check_start_line(line: &[u8]) -> Result<(), HeadError> {
    match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9', b' ', ..] => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', ..] => Err(HeadError::Version),
        _ => Err(HeadError::Malformed("this is not HTTP")),
    }
}

/// Reads a whole head of a response to `request`, as an upstream sent it, and passes it to `take`.
/// `has_bare_lf` says that some line ends in a bare LF. A head in canonical form, as nearly all
/// are, is parsed without a copy.
pub fn read<T>(
    bytes: &[u8],
    has_bare_lf: bool,
    request: &Request,
    take: impl FnOnce(ResponseHead<'_, '_>) -> T,
) -> Result<T, String> {
    if !has_bare_lf {
        let mut fields = no_response_fields();
        match ResponseHead::parse(bytes, &mut fields, request) {
            // A reason that begins with a blank means several blanks after the status code.
            Ok(head) if !head.reason.starts_with(b" ") => return Ok(take(head)),
            _ => {}
        }
    }
    read_faulty(bytes, request, take)
}

#[cold]
fn read_faulty<T>(
    bytes: &[u8],
    request: &Request,
    take: impl FnOnce(ResponseHead<'_, '_>) -> T,
) -> Result<T, String> {
    let canonical = canonical_head(bytes)?;
    let mut fields = no_response_fields();
    let mut head = ResponseHead::parse(&canonical.bytes, &mut fields, request)?;
    head.was_faulty |= canonical.was_faulty;
    head.persistent &= !head.was_faulty;
    Ok(take(head))
}

impl<'b, 'f> ResponseHead<'b, 'f> {
    /// Parses and checks a whole head in canonical form, of a response to `request`.
    fn parse(
        bytes: &'b [u8],
        fields: &'f mut ResponseFields<'b>,
        request: &Request,
    ) -> Result<ResponseHead<'b, 'f>, String> {
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut parsed, bytes, fields) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err("the head is malformed".to_owned()),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(format!("more than {MAX_RESPONSE_FIELDS} fields"))
            }
            Err(httparse::Error::HeaderName) => return Err("a field name is malformed".to_owned()),
            Err(httparse::Error::HeaderValue) => {
                return Err("a field value is malformed".to_owned())
            }
            Err(_) => return Err("the status line is malformed".to_owned()),
        }
        let (Some(minor), Some(status)) = (parsed.version, parsed.code) else {
            return Err("the status line is malformed".to_owned());
        };
        if status < 100 {
            return Err(format!("{status} is not a status code"));
        }
        let fields: &'f [Header<'b>] = parsed.headers;
        let present = Present::of(fields);
        let (framing, is_doubtful) = framing_of(fields, present, status, request)?;
        let options = match present.has(Known::Connection) {
            true => ConnectionOptions::of(fields)?,
            false => ConnectionOptions::default(),
        };
        // The reason may hold any byte above 0x7F. The parser returns none then, so it is taken
        // from the line.
        let reason = match parsed.reason {
            Some(reason) if !reason.is_empty() => reason.as_bytes(),
            _ => {
                let line = memchr(b'\r', bytes).map_or(bytes, |end| &bytes[..end]);
                line.get("HTTP/1.1 200 ".len()..).unwrap_or_default()
            }
        };
        Ok(ResponseHead {
            status,
            // A connection to an HTTP/1.0 upstream is not used again, in particular after a
            // chunked body, which it should not have sent (RFC 9112 §6.1). A response to HEAD
            // without framing has no body, but an upstream that would end the body by closing is
            // likely to close here too.
            persistent: minor == 1
                && !options.close
                && !is_doubtful
                && framing != Framing::UntilClose
                && !(request.is_head && ends_with_connection(present, status)),
            framing,
            was_faulty: is_doubtful,
            end_is_doubtful: false,
            reason,
            fields,
            present,
            options,
        })
    }

    /// The reason phrase.
    pub(crate) fn reason(&self) -> &'b [u8] {
        self.reason
    }

    /// The fields as received.
    pub(crate) fn fields(&self) -> &'f [Header<'b>] {
        self.fields
    }

    /// Whether the response is interim, so that another head follows (RFC 9110 §15.2).
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Whether the upstream switches to exactly `protocol`.
    pub fn switches_to(&self, protocol: &str) -> bool {
        let mut protocols = values(self.fields, "upgrade").flat_map(list);
        self.status == 101
            && self.options.upgrade
            && protocols
                .next()
                .is_some_and(|p| p.eq_ignore_ascii_case(protocol.as_bytes()))
            && protocols.next().is_none()
    }

    /// Whether the response asks for authentication of the connection (RFC 4559 §4).
    pub(crate) fn offers_connection_scheme(&self) -> bool {
        self.status == 401
            && self.present.has(Known::WwwAuthenticate)
            && names_connection_scheme(self.fields, "www-authenticate")
    }

    /// For how long the upstream promises to keep the idle connection (`Keep-Alive: timeout=T`,
    /// in whole seconds; RFC 2068 §19.7.1.1, which servers still follow).
    pub(crate) fn promised_rest(&self) -> Option<Duration> {
        if !self.present.has(Known::KeepAlive) {
            return None;
        }
        let parameters = values(self.fields, "keep-alive").flat_map(list);
        let timeouts = parameters.filter_map(|parameter| {
            let (name, value) = parameter.split_at_checked("timeout=".len())?;
            let seconds = parse_decimal(trim(value));
            seconds.filter(|_| name.eq_ignore_ascii_case(b"timeout="))
        });
        timeouts.min().map(Duration::from_secs)
    }

    /// How the body is framed for the client (RFC 9112 §6.1: HTTP/1.0 has no chunks).
    pub fn downstream_framing(&self, request: &Request) -> Framing {
        match (self.framing, request.minor) {
            (Framing::UntilClose, _) if self.end_is_doubtful => Framing::UntilClose,
            (Framing::Chunked | Framing::UntilClose, 0) => Framing::UntilClose,
            (Framing::Chunked | Framing::UntilClose, _) => Framing::Chunked,
            (framing, _) => framing,
        }
    }

    /// Appends the head for the client, framed as `downstream_framing` says. `close` says that
    /// the connection ends after this response.
    pub fn write(&self, out: &mut Vec<u8>, request: &Request, close: bool, changes: Changes<'_>) {
        let Changes { via, names, edits } = changes;
        out.extend_from_slice(b"HTTP/1.1 ");
        // The parser accepts only three digits.
        let digit = |value: u16| b'0' + (value % 10) as u8;
        let status = self.status;
        out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status)]);
        out.push(b' ');
        out.extend_from_slice(self.reason);
        out.extend_from_slice(b"\r\n");
        let announced = self.announced(request);
        let is_edited = |name: &str| edits.is_some_and(|edits| edits.replaces_in_response(name));
        let mut framing_written = false;
        let mut has_date = false;
        for field in self.fields {
            let name = field.name;
            let known = Known::of(name.as_bytes());
            match known {
                Some(Known::ContentLength | Known::TransferEncoding) => {
                    if !std::mem::replace(&mut framing_written, true) {
                        announced.write_field(out, name);
                    }
                }
                _ if self.options.drops_known(known, name) || is_edited(name) => {}
                _ => {
                    has_date |= known == Some(Known::Date);
                    match names {
                        Some(names) => names.write_response_field(out, name, field.value),
                        None => write_field(out, name, field.value),
                    }
                }
            }
        }
        if !framing_written && announced == Framing::Chunked {
            announced.write_field(out, "Transfer-Encoding");
        }
        // RFC 9110 §6.6.1
        if !has_date && self.status >= 200 && !is_edited("date") {
            out.extend_from_slice(b"Date: ");
            push_http_date(out);
            out.extend_from_slice(b"\r\n");
        }
        if via && !is_edited("Via") {
            write_field(out, "Via", b"1.1 simple-proxy");
        }
        // Not in an interim response: the final one gets them.
        if let (Some(edits), false) = (edits, self.is_interim()) {
            for (name, value) in edits.written() {
                write_field(out, name, value);
            }
        }
        if self.status == 101 {
            for protocol in values(self.fields, "upgrade").flat_map(list) {
                write_field(out, "Upgrade", protocol);
            }
            out.extend_from_slice(b"Connection: Upgrade\r\n");
        } else if !self.is_interim() {
            write_connection(out, request, close);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// The framing that the head announces. Without a body because the request was HEAD or the
    /// status is 304, it is that of the body that GET would have got (RFC 9110 §8.6).
    fn announced(&self, request: &Request) -> Framing {
        let framing = self.downstream_framing(request);
        if framing != Framing::None || self.status < 200 || self.status == 204 {
            return framing;
        }
        match (is_chunked(self.fields), content_length(self.fields)) {
            (Ok(true), _) if request.minor == 1 => Framing::Chunked,
            (Ok(false), Ok(Some(length))) => Framing::Length(length),
            _ => framing,
        }
    }
}

/// Appends the Connection field that tells the client whether the connection persists, if it
/// needs one.
pub(crate) fn write_connection(out: &mut Vec<u8>, request: &Request, close: bool) {
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if request.minor == 0 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
}

/// The framing by RFC 9112 §6.3, with every ambiguous case refused, and whether the bytes after
/// the response are doubtful. They are if the head has both a length and the chunked coding, of
/// which the coding wins; and if a response without a body, with status 204 or an interim one,
/// announces one (RFC 9110 §8.6): such a body would be read as the next response.
fn framing_of(
    fields: &[Header<'_>],
    present: Present,
    status: u16,
    request: &Request,
) -> Result<(Framing, bool), String> {
    let length = match present.has(Known::ContentLength) {
        true => content_length(fields)?,
        false => None,
    };
    let chunked =
        present.has(Known::TransferEncoding) && is_chunked(fields).map_err(CodingError::reason)?;
    let never_has_one = matches!(status, 100..=199 | 204);
    let framing = if request.is_head || never_has_one || status == 304 {
        Framing::None
    } else if chunked {
        Framing::Chunked
    } else {
        length.map_or(Framing::UntilClose, Framing::Length)
    };
    let is_doubtful = match never_has_one {
        true => chunked || length.is_some_and(|length| length > 0),
        false => chunked && length.is_some(),
    };
    Ok((framing, is_doubtful))
}

/// Whether the body of such a response to GET would end with the connection.
fn ends_with_connection(present: Present, status: u16) -> bool {
    let is_framed = present.has(Known::ContentLength) || present.has(Known::TransferEncoding);
    !is_framed && !matches!(status, 100..=199 | 204 | 304)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edits::FieldEdit;

    fn request(minor: u8, is_head: bool) -> Request {
        Request {
            minor,
            framing: Framing::None,
            persistent: true,
            is_head,
            expects_continue: false,
            is_idempotent: true,
            binds_connection: false,
            upgrade: None,
        }
    }

    /// The framing, whether the connection persists, and the head that is sent, without the Date
    /// that the proxy adds.
    fn parse(head: &str, request: &Request) -> Result<(Framing, bool, String), String> {
        let has_bare_lf = head.replace("\r\n", "").contains('\n');
        read(head.as_bytes(), has_bare_lf, request, |head| {
            let mut out = Vec::new();
            head.write(&mut out, request, false, Changes::default());
            (head.framing, head.persistent, without_date(out))
        })
    }

    /// Removes the Date that the proxy adds to every final head.
    fn without_date(head: Vec<u8>) -> String {
        let mut text = String::from_utf8(head).expect("the input is UTF-8");
        let is_interim = text.starts_with("HTTP/1.1 1");
        match text.find("Date: ") {
            Some(at) if !is_interim => {
                text.replace_range(at..at + "Date: \r\n".len() + 29, "");
            }
            date => assert!(is_interim && date.is_none(), "{text}"),
        }
        text
    }

    #[test]
    fn a_response_without_a_date_gets_one() {
        const THEIRS: &str = "dAte: Sun, 22 Nov 2026 16:59:59 GMT\r\n";
        let now = |text: &str| text.contains("\r\nDate: ") && text.ends_with(" GMT\r\n\r\n");
        for (line, fields, is_ours) in [
            ("HTTP/1.1 200 OK", "", true),
            ("HTTP/1.1 304 Same", "Last-Date: x\r\n", true),
            ("HTTP/1.1 200 OK", THEIRS, false),
            // A Date that Connection names is not forwarded, so one is added.
            ("HTTP/1.1 200 OK", "Connection: date\r\nDate: x\r\n", true),
            ("HTTP/1.1 103 Early Hints", "", false),
        ] {
            let head = format!("{line}\r\n{fields}\r\n");
            let request = request(1, true);
            let sent = read(head.as_bytes(), false, &request, |head| {
                let mut out = Vec::new();
                head.write(&mut out, &request, false, Changes::default());
                String::from_utf8(out).expect("ASCII")
            });
            let sent = sent.expect("valid");
            assert_eq!(now(&sent), is_ours, "{sent}");
            assert_eq!(sent.contains(THEIRS), fields == THEIRS, "{sent}");
        }
    }

    #[test]
    fn faulty_heads_are_written_in_canonical_form() {
        let plain = "HTTP/1.1 200 OK\r\nX: v w\r\nContent-Length: 5\r\n\r\n";
        for (head, persistent) in [
            (plain.to_owned(), true),
            (plain.replace("\r\n", "\n"), false),
            (plain.replace("\r\n\r\n", "\n\n"), false),
            (plain.replace("OK\r\n", "OK\n"), false),
            (plain.replace("1.1 ", "1.1  "), false),
            (plain.replace(" OK", "   OK"), false),
            (plain.replace("v w", "v\r\n w"), false),
            (plain.replace("v w", "\r\n\tv\r\n   w\r\n "), false),
            (plain.replace("X:", "X :"), false),
            (plain.replace("X:", "X \t:"), false),
            (plain.replace("v w", "v\x01w\x7f"), false),
            // A higher minor version is not a fault.
            (plain.replace("1.1", "1.2"), true),
            (plain.replace("1.1", "1.9"), true),
        ] {
            for is_head in [false, true] {
                let (framing, kept, sent) = parse(&head, &request(1, is_head)).expect(&head);
                assert_eq!(sent, plain, "{head:?}");
                assert_eq!(kept, persistent, "{head:?}");
                assert_eq!(framing == Framing::None, is_head);
            }
        }
        let reason = "HTTP/1.1 404 \u{627e}\u{4e0d}\u{5230}\r\nContent-Length: 0\r\n\r\n";
        let (_, persistent, sent) = parse(reason, &request(1, false)).expect("valid");
        assert_eq!((persistent, sent.as_str()), (true, reason));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(512));
        assert!(parse(&many, &request(1, true)).is_ok());
        let more = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(513));
        assert!(parse(&more, &request(1, true)).is_err());
    }

    #[test]
    fn chunked_overrides_a_length_and_is_read_in_http_1_0() {
        let chunked = "Transfer-Encoding: chunked\r\n";
        for (line, fields) in [
            (
                "HTTP/1.1 200 OK",
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            ),
            (
                "HTTP/1.1 200 OK",
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            ),
            ("HTTP/1.0 200 OK", chunked),
            (
                "HTTP/1.0 200 OK",
                "Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n",
            ),
        ] {
            let head = format!("{line}\r\n{fields}\r\n");
            for (request, framing, sent) in [
                (request(1, false), Framing::Chunked, chunked),
                (request(1, true), Framing::None, chunked),
                (
                    request(0, false),
                    Framing::Chunked,
                    "Connection: keep-alive\r\n",
                ),
                (
                    request(0, true),
                    Framing::None,
                    "Connection: keep-alive\r\n",
                ),
            ] {
                let expected = format!("HTTP/1.1 200 OK\r\n{sent}\r\n");
                let parsed = parse(&head, &request).expect("valid");
                assert_eq!(parsed, (framing, false, expected), "{head:?}");
            }
        }
    }

    #[test]
    fn framing_towards_both_versions() {
        for (fields, framing, to_1_1, to_1_0) in [
            (
                "Content-Length: 5\r\n",
                Framing::Length(5),
                "Content-Length: 5\r\n",
                "Content-Length: 5\r\nConnection: keep-alive\r\n",
            ),
            (
                "Transfer-Encoding: Chunked\r\n",
                Framing::Chunked,
                "Transfer-Encoding: chunked\r\n",
                "Connection: keep-alive\r\n",
            ),
            (
                "",
                Framing::UntilClose,
                "Transfer-Encoding: chunked\r\n",
                "Connection: keep-alive\r\n",
            ),
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            for (minor, expected) in [(1, to_1_1), (0, to_1_0)] {
                let (parsed, _, sent) = parse(&head, &request(minor, false)).expect("valid");
                assert_eq!(parsed, framing);
                assert_eq!(sent, format!("HTTP/1.1 200 OK\r\n{expected}\r\n"));
            }
        }
    }

    #[test]
    fn responses_without_a_body() {
        for (line, fields, kept) in [
            ("HTTP/1.1 204 No Content", "Content-Length: 5\r\n", ""),
            (
                "HTTP/1.1 304 Not Modified",
                "Content-Length: 5\r\n",
                "Content-Length: 5\r\n",
            ),
            (
                "HTTP/1.1 103 Early Hints",
                "Link: </a>\r\n",
                "Link: </a>\r\n",
            ),
        ] {
            let head = format!("{line}\r\n{fields}\r\n");
            let (framing, _, sent) = parse(&head, &request(1, false)).expect("valid");
            assert_eq!(framing, Framing::None);
            assert_eq!(sent, format!("{line}\r\n{kept}\r\n"));
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        for twice in [
            head,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 05\r\n\r\n",
        ] {
            let (framing, _, sent) = parse(twice, &request(1, true)).expect("valid");
            assert_eq!((framing, sent.as_str()), (Framing::None, head));
        }
    }

    /// The bytes that follow on the connection may be that body, so they must not be read as the
    /// next client's response.
    #[test]
    fn announcing_a_body_that_the_status_forbids_ends_the_connection() {
        for (line, fields, reused) in [
            ("HTTP/1.1 204 No Content", "", true),
            ("HTTP/1.1 204 No Content", "Content-Length: 0\r\n", true),
            ("HTTP/1.1 204 No Content", "Content-Length: 5\r\n", false),
            (
                "HTTP/1.1 204 No Content",
                "Transfer-Encoding: chunked\r\n",
                false,
            ),
            ("HTTP/1.1 103 Early Hints", "", true),
            ("HTTP/1.1 103 Early Hints", "Content-Length: 5\r\n", false),
            ("HTTP/1.1 304 Not Modified", "Content-Length: 5\r\n", true),
            (
                "HTTP/1.1 304 Not Modified",
                "Transfer-Encoding: chunked\r\n",
                true,
            ),
        ] {
            let head = format!("{line}\r\n{fields}\r\n");
            let read = read(head.as_bytes(), false, &request(1, false), |head| {
                (head.persistent, !head.was_faulty)
            });
            assert_eq!(read, Ok((reused, reused)), "{head:?}");
        }
    }

    #[test]
    fn ambiguous_responses_are_refused() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1\t200 OK\r\n\r\n",
            "HTTP/1.1 200\tOK\r\n\r\n",
            "HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA\r\n : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\rc\n\n",
            "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
            "HTTP/1.1 200 O\rK\r\n\r\n",
            "HTTP/1.1 204 OK\r\nTransfer-Encoding: x\r\n\r\n",
        ] {
            assert!(parse(head, &request(1, false)).is_err(), "{head:?}");
        }
    }

    #[test]
    fn only_a_switch_to_the_requested_protocol_counts() {
        for (fields, expected) in [
            ("Connection: upgrade\r\nUpgrade: WebSocket\r\n", true),
            ("Connection: upgrade\r\nUpgrade: h2c\r\n", false),
            ("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n", false),
            ("Upgrade: websocket\r\n", false),
            ("Connection: upgrade\r\n", false),
        ] {
            let head = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
            for head in [head.replace("\r\n", "\n"), head] {
                let has_bare_lf = !head.contains('\r');
                let switches = read(head.as_bytes(), has_bare_lf, &request(1, false), |head| {
                    head.switches_to("websocket")
                });
                assert_eq!(switches, Ok(expected), "{fields}");
            }
        }
    }

    #[test]
    fn persistence() {
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n",
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
                false,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", false),
        ] {
            let (_, persistent, _) = parse(head, &request(1, false)).expect("valid");
            assert_eq!(persistent, expected, "{head:?}");
            let (_, persistent, _) = parse(head, &request(1, true)).expect("valid");
            assert_eq!(persistent, expected, "{head:?} to HEAD");
        }
    }

    #[test]
    fn configured_fields_are_set_and_removed() {
        let edit = |name: &str, value: Option<&str>| FieldEdit {
            name: name.to_owned(),
            value: value.map(|value| value.as_bytes().to_vec()),
        };
        let edits = FieldEdits(vec![
            edit("Server", None),
            edit("Cache-Control", Some("no-store")),
            edit("Set-Cookie", Some("b=2")),
            edit("Vary", Some("Origin")),
        ]);
        let changes = Changes {
            edits: Some(&edits),
            ..Changes::default()
        };
        for (came, sent) in [
            (
                "HTTP/1.1 204 No Content\r\nserver: x\r\nCache-Control: public\r\n\
                 Cache_Control: a\r\nSet-Cookie: a=1\r\nVary: Accept\r\n\r\n",
                "HTTP/1.1 204 No Content\r\nSet-Cookie: a=1\r\nVary: Accept\r\n\
                 Cache-Control: no-store\r\nSet-Cookie: b=2\r\nVary: Origin\r\n\r\n",
            ),
            (
                "HTTP/1.1 103 Early Hints\r\nServer: x\r\nLink: </a>\r\n\r\n",
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
            ),
        ] {
            let request = request(1, false);
            let mut out = Vec::new();
            let written = read(came.as_bytes(), false, &request, |head| {
                head.write(&mut out, &request, false, changes);
            });
            assert_eq!(written, Ok(()));
            assert_eq!(without_date(out), sent);
        }
    }
}
