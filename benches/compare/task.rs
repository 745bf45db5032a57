//! What the connections of the generator do.

use crate::content::LONG;

/// What every connection does repeatedly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A small response on a kept-alive connection.
    Request,
    /// A medium response on a kept-alive connection.
    Page,
    /// A small response on a new connection.
    NewConnection,
    /// A long response with a length.
    Download,
    /// A long response in chunks.
    Chunked,
    /// A long request.
    Upload,
    /// A WebSocket message of 64 bytes and its echo.
    Echo,
    /// Bytes through an upgrade, in both directions at once, as fast as possible.
    Bulk,
    /// An upgrade on a new connection.
    Open,
}

impl Task {
    /// The head of the request for it.
    pub fn request(self) -> String {
        let (method, path) = match self {
            Task::Request | Task::NewConnection => ("GET", "/small"),
            Task::Page => ("GET", "/page"),
            Task::Download => ("GET", "/download"),
            Task::Chunked => ("GET", "/chunked"),
            Task::Upload => ("POST", "/upload"),
            Task::Echo | Task::Open => ("GET", "/echo"),
            Task::Bulk => ("GET", "/bulk"),
        };
        let fields = match self {
            Task::NewConnection => "Connection: close\r\n".to_owned(),
            Task::Upload => format!("Content-Length: {LONG}\r\n"),
            Task::Echo | Task::Bulk | Task::Open => UPGRADE.to_owned(),
            _ => String::new(),
        };
        format!(
            "{method} {path} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: bench\r\n\
             Accept: */*\r\n{fields}\r\n"
        )
    }
}

/// The fields of a WebSocket upgrade.
pub const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A masked binary message of 64 bytes (RFC 6455 §5.2), which the upstream echoes unchanged.
pub fn message() -> [u8; 70] {
    let mut frame = [b'm'; 70];
    frame[..6].copy_from_slice(&[0x82, 0x80 | 64, 0, 0, 0, 0]);
    frame
}
