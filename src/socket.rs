//! One non-blocking TCP socket: what is there is taken at once, and a wait follows only
//! when the kernel has nothing, or when a short read has just said so.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::task::{Context, Poll};
use std::time::Duration;

use async_io::Async;
use socket2::{SockRef, TcpKeepalive};

/// A peer that vanished is noticed after 60 s of silence and six probes.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(6);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// A connected TCP socket of this thread.
pub struct Socket {
    inner: Async<TcpStream>,
    /// The last read took less than it could have: the next would find nothing.
    drained: Cell<bool>,
    /// What the last operation that would have blocked is waiting for.
    blocked_on: Cell<Direction>,
}

impl Socket {
    /// Takes over a connected socket and sets TCP_NODELAY and keepalive on it.
    pub fn new(inner: Async<TcpStream>) -> Socket {
        // A peer that is already gone refuses options; the first read says so better.
        let _ = inner.get_ref().set_nodelay(true);
        let _ = SockRef::from(inner.get_ref()).set_tcp_keepalive(&KEEPALIVE);
        Socket {
            inner,
            // A peer needs a moment for its first bytes: wait first.
            drained: Cell::new(true),
            blocked_on: Cell::new(Direction::Read),
        }
    }

    /// Connects to one address.
    pub async fn connect(address: SocketAddr) -> io::Result<Socket> {
        Async::<TcpStream>::connect(address).await.map(Socket::new)
    }

    /// Reads what is there; `WouldBlock` when nothing is.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        if self.drained.get() {
            self.blocked_on.set(Direction::Read);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let outcome = retry(|| self.inner.get_ref().read(buf));
        match &outcome {
            // End of file stays readable; only data runs dry.
            Ok(n) => self.drained.set(*n > 0 && *n < buf.len()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.drained.set(true);
                self.blocked_on.set(Direction::Read);
            }
            Err(_) => {}
        }
        outcome
    }

    /// Writes what fits; `WouldBlock` when nothing does.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        let outcome = retry(|| self.inner.get_ref().write(buf));
        if matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.blocked_on.set(Direction::Write);
        }
        outcome
    }

    /// Waits for what the last operation that would have blocked needs.
    pub fn poll_unblocked(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.blocked_on.get() {
            Direction::Read => {
                let readable = self.inner.poll_readable(cx);
                if readable.is_ready() {
                    self.drained.set(false);
                }
                readable
            }
            Direction::Write => self.inner.poll_writable(cx),
        }
    }

    /// Makes the next read ask the kernel, whatever the last one found.
    pub fn look_again(&self) {
        self.drained.set(false);
    }

    /// Ends our sending side (FIN).
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.inner.get_ref().shutdown(Shutdown::Write)
    }

    /// Makes closing abort the connection (RST), so that the peer sees it was cut short.
    pub fn abort_on_close(&self) {
        let _ = SockRef::from(self.inner.get_ref()).set_linger(Some(Duration::ZERO));
    }
}

fn retry<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
