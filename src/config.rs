//! What the settings mean: plain data that has been validated, so that nothing behind it
//! checks again. Knows nothing of flags or variables.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use native_tls::Certificate;

use crate::authority::{Authority, Host};
use crate::edits::{is_twin, FieldEdits};
use crate::identity::Identity;
use crate::language::Words;
use crate::network::Network;
use crate::proxy::{Proxies, Proxy};

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
    /// What the upstream is shown when it asks who we are.
    pub identity: Option<Identity>,
    /// The oldest version of TLS that is spoken to the upstream and to a proxy.
    pub tls_min: TlsVersion,
    /// How heads change on their way.
    pub rewrite: Rewrite,
    /// Who is served.
    pub access: Access,
    /// Sizes and times.
    pub limits: Limits,
    /// Threads that serve connections.
    pub threads: usize,
    /// The path that is answered here: whether the program serves.
    pub health_path: Option<String>,
    /// Where Prometheus finds the metrics.
    pub metrics: Option<SocketAddr>,
    /// Where the status page is served.
    pub status: Option<SocketAddr>,
    /// What is logged, and how.
    pub log: LogSettings,
    /// Variables that have no effect, and why: to be told at the start.
    pub ignored: Vec<(String, Words)>,
}

impl Config {
    /// Whether requests go upstream with something that may open doors there: the value of
    /// a field of ours, or a client certificate.
    pub(crate) fn adds_a_credential(&self) -> bool {
        self.rewrite.request_fields.sets_a_value() || self.identity.is_some()
    }

    /// The upstream's authority, without the port that its scheme implies: Host where no
    /// other is given. Without a zone, which is this machine's (RFC 6874 §1), and `localhost`
    /// for a unix socket.
    pub(crate) fn default_host(&self) -> String {
        let Authority { host, port } = &self.upstream;
        let host = match host {
            Host::Name(name) => name.clone(),
            Host::Ip(IpAddr::V4(address)) => address.to_string(),
            Host::Ip(IpAddr::V6(address)) | Host::Zoned(address, _) => format!("[{address}]"),
            Host::Unix(_) => return "localhost".to_owned(),
        };
        match (self.tls.is_some(), port) {
            (true, 443) | (false, 80) => host,
            _ => format!("{host}:{port}"),
        }
    }
}

/// Where to listen, and what is spoken there.
#[derive(Clone)]
pub struct Listen {
    /// What to bind; none is every address of both families.
    pub bind: Option<Bind>,
    /// The port of an address; 0 is any free one.
    pub port: u16,
    /// The permissions of a unix socket.
    pub mode: u32,
    /// What clients are shown, where they speak TLS to us.
    pub tls: Option<ListenTls>,
}

/// The certificate that clients are shown, as its files held it at the start.
#[derive(Clone)]
pub struct ListenTls {
    /// The file of the certificate and of those that vouch for it.
    pub certificate_file: String,
    /// The file of its key.
    pub key_file: String,
    /// What the two held.
    pub identity: Identity,
}

/// What a listening socket is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// An address of this machine.
    Address(IpAddr),
    /// The absolute path of a unix socket.
    Unix(String),
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Address(address) => write!(f, "{address}"),
            Bind::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl Listen {
    /// Whether clients speak TLS to us.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

/// How connections reach the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Straight to it.
    Direct,
    /// Through a SOCKS5 proxy (RFC 1928).
    Socks5(Proxies),
    /// Through an HTTP proxy, by CONNECT (RFC 9110 §9.3.6).
    Connect(Proxies),
}

impl Route {
    /// The proxies, first to last; none on the direct route.
    pub(crate) fn proxies(&self) -> &[Proxy] {
        match self {
            Route::Direct => &[],
            Route::Socks5(proxies) | Route::Connect(proxies) => proxies.as_slice(),
        }
    }
}

/// TLS to the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name to send instead of the one that the route would choose.
    pub name: Option<String>,
    /// Whether an invalid certificate is refused.
    pub verify: bool,
}

/// Who is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The clients that are served, by `--allow`; all where none is listed.
    pub clients: Vec<Network>,
    /// The Hosts that `--allow-host` lists, in lower case.
    pub hosts: Vec<String>,
    /// The origins whose pages `--allow-origin` lists, in lower case.
    pub origins: Vec<String>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.0, of 1999
    V1_0,
    /// 1.1, of 2006
    V1_1,
    /// 1.2, of 2008
    V1_2,
    /// 1.3, of 2018
    V1_3,
}

