//! Message syntax at byte level, and the translation of origins in heads.

pub mod origin;
pub mod strict;

use libtest_mimic::Trial;

/// The tests of this room.
pub fn trials() -> Vec<Trial> {
    [origin::trials(), strict::trials()]
        .into_iter()
        .flatten()
        .collect()
}
