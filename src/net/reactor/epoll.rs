//! The readiness of sockets, as reported by epoll.

use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{eventfd, EventfdFlags, Timespec};
use slab::Slab;

use super::{Direction, SMALLEST_SHARE};
use crate::net::tick::Tick;

/// The most events that one call of epoll_wait returns.
const BATCH: usize = 256;

/// How many bytes all tasks of a thread together may move in one turn, and the most that one
/// task may.
const ALL_SHARES: usize = 8 * 1024 * 1024;
const LARGEST_SHARE: usize = 1024 * 1024;

/// The events that every socket is registered for. A read ends before urgent data (tcp(7)), so
/// after PRI a short read does not mean that nothing more has arrived.
const WATCHED: EventFlags = EventFlags::IN
    .union(EventFlags::PRI)
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

/// The epoll data of the eventfd, which no source has.
const WAKEUP: u64 = u64::MAX;

/// How long the end of a detached source may go unnoticed. Zero: epoll reports it at once.
pub const BLIND: Duration = Duration::ZERO;

struct Reactor {
    home: Arc<Home>,
    sources: RefCell<Slab<State>>,
    /// The generation of the last socket registered, counted up for each.
    registered: Cell<u32>,
    /// The wakers of tasks that have yielded until the next turn.
    deferred: RefCell<Vec<Waker>>,
    /// How many calls of epoll_wait returned fewer events than they had room for, and so all
    /// that were pending.
    looks: Cell<u64>,
    /// How many events and deferred tasks this turn began with.
    crowd: Cell<usize>,
    alarm: Arc<Alarm>,
    /// Whether a detached source has become readable, and the task that waits for that.
    stirred: RefCell<Stirred>,
}

/// The part of a thread's reactor that other threads use.
struct Home {
    epoll: OwnedFd,
    /// Slab keys of sources that other threads have taken over or closed. Only this thread can
    /// free them.
    left: Mutex<Vec<u32>>,
    any_left: AtomicBool,
}

impl Home {
    fn left(&self) -> MutexGuard<'_, Vec<u32>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the source with this key now belongs to another thread or is closed.
    fn leave(&self, key: u32) {
        self.left().push(key);
        self.any_left.store(true, Relaxed);
    }
}

/// Whether a detached source has become readable, and the waker of the task that waits for
/// that.
#[derive(Default)]
struct Stirred {
    has: bool,
    waker: Option<Waker>,
}

/// The cached time of a thread.
#[derive(Clone, Copy)]
enum Clock {
    /// The thread does not run `block_on`, so every call reads the system's clock.
    Stopped,
    /// The clock was not yet read in this turn.
    Unread,
    /// The clock was read in this turn.
    Read(Tick),
}

#[derive(Default)]
struct State {
    /// For each direction, whether the socket is known to be ready.
    ready: [bool; 2],
    /// For each direction, the waker of the task that waits for readiness.
    wakers: [Option<Waker>; 2],
    /// RDHUP, HUP or ERR was reported: no further edge announces what is left to read.
    hung_up: bool,
    /// HUP or ERR was reported: the connection is reset or closed in both directions.
    broken: bool,
    /// Urgent data has arrived: a read ends before it, however much follows (tcp(7)).
    has_urgent: bool,
    /// The read waker is woken only when the peer's sending side ends, not when bytes arrive.
    end_only: bool,
    /// OUT is among the registered events; it is added when a write first blocks.
    watches_write: bool,
    /// No task of this thread uses the socket at the moment.
    detached: bool,
    /// Tells the socket from an earlier one that had the same slab key.
    generation: u32,
}

impl State {
    fn is_ready(&self, direction: Direction) -> bool {
        self.ready[direction as usize]
    }

    fn set_ready(&mut self, direction: Direction, ready: bool) {
        self.ready[direction as usize] = ready;
    }

    /// Marks the socket as ready and wakes the task that waits for that.
    fn wake(&mut self, direction: Direction) {
        self.set_ready(direction, true);
        if let Some(waker) = self.wakers[direction as usize].take() {
            waker.wake();
        }
    }

    fn wait(&mut self, direction: Direction, cx: &Context<'_>) -> Poll<()> {
        let waiting = &mut self.wakers[direction as usize];
        match waiting {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *waiting = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// Wakes the thread: by a flag while it runs, through the eventfd while it is in epoll_wait.
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
            // EAGAIN means that the counter is at its limit: the eventfd is readable already.
            let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        }
    }
}

