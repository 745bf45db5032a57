//! Idle upstream connections of one thread, kept for the next request.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use async_io::Timer;

use crate::stream::Connection;

/// Idle connections are closed after this long: servers close theirs at 30 s or more, and
/// the side that closes first never loses a request.
const MAX_IDLE: Duration = Duration::from_secs(15);

/// A request that must not be sent twice takes no connection idle for longer: the more
/// time has passed, the likelier the upstream is just closing it.
const MAX_IDLE_ONCE: Duration = Duration::from_secs(2);

/// Idle upstream connections, the most recently used last.
pub struct Pool {
    capacity: usize,
    idle: RefCell<Vec<Idle>>,
    sweeper: Cell<Option<Waker>>,
}

struct Idle {
    connection: Connection,
    server_name: Box<str>,
    since: Instant,
}

impl Pool {
    /// An empty pool for at most `capacity` connections.
    pub fn new(capacity: usize) -> Pool {
        Pool {
            capacity,
            idle: RefCell::default(),
            sweeper: Cell::default(),
        }
    }

    /// A connection over which the upstream has sent nothing since its last response,
    /// made for the same server name.
    pub fn take(&self, server_name: &str, may_be_sent_twice: bool) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let limit = if may_be_sent_twice {
            MAX_IDLE
        } else {
            MAX_IDLE_ONCE
        };
        loop {
            let at = idle
                .iter()
                .rposition(|idle| *idle.server_name == *server_name)?;
            if idle[at].since.elapsed() >= limit {
                // Those before it are older still.
                return None;
            }
            let candidate = idle.remove(at);
            // What an upstream says unasked is no answer to anyone (RFC 9112 §9.2).
            if candidate.connection.is_quiet() {
                return Some(candidate.connection);
            }
        }
    }

    /// Keeps a connection whose last response is over and left nothing behind.
    pub fn put(&self, connection: Connection, server_name: &str) {
        debug_assert!(connection.received.is_empty());
        let mut idle = self.idle.borrow_mut();
        if self.capacity == 0 {
            return;
        }
        if idle.len() >= self.capacity {
            idle.remove(0);
        }
        idle.push(Idle {
            connection,
            server_name: server_name.into(),
            since: Instant::now(),
        });
        if let Some(sweeper) = self.sweeper.take() {
            sweeper.wake();
        }
    }

    /// Closes connections as their time comes. Runs for as long as the thread.
    pub async fn sweep(&self) {
        loop {
            let oldest = poll_fn(|cx| match self.idle.borrow().first() {
                Some(idle) => Poll::Ready(idle.since),
                None => {
                    self.sweeper.set(Some(cx.waker().clone()));
                    Poll::Pending
                }
            });
            Timer::at(oldest.await + MAX_IDLE).await;
            let mut idle = self.idle.borrow_mut();
            let expired = idle.partition_point(|idle| idle.since.elapsed() >= MAX_IDLE);
            idle.drain(..expired);
        }
    }
}
