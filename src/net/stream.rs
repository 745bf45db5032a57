//! A byte stream to a peer, plain or TLS, and a stream together with its read buffer.
//!
//! Streams are used by shared reference, so that one task can serve both directions.

use std::cell::RefCell;
use std::future::{poll_fn, Future};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};

use futures_lite::{AsyncRead, AsyncWrite};

use crate::net::buffer::Buffer;
use crate::net::socket::{Direction, Socket};
use crate::net::tls_stream::TlsStream;

/// A connected byte stream.
pub enum Stream {
    /// TCP itself.
    Plain(Socket),
    /// TLS over another stream, which may itself be TLS (to a proxy).
    Tls(RefCell<TlsStream>),
}

impl Stream {
    /// Reads what has arrived; `WouldBlock` if nothing has, 0 at a clean end.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.try_read(buf),
            Stream::Tls(tls) => tls.borrow_mut().read(buf),
        }
    }

    /// Writes as many bytes as fit; `WouldBlock` if none do.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.try_write(buf),
            Stream::Tls(tls) => tls.borrow_mut().write(buf),
        }
    }

    /// Writes as many bytes as fit, with more to follow immediately.
    pub fn try_write_part(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.try_write_part(buf),
            Stream::Tls(_) => self.try_write(buf),
        }
    }

    /// The socket of a stream without TLS.
    pub fn plain(&self) -> Option<&Socket> {
        match self {
            Stream::Plain(socket) => Some(socket),
            Stream::Tls(_) => None,
        }
    }

    /// Uses the socket at the bottom.
    pub fn with_socket<T>(&self, work: impl FnOnce(&Socket) -> T) -> T {
        match self {
            Stream::Plain(socket) => work(socket),
            Stream::Tls(tls) => tls.borrow().get_ref().with_socket(work),
        }
    }

    /// Waits for the readiness that the last operation that would have blocked needs.
    pub fn poll_unblocked(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(socket) => socket.poll_unblocked(cx),
            Stream::Tls(tls) => tls.borrow().poll_unblocked(cx),
        }
    }

    fn poll_io<T>(
        &self,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_unblocked(cx))?;
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = poll_fn(|cx| self.poll_io(cx, || self.try_write(bytes))).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Whether the peer has sent only part of a TLS record so far.
    pub fn is_torn(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.borrow().is_torn(),
        }
    }

    /// Ends the sending side: close_notify on TLS, then FIN.
    pub async fn shutdown_write(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown_write(cx)).await
    }

    /// The same as `shutdown_write`, as a poll.
    pub fn poll_shutdown_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Stream::Tls(tls) = self {
            // If close_notify cannot be sent, the peer is gone or will see the FIN alone.
            let _ = ready!(self.poll_io(cx, || tls.borrow_mut().shutdown()));
        }
        Poll::Ready(self.with_socket(Socket::shutdown_write))
    }

    /// Sends close_notify on TLS if that does not block, before the stream is dropped, so that
    /// the peer can tell that nothing is missing.
    pub fn try_announce_end(&self) {
        if let Stream::Tls(tls) = self {
            let _ = tls.borrow_mut().shutdown();
        }
    }

    /// The socket at the bottom.
    fn socket_mut(&mut self) -> &mut Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => tls.get_mut().get_mut().socket_mut(),
        }
    }

    /// Whether TLS holds no bytes that were received and not read: the next read blocks unless
    /// the socket is ready. Always true without TLS.
    pub fn none_waiting(&self) -> bool {
        match self {
            Stream::Plain(_) => true,
            Stream::Tls(tls) => tls.borrow().none_waiting(),
        }
    }

    /// Whether everything that the peer has sent was read, and neither an end nor part of a TLS
    /// record has arrived. Asks the kernel, because the readiness known to the thread may be
    /// outdated.
    pub fn asked_quiet(&self) -> bool {
        match self {
            Stream::Plain(socket) => socket.asked_quiet(),
            Stream::Tls(tls) => tls.borrow().is_quiet(Stream::asked_quiet),
        }
    }

    /// The same as `asked_quiet`, from the readiness known to the thread, without a system call.
    /// False on any thread but the stream's own.
    pub fn known_quiet(&self) -> bool {
        match self {
            Stream::Plain(socket) => socket.known_quiet(),
            Stream::Tls(tls) => tls.borrow().is_quiet(Stream::known_quiet),
        }
    }
}

