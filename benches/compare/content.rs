//! The bytes that the generator and the upstream send.

use std::sync::OnceLock;

use crate::wire::ROOM;

/// The length of a long body.
pub const LONG: u64 = 16 * 1024 * 1024;

/// Meaningless bytes, sent as bodies and as bulk.
pub fn filler() -> &'static [u8] {
    static FILLER: OnceLock<Vec<u8>> = OnceLock::new();
    FILLER.get_or_init(|| vec![b'x'; ROOM])
}

/// The size of a chunk.
pub const CHUNK: usize = 64 * 1024;

/// An encoded chunk.
pub fn chunk() -> &'static [u8] {
    static CHUNKED: OnceLock<Vec<u8>> = OnceLock::new();
    CHUNKED.get_or_init(|| {
        let size = format!("{CHUNK:x}\r\n");
        [size.as_bytes(), &filler()[..CHUNK], b"\r\n"].concat()
    })
}

/// The small response, with a body of 1 KiB.
pub fn small() -> &'static [u8] {
    static SMALL: OnceLock<Vec<u8>> = OnceLock::new();
    SMALL.get_or_init(|| answer(1024))
}

/// The medium response, with a body of 32 KiB.
pub fn page() -> &'static [u8] {
    static PAGE: OnceLock<Vec<u8>> = OnceLock::new();
    PAGE.get_or_init(|| answer(32 * 1024))
}

fn answer(length: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), &filler()[..length]].concat()
}
