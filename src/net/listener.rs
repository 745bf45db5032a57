//! A listening socket, and which of its errors concern one client alone.

use std::future::poll_fn;
use std::io;
use std::net::{TcpListener, TcpStream};

use crate::net::calls;
use crate::net::peer::Peer;
use crate::net::reactor::{Direction, Source};

/// A listening socket of this thread.
pub struct Listener(Source<TcpListener>);

impl Listener {
    /// Takes over a non-blocking listening socket.
    pub fn new(listener: TcpListener) -> io::Result<Listener> {
        Ok(Listener(Source::new(listener)?))
    }

    /// Waits until a client may be waiting to be accepted.
    pub async fn readable(&self) {
        poll_fn(|cx| self.0.poll_ready(Direction::Read, cx)).await;
    }

    /// Accepts a client; `WouldBlock` if none is waiting.
    pub fn try_accept(&self) -> io::Result<(TcpStream, Peer)> {
        let outcome = calls::accept(self.0.get_ref());
        if matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.0.would_block(Direction::Read);
        }
        outcome.map(|(stream, address)| (stream, Peer::new(address)))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Other threads hold duplicates of an inherited listener, so closing this descriptor
        // does not end its registration with epoll.
        self.0.deregister();
    }
}

/// Whether an error of accept(2) concerns that one client only.
pub fn is_momentary(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        WouldBlock | Interrupted | ConnectionAborted | ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn errors_of_one_client_are_momentary_and_shortages_are_not() {
        for (errno, momentary) in [
            (Errno::CONNABORTED, true),
            (Errno::INTR, true),
            (Errno::AGAIN, true),
            (Errno::MFILE, false),
            (Errno::NFILE, false),
            (Errno::NOBUFS, false),
            (Errno::NOMEM, false),
        ] {
            assert_eq!(is_momentary(&errno.into()), momentary, "{errno:?}");
        }
    }
}
