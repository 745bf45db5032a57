//! Limits the dials in flight. There is no limit until a hop refuses a dial while others are in
//! flight; then half as many are allowed, and one more after each that succeeds. The others
//! queue, first come, first served, including those that were refused. A refusal pauses the
//! whole queue, not only the dial that was refused: otherwise one that was refused often would
//! delay those after it.

use std::collections::VecDeque;
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_io::Timer;

use crate::net::stream::{Counted, OnClose};

/// How long the queue pauses after a refusal, unless a dial or a connection ends earlier: the
/// first pause, and the longest after repeated doubling.
// Unit tests do not wait for time to pass.
const FIRST_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 50 });
const LONGEST_PAUSE: Duration = Duration::from_secs(if cfg!(test) { 120 } else { 1 });

/// How long a hop may take to notice that a connection was closed; until then it may refuse
/// another.
const NOTICED_AFTER: Duration = Duration::from_secs(1);

/// Limits the dials of all threads.
#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    /// Whether the queue is not empty, readable without the lock.
    queues: AtomicBool,
}

#[derive(Default)]
struct State {
    /// How many dials may be in flight; `None` is no limit.
    limit: Option<usize>,
    in_flight: usize,
    /// The open connections through the hop, including kept ones.
    open: usize,
    /// When one of them was last closed.
    closed_at: Option<Instant>,
    /// Counts the events that may make room: a dial or a connection has ended, or a connection
    /// was given back.
    freed: u64,
    /// The pause after the last refusal; `None` once a dial has succeeded.
    pause: Option<Pause>,
    arrived: u64,
    /// In order of arrival.
    queue: VecDeque<Queued>,
}

struct Queued {
    number: u64,
    waker: Option<Waker>,
}

/// The pause after a refusal of the hop.
struct Pause {
    /// The value of `State::freed` at the refusal: the pause ends when it changes.
    freed: u64,
    /// When the pause ends at the latest.
    until: Instant,
    length: Duration,
}

impl State {
    fn has_room(&self) -> bool {
        self.limit.is_none_or(|limit| self.in_flight < limit)
    }

    /// Wakes the first in the queue.
    fn wake_first(&mut self) {
        if let Some(waker) = self.queue.front_mut().and_then(|first| first.waker.take()) {
            waker.wake();
        }
    }

    fn freed(&mut self) {
        self.freed += 1;
        self.wake_first();
    }

    /// Waits for the end of the pause, with the timer of the first in the queue.
    fn poll_pause(&self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<()> {
        match &self.pause {
            Some(pause) if pause.freed == self.freed && pause.until > Instant::now() => {
                *timer = Timer::at(pause.until);
                Pin::new(timer).poll(cx).map(drop)
            }
            _ => Poll::Ready(()),
        }
    }
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a dial is queued, which comes before any that arrives now.
    pub fn has_queue(&self) -> bool {
        self.queues.load(Relaxed)
    }

    /// Wakes the queue after a connection was given back, which the first in it may take instead
    /// of dialling.
    pub fn given_back(&self) {
        if self.has_queue() {
            self.state().freed();
        }
    }

    /// Takes the place after all others; it joins the queue only when it has to wait.
    pub fn arrive(self: &Arc<Gate>) -> Turn {
        let number = {
            let mut state = self.state();
            state.arrived += 1;
            state.arrived
        };
        Turn {
            gate: self.clone(),
            number,
            is_queued: false,
            pause: Timer::never(),
        }
    }
}

impl OnClose for Gate {
    fn closed(&self) {
        let mut state = self.state();
        state.open -= 1;
        state.closed_at = Some(Instant::now());
        state.freed();
    }
}

/// A place in the queue.
pub struct Turn {
    gate: Arc<Gate>,
    number: u64,
    is_queued: bool,
    /// Wakes this task at the end of the pause, when it is first in the queue.
    pause: Timer,
}

impl Turn {
    /// Waits until it may dial. Also returns whether it had to wait, in which case a connection
    /// may have been given back meanwhile.
    pub async fn come(&mut self) -> (Permit, bool) {
        let mut waited = false;
        let began = poll_fn(|cx| {
            let began = self.poll_come(cx);
            waited |= began.is_pending();
            began
        })
        .await;
        let permit = Permit {
            gate: Some(self.gate.clone()),
            began,
        };
        (permit, waited)
    }

