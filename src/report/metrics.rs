//! What the program counts, and how Prometheus reads it.
//!
//! Each thread has counters of its own that it alone writes: counting is a plain store. A
//! reader adds them up.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Stage;
use crate::route::hops::{Dial, Hops};

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
const METHODS: [&str; 8] = [
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
const CLASSES: usize = 5;

/// Upper bounds of a histogram's buckets, in microseconds and as they are written.
const BOUNDS: [(u64, &str); 13] = [
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
    buckets: [Count; BOUNDS.len() + 1],
    micros: Count,
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
// As far apart as the processor fetches: no thread slows another down.
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
    requests: [[Count; CLASSES]; METHODS.len()],
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
    upstream_failures: [Count; Stage::ALL.len()],
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
    hops: Option<Arc<Hops>>,
    /// Since the epoch.
    started: Duration,
    /// Clients that may be served at once.
    limit: u64,
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

    fn sum(&self, count: impl Fn(&Counters) -> &Count) -> u64 {
        self.threads
            .iter()
            .map(|counters| count(counters).get())
            .fold(0, u64::wrapping_add)
    }

    /// How many are open now. Threads are read one after the other, so that an end may be
    /// seen before its beginning.
    fn open(
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

    /// All of it in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut page = Page(String::with_capacity(8 * 1024));
        page.family("build_info", "gauge", "The version that runs.");
        let version = concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"");
        page.labelled("build_info", version, 1);
        page.single(
            "connections_open",
            "gauge",
            "Client connections that are open.",
            self.open(|c| &c.connections, |c| &c.connections_closed),
        );
        page.single(
            "connections_total",
            "counter",
            "Client connections accepted.",
            self.sum(|c| &c.connections),
        );
        page.single(
            "connections_not_allowed_total",
            "counter",
            "Clients closed at once because --allow does not list them.",
            self.sum(|c| &c.not_allowed),
        );
        page.single(
            "client_handshakes_failed_total",
            "counter",
            "TLS handshakes with clients that failed or did not end in time.",
            self.sum(|c| &c.handshakes_failed),
        );
        page.single(
            "connections_limit",
            "gauge",
            "Client connections that may be served at once.",
            self.limit,
        );
        page.single(
            "connections_waiting",
            "gauge",
            "Clients beyond the limit whose request waits for a slot.",
            self.open(|c| &c.waits, |c| &c.waits_over),
        );
        page.family(
            "requests_total",
            "counter",
            "Requests answered, by the upstream or in its place.",
        );
        for (n, method) in METHODS.iter().enumerate() {
            for class in 0..CLASSES {
                let labels = format!("method=\"{method}\",status=\"{}xx\"", class + 1);
                let count = self.sum(|c| &c.requests[n][class]);
                page.labelled("requests_total", &labels, count);
            }
        }
        page.single(
            "requests_aborted_total",
            "counter",
            "Requests that broke off before their response had ended.",
            self.sum(|c| &c.aborted),
        );
        page.single(
            "upgrades_open",
            "gauge",
            "Tunnels (WebSockets) that are open.",
            self.open(|c| &c.upgrades, |c| &c.upgrades_closed),
        );
        page.single(
            "upgrades_total",
            "counter",
            "Upgrades that the upstream accepted.",
            self.sum(|c| &c.upgrades),
        );
        page.family(
            "carried_bytes_total",
            "counter",
            "Bytes of bodies and tunnels, heads and TLS not counted.",
        );
        for (labels, count) in [
            ("direction=\"upstream\"", self.sum(|c| &c.bytes_up)),
            ("direction=\"downstream\"", self.sum(|c| &c.bytes_down)),
        ] {
            page.labelled("carried_bytes_total", labels, count);
        }
        page.family(
            "upstream_failures_total",
            "counter",
            "Requests that the upstream, or the way to it, has failed, by stage.",
        );
        for stage in Stage::ALL {
            let labels = format!("stage=\"{}\"", stage.name());
            let count = self.sum(|c| &c.upstream_failures[stage as usize]);
            page.labelled("upstream_failures_total", &labels, count);
        }
        self.histogram(
            &mut page,
            "dial_duration_seconds",
            "How long upstream connections took to make.",
            |c| &c.dial,
        );
        self.histogram(
            &mut page,
            "response_head_duration_seconds",
            "From a request's head to its response's.",
            |c| &c.response_head,
        );
        page.family(
            "pool_lookups_total",
            "counter",
            "Requests that did, or did not, find a kept upstream connection.",
        );
        for (labels, count) in [
            ("result=\"hit\"", self.sum(|c| &c.pool_hits)),
            ("result=\"miss\"", self.sum(|c| &c.pool_misses)),
        ] {
            page.labelled("pool_lookups_total", labels, count);
        }
        page.family(
            "spare_lookups_total",
            "counter",
            "Requests without a kept upstream connection that did, or did not, find a spare one.",
        );
        for (labels, count) in [
            ("result=\"hit\"", self.sum(|c| &c.spare_hits)),
            ("result=\"miss\"", self.sum(|c| &c.spare_misses)),
        ] {
            page.labelled("spare_lookups_total", labels, count);
        }
        page.family(
            "spare_dials_total",
            "counter",
            "Spare upstream connections dialled: new ones, and for those that had become old.",
        );
        for (labels, count) in [
            ("reason=\"missing\"", self.sum(|c| &c.spare_dials)),
            ("reason=\"renewal\"", self.sum(|c| &c.spare_renewals)),
        ] {
            page.labelled("spare_dials_total", labels, count);
        }
        if let Some(hops) = &self.hops {
            proxies(&mut page, hops);
        }
        let start = self.started.as_secs_f64();
        page.0.push_str(
            "# HELP process_start_time_seconds Start time of the process, since the epoch.\n\
             # TYPE process_start_time_seconds gauge\n",
        );
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(page.0, "process_start_time_seconds {start:.3}");
        page.0
    }

    fn histogram(
        &self,
        page: &mut Page,
        name: &str,
        help: &str,
        of: impl Fn(&Counters) -> &Histogram,
    ) {
        page.family(name, "histogram", help);
        let mut so_far = 0;
        let bounds = BOUNDS.iter().map(|(_, bound)| *bound).chain(["+Inf"]);
        for (n, bound) in bounds.enumerate() {
            so_far += self.sum(|c| &of(c).buckets[n]);
            let labels = format!("le=\"{bound}\"");
            page.labelled(&format!("{name}_bucket"), &labels, so_far);
        }
        let seconds = self.sum(|c| &of(c).micros) as f64 / 1e6;
        let _ = writeln!(page.0, "simple_proxy_{name}_sum {seconds}");
        let _ = writeln!(page.0, "simple_proxy_{name}_count {so_far}");
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

/// How each proxy is doing, by its number in the setting: an address could tell a user.
fn proxies(page: &mut Page, hops: &Hops) {
    page.family(
        "proxy_dials_total",
        "counter",
        "Dials through each proxy, by how they ended.",
    );
    for n in 0..hops.count() {
        for dial in Dial::ALL {
            let labels = format!("proxy=\"{}\",result=\"{}\"", n + 1, dial.name());
            page.labelled("proxy_dials_total", &labels, hops.dials(n, dial));
        }
    }
    page.family(
        "proxy_passed_over",
        "gauge",
        "Whether a proxy has failed and is passed over.",
    );
    for n in 0..hops.count() {
        let labels = format!("proxy=\"{}\"", n + 1);
        let is_passed_over = u64::from(hops.is_passed_over(n));
        page.labelled("proxy_passed_over", &labels, is_passed_over);
    }
}

/// A page of metrics on its way.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP simple_proxy_{name} {help}");
        let _ = writeln!(self.0, "# TYPE simple_proxy_{name} {kind}");
    }

    fn labelled(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.0, "simple_proxy_{name}{{{labels}}} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        let _ = writeln!(self.0, "simple_proxy_{name} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_added_up() {
        let registry = Registry::new(2);
        for n in 0..2 {
            let counters = registry.of_thread(n);
            counters.connections.add(3);
            counters.connections_closed.add(1);
            counters.request(Method::of("GET"), 204);
            counters.request(Method::of("BREW"), 999);
            counters.upstream_failed(Stage::ProxyAuth);
            counters.dial.observe(Duration::from_micros(1_000));
            counters.dial.observe(Duration::from_secs(60));
        }
        let page = registry.render();
        for line in [
            "simple_proxy_connections_open 4",
            "simple_proxy_connections_total 6",
            "simple_proxy_requests_total{method=\"GET\",status=\"2xx\"} 2",
            "simple_proxy_requests_total{method=\"other\",status=\"5xx\"} 2",
            "simple_proxy_upstream_failures_total{stage=\"proxy-auth\"} 2",
            "simple_proxy_dial_duration_seconds_bucket{le=\"0.0005\"} 0",
            "simple_proxy_dial_duration_seconds_bucket{le=\"0.001\"} 2",
            "simple_proxy_dial_duration_seconds_bucket{le=\"10\"} 2",
            "simple_proxy_dial_duration_seconds_bucket{le=\"+Inf\"} 4",
            "simple_proxy_dial_duration_seconds_sum 120.002",
            "simple_proxy_dial_duration_seconds_count 4",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in:\n{page}");
        }
    }
}
