//! One non-blocking stream socket, TCP or unix: an operation is attempted first, and a task
//! waits only after the kernel has returned EAGAIN or a short read has shown that the next read
//! would.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{ready, Context, Poll};
use std::time::Duration;

use async_io::Timer;
use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockRef, TcpKeepalive};

use crate::net::calls;
use crate::net::reactor::Source;

pub use crate::net::reactor::Direction;

/// A peer that has vanished is noticed after 60 s of silence and six probes.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(6);

/// How long to wait before connecting again to a unix socket whose backlog was full.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

/// How many unsent bytes the kernel may queue (TCP_NOTSENT_LOWAT): on a slow path, a small
/// message after bulk would otherwise wait until the whole send buffer is sent.
#[cfg(target_os = "linux")]
const MOST_UNSENT: u32 = 128 * 1024;

/// Sets TCP_NODELAY, keepalive, and on Linux TCP_NOTSENT_LOWAT. Accepted sockets inherit them
/// from their listener there.
pub fn set_options(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(MOST_UNSENT)?;
    socket.set_tcp_keepalive(&KEEPALIVE)
}

/// A connected socket of this thread. It may be a unix socket, although the type holds a
/// `TcpStream`: the calls used here work on any stream socket.
pub struct Socket {
    source: Source<TcpStream>,
    /// The direction that the last operation that would have blocked waits for.
    blocked_on: Cell<Direction>,
}

impl Socket {
    /// Takes over a connected, non-blocking socket.
    pub fn new(stream: TcpStream) -> io::Result<Socket> {
        Ok(Socket {
            source: Source::new(stream)?,
            blocked_on: Cell::new(Direction::Read),
        })
    }

    /// Connects to one address.
    pub async fn connect(address: SocketAddr) -> io::Result<Socket> {
        let socket = calls::open_stream(Domain::for_address(address))?;
        set_options(&socket)?;
        let pending = match socket.connect(&address.into()) {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => true,
            Err(error) => return Err(error),
        };
        let socket = Socket::new(socket.into())?;
        if pending {
            socket.source.would_block(Direction::Write);
            poll_fn(|cx| socket.source.poll_ready(Direction::Write, cx)).await;
            if let Some(error) = socket.stream().take_error()? {
                return Err(error);
            }
        }
        Ok(socket)
    }

    /// Connects to a unix socket. Tries again while its backlog is full: connect returns EAGAIN
    /// (unix(7)), and no event reports when there is room.
    pub async fn connect_unix(path: &str) -> io::Result<Socket> {
        let address = SockAddr::unix(path)?;
        loop {
            let socket = calls::open_stream(Domain::UNIX)?;
            match socket.connect(&address) {
                Ok(()) => return Socket::new(socket.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Timer::after(BACKLOG_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn stream(&self) -> &TcpStream {
        self.source.get_ref()
    }

    /// Reads what has arrived; `WouldBlock` if nothing has.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.attempt(Direction::Read, || {
            let n = self.stream().read(buf)?;
            if n < buf.len() {
                self.source.ran_dry();
            }
            Ok(n)
        })
    }

    /// Makes the next read call the kernel.
    pub fn look_again(&self) {
        self.source.assume_readable();
    }

    /// Whether everything that has arrived was read, and no FIN or reset has arrived. Asks the
    /// kernel, because the readiness known to the thread may be outdated.
    pub fn asked_quiet(&self) -> bool {
        let asked = self.stream().peek(&mut [0]);
        matches!(asked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same as `asked_quiet`, from the readiness known to the thread, without a system call.
    /// False on any thread but the socket's own.
    pub fn known_quiet(&self) -> bool {
        self.source.is_at_home() && !self.source.is_ready(Direction::Read)
    }

    /// Gives the socket up for now, so that another thread can attach it. It must not be read
    /// or written before `attach`.
    pub fn detach(&mut self) {
        self.source.detach();
    }

    /// Attaches a detached socket to this thread. On failure it can only be dropped.
    pub fn attach(&mut self) -> io::Result<()> {
        self.source.attach()
    }

    /// Writes as many bytes as fit; `WouldBlock` if none do.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.attempt(Direction::Write, || self.stream().write(buf))
    }

    /// Writes as many bytes as fit, with more to follow immediately: the kernel may wait for
    /// those before it sends (MSG_MORE).
    pub fn try_write_part(&self, buf: &[u8]) -> io::Result<usize> {
        self.attempt(Direction::Write, || calls::send_part(self.stream(), buf))
    }

    /// Writes all of `parts` in order, in as few calls as possible.
    pub async fn write_all_vectored(&self, parts: [&[u8]; 2]) -> io::Result<()> {
        let mut parts = parts.map(IoSlice::new);
        let mut left = &mut parts[..];
        // Skips empty slices at the front.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let write = || self.stream().write_vectored(left);
            match self.attempt(Direction::Write, write) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut left, n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready(Direction::Write).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn attempt<T>(
        &self,
        direction: Direction,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        if self.source.is_ready(direction) {
            let outcome = retry(&mut operation);
            match &outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.source.would_block(direction);
                }
                _ => return outcome,
            }
        }
        self.blocked_on.set(direction);
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Whether the last operation that would have blocked waits for `direction`.
    pub fn is_blocked_on(&self, direction: Direction) -> bool {
        self.blocked_on.get() == direction
    }

    /// Waits for the readiness that the last operation that would have blocked needs.
    pub fn poll_unblocked(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.source.poll_ready(self.blocked_on.get(), cx));
        Poll::Ready(Ok(()))
    }

    /// Moves what has arrived, at most `most` bytes, into a pipe that has room for it.
    #[cfg(not(portable))]
    pub fn try_splice_to(&self, pipe: &impl AsFd, most: usize) -> io::Result<usize> {
        self.attempt(Direction::Read, || splice(self.stream(), pipe, most))
    }

    /// Moves as many bytes as fit, at most `most`, out of a pipe that holds at least `most`.
    #[cfg(not(portable))]
    pub fn try_splice_from(&self, pipe: &impl AsFd, most: usize) -> io::Result<usize> {
        self.attempt(Direction::Write, || splice(pipe, self.stream(), most))
    }

    /// Waits until the socket is known to be ready.
    pub async fn ready(&self, direction: Direction) {
        poll_fn(|cx| self.poll_ready(direction, cx)).await;
    }

    /// The same as `ready`, as a poll.
    pub fn poll_ready(&self, direction: Direction, cx: &mut Context<'_>) -> Poll<()> {
        self.source.poll_ready(direction, cx)
    }

    /// Whether the socket is known to be writable: the last write did not block, or an edge has
    /// been reported since.
    pub fn is_writable(&self) -> bool {
        self.source.is_ready(Direction::Write)
    }

    /// Waits until the connection is broken (HUP or ERR), while nobody reads from it.
    pub fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.source.poll_broken(cx)
    }

    /// Waits until the peer's sending side has ended, while nobody reads from it. Returns the
    /// error if the connection is broken.
    pub fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<Option<io::Error>> {
        ready!(self.source.poll_hung_up(cx));
        Poll::Ready(self.stream().take_error().ok().flatten())
    }

    /// Whether the connection is known to be broken (HUP or ERR).
    pub fn is_broken(&self) -> bool {
        self.source.is_broken()
    }

    /// Makes the kernel break the connection once sent bytes stay unacknowledged for `after`
    /// (TCP_USER_TIMEOUT); `None` is the system's default. Does nothing except on Linux.
    pub fn set_user_timeout(&self, after: Option<Duration>) {
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(self.stream()).set_tcp_user_timeout(after);
        #[cfg(not(target_os = "linux"))]
        let _ = after;
    }

    /// The descriptor, for as long as the socket is borrowed.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream().as_fd()
    }