    fn poll_come(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        let mut state = self.gate.state();
        let is_first = state
            .queue
            .front()
            .is_none_or(|first| first.number >= self.number);
        if is_first && state.has_room() && state.poll_pause(&mut self.pause, cx).is_ready() {
            state.in_flight += 1;
            if std::mem::take(&mut self.is_queued) {
                state.queue.pop_front();
            }
            // There may be room for the next one as well.
            state.wake_first();
            self.gate.queues.store(!state.queue.is_empty(), Relaxed);
            return Poll::Ready(Instant::now());
        }
        let behind = state.queue.partition_point(|q| q.number < self.number);
        let waker = Some(cx.waker().clone());
        match self.is_queued {
            true => state.queue[behind].waker = waker,
            false => {
                let number = self.number;
                state.queue.insert(behind, Queued { number, waker });
                self.is_queued = true;
                self.gate.queues.store(true, Relaxed);
            }
        }
        Poll::Pending
    }

    /// Records that the hop has refused, and returns whether to try again: while other dials are
    /// in flight or connections are open, or were until just now, the end of one may make room.
    pub fn note_refusal(&self, mut permit: Permit) -> bool {
        let mut state = self.gate.state();
        let others = state.in_flight - 1;
        let open = state.open > 0 || state.closed_at.is_some_and(is_recent);
        if others == 0 && !open {
            drop(state);
            return false;
        }
        if others > 0 {
            state.limit = Some((state.in_flight / 2).max(1));
        }
        let length = match &state.pause {
            None => FIRST_PAUSE,
            // This dial began before the pause was over, so its refusal tells nothing new.
            Some(pause) if permit.began < pause.until => pause.length,
            Some(pause) => (2 * pause.length).min(LONGEST_PAUSE),
        };
        state.pause = Some(Pause {
            freed: state.freed,
            until: Instant::now() + length,
            length,
        });
        // The end of a refused dial makes no room at the hop.
        permit.gate = None;
        state.in_flight -= 1;
        state.wake_first();
        true
    }
}

fn is_recent(closed_at: Instant) -> bool {
    closed_at.elapsed() < NOTICED_AFTER
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_queued {
            let mut state = self.gate.state();
            state.queue.retain(|queued| queued.number != self.number);
            state.wake_first();
            self.gate.queues.store(!state.queue.is_empty(), Relaxed);
        }
    }
}

/// A dial in flight.
pub struct Permit {
    gate: Option<Arc<Gate>>,
    began: Instant,
}

impl Permit {
    /// Ends the dial with success. The result counts the connection for as long as it is open.
    pub fn succeeded(mut self) -> Counted {
        let gate = self.gate.take().expect("a permit ends once");
        {
            let mut state = gate.state();
            state.in_flight -= 1;
            state.open += 1;
            state.limit = state.limit.map(|limit| limit + 1);
            state.pause = None;
            state.freed();
        }
        Counted::by(gate)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            let mut state = gate.state();
            state.in_flight -= 1;
            state.freed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};

    fn passes(turn: &mut Turn) -> Option<Permit> {
        block_on(poll_once(turn.come())).map(|(permit, _)| permit)
    }

    #[test]
    fn no_dial_waits_until_a_hop_refuses() {
        let gate = Arc::new(Gate::default());
        let mut turns: Vec<_> = (0..100).map(|_| gate.arrive()).collect();
        let permits: Vec<_> = turns.iter_mut().map(passes).collect();
        assert!(permits.iter().all(Option::is_some));
        assert!(!gate.has_queue());
    }

    #[test]
    fn a_refusal_of_the_only_dial_is_final() {
        let gate = Arc::new(Gate::default());
        let mut turn = gate.arrive();
        let permit = passes(&mut turn).expect("the gate is open");
        assert!(!turn.note_refusal(permit));
    }

