//! What the settings mean: plain data that has been validated, so that nothing behind it
//! checks again. Knows nothing of flags or variables.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use native_tls::Certificate;

use crate::authority::Authority;
use crate::proxy::Proxy;

pub use crate::language::Language;

/// Everything the program was told.
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// Where every request goes.
    pub upstream: Authority,
    /// How to get there.
    pub route: Route,
    /// TLS to the upstream, if any.
    pub tls: Option<UpstreamTls>,
    /// PEM roots to trust beside the system's.
    pub roots: Vec<Certificate>,
    /// How a request head changes on its way.
    pub rewrite: Rewrite,
    /// Sizes and times.
    pub limits: Limits,
    /// Threads that serve connections.
    pub threads: usize,
    /// The path that is answered here: whether the program serves.
    pub health_path: Option<String>,
    /// Where Prometheus finds the metrics.
    pub metrics: Option<SocketAddr>,
    /// What is logged, and how.
    pub log: LogSettings,
}

impl Config {
    /// The upstream's authority, without the port that its scheme implies: Host where no
    /// other is given.
    pub fn default_host(&self) -> String {
        let text = self.upstream.to_string();
        match (self.tls.is_some(), self.upstream.port) {
            (true, 443) | (false, 80) => {
                let colon = text.rfind(':').unwrap_or(text.len());
                text[..colon].to_owned()
            }
            _ => text,
        }
    }
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The address; none is every address of both families.
    pub address: Option<IpAddr>,
    /// The port; 0 is any free one.
    pub port: u16,
}

/// How connections reach the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Straight to it.
    Direct,
    /// Through a SOCKS5 proxy (RFC 1928).
    Socks5(Proxy),
    /// Through an HTTP proxy, by CONNECT (RFC 9110 §9.3.6).
    Connect(Proxy),
}

/// TLS to the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name to send instead of the one that the route would choose.
    pub name: Option<String>,
    /// Whether an invalid certificate is refused.
    pub verify: bool,
}

/// How a request head changes on its way to the upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Sent as Host in place of the client's.
    pub host: Option<String>,
    /// Upgrade tokens that pass beside `websocket`, in lower case.
    pub upgrades: Vec<String>,
    /// Whether X-Forwarded-* and Via are added.
    pub forwarded: bool,
}

/// Sizes and times. A time of zero is without limit where the manual says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// For the whole dial.
    pub connect_timeout: Duration,
    /// For a client to send a whole request head.
    pub head_timeout: Duration,
    /// For the upstream to begin its answer, and for either side to go on with a body.
    pub response_timeout: Duration,
    /// For an idle client connection.
    pub keepalive_timeout: Duration,
    /// For an idle relay.
    pub tunnel_timeout: Duration,
    /// For what is open at SIGTERM.
    pub drain_timeout: Duration,
    /// Clients served at once; none is as many as descriptors allow.
    pub max_connections: Option<usize>,
    /// How long an idle upstream connection is kept at most; zero keeps none.
    pub upstream_idle: Duration,
    /// Idle upstream connections that a thread keeps.
    pub idle_upstreams: usize,
    /// Pipes for bulk that a thread may have in use.
    pub pipes: usize,
}

/// The largest message head, in bytes, request and response alike.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;

/// The most fields in one message head.
pub const MAX_FIELDS: usize = 128;

/// The most pipes that one thread has in use: enough for both directions of 64 streams. One
/// that must copy gets less than those that splice.
pub const MAX_PIPES: usize = 128;

/// What is logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// The language of the lines.
    pub language: Language,
    /// The form of the lines.
    pub format: LogFormat,
    /// How much is said.
    pub verbosity: Verbosity,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Words, in a language.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Each request.
    Normal,
    /// Each connection in detail.
    Verbose,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Direct => f.write_str("direct"),
            Route::Socks5(proxy) => write!(f, "SOCKS5 {proxy}"),
            Route::Connect(proxy) => write!(f, "CONNECT {proxy}"),
        }
    }
}
