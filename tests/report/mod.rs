//! The log, the access log, the metrics and the status page.

pub mod access;
pub mod status;
pub mod watch;

use libtest_mimic::Trial;

/// The tests of this room.
pub fn trials() -> Vec<Trial> {
    [access::trials(), status::trials(), watch::trials()]
        .into_iter()
        .flatten()
        .collect()
}
