//! Idle upstream connections, kept for the next request of any thread.
//!
//! Each thread has its own shelf. A request first looks there, which costs one uncontended lock,
//! and then on the shelves of other threads: a connection is detached from one reactor and
//! attached to another.

use std::cell::Cell;
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_io::Timer;

use crate::config::Limits;
use crate::net::reactor::{looks, now, poll_stirred, BLIND};
use crate::net::stream::{Connection, Detached};
use crate::net::tick::Tick;
use crate::route::gate::Gate;
use crate::route::habits::Habits;

/// The idle upstream connections of all threads, and what is known of the upstream.
pub struct Shelves {
    shelves: Box<[Shelf]>,
    /// How many connections a shelf holds.
    capacity: usize,
    /// How long a connection is kept at most; zero keeps none.
    most_rest: Duration,
    /// What has been learned about the upstream.
    pub habits: Habits,
    /// Limits the dials in flight.
    pub gate: Arc<Gate>,
}

/// The idle connections of one thread, the most recently used last.
// Aligned to the two cache lines that processors prefetch together, so that threads do not slow
// each other down by false sharing.
#[derive(Default)]
#[repr(align(128))]
struct Shelf {
    idle: Mutex<Vec<Idle>>,
    /// The number of them, readable without the lock.
    count: AtomicUsize,
}

struct Idle {
    connection: Detached,
    server_name: Box<str>,
    since: Tick,
    /// When the sweep closes it.
    until: Tick,
    /// How long the upstream has promised to keep it (`Keep-Alive: timeout`).
    promised: Option<Duration>,
    /// The value of `looks()` when it was put here: whether the thread has polled since.
    looks: u64,
}

impl Idle {
    fn rest(&self, now: Tick) -> Duration {
        now.since(self.since)
    }
}

impl Shelf {
    /// Works on the connections under the lock, then updates the count.
    fn with<R>(&self, work: impl FnOnce(&mut Vec<Idle>) -> R) -> R {
        let mut idle: MutexGuard<'_, Vec<Idle>> =
            self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut idle);
        self.count.store(idle.len(), Relaxed);
        result
    }

    fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }
}

impl Shelves {
    /// Empty shelves for `threads` threads.
    pub fn new(threads: usize, limits: &Limits) -> Shelves {
        Shelves {
            shelves: (0..threads).map(|_| Shelf::default()).collect(),
            capacity: limits.idle_upstreams,
            most_rest: limits.upstream_idle,
            habits: Habits::default(),
            gate: Arc::default(),
        }
    }

    /// The shelves that hold connections, starting with number `from`.
    fn stocked(&self, from: usize) -> impl Iterator<Item = &Shelf> {
        let (before, after) = self.shelves.split_at(from);
        after.iter().chain(before).filter(|shelf| !shelf.is_empty())
    }

    /// Takes the connection that has been idle for longest, to be closed in favour of a new
    /// one.
    pub fn take_oldest(&self) -> Option<Detached> {
        let oldest = |shelf: &Shelf| shelf.with(|idle| idle.first().map(|idle| idle.since));
        let (_, shelf) = self
            .stocked(0)
            .filter_map(|shelf| Some((oldest(shelf)?, shelf)))
            .min_by_key(|(since, _)| *since)?;
        // Another thread may have taken it in the meantime.
        shelf.with(|idle| (!idle.is_empty()).then(|| idle.remove(0).connection))
    }

    /// Closes one of the connections for this server name that a request has just declined:
    /// where the upstream allows few connections, the new one may need its place. The one that
    /// has been idle for longest is kept, since by staying open it proves that the upstream
    /// keeps connections.
    fn displace(&self, server_name: &str) {
        let of_this_name = |idle: &&Idle| *idle.server_name == *server_name;
        let mut count = 0;
        let mut newest: Option<(Tick, &Shelf)> = None;
        for shelf in self.stocked(0) {
            let since = shelf.with(|idle| {
                count += idle.iter().filter(of_this_name).count();
                idle.iter().rfind(of_this_name).map(|idle| idle.since)
            });
            if let Some(since) = since.filter(|at| newest.is_none_or(|(newest, _)| newest < *at)) {
                newest = Some((since, shelf));
            }
        }
        if let Some((_, shelf)) = newest.filter(|_| count > 1) {
            let _closed = shelf.with(|idle| {
                let at = idle.iter().rposition(|idle| of_this_name(&idle));
                at.map(|at| idle.remove(at))
            });
        }
    }
}

