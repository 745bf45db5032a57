//! The deadlines of one thread. Arming one is a store in a table, not a system call: a single
//! sweep per thread sleeps until the earliest and wakes the tasks whose deadlines have expired.

use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::pin::{pin, Pin};
use std::rc::Rc;
use std::task::{ready, Context, Poll, Waker};
use std::time::Duration;

use async_io::Timer;
use pin_project_lite::pin_project;
use slab::Slab;

use crate::net::reactor::{all_told, now};
use crate::net::tick::Tick;

/// How much later than asked a deadline may strike, which keeps sweeps rare under load.
const GRANULARITY: Duration = Duration::from_millis(20);

/// How long a drain waits for a request that is already in flight from a client that was just
/// accepted or answered.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// The deadline of some work expired before the work was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// The kind of place that an idle wait occupies, and that a new connection may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// One of the connections that may be served at a time.
    Slot,
    /// A connection accepted beyond that limit.
    BeyondTheLimit,
    /// A connection to the metrics listener.
    Scrape,
}

/// How a wait gives way: it may be ended early for a new connection that needs its room.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The room that the wait occupies.
    pub room: Room,
    /// Waits of the lowest rank are ended first, and of these the oldest.
    pub rank: u8,
    /// How long the wait cannot be ended early.
    pub after: Duration,
}

/// All deadlines of one thread.
pub struct Timers {
    entries: RefCell<Slab<Entry>>,
    /// When the next sweep is due, at most `GRANULARITY` after the earliest deadline.
    next_sweep: Cell<Tick>,
    sweeper: RefCell<Option<Waker>>,
    draining: Cell<bool>,
}

struct Entry {
    strikes_at: Tick,
    /// When a drain may end the wait; `NEVER` if it may not.
    drains_from: Tick,
    /// When the wait may be ended to make room; `NEVER` if it may not.
    gives_way_from: Tick,
    waker: Option<Waker>,
    room: Room,
    rank: u8,
    struck: bool,
    /// The wait has ended because it gave way.
    gave_way: bool,
}

impl Default for Timers {
    fn default() -> Timers {
        Timers {
            entries: RefCell::default(),
            next_sweep: Cell::new(Tick::NEVER),
            sweeper: RefCell::default(),
            draining: Cell::new(false),
        }
    }
}

impl Timers {
    /// Strikes each deadline when its time comes. Runs for as long as the thread.
    pub async fn sweep(&self) {
        loop {
            self.due().await;
            // If the thread was held up, tasks whose sockets have become ready in the meantime
            // run before a deadline strikes, because they may disarm it. Another thread (that of
            // the timer) may wake this task before the events of those sockets are fetched.
            all_told().await;
            self.strike_due(Tick::read());
        }
    }

    /// Waits until the next sweep is due.
    async fn due(&self) {
        let mut timer = Timer::never();
        let mut set_for = Tick::NEVER;
        poll_fn(|cx| {
            *self.sweeper.borrow_mut() = Some(cx.waker().clone());
            loop {
                let next = self.next_sweep.get();
                if next == set_for {
                    return pin!(&mut timer).poll(cx).map(drop);
                }
                set_for = next;
                timer = match next {
                    Tick::NEVER => Timer::never(),
                    at => Timer::after(at.left()),
                };
            }
        })
        .await
    }

    fn strike_due(&self, now: Tick) {
        let mut earliest = Tick::NEVER;
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            if entry.strikes_at <= now {
                entry.strike();
            } else {
                earliest = earliest.min(entry.strikes_at);
            }
        }
        let soonest = now + GRANULARITY;
        self.next_sweep.set(earliest.max(soonest));
    }

    /// Starts the drain: ends every wait for a next request, including those that begin later,
    /// once its `DRAIN_GRACE` is over.
    pub fn drain(&self) {
        self.draining.set(true);
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            entry.strikes_at = entry.strikes_at.min(entry.drains_from);
        }
        self.sweep_by(now());
    }

    /// Ends one wait that occupies `room` and may be ended: one of the lowest rank, and of these
    /// the one that may have been ended for the longest. False if there is none.
    pub fn make_room(&self, room: Room) -> bool {
        let now = Tick::read();
        let mut entries = self.entries.borrow_mut();
        let first = entries
            .iter_mut()
            .map(|(_, entry)| entry)
            .filter(|entry| !entry.struck && entry.gives_way_from <= now && entry.room == room)
            .min_by_key(|entry| (entry.rank, entry.gives_way_from));
        match first {
            Some(entry) => {
                entry.gave_way = true;
                entry.strike();
                true
            }
            None => false,
        }
    }

    /// Whether the thread drains: it finishes its open requests before it ends.
    pub fn draining(&self) -> bool {
        self.draining.get()
    }

    fn sweep_by(&self, at: Tick) {
        if at < self.next_sweep.get() {
            self.next_sweep.set(at);
            if let Some(sweeper) = &*self.sweeper.borrow() {
                sweeper.wake_by_ref();
            }
        }
    }
}

