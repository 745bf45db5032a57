//! The budget of a loop that moves bytes: how much it may move before the thread serves its
//! other sockets. Every such loop has one, so that a peer that is always ready cannot starve
//! the other connections.

use std::future::Future;

use crate::net::reactor::{next_turn, share, SMALLEST_SHARE};

/// The least that a step costs, in bytes: a system call or a TLS record takes about as long as
/// copying this many.
const LEAST: usize = 1024;

/// How much one loop has moved since it last yielded to the thread's other tasks.
#[derive(Default)]
pub struct Budget {
    spent: usize,
}

impl Budget {
    /// Counts one step that has moved `bytes` bytes.
    pub fn draw(&mut self, bytes: usize) {
        self.spent = self.spent.saturating_add(bytes.max(LEAST));
    }

    /// Begins a new share if the current one is spent, and returns whether it was. The caller
    /// then yields, so that the thread's other tasks run.
    pub fn renew_if_spent(&mut self) -> bool {
        // Below the smallest share, the lookup of the current one is saved.
        let is_spent = self.spent >= SMALLEST_SHARE && self.spent >= share();
        if is_spent {
            self.spent = 0;
        }
        is_spent
    }

    /// Waits for the next turn of the thread if the share of this one is spent.
    // Not an async fn, whose future would borrow `self` while it waits.
    pub fn turn(&mut self) -> impl Future<Output = ()> + use<> {
        let waits = self.renew_if_spent();
        async move {
            if waits {
                next_turn().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_lite::future;

    use super::*;
    use crate::net::reactor::block_on;

    /// How often a loop of `steps` steps of `bytes` each lets another task run.
    fn turns(steps: usize, bytes: usize) -> usize {
        let turns = Cell::new(0);
        let moving = async {
            let mut budget = Budget::default();
            for _ in 0..steps {
                budget.draw(bytes);
                budget.turn().await;
            }
        };
        let other = async {
            loop {
                next_turn().await;
                turns.set(turns.get() + 1);
            }
        };
        block_on(future::or(moving, other), || None).expect("the reactor runs");
        turns.get()
    }

    #[test]
    fn loops_yield_with_large_steps_and_with_small_ones() {
        // The largest share is 1 MiB.
        let (large, records, tiny) = (
            turns(640, 60 * 1024),
            turns(1024, 48 * 1024),
            turns(65_536, 1),
        );
        assert!(large >= 32, "{large}");
        assert!(records >= 40, "{records}");
        assert!(tiny >= 60, "{tiny}");
        assert_eq!(turns(8, 1024), 0);
    }
}
