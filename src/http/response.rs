//! Response heads (RFC 9112 §4): checked as strictly as requests, because a client must
//! never disagree with us about where a response ends.

use std::time::Duration;

use crate::config::MAX_FIELDS;
use crate::edits::FieldEdits;
use crate::http::authentication::names_connection_scheme;
use crate::http::connection::ConnectionOptions;
use crate::http::fields::{content_length, is_chunked, values, write_field, Fields, Header};
use crate::http::framing::Framing;
use crate::http::head::HeadError;
use crate::http::origin::Names;
use crate::http::request::Request;
use crate::http::syntax::{list, parse_decimal, push_number, trim};

/// A response head that has been checked, borrowed from the bytes received.
pub struct ResponseHead<'b, 'f> {
    /// The status code, 100 to 999.
    pub status: u16,
    /// How the body ends on the upstream's side.
    pub framing: Framing,
    /// Whether the upstream would go on after the body.
    pub persistent: bool,
    reason: &'b str,
    fields: &'f [Header<'b>],
    options: ConnectionOptions,
}

/// What is changed in a response head beside its framing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes<'a> {
    /// Via is added (RFC 9110 §7.6.3).
    pub via: bool,
    /// Translates what names the upstream's origin, if it may differ from the client's.
    pub names: Option<&'a Names>,
    /// The fields to set and to remove, if there are any.
    pub edits: Option<&'a FieldEdits>,
}

/// Checks a status line as soon as it is there.
pub fn check_start_line(line: &[u8]) -> Result<(), HeadError> {
    match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', b' ', ..] => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', ..] => Err(HeadError::Version),
        _ => Err(HeadError::Malformed("this is not HTTP")),
    }
}

