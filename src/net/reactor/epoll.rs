//! The readiness of sockets, told by epoll.

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

/// Events taken from the kernel at once.
const BATCH: usize = 256;

/// What all together may move in a turn, and the bounds of one's part in it.
const ALL_SHARES: usize = 8 * 1024 * 1024;
const LARGEST_SHARE: usize = 1024 * 1024;

/// What every socket is watched for. A read ends before urgent data (tcp(7)), so that after
/// PRI a short read does not mean that nothing more has arrived.
const WATCHED: EventFlags = EventFlags::IN
    .union(EventFlags::PRI)
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

/// Names the eventfd among the sources.
const WAKEUP: u64 = u64::MAX;

/// How long the end of a detached source may go unnoticed: epoll tells at once.
pub const BLIND: Duration = Duration::ZERO;

struct Reactor {
    home: Arc<Home>,
    sources: RefCell<Slab<State>>,
    /// How many sockets were registered so far.
    registered: Cell<u32>,
    /// Tasks that let the others have their turn.
    deferred: RefCell<Vec<Waker>>,
    /// How many waits gave fewer events than there was room for, so that none was left.
    looks: Cell<u64>,
    /// How many events and deferred tasks this turn began with.
    crowd: Cell<usize>,
    alarm: Arc<Alarm>,
    /// Who is told that a detached source has become readable.
    stirred: RefCell<Stirred>,
}

/// What other threads need of a thread's reactor.
struct Home {
    epoll: OwnedFd,
    /// Keys of sources that other threads have taken over or closed. Only this thread can
    /// free them.
    left: Mutex<Vec<u32>>,
    any_left: AtomicBool,
}

impl Home {
    fn left(&self) -> MutexGuard<'_, Vec<u32>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The source with this key has left for another thread.
    fn leave(&self, key: u32) {
        self.left().push(key);
        self.any_left.store(true, Relaxed);
    }
}

/// Whether a detached source has become readable, and who waits to know.
#[derive(Default)]
struct Stirred {
    has: bool,
    waker: Option<Waker>,
}

/// What is known of the time.
#[derive(Clone, Copy)]
enum Clock {
    /// The thread takes no turns.
    Stopped,
    /// Nobody has asked in this turn.
    Unread,
    Read(Tick),
}

#[derive(Default)]
struct State {
    /// For each direction, whether the socket is known to be ready.
    ready: [bool; 2],
    /// For each direction, who waits for that.
    wakers: [Option<Waker>; 2],
    /// The peer will send no more: reads go on to the end without an edge.
    hung_up: bool,
    /// The connection is no more.
    broken: bool,
    /// Urgent data has come: a read ends before it, however much follows (tcp(7)).
    has_urgent: bool,
    /// Who waits for a read is only to be told of an end.
    end_only: bool,
    /// Writability is watched only once a write has blocked.
    watches_write: bool,
    /// Nobody on this thread uses the socket now.
    detached: bool,
    /// Tells the socket from an earlier one of the same key.
    generation: u32,
}

impl State {
    fn is_ready(&self, direction: Direction) -> bool {
        self.ready[direction as usize]
    }

    fn set_ready(&mut self, direction: Direction, ready: bool) {
        self.ready[direction as usize] = ready;
    }

    /// The socket is ready: whoever waits for that is woken.
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
            // EAGAIN means that the counter is at its limit: the eventfd is readable already.
            let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        }
    }
}

thread_local! {
    static REACTOR: io::Result<Reactor> = Reactor::new();
    /// The time of this turn. Apart from the reactor, since it is asked for far more often
    /// and needs no check of whether it is there yet.
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
        // Edge-triggered: every write is an edge, and nothing needs to be read back.
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

    /// Gives a new state its key, and its generation.
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
            // A socket that was closed is still told of for as long as another process
            // holds it; looking into /proc is enough for that.
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

/// The time, read once in a turn of the thread: for deadlines and for what a request
/// took, which need it often and not to the microsecond.
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

/// How many bytes a task that never has to wait may move before it yields to the others of its
/// thread: fewer, the more of them there are.
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

/// Waits until a detached source of this thread has become readable, since the last time.
/// For one task of the thread.
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

/// Wakes a task once the thread has looked at its other sockets: for work that never has to
/// wait for its own.
pub fn wake_next_turn(waker: &Waker) {
    let noted = with_reactor(|reactor| {
        reactor.deferred.borrow_mut().push(waker.clone());
        Ok(())
    });
    if noted.is_err() {
        waker.wake_by_ref();
    }
}

/// Waits until the thread has looked at its other sockets.
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

/// The same, where `next_turn` is not enough for it elsewhere.
pub use next_turn as next_look;

/// Waits until the thread has learned all that its sockets had to tell: a turn that a signal
/// interrupted tells nothing, a full one not everything, and a task that another thread wakes is
/// polled before its turn has come. Where every turn is full, there is an end to the patience.
pub async fn all_told() {
    const PATIENCE: usize = 64;
    let before = looks();
    for _ in 0..PATIENCE {
        next_turn().await;
        if looks() != before {
            return;
        }
    }
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
    /// The reactor whose slab `key` belongs to.
    home: Arc<Home>,
    socket: T,
}

impl<T: AsFd> Source<T> {
    /// Registers a socket; not ready to be read until the kernel says so.
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

    /// Whether this thread is the one that it is registered with.
    pub fn is_at_home(&self) -> bool {
        REACTOR.with(|reactor| {
            let home = reactor.as_ref().map(|reactor| &reactor.home);
            home.is_ok_and(|home| Arc::ptr_eq(home, &self.home))
        })
    }

    /// Nobody waits for it any more, and until `attach` nobody uses it. The kernel goes on
    /// telling this thread of it.
    pub fn detach(&mut self) {
        self.with(|state| {
            state.detached = true;
            state.wakers = [None, None];
        });
    }

    /// Makes a detached source one of this thread, which need not be the one that has
    /// detached it. What is known of its readiness stays only there. On failure it is fit
    /// only to be dropped.
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

    /// Whether the socket is known to be ready.
    pub fn is_ready(&self, direction: Direction) -> bool {
        self.with(|state| state.is_ready(direction))
    }

    /// The last read took all there was: the next waits for an edge.
    pub fn ran_dry(&self) {
        self.with(|state| {
            let more = state.hung_up || state.has_urgent;
            state.set_ready(Direction::Read, more);
        });
    }

    /// Lets the next read ask the kernel.
    pub fn assume_readable(&self) {
        self.with(|state| state.set_ready(Direction::Read, true));
    }

    /// The last attempt would have blocked.
    pub fn would_block(&self, direction: Direction) {
        let watch = self.with(|state| {
            state.set_ready(direction, false);
            direction == Direction::Write && !std::mem::replace(&mut state.watches_write, true)
        });
        if watch {
            let flags = WATCHED | EventFlags::OUT;
            // epoll reports an edge at once if the socket is writable by now.
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

    /// Waits until the connection is reset, while nobody reads from it. An end of the
    /// peer's sending side is no reset.
    pub fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_end(cx, |state| state.broken)
    }

    /// Whether the thread was told that the connection is no more.
    pub fn is_broken(&self) -> bool {
        self.with(|state| state.broken)
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
