//! Ends tunnels whose network path is dead: bytes were sent and nothing has been acknowledged
//! for a long time. The kernel would retransmit for 15 minutes or more. Linux only.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_io::Timer;
use rustix::net::{shutdown, Shutdown};
use slab::Slab;
use socket2::SockRef;

use crate::net::stream::Stream;

/// A path is dead when sent bytes are outstanding and nothing was acknowledged for this long.
const DEAD_AFTER: Duration = Duration::from_secs(120);

/// How often the tunnels are checked.
const INTERVAL: Duration = Duration::from_secs(30);

/// The tunnels of one thread.
#[derive(Default)]
pub struct Tunnels {
    /// Both sockets of each tunnel; they stay open while they are listed here.
    open: RefCell<Slab<[RawFd; 2]>>,
    sweeper: Cell<Option<Waker>>,
}

/// A tunnel that is watched until this is dropped.
pub struct Watched<'a> {
    tunnels: &'a Tunnels,
    key: usize,
}

impl Tunnels {
    /// Watches a tunnel between two streams until the returned `Watched` is dropped.
    pub fn watch<'a>(&'a self, one: &'a Stream, other: &'a Stream) -> Watched<'a> {
        let raw = |stream: &Stream| stream.with_socket(|socket| socket.as_fd().as_raw_fd());
        let key = self.open.borrow_mut().insert([raw(one), raw(other)]);
        if let Some(sweeper) = self.sweeper.take() {
            sweeper.wake();
        }
        Watched { tunnels: self, key }
    }

    /// Ends tunnels whose path is dead. Runs for as long as the thread.
    pub async fn sweep(&self) {
        loop {
            poll_fn(|cx| match self.open.borrow().is_empty() {
                false => Poll::Ready(()),
                true => {
                    self.sweeper.set(Some(cx.waker().clone()));
                    Poll::Pending
                }
            })
            .await;
            Timer::after(INTERVAL).await;
            for (_, sockets) in self.open.borrow().iter() {
                for socket in sockets {
                    // SAFETY: a tunnel is watched for as long as both of its streams are
                    // borrowed, so the descriptor is open.
                    #[allow(unsafe_code)]
                    let socket = unsafe { BorrowedFd::borrow_raw(*socket) };
                    if Unacknowledged::of(socket).is_ok_and(|sent| sent.is_dead()) {
                        end(socket);
                    }
                }
            }
        }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.tunnels.open.borrow_mut().remove(self.key);
    }
}

/// Shuts down both directions and makes the close send RST. The relay sees both streams end.
fn end(socket: BorrowedFd<'_>) {
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    let _ = shutdown(socket, Shutdown::Both);
}

/// What the kernel knows about sent and unacknowledged segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unacknowledged {
    /// How many segments are sent and not acknowledged. Bytes that stay in the send queue because
    /// the peer's window is closed do not count.
    segments: u32,
    /// The time since the peer's last acknowledgement.
    silence: Duration,
}

impl Unacknowledged {
    fn is_dead(self) -> bool {
        self.segments > 0 && self.silence >= DEAD_AFTER
    }

    /// Unsupported: every other system has a different interface for it.
    #[cfg(not(target_os = "linux"))]
    fn of(_: impl AsFd) -> io::Result<Unacknowledged> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Asks the kernel (`TCP_INFO`, tcp(7)).
    #[cfg(target_os = "linux")]
    fn of(socket: impl AsFd) -> io::Result<Unacknowledged> {
        // The beginning of `struct tcp_info`, which only ever grows at its end: eight fields of
        // one byte, then fields of four. These are indices in units of four bytes.
        const UNACKED: usize = 6;
        const LAST_ACK_RECV: usize = 14;
        let mut info = [0u32; LAST_ACK_RECV + 1];
        let mut length = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, which is the size of `info`, and
        // every bit pattern is a valid `u32`.
        #[allow(unsafe_code)]
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &mut length,
            )
        };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Unacknowledged {
            segments: info[UNACKED],
            silence: Duration::from_millis(info[LAST_ACK_RECV].into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::reactor::tests::pair;
    use std::io::Write;

    #[test]
    fn a_path_is_dead_only_with_unacknowledged_segments() {
        for (segments, silence, dead) in [(0, 3600, false), (1, 119, false), (1, 120, true)] {
            let silence = Duration::from_secs(silence);
            let known = Unacknowledged { segments, silence };
            assert_eq!(known.is_dead(), dead, "{known:?}");
        }
    }

    #[test]
    fn a_peer_that_does_not_read_is_alive() {
        let (mut here, _there) = pair();
        while here.write(&[7; 65_536]).is_ok() {}
        // The peer's kernel acknowledges every segment in flight; what stays in the send queue
        // is never sent.
        loop {
            let known = Unacknowledged::of(&here).expect("a TCP socket");
            assert!(!known.is_dead());
            if known.segments == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
