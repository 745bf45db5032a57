//! Idle upstream connections, kept for the next request of any thread.
//!
//! Each thread has a shelf of its own. It takes from there first, which costs one lock that
//! nobody else wants, and then from the others' shelves: a connection is handed over whole.

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
    /// How long one is kept at most; zero keeps none.
    most_rest: Duration,
    /// What the upstream has shown so far.
    pub habits: Habits,
    /// Who may dial where nothing is kept.
    pub gate: Arc<Gate>,
}

/// The idle connections of one thread, the most recently used last.
// As far apart as the processor fetches: no thread slows another down.
#[derive(Default)]
#[repr(align(128))]
struct Shelf {
    idle: Mutex<Vec<Idle>>,
    /// How many there are, to be looked at without the lock.
    count: AtomicUsize,
}

struct Idle {
    connection: Detached,
    server_name: Box<str>,
    since: Tick,
    /// When it is closed.
    until: Tick,
    /// How long the upstream has said that it keeps it (`Keep-Alive: timeout`).
    promised: Option<Duration>,
    /// How often the thread had looked at its sockets by then.
    looks: u64,
}

impl Idle {
    fn rest(&self, now: Tick) -> Duration {
        now.since(self.since)
    }
}

impl Shelf {
    /// Uses the connections, and keeps the count.
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
    /// Empty shelves for so many threads.
    pub fn new(threads: usize, limits: &Limits) -> Shelves {
        Shelves {
            shelves: (0..threads).map(|_| Shelf::default()).collect(),
            capacity: limits.idle_upstreams,
            most_rest: limits.upstream_idle,
            habits: Habits::default(),
            gate: Arc::default(),
        }
    }

    /// Those that have any, `from` first.
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

    /// Closes one of the connections that a request for this server name has just declined:
    /// where connections are few, the new one may need its place. The one that has been idle
    /// for longest stays, since by staying open it shows that the upstream keeps connections.
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

/// One thread's way to the kept connections.
pub struct Pool {
    shelves: Arc<Shelves>,
    /// The thread's own shelf.
    own: usize,
    sweeper: Cell<Option<Waker>>,
    /// When the sweep next looks, if it waits for a time.
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

    /// What is known of the upstream.
    pub fn habits(&self) -> &Habits {
        &self.shelves.habits
    }

    /// Who may dial where nothing is kept.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.shelves.gate
    }

    /// The connection of any thread that has been idle for longest, to be closed in favour of
    /// a new one.
    pub fn take_oldest(&self) -> Option<Detached> {
        self.shelves.take_oldest()
    }

    fn own(&self) -> &Shelf {
        &self.shelves.shelves[self.own]
    }

    /// A connection over which the upstream has sent nothing since its last response,
    /// made for the same server name; the thread's own first.
    ///
    /// Bytes that an upstream sends without a request are not a response (RFC 9112 §9.2). If
    /// the thread has polled since the last response, the readiness of the socket is known. If
    /// not, for a connection of another thread, and for a request that must not be sent twice,
    /// the kernel is asked.
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
                // Nearly always it is the last one, of which the thread has been told.
                let is_it = |last: &Idle| last.looks < looks && wanted.judge(last);
                if wanted.may_be_sent_twice && idle.last().is_some_and(is_it) {
                    return idle.pop().map(|last| (last, true));
                }
                // Of the rest the thread has not been told anything yet.
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

    /// Makes a candidate one of this thread, if it is quiet.
    fn attach(&self, candidate: Idle, is_quiet: bool, wanted: &Wanted<'_>) -> Option<Kept> {
        let rest = candidate.rest(wanted.now);
        if !is_quiet && !candidate.connection.asked_quiet() {
            self.habits().ended(rest.saturating_sub(BLIND), wanted.now);
            return None;
        }
        let connection = candidate.connection.attach().ok()?;
        Some(Kept { connection, rest })
    }

    /// Keeps a connection whose last response is over and left nothing behind. The upstream
    /// may have promised to keep it for so long.
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

    /// Closes connections as their time comes, and those that the upstream ends, at once.
    /// Runs for as long as the thread.
    pub async fn sweep(&self) {
        loop {
            let mut timer = Timer::never();
            let mut set_for = None;
            poll_fn(|cx| self.poll_sweep_due(cx, &mut timer, &mut set_for)).await;
            self.sweep_once(Tick::read());
        }
    }

    /// Waits until a connection's time has come or an idle one has become readable.
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
        // Closed on the thread whose reactor they are registered with.
        let _closed: Vec<Idle> = self.own().with(std::mem::take);
    }
}

/// What a request wants of a kept connection.
struct Wanted<'a> {
    server_name: &'a str,
    may_be_sent_twice: bool,
    now: Tick,
    habits: &'a Habits,
    /// One would have done for a request that may be sent twice.
    declined: Cell<bool>,
}

impl Wanted<'_> {
    /// Judges whether a kept connection may serve the request, and notes what is learnt of the
    /// upstream's habits by it.
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
        // One that is open for so long may have shown by now that they are kept.
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

    /// The pools of so many threads, for `capacity` connections each.
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
    fn one_that_the_thread_was_not_told_of_comes_last_and_is_asked() {
        let taken = async {
            let pool = pool(2);
            let (told, _upstream) = connection();
            pool.put(told, "a", None);
            next_turn().await;
            let (untold, mut upstream) = connection();
            upstream.speak(SAYS);
            pool.put(untold, "a", None);
            [pool.take("a", true), pool.take("a", true)].map(|taken| taken.is_some())
        };
        let taken = block_on(taken, || None).expect("the reactor runs");
        assert_eq!(taken, [true, false]);
    }

    /// How many stand on the thread's own shelf.
    fn count(pool: &Pool) -> usize {
        pool.own().with(|idle| idle.len())
    }

    /// Both ways of being ready go on working on the taker's thread: what arrives wakes it,
    /// and the giver's slab gets its key back.
    #[test]
    fn another_thread_takes_a_connection_whole() {
        let mut pools = pools(2, 8);
        let (taker, giver) = (pools.remove(1), pools.remove(0));
        let (connected, peers) = std::sync::mpsc::channel();
        let (given, gave) = std::sync::mpsc::channel();
        let (done, end) = std::sync::mpsc::channel::<()>();
        let giving = thread::spawn(move || {
            let work = async {
                let (connection, upstream) = connection();
                connected.send(upstream).expect("it is wanted");
                giver.put(connection, "a", None);
            };
            block_on(work, || None).expect("the reactor runs");
            given.send(()).expect("it is wanted");
            end.recv().expect("the taker says so");
            // The key that has left is free again, and its socket tells nobody here.
            let again = async {
                let (connection, _upstream) = connection();
                next_turn().await;
                connection.stream.known_quiet()
            };
            block_on(again, || None).expect("the reactor runs")
        });
        let mut upstream = peers.recv().expect("it is sent");
        gave.recv().expect("it is said");
        let taking = async {
            let kept = taker.take("a", true).expect("it is there");
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
        done.send(()).expect("it waits");
        let quiet = giving.join().expect("no panic");
        assert!(quiet || cfg!(portable));
    }

    /// Until the upstream has shown that it keeps connections, each is declined and gives its
    /// place to the new one, but for the one that is to show it.
    #[test]
    fn what_must_not_be_sent_twice_waits_for_proof() {
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
    fn the_end_of_an_idle_connection_closes_it_and_is_remembered() {
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