/// `after` later than `now`; `NEVER` if `after` is zero.
#[inline]
fn later(now: Tick, after: Duration) -> Tick {
    match after {
        Duration::ZERO => Tick::NEVER,
        _ => now + after,
    }
}

impl Entry {
    /// An entry that never strikes.
    const IDLE: Entry = Entry {
        strikes_at: Tick::NEVER,
        drains_from: Tick::NEVER,
        gives_way_from: Tick::NEVER,
        waker: None,
        room: Room::Slot,
        rank: 0,
        struck: false,
        gave_way: false,
    };

    fn set(&mut self, strikes_at: Tick, drains_from: Tick) {
        self.strikes_at = strikes_at;
        self.drains_from = drains_from;
        self.gives_way_from = Tick::NEVER;
        self.struck = false;
    }

    fn give_way(&mut self, way: Way, now: Tick) {
        self.gives_way_from = now + way.after;
        (self.room, self.rank) = (way.room, way.rank);
    }

    fn strike(&mut self) {
        self.strikes_at = Tick::NEVER;
        self.struck = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// One deadline, reused for wait after wait.
pub struct Deadline {
    timers: Rc<Timers>,
    key: usize,
}

impl Deadline {
    /// A deadline that is not armed.
    pub fn new(timers: &Rc<Timers>) -> Deadline {
        let key = timers.entries.borrow_mut().insert(Entry::IDLE);
        Deadline {
            timers: timers.clone(),
            key,
        }
    }

    /// Sets the deadline to `after` from now, replacing an earlier one; zero is never.
    pub fn arm(&self, after: Duration) {
        let strikes_at = later(now(), after);
        self.entry(|entry| {
            entry.set(strikes_at, Tick::NEVER);
            entry.gave_way = false;
        });
        self.timers.sweep_by(strikes_at);
    }

    #[inline]
    fn entry<T>(&self, work: impl FnOnce(&mut Entry) -> T) -> T {
        work(&mut self.timers.entries.borrow_mut()[self.key])
    }

    /// Clears the deadline until it is armed again.
    pub fn disarm(&self) {
        // The waker stays, because the same task is likely to wait again.
        self.entry(|entry| entry.set(Tick::NEVER, Tick::NEVER));
    }

    /// Whether the last wait was ended to make room for another connection.
    pub fn gave_way(&self) -> bool {
        self.entry(|entry| entry.gave_way)
    }

    /// Waits until the deadline strikes; ready from then on until it is armed again.
    pub fn poll_struck(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.entry(|entry| {
            if entry.struck {
                return Poll::Ready(());
            }
            match &entry.waker {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => entry.waker = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
    }

    /// Runs `work` for at most `after` from now; zero is without limit. The work may arm the
    /// deadline again as it makes progress.
    pub fn limit<F: Future>(&self, after: Duration, work: F) -> Limit<'_, F> {
        self.arm(after);
        Limit {
            deadline: self,
            work,
        }
    }

    /// Like [`limit`](Self::limit), for a wait in which no request has begun: a drain ends it
    /// after `DRAIN_GRACE`, and `make_room` may end it as `way` says.
    pub fn limit_idle<F: Future>(&self, after: Duration, way: Way, work: F) -> Limit<'_, F> {
        let now = now();
        let drains_from = later(now, DRAIN_GRACE);
        let mut strikes_at = later(now, after);
        if self.timers.draining() {
            strikes_at = strikes_at.min(drains_from);
        }
        self.entry(|entry| {
            entry.set(strikes_at, drains_from);
            entry.gave_way = false;
            entry.give_way(way, now);
        });
        self.timers.sweep_by(strikes_at);
        Limit {
            deadline: self,
            work,
        }
    }
}

pin_project! {
    /// Work under a deadline.
    // Not an async fn, whose future would hold the work twice and move it before it begins.
    pub struct Limit<'a, F> {
        deadline: &'a Deadline,
        #[pin]
        work: F,
    }
}

impl<F> Limit<'_, F> {
    /// Lets `make_room` end the work early, as `way` says.
    pub fn giving_way(self, way: Way) -> Self {
        let now = now();
        self.deadline.entry(|entry| entry.give_way(way, now));
        self
    }
}

impl<F: Future> Future for Limit<'_, F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = match this.work.poll(cx) {
            Poll::Ready(done) => Ok(done),
            Poll::Pending => {
                ready!(this.deadline.poll_struck(cx));
                Err(TimedOut)
            }
        };
        this.deadline.disarm();
        Poll::Ready(outcome)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.timers.entries.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::reactor::next_turn;
    use futures_lite::future;

    fn with_timers<T>(work: impl AsyncFnOnce(Rc<Timers>) -> T) -> T {
        let timers = Rc::new(Timers::default());
        let both = future::or(work(timers.clone()), async {
            timers.sweep().await;
            unreachable!("the sweep never ends")
        });
        crate::net::reactor::block_on(both, || None).expect("the reactor runs")
    }

    #[test]
    fn strikes_in_order_of_time_not_of_arming() {
        with_timers(async |timers| {
            let late = Deadline::new(&timers);
            let soon = Deadline::new(&timers);
            let first = future::race(
                async {
                    let _ = late
                        .limit(Duration::from_secs(60), future::pending::<()>())
                        .await;
                    "late"
                },
                async {
                    let _ = soon
                        .limit(Duration::from_millis(5), future::pending::<()>())
                        .await;
                    "soon"
                },
            );
            assert_eq!(first.await, "soon");
        });
    }

    #[test]
    fn work_that_is_done_in_time_gives_its_result() {
        with_timers(async |timers| {
            let deadline = Deadline::new(&timers);
            let work = deadline.limit(Duration::from_secs(60), async { 7 });
            assert_eq!(work.await, Ok(7));
        });
    }

    #[test]
    fn make_room_ends_the_oldest_wait_of_the_lowest_rank() {
        let order = with_timers(async |timers| {
            let ended = RefCell::new(Vec::new());
            let wait = async |name: char, room: Room, rank: u8, after: u64| {
                let deadline = Deadline::new(&timers);
                let after = Duration::from_millis(after);
                let way = Way { room, rank, after };
                let wait = deadline.limit(Duration::from_secs(60), future::pending::<()>());
                assert_eq!(wait.giving_way(way).await, Err(TimedOut));
                assert!(deadline.gave_way());
                ended.borrow_mut().push(name);
            };
            let waits = async {
                let a = future::zip(wait('a', Room::Slot, 1, 0), wait('b', Room::Slot, 0, 1));
                let b = future::zip(
                    wait('c', Room::Slot, 0, 0),
                    wait('d', Room::Slot, 0, 60_000),
                );
                future::zip(future::zip(a, b), wait('e', Room::Scrape, 0, 0)).await
            };
            let making = async {
                std::thread::sleep(Duration::from_millis(5));
                for made in [true, true, true, false] {
                    next_turn().await;
                    assert_eq!(timers.make_room(Room::Slot), made);
                    next_turn().await;
                }
            };
            let waits = async {
                waits.await;
            };
            future::or(waits, making).await;
            ended.into_inner()
        });
        assert_eq!(order, ['c', 'b', 'a']);
    }

    #[test]
    fn a_drain_ends_only_the_waits_for_a_next_request() {
        with_timers(async |timers| {
            let idle = Deadline::new(&timers);
            let busy = Deadline::new(&timers);
            let drain = async {
                timers.drain();
                future::pending().await
            };
            let way = Way {
                room: Room::Slot,
                rank: 0,
                after: Duration::ZERO,
            };
            let minute = Duration::from_secs(60);
            let wait = idle.limit_idle(minute, way, future::pending::<()>());
            assert_eq!(future::or(wait, drain).await, Err(TimedOut));
            // A wait that begins during the drain, without a time limit.
            let wait = idle.limit_idle(Duration::ZERO, way, future::pending::<()>());
            assert_eq!(wait.await, Err(TimedOut));
            assert_eq!(busy.limit(Duration::ZERO, async { 1 }).await, Ok(1));
        });
    }
}
