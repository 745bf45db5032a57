//! Which of this thread's sockets are ready, and how the thread waits for them.
//!
//! Each socket is registered once, edge-triggered, in an epoll set of its thread: no wait
//! costs a system call of its own, and threads never wake each other for sockets. Timers,
//! signals and whatever else is rare come from async-io, through an eventfd. With the
//! feature `portable`, async-io's `Async` stands in.

#[cfg(not(feature = "portable"))]
pub use epoll::{block_on, looks, next_turn, now, share, Source};
#[cfg(feature = "portable")]
pub use portable::{block_on, looks, next_turn, now, share, Source};

/// What a socket may be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Bytes, an end or a connection have arrived.
    Read,
    /// There is room for bytes to be sent.
    Write,
}

#[cfg(not(feature = "portable"))]
mod epoll {
    use std::cell::{Cell, RefCell};
    use std::future::{poll_fn, Future};
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::{Duration, Instant};

    use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
    use rustix::event::{eventfd, EventfdFlags, Timespec};
    use slab::Slab;

    use super::Direction;

    /// Events taken from the kernel at once.
    const BATCH: usize = 256;

    /// What all together may move in a turn, and the bounds of one's part in it.
    const ALL_SHARES: usize = 8 * 1024 * 1024;
    const SMALLEST_SHARE: usize = 64 * 1024;
    const LARGEST_SHARE: usize = 1024 * 1024;

    /// Names the eventfd among the sources.
    const WAKEUP: u64 = u64::MAX;

    struct Reactor {
        epoll: OwnedFd,
        sources: RefCell<Slab<State>>,
        /// How many sockets were registered so far.
        registered: Cell<u32>,
        /// Tasks that let the others have their turn.
        deferred: RefCell<Vec<Waker>>,
        /// How often the kernel had no more to tell than it was asked for.
        looks: Cell<u64>,
        /// How many had something to do in this turn.
        crowd: Cell<usize>,
        clock: Cell<Clock>,
        alarm: Arc<Alarm>,
    }

    /// What is known of the time.
    #[derive(Clone, Copy)]
    enum Clock {
        /// The thread takes no turns.
        Stopped,
        /// Nobody has asked in this turn.
        Unread,
        Read(Instant),
    }

    #[derive(Default)]
    struct State {
        read: Readiness,
        write: Readiness,
        /// The peer will send no more: reads go on to the end without an edge.
        hung_up: bool,
        /// The connection is no more.
        broken: bool,
        /// Who waits for a read is only to be told of an end.
        end_only: bool,
        /// Writability is watched only once a write has blocked.
        watches_write: bool,
        /// Tells the socket from an earlier one of the same key.
        generation: u32,
    }

    #[derive(Default)]
    struct Readiness {
        ready: bool,
        waker: Option<Waker>,
    }

    impl State {
        fn of(&mut self, direction: Direction) -> &mut Readiness {
            match direction {
                Direction::Read => &mut self.read,
                Direction::Write => &mut self.write,
            }
        }
    }

    impl Readiness {
        fn set(&mut self) {
            self.ready = true;
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }

        fn wait(&mut self, cx: &Context<'_>) -> Poll<()> {
            match &self.waker {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => self.waker = Some(cx.waker().clone()),
            }
            Poll::Pending
        }
    }

    /// Wakes the thread: for free while it runs, through the eventfd while it waits.
    struct Alarm {
        rung: AtomicBool,
        waiting: AtomicBool,
        eventfd: OwnedFd,
    }

    impl Wake for Alarm {
        fn wake(self: Arc<Self>) {
            self.wake_by_ref();
        }

        fn wake_by_ref(self: &Arc<Self>) {
            if !self.rung.swap(true, SeqCst) && self.waiting.load(SeqCst) {
                // Full is as good as written.
                let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
            }
        }
    }

    thread_local! {
        static REACTOR: io::Result<Reactor> = Reactor::new();
    }

