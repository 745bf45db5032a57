//! Deadlines of one thread. Arming one is a store in a table, not a system call: a
//! single sweep per thread sleeps until the earliest and wakes what has expired.

use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::pin::{pin, Pin};
use std::rc::Rc;
use std::task::{ready, Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_io::Timer;
use pin_project_lite::pin_project;
use slab::Slab;

use crate::net::reactor::{next_look, now};

/// How much later than asked a deadline may strike; keeps sweeps rare under load.
const GRANULARITY: Duration = Duration::from_millis(20);

/// How long a client that was just accepted or answered may take to send what is already
/// on its way, although the thread drains.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// The time given for some work was over before the work was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// What a wait that is only patience may make room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// A client that may be served.
    Slot,
    /// One that is accepted beyond the limit of connections.
    BeyondTheLimit,
    /// A reader of the metrics.
    Scrape,
}

/// How a wait gives way to somebody who needs the room that it takes.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// What it takes.
    pub room: Room,
    /// The lowest rank goes first, and of one rank the longest.
    pub rank: u8,
    /// From when on.
    pub after: Duration,
}

/// All deadlines of one thread.
#[derive(Default)]
pub struct Timers {
    entries: RefCell<Slab<Entry>>,
    /// When the sweep next looks; later than the earliest deadline by the granularity at
    /// most.
    next_sweep: Cell<Option<Instant>>,
    sweeper: RefCell<Option<Waker>>,
    draining: Cell<bool>,
}

#[derive(Default)]
struct Entry {
    strikes_at: Option<Instant>,
    struck: bool,
    /// For a wait that a drain ends: when the drain may end it.
    drains_from: Option<Instant>,
    /// For a wait that gives way: to whom, its rank, and from when on.
    gives_way: Option<(Room, u8, Instant)>,
    /// The wait has ended because it did.
    gave_way: bool,
    waker: Option<Waker>,
}

impl Timers {
    /// Strikes each deadline when its time comes. Runs for as long as the thread.
    pub async fn sweep(&self) {
        loop {
            self.due().await;
            // Should the thread have been held up, the sockets that have become ready meanwhile
            // are served before a deadline strikes: their tasks may disarm it. Another thread
            // may have woken this task while it was still waking those that read.
            next_look().await;
            self.strike_due(Instant::now());
        }
    }

    /// Waits until the next sweep is due.
    async fn due(&self) {
        let mut timer = Timer::never();
        let mut set_for = None;
        poll_fn(|cx| {
            *self.sweeper.borrow_mut() = Some(cx.waker().clone());
            loop {
                let next = self.next_sweep.get();
                if next == set_for {
                    return pin!(&mut timer).poll(cx).map(drop);
                }
                set_for = next;
                timer = next.map_or_else(Timer::never, Timer::at);
            }
        })
        .await
    }

    fn strike_due(&self, now: Instant) {
        let mut earliest: Option<Instant> = None;
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            let Some(at) = entry.strikes_at else { continue };
            if at <= now {
                entry.strike();
            } else {
                earliest = Some(earliest.map_or(at, |earliest| earliest.min(at)));
            }
        }
        self.next_sweep
            .set(earliest.map(|at| at.max(now + GRANULARITY)));
    }

    /// Ends every wait that is only for a next request, now and from now on, once it has
    /// had its grace.
    pub fn drain(&self) {
        self.draining.set(true);
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            if let Some(from) = entry.drains_from {
                entry.strikes_at = Some(entry.strikes_at.map_or(from, |at| at.min(from)));
            }
        }
        self.sweep_by(Instant::now());
    }

    /// Ends one wait that gives way to who needs `room`: that of the lowest rank, and of those
    /// the one that could have been ended for the longest. False where there is none.
    pub fn make_room(&self, room: Room) -> bool {
        let now = Instant::now();
        let mut entries = self.entries.borrow_mut();
        let first = entries
            .iter_mut()
            .filter(|(_, entry)| !entry.struck)
            .filter_map(|(_, entry)| match entry.gives_way {
                Some((wanted, rank, from)) if wanted == room && from <= now => {
                    Some(((rank, from), entry))
                }
                _ => None,
            })
            .min_by_key(|(order, _)| *order);
        match first {
            Some((_, entry)) => {
                entry.gave_way = true;
                entry.strike();
                true
            }
            None => false,
        }
    }

    /// Whether the thread is finishing what is open before it ends.
    pub fn draining(&self) -> bool {
        self.draining.get()
    }

    fn sweep_by(&self, at: Instant) {
        if self.next_sweep.get().is_none_or(|next| at < next) {
            self.next_sweep.set(Some(at));
            if let Some(sweeper) = &*self.sweeper.borrow() {
                sweeper.wake_by_ref();
            }
        }
    }
}