/// One thread's access to the kept connections.
pub struct Pool {
    shelves: Arc<Shelves>,
    /// The number of the thread's own shelf.
    own: usize,
    sweeper: Cell<Option<Waker>>,
    /// When the next sweep is due, if one is.
    next_sweep: Cell<Option<Tick>>,
}

/// A kept connection that was taken for a request.
pub struct Kept {
    /// The connection, on which nothing has been sent since its last response.
    pub connection: Connection,
    /// How long it was idle.
    pub rest: Duration,
}

impl Pool {
    /// The pool of one thread, by its number.
    pub fn new(shelves: Arc<Shelves>, own: usize) -> Pool {
        Pool {
            shelves,
            own,
            sweeper: Cell::default(),
            next_sweep: Cell::default(),
        }
    }

    /// What has been learned about the upstream.
    pub fn habits(&self) -> &Habits {
        &self.shelves.habits
    }

    /// Limits the dials in flight.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.shelves.gate
    }

    /// Takes the connection of any thread that has been idle for longest, to be closed in favour
    /// of a new one.
    pub fn take_oldest(&self) -> Option<Detached> {
        self.shelves.take_oldest()
    }

    fn own(&self) -> &Shelf {
        &self.shelves.shelves[self.own]
    }

    /// Takes a connection for this server name on which the upstream has sent nothing since its
    /// last response; the thread's own connections come first.
    ///
    /// Bytes that an upstream sends without a request are not a response (RFC 9112 §9.2). Where
    /// the thread has polled since the last response, the reactor knows whether the socket is
    /// readable. Otherwise, for a connection of another thread, and for a request that must not
    /// be sent twice, the kernel is asked.
    pub fn take(&self, server_name: &str, may_be_sent_twice: bool) -> Option<Kept> {
        let now = now();
        let request = Wanted {
            server_name,
            may_be_sent_twice,
            now,
            habits: self.habits(),
            declined: Cell::new(false),
        };
        let taken = self
            .take_own(&request)
            .or_else(|| self.take_from_others(&request));
        if taken.is_none() && request.declined.get() {
            self.shelves.displace(server_name);
        }
        taken
    }

    fn take_own(&self, wanted: &Wanted<'_>) -> Option<Kept> {
        let looks = looks();
        loop {
            let (candidate, is_told) = self.own().with(|idle| {
                // Nearly always the last connection fits, and the thread has polled since it was
                // put here.
                let is_known_fit = |last: &Idle| last.looks < looks && wanted.judge(last);
                if wanted.may_be_sent_twice && idle.last().is_some_and(is_known_fit) {
                    return idle.pop().map(|last| (last, true));
                }
                // For the others, the reactor does not know yet whether the socket is readable.
                let told = match wanted.may_be_sent_twice {
                    true => idle.partition_point(|idle| idle.looks < looks),
                    false => 0,
                };
                let fits = |idle: &Idle| wanted.judge(idle);
                let untold = || idle[told..].iter().rposition(fits).map(|at| told + at);
                let at = idle[..told].iter().rposition(fits).or_else(untold)?;
                Some((idle.remove(at), at < told))
            })?;
            let quiet = is_told && candidate.connection.known_quiet();
            if let Some(kept) = self.attach(candidate, quiet, wanted) {
                return Some(kept);
            }
        }
    }

    fn take_from_others(&self, wanted: &Wanted<'_>) -> Option<Kept> {
        for shelf in self.shelves.stocked(self.own) {
            let pick = |idle: &mut Vec<Idle>| {
                let at = idle.iter().rposition(|idle| wanted.judge(idle))?;
                Some(idle.remove(at))
            };
            while let Some(candidate) = shelf.with(pick) {
                if let Some(kept) = self.attach(candidate, false, wanted) {
                    return Some(kept);
                }
            }
        }
        None
    }

    /// Attaches a candidate to this thread, if nothing has arrived on it.
    fn attach(&self, candidate: Idle, is_quiet: bool, wanted: &Wanted<'_>) -> Option<Kept> {
        let rest = candidate.rest(wanted.now);
        if !is_quiet && !candidate.connection.asked_quiet() {
            self.habits().ended(rest.saturating_sub(BLIND), wanted.now);
            return None;
        }
        let connection = candidate.connection.attach().ok()?;
        Some(Kept { connection, rest })
    }

    /// Keeps a connection whose last response was read whole, with no byte after it. `promised`
    /// is how long the upstream has promised to keep it.
    pub fn put(&self, connection: Connection, server_name: &str, promised: Option<Duration>) {
        let shelves = &*self.shelves;
        let longest = shelves.habits.longest_rest(shelves.most_rest, promised);
        if shelves.capacity == 0 || longest.is_zero() {
            return;
        }
        let since = now();
        let kept = Idle {
            connection: connection.detach(),
            server_name: server_name.into(),
            since,
            until: since + longest,
            promised,
            looks: looks(),
        };
        let until = kept.until;
        let _closed = self.own().with(|idle| {
            let oldest = (idle.len() >= shelves.capacity).then(|| idle.remove(0));
            idle.push(kept);
            oldest
        });
        shelves.gate.given_back();
        if self.next_sweep.get().is_none_or(|next| until < next) {
            if let Some(sweeper) = self.sweeper.take() {
                sweeper.wake();
            }
        }
    }

    /// Closes each connection when its time is up, or as soon as the upstream ends it. Runs for
    /// as long as the thread.
    pub async fn sweep(&self) {
        loop {
            let mut timer = Timer::never();
            let mut set_for = None;
            poll_fn(|cx| self.poll_sweep_due(cx, &mut timer, &mut set_for)).await;
            self.sweep_once(Tick::read());
        }
    }

    /// Waits until the time of a connection is up or an idle one has become readable.
    fn poll_sweep_due(
        &self,
        cx: &mut Context<'_>,
        timer: &mut Timer,
        set_for: &mut Option<Tick>,
    ) -> Poll<()> {
        self.sweeper.set(Some(cx.waker().clone()));
        let next = match self.own().is_empty() {
            true => None,
            false => self
                .own()
                .with(|idle| idle.iter().map(|idle| idle.until).min()),
        };
        self.next_sweep.set(next);
        let Some(at) = next else {
            return Poll::Pending;
        };
        if set_for.replace(at) != Some(at) {
            timer.set_after(at.left());
        }
        match Pin::new(timer).poll(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => poll_stirred(cx),
        }
    }

    fn sweep_once(&self, now: Tick) {
        let habits = self.habits();
        let _closed: Vec<Idle> = self.own().with(|idle| {
            let note_if_over = |idle: &mut Idle| {
                let rest = idle.rest(now);
                let connection = &idle.connection;
                if !connection.known_quiet() && !connection.asked_quiet() {
                    habits.ended(rest.saturating_sub(BLIND), now);
                    return true;
                }
                let expired = idle.until <= now;
                if expired {
                    habits.stayed_open(rest, now);
                }
                expired
            };
            let mut over = Vec::new();
            let mut at = 0;
            while at < idle.len() {
                match note_if_over(&mut idle[at]) {
                    true => over.push(idle.remove(at)),
                    false => at += 1,
                }
            }
            over
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Connections must be closed on the thread whose reactor they were registered with.
        let _closed: Vec<Idle> = self.own().with(std::mem::take);
    }
}

/// What a request requires of a kept connection.
struct Wanted<'a> {
    server_name: &'a str,
    may_be_sent_twice: bool,
    now: Tick,
    habits: &'a Habits,
    /// Set if a connection was declined that would have fit a request that may be sent twice.
    declined: Cell<bool>,
}

