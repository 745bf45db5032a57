//! End-to-end tests of the real binary, in folders that mirror the rooms of `src`. Each file
//! lists its own tests. libtest-mimic runs them; a test whose real peer is not installed is
//! shown and counted as ignored.

/// Makes a trial of each named function of the calling file. A trial has the path of its
/// function as its name, as in `serve::door::a_loop_is_refused`.
macro_rules! trials {
    ($($name:ident),+ $(,)?) => {
        vec![$(libtest_mimic::Trial::test(
            concat!(module_path!(), "::", stringify!($name)).trim_start_matches("end_to_end::"),
            || { $name(); Ok(()) },
        ),)+]
    };
}

mod check;
mod cli;
mod documents;
mod http;
mod peers;
mod report;
mod rooms;
mod route;
mod serve;
mod shared;
mod support;
mod words;

use libtest_mimic::Arguments;

fn main() {
    let mut arguments = Arguments::from_args();
    // The tests mostly wait for processes, so four threads suit even a machine with few cores.
    arguments.test_threads.get_or_insert(4);
    // Some tests open thousands of sockets.
    support::allow_descriptors(4096);
    let all = [
        rooms::trials(),
        words::trials(),
        documents::trials(),
        cli::trials(),
        check::trials(),
        report::trials(),
        route::trials(),
        serve::trials(),
        http::trials(),
        peers::trials(),
    ];
    libtest_mimic::run(&arguments, all.into_iter().flatten().collect()).exit();
}
