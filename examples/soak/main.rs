//! The soak that `make soak` runs: `soak PROGRAM [MINUTES]`. The real program stands between
//! clients and an upstream, both in this process, on four routes: directly, with TLS, and
//! through SOCKS5 and CONNECT hops that sometimes break connections. A bounded number of clients
//! fetch, upload, upgrade, pipeline, read slowly, leave and send garbage; every response is
//! checked byte for byte. Only exchanges in which a fault was injected may fail. At the same
//! time, separate programs are attacked: by a flood of idle clients at the limit, a loop, a
//! proxy with few slots, a proxy that never answers, and a name server that never answers (which
//! needs namespaces, and is skipped without them). At the end nothing may be left: no socket, no
//! thread, no memory, no connection that is cut off at shutdown.
//!
//! To test the soak itself, it was run on programs that were broken on purpose, each in one way.
//! Within 15 s it reported each of these faults: an authenticated connection that is kept for
//! other clients; one kept connection in 50 that is never closed; lookup threads that do not
//! end; the slot of one client in 50 that is not freed; an upload that is repeated on a new
//! connection; a truncated body that ends like a complete one; the leaving of a client that is
//! not passed on; a part of a WebSocket stream that is lost. Bytes that are only rarely lost or
//! mixed up between threads are found by `handover.rs`, not by this.
//!
//! It prints its seed; SEED in the environment repeats a run.

mod attacks;
mod checks;
mod client;
mod connection;
mod handover;
mod hop;
mod names;
mod noise;
mod program;
#[path = "../../tests/shared.rs"]
mod shared;
mod tally;
mod upstream;

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use attacks::{sieges, Siege};
use checks::Checks;
use client::client;
use noise::Noise;
use program::{routes, Route};
use tally::Tally;

/// Longer than anything takes on a slow machine; only a hang lasts longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lookup threads end within half of this time after the last lookup.
const LOOKUPS_END: Duration = Duration::from_secs(1);

/// Client threads.
const CLIENTS: u64 = 32;

/// How often a line is printed.
const REPORT_EVERY: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let program = args.next();
    let mut args = args.peekable();
    if let (Some(program), Some("dead-names")) = (&program, args.peek().map(String::as_str)) {
        let minutes = args.nth(1).and_then(|minutes| minutes.parse().ok());
        return verdict(names::dead_names(program, minutes.unwrap_or(1.0)));
    }
    let hands_over = args.next_if(|arg| arg == "hand-over").is_some();
    if let (Some(program), true) = (&program, hands_over) {
        let requests = args.next().and_then(|n| n.parse().ok());
        return verdict(handover::hand_over(
            program,
            requests.unwrap_or(100_000),
            seed(),
        ));
    }
    let minutes = args.next().map_or(Ok(10.0), |minutes| minutes.parse());
    let minutes = minutes.ok().filter(|minutes| (0.01..1e6).contains(minutes));
    let (Some(program), Some(minutes)) = (program, minutes) else {
        eprintln!("usage: soak PROGRAM [MINUTES]\n       soak PROGRAM hand-over [REQUESTS]");
        return ExitCode::from(2);
    };
    verdict(soak(&program, minutes, seed()).map(|failed| failed as u64))
}

/// The seed of the environment, or one from the clock.
fn seed() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let clock = since_epoch.map_or(1, |time| time.as_nanos() as u64 % 1_000_000_000);
    let seed = std::env::var("SEED").ok();
    seed.and_then(|seed| seed.parse().ok()).unwrap_or(clock)
}

/// The exit code: success if nothing has failed.
fn verdict(outcome: io::Result<u64>) -> ExitCode {
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the soak and returns the number of failed checks.
fn soak(program: &str, minutes: f64, seed: u64) -> io::Result<usize> {
    let duration = Duration::from_secs_f64(minutes * 60.0);
    println!("seed {seed}, {minutes} minutes, {CLIENTS} clients");
    println!(
        "Every {} s a line: requests, WebSockets and MiB show that",
        REPORT_EVERY.as_secs()
    );
    println!("work is done, and what was injected is meant to fail. Descriptors and resident KiB,");
    println!("one figure for each route, should level off. Unexpected errors must be 0.");
    let tally: &'static Tally = Box::leak(Box::default());
    let routes = routes(program, seed, tally)?;
    for route in &routes {
        route.warm_up()?;
    }
    let sieges: Arc<[Siege]> = sieges(program, tally)?.into();
    for siege in sieges.iter() {
        siege.round(&mut Noise::new(seed), tally);
    }
    let attacked = sieges.iter().map(|siege| siege.route.clone());
    let all: Vec<_> = routes.iter().cloned().chain(attacked).collect();
    thread::sleep(LOOKUPS_END);
    let before: Vec<_> = all.iter().map(|route| route.fewest()).collect();

    let dead_names = names::start(program, minutes)?;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (routes, stop) = (routes.clone(), stop.clone());
            thread::spawn(move || client(number, seed, &routes, &stop, tally))
        })
        .collect();
    let attackers = (0..sieges.len()).map(|at| {
        let (sieges, stop) = (sieges.clone(), stop.clone());
        thread::spawn(move || sieges[at].run(seed, &stop, tally))
    });
    let attackers: Vec<_> = attackers.collect();
    let memory = watch(duration, &all, tally);
    stop.store(true, Relaxed);
    for thread in clients.into_iter().chain(attackers) {
        if thread.join().is_err() {
            tally.unexpected("a client panicked".to_owned());
        }
    }
    println!("{}", tally.line(&all));

    let mut checks = Checks::default();
    checks.activities(tally);
    checks.sieges(&sieges);
    checks.leftovers(&all, &before);
    checks.memory(&all, &memory);
    checks.exits(&all, seed, tally);
    checks.resets(tally);
    checks.errors(&all, tally);
    checks.dead_names(dead_names);
    let Checks {
        passed,
        failed,
        skipped,
    } = checks;
    println!("{passed} checks passed, {failed} failed, {skipped} skipped");
    Ok(failed)
}

/// Prints the state until the time is over; returns each program's memory when it was warm and
/// at the end, in KiB.
fn watch(duration: Duration, routes: &[Arc<Route>], tally: &Tally) -> Vec<(u64, u64)> {
    let start = Instant::now();
    let mut next_report = start + REPORT_EVERY;
    let mut samples: Vec<Vec<u64>> = vec![Vec::new(); routes.len()];
    while start.elapsed() < duration {
        thread::sleep(Duration::from_millis(200).min(duration));
        for (samples, route) in samples.iter_mut().zip(routes) {
            samples.push(route.program.resident_kib());
        }
        if Instant::now() >= next_report {
            next_report += REPORT_EVERY;
            println!("{}", tally.line(routes));
        }
    }
    // The first fifth of the time is for warming up. The highest value of a fifth is used, not
    // an average: a moment with few connections says nothing.
    let highest = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
    let fifths = samples.iter().map(|samples| {
        let fifth = samples.len() / 5;
        let end = samples.len() - fifth;
        (
            highest(&samples[fifth..2 * fifth + 1]),
            highest(&samples[end.saturating_sub(1)..]),
        )
    });
    fifths.collect()
}