impl Wanted<'_> {
    /// Judges whether a kept connection may serve the request, and records what this shows of
    /// the upstream's habits.
    fn judge(&self, idle: &Idle) -> bool {
        if *idle.server_name != *self.server_name || idle.until <= self.now {
            return false;
        }
        if self.may_be_sent_twice {
            return true;
        }
        let rest = idle.rest(self.now);
        let is_safe = || self.habits.is_safe_once(rest, idle.promised);
        if is_safe() {
            return true;
        }
        // If it is still open after this long, that may prove that the upstream keeps
        // connections.
        if idle.connection.asked_quiet() {
            self.habits.stayed_open(rest, self.now);
            if is_safe() {
                return true;
            }
        }
        self.declined.set(true);
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::{Shutdown, TcpStream};
    use std::thread;

    use super::*;
    use crate::cli::resolve::{resolve, Command};
    use crate::net::reactor::{block_on, next_turn, tests::pair};
    use crate::net::socket::Socket;
    use crate::net::stream::Stream;

    /// The pools of `threads` threads, with room for `capacity` connections each.
    fn pools(threads: usize, capacity: usize) -> Vec<Pool> {
        let args = ["-d", "-u", "127.0.0.1:1"].map(Into::into);
        let Ok(Command::Serve(config, _)) = resolve(args, []) else {
            panic!("these settings are good")
        };
        let limits = Limits {
            idle_upstreams: capacity,
            ..config.limits
        };
        let shelves = Arc::new(Shelves::new(threads, &limits));
        (0..threads)
            .map(|own| Pool::new(shelves.clone(), own))
            .collect()
    }

    fn pool(capacity: usize) -> Pool {
        pools(1, capacity).remove(0)
    }

    fn connection() -> (Connection, Upstream) {
        let (here, stream) = pair();
        let upstream = Upstream {
            stream,
            seen: here.try_clone().expect("descriptors are left"),
        };
        let socket = Socket::new(here).expect("registered");
        (Connection::new(Stream::Plain(socket)), upstream)
    }

    /// The other end of a connection.
    struct Upstream {
        stream: TcpStream,
        /// A duplicate of this end, to see what has arrived.
        seen: TcpStream,
    }

    impl Upstream {
        /// Performs `act`, and waits until its effect has arrived.
        fn speak(&mut self, act: fn(&mut TcpStream) -> io::Result<()>) {
            act(&mut self.stream).expect("connected");
            while self.seen.peek(&mut [0]).is_err() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    const SENDS: fn(&mut TcpStream) -> io::Result<()> = |stream| stream.write_all(b"!");
    const ENDS: fn(&mut TcpStream) -> io::Result<()> = |stream| stream.shutdown(Shutdown::Write);

    #[test]
    fn a_connection_on_which_the_upstream_spoke_unasked_is_not_used() {
        for (act, looks, may_be_sent_twice, lent) in [
            (None, 1, true, true),
            (None, 1, false, true),
            (Some(SENDS), 1, true, false),
            (Some(SENDS), 1, false, false),
            (Some(ENDS), 1, true, false),
            (Some(ENDS), 1, false, false),
            // The kernel is asked for what must not be sent twice.
            (Some(SENDS), 0, false, false),
            (Some(ENDS), 0, false, false),
        ] {
            let taken = async {
                let pool = pool(1);
                pool.habits().served_again(Duration::ZERO, now);
                let (connection, mut upstream) = connection();
                pool.put(connection, "a", None);
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
    fn a_connection_of_unknown_readiness_is_taken_last_and_checked() {
        let taken = async {
            let pool = pool(2);
            let (told, _upstream) = connection();
            pool.put(told, "a", None);
            next_turn().await;
            let (untold, mut upstream) = connection();
            upstream.speak(SENDS);
            pool.put(untold, "a", None);
            [pool.take("a", true), pool.take("a", true)].map(|taken| taken.is_some())
        };
        let taken = block_on(taken, || None).expect("the reactor runs");
        assert_eq!(taken, [true, false]);
    }

    /// How many connections are on the thread's own shelf.
    fn count(pool: &Pool) -> usize {
        pool.own().with(|idle| idle.len())
    }

    /// Readiness for reads and writes reaches the thread that took the connection, and its slab
    /// key on the thread that gave it is free again.
    #[test]
    fn a_connection_is_handed_over_to_another_thread() {
        let mut pools = pools(2, 8);
        let (taker, giver) = (pools.remove(1), pools.remove(0));
        let (connected, peers) = std::sync::mpsc::channel();
        let (given, gave) = std::sync::mpsc::channel();
        let (done, end) = std::sync::mpsc::channel::<()>();
        let giving = thread::spawn(move || {
            let work = async {
                let (connection, upstream) = connection();
                connected.send(upstream).expect("the receiver is open");
                giver.put(connection, "a", None);
            };
            block_on(work, || None).expect("the reactor runs");
            given.send(()).expect("the receiver is open");
            end.recv().expect("the sender is open");
            // The slab key is free again, and the socket that has left causes no event here.
            let again = async {
                let (connection, _upstream) = connection();
                next_turn().await;
                connection.stream.known_quiet()
            };
            block_on(again, || None).expect("the reactor runs")
        });
        let mut upstream = peers.recv().expect("the sender is open");
        gave.recv().expect("the connection was put");
        let taking = async {
            let kept = taker.take("a", true).expect("the connection was put");
            let mut connection = kept.connection;
            connection.stream.write_all(b"?").await.expect("open");
            upstream.stream.read_exact(&mut [0]).expect("it was sent");
            upstream.stream.write_all(b"answer").expect("open");
            connection.fill().await.expect("open");
            (
                connection.received.bytes().to_vec(),
                taker.take("a", true).is_some(),
            )
        };
        let (answer, again) = block_on(taking, || None).expect("the reactor runs");
        assert_eq!((&*answer, again), (&b"answer"[..], false));
        done.send(()).expect("the receiver is open");
        let quiet = giving.join().expect("no panic");
        assert!(quiet || cfg!(portable));
    }

    /// Until the upstream has shown that it keeps connections, a request declines each of them,
    /// and one is closed to make room, except the oldest, which can provide the proof.
    #[test]
    fn a_request_that_must_not_be_sent_twice_declines_unproven_connections() {
        let taken = async {
            let pool = pool(8);
            let (first, _upstream) = connection();
            pool.put(first, "a", None);
            assert!(pool.take("a", false).is_none());
            assert_eq!(count(&pool), 1);
            let (second, _upstream) = connection();
            pool.put(second, "a", None);
            let (other, _upstream) = connection();
            pool.put(other, "b", None);
            assert!(pool.take("a", false).is_none());
            assert_eq!(count(&pool), 2);
            pool.own()
                .with(|idle| idle[0].since.move_back(Duration::from_secs(1)));
            pool.take("a", false).is_some()
        };
        assert!(block_on(taken, || None).expect("the reactor runs"));
    }

    #[test]
    fn an_idle_connection_that_the_upstream_ends_is_closed_and_counted() {
        let ended = async {
            let pool = pool(8);
            pool.habits().served_again(Duration::ZERO, now);
            let (connection, mut upstream) = connection();
            pool.put(connection, "a", None);
            let speaking = async {
                next_turn().await;
                upstream.speak(ENDS);
                while count(&pool) > 0 {
                    next_turn().await;
                }
            };
            let sweeping = async {
                pool.sweep().await;
            };
            futures_lite::future::or(speaking, sweeping).await;
            pool.habits().is_safe_once(Duration::ZERO, None)
        };
        assert!(!block_on(ended, || None).expect("the reactor runs"));
    }

    #[test]
    fn the_oldest_of_all_threads_is_found() {
        let oldest = async {
            let pools = pools(3, 8);
            for (pool, seconds) in [(1, 3), (2, 5), (0, 1)] {
                let (connection, upstream) = connection();
                pools[pool].put(connection, "a", None);
                let age = Duration::from_secs(seconds);
                pools[pool].own().with(|idle| idle[0].since.move_back(age));
                std::mem::forget(upstream);
            }
            assert!(pools[0].take_oldest().is_some());
            [0, 1, 2].map(|n| count(&pools[n]))
        };
        assert_eq!(
            block_on(oldest, || None).expect("the reactor runs"),
            [1, 1, 0]
        );
    }
}
