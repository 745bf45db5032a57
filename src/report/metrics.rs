//! What the program counts. Leaves to `prometheus` and `status` how it is shown.
//!
//! Each thread has counters of its own that it alone writes: counting is a plain store. A
//! reader adds them up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Stage;
use crate::route::hops::Hops;

/// A number that one thread writes.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`; for the one thread that writes.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The methods that are told apart; any other, and what was no request at all, is `other`.
pub(super) const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "other",
];

/// A method as far as it is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method(u8);

impl Method {
    /// For what was no request.
    pub const OTHER: Method = Method(METHODS.len() as u8 - 1);

    /// The class of a method.
    pub fn of(method: &str) -> Method {
        let known = METHODS.iter().position(|known| *known == method);
        known.map_or(Method::OTHER, |at| Method(at as u8))
    }
}

/// The classes of statuses: 1xx to 5xx.
pub(super) const CLASSES: usize = 5;

/// Upper bounds of a histogram's buckets, in microseconds and as they are written.
pub(super) const BOUNDS: [(u64, &str); 13] = [
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (10_000_000, "10"),
];

/// Durations by size.
#[derive(Default)]
pub struct Histogram {
    /// The last one has no bound.
    pub(super) buckets: [Count; BOUNDS.len() + 1],
    /// What all of them took together, in microseconds.
    pub(super) micros: Count,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|(bound, _)| micros <= *bound);
        self.buckets[bucket.unwrap_or(BOUNDS.len())].add(1);
        self.micros.add(micros);
    }
}

/// What one thread has counted.
// Aligned to the two cache lines that a processor fetches together: otherwise a store of one
// thread would evict the counters of another.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    /// Client connections accepted.
    pub connections: Count,
    /// Of these, the ones that are over.
    pub connections_closed: Count,
    /// Clients closed at once because `--allow` does not list them.
    pub not_allowed: Count,
    /// TLS handshakes with clients that failed or did not end in time.
    pub handshakes_failed: Count,
    /// Clients beyond the limit that have waited for a slot.
    pub waits: Count,
    /// Of these, the ones that do so no more.
    pub waits_over: Count,
    /// Requests answered, by method and class of status.
    pub(super) requests: [[Count; CLASSES]; METHODS.len()],
    /// Requests that broke off before their response had ended.
    pub aborted: Count,
    /// Upgrades that the upstream accepted.
    pub upgrades: Count,
    /// Of these, the ones that are over.
    pub upgrades_closed: Count,
    /// Bytes of request bodies and of tunnels.
    pub bytes_up: Count,
    /// Bytes of response bodies and of tunnels.
    pub bytes_down: Count,
    /// Requests that the upstream, or the way to it, has failed, by stage.
    pub(super) upstream_failures: [Count; Stage::ALL.len()],
    /// From the first look-up to a connection that is ready.
    pub dial: Histogram,
    /// From a request's head to its response's.
    pub response_head: Histogram,
    /// Requests that took a kept upstream connection.
    pub pool_hits: Count,
    /// Requests that found none.
    pub pool_misses: Count,
    /// Requests that found no kept connection and took a spare one.
    pub spare_hits: Count,
    /// Requests that found neither.
    pub spare_misses: Count,
    /// Spare connections that were dialled because one was missing.
    pub spare_dials: Count,
    /// Spare connections that were dialled in place of one that had become old.
    pub spare_renewals: Count,
}

impl Counters {
    /// A response with this status was given, the upstream's or our own.
    pub fn request(&self, method: Method, status: u16) {
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        self.requests[usize::from(method.0)][class].add(1);
    }

    /// The upstream, or the way to it, has failed a request.
    pub fn upstream_failed(&self, stage: Stage) {
        self.upstream_failures[stage as usize].add(1);
    }
}

/// The counters of all threads.
#[derive(Clone)]
pub struct Registry {
    threads: Arc<[Counters]>,
    /// How the proxies of the route are doing, if it has any.
    pub(super) hops: Option<Arc<Hops>>,
    /// Since the epoch.
    pub(super) started: Duration,
    /// Clients that may be served at once.
    pub(super) limit: u64,
}

