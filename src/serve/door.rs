//! Who may come in: the slots that the limit of connections gives, the few places beyond it,
//! and who gives way when all of them are taken.
//!
//! A client beyond the limit is accepted for its request head alone. With its head read it
//! waits for a slot, and for it a connection that does nothing is closed.

use std::future::{poll_fn, Future};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_io::Timer;
use futures_lite::future::{self, poll_once};
use smol::channel::{self, Receiver, Sender};
use smol::lock::{self, Semaphore, SemaphoreGuardArc};

use crate::net::deadline::{Room, Timers, Way};
use crate::net::reactor::next_turn;
use crate::report::log;

/// Clients accepted beyond the limit, for their heads alone.
const BEYOND: usize = 16;

/// How long after one look for a connection that may give way the next follows: some do so
/// only with time.
const NEXT_LOOK: Duration = Duration::from_millis(100);

/// The same where one was found, whose slot is on its way.
const AFTER_SUCCESS: Duration = Duration::from_secs(1);

/// How often the log says that the limit is reached.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Requests to make room that may wait for a thread; it will look anyway.
const ASKS: usize = 64;

/// What a connection is doing while it may give way, the first to go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It has its last response; only its end is awaited.
    Leaving,
    /// It has sent nothing yet, or is in its TLS handshake.
    Silent,
    /// It has begun a request head.
    Head,
    /// It is idle between two requests.
    Idle,
    /// The same, and an upstream connection that it has authenticated would end with it.
    Bound,
}

impl Doing {
    /// After how long it may give way.
    fn patience(self) -> Duration {
        match self {
            Doing::Head => Duration::from_secs(5),
            Doing::Leaving | Doing::Silent | Doing::Idle | Doing::Bound => Duration::from_secs(1),
        }
    }
}

/// Counts as one client for as long as it lives.
pub type Permit = SemaphoreGuardArc;

/// What an accepted client holds until its connection ends.
pub enum Place {
    /// One of the slots.
    Slot(Permit),
    /// One of the places beyond the limit.
    Beyond(Permit),
}

impl Place {
    /// Whether the client is one beyond the limit.
    pub fn is_beyond(&self) -> bool {
        matches!(self, Place::Beyond(_))
    }

    /// What keeps the place.
    pub fn into_permit(self) -> Permit {
        match self {
            Place::Slot(permit) | Place::Beyond(permit) => permit,
        }
    }

    /// To whom a wait for the client gives way.
    pub fn way(&self, doing: Doing) -> Way {
        match self {
            Place::Slot(_) => Way {
                room: Room::Slot,
                rank: doing as u8,
                after: doing.patience(),
            },
            // Without a head after a second, whatever it has sent.
            Place::Beyond(_) => Way {
                room: Room::BeyondTheLimit,
                rank: 0,
                after: Doing::Silent.patience(),
            },
        }
    }
}

/// The door, as one thread sees it.
#[derive(Clone)]
pub struct Door {
    shared: Arc<Shared>,
    thread: usize,
}

/// What all threads share.
struct Shared {
    limit: usize,
    slots: Arc<Semaphore>,
    beyond: Arc<Semaphore>,
    /// Held by the one that waits for a slot; others queue for this, first come first served. A
    /// semaphore gives its permit to whoever is polled first.
    turn: lock::Mutex<()>,
    /// Clients whose head is read and that wait for a slot.
    waiting: AtomicUsize,
    /// Asks each thread for room.
    threads: Box<[Sender<Ask>]>,
    told: Mutex<Option<Instant>>,
}

/// One thread asks the others, one after the other, to make room.
pub struct Ask {
    room: Room,
    /// How many threads have looked.
    asked: usize,
}