thread_local! {
    static REACTOR: io::Result<Reactor> = Reactor::new();
    /// The time of this turn. Separate from the reactor, because it is read far more often and
    /// a const initializer saves the check for lazy initialization.
    static CLOCK: Cell<Clock> = const { Cell::new(Clock::Stopped) };
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
        // Edge-triggered: every write to the eventfd is an edge, so its counter is never read.
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &eventfd, EventData::new_u64(WAKEUP), flags)?;
        let home = Home {
            epoll,
            left: Mutex::default(),
            any_left: AtomicBool::new(false),
        };
        let alarm = Alarm {
            rung: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            eventfd,
        };
        Ok(Reactor {
            home: Arc::new(home),
            sources: RefCell::default(),
            registered: Cell::default(),
            deferred: RefCell::default(),
            looks: Cell::default(),
            crowd: Cell::default(),
            alarm: Arc::new(alarm),
            stirred: RefCell::default(),
        })
    }

    /// Inserts a new state, and returns its slab key and its generation.
    fn insert(&self) -> (u32, u32) {
        let mut sources = self.sources.borrow_mut();
        if self.home.any_left.load(Relaxed) {
            self.home.any_left.store(false, Relaxed);
            for key in self.home.left().drain(..) {
                sources.remove(key as usize);
            }
        }
        let generation = self.registered.get().wrapping_add(1);
        self.registered.set(generation);
        let mut state = State {
            generation,
            ..State::default()
        };
        state.set_ready(Direction::Write, true);
        (sources.insert(state) as u32, generation)
    }

    /// Fetches events from the kernel and wakes the tasks that wait for them. Blocks for at
    /// most `patience`, and not at all if a task is ready to run.
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
        let outcome = epoll::wait(&self.home.epoll, room, patience.as_ref());
        self.alarm.waiting.store(false, SeqCst);
        CLOCK.set(Clock::Unread);
        match outcome {
            Ok(n) if n < BATCH => self.looks.set(self.looks.get() + 1),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut deferred = self.deferred.borrow_mut();
        self.crowd.set(events.len() + deferred.len());
        let mut sources = self.sources.borrow_mut();
        let mut stirred = false;
        for event in events {
            let (name, flags) = (event.data.u64(), event.flags);
            let state = sources.get_mut(key_of(name));
            // epoll reports a closed socket for as long as another process holds its open file
            // description; a process that inspects /proc may do so for a moment.
            let Some(state) = state.filter(|state| state.generation == generation_of(name)) else {
                continue;
            };
            state.has_urgent |= flags.contains(EventFlags::PRI);
            let broken = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            state.broken |= broken;
            let ended = broken || flags.contains(EventFlags::RDHUP);
            state.hung_up |= ended;
            if ended || flags.intersects(EventFlags::IN | EventFlags::PRI) {
                match state.end_only && !ended {
                    true => state.set_ready(Direction::Read, true),
                    false => state.wake(Direction::Read),
                }
            }
            if broken || flags.contains(EventFlags::OUT) {
                state.wake(Direction::Write);
            }
            stirred |= state.detached && state.is_ready(Direction::Read);
        }
        if stirred {
            let mut stirred = self.stirred.borrow_mut();
            stirred.has = true;
            if let Some(waker) = stirred.waker.take() {
                waker.wake();
            }
        }
        deferred.drain(..).for_each(Waker::wake);
        Ok(())
    }
}

/// Runs `work` on this thread together with the thread's reactor. Calls `before_wait` before
/// each wait for events; the wait lasts at most for the time that it returns.
pub fn block_on<T>(
    work: impl Future<Output = T>,
    before_wait: impl Fn() -> Option<Duration>,
) -> io::Result<T> {
    let mut work = pin!(work);
    let alarm = with_reactor(|reactor| Ok(reactor.alarm.clone()))?;
    let waker = Waker::from(alarm.clone());
    let mut cx = Context::from_waker(&waker);
    let mut events = Vec::with_capacity(BATCH);
    CLOCK.set(Clock::Unread);
    loop {
        alarm.rung.store(false, SeqCst);
        if let Poll::Ready(done) = work.as_mut().poll(&mut cx) {
            CLOCK.set(Clock::Stopped);
            return Ok(done);
        }
        let patience = before_wait();
        with_reactor(|reactor| reactor.turn(&mut events, patience))?;
    }
}

