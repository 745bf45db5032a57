//! What the status page shows besides the counters: the state of each hop, and the last
//! failures with advice. Recorded only if a status page is served.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cli::settings::Setting;
use crate::config::{Config, Route};
use crate::date;
use crate::error::{Error, Stage};
use crate::language::Language;
use crate::net::peer::PeerHost;
use crate::report::json::{self, Value};
use crate::report::metrics::Registry;
use crate::route::steps::{Step, Steps};

/// How many failures are remembered.
const REMEMBERED: usize = 20;

/// The state of the route and its last failures, shared by all threads.
pub struct Board {
    config: Arc<Config>,
    settings: Vec<Setting>,
    listening: Vec<String>,
    started: Instant,
    /// When the upstream last answered a request, in milliseconds since the start; 0 means
    /// never. An atomic outside the lock, because it is written for each response.
    answered: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    proxy: Hop,
    upstream: Hop,
    failures: VecDeque<Failure>,
}

/// When a hop last succeeded and failed.
#[derive(Default)]
struct Hop {
    succeeded: Option<Instant>,
    failed: Option<Instant>,
    /// How long each step of the last dial took on this hop.
    steps: Vec<(Step, Duration)>,
}

/// A request that failed at the upstream or on the route to it.
struct Failure {
    time: String,
    client: PeerHost,
    method: Vec<u8>,
    path: Vec<u8>,
    host: Vec<u8>,
    error: Error,
}

/// The request that failed, as its client sent it.
pub struct Failed<'a> {
    /// The client that sent it.
    pub client: PeerHost,
    /// The method.
    pub method: &'a [u8],
    /// The path, without query.
    pub path: &'a [u8],
    /// The Host.
    pub host: &'a [u8],
}