impl<'b, 'f> ResponseHead<'b, 'f> {
    /// Parses and checks a whole head that answers `request`.
    pub fn parse(
        bytes: &'b [u8],
        fields: &'f mut Fields<'b>,
        request: &Request,
    ) -> Result<ResponseHead<'b, 'f>, String> {
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut parsed, bytes, fields) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err("the head is malformed".to_owned()),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(format!("more than {MAX_FIELDS} fields"))
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
            return Err(format!("{status} is no status code"));
        }
        let fields: &'f [Header<'b>] = parsed.headers;
        let framing = framing_of(fields, minor, status, request)?;
        let options = ConnectionOptions::of(fields)?;
        Ok(ResponseHead {
            status,
            // To HEAD such a response has no body either, but the upstream that would end it
            // by closing is likely to close all the same.
            persistent: minor == 1
                && !options.close
                && framing != Framing::UntilClose
                && !(request.is_head && ends_with_connection(fields, status)),
            framing,
            reason: parsed.reason.unwrap_or_default(),
            fields,
            options,
        })
    }

    /// The reason phrase.
    pub fn reason(&self) -> &'b str {
        self.reason
    }

    /// The fields, as they came.
    pub fn fields(&self) -> &'f [Header<'b>] {
        self.fields
    }

    /// Whether another head follows this one (RFC 9110 §15.2).
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Whether the upstream switches to exactly the protocol that was asked for.
    pub fn switches_to(&self, protocol: &str) -> bool {
        let mut protocols = values(self.fields, "upgrade").flat_map(list);
        self.status == 101
            && self.options.upgrade
            && protocols
                .next()
                .is_some_and(|p| p.eq_ignore_ascii_case(protocol.as_bytes()))
            && protocols.next().is_none()
    }

    /// Whether it asks for authentication that holds for the connection (RFC 4559 §4).
    pub fn offers_connection_scheme(&self) -> bool {
        self.status == 401 && names_connection_scheme(self.fields, "www-authenticate")
    }

    /// For how long the upstream says that it keeps the connection (`Keep-Alive: timeout=T`,
    /// in whole seconds; RFC 2068 §19.7.1.1, and every server since).
    pub fn promised_rest(&self) -> Option<Duration> {
        let parameters = values(self.fields, "keep-alive").flat_map(list);
        let timeouts = parameters.filter_map(|parameter| {
            let (name, value) = parameter.split_at_checked("timeout=".len())?;
            let seconds = parse_decimal(trim(value));
            seconds.filter(|_| name.eq_ignore_ascii_case(b"timeout="))
        });
        timeouts.min().map(Duration::from_secs)
    }

    /// How the body is framed for the client (RFC 9112 §6.1: HTTP/1.0 knows no chunks).
    pub fn downstream_framing(&self, request: &Request) -> Framing {
        match (self.framing, request.minor) {
            (Framing::Chunked | Framing::UntilClose, 0) => Framing::UntilClose,
            (Framing::Chunked | Framing::UntilClose, _) => Framing::Chunked,
            (framing, _) => framing,
        }
    }

    /// Appends the head as it goes to the client, framed as `downstream_framing` says.
    /// `close` says that the connection ends behind this response.
    pub fn write(&self, out: &mut Vec<u8>, request: &Request, close: bool, changes: Changes<'_>) {
        let Changes { via, names, edits } = changes;
        out.extend_from_slice(b"HTTP/1.1 ");
        push_number(out, self.status.into());
        out.push(b' ');
        out.extend_from_slice(self.reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        let framing = self.downstream_framing(request);
        let mut framing_written = false;
        for field in self.fields {
            let name = field.name;
            if name.eq_ignore_ascii_case("content-length") {
                let tells = framing != Framing::None || self.describes_a_body();
                if tells && !std::mem::replace(&mut framing_written, true) {
                    self.announced(framing).write_field(out, name);
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if framing == Framing::None {
                    if self.describes_a_body() && request.minor == 1 {
                        write_field(out, name, field.value);
                    }
                } else if !std::mem::replace(&mut framing_written, true) {
                    framing.write_field(out, name);
                }
            } else if self.options.drop_field(name, self.fields)
                || edits.is_some_and(|edits| edits.replaces_in_response(name))
            {
                continue;
            } else {
                match names {
                    Some(names) => names.write_response_field(out, name, field.value),
                    None => write_field(out, name, field.value),
                }
            }
        }
        if !framing_written && framing == Framing::Chunked {
            framing.write_field(out, "Transfer-Encoding");
        }
        if via && !edits.is_some_and(|edits| edits.replaces_in_response("Via")) {
            write_field(out, "Via", b"1.1 simple-proxy");
        }
        // An interim response is about the final one, which has them.
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

    /// What framing fields tell: of the body, or of the one that GET would have got.
    fn announced(&self, framing: Framing) -> Framing {
        match framing {
            Framing::None => match content_length(self.fields) {
                Ok(Some(length)) => Framing::Length(length),
                _ => framing,
            },
            framing => framing,
        }
    }

    /// Whether framing fields on a response without a body still tell something: they do
    /// for HEAD and 304, and must not be there for 1xx and 204 (RFC 9110 §8.6).
    fn describes_a_body(&self) -> bool {
        self.status >= 200 && self.status != 204
    }
}

/// Appends what the client must know of the connection's future.
pub fn write_connection(out: &mut Vec<u8>, request: &Request, close: bool) {
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if request.minor == 0 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
}

/// RFC 9112 §6.3, with every doubtful case refused.
fn framing_of(
    fields: &[Header<'_>],
    minor: u8,
    status: u16,
    request: &Request,
) -> Result<Framing, String> {
    let length = content_length(fields)?;
    let chunked = is_chunked(fields)?;
    if chunked && length.is_some() {
        return Err("Transfer-Encoding and Content-Length together".to_owned());
    }
    if chunked && minor == 0 {
        return Err("Transfer-Encoding in HTTP/1.0".to_owned());
    }
    if request.is_head || matches!(status, 100..=199 | 204 | 304) {
        return Ok(Framing::None);
    }
    Ok(match (chunked, length) {
        (true, _) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    })
}

/// Whether nothing but the connection's end tells where the body of such a response ends.
fn ends_with_connection(fields: &[Header<'_>], status: u16) -> bool {
    let is_framed = ["content-length", "transfer-encoding"]
        .iter()
        .any(|name| values(fields, name).next().is_some());
    !is_framed && !matches!(status, 100..=199 | 204 | 304)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edits::FieldEdit;
    use crate::http::fields::no_fields;

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

    fn parse(head: &str, request: &Request) -> Result<(Framing, bool, String), String> {
        let mut fields = no_fields();
        let head = ResponseHead::parse(head.as_bytes(), &mut fields, request)?;
        let mut out = Vec::new();
        head.write(&mut out, request, false, Changes::default());
        let text = String::from_utf8_lossy(&out).into_owned();
        Ok((head.framing, head.persistent, text))
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

    #[test]
    fn doubtful_responses_are_refused() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
            "HTTP/1.1 200 O\rK\r\n\r\n",
            "HTTP/1.1 204 OK\r\nTransfer-Encoding: x\r\n\r\n",
        ] {
            assert!(parse(head, &request(1, false)).is_err(), "{head:?}");
        }
    }

    #[test]
    fn a_switch_counts_only_to_what_was_asked_for() {
        for (fields, expected) in [
            ("Connection: upgrade\r\nUpgrade: WebSocket\r\n", true),
            ("Connection: upgrade\r\nUpgrade: h2c\r\n", false),
            ("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n", false),
            ("Upgrade: websocket\r\n", false),
            ("Connection: upgrade\r\n", false),
        ] {
            let head = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
            let mut room = no_fields();
            let parsed = ResponseHead::parse(head.as_bytes(), &mut room, &request(1, false));
            assert_eq!(
                parsed.expect("valid").switches_to("websocket"),
                expected,
                "{fields}"
            );
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
    fn fields_of_ones_own() {
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
            let mut fields = no_fields();
            let request = request(1, false);
            let head = ResponseHead::parse(came.as_bytes(), &mut fields, &request);
            let mut out = Vec::new();
            head.expect("valid")
                .write(&mut out, &request, false, changes);
            assert_eq!(String::from_utf8_lossy(&out), sent);
        }
    }
}
