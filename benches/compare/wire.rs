//! One end of a connection, over plain TCP or TLS, and the bytes to be sent on it. The generator
//! and the upstream both use it.

use std::io::{self, ErrorKind::WouldBlock, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use openssl::ssl::{Ssl, SslAcceptor, SslStream};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::Timespec;
use rustix::net::{recv, RecvFlags};

use crate::secured::Connector;

/// The size of a loop's read buffer.
pub const ROOM: usize = 256 * 1024;

/// The number of bytes after which a connection that streams yields to others.
const TURN: u64 = 1024 * 1024;

/// A non-blocking connection.
pub enum Wire {
    /// Plain TCP.
    Plain(TcpStream),
    /// Either side of TLS; the first reads and writes perform the handshake.
    Tls(Box<SslStream<TcpStream>>),
}

impl Wire {
    /// Takes over a connection as the server; with TLS if there is an acceptor.
    pub fn new(stream: TcpStream, acceptor: Option<&SslAcceptor>) -> io::Result<Wire> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let Some(acceptor) = acceptor else {
            return Ok(Wire::Plain(stream));
        };
        let mut ssl = Ssl::new(acceptor.context())?;
        ssl.set_accept_state();
        Ok(Wire::Tls(Box::new(SslStream::new(ssl, stream)?)))
    }

    /// Takes over a connection as the client; with TLS if there is a connector.
    pub fn client(stream: TcpStream, connector: Option<&Connector>) -> io::Result<Wire> {
        let Some(connector) = connector else {
            return Wire::new(stream, None);
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut ssl = connector.begin()?;
        ssl.set_connect_state();
        Ok(Wire::Tls(Box::new(SslStream::new(ssl, stream)?)))
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Wire::Plain(stream) => stream,
            Wire::Tls(stream) => stream.get_ref(),
        }
    }

    /// Whether the TLS handshake, if any, is done.
    pub fn is_open(&self) -> bool {
        match self {
            Wire::Plain(_) => true,
            Wire::Tls(stream) => stream.ssl().is_init_finished(),
        }
    }

    /// Whether bytes may be left after a short read that no event will announce.
    pub fn reads_to_the_end(&self) -> bool {
        matches!(self, Wire::Tls(_))
    }

    /// Whether TLS holds decrypted bytes that no event will announce.
    pub fn holds_more(&self) -> bool {
        match self {
            Wire::Plain(_) => false,
            Wire::Tls(stream) => stream.ssl().pending() > 0,
        }
    }

    /// Reads what has arrived.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(buf),
            Wire::Tls(stream) => stream.read(buf),
        }
    }

    /// Discards what has arrived; over plain TCP without copying it from the kernel.
    pub fn discard(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => Ok(recv(stream, buf, RecvFlags::TRUNC)?.1),
            Wire::Tls(stream) => stream.read(buf),
        }
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(buf),
            Wire::Tls(stream) => stream.write(buf),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

/// What is still to be sent: some bytes, a repeated pattern, and an end.
#[derive(Default)]
pub struct Outgoing {
    first: Vec<u8>,
    sent: usize,
    pattern: &'static [u8],
    patterned: u64,
    left: u64,
    tail: &'static [u8],
}

impl Outgoing {
    /// Adds bytes; only before a pattern.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.sent == self.first.len() {
            self.first.clear();
            self.sent = 0;
        }
        self.first.extend_from_slice(bytes);
    }

    /// Adds `length` bytes of a pattern, and then `tail`.
    pub fn repeat(&mut self, pattern: &'static [u8], length: u64, tail: &'static [u8]) {
        (self.pattern, self.patterned, self.left, self.tail) = (pattern, 0, length, tail);
    }

    /// Whether everything was sent.
    pub fn is_empty(&self) -> bool {
        self.sent == self.first.len() && self.left == 0 && self.tail.is_empty()
    }

    /// Sends until everything is sent, the socket is full, or `TURN` bytes are sent.
    pub fn send(&mut self, wire: &mut Wire) -> io::Result<()> {
        match self.send_on(wire) {
            Err(error) if error.kind() == WouldBlock => Ok(()),
            outcome => outcome,
        }
    }

    fn send_on(&mut self, wire: &mut Wire) -> io::Result<()> {
        while self.sent < self.first.len() {
            self.sent += wire.write(&self.first[self.sent..])?;
        }
        let mut turn = 0;
        while self.left > 0 && turn < TURN {
            let at = (self.patterned % self.pattern.len() as u64) as usize;
            let most = usize::try_from(self.left).unwrap_or(usize::MAX);
            let part = &self.pattern[at..];
            let n = wire.write(&part[..part.len().min(most)])? as u64;
            self.patterned += n;
            self.left -= n;
            turn += n;
        }
        while self.left == 0 && !self.tail.is_empty() {
            let n = wire.write(self.tail)?;
            self.tail = &self.tail[n..];
        }
        Ok(())
    }
}

/// An epoll set, level-triggered.
pub struct Poll {
    epoll: std::os::fd::OwnedFd,
}

impl Poll {
    /// An empty set.
    pub fn new() -> io::Result<Poll> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Poll { epoll })
    }

    /// Watches a socket for reading, and also for writing if `room`.
    pub fn add(&self, socket: impl AsFd, key: usize, room: bool) -> io::Result<()> {
        let data = EventData::new_u64(key as u64);
        Ok(epoll::add(&self.epoll, socket, data, flags(room))?)
    }

    /// Starts or stops watching a socket for writing.
    pub fn modify(&self, socket: impl AsFd, key: usize, room: bool) -> io::Result<()> {
        let data = EventData::new_u64(key as u64);
        Ok(epoll::modify(&self.epoll, socket, data, flags(room))?)
    }

    /// Waits for events, at most 20 ms.
    pub fn wait(&self, events: &mut Vec<Event>) -> io::Result<()> {
        events.clear();
        let patience = Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        let room = rustix::buffer::spare_capacity(events);
        match epoll::wait(&self.epoll, room, Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn flags(room: bool) -> EventFlags {
    match room {
        true => EventFlags::IN | EventFlags::OUT,
        false => EventFlags::IN,
    }
}

/// A buffer for the events of one wait.
pub fn event_buffer() -> Vec<Event> {
    Vec::with_capacity(256)
}

/// Whether an event reports bytes, an end or an error.
pub fn is_readable(event: &Event) -> bool {
    let flags = event.flags;
    flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
}
