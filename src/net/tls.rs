//! TLS over a stream: one connector for the process, driven without blocking.
//!
//! `async_native_tls` would build a whole TLS context, CA bundle included, for every
//! connection; a `native_tls::TlsConnector` kept for the process does not.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::task::{Context, Poll};

use native_tls::{Certificate, HandshakeError, Protocol, TlsConnector};

use crate::config::TlsVersion;
use crate::identity::Identity;
use crate::net::buffer::Buffer;
use crate::net::socket::{Direction, Socket};
use crate::net::stream::{Connection, Stream};

/// Makes TLS clients of connections.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
}

/// The one protocol that is offered, as it stands in a handshake (RFC 7301 §3.1).
pub const ALPN: &[u8] = b"\x08http/1.1";

/// What a certificate must satisfy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Chain, dates and name.
    Full,
    /// Nothing.
    Nothing,
}

/// What a TLS client shows, and what it demands.
#[derive(Clone, Copy)]
pub struct TlsClient<'a> {
    /// What the peer's certificate must satisfy.
    pub verify: Verify,
    /// Roots to trust beside the system's.
    pub roots: &'a [Certificate],
    /// What is shown to a peer that asks.
    pub identity: Option<&'a Identity>,
    /// The oldest version that is spoken.
    pub oldest: TlsVersion,
}

impl Tls {
    /// Loads the system's roots and the given ones. Costs some milliseconds: once per process.
    pub fn new(client: &TlsClient) -> Result<Tls, native_tls::Error> {
        let TlsClient {
            verify,
            roots,
            identity,
            oldest,
        } = *client;
        let mut builder = TlsConnector::builder();
        builder.request_alpns(&["http/1.1"]);
        builder.min_protocol_version(Some(match oldest {
            TlsVersion::V1_0 => Protocol::Tlsv10,
            TlsVersion::V1_1 => Protocol::Tlsv11,
            TlsVersion::V1_2 => Protocol::Tlsv12,
            TlsVersion::V1_3 => Protocol::Tlsv13,
        }));
        if let Some(identity) = identity {
            builder.identity(identity.to_native()?);
        }
        for root in roots {
            builder.add_root_certificate(root.clone());
        }
        if verify == Verify::Nothing {
            // Without roots, OpenSSL does not look for them at each handshake either.
            builder
                .danger_accept_invalid_certs(true)
                .danger_accept_invalid_hostnames(true)
                .disable_built_in_roots(true);
        }
        builder.build().map(|connector| Tls { connector })
    }

    /// Performs the handshake with `server_name` as SNI (RFC 6066 §3), or none when it is
    /// an IP address. Bytes already received are the peer's first TLS bytes.
    pub async fn connect(
        &self,
        server_name: &str,
        connection: Connection,
    ) -> Result<Connection, native_tls::Error> {
        let transport = Transport::over(connection);
        let mut handshake = self.connector.connect(server_name, transport);
        loop {
            match handshake {
                Ok(inner) => {
                    let stream = TlsStream {
                        inner,
                        failed: None,
                    };
                    return Ok(Connection::new(Stream::Tls(stream.into())));
                }
                Err(HandshakeError::Failure(error)) => return Err(error),
                Err(HandshakeError::WouldBlock(half)) => {
                    // A broken socket fails the next step of the handshake, with its reason.
                    let _ = poll_fn(|cx| half.get_ref().poll_unblocked(cx)).await;
                    handshake = half.handshake();
                }
            }
        }
    }
}

/// A TLS session and the stream below it.
pub struct TlsStream {
    inner: native_tls::TlsStream<Transport>,
    /// A failure that met a read which had already taken something. OpenSSL tells it once
    /// and then of an end.
    failed: Option<io::Error>,
}

impl TlsStream {
    /// The stream that carries the records.
    pub fn get_ref(&self) -> &Stream {
        &self.inner.get_ref().stream
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self) -> &mut Stream {
        &mut self.inner.get_mut().stream
    }

    /// Sends close_notify.
    pub fn shutdown(&mut self) -> io::Result<()> {
        self.inner.shutdown()
    }

    /// Uses the socket at the bottom.
    pub fn with_socket<T>(&self, work: impl FnOnce(&Socket) -> T) -> T {
        self.get_ref().with_socket(work)
    }
}

/// The largest content of a record (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;