impl TlsVersion {
    /// Every version, and how it is written.
    pub(crate) const ALL: [(TlsVersion, &'static str); 4] = [
        (TlsVersion::V1_0, "1.0"),
        (TlsVersion::V1_1, "1.1"),
        (TlsVersion::V1_2, "1.2"),
        (TlsVersion::V1_3, "1.3"),
    ];
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TlsVersion::ALL[*self as usize].1)
    }
}

/// How heads change on their way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Sent as Host in place of the client's.
    pub host: Option<String>,
    /// Upgrade tokens that pass beside `websocket`, in lower case.
    pub upgrades: Vec<String>,
    /// Whether X-Forwarded-* and Via are added.
    pub forwarded: Forwarded,
    /// Whether what names the client's origin or the upstream's is left as it came.
    pub map_off: bool,
    /// Changes to the fields that go upstream.
    pub request_fields: FieldEdits,
    /// Changes to the fields that go to the client.
    pub response_fields: FieldEdits,
}

impl Rewrite {
    /// Whether a client's field of that name gives way to one of ours, or goes. Its twins
    /// with `_`, which CGI and WSGI take for the same, go as well.
    pub(crate) fn gives_way(&self, name: &str) -> bool {
        const FORWARDED: [&str; 3] = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
        let is_forwarded = |name: &str| FORWARDED.iter().any(|known| is_twin(known, name));
        let gives_way = match self.forwarded {
            Forwarded::Off => false,
            Forwarded::Replace => is_forwarded(name),
            // For is written anew, with what came; Host and Proto stay where they say something.
            Forwarded::Append => {
                is_forwarded(name) && (name.contains('_') || is_twin("x-forwarded-for", name))
            }
        };
        gives_way || self.request_fields.replaces(name)
    }
}

/// Whether X-Forwarded-* and Via are added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// Nothing is added.
    #[default]
    Off,
    /// They say what we see, whatever the client sent.
    Replace,
    /// They go on from what a trusted front sent.
    Append,
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
    /// For an upstream to go on with its answer once our side has ended behind its client;
    /// zero is as long as any answer.
    pub abandon_timeout: Duration,
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
    /// Finished upstream connections that are kept ready, in all.
    pub spares: usize,
    /// The longest request head, in bytes.
    pub max_head_bytes: usize,
    /// Idle upstream connections that a thread keeps.
    pub idle_upstreams: usize,
    /// Pipes for bulk that a thread may have in use.
    pub pipes: usize,
}

/// The largest request head, in bytes, where no other limit is set.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;

/// The most fields in one request head.
pub const MAX_FIELDS: usize = 128;

/// The largest response head, in bytes, and the most that interim responses may have in a
/// row while nothing else moves.
pub const MAX_RESPONSE_HEAD_BYTES: usize = 256 * 1024;

/// The most fields in one response head.
pub const MAX_RESPONSE_FIELDS: usize = 512;

/// The largest trailer section, in bytes, of requests and responses alike.
pub const MAX_TRAILER_BYTES: usize = 32 * 1024;

/// The most pipes that one thread has in use: enough for both directions of 64 streams. One
/// that must copy gets less than those that splice.
pub(crate) const MAX_PIPES: usize = 128;

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
    /// Words, and each request in the combined format of access logs.
    Combined,
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

impl Route {
    /// The proxies on the way, as they are shown, if there are any.
    pub(crate) fn shown_proxies(&self) -> Option<&Proxies> {
        match self {
            Route::Direct => None,
            Route::Socks5(proxies) | Route::Connect(proxies) => Some(proxies),
        }
    }

    /// The route for people in either language, a password hidden.
    pub(crate) fn words(&self) -> Words {
        match self {
            Route::Direct => Words::new("direct", "直连"),
            route => Words::same(route.to_string()),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Direct => f.write_str("direct"),
            Route::Socks5(proxies) => write!(f, "SOCKS5 {proxies}"),
            Route::Connect(proxies) => write!(f, "CONNECT {proxies}"),
        }
    }
}
