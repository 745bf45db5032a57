//! The command line: flags, variables, messages, exit codes, completions.

pub mod completions;
pub mod refusals;
pub mod settings;

use libtest_mimic::Trial;

/// The tests of this room.
pub fn trials() -> Vec<Trial> {
    [
        completions::trials(),
        refusals::trials(),
        settings::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
