//! The checks after the soak.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::attacks::Siege;
use crate::client::in_the_middle;
use crate::connection::Wire;
use crate::program::Route;
use crate::tally::{Tally, ACTIVITIES, STAGES};

/// How much a program's memory may have grown since it was warm, in KiB: the cost of a few more
/// connections at the same moment.
const MEMORY_SLACK: u64 = 6 * 1024;

/// Idle upstream connections are closed after 15 s; any that are open for longer have leaked.
const POOL_EXPIRY: Duration = Duration::from_secs(40);

#[derive(Default)]
pub struct Checks {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Checks {
    pub fn check(&mut self, holds: bool, what: &str) {
        if holds {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        println!("{} {what}", if holds { "ok    " } else { "FAILED" });
    }

    /// An activity that did not happen was not tested.
    pub fn activities(&mut self, tally: &Tally) {
        for (name, count) in ACTIVITIES.iter().zip(&tally.activities) {
            let count = count.load(Relaxed);
            self.check(count > 0, &format!("{name}: {count} times (it was tried)"));
        }
    }

    pub fn resets(&mut self, tally: &Tally) {
        for (stage, count) in STAGES.iter().zip(&tally.resets) {
            let count = count.load(Relaxed);
            let what = format!("{count} connections reset within: {stage} (it was tried)");
            self.check(count > 0, &what);
        }
    }

    pub fn sieges(&mut self, sieges: &[Siege]) {
        for siege in sieges {
            let (rounds, effects) = (siege.rounds.load(Relaxed), siege.effects.load(Relaxed));
            let name = siege.route.name;
            let what = format!("{name}: {rounds} rounds: {effects} {}", siege.effect());
            self.check(effects > 0, &what);
            if let Some(has_all) = siege.has_all_slots() {
                let what = format!("{name}: as many clients as there are slots keep them");
                self.check(has_all, &what);
            }
        }
    }

    pub fn errors(&mut self, routes: &[Arc<Route>], tally: &Tally) {
        let unexpected = tally.unexpected.load(Relaxed);
        self.check(
            unexpected == 0,
            &format!("{unexpected} unexpected errors (none is right)"),
        );
        for route in routes {
            let (failed, injected) = (route.failed.load(Relaxed), route.injected.load(Relaxed));
            let what = format!(
                "{}: {failed} requests failed for {injected} faults of the proxy (at most as many)",
                route.name
            );
            self.check(failed <= injected, &what);
            let internal = route.program.internal_errors.load(Relaxed);
            self.check(
                internal == 0,
                &format!(
                    "{}: {internal} internal errors logged (none is right)",
                    route.name
                ),
            );
        }
    }

    /// Checks that there are no more sockets and threads than before.
    pub fn leftovers(&mut self, routes: &[Arc<Route>], before: &[(usize, usize)]) {
        let deadline = Instant::now() + POOL_EXPIRY;
        let are_back = || {
            let mut all = routes.iter().zip(before);
            all.all(|(route, &(sockets, threads))| {
                route.program.sockets() <= sockets && route.program.threads() <= threads
            })
        };
        while !are_back() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(100));
        }
        for (route, &(sockets, threads)) in routes.iter().zip(before) {
            for (now, before, kind) in [
                (route.program.sockets(), sockets, "sockets"),
                (route.program.threads(), threads, "threads"),
            ] {
                let what = format!(
                    "{}: {now} {kind} at the end (at most {before}, as at the start)",
                    route.name
                );
                self.check(now <= before, &what);
            }
            // Pipes for splicing are kept for reuse: two ends of at most 16 in each thread.
            let pipes = route.program.pipes();
            let what = format!("{}: {pipes} pipe ends kept (at most 70)", route.name);
            self.check(pipes <= 70, &what);
        }
    }

    pub fn memory(&mut self, routes: &[Arc<Route>], memory: &[(u64, u64)]) {
        for (route, (warm, end)) in routes.iter().zip(memory) {
            let what = format!(
                "{}: {end} KiB resident at the end, {warm} when warm (at most {MEMORY_SLACK} more)",
                route.name
            );
            self.check(*end <= warm + MEMORY_SLACK, &what);
        }
    }

    /// Terminates each program while clients are in the middle of exchanges, which they then
    /// reset.
    pub fn exits(&mut self, routes: &[Arc<Route>], seed: u64, tally: &Tally) {
        for route in routes {
            let clients = in_the_middle(route, seed, tally);
            let status = route.program.terminate(|| {
                tally.reset_at("drain", clients.len() as u64);
                clients.into_iter().for_each(Wire::reset);
            });
            let what = format!("{}: SIGTERM ends it with {status} (0 is right)", route.name);
            let ended = status.starts_with("exit status");
            self.check(status == "exit status: 0", &what);
            let last = match ended {
                true => route.program.last_line(),
                false => String::new(),
            };
            let what = format!("{}: its last line: {last}", route.name);
            self.check(last.ends_with("stopped, 0 connections cut off"), &what);
        }
    }
}
