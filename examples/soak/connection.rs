//! One end of a connection: reads and sends heads, bodies and frames.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use openssl::ssl::SslStream;

use crate::noise::Noise;
use crate::shared::{field, read_some, Patient};
use crate::PATIENCE;
use Trouble::{Cut, Wrong};

/// Why an exchange was not completed.
pub enum Trouble {
    /// The connection ended, or the program answered that the upstream could not be reached, as
    /// after a fault of a hop or of the upstream.
    Cut(String),
    /// Anything else: wrong bytes, a wrong status, silence.
    Wrong(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        use ErrorKind::*;
        match error.kind() {
            ConnectionReset | BrokenPipe | UnexpectedEof | ConnectionAborted | NotConnected => {
                Cut(error.to_string())
            }
            WouldBlock | TimedOut => Wrong("nothing moves any more".to_owned()),
            _ => Wrong(error.to_string()),
        }
    }
}

impl From<Trouble> for Box<dyn std::error::Error + Send + Sync> {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Cut(words) | Wrong(words) => words.into(),
        }
    }
}

pub type Done<T = ()> = Result<T, Trouble>;

/// TCP, or TLS over it.
pub trait Bytes: Read + Write + Send {
    fn close(&mut self) {}
}

impl Bytes for TcpStream {}

impl Bytes for SslStream<Patient> {
    fn close(&mut self) {
        let _ = self.shutdown();
    }
}

/// One end of a connection, with the bytes that were read ahead.
pub struct Wire {
    pub stream: Box<dyn Bytes>,
    pub socket: TcpStream,
    pub ahead: Vec<u8>,
}

impl Wire {
    pub fn connect(address: SocketAddr) -> io::Result<Wire> {
        Wire::new(TcpStream::connect(address)?)
    }

    pub fn new(socket: TcpStream) -> io::Result<Wire> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        Ok(Wire {
            stream: Box::new(socket.try_clone()?),
            socket,
            ahead: Vec::new(),
        })
    }

    pub fn send(&mut self, bytes: &[u8]) -> Done {
        Ok(self.stream.write_all(bytes)?)
    }

    fn read_more(&mut self) -> io::Result<usize> {
        let mut piece = [0; 64 * 1024];
        let n = read_some(&mut self.stream, &mut piece)?;
        self.ahead.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    fn need_more(&mut self) -> Done {
        match self.read_more()? {
            0 => Err(Cut("the connection ended".to_owned())),
            _ => Ok(()),
        }
    }

    /// Reads up to and including `end`.
    fn until(&mut self, end: &[u8]) -> Done<String> {
        loop {
            let found = self.ahead.windows(end.len()).position(|bytes| bytes == end);
            if let Some(at) = found {
                let bytes: Vec<u8> = self.ahead.drain(..at + end.len()).collect();
                return String::from_utf8(bytes).map_err(|_| Wrong("a head is no text".to_owned()));
            }
            if self.ahead.len() > 64 * 1024 {
                return Err(Wrong("a head without an end".to_owned()));
            }
            self.need_more()?;
        }
    }

    pub fn head(&mut self) -> Done<String> {
        self.until(b"\r\n\r\n")
    }

    pub fn exactly(&mut self, count: usize) -> Done<Vec<u8>> {
        while self.ahead.len() < count {
            self.need_more()?;
        }
        let rest = self.ahead.split_off(count);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    pub fn rest(&mut self) -> Done<Vec<u8>> {
        while self.read_more()? > 0 {}
        Ok(std::mem::take(&mut self.ahead))
    }

    fn chunked(&mut self) -> Done<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n")?;
            let size = usize::from_str_radix(line.trim_end(), 16);
            let size = size.map_err(|_| Wrong(format!("a chunk of size {line:?}")))?;
            body.extend(self.exactly(size)?);
            if self.exactly(2)? != b"\r\n" {
                return Err(Wrong("a chunk does not end where it should".to_owned()));
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }

    pub fn body(&mut self, head: &str) -> Done<Vec<u8>> {
        if let Some(length) = field(head, "content-length") {
            let length = length
                .parse()
                .map_err(|_| Wrong(format!("length {length:?}")))?;
            self.exactly(length)
        } else if field(head, "transfer-encoding").is_some() {
            self.chunked()
        } else {
            self.rest()
        }
    }

    /// Closes with a reset.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.socket);
        let _ = socket.set_linger(Some(Duration::ZERO));
    }

    /// The payload of one WebSocket frame; None for a close frame (RFC 6455 §5.2).
    pub fn frame(&mut self) -> Done<Option<Vec<u8>>> {
        let start = self.exactly(2)?;
        let length = match start[1] & 0x7f {
            126 => {
                let bytes = self.exactly(2)?;
                usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
            }
            127 => {
                let bytes = self.exactly(8)?;
                bytes
                    .iter()
                    .fold(0, |length, byte| length << 8 | usize::from(*byte))
            }
            length => length.into(),
        };
        let mask = match start[1] & 0x80 {
            0 => vec![0; 4],
            _ => self.exactly(4)?,
        };
        let mut payload = self.exactly(length)?;
        for (i, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[i % 4];
        }
        Ok((start[0] & 0x0f != 8).then_some(payload))
    }
}

pub fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

/// Chunks of random sizes.
pub fn chunks(body: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut coded = Vec::with_capacity(body.len() + 1024);
    let mut rest = body;
    while !rest.is_empty() {
        let size = rest.len().min(16 + noise.mostly_small(17));
        coded.extend(format!("{size:x}\r\n").bytes());
        coded.extend(&rest[..size]);
        coded.extend(b"\r\n");
        rest = &rest[size..];
    }
    coded.extend(b"0\r\n\r\n");
    coded
}