/// The time, read at most once in a turn of the thread: for deadlines and the durations of
/// requests, which are asked for often and need not be exact to the microsecond.
pub fn now() -> Tick {
    CLOCK.with(|clock| match clock.get() {
        Clock::Stopped => Tick::read(),
        Clock::Read(at) => at,
        Clock::Unread => {
            let at = Tick::read();
            clock.set(Clock::Read(at));
            at
        }
    })
}

/// How many bytes a task that never has to wait may move before it yields to the other tasks
/// of its thread; fewer when more of them are ready.
pub fn share() -> usize {
    REACTOR.with(|reactor| {
        let crowd = reactor.as_ref().map_or(1, |reactor| reactor.crowd.get());
        (ALL_SHARES / crowd.max(1)).clamp(SMALLEST_SHARE, LARGEST_SHARE)
    })
}

/// Counts the turns in which the thread fetched every pending event of its sockets.
pub fn looks() -> u64 {
    REACTOR.with(|reactor| reactor.as_ref().map_or(0, |reactor| reactor.looks.get()))
}

/// Waits until a detached source of this thread has become readable since the last call that
/// was ready. Only one task of a thread may wait at a time.
pub fn poll_stirred(cx: &mut Context<'_>) -> Poll<()> {
    REACTOR.with(|reactor| {
        let Ok(reactor) = reactor else {
            return Poll::Pending;
        };
        let mut stirred = reactor.stirred.borrow_mut();
        if std::mem::take(&mut stirred.has) {
            return Poll::Ready(());
        }
        stirred.waker = Some(cx.waker().clone());
        Poll::Pending
    })
}

/// Wakes a task in the next turn, after the thread has fetched the events of its other sockets:
/// for a task whose own socket never makes it wait.
pub fn wake_next_turn(waker: &Waker) {
    let noted = with_reactor(|reactor| {
        reactor.deferred.borrow_mut().push(waker.clone());
        Ok(())
    });
    if noted.is_err() {
        waker.wake_by_ref();
    }
}

/// Waits for the next turn, in which the thread has fetched the events of its other sockets.
pub async fn next_turn() {
    let mut deferred = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut deferred, true) {
            return Poll::Ready(());
        }
        wake_next_turn(cx.waker());
        Poll::Pending
    })
    .await
}

/// The same as `next_turn` here; with async-io, a wait until the sockets were polled takes more.
pub use next_turn as next_look;

/// Waits until the thread has fetched every pending event of its sockets. One turn may not do:
/// a signal may interrupt epoll_wait, a full batch may leave events behind, and a task that
/// another thread wakes is polled before the next turn. Gives up after `MOST_TURNS` turns.
pub async fn all_told() {
    const MOST_TURNS: usize = 64;
    let before = looks();
    for _ in 0..MOST_TURNS {
        next_turn().await;
        if looks() != before {
            return;
        }
    }
}

/// The slab key of a source, from its epoll data.
fn key_of(name: u64) -> usize {
    name as u32 as usize
}

/// The generation of a source, from its epoll data.
fn generation_of(name: u64) -> u32 {
    (name >> 32) as u32
}

/// A non-blocking socket registered with the reactor of one thread.
pub struct Source<T> {
    key: u32,
    generation: u32,
    /// The reactor whose slab `key` belongs to.
    home: Arc<Home>,
    socket: T,
}

impl<T: AsFd> Source<T> {
    /// Registers a socket with this thread. It counts as not readable until epoll reports it.
    pub fn new(socket: T) -> io::Result<Source<T>> {
        with_reactor(|reactor| {
            let (key, generation) = reactor.insert();
            let source = Source {
                key,
                generation,
                home: reactor.home.clone(),
                socket,
            };
            source.watch()?;
            Ok(source)
        })
    }

    fn watch(&self) -> io::Result<()> {
        let name = self.name();
        Ok(epoll::add(&self.home.epoll, &self.socket, name, WATCHED)?)
    }

    /// Whether the source is registered with this thread.
    pub fn is_at_home(&self) -> bool {
        REACTOR.with(|reactor| {
            let home = reactor.as_ref().map(|reactor| &reactor.home);
            home.is_ok_and(|home| Arc::ptr_eq(home, &self.home))
        })
    }