impl Entry {
    fn set(&mut self, strikes_at: Option<Instant>) {
        self.strikes_at = strikes_at;
        self.drains_from = None;
        self.gives_way = None;
        self.struck = false;
    }

    fn strike(&mut self) {
        self.strikes_at = None;
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
        let key = timers.entries.borrow_mut().insert(Entry::default());
        Deadline {
            timers: timers.clone(),
            key,
        }
    }

    /// Strikes `after` from now, in place of any earlier arming; zero is never.
    pub fn arm(&self, after: Duration) {
        let at = match after {
            Duration::ZERO => None,
            _ => now().checked_add(after),
        };
        {
            let mut entries = self.timers.entries.borrow_mut();
            let entry = &mut entries[self.key];
            entry.set(at);
            entry.gave_way = false;
        }
        if let Some(at) = at {
            self.timers.sweep_by(at);
        }
    }

    /// Never strikes until it is armed again.
    pub fn disarm(&self) {
        // The waker stays registered: the same task is likely to wait again.
        self.timers.entries.borrow_mut()[self.key].set(None);
    }

    /// Whether the last wait has ended to make room for somebody else.
    pub fn gave_way(&self) -> bool {
        self.timers.entries.borrow()[self.key].gave_way
    }

    /// Waits until it strikes; it has struck until it is armed again.
    pub fn poll_struck(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut entries = self.timers.entries.borrow_mut();
        let entry = &mut entries[self.key];
        if entry.struck {
            return Poll::Ready(());
        }
        match &entry.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => entry.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Does `work`, for at most `after` from now; zero is without limit. The work may arm
    /// the deadline again as it makes progress.
    pub fn limit<F: Future>(&self, after: Duration, work: F) -> Limit<'_, F> {
        self.arm(after);
        Limit {
            deadline: self,
            work,
        }
    }

    /// Like [`limit`](Self::limit), and over when the thread drains, after some grace.
    pub fn limit_or_drain<F: Future>(&self, after: Duration, work: F) -> Limit<'_, F> {
        if self.timers.draining() {
            return self.limit(after.min(DRAIN_GRACE), work);
        }
        let limit = self.limit(after, work);
        let from = now() + DRAIN_GRACE;
        self.timers.entries.borrow_mut()[self.key].drains_from = Some(from);
        limit
    }
}

pin_project! {
    /// Work under a deadline.
    // An async fn would hold the work twice, and move it before it begins.
    pub struct Limit<'a, F> {
        deadline: &'a Deadline,
        #[pin]
        work: F,
    }
}

impl<F> Limit<'_, F> {
    /// Lets the work end early for somebody who needs the room that it takes.
    pub fn giving_way(self, way: Way) -> Self {
        let from = now() + way.after;
        let mut entries = self.deadline.timers.entries.borrow_mut();
        entries[self.deadline.key].gives_way = Some((way.room, way.rank, from));
        drop(entries);
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
    fn room_is_made_by_the_lowest_rank_and_of_it_by_the_longest() {
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
            let wait = idle.limit_or_drain(Duration::from_secs(60), future::pending::<()>());
            assert_eq!(future::or(wait, drain).await, Err(TimedOut));
            assert_eq!(busy.limit(Duration::ZERO, async { 1 }).await, Ok(1));
        });
    }
}
