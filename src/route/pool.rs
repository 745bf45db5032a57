//! Idle upstream connections of one thread, kept for the next request.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use async_io::Timer;

use crate::net::reactor::{looks, now};
use crate::net::stream::Connection;

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
    /// How often the thread had looked at its sockets by then.
    looks: u64,
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
    ///
    /// What an upstream says unasked is no answer to anyone (RFC 9112 §9.2). Where the thread
    /// has looked at its sockets since that response, it would have been told; else, and for a
    /// request that must not be sent twice, the kernel is asked.
    pub fn take(&self, server_name: &str, may_be_sent_twice: bool) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let limit = if may_be_sent_twice {
            MAX_IDLE
        } else {
            MAX_IDLE_ONCE
        };
        let (now, looks) = (now(), looks());
        let fits = |idle: &Idle| {
            *idle.server_name == *server_name && now.saturating_duration_since(idle.since) < limit
        };
        loop {
            // Of the rest the thread has not been told anything yet.
            let told = match may_be_sent_twice {
                true => idle.partition_point(|idle| idle.looks < looks),
                false => 0,
            };
            let untold = || idle[told..].iter().rposition(fits).map(|at| told + at);
            let at = idle[..told].iter().rposition(fits).or_else(untold)?;
            let candidate = idle.remove(at).connection;
            if (at < told && candidate.seems_quiet()) || candidate.is_quiet() {
                return Some(candidate);
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
            since: now(),
            looks: looks(),
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

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::net::{Shutdown, TcpStream};
    use std::thread;

    use super::*;
    use crate::net::reactor::{block_on, next_turn, tests::pair};
    use crate::net::socket::Socket;
    use crate::net::stream::Stream;

    fn connection() -> (Connection, Upstream) {
        let (here, stream) = pair();
        let upstream = Upstream {
            stream,
            seen: here.try_clone().expect("a descriptor is left"),
        };
        let socket = Socket::new(here).expect("registered");
        (Connection::new(Stream::Plain(socket)), upstream)
    }

    /// The other end of a connection.
    struct Upstream {
        stream: TcpStream,
        /// This end, to see what has arrived.
        seen: TcpStream,
    }

    impl Upstream {
        /// Does something, and waits for it to arrive.
        fn speak(&mut self, act: fn(&mut TcpStream) -> io::Result<()>) {
            act(&mut self.stream).expect("connected");
            while self.seen.peek(&mut [0]).is_err() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    const SAYS: fn(&mut TcpStream) -> io::Result<()> = |stream| stream.write_all(b"!");
    const ENDS: fn(&mut TcpStream) -> io::Result<()> = |stream| stream.shutdown(Shutdown::Write);

    #[test]
    fn what_an_upstream_says_unasked_answers_nobody() {
        for (act, looks, may_be_sent_twice, lent) in [
            (None, 1, true, true),
            (None, 1, false, true),
            (Some(SAYS), 1, true, false),
            (Some(SAYS), 1, false, false),
            (Some(ENDS), 1, true, false),
            (Some(ENDS), 1, false, false),
            // The kernel is asked for what must not be sent twice.
            (Some(SAYS), 0, false, false),
            (Some(ENDS), 0, false, false),
        ] {
            let taken = async {
                let pool = Pool::new(1);
                let (connection, mut upstream) = connection();
                pool.put(connection, "a");
                next_turn().await;
                if let Some(act) = act {
                    upstream.speak(act);
                }
                for _ in 0..looks {
                    next_turn().await;
                }
                pool.take("a", may_be_sent_twice).is_some()
            };
            let taken = block_on(taken, || None).expect("the reactor runs");
            assert_eq!(taken, lent, "{looks} {may_be_sent_twice}");
        }
    }

    #[test]
    fn one_that_the_thread_was_not_told_of_comes_last_and_is_asked() {
        let taken = async {
            let pool = Pool::new(2);
            let (told, _upstream) = connection();
            pool.put(told, "a");
            next_turn().await;
            let (untold, mut upstream) = connection();
            upstream.speak(SAYS);
            pool.put(untold, "a");
            [pool.take("a", true), pool.take("a", true)].map(|taken| taken.is_some())
        };
        let taken = block_on(taken, || None).expect("the reactor runs");
        assert_eq!(taken, [true, false]);
    }
}