    fn with_reactor<T>(work: impl FnOnce(&Reactor) -> io::Result<T>) -> io::Result<T> {
        REACTOR.with(|reactor| match reactor {
            Ok(reactor) => work(reactor),
            Err(error) => Err(error.kind().into()),
        })
    }

    impl Reactor {
        fn new() -> io::Result<Reactor> {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            // Edge-triggered: every write is an edge, and nothing needs to be read back.
            let flags = EventFlags::IN | EventFlags::ET;
            epoll::add(&epoll, &eventfd, EventData::new_u64(WAKEUP), flags)?;
            let alarm = Alarm {
                rung: AtomicBool::new(false),
                waiting: AtomicBool::new(false),
                eventfd,
            };
            Ok(Reactor {
                epoll,
                sources: RefCell::default(),
                registered: Cell::default(),
                deferred: RefCell::default(),
                looks: Cell::default(),
                crowd: Cell::default(),
                clock: Cell::new(Clock::Stopped),
                alarm: Arc::new(alarm),
            })
        }

        /// Takes what the kernel has to say, waiting for it, at most `patience`, if there
        /// is nothing to do.
        fn turn(&self, events: &mut Vec<Event>, patience: Option<Duration>) -> io::Result<()> {
            self.alarm.waiting.store(true, SeqCst);
            let more_to_do = self.alarm.rung.load(SeqCst) || !self.deferred.borrow().is_empty();
            let patience = match more_to_do {
                true => Some(Duration::ZERO),
                false => patience,
            };
            let patience = patience.map(|patience| Timespec {
                tv_sec: patience.as_secs() as i64,
                tv_nsec: patience.subsec_nanos().into(),
            });
            events.clear();
            let room = rustix::buffer::spare_capacity(events);
            let outcome = epoll::wait(&self.epoll, room, patience.as_ref());
            self.alarm.waiting.store(false, SeqCst);
            self.clock.set(Clock::Unread);
            match outcome {
                Ok(n) if n < BATCH => self.looks.set(self.looks.get() + 1),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let mut deferred = self.deferred.borrow_mut();
            self.crowd.set(events.len() + deferred.len());
            let mut sources = self.sources.borrow_mut();
            for event in events {
                let (name, flags) = (event.data.u64(), event.flags);
                let state = sources.get_mut(key_of(name));
                // A socket that was closed is still told of for as long as another process
                // holds it; looking into /proc is enough for that.
                let Some(state) = state.filter(|state| state.generation == generation_of(name))
                else {
                    continue;
                };
                let broken = flags.intersects(EventFlags::HUP | EventFlags::ERR);
                state.broken |= broken;
                let ended = broken || flags.contains(EventFlags::RDHUP);
                state.hung_up |= ended;
                if ended || flags.contains(EventFlags::IN) {
                    match state.end_only && !ended {
                        true => state.read.ready = true,
                        false => state.read.set(),
                    }
                }
                if broken || flags.contains(EventFlags::OUT) {
                    state.write.set();
                }
            }
            deferred.drain(..).for_each(Waker::wake);
            Ok(())
        }
    }

    /// Runs `work` on this thread, serving the sockets of the thread. `before_wait` is
    /// called whenever nothing is left to do, and says after which time to call it again.
    pub fn block_on<T>(
        work: impl Future<Output = T>,
        before_wait: impl Fn() -> Option<Duration>,
    ) -> io::Result<T> {
        let mut work = pin!(work);
        let alarm = with_reactor(|reactor| Ok(reactor.alarm.clone()))?;
        let waker = Waker::from(alarm.clone());
        let mut cx = Context::from_waker(&waker);
        let mut events = Vec::with_capacity(BATCH);
        let set_clock = |clock| {
            with_reactor(|reactor| {
                reactor.clock.set(clock);
                Ok(())
            })
        };
        set_clock(Clock::Unread)?;
        loop {
            alarm.rung.store(false, SeqCst);
            if let Poll::Ready(done) = work.as_mut().poll(&mut cx) {
                set_clock(Clock::Stopped)?;
                return Ok(done);
            }
            let patience = before_wait();
            with_reactor(|reactor| reactor.turn(&mut events, patience))?;
        }
    }