impl Board {
    /// A board on which nothing has happened yet.
    pub fn new(config: Arc<Config>, settings: Vec<Setting>, listening: Vec<String>) -> Board {
        Board {
            config,
            settings,
            listening,
            started: Instant::now(),
            answered: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic under the lock cannot leave it inconsistent: no update depends on another.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_proxy(&self) -> bool {
        self.config.route != Route::Direct
    }

    /// Records that an upstream connection was established, with its steps.
    pub(crate) fn dialled(&self, steps: &Steps) {
        let now = Some(Instant::now());
        let (last, first): (Vec<_>, Vec<_>) = steps
            .taken()
            .partition(|(step, _)| *step == Step::Tls || !self.has_proxy());
        let mut known = self.known();
        known.upstream.succeeded = now;
        known.upstream.steps = last;
        if self.has_proxy() {
            known.proxy.succeeded = now;
            known.proxy.steps = first;
        }
    }

    /// Records that the upstream has answered a request.
    pub(crate) fn answered(&self) {
        let millis = self.started.elapsed().as_millis() as u64;
        self.answered.store(millis.max(1), Relaxed);
    }

    /// Records a request that failed at the upstream or on the route to it.
    pub(crate) fn failed(&self, request: &Failed<'_>, error: &Error) {
        let now = Some(Instant::now());
        let mut time = String::new();
        date::stamp(&mut time);
        let mut known = self.known();
        let at_proxy = match error.stage {
            Stage::Resolve => self.has_proxy(),
            Stage::ProxyConnect | Stage::ProxyAuth => true,
            Stage::Connect | Stage::ProxyRefused | Stage::Tls | Stage::Response => false,
        };
        if at_proxy {
            known.proxy.failed = now;
        } else {
            known.upstream.failed = now;
            // The request got past the proxy, so the proxy works.
            if self.has_proxy() {
                known.proxy.succeeded = now;
            }
        }
        if known.failures.len() == REMEMBERED {
            known.failures.pop_back();
        }
        known.failures.push_front(Failure {
            time,
            client: request.client,
            method: request.method.to_vec(),
            path: request.path.to_vec(),
            host: request.host.to_vec(),
            error: error.clone(),
        });
    }

    /// The content of the status page, with the counters, as one JSON object.
    pub(crate) fn json(&self, registry: &Registry, draining: bool) -> String {
        let known = self.known();
        let totals = registry.totals();
        let number = Value::Number;
        let listening: Vec<_> = self.listening.iter().map(|a| Value::Shown(a)).collect();
        let tls = if self.config.tls.is_some() {
            " (TLS)"
        } else {
            ""
        };
        let upstream = format!("{}{tls}", self.config.upstream);
        let answered = match self.answered.load(Relaxed) {
            0 => None,
            millis => Some(self.started + Duration::from_millis(millis)),
        };
        let mut shown = Vec::new();
        if let Some(proxy) = self.config.route.shown_proxies() {
            shown.push((
                "proxy",
                proxy.to_string(),
                &known.proxy,
                known.proxy.succeeded,
            ));
        }
        let reached = known.upstream.succeeded.max(answered);
        shown.push(("upstream", upstream, &known.upstream, reached));
        let classes = totals.classes.map(number);
        let steps: Vec<Vec<_>> = shown
            .iter()
            .map(|(_, _, hop, _)| hop.steps.iter())
            .map(|steps| steps.map(|(s, took)| (s.name(), Value::Seconds(*took))))
            .map(Iterator::collect)
            .collect();
        let since = |at: Option<Instant>| at.map_or(Value::Null, |at| Value::Seconds(at.elapsed()));
        let hops: Vec<_> = shown
            .iter()
            .zip(&steps)
            .map(|((role, address, hop, succeeded), steps)| {
                [
                    ("role", Value::Text(role)),
                    ("address", Value::Text(address)),
                    ("state", Value::Text(state(*succeeded, hop.failed))),
                    ("steps", Value::Object(steps)),
                    ("succeeded", since(*succeeded)),
                    ("failed", since(hop.failed)),
                ]
            })
            .collect();
        let hops: Vec<_> = hops.iter().map(|hop| Value::Object(hop)).collect();
        let language = self.config.log.language;
        let causes: Vec<_> = known.failures.iter().map(|f| f.error.in_full()).collect();
        let failures: Vec<_> = known
            .failures
            .iter()
            .zip(&causes)
            .map(|(failure, cause)| {
                [
                    ("time", Value::Text(&failure.time)),
                    ("client", Value::Shown(&failure.client)),
                    ("method", Value::Bytes(&failure.method)),
                    ("path", Value::Bytes(&failure.path)),
                    ("host", Value::Bytes(&failure.host)),
                    ("status", number(failure.error.status().into())),
                    ("stage", Value::Text(failure.error.stage.name())),
                    ("address", Value::Text(&failure.error.address)),
                    ("cause", Value::Text(cause)),
                    (
                        "advice",
                        Value::Text(failure.error.advice(&self.config).say(language)),
                    ),
                ]
            })
            .collect();
        let failures: Vec<_> = failures.iter().map(|f| Value::Object(f)).collect();
        let settings: Vec<_> = self
            .settings
            .iter()
            .map(|setting| {
                [
                    ("name", Value::Text(setting.name)),
                    ("value", Value::Text(setting.value.say(language))),
                    ("source", Value::Text(setting.source(Language::English))),
                ]
            })
            .collect();
        let settings: Vec<_> = settings.iter().map(|s| Value::Object(s)).collect();
        let timed = |(count, took): (u64, Duration)| {
            [("count", number(count)), ("seconds", Value::Seconds(took))]
        };
        let (dial, response) = (timed(totals.dial), timed(totals.response_head));
        let mut out = String::new();
        json::write(
            &mut out,
            Value::Object(&[
                ("version", Value::Text(env!("CARGO_PKG_VERSION"))),
                ("uptime", Value::Seconds(self.started.elapsed())),
                ("draining", Value::Flag(draining)),
                ("listening", Value::List(&listening)),
                (
                    "connections",
                    Value::Object(&[
                        ("open", number(totals.connections_open)),
                        ("total", number(totals.connections)),
                    ]),
                ),
                ("hops", Value::List(&hops)),
                (
                    "requests",
                    Value::Object(&[
                        ("classes", Value::List(&classes)),
                        ("aborted", number(totals.aborted)),
                    ]),
                ),
                ("failed", number(totals.failed)),
                (
                    "upgrades",
                    Value::Object(&[
                        ("open", number(totals.upgrades_open)),
                        ("total", number(totals.upgrades)),
                    ]),
                ),
                (
                    "bytes",
                    Value::Object(&[
                        ("up", number(totals.bytes_up)),
                        ("down", number(totals.bytes_down)),
                    ]),
                ),
                ("response", Value::Object(&response)),
                ("dial", Value::Object(&dial)),
                (
                    "pool",
                    Value::Object(&[
                        ("hits", number(totals.pool_hits)),
                        ("misses", number(totals.pool_misses)),
                    ]),
                ),
                ("failures", Value::List(&failures)),
                ("settings", Value::List(&settings)),
            ]),
        );
        out
    }
}

/// The state of a hop, which is that of its most recent event.
fn state(succeeded: Option<Instant>, failed: Option<Instant>) -> &'static str {
    match (succeeded, failed) {
        (None, None) => "unknown",
        (succeeded, failed) if succeeded >= failed => "ok",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_hop_is_that_of_its_last_event() {
        let early = Instant::now();
        let late = early + Duration::from_secs(1);
        for (succeeded, failed, expected) in [
            (None, None, "unknown"),
            (Some(early), None, "ok"),
            (None, Some(early), "failed"),
            (Some(early), Some(late), "failed"),
            (Some(late), Some(early), "ok"),
        ] {
            assert_eq!(state(succeeded, failed), expected);
        }
    }
}
