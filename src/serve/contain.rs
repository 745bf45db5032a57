//! Catches panics: a bug in one connection ends only that connection.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_lite::future::{CatchUnwind, FutureExt};

/// Wraps the future that serves a connection so that a panic in it, which the panic hook has
/// logged, ends only that connection.
pub fn contained<F: Future<Output = ()>>(serving: F) -> CatchUnwind<AssertUnwindSafe<F>> {
    AssertUnwindSafe(serving).catch_unwind()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use smol::LocalExecutor;

    #[test]
    fn a_panic_ends_only_its_own_connection() {
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
