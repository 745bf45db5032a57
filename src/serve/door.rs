//! Limits the clients: the slots of the limit of connections, the few places beyond it, and
//! which connections give way when all are taken.
//!
//! A client beyond the limit is accepted only to read its request head. After its head it waits
//! for a slot, and an idle connection is closed to make room for it.

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

/// Clients accepted beyond the limit, only to read their heads.
const BEYOND: usize = 16;

/// How soon to look again for a connection that may give way: some may only after a time.
const NEXT_LOOK: Duration = Duration::from_millis(100);

/// The same after one was found, whose slot will soon be free.
const AFTER_SUCCESS: Duration = Duration::from_secs(1);

/// How often to log that the limit is reached.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// How many requests to make room may be queued for a thread; it will look anyway.
const ASKS: usize = 64;

/// What a connection is doing while it may give way. The first of these gives way first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It has been sent its last response; only its end is awaited.
    Leaving,
    /// It has sent nothing yet, or is in its TLS handshake.
    Silent,
    /// It has begun a request head.
    Head,
    /// It is idle between two requests.
    Idle,
    /// The same, and the upstream connection that it has authenticated would end with it.
    Bound,
}

impl Doing {
    /// How long it must have been doing so before it may give way.
    fn patience(self) -> Duration {
        match self {
            Doing::Head => Duration::from_secs(5),
            Doing::Leaving | Doing::Silent | Doing::Idle | Doing::Bound => Duration::from_secs(1),
        }
    }
}

/// Counts one client until it is dropped.
pub type Permit = SemaphoreGuardArc;

/// The place of an accepted client, held until its connection ends.
pub enum Place {
    /// One of the slots.
    Slot(Permit),
    /// One of the places beyond the limit.
    Beyond(Permit),
}

impl Place {
    /// Whether the client is beyond the limit.
    pub fn is_beyond(&self) -> bool {
        matches!(self, Place::Beyond(_))
    }

    /// The permit that holds the place.
    pub fn into_permit(self) -> Permit {
        match self {
            Place::Slot(permit) | Place::Beyond(permit) => permit,
        }
    }

    /// For whom a wait for this client may be ended early.
    pub fn way(&self, doing: Doing) -> Way {
        match self {
            Place::Slot(_) => Way {
                room: Room::Slot,
                rank: doing as u8,
                after: doing.patience(),
            },
            // After a second without a whole head, whatever it has sent.
            Place::Beyond(_) => Way {
                room: Room::BeyondTheLimit,
                rank: 0,
                after: Doing::Silent.patience(),
            },
        }
    }
}

/// The limit of connections, as seen by one thread.
#[derive(Clone)]
pub struct Door {
    shared: Arc<Shared>,
    thread: usize,
}

/// The state that all threads share.
struct Shared {
    limit: usize,
    slots: Arc<Semaphore>,
    beyond: Arc<Semaphore>,
    /// Held by the client that waits for a slot; the others queue for this lock, first come,
    /// first served. A semaphore alone gives its permit to the waiter that is polled first.
    turn: lock::Mutex<()>,
    /// The number of clients that wait for a slot after their heads.
    waiting: AtomicUsize,
    /// Sends each thread a request to make room.
    threads: Box<[Sender<Ask>]>,
    told: Mutex<Option<Instant>>,
}

/// A request to make room, which is passed from thread to thread.
pub struct Ask {
    room: Room,
    /// How many threads have looked for a connection that may give way.
    asked: usize,
}

impl Door {
    /// The doors of `threads` threads, each with the receiver of other threads' requests to make
    /// room.
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

    /// A door without a limit.
    pub fn open() -> Door {
        Door::new(usize::MAX >> 4, 1).remove(0).0
    }

    /// Whether a client waits for a slot after its head.
    pub fn is_waited_at(&self) -> bool {
        self.shared.waiting.load(Relaxed) > 0
    }

    /// A place for a new client, if one is free. Clients that wait for a slot after their heads
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

    /// Waits for a place for a new client. The oldest client beyond the limit without a whole
    /// head gives way to it.
    pub async fn place(&self, timers: &Timers) -> Place {
        if let Some(place) = self.try_place() {
            return place;
        }
        let shared = &self.shared;
        // A free slot goes first to clients that wait after their heads. While there are any,
        // the wait for a slot is dropped, which passes its wake-up on; whether there still are
        // is checked again each time that room is looked for.
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

    /// Waits for a slot for a client whose head is read. Such clients are served in the order in
    /// which their heads were read.
    pub async fn slot(&self, timers: &Timers) -> Place {
        let _waiting = Waiting::begin(&self.shared.waiting);
        let slot = async {
            let _turn = self.shared.turn.lock().await;
            Place::Slot(self.shared.slots.acquire_arc().await)
        };
        making_room(|| self.make_room(Room::Slot, timers), slot).await
    }

    /// Ends a connection of this thread that may give way, or else asks the next thread. Returns
    /// whether it was one of this thread.
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
            // A full queue drops this request: the thread already has as many to make room for.
            let _ = threads[(self.thread + 1) % threads.len()].try_send(ask);
        }
    }

    /// Makes room at the request of other threads. Runs for as long as the thread.
    pub async fn answer(self, asks: Receiver<Ask>, timers: &Timers) {
        while let Ok(Ask { room, asked }) = asks.recv().await {
            // If the thread was delayed, its sockets are polled first: a connection whose bytes have
            // arrived is no longer idle.
            next_turn().await;
            if !timers.make_room(room) {
                let asked = asked + 1;
                self.pass_on(Ask { room, asked });
            }
        }
    }

    /// Logs that the limit is reached, unless that was logged a moment ago.
    fn tell_reached(&self) {
        let told = self.shared.told.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        if is_due(&mut told, Instant::now()) {
            log::limit_reached(self.shared.limit);
        }
    }
}

/// Whether to log again after `told`, the time of the last time, which is then updated.
fn is_due(told: &mut Option<Instant>, now: Instant) -> bool {
    let due = told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_EVERY);
    if due {
        *told = Some(now);
    }
    due
}

/// Waits for a place, and while there is none calls `make_room` to look for a connection that
/// gives way.
pub async fn making_room<T>(
    mut make_room: impl FnMut() -> bool,
    place: impl Future<Output = T>,
) -> T {
    let mut place = pin!(place);
    if let Some(place) = poll_once(place.as_mut()).await {
        return place;
    }
    loop {
        // If the thread was delayed, its sockets are polled first: a connection whose bytes have
        // arrived is no longer idle.
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

/// Counts one waiting client until it is dropped.
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
    fn the_limit_is_logged_at_most_once_a_minute() {
        let start = Instant::now();
        let mut told = None;
        // The limit is reached in each of these seconds.
        let told_at: Vec<u64> = (0..=150)
            .filter(|&second| is_due(&mut told, start + Duration::from_secs(second)))
            .collect();
        assert_eq!(told_at, [0, 60, 120]);
    }
}
