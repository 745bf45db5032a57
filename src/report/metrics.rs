//! The program's counters. Leaves the output formats to `prometheus` and `status`.
//!
//! Each thread writes only its own counters, so counting needs no atomic read-modify-write. A
//! reader adds up the counters of all threads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Stage;
use crate::route::hops::Hops;

/// A counter that only one thread writes.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the thread that owns the counter may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The methods that are counted separately. All others, and heads that could not be parsed,
/// count as `other`.
pub(super) const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "other",
];

/// A method, or `other`, as an index into `METHODS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method(u8);

impl Method {
    /// Any other method, or a head that could not be parsed.
    pub const OTHER: Method = Method(METHODS.len() as u8 - 1);

    /// Classifies a method.
    pub fn of(method: &str) -> Method {
        let known = METHODS.iter().position(|known| *known == method);
        known.map_or(Method::OTHER, |at| Method(at as u8))
    }
}

/// The number of status classes: 1xx to 5xx.
pub(super) const CLASSES: usize = 5;

/// Upper bounds of a histogram's buckets, in microseconds and as text in seconds.
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

/// A histogram of durations.
#[derive(Default)]
pub struct Histogram {
    /// How many durations each bucket has; the last bucket has no upper bound.
    pub(super) buckets: [Count; BOUNDS.len() + 1],
    /// The sum of all durations, in microseconds.
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

/// The counters of one thread.
// Aligned to 128 bytes, the pair of cache lines that a processor fetches together: otherwise a
// store by one thread would invalidate cached counters of another.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    /// Client connections accepted.
    pub connections: Count,
    /// Client connections closed.
    pub connections_closed: Count,
    /// Clients closed at once because `--allow` does not list them.
    pub not_allowed: Count,
    /// TLS handshakes with clients that failed or did not end in time.
    pub handshakes_failed: Count,
    /// Clients beyond the connection limit that began to wait for a slot.
    pub waits: Count,
    /// Clients that have stopped waiting for a slot.
    pub waits_over: Count,
    /// Requests answered, by method and status class.
    pub(super) requests: [[Count; CLASSES]; METHODS.len()],
    /// Requests aborted before their response was complete.
    pub aborted: Count,
    /// Upgrades that the upstream accepted.
    pub upgrades: Count,
    /// Upgraded connections closed.
    pub upgrades_closed: Count,
    /// Bytes of request bodies and of tunnels.
    pub bytes_up: Count,
    /// Bytes of response bodies and of tunnels.
    pub bytes_down: Count,
    /// Requests that failed at the upstream or on the route to it, by stage.
    pub(super) upstream_failures: [Count; Stage::ALL.len()],
    /// The time from the first name look-up to an established upstream connection.
    pub dial: Histogram,
    /// The time from a request's head to its response's head.
    pub response_head: Histogram,
    /// Requests that took a kept connection.
    pub pool_hits: Count,
    /// Requests that found no kept connection.
    pub pool_misses: Count,
    /// Requests that found no kept connection but took a spare one.
    pub spare_hits: Count,
    /// Requests that found neither a kept connection nor a spare one.
    pub spare_misses: Count,
    /// Spare connections dialled because one was missing.
    pub spare_dials: Count,
    /// Spare connections dialled to replace an old one.
    pub spare_renewals: Count,
}

impl Counters {
    /// Counts a response with this status, from the upstream or generated here.
    pub fn request(&self, method: Method, status: u16) {
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        self.requests[usize::from(method.0)][class].add(1);
    }

    /// Counts a request that failed at the upstream or on the route to it.
    pub fn upstream_failed(&self, stage: Stage) {
        self.upstream_failures[stage as usize].add(1);
    }
}

/// The counters of all threads.
#[derive(Clone)]
pub struct Registry {
    threads: Arc<[Counters]>,
    /// The state of the route's proxies, if it has any.
    pub(super) hops: Option<Arc<Hops>>,
    /// The start time, since the Unix epoch.
    pub(super) started: Duration,
    /// The limit of client connections.
    pub(super) limit: u64,
}

impl Registry {
    /// Counters at zero for `threads` threads.
    pub fn new(threads: usize) -> Registry {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Registry {
            threads: (0..threads).map(|_| Counters::default()).collect(),
            hops: None,
            started: now.unwrap_or_default(),
            limit: 0,
        }
    }

    /// Adds the state of the route's proxies.
    pub fn with_proxies(self, hops: Arc<Hops>) -> Registry {
        let hops = Some(hops).filter(|hops| hops.count() > 0);
        Registry { hops, ..self }
    }

    /// Sets the limit of client connections.
    pub fn with_limit(self, limit: usize) -> Registry {
        let limit = limit as u64;
        Registry { limit, ..self }
    }

    /// The counters of thread `n`.
    pub fn of_thread(&self, n: usize) -> &Counters {
        &self.threads[n]
    }

    /// The sum of one counter over all threads.
    pub(super) fn sum(&self, count: impl Fn(&Counters) -> &Count) -> u64 {
        self.threads
            .iter()
            .map(|counters| count(counters).get())
            .fold(0, u64::wrapping_add)
    }

    /// How many are open now, 0 at least: the threads' counters are read one after the other,
    /// so a close may be seen without its open.
    pub(super) fn open(
        &self,
        opened: impl Fn(&Counters) -> &Count,
        closed: impl Fn(&Counters) -> &Count,
    ) -> u64 {
        let closed = self.sum(closed);
        self.sum(opened).saturating_sub(closed)
    }

    /// The sums of all counters that the status page shows.
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

/// The sums over all threads, for the status page.
pub struct Totals {
    /// Client connections accepted.
    pub connections: u64,
    /// Client connections that are open.
    pub connections_open: u64,
    /// Requests answered, by status class, 1xx first.
    pub classes: [u64; CLASSES],
    /// Requests aborted before their response was complete.
    pub aborted: u64,
    /// Requests that failed at the upstream or on the route to it.
    pub failed: u64,
    /// Upgrades that the upstream accepted.
    pub upgrades: u64,
    /// Tunnels that are open.
    pub upgrades_open: u64,
    /// Bytes of request bodies and of tunnels.
    pub bytes_up: u64,
    /// Bytes of response bodies and of tunnels.
    pub bytes_down: u64,
    /// The number of dials, and their total duration.
    pub dial: (u64, Duration),
    /// The number of responses, and the total time until their heads arrived.
    pub response_head: (u64, Duration),
    /// Requests that took a kept connection.
    pub pool_hits: u64,
    /// Requests that found no kept connection.
    pub pool_misses: u64,
}