impl Door {
    /// The door of each of so many threads, and what others will ask of it.
    pub fn new(limit: usize, threads: usize) -> Vec<(Door, Receiver<Ask>)> {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..threads).map(|_| channel::bounded(ASKS)).unzip();
        let shared = Arc::new(Shared {
            limit,
            slots: Arc::new(Semaphore::new(limit)),
            beyond: Arc::new(Semaphore::new(BEYOND)),
            turn: lock::Mutex::new(()),
            waiting: AtomicUsize::new(0),
            threads: senders.into(),
            told: Mutex::default(),
        });
        let door = |(thread, asks)| {
            let shared = shared.clone();
            (Door { shared, thread }, asks)
        };
        receivers.into_iter().enumerate().map(door).collect()
    }

    /// One that lets everybody in.
    pub fn open() -> Door {
        Door::new(usize::MAX >> 4, 1).remove(0).0
    }

    /// Whether a client waits for a slot.
    pub fn is_waited_at(&self) -> bool {
        self.shared.waiting.load(Relaxed) > 0
    }

    /// A place for a client that has come, if there is one now. Those whose heads are read
    /// come before it.
    pub fn try_place(&self) -> Option<Place> {
        if !self.is_waited_at() {
            if let Some(slot) = self.shared.slots.try_acquire_arc() {
                return Some(Place::Slot(slot));
            }
        }
        self.tell_reached();
        self.shared.beyond.try_acquire_arc().map(Place::Beyond)
    }

    /// Waits for a place for a client that has come. Of those beyond the limit the oldest
    /// without a head gives way to it.
    pub async fn place(&self, timers: &Timers) -> Place {
        if let Some(place) = self.try_place() {
            return place;
        }
        let shared = &self.shared;
        // A slot that becomes free is for those whose heads are read. A wait for one is dropped
        // while there are any, and so hands its wake-up on; whether there are is looked at again
        // with each look for a connection that gives way.
        let mut wait = None;
        let slot = poll_fn(|cx| {
            if self.is_waited_at() {
                wait = None;
                return Poll::Pending;
            }
            let wait = wait.get_or_insert_with(|| Box::pin(shared.slots.acquire_arc()));
            wait.as_mut().poll(cx).map(Place::Slot)
        });
        let beyond = async { Place::Beyond(shared.beyond.acquire_arc().await) };
        let place = future::or(slot, beyond);
        making_room(|| self.make_room(Room::BeyondTheLimit, timers), place).await
    }

    /// Waits for a slot for a client whose head is read. They are served in the order in which
    /// their heads were.
    pub async fn slot(&self, timers: &Timers) -> Place {
        let _waiting = Waiting::begin(&self.shared.waiting);
        let slot = async {
            let _turn = self.shared.turn.lock().await;
            Place::Slot(self.shared.slots.acquire_arc().await)
        };
        making_room(|| self.make_room(Room::Slot, timers), slot).await
    }

    /// Lets a connection of this thread give way, or else asks the next thread. Whether it
    /// was one of this thread.
    fn make_room(&self, room: Room, timers: &Timers) -> bool {
        let made = timers.make_room(room);
        if !made {
            self.pass_on(Ask { room, asked: 1 });
        }
        made
    }

    fn pass_on(&self, ask: Ask) {
        let threads = &self.shared.threads;
        if ask.asked < threads.len() {
            // A full queue drops this: the thread makes room for as many others already.
            let _ = threads[(self.thread + 1) % threads.len()].try_send(ask);
        }
    }

    /// Makes room when other threads ask for it. Runs for as long as the thread.
    pub async fn answer(self, asks: Receiver<Ask>, timers: &Timers) {
        while let Ok(Ask { room, asked }) = asks.recv().await {
            // Should the thread have been held up, what has arrived meanwhile is read first: its
            // connection no longer waits in vain.
            next_turn().await;
            if !timers.make_room(room) {
                let asked = asked + 1;
                self.pass_on(Ask { room, asked });
            }
        }
    }

    /// Says that the limit is reached, unless that was said a moment ago.
    fn tell_reached(&self) {
        let told = self.shared.told.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        if is_due(&mut told, Instant::now()) {
            log::limit_reached(self.shared.limit);
        }
    }
}

/// Whether what was told at that time, if ever, is to be told now, which is then noted.
fn is_due(told: &mut Option<Instant>, now: Instant) -> bool {
    let due = told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_EVERY);
    if due {
        *told = Some(now);
    }
    due
}

/// Waits for a place, and while there is none lets `make_room` look for one that gives way.
pub async fn making_room<T>(
    mut make_room: impl FnMut() -> bool,
    place: impl Future<Output = T>,
) -> T {
    let mut place = pin!(place);
    if let Some(place) = poll_once(place.as_mut()).await {
        return place;
    }
    loop {
        // Should the thread have been held up, what has arrived meanwhile is read first: its
        // connection no longer waits in vain.
        next_turn().await;
        let pause = match make_room() {
            true => AFTER_SUCCESS,
            false => NEXT_LOOK,
        };
        let next_look = async {
            Timer::after(pause).await;
            None
        };
        let place = async { Some(place.as_mut().await) };
        if let Some(place) = future::or(place, next_look).await {
            return place;
        }
    }
}

/// Counts one that waits, for as long as it does.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Waiting<'a> {
        count.fetch_add(1, Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_the_limit_is_reached_is_told_once_a_minute_at_most() {
        let start = Instant::now();
        let mut told = None;
        // Reached in each of these seconds.
        let told_at: Vec<u64> = (0..=150)
            .filter(|&second| is_due(&mut told, start + Duration::from_secs(second)))
            .collect();
        assert_eq!(told_at, [0, 60, 120]);
    }
}