impl TlsStream {
    /// Reads on while records come at full size, so that a write takes several.
    fn read_records(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut n = self.read_record(buf)?;
        let mut last = n;
        while last == RECORD && buf.len() - n >= RECORD {
            last = match self.read_record(&mut buf[n..]) {
                Ok(more) => more,
                Err(error) => {
                    let waits = error.kind() == io::ErrorKind::WouldBlock;
                    self.failed = Some(error).filter(|_| !waits);
                    break;
                }
            };
            n += last;
        }
        Ok(n)
    }
}

impl TlsStream {
    fn read_record(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let before = self.inner.get_ref().taken;
        let outcome = self.inner.read(buf);
        let has_taken = self.inner.get_ref().taken != before;
        let transport = self.inner.get_mut();
        // OpenSSL reports an end in the middle of a record as 0 or as an error.
        let has_read = matches!(outcome, Ok(1..));
        transport.torn = !has_read && (transport.torn || has_taken);
        outcome
    }

    /// Whether the next read has to wait, unless the socket at the bottom is ready: OpenSSL
    /// need not be asked then.
    pub fn none_waiting(&self) -> bool {
        let transport = self.inner.get_ref();
        transport.drained && self.none_waiting_here() && transport.stream.none_waiting()
    }

    /// Whether every byte that was taken from below has been read.
    fn none_waiting_here(&self) -> bool {
        let buffered = self.inner.buffered_read_size();
        self.inner.get_ref().received.is_empty() && buffered.is_ok_and(|n| n == 0)
    }

    /// Whether the peer has begun a record and not ended it.
    pub fn is_torn(&self) -> bool {
        self.inner.get_ref().torn
    }

    /// Whether the peer has sent nothing that was not yet read, not even part of a record.
    /// `below` says so of the stream that carries the records.
    pub fn is_quiet(&self, below: fn(&Stream) -> bool) -> bool {
        let transport = self.inner.get_ref();
        !transport.torn
            && self.failed.is_none()
            && self.none_waiting_here()
            && below(&transport.stream)
    }
}

impl Read for TlsStream {
    /// 0 only after close_notify: an end without one is `UnexpectedEof` (RFC 8446 §6.1).
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let outcome = self.read_records(buf);
        let drained = match &outcome {
            Ok(n) => *n > 0 && self.failed.is_none(),
            // Not if it is a write of OpenSSL's own that has to wait.
            Err(error) => {
                error.kind() == io::ErrorKind::WouldBlock
                    && self.with_socket(|socket| socket.is_blocked_on(Direction::Read))
            }
        };
        self.inner.get_mut().drained = drained;
        match outcome {
            Ok(0) if !buf.is_empty() && self.inner.get_ref().ended.get() => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Err(error)
                if error.kind() == io::ErrorKind::Other && self.inner.get_ref().ended.get() =>
            {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            outcome => outcome,
        }
    }
}

impl Write for TlsStream {
    /// Writes one record.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.get_mut().more_follows = buf.len() > RECORD;
        let written = self.inner.write(buf);
        self.inner.get_mut().more_follows = false;
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The stream below a TLS session, as OpenSSL wants to use it.
pub struct Transport {
    stream: Stream,
    /// What was read ahead of OpenSSL, which asks for each record's header by itself; at
    /// first, what the peer had sent before TLS began here.
    received: Buffer,
    /// How many bytes OpenSSL has taken.
    taken: u64,
    /// The last read has taken bytes and given none: part of a record, perhaps.
    torn: bool,
    /// The last read got all there was, as far as the layers below know.
    drained: bool,
    /// The stream ended.
    ended: Cell<bool>,
    /// Behind the record that is being written another follows at once.
    more_follows: bool,
}

impl Transport {
    /// Over a connection on which the peer may have begun already.
    pub fn over(connection: Connection) -> Transport {
        Transport {
            stream: connection.stream,
            received: connection.received,
            taken: 0,
            torn: false,
            drained: false,
            ended: Cell::new(false),
            more_follows: false,
        }
    }

    /// Waits for what the last operation that would have blocked needs.
    pub fn poll_unblocked(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_unblocked(cx)
    }
}

impl Read for Transport {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            let arrived = self.stream.try_read(self.received.space());
            match arrived {
                Ok(0) => self.ended.set(true),
                Ok(n) => self.received.received(n),
                Err(_) => self.received.release(),
            }
            arrived?;
        }
        let waiting = self.received.bytes();
        let n = waiting.len().min(buf.len());
        buf[..n].copy_from_slice(&waiting[..n]);
        self.received.consume(n);
        self.received.release();
        self.taken += n as u64;
        Ok(n)
    }
}

impl Write for Transport {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self.more_follows {
            true => self.stream.try_write_part(buf),
            false => self.stream.try_write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
