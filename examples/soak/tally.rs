//! Counts of what has happened.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::program::{Program, Route};

/// The activities of the clients, each counted.
pub const ACTIVITIES: [&str; 12] = [
    "get",
    "http/1.0",
    "head",
    "upload",
    "expect",
    "websocket",
    "pipeline",
    "slow reader",
    "abort",
    "bad input",
    "login",
    "upstream fault",
];

/// The stages at which a connection is reset, each counted; by the client, unless stated
/// otherwise.
pub const STAGES: [&str; 10] = [
    "head",
    "dial",
    "request",
    "silence",
    "upload",
    "response",
    "upgrade",
    "relay",
    "relay, by the upstream",
    "drain",
];

#[derive(Default)]
pub struct Tally {
    pub activities: [AtomicU64; ACTIVITIES.len()],
    pub resets: [AtomicU64; STAGES.len()],
    pub requests: AtomicU64,
    pub bytes: AtomicU64,
    pub upstream_faults: AtomicU64,
    pub aborts: AtomicU64,
    pub unexpected: AtomicU64,
    /// Descriptions of the first ones.
    examples: Mutex<Vec<String>>,
}

impl Tally {
    pub fn unexpected(&self, what: String) {
        self.unexpected.fetch_add(1, Relaxed);
        let mut examples = self.examples.lock().expect("not poisoned");
        if examples.len() < 20 {
            println!("UNEXPECTED {what}");
            examples.push(what);
        }
    }

    pub fn reset_at(&self, stage: &str, count: u64) {
        let at = STAGES.iter().position(|name| *name == stage);
        self.resets[at.expect("a known name")].fetch_add(count, Relaxed);
    }

    fn activity(&self, name: &str) -> u64 {
        let at = ACTIVITIES.iter().position(|activity| *activity == name);
        self.activities[at.expect("a known name")].load(Relaxed)
    }

    pub fn line(&self, routes: &[Arc<Route>]) -> String {
        let hop_faults: u64 = routes
            .iter()
            .map(|route| route.injected.load(Relaxed))
            .sum();
        let failed: u64 = routes.iter().map(|route| route.failed.load(Relaxed)).sum();
        let of_each = |look: fn(&Program) -> u64| {
            let looks = routes.iter().map(|route| look(&route.program).to_string());
            looks.collect::<Vec<_>>().join("/")
        };
        format!(
            "{} requests, {} WebSockets, {} MiB; injected: {hop_faults} proxy faults ({failed} failed \
             a request), {} upstream faults, {} aborts, {} bad inputs; descriptors {}, resident \
             KiB {}; {} unexpected errors",
            self.requests.load(Relaxed),
            self.activity("websocket"),
            self.bytes.load(Relaxed) >> 20,
            self.upstream_faults.load(Relaxed),
            self.aborts.load(Relaxed),
            self.activity("bad input"),
            of_each(|program| program.descriptors().len() as u64),
            of_each(Program::resident_kib),
            self.unexpected.load(Relaxed),
        )
    }
}
