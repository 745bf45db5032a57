//! What the connections of one thread share.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;

use futures_lite::future::{CatchUnwind, FutureExt};

use crate::config::{Authority, Config};
use crate::deadline::Timers;
use crate::dial::Dialer;
use crate::metrics::{Counters, Registry};
use crate::pool::Pool;

/// The settings, the route, and the thread's own pool and deadlines.
pub struct Worker {
    /// The settings.
    pub config: Arc<Config>,
    /// Makes upstream connections.
    pub dialer: Dialer,
    /// Keeps upstream connections.
    pub pool: Pool,
    /// The thread's deadlines.
    pub timers: Rc<Timers>,
    /// Host for a request that came without one.
    pub default_host: String,
    /// What every thread counts.
    pub registry: Registry,
    thread: usize,
}

impl Worker {
    /// The worker of a thread, by its number, with nothing open.
    pub fn new(config: Arc<Config>, dialer: Dialer, registry: Registry, thread: usize) -> Worker {
        Worker {
            default_host: default_host(&config.upstream, config.tls.is_some()),
            dialer,
            pool: Pool::new(config.limits.idle_upstreams),
            timers: Rc::default(),
            config,
            registry,
            thread,
        }
    }

    /// What this thread counts.
    pub fn counters(&self) -> &Counters {
        self.registry.of_thread(self.thread)
    }
}

/// Serves one connection. A bug in it ends that connection alone: a panic, which the hook
/// has logged, goes no further.
pub fn contained<F: Future<Output = ()>>(serving: F) -> CatchUnwind<AssertUnwindSafe<F>> {
    AssertUnwindSafe(serving).catch_unwind()
}

/// The upstream's authority, without the port that its scheme implies.
pub fn default_host(upstream: &Authority, with_tls: bool) -> String {
    let text = upstream.to_string();
    match (with_tls, upstream.port) {
        (true, 443) | (false, 80) => {
            let colon = text.rfind(':').unwrap_or(text.len());
            text[..colon].to_owned()
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
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
