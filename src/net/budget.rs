//! The budget of a loop that moves bytes: how much it may move before the thread looks at
//! its other sockets. Every such loop draws on one of these, so that a peer that never lets
//! it wait holds nobody else up.

use std::future::Future;

use crate::net::reactor::{next_turn, share, SMALLEST_SHARE};

/// What a step costs at least, in bytes: a system call or a TLS record takes about as long
/// as copying so many.
const LEAST: usize = 1024;

/// What one loop has moved since its thread last looked at its other sockets.
#[derive(Default)]
pub struct Budget {
    spent: usize,
}

impl Budget {
    /// Counts one step that has moved so many bytes.
    pub fn draw(&mut self, bytes: usize) {
        self.spent = self.spent.saturating_add(bytes.max(LEAST));
    }

    /// Begins the next share if that of this turn is spent, and says so. The caller yields
    /// then, so that the thread's other tasks run.
    pub fn renew_if_spent(&mut self) -> bool {
        // The share is asked for only where it may be spent.
        let is_spent = self.spent >= SMALLEST_SHARE && self.spent >= share();
        if is_spent {
            self.spent = 0;
        }
        is_spent
    }

    /// Waits for the next turn of the thread if the share of this one is spent.
    // Not an async fn, which would hold `self` while it waits.
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
    fn large_steps_and_small_ones_let_others_have_their_turn() {
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