    #[test]
    fn a_refusal_among_others_halves_the_dials_in_flight() {
        let gate = Arc::new(Gate::default());
        let mut turns: Vec<_> = (0..8).map(|_| gate.arrive()).collect();
        let mut permits: Vec<_> = turns.iter_mut().filter_map(passes).collect();
        // The first is refused: four may be in flight, and seven are.
        assert!(turns[0].note_refusal(permits.remove(0)));
        assert!(passes(&mut turns[0]).is_none());
        let mut late = gate.arrive();
        assert!(passes(&mut late).is_none());
        assert!(gate.has_queue());
        // Three fail, and the one that succeeds raises the limit by one.
        permits.drain(..3);
        assert!(passes(&mut late).is_none(), "the first comes first");
        let open = permits.remove(0).succeeded();
        let first = passes(&mut turns[0]).expect("there is room");
        let second = passes(&mut late).expect("there is more");
        assert!(!gate.has_queue());
        // While a connection is open, a refused dial waits for its end.
        drop((permits, second));
        assert!(turns[0].note_refusal(first));
        assert!(passes(&mut turns[0]).is_none());
        drop(open);
        assert!(passes(&mut turns[0]).is_some());
    }

    #[test]
    fn a_success_ends_the_pause() {
        let gate = Arc::new(Gate::default());
        let mut turns: Vec<_> = (0..4).map(|_| gate.arrive()).collect();
        let mut permits: Vec<_> = turns.iter_mut().filter_map(passes).collect();
        for turn in &turns[..3] {
            assert!(turn.note_refusal(permits.remove(0)));
        }
        let mut late = gate.arrive();
        assert!(passes(&mut turns[0]).is_none() && passes(&mut late).is_none());
        let _open = permits.remove(0).succeeded();
        assert!(passes(&mut turns[0]).is_some());
        assert!(gate.state().pause.is_none());
    }

    #[test]
    fn refusals_of_dials_that_began_together_count_once() {
        let gate = Arc::new(Gate::default());
        let mut turns: Vec<_> = (0..8).map(|_| gate.arrive()).collect();
        let mut permits: Vec<_> = turns.iter_mut().filter_map(passes).collect();
        let length = || gate.state().pause.as_ref().map(|pause| pause.length);
        for turn in &turns[..4] {
            assert!(turn.note_refusal(permits.remove(0)));
            assert_eq!(length(), Some(FIRST_PAUSE));
        }
        // Dials that fail for another reason make room, so that the first dials again.
        permits.truncate(1);
        permits.push(passes(&mut turns[0]).expect("there is room"));
        gate.state().pause.as_mut().expect("a pause").until = Instant::now();
        permits[1].began = Instant::now();
        assert!(turns[0].note_refusal(permits.remove(1)));
        assert_eq!(length(), Some(2 * FIRST_PAUSE));
    }

    #[test]
    fn a_dial_that_gives_up_leaves_the_queue() {
        let gate = Arc::new(Gate::default());
        let mut turns: Vec<_> = (0..4).map(|_| gate.arrive()).collect();
        let mut permits: Vec<_> = turns.iter_mut().filter_map(passes).collect();
        let mut refused = turns.remove(0);
        assert!(refused.note_refusal(permits.remove(0)));
        let mut late = gate.arrive();
        assert!(passes(&mut refused).is_none() && passes(&mut late).is_none());
        drop((permits, refused));
        assert!(passes(&mut late).is_some());
    }

    #[test]
    fn a_connection_given_back_ends_the_wait() {
        let gate = Arc::new(Gate::default());
        let open = passes(&mut gate.arrive()).expect("free").succeeded();
        let mut turn = gate.arrive();
        let permit = passes(&mut turn).expect("free");
        assert!(turn.note_refusal(permit));
        assert!(passes(&mut turn).is_none());
        gate.given_back();
        let (_, waited) = block_on(turn.come());
        drop(open);
        // The wait was in an earlier call.
        assert!(!waited);
    }
}
