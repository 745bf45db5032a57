//! What the thread's pools of buffers and pipes keep for reuse is given back once nobody has
//! used it for a while: after a storm of clients an idle process holds what one at rest does.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use async_io::Timer;

use crate::net::buffer;
#[cfg(not(portable))]
use crate::net::splice;

/// What was not used in one such time is given back at its end.
const EVERY: Duration = Duration::from_secs(10);

thread_local! {
    /// Wakes the sweep, which waits while nothing is kept.
    static SWEEPER: Cell<Option<Waker>> = const { Cell::new(None) };
}

/// Tells the sweep that something is kept now.
pub fn kept() {
    if let Some(sweeper) = SWEEPER.take() {
        sweeper.wake();
    }
}

/// Things kept for reuse, and how many of them were not needed lately.
pub struct Shelf<T> {
    things: Vec<T>,
    most: usize,
    /// The fewest that were there since the last sweep: so many have lain unused.
    unused: usize,
}

impl<T> Shelf<T> {
    /// An empty one for at most so many.
    pub const fn new(most: usize) -> Shelf<T> {
        Shelf {
            things: Vec::new(),
            most,
            unused: 0,
        }
    }

    /// Takes one that was kept.
    pub fn take(&mut self) -> Option<T> {
        let taken = self.things.pop();
        self.unused = self.unused.min(self.things.len());
        taken
    }

    /// Keeps one for reuse, unless there are enough.
    pub fn keep(&mut self, thing: T) {
        if self.things.len() < self.most {
            self.things.push(thing);
            kept();
        }
    }

    /// Gives back what was not used since the last time; whether anything is left.
    pub fn sweep(&mut self) -> bool {
        self.things.truncate(self.things.len() - self.unused);
        self.unused = self.things.len();
        if self.things.is_empty() {
            self.things.shrink_to_fit();
        }
        !self.things.is_empty()
    }
}

/// Gives back what lies unused. Runs for as long as the thread.
pub async fn sweep() {
    let mut is_kept = false;
    loop {
        if !is_kept {
            let mut told = false;
            poll_fn(|cx| {
                if std::mem::replace(&mut told, true) {
                    return Poll::Ready(());
                }
                SWEEPER.set(Some(cx.waker().clone()));
                Poll::Pending
            })
            .await;
        }
        Timer::after(EVERY).await;
        is_kept = sweep_once();
    }
}

/// Gives back what lies unused now; whether anything is left.
fn sweep_once() -> bool {
    let buffers = buffer::sweep();
    #[cfg(not(portable))]
    let pipes = splice::sweep();
    #[cfg(portable)]
    let pipes = false;
    buffers || pipes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_used_is_given_back() {
        let mut shelf = Shelf::new(3);
        for n in 0..5 {
            shelf.keep(n);
        }
        // Kept since the last sweep: they have had no time to be used.
        assert!(shelf.sweep());
        let taken = [shelf.take(), shelf.take()];
        assert_eq!(taken, [Some(2), Some(1)]);
        taken.into_iter().flatten().for_each(|n| shelf.keep(n));
        // One has lain there all the time.
        assert!(shelf.sweep());
        assert!(!shelf.sweep());
        assert_eq!(shelf.take(), None);
    }
}
