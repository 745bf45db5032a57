//! The panic guard: a bug in one connection ends that connection alone.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_lite::future::{CatchUnwind, FutureExt};

/// Serves one connection. A bug in it ends that connection alone: a panic, which the hook
/// has logged, goes no further.
pub fn contained<F: Future<Output = ()>>(serving: F) -> CatchUnwind<AssertUnwindSafe<F>> {
    AssertUnwindSafe(serving).catch_unwind()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use smol::LocalExecutor;

    #[test]
    fn a_panic_in_one_connection_ends_that_one_alone() {
        let executor = LocalExecutor::new();
        let ticket = Rc::new(());
        let held = ticket.clone();
        let broken = executor.spawn(async move {
            let serving = contained(async {
                futures_lite::future::yield_now().await;
                panic!("a bug, on purpose");
            });
            assert!(serving.await.is_err());
            drop(held);
        });
        let other = executor.spawn(async {
            for _ in 0..10 {
                futures_lite::future::yield_now().await;
            }
            7
        });
        let both = executor.run(async { (broken.await, other.await) });
        assert_eq!(smol::block_on(both), ((), 7));
        assert_eq!(Rc::strong_count(&ticket), 1, "its slot is free again");
    }
}
