//! The counters in Prometheus' text format, version 0.0.4.

use std::fmt::Write as _;

use crate::error::Stage;
use crate::report::metrics::{Counters, Histogram, Registry, BOUNDS, CLASSES, METHODS};
use crate::route::hops::{Dial, Hops};

/// The page for Prometheus.
pub fn render(registry: &Registry) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    page.family("build_info", "gauge", "The version that runs.");
    let version = concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"");
    page.labelled("build_info", version, 1);
    page.single(
        "connections_open",
        "gauge",
        "Client connections that are open.",
        registry.open(|c| &c.connections, |c| &c.connections_closed),
    );
    page.single(
        "connections_total",
        "counter",
        "Client connections accepted.",
        registry.sum(|c| &c.connections),
    );
    page.single(
        "connections_not_allowed_total",
        "counter",
        "Clients closed at once because --allow does not list them.",
        registry.sum(|c| &c.not_allowed),
    );
    page.single(
        "client_handshakes_failed_total",
        "counter",
        "TLS handshakes with clients that failed or did not end in time.",
        registry.sum(|c| &c.handshakes_failed),
    );
    page.single(
        "connections_limit",
        "gauge",
        "Client connections that may be served at once.",
        registry.limit,
    );
    page.single(
        "connections_waiting",
        "gauge",
        "Clients beyond the limit whose request waits for a slot.",
        registry.open(|c| &c.waits, |c| &c.waits_over),
    );
    page.family(
        "requests_total",
        "counter",
        "Requests answered, by the upstream or in its place.",
    );
    for (n, method) in METHODS.iter().enumerate() {
        for class in 0..CLASSES {
            let labels = format!("method=\"{method}\",status=\"{}xx\"", class + 1);
            let count = registry.sum(|c| &c.requests[n][class]);
            page.labelled("requests_total", &labels, count);
        }
    }
    page.single(
        "requests_aborted_total",
        "counter",
        "Requests that broke off before their response had ended.",
        registry.sum(|c| &c.aborted),
    );
    page.single(
        "upgrades_open",
        "gauge",
        "Tunnels (WebSockets) that are open.",
        registry.open(|c| &c.upgrades, |c| &c.upgrades_closed),
    );
    page.single(
        "upgrades_total",
        "counter",
        "Upgrades that the upstream accepted.",
        registry.sum(|c| &c.upgrades),
    );
    page.family(
        "carried_bytes_total",
        "counter",
        "Bytes of bodies and tunnels, heads and TLS not counted.",
    );
    for (labels, count) in [
        ("direction=\"upstream\"", registry.sum(|c| &c.bytes_up)),
        ("direction=\"downstream\"", registry.sum(|c| &c.bytes_down)),
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
        let count = registry.sum(|c| &c.upstream_failures[stage as usize]);
        page.labelled("upstream_failures_total", &labels, count);
    }
    histogram(
        registry,
        &mut page,
        "dial_duration_seconds",
        "How long upstream connections took to make.",
        |c| &c.dial,
    );
    histogram(
        registry,
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
        ("result=\"hit\"", registry.sum(|c| &c.pool_hits)),
        ("result=\"miss\"", registry.sum(|c| &c.pool_misses)),
    ] {
        page.labelled("pool_lookups_total", labels, count);
    }
    page.family(
        "spare_lookups_total",
        "counter",
        "Requests without a kept upstream connection that did, or did not, find a spare one.",
    );
    for (labels, count) in [
        ("result=\"hit\"", registry.sum(|c| &c.spare_hits)),
        ("result=\"miss\"", registry.sum(|c| &c.spare_misses)),
    ] {
        page.labelled("spare_lookups_total", labels, count);
    }
    page.family(
        "spare_dials_total",
        "counter",
        "Spare upstream connections dialled: new ones, and for those that had become old.",
    );
    for (labels, count) in [
        ("reason=\"missing\"", registry.sum(|c| &c.spare_dials)),
        ("reason=\"renewal\"", registry.sum(|c| &c.spare_renewals)),
    ] {
        page.labelled("spare_dials_total", labels, count);
    }
    if let Some(hops) = &registry.hops {
        proxies(&mut page, hops);
    }
    let start = registry.started.as_secs_f64();
    page.0.push_str(
        "# HELP process_start_time_seconds Start time of the process, since the epoch.\n\
         # TYPE process_start_time_seconds gauge\n",
    );
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(page.0, "process_start_time_seconds {start:.3}");
    page.0
}

fn histogram(
    registry: &Registry,
    page: &mut Page,
    name: &str,
    help: &str,
    of: impl Fn(&Counters) -> &Histogram,
) {
    page.family(name, "histogram", help);
    let mut so_far = 0;
    let bounds = BOUNDS.iter().map(|(_, bound)| *bound).chain(["+Inf"]);
    for (n, bound) in bounds.enumerate() {
        so_far += registry.sum(|c| &of(c).buckets[n]);
        let labels = format!("le=\"{bound}\"");
        page.labelled(&format!("{name}_bucket"), &labels, so_far);
    }
    let seconds = registry.sum(|c| &of(c).micros) as f64 / 1e6;
    let _ = writeln!(page.0, "simple_proxy_{name}_sum {seconds}");
    let _ = writeln!(page.0, "simple_proxy_{name}_count {so_far}");
}

/// The dials through each proxy and its state. A proxy is labelled with its number in the
/// setting, because its URL may contain a user name.
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

/// A page of metrics under construction.
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
    use std::time::Duration;

    use super::*;
    use crate::report::metrics::Method;

    #[test]
    fn the_counters_of_all_threads_are_added_up() {
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
        let page = render(&registry);
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