    /// Drops the wakers; the source must not be used until `attach`. Its events still go to the
    /// thread that it is registered with.
    pub fn detach(&mut self) {
        self.with(|state| {
            state.detached = true;
            state.wakers = [None, None];
        });
    }

    /// Registers a detached source with this thread, which need not be the one that has
    /// detached it. Its known readiness is kept only if it is the same thread. On failure the
    /// source can only be dropped.
    pub fn attach(&mut self) -> io::Result<()> {
        if self.is_at_home() {
            self.with(|state| state.detached = false);
            return Ok(());
        }
        with_reactor(|reactor| {
            epoll::delete(&self.home.epoll, &self.socket)?;
            self.home.leave(self.key);
            (self.key, self.generation) = reactor.insert();
            self.home = reactor.home.clone();
            self.watch()
        })
    }

    /// The socket.
    pub fn get_ref(&self) -> &T {
        &self.socket
    }

    /// The epoll data of the source: its generation in the high half, its slab key in the low.
    fn name(&self) -> EventData {
        EventData::new_u64(u64::from(self.generation) << 32 | u64::from(self.key))
    }

    fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        REACTOR.with(|reactor| {
            let reactor = reactor.as_ref().expect("the source was registered");
            work(&mut reactor.sources.borrow_mut()[self.key as usize])
        })
    }

    /// Whether the socket is known to be ready.
    pub fn is_ready(&self, direction: Direction) -> bool {
        self.with(|state| state.is_ready(direction))
    }

    /// Records that the last read took everything, so that the next waits for an edge.
    pub fn ran_dry(&self) {
        self.with(|state| {
            let more = state.hung_up || state.has_urgent;
            state.set_ready(Direction::Read, more);
        });
    }

    /// Marks the socket as readable, so that the next read calls the kernel.
    pub fn assume_readable(&self) {
        self.with(|state| state.set_ready(Direction::Read, true));
    }

    /// Records that the last operation returned EAGAIN.
    pub fn would_block(&self, direction: Direction) {
        let watch = self.with(|state| {
            state.set_ready(direction, false);
            direction == Direction::Write && !std::mem::replace(&mut state.watches_write, true)
        });
        if watch {
            let flags = WATCHED | EventFlags::OUT;
            // epoll reports an edge at once if the socket has become writable since.
            let _ = with_reactor(|reactor| {
                let name = self.name();
                Ok(epoll::modify(
                    &reactor.home.epoll,
                    &self.socket,
                    name,
                    flags,
                )?)
            });
        }
    }

    /// Waits until the socket is known to be ready.
    pub fn poll_ready(&self, direction: Direction, cx: &mut Context<'_>) -> Poll<()> {
        self.with(|state| {
            if state.is_ready(direction) {
                return Poll::Ready(());
            }
            state.end_only &= direction != Direction::Read;
            state.wait(direction, cx)
        })
    }

    /// Waits until the connection is broken (HUP or ERR), while nobody reads from it. A FIN from
    /// the peer alone does not count.
    pub fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_end(cx, |state| state.broken)
    }

    /// Whether HUP or ERR was reported.
    pub fn is_broken(&self) -> bool {
        self.with(|state| state.broken)
    }

    /// Waits until the peer's sending side has ended (FIN or reset), while nobody reads from it.
    pub fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_end(cx, |state| state.hung_up)
    }

    fn poll_end(&self, cx: &mut Context<'_>, has_ended: fn(&State) -> bool) -> Poll<()> {
        self.with(|state| {
            if has_ended(state) {
                return Poll::Ready(());
            }
            state.end_only = true;
            state.wait(Direction::Read, cx)
        })
    }

    /// Ends the registration of a socket that stays open in other threads.
    pub fn deregister(&self) {
        let _ = with_reactor(|reactor| Ok(epoll::delete(&reactor.home.epoll, &self.socket)?));
    }
}

impl<T> Drop for Source<T> {
    fn drop(&mut self) {
        // Closing the socket ends its registration with epoll (epoll(7)).
        let here = REACTOR.try_with(|reactor| match reactor {
            Ok(reactor) if Arc::ptr_eq(&reactor.home, &self.home) => {
                reactor.sources.borrow_mut().remove(self.key as usize);
                true
            }
            _ => false,
        });
        if !here.unwrap_or(false) {
            self.home.leave(self.key);
        }
    }
}
