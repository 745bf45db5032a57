//! Frees the buffers and pipes in a thread's pools that were not used for a while: after a surge
//! of clients, an idle process shrinks back to the memory that it had before.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use async_io::Timer;

use crate::net::buffer;
#[cfg(not(portable))]
use crate::net::splice;

/// How often the pools are swept: what was not used between two sweeps is freed.
const EVERY: Duration = Duration::from_secs(10);

thread_local! {
    /// The waker of the sweep, which waits while the pools are empty.
    static SWEEPER: Cell<Option<Waker>> = const { Cell::new(None) };
}

/// Tells the sweep that a pool is no longer empty.
pub fn kept() {
    if let Some(sweeper) = SWEEPER.take() {
        sweeper.wake();
    }
}

/// Things kept for reuse, and how many of them were not used since the last sweep.
pub struct Shelf<T> {
    things: Vec<T>,
    most: usize,
    /// The smallest length since the last sweep, which is the number of unused things.
    unused: usize,
}

impl<T> Shelf<T> {
    /// An empty shelf for at most `most` things.
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

    /// Drops what was not used since the last sweep. Returns whether anything is left.
    pub fn sweep(&mut self) -> bool {
        self.things.truncate(self.things.len() - self.unused);
        self.unused = self.things.len();
        if self.things.is_empty() {
            self.things.shrink_to_fit();
        }
        !self.things.is_empty()
    }
}

/// Sweeps the pools at intervals while they are not empty. Runs for as long as the thread.
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

/// Sweeps each pool once. Returns whether anything is left.
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
    fn only_unused_things_are_dropped() {
        let mut shelf = Shelf::new(3);
        for n in 0..5 {
            shelf.keep(n);
        }
        // They were kept after the last sweep, so they do not count as unused yet.
        assert!(shelf.sweep());
        let taken = [shelf.take(), shelf.take()];
        assert_eq!(taken, [Some(2), Some(1)]);
        taken.into_iter().flatten().for_each(|n| shelf.keep(n));
        // One of the three was not taken since the last sweep.
        assert!(shelf.sweep());
        assert!(!shelf.sweep());
        assert_eq!(shelf.take(), None);
    }
}
