//! What the connections of the generator do.

use crate::content::LONG;

/// What every connection does, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A small answer on a connection that is kept.
    Request,
    /// An answer of some size, on a connection that is kept.
    Page,
    /// A small answer on a connection of its own.
    NewConnection,
    /// A long answer with a length.
    Download,
    /// A long answer in chunks.
    Chunked,
    /// A long request.
    Upload,
    /// A WebSocket message of 64 bytes, there and back.
    Echo,
    /// Bytes through an upgrade, both ways at once, as fast as they go.
    Bulk,
    /// An upgrade on a connection of its own.
    Open,
}

impl Task {
    /// What asks for it.
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

/// The fields that ask for a WebSocket.
pub const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A masked binary message of 64 bytes (RFC 6455 §5.2); the upstream returns it as it is.
pub fn message() -> [u8; 70] {
    let mut frame = [b'm'; 70];
    frame[..6].copy_from_slice(&[0x82, 0x80 | 64, 0, 0, 0, 0]);
    frame
}
