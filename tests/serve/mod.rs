//! Clients: which are served, how exchanges and relays proceed, and how they end.

pub mod bound;
pub mod door;
pub mod drain;
pub mod faults;
pub mod forward;
pub mod leaving;
pub mod regression;
pub mod tls;
pub mod upgrade;

use libtest_mimic::Trial;

/// The tests of this room.
pub fn trials() -> Vec<Trial> {
    [
        bound::trials(),
        door::trials(),
        drain::trials(),
        faults::trials(),
        forward::trials(),
        leaving::trials(),
        regression::trials(),
        tls::trials(),
        upgrade::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