impl Registry {
    /// Counters at zero for so many threads.
    pub fn new(threads: usize) -> Registry {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Registry {
            threads: (0..threads).map(|_| Counters::default()).collect(),
            hops: None,
            started: now.unwrap_or_default(),
            limit: 0,
        }
    }

    /// Tells also how the proxies of the route are doing.
    pub fn with_proxies(self, hops: Arc<Hops>) -> Registry {
        let hops = Some(hops).filter(|hops| hops.count() > 0);
        Registry { hops, ..self }
    }

    /// With so many clients that may be served at once.
    pub fn with_limit(self, limit: usize) -> Registry {
        let limit = limit as u64;
        Registry { limit, ..self }
    }

    /// Those of one thread.
    pub fn of_thread(&self, n: usize) -> &Counters {
        &self.threads[n]
    }

    /// What all threads have counted of one thing.
    pub(super) fn sum(&self, count: impl Fn(&Counters) -> &Count) -> u64 {
        self.threads
            .iter()
            .map(|counters| count(counters).get())
            .fold(0, u64::wrapping_add)
    }

    /// How many are open now. Threads are read one after the other, so that an end may be
    /// seen before its beginning.
    pub(super) fn open(
        &self,
        opened: impl Fn(&Counters) -> &Count,
        closed: impl Fn(&Counters) -> &Count,
    ) -> u64 {
        let closed = self.sum(closed);
        self.sum(opened).saturating_sub(closed)
    }

    /// What all threads have counted together.
    pub fn totals(&self) -> Totals {
        let histogram = |of: fn(&Counters) -> &Histogram| {
            let buckets = 0..=BOUNDS.len();
            let count = buckets.map(|n| self.sum(|c| &of(c).buckets[n])).sum();
            let micros = self.sum(|c| &of(c).micros);
            (count, Duration::from_micros(micros))
        };
        let class = |class| {
            let methods = 0..METHODS.len();
            methods.map(|n| self.sum(|c| &c.requests[n][class])).sum()
        };
        Totals {
            connections: self.sum(|c| &c.connections),
            connections_open: self.open(|c| &c.connections, |c| &c.connections_closed),
            classes: std::array::from_fn(class),
            aborted: self.sum(|c| &c.aborted),
            failed: (0..Stage::ALL.len())
                .map(|stage| self.sum(|c| &c.upstream_failures[stage]))
                .sum(),
            upgrades: self.sum(|c| &c.upgrades),
            upgrades_open: self.open(|c| &c.upgrades, |c| &c.upgrades_closed),
            bytes_up: self.sum(|c| &c.bytes_up),
            bytes_down: self.sum(|c| &c.bytes_down),
            dial: histogram(|c| &c.dial),
            response_head: histogram(|c| &c.response_head),
            pool_hits: self.sum(|c| &c.pool_hits),
            pool_misses: self.sum(|c| &c.pool_misses),
        }
    }
}

/// What all threads have counted together, for the status page.
pub struct Totals {
    /// Client connections accepted.
    pub connections: u64,
    /// Client connections that are open.
    pub connections_open: u64,
    /// Requests answered, by the status's class, 1xx first.
    pub classes: [u64; CLASSES],
    /// Requests that broke off before their response had ended.
    pub aborted: u64,
    /// Requests that the upstream, or the way to it, has failed.
    pub failed: u64,
    /// Upgrades that the upstream accepted.
    pub upgrades: u64,
    /// Tunnels that are open.
    pub upgrades_open: u64,
    /// Bytes of request bodies and of tunnels.
    pub bytes_up: u64,
    /// Bytes of response bodies and of tunnels.
    pub bytes_down: u64,
    /// Dials, and what they took together.
    pub dial: (u64, Duration),
    /// Responses, and how long their heads took together.
    pub response_head: (u64, Duration),
    /// Requests that took a kept upstream connection.
    pub pool_hits: u64,
    /// Requests that found none.
    pub pool_misses: u64,
}