    /// The time, read once in a turn of the thread: for deadlines and for what a request
    /// took, which need it often and not to the microsecond.
    pub fn now() -> Instant {
        REACTOR.with(|reactor| {
            let Ok(reactor) = reactor else {
                return Instant::now();
            };
            match reactor.clock.get() {
                Clock::Stopped => Instant::now(),
                Clock::Read(at) => at,
                Clock::Unread => {
                    let at = Instant::now();
                    reactor.clock.set(Clock::Read(at));
                    at
                }
            }
        })
    }

    /// How many bytes one who never has to wait may move before it lets the others have their
    /// turn: fewer, the more of them there are.
    pub fn share() -> usize {
        REACTOR.with(|reactor| {
            let crowd = reactor.as_ref().map_or(1, |reactor| reactor.crowd.get());
            (ALL_SHARES / crowd.max(1)).clamp(SMALLEST_SHARE, LARGEST_SHARE)
        })
    }

    /// Counts the turns in which the thread has learned all that its sockets had to tell.
    pub fn looks() -> u64 {
        REACTOR.with(|reactor| reactor.as_ref().map_or(0, |reactor| reactor.looks.get()))
    }

    /// Waits until the thread has looked at its other sockets: for work that never has to
    /// wait for its own.
    pub async fn next_turn() {
        let mut deferred = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut deferred, true) {
                return Poll::Ready(());
            }
            let noted = with_reactor(|reactor| {
                reactor.deferred.borrow_mut().push(cx.waker().clone());
                Ok(())
            });
            match noted {
                Ok(()) => Poll::Pending,
                Err(_) => Poll::Ready(()),
            }
        })
        .await
    }

    /// The key of a source, from its name in the epoll set.
    fn key_of(name: u64) -> usize {
        name as u32 as usize
    }

    /// The generation of a source, from its name in the epoll set.
    fn generation_of(name: u64) -> u32 {
        (name >> 32) as u32
    }

    /// A non-blocking socket that its thread waits for.
    pub struct Source<T> {
        key: u32,
        generation: u32,
        socket: T,
    }

    impl<T: AsFd> Source<T> {
        /// Registers a socket; not ready to be read until the kernel says so.
        pub fn new(socket: T) -> io::Result<Source<T>> {
            with_reactor(|reactor| {
                let generation = reactor.registered.get().wrapping_add(1);
                reactor.registered.set(generation);
                let mut state = State {
                    generation,
                    ..State::default()
                };
                state.write.ready = true;
                let source = Source {
                    key: reactor.sources.borrow_mut().insert(state) as u32,
                    generation,
                    socket,
                };
                let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
                epoll::add(&reactor.epoll, &source.socket, source.name(), flags)?;
                Ok(source)
            })
        }

        /// The socket.
        pub fn get_ref(&self) -> &T {
            &self.socket
        }

        /// In the epoll set: its generation, then its key.
        fn name(&self) -> EventData {
            EventData::new_u64(u64::from(self.generation) << 32 | u64::from(self.key))
        }

        fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
            REACTOR.with(|reactor| {
                let reactor = reactor.as_ref().expect("the source was registered");
                work(&mut reactor.sources.borrow_mut()[self.key as usize])
            })
        }

        /// Whether an attempt makes sense.
        pub fn is_ready(&self, direction: Direction) -> bool {
            self.with(|state| state.of(direction).ready)
        }

        /// The last read took all there was: the next waits for an edge.
        pub fn ran_dry(&self) {
            self.with(|state| state.read.ready = state.hung_up);
        }

        /// Lets the next read ask the kernel.
        pub fn assume_readable(&self) {
            self.with(|state| state.read.ready = true);
        }

        /// The last attempt would have blocked.
        pub fn would_block(&self, direction: Direction) {
            let watch = self.with(|state| {
                state.of(direction).ready = false;
                direction == Direction::Write && !std::mem::replace(&mut state.watches_write, true)
            });
            if watch {
                let _ = with_reactor(|reactor| {
                    let flags =
                        EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                    // Tells at once if there is room by now.
                    Ok(epoll::modify(
                        &reactor.epoll,
                        &self.socket,
                        self.name(),
                        flags,
                    )?)
                });
            }
        }

        /// Waits until an attempt makes sense.
        pub fn poll_ready(&self, direction: Direction, cx: &mut Context<'_>) -> Poll<()> {
            self.with(|state| {
                if state.of(direction).ready {
                    return Poll::Ready(());
                }
                state.end_only &= direction != Direction::Read;
                state.of(direction).wait(cx)
            })
        }

        /// Waits until the connection is reset, while nobody reads from it. An end of the
        /// peer's sending side is no reset.
        pub fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
            self.poll_end(cx, |state| state.broken)
        }

        /// Waits until the peer will send no more, while nobody reads from it.
        pub fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<()> {
            self.poll_end(cx, |state| state.hung_up)
        }

        fn poll_end(&self, cx: &mut Context<'_>, has_ended: fn(&State) -> bool) -> Poll<()> {
            self.with(|state| {
                if has_ended(state) {
                    return Poll::Ready(());
                }
                state.end_only = true;
                state.read.wait(cx)
            })
        }

        /// Tells no more of a socket that stays open elsewhere.
        pub fn deregister(&self) {
            let _ = with_reactor(|reactor| Ok(epoll::delete(&reactor.epoll, &self.socket)?));
        }
    }

    impl<T> Drop for Source<T> {
        fn drop(&mut self) {
            // The kernel forgets a socket when it is closed.
            let key = self.key as usize;
            let _ = with_reactor(|reactor| Ok(reactor.sources.borrow_mut().remove(key)));
        }
    }
}

