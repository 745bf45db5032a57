//! End-to-end tests over the real binary, in folders that mirror the rooms of `src`. Each
//! file lists its own tests. Run by libtest-mimic, in which a test whose real peer is not
//! installed is shown and counted as ignored.

/// Makes a trial of each named function of the file in which it stands; its name is the path
/// of the function, as in `serve::door::a_loop_is_refused`.
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
    // Each test is mostly waiting for processes; two at least overlap on any machine.
    arguments.test_threads.get_or_insert(4);
    // Some have thousands of sockets.
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