impl AsyncRead for &Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(cx, || self.try_read(buf))
    }
}

impl AsyncWrite for &Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(cx, || self.try_write(buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // There is nothing to flush: no layer keeps bytes that it has reported as written.
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown_write(cx)
    }
}

/// A stream together with the bytes that were read from it and not yet used. They are passed on
/// together, so that no byte after a head is lost.
pub struct Connection {
    /// The stream itself.
    pub stream: Stream,
    /// Bytes received and not yet used.
    pub received: Buffer,
    /// Counts the connection as open until it is dropped.
    pub counted: Option<Counted>,
    /// The socket's readiness is known to one thread only, so a connection can move to another
    /// thread only as a `Detached`.
    _not_send: PhantomData<*const ()>,
}

impl Connection {
    /// A stream from which nothing has been read.
    pub fn new(stream: Stream) -> Connection {
        Connection {
            stream,
            received: Buffer::default(),
            counted: None,
            _not_send: PhantomData,
        }
    }

    /// Whether everything that the peer has sent was used. Asks the kernel.
    pub fn asked_quiet(&self) -> bool {
        self.received.is_empty() && self.stream.asked_quiet()
    }

    /// Reads TLS messages such as session tickets on a connection that was not used yet. False
    /// if the peer has ended it or sent application data, so that it cannot be used.
    pub fn read_unused(&self) -> bool {
        match &self.stream {
            Stream::Plain(socket) => socket.asked_quiet(),
            Stream::Tls(_) => {
                self.stream.with_socket(Socket::look_again);
                let read = self.stream.try_read(&mut [0]);
                matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
        }
    }

    /// Detaches the connection, so that any thread may attach it. `received` must be empty.
    pub fn detach(mut self) -> Detached {
        debug_assert!(self.received.is_empty());
        self.received.release();
        self.stream.socket_mut().detach();
        Detached {
            stream: self.stream,
            counted: self.counted,
        }
    }

    /// Reads more bytes into `received`; 0 at the end.
    pub fn fill(&mut self) -> impl Future<Output = io::Result<usize>> + '_ {
        fill(&self.stream, &mut self.received)
    }
}

/// Counts a connection as open until it is dropped, on any thread.
pub struct Counted(Arc<dyn OnClose>);

/// What is called when a counted connection is closed.
pub trait OnClose: Send + Sync {
    /// Records that the connection has been closed.
    fn closed(&self);
}

impl Counted {
    /// Calls `count.closed()` when it is dropped.
    pub fn by(count: Arc<dyn OnClose>) -> Counted {
        Counted(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// A connection that no thread uses at the moment and any thread may attach.
pub struct Detached {
    stream: Stream,
    counted: Option<Counted>,
}

impl Detached {
    /// Attaches the connection to this thread. On failure it is closed.
    pub fn attach(mut self) -> io::Result<Connection> {
        self.stream.socket_mut().attach()?;
        let mut connection = Connection::new(self.stream);
        connection.counted = self.counted;
        Ok(connection)
    }

    /// `Stream::asked_quiet`, on any thread.
    pub fn asked_quiet(&self) -> bool {
        self.stream.asked_quiet()
    }

    /// `Stream::known_quiet`; false on any thread but the one that has detached it.
    pub fn known_quiet(&self) -> bool {
        self.stream.known_quiet()
    }
}

/// Reads more bytes from `stream` into `received`; 0 at the end. Releases the storage of an
/// empty buffer while it waits. `received` must have room.
// Not an async fn, whose future would hold each argument twice.
pub fn fill<'a>(
    stream: &'a Stream,
    received: &'a mut Buffer,
) -> impl Future<Output = io::Result<usize>> + 'a {
    poll_fn(move |cx| loop {
        if stream.none_waiting() {
            received.release();
            ready!(stream.with_socket(|socket| socket.poll_ready(Direction::Read, cx)));
        }
        match stream.try_read(received.space()) {
            Ok(n) => {
                received.received(n);
                return Poll::Ready(Ok(n));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                received.release();
                ready!(stream.poll_unblocked(cx))?;
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
    })
}