#[cfg(feature = "portable")]
mod portable {
    use std::cell::{Cell, RefCell};
    use std::future::{poll_fn, Future};
    use std::io;
    use std::os::fd::AsFd;
    use std::pin::{pin, Pin};
    use std::task::{ready, Context, Poll};
    use std::time::{Duration, Instant};

    use async_io::{Async, Timer};
    use rustix::event::{self, PollFd, PollFlags, Timespec};

    use super::Direction;

    pub use futures_lite::future::yield_now as next_turn;

    /// The time.
    pub fn now() -> Instant {
        Instant::now()
    }

    /// How many bytes one who never has to wait may move before it lets the others have their
    /// turn.
    pub fn share() -> usize {
        256 * 1024
    }

    /// Never counts: what the sockets have to tell is learned by asking them.
    pub fn looks() -> u64 {
        0
    }

    /// Runs `work` on this thread. `before_wait` is called whenever nothing is left to do,
    /// and says after which time to call it again.
    pub fn block_on<T>(
        work: impl Future<Output = T>,
        before_wait: impl Fn() -> Option<Duration>,
    ) -> io::Result<T> {
        let mut work = pin!(work);
        let mut again = Timer::never();
        Ok(async_io::block_on(poll_fn(|cx| {
            let outcome = work.as_mut().poll(cx);
            again = before_wait().map_or_else(Timer::never, Timer::after);
            let _ = pin!(&mut again).poll(cx);
            outcome
        })))
    }

    /// How often a socket that nobody reads from is asked whether it has ended.
    const QUESTIONS: Duration = Duration::from_secs(1);

    /// A non-blocking socket that its thread waits for.
    pub struct Source<T> {
        inner: Async<T>,
        readable: Cell<bool>,
        writable: Cell<bool>,
        next_question: RefCell<Option<Timer>>,
    }

