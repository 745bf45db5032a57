//! What a client received, and the parser of the tests for messages.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::{find, shown};
use crate::support::*;

/// One parsed message, whose framing must be unambiguous.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) head: Vec<u8>,
    body: Vec<u8>,
    trailers: Vec<u8>,
    /// The size line of the last chunk was read.
    ending: bool,
    /// The body ends with the connection.
    pub(super) until_end: bool,
    pub(super) whole: bool,
}

impl Message {
    /// Parses the message at the start of `bytes`, and returns it with its length. `answers` is
    /// the method of the request that a response answers; None for a request. A response that
    /// ends with the connection takes all bytes.
    pub(super) fn read(bytes: &[u8], answers: Option<&str>) -> (Message, usize) {
        let mut message = Message::default();
        let Some(end) = find(bytes, b"\r\n\r\n") else {
            message.head = bytes.to_vec();
            return (message, bytes.len());
        };
        let end = end + 4;
        message.head = bytes[..end].to_vec();
        let head = String::from_utf8_lossy(&message.head).into_owned();
        let fields = head.to_ascii_lowercase();
        let lengths = fields.matches("\r\ncontent-length:").count();
        let codings = fields.matches("\r\ntransfer-encoding:").count();
        let has_content = answers.is_none_or(|method| {
            method != "HEAD" && !matches!(message.status(), 100..=199 | 204 | 304)
        });
        assert!(
            lengths + codings <= 1,
            "a head that two parsers may read differently: {head}"
        );
        let rest = &bytes[end..];
        if !has_content || (answers.is_none() && lengths + codings == 0) {
            message.whole = true;
            return (message, end);
        }
        if codings == 1 {
            assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
            let used = message.read_chunks(rest);
            return (message, end + used);
        }
        let length = match field(&head, "content-length") {
            Some(digits) => digits.parse().expect(&head),
            None => {
                message.until_end = true;
                rest.len()
            }
        };
        message.body = rest[..length.min(rest.len())].to_vec();
        message.whole = message.body.len() == length;
        let used = end + message.body.len();
        (message, used)
    }

    fn read_chunks(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(line) = find(&bytes[at..], b"\r\n") {
            let digits = std::str::from_utf8(&bytes[at..at + line]).unwrap();
            let is_hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_hex, "a chunk size that is not hexadecimal: {digits:?}");
            let size = usize::from_str_radix(digits, 16).unwrap();
            at += line + 2;
            if size == 0 {
                self.ending = true;
                let rest = &bytes[at..];
                let trailers = if rest.starts_with(b"\r\n") {
                    Some(0)
                } else {
                    find(rest, b"\r\n\r\n").map(|end| end + 2)
                };
                if let Some(length) = trailers {
                    self.trailers = rest[..length].to_vec();
                    self.whole = true;
                    return at + length + 2;
                }
                break;
            }
            let data = &bytes[at..bytes.len().min(at.saturating_add(size))];
            self.body.extend_from_slice(data);
            at += data.len();
            if data.len() < size || bytes.len() < at + 2 {
                break;
            }
            assert_eq!(&bytes[at..at + 2], b"\r\n", "a chunk does not end in CRLF");
            at += 2;
        }
        bytes.len()
    }

    pub(super) fn request(bytes: &[u8]) -> Message {
        Message::read(bytes, None).0
    }

    /// Removes the Date, which the proxy must have added because the upstream sent none.
    pub(super) fn without_date(mut self) -> Message {
        let head = String::from_utf8(self.head).expect("a head in UTF-8");
        let (before, rest) = head.split_once("\r\nDate: ").expect(&head);
        let (date, after) = rest.split_at("Sun, 06 Nov 1994 08:49:37 GMT".len());
        let is_date = date.contains(" 20") && date.ends_with(" GMT");
        assert!(is_date && after.starts_with("\r\n"), "{head}");
        assert!(!after.to_ascii_lowercase().contains("\r\ndate:"), "{head}");
        self.head = [before, after].concat().into_bytes();
        self
    }

    pub(super) fn status(&self) -> u16 {
        let text = String::from_utf8_lossy(&self.head);
        assert!(text.starts_with("HTTP/1.1 "), "not a response: {text}");
        text[9..12].parse().unwrap()
    }

    pub(super) fn field(&self, name: &str) -> Option<String> {
        let head = String::from_utf8_lossy(&self.head).into_owned();
        field(&head, name).map(str::to_owned)
    }

    /// Whether this is an incomplete beginning of `other`.
    pub(super) fn is_part_of(&self, other: &Message) -> bool {
        !self.whole
            && !self.ending
            && match self.head.ends_with(b"\r\n\r\n") {
                true => self.head == other.head && other.body.starts_with(&self.body),
                false => other.head.starts_with(&self.head),
            }
    }
}

