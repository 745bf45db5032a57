//! The way to the upstream: dialling, proxies, names, kept connections and spare connections.

pub mod dial;
pub mod names;
pub mod pool;
pub mod proxies;
pub mod spares;
pub mod storms;
pub mod unix;

use libtest_mimic::Trial;

/// The tests of this room.
pub fn trials() -> Vec<Trial> {
    [
        dial::trials(),
        pool::trials(),
        proxies::trials(),
        spares::trials(),
        storms::trials(),
        unix::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