    impl<T: AsFd> Source<T> {
        /// Registers a socket; not ready to be read until the kernel says so.
        pub fn new(socket: T) -> io::Result<Source<T>> {
            Ok(Source {
                inner: Async::new_nonblocking(socket)?,
                readable: Cell::new(false),
                writable: Cell::new(true),
                next_question: RefCell::default(),
            })
        }

        /// The socket.
        pub fn get_ref(&self) -> &T {
            self.inner.get_ref()
        }

        fn flag(&self, direction: Direction) -> &Cell<bool> {
            match direction {
                Direction::Read => &self.readable,
                Direction::Write => &self.writable,
            }
        }

        /// Whether an attempt makes sense.
        pub fn is_ready(&self, direction: Direction) -> bool {
            self.flag(direction).get()
        }

        /// The last read took all there was: the next waits for more.
        pub fn ran_dry(&self) {
            self.readable.set(false);
        }

        /// Lets the next read ask the kernel.
        pub fn assume_readable(&self) {
            self.readable.set(true);
        }

        /// The last attempt would have blocked.
        pub fn would_block(&self, direction: Direction) {
            self.flag(direction).set(false);
        }

        /// Waits until an attempt makes sense.
        pub fn poll_ready(&self, direction: Direction, cx: &mut Context<'_>) -> Poll<()> {
            if !self.is_ready(direction) {
                // A failed wait is told by the attempt that follows.
                let _ = ready!(match direction {
                    Direction::Read => self.inner.poll_readable(cx),
                    Direction::Write => self.inner.poll_writable(cx),
                });
                self.flag(direction).set(true);
            }
            Poll::Ready(())
        }

        /// Waits until the connection is reset, while nobody reads from it. An end of the
        /// peer's sending side is no reset.
        pub fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
            self.poll_end(cx, PollFlags::HUP | PollFlags::ERR)
        }