    /// The other end's address.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.stream().peer_addr()
    }

    /// This end's address.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream().local_addr()
    }

    /// Ends the sending side (FIN).
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.stream().shutdown(Shutdown::Write)
    }

    /// Makes the close send RST, so that the peer sees that the connection was cut short.
    pub fn abort_on_close(&self) {
        let _ = SockRef::from(self.stream()).set_linger(Some(Duration::ZERO));
    }
}

#[cfg(not(portable))]
fn splice(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    use rustix::pipe::SpliceFlags;
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    Ok(rustix::pipe::splice(from, None, to, None, most, flags)?)
}

fn retry<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::reactor::{block_on, tests::pair};

    /// The parts exceed the socket buffers, so that writes end within each of them.
    #[test]
    fn vectored_parts_are_written_completely_and_in_order() {
        for [a, b] in [[0, 0], [1, 0], [0, 7_000_000], [5_000_000, 6_000_000]] {
            let (a, b) = (vec![b'a'; a], vec![b'b'; b]);
            let (here, mut there) = pair();
            let reader = std::thread::spawn(move || {
                let mut all = Vec::new();
                there.read_to_end(&mut all).map(|_| all)
            });
            let written = async {
                let socket = Socket::new(here).expect("registered");
                socket.write_all_vectored([&a, &b]).await
            };
            let written = block_on(written, || None).expect("the reactor runs");
            written.expect("it is read");
            let read = reader.join().expect("no panic").expect("it was closed");
            assert!(read == [a, b].concat());
        }
    }

    #[test]
    fn connecting_waits_for_a_full_unix_backlog() {
        let name = format!("simple-proxy-{}-backlog", std::process::id());
        let path = std::env::temp_dir().join(name);
        let path = path.to_str().expect("UTF-8");
        let _ = std::fs::remove_file(path);
        let listener = std::os::unix::net::UnixListener::bind(path).expect("a new path");
        rustix::net::listen(&listener, 0).expect("a smaller backlog is allowed");
        let first = std::os::unix::net::UnixStream::connect(path).expect("there is room for one");
        let connected = async {
            let waiting = Socket::connect_unix(path);
            let accepting = async {
                // `waiting` is polled first and finds the backlog full.
                Timer::after(3 * BACKLOG_PAUSE).await;
                listener.accept().map(|_| ())
            };
            let (waited, accepted) = futures_lite::future::zip(waiting, accepting).await;
            accepted.and(waited.map(|_| ()))
        };
        let connected = block_on(connected, || None).expect("the reactor runs");
        assert!(connected.is_ok(), "{connected:?}");
        drop(first);
        let _ = std::fs::remove_file(path);
    }
}
