//! The accept loop of one thread: waits for a place for each client, spawns a task for each
//! connection, and counts the open ones.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use async_io::Timer;
use futures_lite::future;
use smol::channel::Receiver;
use smol::LocalExecutor;

use crate::error::describe;
use crate::net::listener::{is_momentary, Listener};
use crate::net::peer::Peer;
use crate::net::reactor::next_turn;
use crate::net::socket::Socket;
use crate::net::stream::{Connection, Stream};
use crate::report::log;
use crate::serve::contain::contained;
use crate::serve::door::Place;
use crate::serve::session;
use crate::serve::worker::Worker;

/// How long accepting pauses when descriptors or memory run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Clients accepted in a row before other tasks run.
const IN_A_ROW: usize = 64;

/// Accepts clients for one thread.
pub(super) struct Acceptor {
    /// The state that the thread's connections share.
    pub(super) worker: Rc<Worker>,
    /// Runs a task for each connection.
    pub(super) executor: Rc<LocalExecutor<'static>>,
    /// The thread's connections.
    pub(super) open: Rc<Open>,
    /// The number of connections that all threads have accepted, which numbers the connections
    /// in the log.
    pub(super) accepted: Arc<AtomicU64>,
}

impl Acceptor {
    /// Accepts until the channel closes, then also accepts the connections that are already in
    /// the kernel's queue: closing the socket would reset them.
    pub(super) async fn accept_all(self: Rc<Acceptor>, listener: Listener, draining: Receiver<()>) {
        let drained = async {
            // Nothing is ever sent: `recv` fails when the channel closes.
            let _ = draining.recv().await;
        };
        future::or(drained, self.accept_forever(&listener)).await;
        while let Some(place) = self.worker.door.try_place() {
            match listener.try_accept() {
                Ok((stream, peer)) => {
                    let _ = self.spawn_session(stream, peer, place);
                }
                Err(_) => break,
            }
        }
    }

    async fn accept_forever(&self, listener: &Listener) {
        let mut paused = false;
        let mut in_a_row = 0;
        loop {
            if in_a_row == IN_A_ROW {
                in_a_row = 0;
                next_turn().await;
            }
            // A place is taken only once a client is waiting, so that no thread holds one while
            // another thread's clients wait.
            listener.readable().await;
            let place = self.worker.door.place(&self.worker.timers).await;
            let accepted = listener.try_accept();
            match accepted.and_then(|(stream, peer)| self.spawn_session(stream, peer, place)) {
                Ok(()) => {
                    paused = false;
                    in_a_row += 1;
                }
                Err(error) if is_momentary(&error) => in_a_row = 0,
                Err(error) => {
                    if !std::mem::replace(&mut paused, true) {
                        log::accept_paused(&describe(&error));
                    }
                    Timer::after(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Spawns the task of a client. Fails when no more sockets can be registered, which concerns
    /// every client.
    fn spawn_session(&self, stream: TcpStream, peer: Peer, place: Place) -> io::Result<()> {
        let peer = peer.canonical();
        let allowed = &self.worker.config.access.clients;
        let is_allowed = |ip| allowed.is_empty() || allowed.iter().any(|range| range.contains(ip));
        if !peer.ip().is_none_or(is_allowed) {
            self.worker.counters().not_allowed.add(1);
            log::client_not_allowed(peer);
            return Ok(());
        }
        let stream = Stream::Plain(Socket::new(stream)?);
        let number = 1 + self.accepted.fetch_add(1, Relaxed);
        let ticket = Ticket::new(&self.open);
        let (worker, connection) = (self.worker.clone(), Connection::new(stream));
        let serving = session::serve(worker, connection, peer, number, place, ticket);
        self.executor.spawn(contained(serving)).detach();
        Ok(())
    }
}

/// The connections that a thread has open.
#[derive(Default)]
pub(super) struct Open {
    /// The number of them.
    pub(super) count: Cell<usize>,
    emptied: Cell<Option<Waker>>,
}

impl Open {
    /// Waits until none is open.
    pub(super) async fn none(&self) {
        poll_fn(|cx| {
            if self.count.get() == 0 {
                return Poll::Ready(());
            }
            self.emptied.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Counts one open connection until it is dropped.
struct Ticket {
    open: Rc<Open>,
}

impl Ticket {
    fn new(open: &Rc<Open>) -> Ticket {
        open.count.set(open.count.get() + 1);
        Ticket { open: open.clone() }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.open.count.set(self.open.count.get() - 1);
        if self.open.count.get() == 0 {
            if let Some(waker) = self.open.emptied.take() {
                waker.wake();
            }
        }
    }
}