        /// Waits until the peer will send no more, while nobody reads from it.
        pub fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<()> {
            self.poll_end(cx, PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
        }

        /// `Async` cannot wait for an end alone, so the kernel is asked now and then.
        fn poll_end(&self, cx: &mut Context<'_>, ends: PollFlags) -> Poll<()> {
            let mut next = self.next_question.borrow_mut();
            let timer = next.get_or_insert_with(|| Timer::after(QUESTIONS));
            while Pin::new(&mut *timer).poll(cx).is_ready() {
                timer.set_after(QUESTIONS);
                let mut asked = [PollFd::new(self.get_ref(), ends)];
                let answer = event::poll(&mut asked, Some(&Timespec::default()));
                if answer.is_ok() && asked[0].revents().intersects(ends) {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        }

        /// Does nothing: dropping an `Async` ends its registration.
        pub fn deregister(&self) {}
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use futures_lite::future::poll_once;
    use socket2::SockRef;

    /// Two ends of a connection, the first of them non-blocking.
    pub(crate) fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("bound");
        let here = TcpStream::connect(address).expect("it listens");
        let (there, _) = listener.accept().expect("it was connected");
        here.set_nonblocking(true).expect("a socket");
        (here, there)
    }

    #[test]
    fn bytes_and_an_end_under_one_edge_are_both_seen() {
        let (here, mut there) = pair();
        there.write_all(b"bye").expect("connected");
        drop(there);
        let read = block_on(
            async {
                let source = Source::new(here).expect("registered");
                let mut all = Vec::new();
                loop {
                    poll_fn(|cx| source.poll_ready(Direction::Read, cx)).await;
                    let mut buf = [0; 64];
                    match source.get_ref().read(&mut buf) {
                        Ok(0) => return all,
                        Ok(n) => {
                            all.extend_from_slice(&buf[..n]);
                            source.ran_dry();
                        }
                        Err(_) => source.would_block(Direction::Read),
                    }
                }
            },
            || None,
        );
        assert_eq!(read.expect("the reactor runs"), b"bye");
    }

    #[test]
    fn room_to_write_is_told_once_it_was_missed() {
        let (here, mut there) = pair();
        let written = block_on(
            async {
                let source = Source::new(here).expect("registered");
                let mut written = 0;
                let mut blocked = 0;
                while blocked < 3 {
                    poll_fn(|cx| source.poll_ready(Direction::Write, cx)).await;
                    match source.get_ref().write(&[7; 65_536]) {
                        Ok(n) => written += n,
                        Err(_) => {
                            source.would_block(Direction::Write);
                            blocked += 1;
                            let mut sink = vec![0; written];
                            there.read_exact(&mut sink).expect("connected");
                            written = 0;
                        }
                    }
                }
                written
            },
            || None,
        );
        assert!(written.is_ok());
    }

    #[test]
    fn an_end_and_a_reset_are_told_while_bytes_are_unread() {
        let told = block_on(
            async {
                let (here, mut there) = pair();
                let source = Source::new(here).expect("registered");
                there.write_all(b"unread").expect("connected");
                there.shutdown(Shutdown::Write).expect("connected");
                poll_fn(|cx| source.poll_hung_up(cx)).await;
                let too_early = poll_once(poll_fn(|cx| source.poll_broken(cx))).await;
                let linger = SockRef::from(&there).set_linger(Some(Duration::ZERO));
                linger.expect("connected");
                drop(there);
                poll_fn(|cx| source.poll_broken(cx)).await;
                too_early
            },
            || None,
        );
        assert_eq!(told.expect("the reactor runs"), None);
    }

    /// Whoever looks into /proc holds a socket for a moment; that of a closed one then told a
    /// new socket of its end.
    #[cfg(not(feature = "portable"))]
    #[test]
    fn a_socket_is_not_told_of_an_earlier_one() {
        let told = block_on(
            async {
                let (old, old_peer) = pair();
                let (new, _new_peer) = pair();
                let _held = old.try_clone().expect("a descriptor is left");
                drop(Source::new(old).expect("registered"));
                let source = Source::new(new).expect("registered");
                drop(old_peer);
                next_turn().await;
                next_turn().await;
                poll_fn(|cx| std::task::Poll::Ready(source.poll_hung_up(cx).is_ready())).await
            },
            || None,
        );
        assert!(!told.expect("the reactor runs"));
    }

    #[cfg(not(feature = "portable"))]
    #[test]
    fn the_clock_stands_within_a_turn_only() {
        let pause = || std::thread::sleep(Duration::from_millis(2));
        let read = async {
            let first = now();
            pause();
            let second = now();
            next_turn().await;
            (first, second, now())
        };
        let (first, second, third) = block_on(read, || None).expect("the reactor runs");
        assert!(first == second && second < third);
        let outside = now();
        pause();
        assert!(third < outside && outside < now());
    }

    #[cfg(not(feature = "portable"))]
    #[test]
    fn the_more_there_are_the_smaller_their_shares() {
        use std::future::Future;
        use std::task::Poll;

        let shares = [1, 32, 1000].map(|crowd| {
            let mut turns: Vec<_> = (0..crowd).map(|_| Box::pin(next_turn())).collect();
            let after = poll_fn(|cx| {
                turns.retain_mut(|turn| turn.as_mut().poll(cx).is_pending());
                match turns.is_empty() {
                    true => Poll::Ready(share()),
                    false => Poll::Pending,
                }
            });
            block_on(after, || None).expect("the reactor runs")
        });
        assert_eq!(shares, [1024 * 1024, 256 * 1024, 64 * 1024]);
    }

    #[test]
    fn other_threads_wake_it() {
        let woken = block_on(smol::unblock(|| 7), || None);
        assert_eq!(woken.expect("the reactor runs"), 7);
    }
}
