//! The readiness of sockets, through async-io's `Async`.

use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::io;
use std::os::fd::AsFd;
use std::pin::{pin, Pin};
use std::task::{ready, Context, Poll, Waker};
use std::time::Duration;

use async_io::{Async, Timer};
use rustix::event::{self, PollFd, PollFlags, Timespec};

use super::Direction;
use crate::net::tick::Tick;

pub use futures_lite::future::yield_now as next_turn;

/// Queues a task after all others that are ready to run.
pub fn wake_next_turn(waker: &Waker) {
    waker.wake_by_ref();
}

/// Waits until async-io has polled the sockets. Yielding is not enough, because a task may be
/// run many times before that; timers are polled together with the sockets.
pub async fn next_look() {
    Timer::after(Duration::from_micros(100)).await;
}

/// The same as `next_look`: async-io does not say whether it has fetched every event, and
/// `poll_ready` asks the kernel about its own socket anyway.
pub use next_look as all_told;

/// The time.
pub fn now() -> Tick {
    Tick::read()
}

/// How many bytes a task that never has to wait may move before it yields to the other tasks
/// of its thread.
pub fn share() -> usize {
    256 * 1024
}

/// Always 0: async-io does not say when it has fetched every event.
pub fn looks() -> u64 {
    0
}

/// Runs `work` on this thread. Calls `before_wait` after each poll of `work`, and again after
/// the time that it returns.
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

/// How often poll(2) checks whether a socket that nobody reads from has ended.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// How long the end of a detached source may go unnoticed: `poll_stirred` is ready this often.
pub const BLIND: Duration = Duration::from_millis(500);

/// Waits until a detached source of this thread may have become readable.
pub fn poll_stirred(cx: &mut Context<'_>) -> Poll<()> {
    thread_local! {
        static NEXT: RefCell<Timer> = RefCell::new(Timer::after(BLIND));
    }
    NEXT.with_borrow_mut(|next| {
        ready!(Pin::new(&mut *next).poll(cx));
        next.set_after(BLIND);
        Poll::Ready(())
    })
}

/// The events of poll(2) for a broken connection, and for one whose peer's sending side has
/// ended. Apple's poll has no event of its own for the latter: it reports HUP for both.
#[cfg(not(target_vendor = "apple"))]
const BROKEN: PollFlags = PollFlags::HUP.union(PollFlags::ERR);
#[cfg(not(target_vendor = "apple"))]
const ENDED: PollFlags = BROKEN.union(PollFlags::RDHUP);
#[cfg(target_vendor = "apple")]
const BROKEN: PollFlags = PollFlags::ERR;
#[cfg(target_vendor = "apple")]
const ENDED: PollFlags = PollFlags::HUP.union(PollFlags::ERR);

/// A non-blocking socket registered with async-io.
pub struct Source<T> {
    inner: Async<T>,
    readable: Cell<bool>,
    writable: Cell<bool>,
    waits: [Cell<bool>; 2],
    next_check: RefCell<Option<Timer>>,
}

impl<T: AsFd> Source<T> {
    /// Registers a socket. It counts as not readable until the kernel reports it.
    pub fn new(socket: T) -> io::Result<Source<T>> {
        Ok(Source {
            inner: Async::new_nonblocking(socket)?,
            readable: Cell::new(false),
            writable: Cell::new(true),
            waits: Default::default(),
            next_check: RefCell::default(),
        })
    }

    /// Always false: no thread knows the readiness without asking the kernel.
    pub fn is_at_home(&self) -> bool {
        false
    }

    /// Ends the wait for an end of the connection; the source must not be used until `attach`.
    pub fn detach(&mut self) {
        *self.next_check.borrow_mut() = None;
    }

    /// Makes a detached source usable on this thread.
    pub fn attach(&mut self) -> io::Result<()> {
        self.readable.set(false);
        self.waits = Default::default();
        Ok(())
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

    /// Whether the socket is known to be ready.
    pub fn is_ready(&self, direction: Direction) -> bool {
        self.flag(direction).get()
    }

    /// Records that the last read took everything, so that the next waits for more.
    pub fn ran_dry(&self) {
        self.readable.set(false);
    }

    /// Marks the socket as readable, so that the next read calls the kernel.
    pub fn assume_readable(&self) {
        self.readable.set(true);
    }

    /// Records that the last operation returned EAGAIN.
    pub fn would_block(&self, direction: Direction) {
        self.flag(direction).set(false);
    }

    /// Waits until the socket is known to be ready.
    pub fn poll_ready(&self, direction: Direction, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_ready(direction) {
            // If the wait fails, the operation that follows fails with the reason.
            let (told, readiness) = match direction {
                Direction::Read => (self.inner.poll_readable(cx).map(drop), PollFlags::IN),
                Direction::Write => (self.inner.poll_writable(cx).map(drop), PollFlags::OUT),
            };
            // async-io does not report readiness that arrived in the turn in which the wait
            // began. A task that is polled because its deadline has expired needs it
            // nevertheless, so the kernel is asked when a wait is polled again.
            let goes_on = self.waits(direction).replace(told.is_pending());
            if told.is_pending() && !(goes_on && self.has(readiness | BROKEN)) {
                return Poll::Pending;
            }
            self.waits(direction).set(false);
            self.flag(direction).set(true);
        }
        Poll::Ready(())
    }

    /// Whether a wait has begun and is not over.
    fn waits(&self, direction: Direction) -> &Cell<bool> {
        &self.waits[direction as usize]
    }

    /// Waits until the connection is broken (HUP or ERR), while nobody reads from it. A FIN from
    /// the peer alone does not count.
    pub fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_end(cx, BROKEN)
    }

    /// Whether poll(2) reports the connection as broken.
    pub fn is_broken(&self) -> bool {
        self.has(BROKEN)
    }

    /// Waits until the peer's sending side has ended (FIN or reset), while nobody reads from it.
    pub fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_end(cx, ENDED)
    }

    /// Asks the kernel at intervals, because `Async` cannot wait for an end alone.
    fn poll_end(&self, cx: &mut Context<'_>, ends: PollFlags) -> Poll<()> {
        let mut next = self.next_check.borrow_mut();
        let timer = next.get_or_insert_with(|| Timer::after(CHECK_INTERVAL));
        while Pin::new(&mut *timer).poll(cx).is_ready() {
            timer.set_after(CHECK_INTERVAL);
            if self.has(ends) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Asks the kernel (poll(2)) whether one of these events holds.
    fn has(&self, ends: PollFlags) -> bool {
        let mut asked = [PollFd::new(self.get_ref(), ends)];
        let answer = event::poll(&mut asked, Some(&Timespec::default()));
        answer.is_ok() && asked[0].revents().intersects(ends)
    }

    /// Does nothing, since dropping an `Async` ends its registration.
    pub fn deregister(&self) {}
}