/// All responses in `bytes`, in order; `methods` are those of the requests, GET if there are too
/// few. All of them must be complete.
pub(super) fn responses(bytes: &[u8], methods: &[String]) -> Vec<Message> {
    let mut all: Vec<Message> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let method = methods.get(all.len()).map_or("GET", String::as_str);
        let (message, used) = Message::read(rest, Some(method));
        assert!(message.whole, "an incomplete response: {}", shown(rest));
        rest = &rest[used..];
        all.push(message);
    }
    all
}

/// What a client received on one connection, and how the connection ended.
#[derive(Default)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    /// Whether the connection ended without a reset; None while it is open.
    pub(super) clean_end: Option<bool>,
}

impl Received {
    pub(super) fn read_to_end(client: &mut Client) -> Received {
        let mut received = Received::default();
        while received.clean_end.is_none() {
            received.read_more(client);
        }
        received
    }

    fn read_more(&mut self, client: &mut Client) {
        let mut chunk = [0; 64 * 1024];
        match read_some(&mut client.stream, &mut chunk) {
            Ok(0) => self.clean_end = Some(true),
            Ok(n) => self.bytes.extend_from_slice(&chunk[..n]),
            Err(error) => {
                let kind = error.kind();
                assert_ne!(kind, std::io::ErrorKind::WouldBlock, "nothing arrives");
                self.clean_end = Some(false);
            }
        }
    }

    /// Reads until a final response is complete or the connection ends.
    pub(super) fn read(client: &mut Client, method: &str) -> Received {
        let mut received = Received::default();
        while received.clean_end.is_none() {
            let mut rest = received.bytes.as_slice();
            let is_whole = loop {
                let (message, used) = Message::read(rest, Some(method));
                if !message.whole || message.until_end {
                    break false;
                }
                rest = &rest[used..];
                if !matches!(message.status(), 100 | 102..=199) {
                    break !closes(&message);
                }
            };
            if is_whole {
                return received;
            }
            received.read_more(client);
        }
        received
    }

    /// Whether the client can tell that the last message is incomplete, by its framing or by a
    /// reset.
    pub(super) fn tells_the_cut(&self, message: &Message) -> bool {
        match self.clean_end {
            None => false,
            Some(clean) => !clean || !message.until_end,
        }
    }
}

pub(super) fn closes(message: &Message) -> bool {
    let connection = message.field("connection").unwrap_or_default();
    message.head.starts_with(b"HTTP/1.0") || connection.eq_ignore_ascii_case("close")
}

/// Waits until everything sent on `socket` has arrived in the kernel of the other side, or
/// that side is gone.
pub(super) fn wait_until_delivered(socket: &TcpStream) {
    let (Ok(own), Ok(peer)) = (socket.local_addr(), socket.peer_addr()) else {
        return;
    };
    let deadline = Instant::now() + PATIENCE;
    while in_kernel(own.port(), peer.port()).is_some_and(|end| end.unacknowledged > 0) {
        assert!(Instant::now() < deadline, "the bytes do not arrive");
        thread::sleep(Duration::from_millis(1));
    }
}
